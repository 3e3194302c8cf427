"""The partition: which rows a task reads, and which bucket they are counted in.

A *block* is what is read at once (the row chunk of the store). A *run* is the consecutive
blocks of one task. A *bucket* is one of about twenty disjoint sets of rows that are kept apart
up to the solve, for held-out residuals and standard errors. The partition depends on the
store's shape alone, never on the cluster, so that any cluster gives the same bits.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from math import ceil

from lrh_dask.linalg.ledger import Ledger

__all__ = ["HELD_OUT_EVERY", "N_BUCKETS", "Partition", "Piece", "RunOfShards", "gathered",
           "partition"]

N_BUCKETS = 20
HELD_OUT_EVERY = 5
"""Every fifth bucket is held out of a fitted basis."""
FEWEST_RUNS = 8
RUN_BYTES = 256 * 2**20
"""Tasks of a second or so: the scheduler's share of a large run stays small."""
JOINED_BYTES = 64 * 2**20
"""Smaller tasks are joined to about this: each waits once for a first block from afar."""
SAMPLE_BYTES = 32 * 2**20
"""Tasks that read a sample are more work a pair, and all workers are to have some."""


@dataclass(frozen=True)
class Piece:
    """Consecutive rows ``start`` to ``stop`` that are counted in one bucket."""

    start: int
    stop: int
    bucket: int


@dataclass(frozen=True)
class RunOfShards:
    """What one task reads: its blocks, and the buckets its rows go to."""

    index: int
    blocks: tuple[tuple[int, int], ...]
    pieces: tuple[Piece, ...]

    @property
    def n_pairs(self) -> int:
        """Rows in this run."""
        return sum(piece.stop - piece.start for piece in self.pieces)

    def beginnings(self, share: float) -> tuple[Piece, ...]:
        """The first rows of every piece: about this share of them, and one at least."""
        return tuple(replace(p, stop=p.start + ceil((p.stop - p.start) * share))
                     for p in self.pieces)

    def slabs(self, start: int, stop: int, at_once: int) -> Iterator[Piece]:
        """Rows ``start`` to ``stop``, at most so many at once, in one bucket each."""
        for piece in self.pieces:
            last = min(piece.stop, stop)
            for first in range(max(piece.start, start), last, at_once):
                yield Piece(first, min(first + at_once, last), piece.bucket)


