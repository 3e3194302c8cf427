"""What a leaf sees of its rows beside what it makes of them: zeros, bad rows, lengths, and cost."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from lrh_dask.runs.tree import ReadStats
from lrh_dask.statistics.sizes import LARGEST, Sizes, exponents
from lrh_dask.stores.blocks import Block

__all__ = ["Looking"]


class Looking:
    """Looks at slabs, one after another.

    Args:
        shards: first row and the one after the last of each, in order.
    """

    def __init__(self, shards: tuple[tuple[int, int], ...]) -> None:
        self._shards, self._starts = shards, [start for start, _ in shards]
        self._counts = ReadStats()
        self._x_sizes, self._y_sizes = np.zeros((2, LARGEST), np.int64)
        self._skipped: dict[tuple[int, int], int] = {}

    def add(self, slab: Block, n_counted: int) -> None:
        """The next rows, which lie in one shard; so many of them count."""
        n_bad = 0 if slab.bad is None else int(np.count_nonzero(slab.bad))
        if n_bad:
            shard = self._shards[bisect_right(self._starts, slab.start) - 1]
            self._skipped[shard] = self._skipped.get(shard, 0) + n_bad
        self._x_sizes += exponents(slab.x_squares)
        self._y_sizes += exponents(slab.y_squares)
        self._counts = self._counts.merge(ReadStats(
            len(slab.x), slab.n_bytes, slab.seconds,
            _zero_rows(slab.x, slab.x_squares) - n_bad, _zero_rows(slab.y, slab.y_squares) - n_bad,
            len(slab.x) - n_counted - n_bad))

    def state(self) -> ReadStats:
        """What was seen."""
        return self._counts.merge(ReadStats(
            x_sizes=Sizes.of(self._x_sizes), y_sizes=Sizes.of(self._y_sizes),
            skipped=tuple((*shard, n) for shard, n in sorted(self._skipped.items()))))


def _zero_rows(rows: np.ndarray, squares: np.ndarray) -> int:
    """How many rows are zero; squares of very small numbers are zero, too."""
    suspects = np.flatnonzero(squares == 0)
    return int(np.count_nonzero(~rows[suspects].any(axis=1)))
