"""Stores of pairs of known spectrum, of any size: written chunk by chunk, never held whole."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrh_dask.stores.blocks import CHUNK_BYTES
from lrh_dask.stores.writing import pairs_group

__all__ = ["Known", "write_known"]


@dataclass(frozen=True, eq=False)
class Known:
    """The Hessian that a synthetic store was made of.

    Attributes:
        eigenvalues: (r,), signed, the largest in magnitude first.
        eigenvectors: (D, r), orthonormal.
    """

    eigenvalues: np.ndarray
    eigenvectors: np.ndarray

    @staticmethod
    def indefinite(n_features: int, rank: int, seed: int = 0) -> Known:
        """Magnitudes fall from 1 to 0.1, every third eigenvalue is negative."""
        rng = np.random.default_rng(seed)
        values = np.geomspace(1.0, 0.1, rank) * np.where(np.arange(rank) % 3 == 2, -1.0, 1.0)
        vectors, _ = np.linalg.qr(rng.standard_normal((n_features, rank)))
        return Known(values, vectors)


def write_known(path: str | Path, n_pairs: int, known: Known, *, noise: float = 0.05,
                dtype: str = "float32", chunks: tuple[int, int] | None = None,
                seed: int = 1) -> Path:
    """Write a store of pairs of a known Hessian; the same arguments give the same bytes.

    Args:
        noise: ‖Y - XH‖ / ‖XH‖, about.
        chunks: pairs and features a chunk; whole rows, of about 16 MiB an array, where None.
    Raises:
        SettingsError: ``path`` exists.
    """
    kind = np.dtype(dtype)
    u = known.eigenvectors
    height, width = chunks or (max(1, CHUNK_BYTES // (len(u) * kind.itemsize)), len(u))
    height, width = min(height, n_pairs), min(width, len(u))
    columns = [slice(first, min(first + width, len(u))) for first in range(0, len(u), width)]

    def draw(stream: int, row: int, part: slice) -> np.ndarray:
        rng = np.random.default_rng([seed, stream, row, part.start])
        shape = (min(height, n_pairs - row), part.stop - part.start)
        return rng.standard_normal(shape, dtype=kind.type)

    scale = kind.type(noise * np.linalg.norm(known.eigenvalues) / len(u) ** 0.5)
    with pairs_group(path, (n_pairs, len(u)), kind, chunks=(height, width)) as group:

        def write(row: int) -> None:
            rows = slice(row, min(row + height, n_pairs))
            inside = sum(draw(0, row, part) @ u[part].astype(kind) for part in columns)
            for part in columns:
                group["x"][rows, part] = draw(0, row, part)
                group["y"][rows, part] = scale * draw(1, row, part) + (
                    inside * known.eigenvalues.astype(kind)) @ u[part].T.astype(kind)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(write, range(0, n_pairs, height)))
    return Path(path)
