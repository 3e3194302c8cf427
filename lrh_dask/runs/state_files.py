"""Partial states as Zarr groups of few arrays, in a folder or one file, that say if they are whole.

Arrays carry crc32c checksums and attributes a digest of their own: what is read is what was
written, or it is an error. Nothing in such a group is ever executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lrh_dask.errors import finding
from lrh_dask.runs.packing import Packed
from lrh_dask.stores.aside import attributes_of

__all__ = ["FORMAT_VERSION", "checked_attributes", "is_states", "read_group", "write_group"]

FORMAT_VERSION = 2
CHUNK_NUMBERS = 2**20


def write_group(path: Path, attributes: dict[str, Any], arrays: Packed,
                **more: np.ndarray) -> None:
    """Write attributes and arrays, with checksums: into a folder, or a file where one is named.

    Args:
        path: a folder that is there, or the name of a file that is not.
        more: further arrays by name.
    """
    import zarr
    from zarr.codecs import Crc32cCodec

    known = json.loads(json.dumps({"lrh_dask_states": FORMAT_VERSION, **attributes}))
    with _opened(path, "w") as store:
        group = zarr.open_group(store, mode="w", zarr_format=3,
                                attributes={**known, "digest": _digest(known)})
        for name, parts in {**arrays.parts, **{name: [array] for name, array in more.items()}
                            }.items():
            n, shape = sum(map(len, parts)), parts[0].shape[1:]
            rows = max(1, min(n, CHUNK_NUMBERS // max(1, math.prod(shape))))
            array = group.create_array(
                name, shape=(n, *shape), dtype=parts[0].dtype, chunks=(rows, *shape),
                compressors=(Crc32cCodec(),), config={"write_empty_chunks": True})
            for start, chunk in _chunks(parts, rows):
                array[start:start + len(chunk)] = chunk


def read_group(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Attributes and arrays of a group.

    Raises:
        ValueError: it is not whole.
    """
    import zarr

    from lrh_dask.stores.chunks import whole

    try:
        with _opened(path, "r") as store:
            group = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
            attributes = checked_attributes(dict(group.attrs.asdict()))
            arrays = {name: whole(f"{path}/{name}", array) for name, array in group.arrays()}
    except Exception as error:
        message = f"states {path} cannot be read ({finding(error)})"
        raise ValueError(message) from error
    return attributes, arrays


def checked_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a group of states, if they are those that were written.

    Raises:
        ValueError: they are not.
    """
    known = {name: value for name, value in attributes.items() if name != "digest"}
    if known.get("lrh_dask_states") != FORMAT_VERSION or attributes["digest"] != _digest(known):
        message = "its attributes are not those that were written"
        raise ValueError(message)
    return known


def is_states(path: Path) -> bool:
    """Whether a folder of states lies at a path."""
    return "lrh_dask_states" in attributes_of(path)


def _chunks(parts: list[np.ndarray], rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Arrays one after another as chunks of so many rows, each with the number of its first."""
    begun, n_begun, start = [], 0, 0
    for part in parts:
        while len(part):
            begun.append(part[:rows - n_begun])
            n_begun, part = n_begun + len(begun[-1]), part[rows - n_begun:]
            if n_begun == rows:
                yield start, np.concatenate(begun)
                begun, n_begun, start = [], 0, start + rows
    if begun:
        yield start, np.concatenate(begun)


@contextlib.contextmanager
def _opened(path: Path, mode: Any) -> Iterator[Any]:
    """A folder by its name; a file as a store."""
    if path.is_dir():
        yield str(path)
        return
    from zarr.storage import ZipStore

    store = ZipStore(path, mode=mode)
    try:
        yield store
    finally:
        store.close()


def _digest(attributes: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()
