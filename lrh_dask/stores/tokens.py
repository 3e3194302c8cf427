"""What tells cheaply whether rows that were counted may have changed.

Of each chunk a *token* is kept: something cheap that changes with its bytes. Rows of chunks whose
token is another one are read, and their digests compared with those of the rows that were counted
by who asks. So a part-filled chunk that was filled up, or a store that was
copied, is no change.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lrh_dask.errors import BadPairs
from lrh_dask.stores.chunks import CHECKSUM_BYTES, is_plain, stored_chunks
from lrh_dask.stores.digests import RowDigest
from lrh_dask.stores.manifest import chunk_digests
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.stored_chunks import digest_of_texts, keys_of_rows
from lrh_dask.stores.unchanged import as_appended
from lrh_dask.stores.windows import Segment

__all__ = ["chunk_tokens", "row_tokens", "suspects"]

SNAPSHOT = "snapshot"
LOOKED_AT_HERE = 256 * 2**20
"""Larger part-filled chunks are taken for others once they were filled up."""


def chunk_tokens(pairs: Pairs, segments: Iterable[Segment]) -> dict[str, str]:
    """A token of every chunk that holds rows of some segments, by key ("x/c/0/0").

    It is empty where nothing is known that changes with the bytes of a chunk. A snapshot stands
    for all chunks that it has.
    """
    if pairs.snapshot is not None:
        return {SNAPSHOT: pairs.snapshot}
    spans = [(segment.start, segment.stop) for segment in segments]
    tokens: dict[str, str] = {}
    for label, array in pairs.arrays.items():
        token = _token_of(array)
        rows = stored_chunks(array)[0]
        at = sorted({i for start, stop in spans for i in range(start // rows, -(-stop // rows))})
        for key in (key for i in at for key in keys_of_rows(array, i * rows, (i + 1) * rows)):
            tokens[f"{label}/{key}"] = token(key)
    return tokens


def row_tokens(pairs: Pairs) -> Callable[[Iterable[tuple[int, int]]], str] | None:
    """What gives a digest of the tokens of all chunks in which rows of some spans lie.

    They are looked at when this is called. None where nothing is known of some. The last chunks may
    have been filled up by an append since: as long as their rows are those that the manifest has
    digests of, these are their tokens.
    """
    n = pairs.n_pairs
    tokens = chunk_tokens(pairs, [Segment(0, n, "", "")])
    if not all(tokens.values()):
        return None
    for label, array in pairs.arrays.items() if pairs.batches and pairs.snapshot is None else ():
        rows = stored_chunks(array)[0]
        if 0 < n % rows * pairs.row_bytes <= LOOKED_AT_HERE and as_appended(
                pairs, n // rows * rows, n):
            published = chunk_digests(array, len(pairs.batches))
            tokens |= {f"{label}/{key}": published[key]
                       for key in keys_of_rows(array, n // rows * rows, n) if key in published}

    def digest(spans: Iterable[tuple[int, int]]) -> str:
        keys = dict.fromkeys(
            f"{label}/{key}" for label, array in pairs.arrays.items()
            for span in spans for key in keys_of_rows(array, *span))
        return digest_of_texts([str(pairs.x.store_path), *(
            f"{key} {tokens.get(key, tokens.get(SNAPSHOT))}" for key in keys)])

    return digest


def suspects(pairs: Pairs, tokens: dict[str, str], before: dict[str, str],
             digests: Sequence[RowDigest]) -> list[RowDigest]:
    """The blocks of rows that lie in a chunk which may have changed."""
    may_have_changed = _since(pairs, tokens, before)
    spans: list[tuple[int, int]] = []
    for label, array in pairs.arrays.items():
        rows = stored_chunks(array)[0]
        spans += [(i * rows, (i + 1) * rows) for i in range(-(-array.shape[0] // rows))
                  if any(may_have_changed(label, key)
                         for key in keys_of_rows(array, i * rows, (i + 1) * rows))]
    joined: list[list[int]] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], stop)
        else:
            joined.append([start, stop])
    ends = [stop for _, stop in joined]
    return [d for d in digests if (i := bisect_right(ends, d.start)) < len(ends)
            and joined[i][0] < d.stop]


def _since(pairs: Pairs, tokens: dict[str, str],
           before: dict[str, str]) -> Callable[[str, str], bool]:
    """Whether a chunk (label of its array, key) may have changed since it was last looked at."""
    if pairs.snapshot is None:
        return lambda label, key: not tokens.get(f"{label}/{key}", "absent") or (
            tokens.get(f"{label}/{key}") != before.get(f"{label}/{key}"))
    from lrh_dask.stores.snapshots import changed_chunks

    try:
        changed = changed_chunks(pairs.x.store.folder, before[SNAPSHOT], pairs.snapshot)
    except (KeyError, BadPairs):  # none was looked at, or history was written anew
        return lambda *_: True
    names = {label: array.path for label, array in pairs.arrays.items()}
    return lambda label, key: f"{names[label]}/{key}" in changed


def _token_of(array: Any) -> Callable[[str], str]:
    """What gives the token of a chunk by its key."""
    from zarr.storage import LocalStore

    if isinstance(array.store, LocalStore):
        folder = array.store.root / array.path
        checksummed = is_plain(array) and len(array.metadata.codecs) > 1
        return lambda key: _of_file(folder / key, checksummed=checksummed)
    listed = getattr(array.store, "tokens", None)  # of object storage
    if listed is None:
        return lambda _: ""
    by_key = listed(f"{array.path}/")
    return lambda key: by_key.get(f"{array.path}/{key}", "missing")


def _of_file(path: Any, *, checksummed: bool) -> str:
    """The checksum at the end of a chunk, or else its size and when it was written."""
    try:
        if not checksummed:
            found = os.stat(path)
            return f"{found.st_size}-{found.st_mtime_ns}"
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - CHECKSUM_BYTES, 0))
            return f"{size}-{file.read().hex()}"
    except OSError:
        return "missing"
