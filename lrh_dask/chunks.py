"""Reading Zarr chunks so that what is missing is never taken for zeros.

Zarr reads a chunk that is not there as fill values, without a word: also when a whole store was
moved away. Every read here looks for its chunks afterwards.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lrh_dask.errors import BadPairs, explain

__all__ = ["is_zarr", "missing_chunks", "public_name", "read_rows", "stored_chunks"]

SHOWN = 5


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
    failed: Exception | None = None
    try:
        rows = np.asarray(array[start:stop])
    except Exception as error:  # told below, after a look for what is missing
        failed = error
    # After the read: a store moved away in its midst is found out too.
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


def is_zarr(array: Any) -> bool:
    """Whether an array is a Zarr array (without importing zarr)."""
    return type(array).__module__.startswith("zarr.")


def stored_chunks(array: Any) -> tuple[int, ...]:
    """Shape of what is stored under one key: the shard where there is one, else the chunk."""
    return getattr(array, "shards", None) or array.chunks


def public_name(store: Any) -> str:
    """A store's name for messages, without the credentials a URL may carry."""
    if isinstance(store, (str, Path)):
        text = str(store)
        scheme, separator, rest = text.partition("://")
        return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else text
    return str(getattr(store, "store_path", type(store).__name__))


def missing_chunks(array: Any, start: int, stop: int,
                   fill: frozenset[str] = frozenset()) -> list[str]:
    """Keys of the chunks of rows ``start`` to ``stop``, neither stored nor declared fill."""
    sizes = stored_chunks(array)
    spans = [range(start // sizes[0], -(-stop // sizes[0]))]
    spans += [range(-(-n // c)) for n, c in zip(array.shape[1:], sizes[1:], strict=True)]
    keys = [array.metadata.encode_chunk_key(coords) for coords in product(*spans)]
    stored = _stored(array, keys)
    return [key for key in keys if key not in stored and key not in fill]


def _stored(array: Any, keys: Iterable[str]) -> set[str]:
    """Those of the keys under an array that its store holds."""
    import asyncio

    from zarr.core.sync import sync

    keys = list(keys)

    async def present() -> list[bool]:
        return await asyncio.gather(*((array.store_path / key).exists() for key in keys))

    return {key for key, there in zip(keys, sync(present()), strict=True) if there}
