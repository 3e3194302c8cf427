"""Stores of pairs of known spectrum, of any size: written chunk by chunk, never held whole."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrh_dask.pairs import CHUNK_BYTES
from lrh_dask.writing import pairs_group

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

    def pairs(self, n_pairs: int, noise: float, rng: np.random.Generator,
              dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """x (n, D) of independent unit normals, y = H x and noise of that share of its size."""
        u = self.eigenvectors.astype(dtype)
        n_features = len(u)
        x = rng.standard_normal((n_pairs, n_features), dtype=dtype)
        y = rng.standard_normal((n_pairs, n_features), dtype=dtype)
        y *= dtype.type(noise * np.linalg.norm(self.eigenvalues) / n_features**0.5)
        y += (x @ u) @ (u * self.eigenvalues.astype(dtype)).T
        return x, y


def write_known(path: str | Path, n_pairs: int, known: Known, *, noise: float = 0.05,
                dtype: str = "float32", chunk_rows: int | None = None, seed: int = 1) -> Path:
    """Write a store of pairs of a known Hessian; the same arguments give the same bytes.

    Args:
        noise: ‖Y - XH‖ / ‖XH‖, about.
        chunk_rows: pairs a chunk; about 16 MiB an array where None.
    Raises:
        SettingsError: ``path`` exists.
    """
    kind = np.dtype(dtype)
    shape = (n_pairs, len(known.eigenvectors))
    rows = min(chunk_rows or max(1, CHUNK_BYTES // (shape[1] * kind.itemsize)), n_pairs)
    starts = range(0, n_pairs, rows)
    with pairs_group(path, shape, kind, chunk_rows=rows) as group:

        def write(start: int) -> None:
            stop = min(start + rows, n_pairs)
            rng = np.random.default_rng([seed, start])
            group["x"][start:stop], group["y"][start:stop] = known.pairs(
                stop - start, noise, rng, kind)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(write, starts))
    return Path(path)
