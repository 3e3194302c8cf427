"""The one door to what Zarr has, and has not made public: single keys, and arrays made anew.

It takes a second to import, so those who need it import it where they need it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from zarr import Array, AsyncArray
from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import StorePath, WrapperStore

__all__ = ["PROTOTYPE", "ask", "ends_of", "get", "made_like", "put", "read_noting", "sync"]

PROTOTYPE = default_buffer_prototype()
REQUESTS = 16


def get(path: Any) -> bytes | None:
    """What a store holds at a path of it; None where it holds nothing."""
    stored = sync(path.get(PROTOTYPE))
    return None if stored is None else stored.to_bytes()


def ask(request: Callable[[str], Awaitable[Any]], keys: Iterable[str]) -> list[Any]:
    """The answers to a request for every key, REQUESTS of which are under way at once."""
    async def all_of_them() -> list[Any]:
        at_once = asyncio.Semaphore(REQUESTS)

        async def one(key: str) -> Any:
            async with at_once:
                return await request(key)

        return await asyncio.gather(*map(one, keys))

    return sync(all_of_them())


def ends_of(array: Any, keys: Iterable[str], n_bytes: int, *,
            at_end: bool) -> list[tuple[str, bytes | None]]:
    """The last or first bytes of what a store holds under keys of an array; None for nothing."""
    part = SuffixByteRequest(n_bytes) if at_end else RangeByteRequest(0, n_bytes)

    keys = list(keys)
    answers = ask(lambda key: (array.store_path / key).get(PROTOTYPE, byte_range=part), keys)
    return [(key, None if stored is None else stored.to_bytes())
            for key, stored in zip(keys, answers, strict=True)]


class _Noting(WrapperStore[Any]):
    """A store that notes where it had nothing, or less than was asked for.

    Zarr reads by ``get``; newer versions by ``get_sync`` where a store has it, and by
    ``get_ranges``, which goes through these two as :class:`Store` has it.
    """

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.absent: list[str] = []
        self.torn: list[str] = []

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        return self._noted(key, byte_range, await self._store.get(key, prototype, byte_range))

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        return self._noted(key, byte_range, self._store.get_sync(
            key, prototype=prototype, byte_range=byte_range))

    def _noted(self, key: str, byte_range: Any, found: Any) -> Any:
        if found is None:
            self.absent.append(key)
        elif isinstance(byte_range, RangeByteRequest) and (
                len(found) < byte_range.end - byte_range.start):
            self.torn.append(key)
        return found


for name in {"get_ranges"} & vars(Store).keys():  # older versions have none
    setattr(_Noting, name, getattr(Store, name))


def read_noting(array: Any, wanted: Any) -> tuple[Any, list[str]]:
    """A part of an array, and the keys of chunks in it that were not there when it was read.

    Zarr takes those for fill: a look before or after it may see another state of the store.

    Raises:
        ValueError: a shard ends before what its index says.
    """
    store = _Noting(array.store)
    rows = made_like(array, path=StorePath(store, array.path))[wanted]
    if store.torn:
        message = f"shard {store.torn[0]} ends before what its index says is in it"
        raise ValueError(message)
    return rows, [key.removeprefix(f"{array.path}/") for key in dict.fromkeys(store.absent)]


def put(path: Any, content: bytes) -> None:
    """Have a store hold this at a path of it."""
    sync(path.set(PROTOTYPE.buffer.from_bytes(content)))


def made_like(array: Any, *, n_rows: int | None = None, path: Any = None,
              storing_fill: bool = False) -> Any:
    """The same array with other rows or at another place, without a look at what is stored.

    Args:
        n_rows: rows that it has.
        path: where it is.
        storing_fill: chunks are stored also where they hold nothing but fill.
    """
    metadata = array.metadata
    if n_rows is not None:
        metadata = metadata.update_shape((n_rows, *array.shape[1:]))
    return Array(AsyncArray(metadata=metadata, store_path=path or array.store_path,
                            config={"write_empty_chunks": True} if storing_fill else None))
