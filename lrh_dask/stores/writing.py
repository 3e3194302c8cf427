"""Writing stores of pairs: aside first, and then renamed, so that a killed writer leaves none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lrh_dask.stores.aside import attributes_of, written_aside
from lrh_dask.stores.blocks import CHUNK_BYTES
from lrh_dask.stores.local_stores import adopt, publish
from lrh_dask.stores.manifest import Manifest, Stamp
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.stored_chunks import RowsDigest, digests

__all__ = ["empty_group", "is_pairs", "pairs_group", "write_pairs"]


def write_pairs(path: str | Path, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None,
                *, chunk_rows: int | None = None, overwrite: bool = False) -> Path:
    """Write pairs as a Zarr group: uncompressed chunks of about 16 MiB with crc32c checksums.

    The group is written aside and renamed, so that a killed writer leaves none.

    Args:
        x, y: (n, D) float arrays; ``weight`` (n,) or None.
        chunk_rows: pairs a chunk.
        overwrite: replace the pairs that an earlier call wrote to ``path``.
    Raises:
        SettingsError: ``path`` exists and ``overwrite`` is False.
        BadPairs: the arrays are no pairs.
    """
    Pairs(x, y, weight)
    rows = chunk_rows or max(1, CHUNK_BYTES // (x.shape[1] * x.dtype.itemsize))
    arrays = {"x": x, "y": y} | ({} if weight is None else {"weight": weight})
    with written_aside(path, overwrite=overwrite, is_ours=is_pairs) as aside:
        group = _new_group(aside)
        digest, stored, chunks = RowsDigest(), {}, {}
        for label, array in arrays.items():
            stored[label] = _new_array(group, label, array.shape, array.dtype,
                                       (min(rows, array.shape[0]), *array.shape[1:]))
            stored[label][...] = array
            digest.begin()
            digest.add(array)
            chunks[label] = digests(stored[label], 0, array.shape[0])
        batch = Stamp().batch(0, x.shape[0], digest.hex())
        publish(aside, stored, Manifest.over(stored).with_batch(batch), chunks)
    return Path(path)


@contextlib.contextmanager
def pairs_group(path: str | Path, shape: tuple[int, int], dtype: np.dtype, *,
                chunks: tuple[int, int]) -> Iterator[Any]:
    """A new group with arrays x and y of a shape, to be filled in the block by whole chunks.

    Raises:
        SettingsError: ``path`` exists, or cannot be written.
    """
    with written_aside(path, overwrite=False, is_ours=is_pairs) as aside:
        group = _new_group(aside)
        arrays = {label: _new_array(group, label, shape, dtype, chunks) for label in ("x", "y")}
        yield group
        adopt(aside, arrays)


def empty_group(place: Any, n_features: int, dtypes: Mapping[str, np.dtype],
                chunk_rows: int) -> dict[str, Any]:
    """A new group in a folder or Zarr store: arrays without rows, x, y and what has a dtype."""
    group = _new_group(place)
    columns = {label: () if label == "weight" else (n_features,) for label in dtypes}
    return {label: _new_array(group, label, (0, *columns[label]), dtype,
                              (chunk_rows, *columns[label]))
            for label, dtype in dtypes.items()}


def _new_group(place: Any) -> Any:
    import zarr

    group = zarr.open_group(place, mode="w", zarr_format=3)
    group.attrs["lrh_dask_pairs"] = 1
    return group


def _new_array(group: Any, label: str, shape: tuple[int, ...], dtype: np.dtype,
               chunks: tuple[int, ...]) -> Any:
    from zarr.codecs import Crc32cCodec

    return group.create_array(
        label, shape=shape, dtype=dtype, chunks=chunks,
        compressors=(Crc32cCodec(),), config={"write_empty_chunks": True},
        dimension_names=("pair", "feature")[:len(shape)])


def is_pairs(path: Path) -> bool:
    """Whether a store of pairs that we wrote lies at a path."""
    return attributes_of(path).get("lrh_dask_pairs") == 1
