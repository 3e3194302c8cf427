"""How an array's numbers are stored: what lies under one key, and how bytes become numbers."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np

__all__ = ["CHECKSUM_BYTES", "chunk_dtype", "coordinates", "first_rows", "has_checksum",
           "is_plain", "is_remote", "is_zarr", "stored_chunks"]

CHECKSUM_BYTES = 4


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


def is_plain(array: Any) -> bool:
    """Whether a chunk is the bytes of its numbers, with or without a crc32c after them."""
    if array.metadata.zarr_format != 3 or np.dtype(array.dtype).kind not in "fiu" \
            or array.metadata.chunk_grid.to_dict()["name"] != "regular":
        return False
    to_bytes, *after = (codec.to_dict() for codec in array.metadata.codecs)
    order = to_bytes.get("configuration", {}).get("endian", "little")
    return (to_bytes["name"] == "bytes" and order == "little"
            and [codec["name"] for codec in after] in ([], ["crc32c"]))


def chunk_dtype(array: Any) -> np.dtype:
    """The dtype of the numbers in a plain chunk."""
    return np.dtype(array.dtype).newbyteorder("<")


def first_rows(array: Any, n_rows: int) -> Any:
    """An array that ends after so many rows; what is stored stays as it is."""
    from lrh_dask.stores.zarr_core import made_like

    if not array.ndim or array.shape[0] == n_rows:
        return array
    return made_like(array, n_rows=n_rows)


def coordinates(array: Any, wanted: tuple[slice, ...]) -> Iterable[tuple[int, ...]]:
    """Where the stored chunks of a part of an array lie in the grid."""
    return product(*(range(part.start // size, -(-part.stop // size))
                     for part, size in zip(wanted, stored_chunks(array), strict=True)))
