"""Chunks as they are stored: encoded, put in place at once, and told apart by a digest.

Zarr writes a chunk, and the shape of an array, over what was there: a process killed meanwhile
leaves half of it. Here a file is written aside, flushed and renamed, so that whoever reads it
sees the one before or the one after.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_64_hexdigest, xxh3_128, xxh3_128_hexdigest

from lrh_dask.stores.layout import CHECKSUM_BYTES, stored_chunks

__all__ = ["RowsDigest", "digest_of", "digest_of_texts", "digests", "encoded", "folder_of",
           "keys_of_rows", "put", "remove", "set_rows", "sync_folders"]


def folder_of(array: Any) -> Path:
    """The folder of an array in a local store."""
    return Path(array.store.root, array.path)


def keys_of_rows(array: Any, start: int, stop: int) -> Iterator[str]:
    """Keys, under the array, of the chunks in which rows ``start`` to ``stop`` lie."""
    rows, *columns = stored_chunks(array)
    grid = [-(-n // size) for n, size in zip(array.shape[1:], columns, strict=True)]
    for first in range(start // rows, -(-stop // rows)):
        for at in np.ndindex(*grid):
            yield array.metadata.encode_chunk_key((first, *map(int, at)))


def encoded(array: Any, first: int, rows: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """Key and stored bytes of every chunk of one row of chunks, by whatever codecs there are.

    Args:
        first: row of the array at which the row of chunks begins.
        rows: (m, ...) what is in it, at most the rows of a chunk; fill follows.
    """
    from zarr.storage import MemoryStore, StorePath

    from lrh_dask.stores.zarr_core import get, made_like

    end, path = first + len(rows), StorePath(MemoryStore())
    scratch = made_like(array, n_rows=end, path=path, storing_fill=True)
    scratch[first:end] = rows
    for key in keys_of_rows(scratch, first, end):
        stored = get(path / key)
        if stored is not None:
            yield key, stored


def digests(array: Any, start: int, stop: int) -> dict[str, str]:
    """Digests (hex) of the stored chunks of some rows, by their keys under the array.

    Where a chunk ends with its crc32c that is the digest, and nothing else of it is read.
    """
    found, folder = {}, folder_of(array)
    for key in keys_of_rows(array, start, stop):
        try:
            with (folder / key).open("rb") as file:
                if _ends_with_checksum(array):
                    file.seek(-CHECKSUM_BYTES, os.SEEK_END)
                    found[key] = file.read().hex()
                else:
                    found[key] = xxh3_64_hexdigest(file.read())
        except FileNotFoundError:  # declared to be fill, or found missing by who reads it
            continue
    return found


def digest_of(array: Any, stored: bytes) -> str:
    """Digest (hex) of a chunk by its stored bytes, as :func:`digests` takes it of its file."""
    return (stored[-CHECKSUM_BYTES:].hex() if _ends_with_checksum(array)
            else xxh3_64_hexdigest(stored))


class RowsDigest:
    """Digest of the rows of arrays, whatever chunks, blocks and byte order they come in."""

    def __init__(self) -> None:
        self._arrays: list[Any] = []

    def begin(self) -> None:
        """The rows that follow are of the next array."""
        self._arrays.append(xxh3_128())

    def add(self, rows: np.ndarray) -> None:
        """The next rows of an array."""
        self._arrays[-1].update(np.ascontiguousarray(rows, rows.dtype.newbyteorder("<")).data)

    def hex(self) -> str:
        """The digest so far."""
        return digest_of_texts(array.hexdigest() for array in self._arrays)


def digest_of_texts(texts: Iterable[str]) -> str:
    """Digest (hex) of texts, one after another."""
    return xxh3_128_hexdigest(" ".join(texts).encode())


def _ends_with_checksum(array: Any) -> bool:
    codecs = [codec.to_dict() for codec in array.metadata.codecs]
    return bool(codecs[-1]["name"] == "crc32c")


def put(path: Path, content: bytes, aside: Path | None = None) -> None:
    """Write a file aside, flush it and give it its name.

    Args:
        aside: where to write; a name beside ``path`` that the next call writes over.
    """
    aside = aside or _aside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def remove(path: Path) -> None:
    """Remove a file, and what was written aside for it."""
    path.unlink(missing_ok=True)
    _aside(path).unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def set_rows(array: Any, n_rows: int) -> None:
    """Give an array of a local store another number of rows; chunks stay as they are."""
    path = folder_of(array) / "zarr.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    if metadata["shape"][0] == n_rows:
        _aside(path).unlink(missing_ok=True)
        return
    metadata["shape"][0] = n_rows
    put(path, json.dumps(metadata, indent=2).encode())


def sync_folders(folder: Path, keys: Iterable[str]) -> None:
    """Flush the names of some files under a folder, and of the folders on the way to them."""
    for parent in {folder, *(part for key in keys for part in (folder / key).parents
                             if part.is_relative_to(folder))}:
        descriptor = os.open(parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
