"""The partition: which rows a task reads, and which bucket they are counted in.

A *block* is what is read at once (the row chunk of the store). A *run* is the consecutive
blocks of one task. A *bucket* is one of about twenty disjoint sets of rows that are kept apart
up to the solve, for held-out residuals and standard errors. The partition depends on the
store's shape alone, never on the cluster, so that any cluster gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

__all__ = ["N_BUCKETS", "Partition", "Piece", "Run", "gathered", "partition"]

N_BUCKETS = 20
FEWEST_RUNS = 8
RUN_BYTES = 256 * 2**20
"""Tasks of a second or so: the scheduler's share of a run stays small."""
LEAST_RUN_BYTES = 32 * 2**20
"""Smaller tasks of a small store are put together: each waits once for a first block from afar."""
SAMPLE_BYTES = 32 * 2**20
"""Tasks that read a sample are more work a pair, and all workers are to have some."""


@dataclass(frozen=True)
class Piece:
    """Consecutive rows ``start`` to ``stop`` that are counted in one bucket."""

    start: int
    stop: int
    bucket: int


@dataclass(frozen=True)
class Run:
    """What one task reads: its blocks, and the buckets its rows go to."""

    index: int
    blocks: tuple[tuple[int, int], ...]
    pieces: tuple[Piece, ...]

    @property
    def n_pairs(self) -> int:
        """Rows in this run."""
        return sum(piece.stop - piece.start for piece in self.pieces)

    def slabs(self, start: int, stop: int, at_once: int) -> Iterator[Piece]:
        """Rows ``start`` to ``stop``, at most so many at once, in one bucket each."""
        for piece in self.pieces:
            last = min(piece.stop, stop)
            for first in range(max(piece.start, start), last, at_once):
                yield Piece(first, min(first + at_once, last), piece.bucket)


@dataclass(frozen=True)
class Partition:
    """All runs of a store, in row order."""

    n_pairs: int
    runs: tuple[Run, ...]

    @property
    def buckets(self) -> list[int]:
        """The buckets that hold rows."""
        return sorted({piece.bucket for run in self.runs for piece in run.pieces})

    def spread(self, is_held_out: Callable[[int], bool]) -> tuple[Run, ...]:
        """Every block as a run of its own, in an order whose every beginning is spread evenly.

        Among any first blocks, two at least, about a fifth is held out.
        """
        by_group: dict[bool, list[Run]] = {False: [], True: []}
        for run in self.runs:
            for block in run.blocks:
                pieces = tuple(
                    Piece(max(p.start, block[0]), min(p.stop, block[1]), p.bucket)
                    for p in run.pieces if p.start < block[1] and p.stop > block[0])
                by_group[all(is_held_out(p.bucket) for p in pieces)].append(
                    Run(0, (block,), pieces))
        ordered: list[Run] = []
        train, held_out = (_bit_reversed(by_group[group]) for group in (False, True))
        for i in range(max(-(-len(train) // 4), len(held_out))):
            ordered += [*train[4 * i:4 * i + 1], *held_out[i:i + 1], *train[4 * i + 1:4 * i + 4]]
        return tuple(replace(run, index=i) for i, run in enumerate(ordered))

    def rows_of(self, bucket: int) -> list[tuple[int, int]]:
        """First and last row of every piece of a bucket."""
        return [(piece.start, piece.stop - 1) for run in self.runs for piece in run.pieces
                if piece.bucket == bucket]


def partition(n_pairs: int, chunk_rows: int, row_bytes: int, *,
              run_bytes: int = RUN_BYTES) -> Partition:
    """Cut the rows of a store into runs and buckets.

    Many blocks: pieces of about ``run_bytes``, a multiple of twenty of them, each in one bucket
    (its index modulo 20); a run is one piece, or where pieces are small several, while there are
    eight runs or more. Few blocks: eight runs or more, cut into consecutive pieces so that every
    bucket gets its share.

    Args:
        n_pairs: rows of the store.
        chunk_rows: rows of a block; ``row_bytes``: bytes of a row, x and y together.
    """
    starts = range(0, n_pairs, chunk_rows)
    blocks = [(start, min(start + chunk_rows, n_pairs)) for start in starts]
    if len(blocks) < 2 * N_BUCKETS:
        at_once = min(run_bytes // (chunk_rows * row_bytes), len(blocks) // FEWEST_RUNS)
        firsts = range(0, len(blocks), max(1, at_once))
        return Partition(n_pairs, tuple(
            _in_pieces(i, blocks[first:first + firsts.step], n_pairs)
            for i, first in enumerate(firsts)))
    n_bytes = n_pairs * row_bytes
    wanted = max(2 * N_BUCKETS, -(-n_bytes // max(run_bytes, 1)))
    n_pieces = min(-(-wanted // N_BUCKETS) * N_BUCKETS, len(blocks))
    at_once = min(min(run_bytes, LEAST_RUN_BYTES) * n_pieces // n_bytes, n_pieces // FEWEST_RUNS)
    n_runs = -(-n_pieces // max(1, at_once))
    cuts = [len(blocks) * i // n_pieces for i in range(n_pieces + 1)]
    pieces = [Piece(blocks[a][0], blocks[b - 1][1], i % N_BUCKETS)
              for i, (a, b) in enumerate(pairwise(cuts))]
    return Partition(n_pairs, tuple(
        Run(i, tuple(blocks[cuts[a]:cuts[b]]), tuple(pieces[a:b]))
        for i, (a, b) in enumerate(pairwise(n_pieces * i // n_runs for i in range(n_runs + 1)))))


def gathered(blocks: Sequence[Run], row_bytes: int, *, run_bytes: int) -> tuple[Run, ...]:
    """Runs of one block each, some of them joined: about ``run_bytes`` a run."""
    runs: list[Run] = []
    for block in blocks:
        if runs and (runs[-1].n_pairs + block.n_pairs) * row_bytes <= run_bytes:
            last = runs.pop()
            block = Run(last.index, last.blocks + block.blocks, last.pieces + block.pieces)
        runs.append(block)
    return tuple(runs)


def _bit_reversed(items: list[Run]) -> list[Run]:
    """The items in the order of their index read backwards in binary (van der Corput)."""
    bits = max(len(items) - 1, 1).bit_length()
    order = sorted(range(len(items)), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    return [items[i] for i in order]


def _in_pieces(index: int, blocks: list[tuple[int, int]], n_pairs: int) -> Run:
    """Blocks as a run whose pieces are the equal parts of all rows that lie in them."""
    start, stop = blocks[0][0], blocks[-1][1]
    n_parts = min(2 * N_BUCKETS if n_pairs >= 4 * N_BUCKETS else N_BUCKETS, n_pairs)
    edges = [n_pairs * i // n_parts for i in range(n_parts + 1)]
    pieces = [Piece(max(a, start), min(b, stop), i % N_BUCKETS)
              for i, (a, b) in enumerate(pairwise(edges))
              if a < stop and b > start]
    return Run(index, tuple(blocks), tuple(pieces))
