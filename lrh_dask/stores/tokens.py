"""What tells cheaply whether rows that were counted may have changed.

Of each chunk a *token* is kept: something cheap that changes with its bytes; and of each array what
it says of how they are decoded. Rows of chunks whose token is another one are read, and their
digests compared by who asks with those of the rows that were counted. So a part-filled chunk that
was filled up, or a store that was copied, is no change.

A token of a local chunk is its crc32c checksum where it ends with one, else its size and when it
was written; where no digests of rows are compared afterwards (:class:`RowTokens`), its inode and
when that was changed, too, which no program sets at will. While a run reads, files are not opened
for it: size, time and inode tell that a chunk was written (:func:`written`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lrh_dask.stores.chunks import read_rows
from lrh_dask.stores.layout import CHECKSUM_BYTES, is_plain, is_zarr, stored_chunks
from lrh_dask.stores.manifest import chunk_digests
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.stored_chunks import (
    digest_of,
    digest_of_texts,
    encoded,
    folder_of,
    keys_of_rows,
)
from lrh_dask.stores.windows import Segment

__all__ = ["SNAPSHOT", "RowTokens", "as_appended", "chunk_tokens", "seen_now", "written"]

SNAPSHOT, MISSING = "snapshot", "missing"
IN_A_LIST = 1000
"""Names that object storage tells at once."""
LOOKED_AT_HERE = 256 * 2**20
"""Larger part-filled chunks are taken for others once they were filled up."""


def chunk_tokens(pairs: Pairs, segments: Iterable[Segment]) -> dict[str, str]:
    """A token of every chunk that holds rows of some segments, by key ("x/c/0/0").

    It is empty where nothing is known that changes with the bytes of a chunk. A snapshot stands
    for all chunks that it has. Under the label of an array ("x") it is told how they are decoded.
    """
    return _tokens(pairs, [(segment.start, segment.stop) for segment in segments],
                   _of_content_or_time)


def written(pairs: Pairs, spans: Sequence[tuple[int, int]]) -> dict[str, str]:
    """Of every chunk that holds some rows, by key, what changes when it is written, if anything.

    It is empty for pairs that nobody can write to: those in memory, and those of a snapshot.
    """
    if not is_zarr(pairs.x) or pairs.snapshot is not None:
        return {}
    return _tokens(pairs, spans, _of_writing)


def _tokens(pairs: Pairs, spans: Sequence[tuple[int, int]],
            of_file: Callable[[str, bool], str]) -> dict[str, str]:
    tokens = {label: _decoding(array) for label, array in pairs.arrays.items()}
    if pairs.snapshot is not None:
        return {SNAPSHOT: pairs.snapshot, **tokens}
    for label, array in pairs.arrays.items():
        rows = stored_chunks(array)[0]
        at = sorted({i for start, stop in spans for i in range(start // rows, -(-stop // rows))})
        keys = [key for i in at for key in keys_of_rows(array, i * rows, (i + 1) * rows)]
        token = _token_of(array, keys, of_file)
        tokens |= {f"{label}/{key}": token(key) for key in keys}
    return tokens


def _decoding(array: Any) -> str:
    """Digest of where an array lies and of what turns its chunks into numbers, but its length."""
    known = array.metadata.to_dict()
    known = {name: value for name, value in known.items() if name not in {"attributes", "shape"}}
    return digest_of_texts([array.path, str(array.shape[1:]), json.dumps(
        known, sort_keys=True, default=str)])


class RowTokens:
    """The tokens of all chunks, as they were when this was made.

    The last chunks may have been filled up by an append since other tokens were taken: as long as
    their rows are those that the manifest has digests of, nothing has changed.
    """

    def __init__(self, pairs: Pairs) -> None:
        n = pairs.n_pairs
        self._pairs = pairs
        self._seen = _tokens(pairs, [(0, n)], _of_content_or_inode)
        self._lasting: dict[str, str] = {}
        if not pairs.batches or pairs.snapshot is not None or not self.tell:
            return
        for label, array in pairs.arrays.items():
            rows = stored_chunks(array)[0]
            if 0 < n % rows * pairs.row_bytes <= LOOKED_AT_HERE and as_appended(
                    pairs, n // rows * rows, n):
                published = chunk_digests(array, len(pairs.batches))
                self._lasting |= {f"{label}/{key}": published[key] for key in keys_of_rows(
                    array, n // rows * rows, n) if key in published}

    @property
    def tell(self) -> bool:
        """Whether something is known of all chunks that changes with their bytes."""
        return all(self._seen.values())

    def lasting(self, spans: Iterable[tuple[int, int]]) -> str:
        """Digest of the tokens of chunks in which rows lie: the same as long as the rows are."""
        return _digest(self._pairs, spans, self._seen | self._lasting)

    def seen(self, spans: Iterable[tuple[int, int]]) -> str:
        """Digest of the tokens as they were seen: the same as long as the chunks are."""
        return _digest(self._pairs, spans, self._seen)


def seen_now(pairs: Pairs, spans: Sequence[tuple[int, int]]) -> str:
    """What :meth:`RowTokens.seen` would be if it was taken now."""
    return _digest(pairs, spans, _tokens(pairs, spans, _of_content_or_inode))


def _digest(pairs: Pairs, spans: Iterable[tuple[int, int]], tokens: dict[str, str]) -> str:
    keys = dict.fromkeys(f"{label}/{key}" for label, array in pairs.arrays.items()
                         for span in spans for key in keys_of_rows(array, *span))
    return digest_of_texts([str(pairs.x.store_path), *(tokens[label] for label in pairs.arrays), *(
        f"{key} {tokens.get(key, tokens.get(SNAPSHOT))}" for key in keys)])


def _token_of(array: Any, keys: Sequence[str],
              of_file: Callable[[str, bool], str]) -> Callable[[str], str]:
    """What gives the token of each of some chunks by its key."""
    from zarr.storage import LocalStore

    if isinstance(array.store, LocalStore):
        folder = folder_of(array)
        checksummed = is_plain(array) and len(array.metadata.codecs) > 1
        return lambda key: of_file(f"{folder}/{key}", checksummed)
    listed = getattr(array.store, "tokens", None)  # of object storage
    if listed is None:
        return lambda _: ""
    rows = {key[:key.rfind("/") + 1] for key in keys}
    few = len(rows) * IN_A_LIST < math.prod(-(-n // size) for n, size in zip(
        array.shape, stored_chunks(array), strict=True))
    by_key = {name: tag for part in (rows if few else ("",))
              for name, tag in listed(f"{array.path}/{part}").items()}
    return lambda key: by_key.get(f"{array.path}/{key}", MISSING)


def _of_writing(path: str, _: bool) -> str:
    """As written; a new link to a file, as backups make them, is no change."""
    return _of_stat(path, "st_size", "st_mtime_ns", "st_ino")


def _of_content_or_time(path: str, checksummed: bool) -> str:
    return _of_checksum(path) if checksummed else _of_stat(path, "st_size", "st_mtime_ns")


def _of_content_or_inode(path: str, checksummed: bool) -> str:
    return _of_checksum(path) if checksummed else _of_stat(
        path, "st_size", "st_mtime_ns", "st_ino", "st_ctime_ns")


def _of_stat(path: str, *names: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return MISSING
    return "-".join(str(getattr(found, name)) for name in names)


def _of_checksum(path: str) -> str:
    """That at the end of a chunk."""
    try:
        with open(path, "rb", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - CHECKSUM_BYTES, 0))
            return f"{size}-{file.read().hex()}"
    except OSError:
        return MISSING


def as_appended(pairs: Pairs, start: int, stop: int) -> bool:
    """Whether rows of a row of chunks are those that the store's manifest has digests of.

    They are put into chunks again, with nothing after them, as when they were appended.

    Raises:
        BadPairs: they cannot be read.
    """
    for label, array in pairs.arrays.items():
        published = chunk_digests(array, len(pairs.batches))
        first = start // stored_chunks(array)[0] * stored_chunks(array)[0]
        rows = read_rows(f"{pairs.name}/{label}", array, first, stop)
        if any(published.get(key) != digest_of(array, stored)
               for key, stored in encoded(array, first, rows)):
            return False
    return True
