"""What a worker process needs at its dearest moment, from shapes alone.

Each term is an array that the code makes, at the size it has there; RETAINED stands for what the
allocator keeps of smaller ones. Tests measure the price on real workers.
"""

from __future__ import annotations

from dataclasses import dataclass

from lrh_dask.linalg.arrays import ALIGNED_COLUMNS
from lrh_dask.linalg.gathering import CAST_ROWS, GATHERED_ROWS, fewest_rows
from lrh_dask.linalg.row_gram import CAST_FEATURES
from lrh_dask.runs.shards import SAMPLE_BYTES
from lrh_dask.runs.tree import FAN_IN

__all__ = ["AHEAD_OF_FETCHING", "CACHED_BYTES", "LEAST_ROWS", "LIFTED_BYTES", "MIB", "SLAB_BYTES",
           "WAITING_BYTES", "Shape"]

MIB = 2**20
IDLE_BYTES = 120 * MIB
"""A worker process with NumPy, Dask, Zarr and this package imported."""
RETAINED = 32 * MIB
SLAB_BYTES = 32 * MIB
"""Rows are computed on in slabs of about this size, x and y together, whatever the block."""
CACHED_BYTES = 4 * MIB
"""The same where a slab is gone over again and again and had better stay in a processor's cache."""
LEAST_ROWS = 64
"""... but of so many rows at least."""
WAITING_BYTES = 4 * MIB
"""Smaller pieces wait for others before they are reduced."""
LIFTED_BYTES = 12 * MIB
"""A task makes vectors over so many features that they are about this size."""
AHEAD_OF_FETCHING = 2
"""Tasks a thread whose results may wait to be fetched one by one: more would fill the workers."""
FLOAT64 = 8


