"""Reading Zarr chunks so that what is missing is never taken for zeros.

Zarr reads a chunk that is not there as fill values, without a word: also when a whole store was
moved away. Plain chunks (no compression, at most a checksum) are therefore asked for one by one:
one that is not there is found out by the very request that would have read it, and one that is
there is used where it lies, without another copy. Other chunks are read by Zarr, and looked for
afterwards. (:mod:`lrh_dask.stores.streaming` reads plain chunks of local files a few rows at a
time.)
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import platform
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice, product
from typing import Any

import numpy as np
from crc32c import crc32c

from lrh_dask.errors import BadPairs, explain, is_refusal, public_name
from lrh_dask.stores.shard_index import absent_inside

__all__ = ["CHECKSUM_BYTES", "chunk_dtype", "first_rows", "has_checksum", "is_plain", "is_remote",
           "is_zarr", "missing_chunks", "read_rows", "refuse_boundless", "stored_chunks", "whole"]

SHOWN = 5
CHECKSUM_BYTES = 4
MUCH = 2**23
"""So many numbers, and the chunks in a shard, are not made up by Zarr where they are missing."""
MANY, MOST, MOST_ROWS = 10**4, 10**7, 2**48
"""Of many chunks the last one is looked for at once; more than these nobody has."""
MOST_IN_A_SHARD = 2**16
LOOKED_FOR, LISTED = 4096, 1000
"""So many chunks are looked for at once, until so many are missing."""
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
    with _said_clearly(where, array):
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
            missing = _missing(array, wanted, fill)
    if missing and not _stored(array, ("zarr.json", ".zarray")):
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
        if missing := _missing(array, wanted, fill):  # before it is filled up
            return np.empty(0), missing
    rows, absent = read_noting(array, wanted)
    return np.asarray(rows), [key for key in absent if key not in fill][:LISTED]


@contextlib.contextmanager
def _said_clearly(where: str, array: Any) -> Iterator[None]:
    """What object storage refuses, or does not answer, as an error for a user."""
    try:
        yield
    except Exception as error:
        if not is_refusal(error):
            raise
        from lrh_dask.stores.remote import cannot_read

        raise cannot_read(where, str(array.store), error) from error


def is_zarr(array: Any) -> bool:
    """Whether an array is a Zarr array (without importing zarr)."""
    return type(array).__module__.startswith("zarr.")


def is_remote(array: Any) -> bool:
    """Whether every request for a part of an array waits for a network."""
    from zarr.storage import LocalStore, MemoryStore

    return is_zarr(array) and not isinstance(array.store, (LocalStore, MemoryStore))


def stored_chunks(array: Any) -> tuple[int, ...]:
    """Shape of what is stored under one key: the shard where there is one, else the chunk."""
    return getattr(array, "shards", None) or array.chunks


def has_checksum(array: Any) -> bool:
    """Whether the numbers of a Zarr array carry a checksum, so that a flipped bit cannot pass."""
    if array.metadata.zarr_format == 2:
        told = array.metadata.to_dict()  # a codec may not be able to say what it is
        return "crc32" in f"{told['filters']} {told['compressor']}".lower()
    codecs = [codec.to_dict() for codec in array.metadata.codecs]
    if codecs[0]["name"] == "sharding_indexed":  # that of the index is not one of the numbers
        codecs = list(codecs[0]["configuration"]["codecs"])
    return any(codec["name"] == "crc32c" or codec.get("configuration", {}).get("checksum")
               for codec in codecs)


def first_rows(array: Any, n_rows: int) -> Any:
    """An array that ends after so many rows; what is stored stays as it is."""
    from lrh_dask.stores.zarr_core import made_like

    if not array.ndim or array.shape[0] == n_rows:
        return array
    return made_like(array, n_rows=n_rows)


def is_plain(array: Any) -> bool:
    """Whether a chunk is the bytes of its numbers, with or without a crc32c after them."""
    if array.metadata.zarr_format != 3 or np.dtype(array.dtype).kind not in "fiu" \
            or array.metadata.chunk_grid.to_dict()["name"] != "regular":
        return False
    to_bytes, *after = (codec.to_dict() for codec in array.metadata.codecs)
    order = to_bytes.get("configuration", {}).get("endian", "little")
    return (to_bytes["name"] == "bytes" and order == "little"
            and [codec["name"] for codec in after] in ([], ["crc32c"]))


def _read_plain(array: Any, wanted: tuple[slice, ...], fill: frozenset[str],
                out: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
    """A part of an array of plain chunks, and the keys of those that are missing.

    Raises:
        ValueError: a chunk is shorter or longer than its numbers, or its checksum is another.
    """
    from lrh_dask.stores.zarr_core import PROTOTYPE, sync

    places = {array.metadata.encode_chunk_key(at): at for at in _coordinates(array, wanted)}
    chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
    at_once = max(1, min(REQUESTS, REQUESTED_BYTES // chunk_bytes))
    missing: list[str] = []
    found = out
    if found is None and len(places) > 1:
        found = np.empty([part.stop - part.start for part in wanted], array.dtype)
    asked = list(places)
    for first in range(0, len(asked), at_once):
        keys = asked[first:first + at_once]
        answers = sync(_ask(lambda key: (array.store_path / key).get(PROTOTYPE), keys))
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


def chunk_dtype(array: Any) -> np.dtype:
    """The dtype of the numbers in a plain chunk."""
    return np.dtype(array.dtype).newbyteorder("<")


def _coordinates(array: Any, wanted: tuple[slice, ...]) -> Iterable[tuple[int, ...]]:
    """Where the stored chunks of a part of an array lie in the grid."""
    return product(*(range(part.start // size, -(-part.stop // size))
                     for part, size in zip(wanted, stored_chunks(array), strict=True)))


def missing_chunks(array: Any, fill: frozenset[str] = frozenset()) -> list[str]:
    """Keys of the chunks of an array that are neither stored nor declared fill.

    Raises:
        BadPairs: the index of a shard is damaged.
    """
    where = f"look for the chunks of {array.name}"
    everything = tuple(slice(0, n) for n in array.shape)
    with _said_clearly(where, array):
        try:
            return _missing(array, everything, fill, _listed(array) if is_remote(array) else None)
        except ValueError as error:
            raise BadPairs(explain(
                where, expected="shards as they were written", got=str(error),
                consequence="Nobody can tell what is in it, so a run refuses it",
                fix="Restore the shard from a copy, or write it anew")) from error


def refuse_boundless(name: str, array: Any, fill: frozenset[str] = frozenset()) -> None:
    """Raise where metadata speak of more chunks than are there, before anybody goes over them all.

    Raises:
        BadPairs: they do, or of chunks that hold nothing.
    """
    if 0 in stored_chunks(array):
        raise BadPairs(explain(
            f"open {name}", expected="chunks that hold some rows and features",
            got=f"chunks of {stored_chunks(array)}", consequence="Nothing can be read",
            fix="Write the pairs anew, such as by `lrh_dask.write_pairs`"))
    grid = [-(-n // size) for n, size in zip(array.shape, stored_chunks(array), strict=True)]
    n_chunks = math.prod(grid) if max(array.shape) < MOST_ROWS else MOST + 1
    if math.prod(stored_chunks(array)) > MOST_IN_A_SHARD * math.prod(array.chunks):
        n_chunks = MOST + 1
    if n_chunks <= MANY:
        return
    last = array.metadata.encode_chunk_key(tuple(n - 1 for n in grid))
    if n_chunks > MOST or (last not in fill and not _stored(array, [last])):
        raise BadPairs(explain(
            f"open {name}", expected=f"the chunks that its metadata speak of, {MOST:,} at most",
            got="more, or more in one shard than can be" if n_chunks > MOST
            else f"none at the end ({last})",
            consequence="To look for them all would take for ever, so none were read",
            fix="Check its shape and chunks in zarr.json; restore the store from a copy"))


def _missing(array: Any, wanted: tuple[slice, ...], fill: frozenset[str],
             stored: set[str] | None = None) -> list[str]:
    places = ((array.metadata.encode_chunk_key(at), at) for at in _coordinates(array, wanted))
    missing: list[str] = []
    while len(missing) < LISTED and (some := dict(islice(places, LOOKED_FOR))):
        there = _stored(array, some) if stored is None else stored
        missing += [key for key in some if key not in there and key not in fill]
        missing += absent_inside(array, {key: at for key, at in some.items()
                                         if key in there and key not in fill}, wanted)
    return missing


def _number(missing: list[str]) -> str:
    return f"{len(missing)}{' or more' * (len(missing) >= LISTED)}"


def _stored(array: Any, keys: Iterable[str]) -> set[str]:
    """Those of the keys under an array that its store holds."""
    from lrh_dask.stores.zarr_core import sync

    keys = list(keys)
    present = sync(_ask(lambda key: (array.store_path / key).exists(), keys))
    return {key for key, there in zip(keys, present, strict=True) if there}


def _listed(array: Any) -> set[str]:
    """All keys under an array; a thousand of them come in one answer."""
    from lrh_dask.stores.zarr_core import sync

    prefix = f"{array.path}/"

    async def keys() -> set[str]:
        return {key.removeprefix(prefix) async for key in array.store.list_prefix(prefix)}

    return sync(keys())


async def _ask(request: Callable[[str], Awaitable[Any]], keys: Iterable[str]) -> list[Any]:
    """The answers to a request for every key, REQUESTS of which are under way at once."""
    at_once = asyncio.Semaphore(REQUESTS)

    async def ask(key: str) -> Any:
        async with at_once:
            return await request(key)

    return await asyncio.gather(*map(ask, keys))
