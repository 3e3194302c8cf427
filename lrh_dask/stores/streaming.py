"""Rows of plain chunks in local files, a few at a time.

Arithmetic on few rows waits for memory, not for the processor: a chunk that is read as a whole goes
to memory, and comes back for its checksum, for lengths, projections and sums. A few of its rows
stay in the processor's cache meanwhile. The operating system reads ahead of who reads in order.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
from crc32c import crc32c

from lrh_dask.errors import BadPairs, explain
from lrh_dask.stores.chunks import read_rows
from lrh_dask.stores.layout import CHECKSUM_BYTES, chunk_dtype, is_plain, is_zarr

__all__ = ["Stream", "can_stream"]

LEAST_CHUNK_BYTES = 2**20
"""Smaller chunks are read as a whole, several at once."""
SKIPPED_BYTES = 2**20
"""So much at once is read of what is only in a checksum."""


def can_stream(array: Any) -> bool:
    """Whether an array (n, D) is stored as plain chunks of whole rows in local files."""
    if not is_zarr(array):
        return False
    from zarr.storage import LocalStore

    return bool(isinstance(array.store, LocalStore) and is_plain(array)
                and array.chunks[1] == array.shape[1]
                and int(np.prod(array.chunks)) * array.dtype.itemsize >= LEAST_CHUNK_BYTES)


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
        self._dtype = chunk_dtype(array)
        self._chunk_rows, self._row_bytes = array.chunks[0], array.shape[1] * self._dtype.itemsize
        self._checksummed = len(array.metadata.codecs) > 1
        self._buffer = np.empty(0, np.uint8)
        self._file: Any = None  # of the chunk that is read, how far it is read, and the checksum
        self._chunk = self._at = self._checksum = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.check()
        self._close()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` (m, D), which the next call writes over.

        Raises:
            BadPairs: a chunk is missing or damaged (see :func:`lrh_dask.stores.chunks.read_rows`).
        """
        n_bytes = (stop - start) * self._row_bytes
        if self._buffer.nbytes < n_bytes:
            self._buffer = _from_a_page_on(n_bytes)
        content = self._buffer[:n_bytes]
        rows = content.view(self._dtype).reshape(stop - start, -1)
        row = start
        while row < stop:
            chunk = row // self._chunk_rows
            end = min(stop, (chunk + 1) * self._chunk_rows)
            before = (row - chunk * self._chunk_rows) * self._row_bytes
            if self._file is None or chunk != self._chunk or before < self._at:
                self.check()
                self._begin(chunk)
            if self._file is None:  # no such file: an error, or nothing but fill
                rows[row - start:end - start] = read_rows(
                    self._name, self._array, row, end, self._fill)
            else:
                self._skip_to(before)
                self._take(content[(row - start) * self._row_bytes:(end - start) * self._row_bytes])
            row = end
        return rows

    def check(self) -> None:
        """Read to the end of the chunk that was read last, and check it.

        Raises:
            BadPairs: it is damaged.
        """
        if self._file is None:
            return
        self._skip_to(self._chunk_rows * self._row_bytes)
        ending = np.empty(CHECKSUM_BYTES + 1, np.uint8)
        due = self._checksum.to_bytes(CHECKSUM_BYTES, "little") if self._checksummed else b""
        if ending[:self._read(ending)].tobytes() != due:
            self._refuse()
        self._close()

    def _begin(self, chunk: int) -> None:
        """Open the file of a chunk, if there is one."""
        key = self._array.metadata.encode_chunk_key((chunk, 0))
        self._chunk, self._at, self._checksum = chunk, 0, 0
        with contextlib.suppress(OSError):  # what is the matter is found by who reads as Zarr does
            self._file = Path(self._array.store.root, self._array.path, key).open("rb", 0)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _skip_to(self, n_bytes: int) -> None:
        """What nobody has asked for is in the checksum, too."""
        while self._at < n_bytes:
            self._take(np.empty(min(n_bytes - self._at, SKIPPED_BYTES), np.uint8))

    def _take(self, content: np.ndarray) -> None:
        """The next bytes of the chunk."""
        if self._read(content) < content.nbytes:
            self._refuse()
        if self._checksummed:
            self._checksum = crc32c(content.data, self._checksum)
        self._at += content.nbytes

    def _read(self, content: np.ndarray) -> int:
        """How many of the next bytes of the file there are."""
        n_bytes = 0
        while n_bytes < content.nbytes:
            try:
                got = self._file.readinto(content.data[n_bytes:])
            except OSError as error:
                self._refuse(error)
            if not got:
                break
            n_bytes += got
        return n_bytes

    def _refuse(self, error: OSError | None = None) -> NoReturn:
        """Say what is wrong with the chunk, as who reads all of it finds it."""
        self._close()
        first = self._chunk * self._chunk_rows
        last = min(first + self._chunk_rows, self._array.shape[0])
        read_rows(self._name, self._array, first, last, self._fill)
        raise BadPairs(explain(
            f"read rows {first}-{last - 1} of {self._name}",
            expected="a store that can be read, and stays as it is meanwhile",
            got=f"{error}, and a moment later no error" if error else
                "a chunk that was written meanwhile",
            consequence="Some of its rows were counted, or none, so no result was written",
            fix="Run again when nothing writes to the store and its disk answers")) from error


def _from_a_page_on(n_bytes: int) -> np.ndarray:
    """Memory that begins with a page, which is copied to faster."""
    room = np.empty(n_bytes + mmap.PAGESIZE, np.uint8)
    first = -room.ctypes.data % mmap.PAGESIZE
    return room[first:first + n_bytes]
