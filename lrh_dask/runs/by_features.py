"""Few pairs of very many features: products summed, and eigenvectors made, block by block.

The solve in between knows the pairs by their products alone (:mod:`lrh_dask.linalg.row_gram`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from lrh_dask.linalg.arrays import to_host
from lrh_dask.linalg.ledger import Ledger
from lrh_dask.linalg.reduced_pairs import reduce_pairs
from lrh_dask.linalg.row_gram import RowGram, Summing, lifting_coefficients
from lrh_dask.runs import process, progress
from lrh_dask.runs.graph import Stages
from lrh_dask.runs.leaves import device_of_run, read_ahead, weights_of
from lrh_dask.runs.memory import LIFTED_BYTES
from lrh_dask.runs.refusals import refuse_incomplete
from lrh_dask.runs.shards import RUN_BYTES, Partition, Piece, RunOfShards
from lrh_dask.runs.spec import Spec
from lrh_dask.runs.tasks import Solved, solve_whole
from lrh_dask.runs.tree import Partial, ReadStats
from lrh_dask.statistics.sizes import Sizes, exponents
from lrh_dask.stores.pairs import Pairs

__all__ = ["fit_by_features"]


@dataclass(frozen=True, eq=False)
class Lift:
    """How a solution in the coordinates of the pairs' span becomes one over all features.

    Attributes:
        solved: with eigenvectors (2n + 1, r) in those coordinates.
        coefficients: (2n, r) or, with an offset, (2n, r + 1): what of each row of x and of y.
    """

    solved: Solved
    coefficients: np.ndarray


def fit_by_features(stages: Stages, pairs: Pairs, split: Partition, spec: Spec) -> Solved:
    """Sum the products of pairs over features, solve, and lift the eigenvectors."""
    runs = _runs(pairs, RUN_BYTES // (2 * pairs.n_pairs * pairs.dtype.itemsize))
    def told(run: RunOfShards) -> int:
        return _share(pairs, run)

    lift: Lift = stages.reduce("basis", products_leaf, runs, (spec,), solve_products, pairs, split,
                               spec, n_told=told)
    solved, n_vectors = lift.solved, lift.coefficients.shape[1]
    lifted = np.empty((pairs.n_features, n_vectors), pairs.dtype)
    ledger = Ledger.of(())
    stats = solved.basis_stats
    runs = _runs(pairs, LIFTED_BYTES // (max(n_vectors, 1) * pairs.dtype.itemsize))
    coefficients = stages.share("coefficients", lift.coefficients)
    for run, (part, read) in stages.each("vectors", lift_leaf, runs, coefficients, spec,
                                         n_told=told):
        lifted[run.blocks[0][0]:run.blocks[-1][1]] = part
        ledger = ledger.merge(Ledger.of(run.blocks))
        stats = stats.merge(read)
    refuse_incomplete("features", ledger, Ledger.of([(0, pairs.n_features)]))
    r = solved.eigenvectors.shape[1]
    return replace(solved, eigenvectors=lifted[:, :r], basis_stats=stats,
                   offset=None if solved.offset is None else lifted[:, r].astype(np.float64),
                   times={**solved.times, "solve": time.time()})


def products_leaf(pairs: Pairs, run: RunOfShards, spec: Spec) -> Partial:
    """Products of all rows over a run of blocks of features."""
    device = device_of_run(spec)
    summing, stats = Summing(), ReadStats()
    n, bad = pairs.n_pairs, None
    rooms = _rooms(pairs, run)
    parts = [(0, n, columns, room) for columns, room in zip(run.blocks, rooms, strict=True)]
    for block, room in zip(read_ahead(pairs.read, parts, pairs.blocks.n_ahead), rooms, strict=True):
        summing.add(device.put(room))
        if block.bad is not None:
            bad = block.bad if bad is None else bad | block.bad
        stats = stats.merge(ReadStats(0, block.n_bytes, block.seconds,
                                      peak_worker_bytes=process.peak_bytes()))
    n_told = _tell(pairs, run, spec, "basis", stats)
    state = replace(summing.state().to_host(), ledger=Ledger.of(run.blocks), bad=bad)
    return Partial({0: state}, replace(stats, n_pairs=n_told))


def solve_products(partial: Partial, pairs: Pairs, split: Partition, spec: Spec) -> Lift:
    """The fit of pairs that are known by their products."""
    gram: RowGram = partial.states[0]
    refuse_incomplete("features", gram.ledger, Ledger.of([(0, pairs.n_features)]))
    stored = pairs.read_weight(0, pairs.n_pairs)
    bad = np.zeros(pairs.n_pairs, bool) if gram.bad is None else gram.bad
    if stored is not None:
        bad = bad | ~np.isfinite(stored)
        stored = np.where(bad, 0.0, stored)
    if bad.any():
        gram = gram.without(bad)
    x, y = gram.rows()
    x_squares, y_squares = np.split(np.diagonal(gram.products), 2)
    weight = weights_of(stored, x_squares, spec)
    counts = ~bad if weight is None else (weight > 0) & ~bad
    states = {}
    for bucket in split.buckets:
        rows = np.concatenate([np.arange(first, last + 1) for first, last in split.rows_of(bucket)])
        rows = rows[counts[rows]]
        states[bucket] = replace(
            reduce_pairs(x[rows], y[rows], None if weight is None else weight[rows],
                         max_rank=spec.n_pairs),
            ledger=Ledger.of((first, last + 1) for first, last in split.rows_of(bucket)))
    stats = replace(
        partial.stats, zero_x_rows=int(np.count_nonzero((x_squares == 0) & ~bad)),
        zero_y_rows=int(np.count_nonzero((y_squares == 0) & ~bad)),
        zero_weight_rows=int(np.count_nonzero(~counts & ~bad)), n_repeated=gram.n_repeated(),
        x_sizes=Sizes.of(exponents(x_squares)), y_sizes=Sizes.of(exponents(y_squares)),
        skipped=_by_shard(bad, pairs.blocks.chunk_rows))
    solved = solve_whole(Partial(states, stats), spec)
    vectors = solved.eigenvectors
    if solved.offset is not None:
        vectors = np.concatenate([vectors, solved.offset[:, None]], axis=1)
    return Lift(solved, lifting_coefficients(x, y, vectors))


def _by_shard(bad: np.ndarray, rows: int) -> tuple[tuple[int, int, int], ...]:
    """How many of the rows of each shard are bad, where some are."""
    shards = [(start, min(start + rows, len(bad))) for start in range(0, len(bad), rows)]
    return tuple((start, stop, int(np.count_nonzero(bad[start:stop])))
                 for start, stop in shards if bad[start:stop].any())


def lift_leaf(pairs: Pairs, run: RunOfShards, coefficients: np.ndarray,
              spec: Spec) -> tuple[np.ndarray, ReadStats]:
    """Vectors (w, r) over a run of blocks of features; x is read only where they need it."""
    device = device_of_run(spec)
    n, stats = pairs.n_pairs, ReadStats()
    needed = slice(0 if coefficients[:n].any() else n, 2 * n)
    used = device.put(coefficients[needed].astype(pairs.dtype))
    first, last = run.blocks[0][0], run.blocks[-1][1]
    lifted = np.empty((last - first, coefficients.shape[1]), pairs.dtype)

    def read(columns: tuple[int, int], room: np.ndarray) -> ReadStats:
        begin, n_bytes = time.perf_counter(), 0
        for label, rows in (("x", room[:n]), ("y", room[n:]))[needed.start // n:]:
            pairs.read_columns(label, columns, rows)
            n_bytes += rows.size * getattr(pairs, label).dtype.itemsize
        return ReadStats(0, n_bytes, time.perf_counter() - begin)

    rooms = _rooms(pairs, run)
    reads = read_ahead(read, list(zip(run.blocks, rooms, strict=True)), pairs.blocks.n_ahead)
    for (start, stop), one, room in zip(run.blocks, reads, rooms, strict=True):
        lifted[start - first:stop - first] = to_host(device.put(room[needed]).T @ used)
        stats = stats.merge(replace(one, peak_worker_bytes=process.peak_bytes()))
    _tell(pairs, run, spec, "vectors", stats)
    return lifted, stats


def _tell(pairs: Pairs, run: RunOfShards, spec: Spec, stage: str, stats: ReadStats) -> int:
    n_told = _share(pairs, run)
    if spec.watched:
        progress.emit(spec.run_id, progress.Event(stage, run.index, n_told, stats.n_bytes))
    return n_told


def _share(pairs: Pairs, run: RunOfShards) -> int:
    """As many pairs as the run's share of the features makes up: over all runs they are n."""
    n, n_features = pairs.n_pairs, pairs.n_features
    return n * run.blocks[-1][1] // n_features - n * run.blocks[0][0] // n_features


def _rooms(pairs: Pairs, run: RunOfShards) -> list[np.ndarray]:
    """Where each block of features of a run is read to: Z (2n, w), as few as are used in turn.

    One is computed on while others are read to, so that memory is asked for once a run.
    """
    width = max(last - first for first, last in run.blocks)
    rooms = [np.empty((2 * pairs.n_pairs, width), pairs.dtype)
             for _ in range(min(pairs.blocks.n_ahead + 1, len(run.blocks)))]
    return [rooms[i % len(rooms)][:, :last - first] for i, (first, last) in enumerate(run.blocks)]


def _runs(pairs: Pairs, n_columns: int) -> tuple[RunOfShards, ...]:
    """Blocks of features, in runs of about so many columns; every run holds all pairs."""
    width, n_features = pairs.blocks.columns, pairs.n_features
    blocks = [(first, min(first + width, n_features)) for first in range(0, n_features, width)]
    at_once = max(1, n_columns // width)
    return tuple(RunOfShards(i, tuple(blocks[first:first + at_once]), (Piece(0, pairs.n_pairs, 0),))
                 for i, first in enumerate(range(0, len(blocks), at_once)))
