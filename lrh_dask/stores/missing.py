"""Which chunks of an array its store holds: those that it has not, Zarr would read as fill."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from lrh_dask.errors import BadPairs, explain, is_refusal
from lrh_dask.stores.layout import coordinates, is_remote, stored_chunks
from lrh_dask.stores.shard_index import absent_inside

__all__ = ["LISTED", "missing_chunks", "missing_in", "refuse_boundless", "said_clearly",
           "stored_keys"]

MANY, MOST, MOST_ROWS = 10**4, 10**7, 2**48
"""Of many chunks the last one is looked for at once; more than these nobody has."""
MOST_IN_A_SHARD = 2**16
LOOKED_FOR, LISTED = 4096, 1000
"""So many chunks are looked for at once, until so many are missing."""


def missing_chunks(array: Any, fill: frozenset[str] = frozenset()) -> list[str]:
    """Keys of the chunks of an array that are neither stored nor declared fill.

    Raises:
        BadPairs: the index of a shard is damaged.
    """
    where = f"look for the chunks of {array.name}"
    everything = tuple(slice(0, n) for n in array.shape)
    with said_clearly(where, array):
        try:
            return missing_in(array, everything, fill, _listed(array) if is_remote(array) else None)
        except ValueError as error:
            raise BadPairs(explain(
                where, expected="shards as they were written", got=str(error),
                consequence="Nobody can tell what is in it, so a run refuses it",
                fix="Restore the shard from a copy, or write it anew")) from error


def refuse_boundless(name: str, array: Any, fill: frozenset[str] = frozenset()) -> None:
    """Raise where metadata speak of more chunks than are there, before anybody goes over them all.

    Raises:
        BadPairs: they do, or of chunks that hold nothing, or of numbers that were stored as texts,
            when any four bytes of a chunk are a length for which memory is taken.
    """
    told = array.metadata.to_dict()
    if "vlen-" in str([told.get(name) for name in ("codecs", "filters", "compressor")]):
        raise BadPairs(explain(
            f"open {name}", expected="numbers that are stored as such", got="a codec of texts",
            consequence="Zarr would take memory without end, so nothing was read",
            fix="Check the codecs in zarr.json; restore the store from a copy"))
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
    if n_chunks > MOST or (last not in fill and not stored_keys(array, [last])):
        raise BadPairs(explain(
            f"open {name}", expected=f"the chunks that its metadata speak of, {MOST:,} at most",
            got="more, or more in one shard than can be" if n_chunks > MOST
            else f"none at the end ({last})",
            consequence="To look for them all would take for ever, so none were read",
            fix="Check its shape and chunks in zarr.json; restore the store from a copy"))


def missing_in(array: Any, wanted: tuple[slice, ...], fill: frozenset[str],
             stored: set[str] | None = None) -> list[str]:
    """Keys of the chunks in a part of an array that are missing; some LISTED of them.

    Args:
        stored: keys that are known to be there; None asks the store.
    Raises:
        ValueError: the index of a shard is damaged.
    """
    places = ((array.metadata.encode_chunk_key(at), at) for at in coordinates(array, wanted))
    missing: list[str] = []
    while len(missing) < LISTED and (some := dict(islice(places, LOOKED_FOR))):
        there = stored_keys(array, some) if stored is None else stored
        missing += [key for key in some if key not in there and key not in fill]
        missing += absent_inside(array, {key: at for key, at in some.items()
                                         if key in there and key not in fill}, wanted)
    return missing


def stored_keys(array: Any, keys: Iterable[str]) -> set[str]:
    """Those of the keys under an array that its store holds."""
    from lrh_dask.stores.zarr_core import ask

    keys = list(keys)
    present = ask(lambda key: (array.store_path / key).exists(), keys)
    return {key for key, there in zip(keys, present, strict=True) if there}


def _listed(array: Any) -> set[str]:
    """All keys under an array; a thousand of them come in one answer."""
    from lrh_dask.stores.zarr_core import sync

    prefix = f"{array.path}/"

    async def keys() -> set[str]:
        return {key.removeprefix(prefix) async for key in array.store.list_prefix(prefix)}

    return sync(keys())


@contextlib.contextmanager
def said_clearly(where: str, array: Any) -> Iterator[None]:
    """What object storage refuses, or does not answer, as an error for a user."""
    try:
        yield
    except Exception as error:
        if not is_refusal(error):
            raise
        from lrh_dask.stores.remote import cannot_read

        raise cannot_read(where, str(array.store), error) from error
