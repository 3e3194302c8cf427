"""Reading Zarr chunks so that what is missing is never taken for zeros.

Zarr reads a chunk that is not there as fill values, without a word: also when a whole store was
moved away. Plain chunks (no compression, at most a checksum) are therefore asked for one by one:
one that is not there is found out by the very request that would have read it, and one that is
there is used where it lies, without another copy. Other chunks are read by Zarr from a store that
notes what it was asked for and had not. (:mod:`lrh_dask.stores.streaming` reads plain chunks of
local files a few rows at a time.)
"""

from __future__ import annotations

import contextlib
import math
import platform
from typing import Any

import numpy as np
from crc32c import crc32c

from lrh_dask.errors import BadPairs, explain, is_refusal, public_name
from lrh_dask.stores.layout import (
    CHECKSUM_BYTES,
    chunk_dtype,
    coordinates,
    is_plain,
)
from lrh_dask.stores.missing import (
    LISTED,
    missing_in,
    refuse_boundless,
    said_clearly,
    stored_keys,
)

__all__ = ["read_rows", "whole"]

SHOWN = 5
MUCH = 2**23
"""So many numbers, and the chunks in a shard, are not made up by Zarr where they are missing."""
REQUESTS, REQUESTED_BYTES = 16, 16 * 2**20
"""Chunks of one array that are asked for at once, and their bytes where there are several."""


def read_rows(name: str, array: Any, start: int, stop: int, fill: frozenset[str] = frozenset(),
              columns: tuple[int, int] | None = None, out: np.ndarray | None = None) -> np.ndarray:
    """Rows ``start`` to ``stop`` of a Zarr array.

    Args:
        name: what messages call the array.
        fill: keys of chunks that the store declares to hold nothing but fill.
        columns: the first column and the one after the last; None is all.
        out: where to put them, in its dtype; None makes an array.
    Raises:
        BadPairs: a chunk is missing or cannot be decoded.
    """
    where = f"read rows {start}-{stop - 1} of {name}"
    wanted = (slice(start, stop), *(slice(0, n) for n in array.shape[1:]))
    if columns is not None:
        where = f"read columns {columns[0]}-{columns[1] - 1} of {name}"
        wanted = (slice(start, stop), slice(*columns))
    with said_clearly(where, array):
        return _rows(where, array, wanted, fill, out)


def whole(name: str, array: Any) -> np.ndarray:
    """All of a Zarr array that we wrote.

    Raises:
        BadPairs: there is less of it than its metadata say, or it cannot be decoded.
    """
    refuse_boundless(name, array)
    return read_rows(name, array, 0, array.shape[0])


def _rows(where: str, array: Any, wanted: tuple[slice, ...], fill: frozenset[str],
          out: np.ndarray | None) -> np.ndarray:
    failed: Exception | None = None
    try:
        if is_plain(array):
            rows, missing = _read_plain(array, wanted, fill, out)
        else:
            rows, missing = _read_any(array, wanted, fill)
            if out is not None and not missing:
                out[...] = rows
                rows = out
    except Exception as error:
        if is_refusal(error):
            raise
        failed = error
        missing = []
        with contextlib.suppress(ValueError):  # a shard whose index is damaged
            missing = missing_in(array, wanted, fill)
    if missing and not stored_keys(array, ("zarr.json", ".zarray")):
        raise BadPairs(explain(
            where, expected="a store that this worker can see",
            got=f"nothing at {public_name(str(array.store_path))} on {platform.node()}",
            consequence="Zarr would read zeros without a word, so no result was written",
            fix="Put the store where all workers see it under the same path, or restore it "
                "if it was moved"))
    if missing:
        raise BadPairs(explain(
            where, expected="every chunk to be stored",
            got=f"{_number(missing)} missing ({', '.join(missing[:SHOWN])})",
            consequence="Zarr would read them as fill values, and the Hessian would be wrong "
                        "without a word",
            fix="Restore the chunks. If they hold nothing but fill, write them with "
                "`write_empty_chunks`, or name them in the group attribute "
                "`lrh_fill_chunks`"))
    if failed is not None:
        raise BadPairs(explain(
            where, expected="chunks that can be decoded",
            got=f"{type(failed).__name__}: {failed}",
            consequence="These pairs cannot be counted, so no result was written",
            fix="Restore the damaged chunks from a copy, or write these rows again",
        )) from failed
    return rows