@dataclass(frozen=True)
class Partition:
    """All runs of a store, in row order.

    Attributes:
        n_runs: how many of them, one after another, make up each segment: rows whose states are
            kept apart. None: there is one segment.
    """

    runs: tuple[RunOfShards, ...]
    n_runs: tuple[int, ...] | None = None

    @property
    def n_pairs(self) -> int:
        """Rows of all runs."""
        return sum(run.n_pairs for run in self.runs)

    @property
    def ledger(self) -> Ledger:
        """The rows of all runs.

        Raises:
            RunFailed: two runs hold the same.
        """
        return Ledger.of((p.start, p.stop) for run in self.runs for p in run.pieces)

    @property
    def segments(self) -> Iterator[tuple[RunOfShards, ...]]:
        """The runs of each segment."""
        waiting = iter(self.runs)
        for n in (len(self.runs),) if self.n_runs is None else self.n_runs:
            yield tuple(islice(waiting, n))

    @property
    def buckets(self) -> list[int]:
        """The buckets that hold rows."""
        return sorted({piece.bucket for run in self.runs for piece in run.pieces})

    def spread(self, is_held_out: Callable[[int], bool]) -> tuple[RunOfShards, ...]:
        """Every block as a run of its own, in an order whose every beginning is spread evenly.

        Among any first blocks, two at least, some are held out: in the long run a fifth.
        """
        by_group: dict[bool, list[RunOfShards]] = {False: [], True: []}
        for run in self.runs:
            for block in run.blocks:
                pieces = _within(run.pieces, *block)
                by_group[all(is_held_out(p.bucket) for p in pieces)].append(
                    RunOfShards(0, (block,), pieces))
        ordered: list[RunOfShards] = []
        train, held_out = (_bit_reversed(by_group[group]) for group in (False, True))
        for i in range(max(-(-len(train) // 4), len(held_out))):
            ordered += [*train[4 * i:4 * i + 1], *held_out[i:i + 1], *train[4 * i + 1:4 * i + 4]]
        return tuple(replace(run, index=i) for i, run in enumerate(ordered))

    def rows_of(self, bucket: int) -> list[tuple[int, int]]:
        """First and last row of every piece of a bucket."""
        return [(piece.start, piece.stop - 1) for run in self.runs for piece in run.pieces
                if piece.bucket == bucket]


def partition(stop: int, chunk_rows: int, row_bytes: int, *, start: int = 0,
              buckets: Sequence[int] = range(N_BUCKETS), first_run: int = 0,
              one_block: bool = False) -> Partition:
    """Cut rows ``start`` to ``stop`` of a store into runs and buckets.

    Rows are cut into equal *pieces*, which are counted in the buckets by turns. Where there are
    many blocks a piece is of whole blocks, of at most about RUN_BYTES, and a run of whole pieces;
    where there are few a run is of whole blocks, and what lies in it of the pieces. Small units
    are joined to runs of about JOINED_BYTES, as long as eight are left.

    Args:
        chunk_rows: rows of a block; ``row_bytes``: bytes of a row, x and y together.
        buckets: those that the rows go to.
        first_run: number of the first run.
        one_block: every block is a run of its own.
    """
    starts = [start, *range((start // chunk_rows + 1) * chunk_rows, stop, chunk_rows), stop]
    n_blocks, n_pairs, n_buckets = len(starts) - 1, stop - start, len(buckets)
    n_bytes = n_pairs * row_bytes
    if n_blocks < 2 * n_buckets:
        n_pieces = min(2 * n_buckets if n_pairs >= 4 * n_buckets else n_buckets, n_pairs)
        units, edges = starts, _cut(range(start, stop + 1), n_pieces)
    else:
        n_rounds = max(2, -(-n_bytes // (n_buckets * RUN_BYTES)))
        n_pieces = n_blocks if one_block else min(n_rounds * n_buckets, n_blocks)
        units = edges = _cut(starts, n_pieces)
    n_units = len(units) - 1
    joined = min(round(JOINED_BYTES * n_units / n_bytes), n_units // FEWEST_RUNS)
    cuts = _cut(units, n_units if one_block else -(-n_units // max(joined, 1)))
    pieces = [Piece(a, b, buckets[i % n_buckets]) for i, (a, b) in enumerate(pairwise(edges))]
    return Partition(tuple(
        RunOfShards(i, tuple(pairwise(starts[bisect_left(starts, a):bisect_left(starts, b) + 1])),
            _within(pieces[bisect_right(edges, a) - 1:bisect_left(edges, b)], a, b))
        for i, (a, b) in enumerate(pairwise(cuts), first_run)))


def gathered(blocks: Sequence[RunOfShards], row_bytes: int, *,
             run_bytes: int) -> tuple[RunOfShards, ...]:
    """Runs of one block each, some of them joined: about ``run_bytes`` a run."""
    runs: list[RunOfShards] = []
    for block in blocks:
        if runs and (runs[-1].n_pairs + block.n_pairs) * row_bytes <= run_bytes:
            last = runs.pop()
            block = RunOfShards(last.index, last.blocks + block.blocks, last.pieces + block.pieces)
        runs.append(block)
    return tuple(runs)


def _bit_reversed(items: list[RunOfShards]) -> list[RunOfShards]:
    """The items in the order of their index read backwards in binary (van der Corput)."""
    bits = max(len(items) - 1, 1).bit_length()
    order = sorted(range(len(items)), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    return [items[i] for i in order]


def _cut(items: Sequence[int], n_parts: int) -> list[int]:
    """Edges of equal parts: those of ``items`` at which they begin, and its last."""
    return [items[(len(items) - 1) * i // n_parts] for i in range(n_parts + 1)]


def _within(pieces: Sequence[Piece], start: int, stop: int) -> tuple[Piece, ...]:
    """What lies of pieces in rows ``start`` to ``stop``."""
    return tuple(Piece(max(piece.start, start), min(piece.stop, stop), piece.bucket)
                 for piece in pieces if piece.start < stop and piece.stop > start)
