"""The index of a shard of Zarr: which of its inner chunks are there.

Zarr reads an inner chunk that is missing in a shard as fill values, as it reads a shard that is
missing; no version of it can be asked to tell. Each shard says at its beginning or end where its
inner chunks lie, and that is looked at here.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np
from crc32c import crc32c

from lrh_dask.errors import BadPairs, explain

__all__ = ["absent_inside", "refuse_unknown_shards"]

ABSENT = 2**64 - 1
CHECKSUM_BYTES = 4


def refuse_unknown_shards(name: str, array: Any) -> None:
    """Raise where nobody could tell a chunk that is missing inside a shard from zeros.

    Raises:
        BadPairs: shards lie in shards, or their index or what is around it is of another kind.
    """
    if "sharding_indexed" in f"{array.metadata.to_dict().get('codecs')}" and (
            _sharding(array) is None):
        raise BadPairs(explain(
            f"open {name}", expected="shards of one level, whose index is plain bytes, with or "
            "without crc32c", got="others", consequence="Zarr reads a chunk that is missing inside "
            "one as zeros, and nobody could tell, so nothing was read",
            fix="Write the pairs anew, such as by `lrh_dask.write_pairs`, or rechunk without "
                "`index_codecs`"))


def _sharding(array: Any) -> dict[str, Any] | None:
    """The settings of an array's shards; None where it has none, or such as are not known here."""
    if not getattr(array, "shards", None):
        return None
    codecs = [codec.to_dict() for codec in array.metadata.codecs]
    known = dict(codecs[0].get("configuration", {}))
    index = [codec["name"] for codec in known.get("index_codecs", ())]
    inner = [codec["name"] for codec in known.get("codecs", ())]
    plain = len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed"
    return known if plain and index in (["bytes"], ["bytes", "crc32c"]) and (
        "sharding_indexed" not in inner) else None


def absent_inside(array: Any, shards: dict[str, tuple[int, ...]],
                  wanted: tuple[slice, ...]) -> list[str]:
    """Inner chunks of shards that are there, in a part of an array, which are not ("c/0/0 (1, 0)").

    Args:
        shards: where each lies in the grid, by key.
        wanted: rows and columns.
    Raises:
        ValueError: an index is damaged.
    """
    from lrh_dask.stores.zarr_core import ends_of

    known = _sharding(array)
    if known is None or not shards:
        return []
    inner = tuple(known["chunk_shape"])
    grid = tuple(shard // chunk for shard, chunk in zip(array.shards, inner, strict=True))
    checksummed = len(known["index_codecs"]) > 1
    n_bytes = 16 * int(np.prod(grid)) + CHECKSUM_BYTES * checksummed
    at_end = str(known.get("index_location", "end")).endswith("end")
    answers = ends_of(array, shards, n_bytes, at_end=at_end)
    return [f"{key} {tuple(at)}" for key, stored in answers if stored is not None
            for at in _absent(key, stored, grid, _within(shards[key], array, inner, wanted),
                              checksummed=checksummed)]


def _absent(key: str, stored: bytes, grid: tuple[int, ...], places: Iterable[tuple[int, ...]], *,
            checksummed: bool) -> list[tuple[int, ...]]:
    """The places of an index at which nothing is.

    Raises:
        ValueError: it is damaged.
    """
    content = stored[:-CHECKSUM_BYTES] if checksummed else stored
    if len(content) != 16 * int(np.prod(grid)) or (checksummed and crc32c(content) != int(
            np.frombuffer(stored[-CHECKSUM_BYTES:], "<u4")[0])):
        message = f"the index of shard {key} is not what was written"
        raise ValueError(message)
    index = np.frombuffer(content, "<u8").reshape(*grid, 2)
    if ((index[..., 1] == 0) & (index[..., 0] != ABSENT)).any():
        message = f"the index of shard {key} has chunks of no bytes"
        raise ValueError(message)
    return [at for at in places if int(index[at][0]) == ABSENT]


def _within(shard: tuple[int, ...], array: Any, inner: tuple[int, ...],
            wanted: tuple[slice, ...]) -> Iterable[tuple[int, ...]]:
    """Places in the index of a shard of the inner chunks that hold wanted numbers."""
    spans = []
    for i, size, chunk, part in zip(shard, array.shards, inner, wanted, strict=True):
        low, high = max(i * size, part.start), min((i + 1) * size, part.stop)
        spans.append(range((low - i * size) // chunk, -(-(high - i * size) // chunk)))
    return product(*spans)