@dataclass(frozen=True)
class Shape:
    """What the price of a run is made of.

    Attributes:
        itemsize: bytes of a number as computed.
        block_rows: pairs read at once; ``block_columns``: features, where all pairs are read.
        n_ahead: blocks that are read ahead, at most; ``run_blocks``: blocks of pairs a task reads.
        n_buckets: sets of pairs that are kept apart; ``run_buckets``: those in one run, at most.
        threads: threads of a worker, each of which runs a task.
        held_bytes: what a worker may be holding besides (pairs sent from memory).
        weight_bytes: a chunk of weights (none: 0); rows are scaled by them, which takes a copy.
        decoded: what is stored is compressed, and takes memory of its own while it is decoded.
        streamed: a slab can be read at once, where no block is needed.
        chunk_columns: features of a chunk, which may be more than there are.
    """

    n_pairs: int
    n_features: int
    itemsize: int
    block_rows: int
    block_columns: int
    n_ahead: int = 1
    run_blocks: int = 2
    n_buckets: int = 20
    run_buckets: int = 1
    threads: int = 1
    held_bytes: int = 0
    weight_bytes: int = 0
    decoded: bool = False
    streamed: bool = False
    chunk_columns: int = 0

    @property
    def whole(self) -> int:
        """Bytes of all pairs."""
        return 2 * self.n_pairs * self.n_features * self.itemsize

    def over_all_features(self) -> int:
        """One pass over blocks of pairs; the basis is all of R^D."""
        k = self.n_features
        made = self._scaled() + max(self._gathering(k), self._merge(2 * k + 1))
        return self._process(self._reading(self.run_blocks, made),
                             self._block() + self._solve(k, k))

    def in_basis(self, k: int, width: int) -> int:
        """Rounds of reduced pairs, and a pass over blocks in a basis of ``width`` columns.

        Args:
            k: columns that are looked for; ``width``: held-out directions included.
        """
        d, c = self.n_features, 2 * width + 1
        reduced = 2 * k * d * self.itemsize
        rows = min(max(4 * k, SLAB_BYTES // (2 * d * self.itemsize)),
                   max(self.block_rows, WAITING_BYTES // (2 * d * self.itemsize)), self.n_pairs)
        sketched = k + 8 + ALIGNED_COLUMNS
        cut = (rows * sketched * (3 * FLOAT64 + 3 * self.itemsize)
               + 3 * d * sketched * self.itemsize) if rows > 4 * k and d > 2 * k else (
               rows * d * FLOAT64 + 3 * min(rows, d) ** 2 * FLOAT64)
        again = 2 * reduced + 2 * k * d * FLOAT64 + 12 * k**2 * FLOAT64  # merged and cut again
        sampled_blocks = max(1, SAMPLE_BYTES // self._block())
        groups = 1 if self.run_buckets == sampled_blocks == 1 else 2  # in a task
        waiting = (groups + 1) * WAITING_BYTES  # those of each, and put together
        held = (2 * FAN_IN + 2) * groups * reduced  # what waits, what is fetched and made of it
        find = self._reading(sampled_blocks, self._scaled() + max(cut, again) + held + waiting)
        merge = held + again
        orthonormal = 4 * k * d * FLOAT64 + 3 * reduced
        q = d * width * (FLOAT64 + 2 * self.itemsize)
        slab = min(max(CACHED_BYTES, LEAST_ROWS * 2 * d * self.itemsize), self._block())
        made = q + self._gathering(width)
        if self.weight_bytes:
            made += 2 * slab  # those of some weight, and times its root
        fit = slab + 2 * self.weight_bytes + made if self.streamed else self._reading(
            self.run_blocks, made)
        return self._process(max(find, merge, orthonormal, fit, q + self._merge(c)),
                             self._block() + q + self._solve(width, width))

    def on_one_worker(self, basis: int) -> int:
        """All pairs uncut on one worker, which fits in their own basis."""
        of_basis = FLOAT64 * self.n_features * basis
        choice = of_basis + self._solve(min(self.n_pairs, self.n_features), basis)
        held = self.whole + 2 * FLOAT64 * self.n_features * self.n_pairs
        return self._process(self._reading(self.run_blocks, 5 * self.whole),
                             held + max(3 * of_basis, choice))

    def by_features(self, rank: int) -> int:
        """Products of all pairs summed over blocks of features; vectors made block by block."""
        m = 2 * self.n_pairs + 1
        room = 2 * self.n_pairs * self.block_columns * self.itemsize
        arriving = room if self.decoded else room // 2
        reading = (self.n_ahead + 1) * room + arriving
        first = self.n_pairs * 2 * max(m, CAST_FEATURES) * FLOAT64 + 4 * m**2 * FLOAT64
        block = min(self.block_columns, self.n_features) * (rank + 1) * self.itemsize
        lifted = min(max(LIFTED_BYTES, block), self.n_features * (rank + 1) * self.itemsize)
        return self._process(reading + max(first, (3 + AHEAD_OF_FETCHING) * lifted),
                             self._solve(min(m, self.n_pairs * 3 // 2), m))

    def _process(self, task: int, solve: int) -> int:
        """A worker whose threads all run the dearest task, or one of them the last."""
        tasks = max(self.threads * task, (self.threads - 1) * task + solve)
        return IDLE_BYTES + RETAINED + self.held_bytes + tasks

    def _reading(self, run_blocks: int, made: int) -> int:
        """Blocks in use and ahead, and what is made of one; chunks being put together, or decoded.

        With weights, and squared lengths of rows, from which keys of hashes are made.
        """
        n_ahead = min(self.n_ahead, run_blocks - 1)
        arriving = self._block() if self.decoded else self._block() // 2
        lengths = 2 * min(self.block_rows, self.n_pairs) * FLOAT64
        blocks = (n_ahead + 1) * (self._block() + lengths + 2 * self.weight_bytes)
        together = n_ahead or self.decoded  # what decoding took is not given back at once
        return blocks + (arriving + made if together else max(arriving, made)) + lengths

    def _block(self) -> int:
        """What is read at once; the solve comes to a process that has not given back the last."""
        width = max(self.n_features, self.chunk_columns)
        return 2 * min(self.block_rows, self.n_pairs) * width * self.itemsize

    def _scaled(self) -> int:
        return SLAB_BYTES if self.weight_bytes else 0

    def _gathering(self, k: int) -> int:
        """What a leaf makes of projected rows: those that wait, those in float64, factors."""
        c = 2 * k + 1
        waiting = min(max(GATHERED_ROWS, fewest_rows(c)) * self.run_buckets,
                      self.n_pairs) * 2 * k * self.itemsize
        cast = 3 * min(max(CAST_ROWS, fewest_rows(c)), self.n_pairs) * c * FLOAT64
        return waiting + cast + 6 * self._triangle(c) + self._states(c)

    def _triangle(self, c: int) -> int:
        return c**2 * FLOAT64

    def _held(self, c: int) -> int:
        """Triangles of all buckets, or their rows where they are fewer."""
        rows = min(c, self.n_pairs // max(self.n_buckets, 1) + 1)
        return self.n_buckets * rows * c * FLOAT64

    def _states(self, c: int) -> int:
        """What a leaf holds of all its buckets."""
        return min(self._held(c), 2 * self.run_buckets * self._triangle(c))

    def _merge(self, c: int) -> int:
        return (FAN_IN + 1) * min(self._held(c), FAN_IN * self._states(c))

    def _solve(self, k: int, width: int) -> int:
        """The choice on held-out pairs: moments by bucket, folds, and a basis size's factors."""
        moments = (240 if k <= 384 else 150) * k**2 * FLOAT64
        return 2 * self._held(2 * width + 1) + moments
