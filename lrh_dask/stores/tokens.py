"""What tells cheaply whether rows that were counted may have changed.

Of each chunk a *token* is kept: something cheap that changes with its bytes; and of each array what
it says of how they are decoded. Rows of chunks whose token is another one are read, and their
digests compared by who asks with those of the rows that were counted. So a part-filled chunk that
was filled up, or a store that was copied, is no change.

A token of a local chunk is its crc32c checksum where it ends with one, else its size and when it
was written; where no digests of rows are compared afterwards (:class:`RowTokens`), its inode and
when that was changed, too, which no program sets at will.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lrh_dask.stores.chunks import CHECKSUM_BYTES, is_plain, stored_chunks
from lrh_dask.stores.manifest import chunk_digests
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.stored_chunks import digest_of_texts, keys_of_rows
from lrh_dask.stores.unchanged import as_appended
from lrh_dask.stores.windows import Segment

__all__ = ["SNAPSHOT", "RowTokens", "chunk_tokens", "seen_now"]

SNAPSHOT = "snapshot"
IN_A_LIST = 1000
"""Names that object storage tells at once."""
LOOKED_AT_HERE = 256 * 2**20
"""Larger part-filled chunks are taken for others once they were filled up."""


def chunk_tokens(pairs: Pairs, segments: Iterable[Segment]) -> dict[str, str]:
    """A token of every chunk that holds rows of some segments, by key ("x/c/0/0").

    It is empty where nothing is known that changes with the bytes of a chunk. A snapshot stands
    for all chunks that it has. Under the label of an array ("x") it is told how they are decoded.
    """
    return _tokens(pairs, [(segment.start, segment.stop) for segment in segments], exact=False)


def _tokens(pairs: Pairs, spans: Sequence[tuple[int, int]], *, exact: bool) -> dict[str, str]:
    tokens = {label: _decoding(array) for label, array in pairs.arrays.items()}
    if pairs.snapshot is not None:
        return {SNAPSHOT: pairs.snapshot, **tokens}
    for label, array in pairs.arrays.items():
        rows = stored_chunks(array)[0]
        at = sorted({i for start, stop in spans for i in range(start // rows, -(-stop // rows))})
        keys = [key for i in at for key in keys_of_rows(array, i * rows, (i + 1) * rows)]
        token = _token_of(array, keys, exact=exact)
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
        self._seen = _tokens(pairs, [(0, n)], exact=True)
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
    return _digest(pairs, spans, _tokens(pairs, spans, exact=True))


def _digest(pairs: Pairs, spans: Iterable[tuple[int, int]], tokens: dict[str, str]) -> str:
    keys = dict.fromkeys(f"{label}/{key}" for label, array in pairs.arrays.items()
                         for span in spans for key in keys_of_rows(array, *span))
    return digest_of_texts([str(pairs.x.store_path), *(tokens[label] for label in pairs.arrays), *(
        f"{key} {tokens.get(key, tokens.get(SNAPSHOT))}" for key in keys)])


def _token_of(array: Any, keys: Sequence[str], *, exact: bool) -> Callable[[str], str]:
    """What gives the token of each of some chunks by its key."""
    from zarr.storage import LocalStore

    if isinstance(array.store, LocalStore):
        folder = array.store.root / array.path
        checksummed = is_plain(array) and len(array.metadata.codecs) > 1
        return lambda key: _of_file(folder / key, checksummed=checksummed, exact=exact)
    listed = getattr(array.store, "tokens", None)  # of object storage
    if listed is None:
        return lambda _: ""
    rows = {key[:key.rfind("/") + 1] for key in keys}
    few = len(rows) * IN_A_LIST < math.prod(-(-n // size) for n, size in zip(
        array.shape, stored_chunks(array), strict=True))
    by_key = {name: tag for part in (rows if few else ("",))
              for name, tag in listed(f"{array.path}/{part}").items()}
    return lambda key: by_key.get(f"{array.path}/{key}", "missing")


def _of_file(path: Any, *, checksummed: bool, exact: bool) -> str:
    """The checksum at the end of a chunk, or else its size and when it was written."""
    try:
        if not checksummed:
            found = os.stat(path)
            return f"{found.st_size}-{found.st_mtime_ns}" + (
                f"-{found.st_ino}-{found.st_ctime_ns}" * exact)
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - CHECKSUM_BYTES, 0))
            return f"{size}-{file.read().hex()}"
    except OSError:
        return "missing"
