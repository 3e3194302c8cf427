"""Writing stores and results: aside, flushed, then renamed, so that what has its name is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lrh_dask.errors import SettingsError, explain
from lrh_dask.pairs import CHUNK_BYTES, Pairs

__all__ = ["refuse_existing", "write_pairs", "written_aside"]


def write_pairs(path: str | Path, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None,
                *, chunk_rows: int | None = None, overwrite: bool = False) -> Path:
    """Write pairs as a Zarr group: uncompressed chunks of about 16 MiB with crc32c checksums.

    The group is written aside and renamed, so that a killed writer leaves none.

    Args:
        x, y: (n, D) float arrays; ``weight`` (n,) or None.
        chunk_rows: pairs a chunk.
        overwrite: replace what lies at ``path``.
    Raises:
        SettingsError: ``path`` exists and ``overwrite`` is False.
        BadPairs: the arrays are no pairs.
    """
    import zarr
    from zarr.codecs import Crc32cCodec

    Pairs(x, y, weight)
    with written_aside(path, overwrite=overwrite) as aside:
        group = zarr.open_group(str(aside), mode="w", zarr_format=3)
        rows = chunk_rows or max(1, CHUNK_BYTES // (x.shape[1] * x.dtype.itemsize))
        for label, array in (("x", x), ("y", y), ("weight", weight)):
            if array is not None:
                chunks = (min(rows, array.shape[0]), *array.shape[1:])
                group.create_array(
                    label, data=np.ascontiguousarray(array), chunks=chunks,
                    compressors=(Crc32cCodec(),), config={"write_empty_chunks": True},
                    dimension_names=("pair", "feature")[:array.ndim])
    return Path(path)


@contextlib.contextmanager
def written_aside(path: str | Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder beside ``path`` to write into; it takes the name ``path`` at the end, or is gone.

    Raises:
        SettingsError: ``path`` exists and ``overwrite`` is False, or its folder cannot be written.
    """
    path = Path(path)
    refuse_existing(path, overwrite=overwrite)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
    except OSError as error:
        raise SettingsError(explain(
            f"write {path}", expected="a folder that can be written", got=str(error),
            consequence="Nothing was written", fix="Choose another place with --out")) from error
    try:
        yield aside
        _sync_tree(aside)
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        if path.exists():
            os.replace(path, old)
        os.replace(aside, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise unless ``path`` is free or may be overwritten.

    Raises:
        SettingsError: it exists and ``overwrite`` is False.
    """
    if path.exists() and not overwrite:
        raise SettingsError(explain(
            f"write {path}", expected="a new path", got="one that exists",
            consequence="Nothing was computed, and it was left as it is",
            fix="Choose another path or pass --overwrite (overwrite=True)"))


def _sync_tree(folder: Path) -> None:
    """Flush a folder's files to disk: Zarr's local store leaves that to the system."""
    for root, _, files in os.walk(folder):
        for name in files:
            descriptor = os.open(Path(root) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
