"""Reading Zarr chunks so that what is missing is never taken for zeros.

Zarr reads a chunk that is not there as fill values, without a word: also when a whole store was
moved away. Plain chunks (no compression, at most a checksum) are therefore asked for one by one:
one that is not there is found out by the very request that would have read it, and one that is
there is used where it lies, without another copy. Other chunks are read by Zarr, and looked for
afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import Any

import google_crc32c
import numpy as np

from lrh_dask.errors import BadPairs, explain, is_refusal, public_name

__all__ = ["is_remote", "is_zarr", "missing_chunks", "read_rows", "stored_chunks"]

SHOWN = 5
CHECKSUM_BYTES = 4
REQUESTS = 16
"""Chunks of one array that are asked for at once."""


def read_rows(name: str, array: Any, start: int, stop: int,
              fill: frozenset[str] = frozenset()) -> np.ndarray:
    """Rows ``start`` to ``stop`` of a Zarr array.

    Args:
        name: what messages call the array.
        fill: keys of chunks that the store declares to hold nothing but fill.
    Raises:
        BadPairs: a chunk is missing or cannot be decoded.
    """
    where = f"read rows {start}-{stop - 1} of {name}"
    with _said_clearly(where, array):
        return _rows(where, array, start, stop, fill)


def _rows(where: str, array: Any, start: int, stop: int, fill: frozenset[str]) -> np.ndarray:
    failed: Exception | None = None
    missing: list[str] | None = None
    try:
        if _is_plain(array):
            rows, missing = _read_plain(array, start, stop, fill)
        else:
            rows = np.asarray(array[start:stop])
    except Exception as error:
        if is_refusal(error):
            raise
        failed = error  # told below, after a look for what is missing
    if missing is None:  # after the read: a store moved away in its midst is found out too
        missing = missing_chunks(array, start, stop, fill)
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
            got=f"{len(missing)} missing ({', '.join(missing[:SHOWN])})",
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


@contextlib.contextmanager
def _said_clearly(where: str, array: Any) -> Iterator[None]:
    """What object storage refuses, or does not answer, as an error for a user."""
    try:
        yield
    except Exception as error:
        if not is_refusal(error):
            raise
        from lrh_dask.remote import cannot_read

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


def _is_plain(array: Any) -> bool:
    """Whether a chunk is the bytes of its numbers, with or without a crc32c after them."""
    if array.metadata.zarr_format != 3 or np.dtype(array.dtype).kind not in "fiu":
        return False
    to_bytes, *after = (codec.to_dict() for codec in array.metadata.codecs)
    order = to_bytes.get("configuration", {}).get("endian", "little")
    return (to_bytes["name"] == "bytes" and order == "little"
            and [codec["name"] for codec in after] in ([], ["crc32c"]))


def _read_plain(array: Any, start: int, stop: int,
                fill: frozenset[str]) -> tuple[np.ndarray, list[str]]:
    """Rows of an array of plain chunks, and the keys of those that are missing.

    Raises:
        ValueError: a chunk is shorter or longer than its numbers, or its checksum is another.
    """
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    coordinates = list(_coordinates(array, start, stop))
    prototype = default_buffer_prototype()
    keys = [array.metadata.encode_chunk_key(coords) for coords in coordinates]
    answers = sync(_ask(lambda key: (array.store_path / key).get(prototype), keys))
    missing = [key for key, answer in zip(keys, answers, strict=True)
               if answer is None and key not in fill]
    if missing:
        return np.empty(0), missing
    numbers = [None if answer is None else _numbers(array, key, answer.as_numpy_array())
               for key, answer in zip(keys, answers, strict=True)]
    height, *widths = array.chunks
    if len(numbers) == 1 and numbers[0] is not None:
        first = coordinates[0][0] * height
        within = (slice(start - first, stop - first), *(slice(0, n) for n in array.shape[1:]))
        return numbers[0][within], []
    rows = np.full((stop - start, *array.shape[1:]), array.fill_value, dtype=array.dtype)
    for (row, *columns), chunk in zip(coordinates, numbers, strict=True):
        if chunk is None:
            continue
        low, high = max(row * height, start), min((row + 1) * height, stop)
        span = [slice(c * w, min((c + 1) * w, n))
                for c, w, n in zip(columns, widths, array.shape[1:], strict=True)]
        cut = [slice(0, part.stop - part.start) for part in span]
        rows[(slice(low - start, high - start), *span)] = chunk[
            (slice(low - row * height, high - row * height), *cut)]
    return rows, []


def _numbers(array: Any, key: str, stored: np.ndarray) -> np.ndarray:
    """What the bytes of a plain chunk say, as an array over them.

    Raises:
        ValueError: they are too few or too many, or not those that the checksum was taken of.
    """
    checksummed = len(array.metadata.codecs) > 1
    content = stored[:-CHECKSUM_BYTES] if checksummed else stored
    wanted = int(np.prod(array.chunks)) * array.dtype.itemsize
    if content.nbytes != wanted:
        message = f"chunk {key} has {content.nbytes} bytes where {wanted} are due"
        raise ValueError(message)
    if checksummed and google_crc32c.value(content) != int(
            stored[-CHECKSUM_BYTES:].view("<u4")[0]):
        message = f"chunk {key} is not what its crc32c checksum was taken of"
        raise ValueError(message)
    return content.view(np.dtype(array.dtype).newbyteorder("<")).reshape(array.chunks)


def _coordinates(array: Any, start: int, stop: int) -> Iterable[tuple[int, ...]]:
    """Where the stored chunks of rows ``start`` to ``stop`` lie in the grid."""
    sizes = stored_chunks(array)
    return product(range(start // sizes[0], -(-stop // sizes[0])),
                   *(range(-(-n // c)) for n, c in zip(array.shape[1:], sizes[1:], strict=True)))


def missing_chunks(array: Any, start: int, stop: int,
                   fill: frozenset[str] = frozenset()) -> list[str]:
    """Keys of the chunks of rows ``start`` to ``stop``, neither stored nor declared fill."""
    keys = [array.metadata.encode_chunk_key(coords)
            for coords in _coordinates(array, start, stop)]
    with _said_clearly(f"look for the chunks of {array.name}", array):
        whole = (start, stop) == (0, array.shape[0])
        stored = _listed(array) if whole and is_remote(array) else _stored(array, keys)
    return [key for key in keys if key not in stored and key not in fill]


def _stored(array: Any, keys: Iterable[str]) -> set[str]:
    """Those of the keys under an array that its store holds."""
    from zarr.core.sync import sync

    keys = list(keys)
    present = sync(_ask(lambda key: (array.store_path / key).exists(), keys))
    return {key for key, there in zip(keys, present, strict=True) if there}


def _listed(array: Any) -> set[str]:
    """All keys under an array; a thousand of them come in one answer."""
    from zarr.core.sync import sync

    prefix = f"{array.path}/"

    async def keys() -> set[str]:
        return {key.removeprefix(prefix) async for key in array.store.list_prefix(prefix)}

    return sync(keys())


async def _ask(request: Callable[[str], Awaitable[Any]], keys: Sequence[str]) -> list[Any]:
    """The answers to a request for every key, REQUESTS of which are under way at once."""
    at_once = asyncio.Semaphore(REQUESTS)

    async def ask(key: str) -> Any:
        async with at_once:
            return await request(key)

    return await asyncio.gather(*map(ask, keys))
