"""Blocks: how much of the pairs a task reads at once (where it does not stream), and holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lrh_dask.stores.layout import is_plain, is_remote, is_zarr, stored_chunks

__all__ = ["CHUNK_BYTES", "Block", "Blocks", "is_dask"]

CHUNK_BYTES = 16 * 2**20
"""Chunks of an array that we write; arrays in memory are cut as if they had them."""
BLOCK_BYTES = 16 * 2**20
"""Smaller chunks are read together, so that a badly chunked store costs little more."""
LEAST_BLOCKS = 80
"""So many blocks are left, for buckets and workers to share."""
AHEAD_BYTES, LEAST_AHEAD, MOST_AHEAD = 32 * 2**20, 2, 16
"""Where every request waits for a network, so many bytes are asked for ahead, in so many blocks."""
WEIGHT_BYTES = 2**20
"""Smaller chunks of weights may be read again and again."""


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive pairs in memory: x, y (m, D) of one floating dtype, weight (m,) or None.

    Attributes:
        start: number of the first row in the whole store.
        x_squares, y_squares: (m,) float64, ‖x‖² and ‖y‖² of every row, finite.
        bad: (m,) which rows held NaN or Inf and are zeros here, to be left out; None is none.
    """

    start: int
    x: np.ndarray
    y: np.ndarray
    x_squares: np.ndarray
    y_squares: np.ndarray
    weight: np.ndarray | None
    n_bytes: int = 0
    seconds: float = 0.0
    bad: np.ndarray | None = None

    def rows(self, start: int, stop: int) -> Block:
        """Rows ``start`` to ``stop`` of the whole store, as a view; costs go with the first."""
        part = slice(start - self.start, stop - self.start)
        costs = (self.n_bytes, self.seconds) if start == self.start else (0, 0.0)
        return Block(start, self.x[part], self.y[part], self.x_squares[part], self.y_squares[part],
                     None if self.weight is None else self.weight[part], *costs,
                     None if self.bad is None else self.bad[part])


@dataclass(frozen=True, eq=False)
class Blocks:
    """What is read at once of arrays x, y (n, D) and weight (n,), or None.

    Attributes:
        itemsize: bytes of a number as computed.
    """

    x: Any
    y: Any
    weight: Any
    itemsize: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one pair."""
        return 2 * int(self.x.shape[1]) * self.itemsize

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk, or of about 16 MiB of each array without chunks."""
        if is_dask(self.x):
            return int(max(*self.x.chunks[0], *self.y.chunks[0]))
        if is_zarr(self.x):
            return max(int(stored_chunks(a)[0]) for a in (self.x, self.y))
        return max(1, CHUNK_BYTES // max(self.row_bytes, 1))

    @property
    def chunk_columns(self) -> int:
        """Features of a chunk, or of all where there are none."""
        if not is_zarr(self.x):
            return int(self.x.shape[1])
        return max(int(stored_chunks(a)[1]) for a in (self.x, self.y))

    @property
    def rows(self) -> int:
        """Rows that a task reads at once: one row chunk, or several where small ones are many."""
        n_chunks = -(-int(self.x.shape[0]) // self.chunk_rows)
        at_once = min(BLOCK_BYTES // (self.chunk_rows * self.row_bytes), n_chunks // LEAST_BLOCKS)
        return self.chunk_rows * max(1, at_once)

    @property
    def columns(self) -> int:
        """Features that a task reads at once where it reads all rows: D where none are apart."""
        n_pairs, n_features = map(int, self.x.shape)
        if not is_zarr(self.x):
            return n_features
        width = self.chunk_columns
        at_once = BLOCK_BYTES // (n_pairs * width * 2 * self.itemsize)
        return min(width * max(1, at_once), n_features)

    @property
    def n_ahead(self) -> int:
        """Blocks of rows read ahead: several where every request waits for a network."""
        if not is_remote(self.x):
            return 1
        return min(max(AHEAD_BYTES // (self.rows * self.row_bytes), LEAST_AHEAD), MOST_AHEAD)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that are read at once, whatever rows are wanted: a chunk of them."""
        if self.weight is None:
            return 0
        rows = int(stored_chunks(self.weight)[0]) if is_zarr(self.weight) else self.rows
        return rows * int(self.weight.dtype.itemsize)

    @property
    def repeats_weights(self) -> bool:
        """Whether much is read again and again, as chunks of weights have more rows than blocks."""
        return self.weight is not None and self.weight_bytes > max(
            WEIGHT_BYTES, self.rows * int(self.weight.dtype.itemsize))

    @property
    def are_decoded(self) -> bool:
        """Whether what is stored is compressed, and takes memory of its own when it is read."""
        return is_zarr(self.x) and not (is_plain(self.x) and is_plain(self.y))


def is_dask(array: Any) -> bool:
    """Whether an array is a dask array (without importing dask)."""
    return type(array).__module__.startswith("dask.")
