"""Digests of rows: what tells whether rows that were counted are still the same.

They are taken of the numbers, block by block, not of the chunks that hold them: a chunk that was
filled up, or written again with another compression, holds the rows that it held.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xxhash import xxh3_128

from lrh_dask.stores.blocks import Block

__all__ = ["Digesting", "RowDigest"]


@dataclass(frozen=True, order=True)
class RowDigest:
    """Digest (hex, XXH3 of 128 bits) of rows ``start`` to ``stop`` of x, y and weight."""

    start: int
    stop: int
    digest: str


class Digesting:
    """Digests of blocks whose rows come slab by slab, in their order.

    Args:
        blocks: first row and the one after the last of each.
    """

    def __init__(self, blocks: tuple[tuple[int, int], ...]) -> None:
        self._blocks = list(blocks)
        self._hashes = self._fresh()
        self._done: list[RowDigest] = []

    def add(self, slab: Block) -> None:
        """Take the next rows, which lie in one block."""
        start, stop = self._blocks[0]
        for hashing, rows in zip(self._hashes, (slab.x, slab.y, slab.weight), strict=True):
            if rows is not None:
                hashing.update(np.ascontiguousarray(rows).data)
        if slab.start + len(slab.x) == stop:
            whole = xxh3_128(b"".join(hashing.digest() for hashing in self._hashes))
            self._done.append(RowDigest(start, stop, whole.hexdigest()))
            self._hashes = self._fresh()
            del self._blocks[0]

    def state(self) -> tuple[RowDigest, ...]:
        """The digests of all blocks, each of which must have come to its end."""
        if self._blocks:
            message = f"rows {self._blocks[0]} did not come to their end"
            raise ValueError(message)
        return tuple(self._done)

    @staticmethod
    def _fresh() -> tuple[xxh3_128, ...]:
        return xxh3_128(), xxh3_128(), xxh3_128()
