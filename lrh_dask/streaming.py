"""Rows of plain chunks in local files, a few at a time.

Arithmetic on few rows waits for memory, not for the processor: a chunk that is read as a whole goes
to memory, and comes back for its checksum, for lengths, projections and sums. A few of its rows
stay in the processor's cache meanwhile. The operating system reads ahead of who reads in order.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
from crc32c import crc32c

from lrh_dask.chunks import CHECKSUM_BYTES, chunk_dtype, is_plain, is_zarr, read_rows
from lrh_dask.errors import BadPairs, explain

__all__ = ["Stream", "can_stream"]

LEAST_CHUNK_BYTES = 2**20
"""Smaller chunks are read as a whole, several at once."""
SKIPPED_ROWS = 64


def can_stream(array: Any) -> bool:
    """Whether an array (n, D) is stored as plain chunks of whole rows in local files."""
    from zarr.storage import LocalStore

    return bool(is_zarr(array) and isinstance(array.store, LocalStore) and is_plain(array)
                and array.chunks[1] >= array.shape[1]
                and int(np.prod(array.chunks)) * array.dtype.itemsize >= LEAST_CHUNK_BYTES)


def _from_a_page_on(n_bytes: int) -> np.ndarray:
    """Memory that begins with a page, which is copied to faster."""
    room = np.empty(n_bytes + mmap.PAGESIZE, np.uint8)
    first = -room.ctypes.data % mmap.PAGESIZE
    return room[first:first + n_bytes]


class Stream:
    """Rows of an array, each chunk being checked when its last row was read.

    Args:
        name: what messages call the array.
        array: one that :func:`can_stream`.
        fill: keys of chunks that the store declares to hold nothing but fill.

    What was read counts only once the ``with`` block has ended without an error, or :meth:`check`
    has returned: a checksum is one of a whole chunk.
    """

    def __init__(self, name: str, array: Any, fill: frozenset[str] = frozenset()) -> None:
        self._name, self._array, self._fill = name, array, fill
        self._chunk_rows, self._n_columns = array.chunks
        self._dtype = chunk_dtype(array)
        self._checksummed = len(array.metadata.codecs) > 1
        self._buffer = np.empty(0, np.uint8)
        self._file: Any = None               # of the chunk that is read:
        self._chunk = self._row = self._checksum = 0  # next row in it, checksum so far

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` (m, D), which the next call writes over.

        Raises:
            BadPairs: a chunk is missing or damaged (see :func:`lrh_dask.chunks.read_rows`).
        """
        shape = (stop - start, self._n_columns)
        n_bytes = shape[0] * shape[1] * self._dtype.itemsize
        if self._buffer.nbytes < n_bytes:
            self._buffer = _from_a_page_on(n_bytes)
        rows = self._buffer[:n_bytes].view(self._dtype).reshape(shape)
        row = start
        while row < stop:
            chunk = row // self._chunk_rows
            end = min(stop, (chunk + 1) * self._chunk_rows)
            if self._file is None or chunk != self._chunk or row < self._row:
                self.check()
                self._begin(chunk)
            if self._file is None:  # no such file: an error, or nothing but fill
                rows[row - start:end - start, :self._array.shape[1]] = read_rows(
                    self._name, self._array, row, end, self._fill)
            else:
                self._skip_to(row)
                self._take(rows[row - start:end - start])
            row = end
        return rows[:, :self._array.shape[1]]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.check()
        elif self._file is not None:
            self._file.close()

    def check(self) -> None:
        """Read to the end of the chunk that was read last, and check it.

        Raises:
            BadPairs: it is damaged.
        """
        if self._file is None:
            return
        self._skip_to((self._chunk + 1) * self._chunk_rows)
        ending = self._file.read(CHECKSUM_BYTES + 1)
        self._file.close()
        self._file = None
        if ending != (self._checksum.to_bytes(CHECKSUM_BYTES, "little") if self._checksummed
                      else b""):
            self._refuse()

    def _begin(self, chunk: int) -> None:
        """Open the file of a chunk, if there is one."""
        key = self._array.metadata.encode_chunk_key((chunk, 0))
        self._chunk, self._row, self._checksum = chunk, chunk * self._chunk_rows, 0
        try:
            self._file = Path(self._array.store.root, self._array.path, key).open("rb", 0)
        except OSError:  # what is the matter is found out by who reads it as Zarr does
            return
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def _skip_to(self, row: int) -> None:
        """Rows that nobody has asked for are in the checksum, too."""
        while self._row < row:
            n_rows = min(row - self._row, SKIPPED_ROWS)
            self._take(np.empty((n_rows, self._n_columns), self._dtype))

    def _take(self, rows: np.ndarray) -> None:
        """The next rows of the file."""
        content, n_bytes = rows.reshape(-1).view(np.uint8).data, 0
        while n_bytes < len(content):
            try:
                got = self._file.readinto(content[n_bytes:])
            except OSError:
                got = 0
            if not got:
                self._refuse()
            n_bytes += got
        if self._checksummed:
            self._checksum = crc32c(content, self._checksum)
        self._row += len(rows)

    def _refuse(self) -> NoReturn:
        """Say what is wrong with the chunk, as who reads all of it finds it."""
        first = self._chunk * self._chunk_rows
        last = min(first + self._chunk_rows, self._array.shape[0])
        read_rows(self._name, self._array, first, last, self._fill)
        raise BadPairs(explain(
            f"read rows {first}-{last - 1} of {self._name}",
            expected="a store that stays as it is while it is read",
            got="a chunk that was written meanwhile",
            consequence="Rows were counted that are not there any more, so no result was written",
            fix="Run again when nothing writes to the store"))