def _read_any(array: Any, wanted: tuple[slice, ...],
              fill: frozenset[str]) -> tuple[np.ndarray, list[str]]:
    """Rows as Zarr decodes them, and what was missing."""
    from lrh_dask.stores.zarr_core import read_noting

    if getattr(array, "shards", None) or math.prod(
            part.stop - part.start for part in wanted) > MUCH:
        if missing := missing_in(array, wanted, fill):  # before it is filled up
            return np.empty(0), missing
    rows, absent = read_noting(array, wanted)
    return np.asarray(rows), [key for key in absent if key not in fill][:LISTED]


def _read_plain(array: Any, wanted: tuple[slice, ...], fill: frozenset[str],
                out: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
    """A part of an array of plain chunks, and the keys of those that are missing.

    Raises:
        ValueError: a chunk is shorter or longer than its numbers, or its checksum is another.
    """
    from lrh_dask.stores.zarr_core import PROTOTYPE, ask

    places = {array.metadata.encode_chunk_key(at): at for at in coordinates(array, wanted)}
    chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
    at_once = max(1, min(REQUESTS, REQUESTED_BYTES // chunk_bytes))
    missing: list[str] = []
    found = out
    if found is None and len(places) > 1:
        found = np.empty([part.stop - part.start for part in wanted], array.dtype)
    asked = list(places)
    for first in range(0, len(asked), at_once):
        keys = asked[first:first + at_once]
        answers = ask(lambda key: (array.store_path / key).get(PROTOTYPE), keys)
        for key in keys:  # each is given back before the next one is put in its place
            answer, at = answers.pop(0), places[key]
            if answer is None and key not in fill:
                missing.append(key)
                continue
            spans = [(max(i * size, part.start), min((i + 1) * size, part.stop))
                     for part, i, size in zip(wanted, at, array.chunks, strict=True)]
            chunk = array.fill_value if answer is None else _numbers(
                array, key, answer.as_numpy_array())[tuple(
                    slice(low - i * size, high - i * size)
                    for i, size, (low, high) in zip(at, array.chunks, spans, strict=True))]
            if found is None:
                shape = [high - low for low, high in spans]
                return np.full(shape, chunk, array.dtype) if answer is None else chunk, []
            found[tuple(slice(low - part.start, high - part.start)
                        for part, (low, high) in zip(wanted, spans, strict=True))] = chunk
    if found is None:
        found = np.empty([0 if missing else part.stop - part.start for part in wanted], array.dtype)
    return found, missing


def _numbers(array: Any, key: str, stored: np.ndarray) -> np.ndarray:
    """What the bytes of a plain chunk say, as an array over them.

    Raises:
        ValueError: they are too few or too many, or not those that the checksum was taken of.
    """
    checksummed = len(array.metadata.codecs) > 1
    content = stored[:-CHECKSUM_BYTES] if checksummed else stored
    wanted = math.prod(array.chunks) * array.dtype.itemsize
    if content.nbytes != wanted:
        message = f"chunk {key} has {content.nbytes} bytes where {wanted} are due"
        raise ValueError(message)
    if checksummed and crc32c(content.data) != int(
            stored[-CHECKSUM_BYTES:].view("<u4")[0]):
        message = f"chunk {key} is not what its crc32c checksum was taken of"
        raise ValueError(message)
    return content.view(chunk_dtype(array)).reshape(array.chunks)


def _number(missing: list[str]) -> str:
    return f"{len(missing)}{' or more' * (len(missing) >= LISTED)}"
