"""What runs on a worker: leaves read runs of shards, the last task solves.

Each is a pure function of its arguments; what it returns is a state or the outcome.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from lrh_dask import process, progress
from lrh_dask.arrays import Device, pick_device
from lrh_dask.asked import Asked
from lrh_dask.budget import FEW_PAIRS, SLAB_BYTES, Route
from lrh_dask.duplicates import RowHashes
from lrh_dask.errors import RunFailed, explain
from lrh_dask.exact_pairs import common_basis
from lrh_dask.fitting import Fit, fit_exact, fit_symmetric, rotating_folds
from lrh_dask.held_out import Fold
from lrh_dask.interpolation import beside
from lrh_dask.pairs import Block, Pairs
from lrh_dask.reduced_pairs import ReducedPairs, reduce_pairs
from lrh_dask.refusals import refuse_empty, refuse_useless
from lrh_dask.scree import basis_size
from lrh_dask.shards import Run
from lrh_dask.solve import rank_of, rounding_of
from lrh_dask.tree import Partial, ReadStats
from lrh_dask.triangle import Triangle, reduce_to_triangle
from lrh_dask.units import in_units

__all__ = ["Basis", "Solved", "Spec", "basis_leaf", "finish_basis", "fit_leaf", "merge_partials",
           "solve_buckets", "solve_whole"]

HELD_OUT_EVERY = 5
"""Every fifth bucket is held out of a fitted basis."""
TRAIN, HELD_OUT = 0, 1


@dataclass(frozen=True)
class Spec:
    """What every task of a run is told."""

    run_id: str
    method: str
    asked: Asked
    route: Route
    max_basis: int
    device: str
    dtype: str
    n_pairs: int
    watched: bool
    weighting: str = "stored"


@dataclass(frozen=True, eq=False)
class Basis:
    """What the basis stage hands to the fit stage."""

    q: np.ndarray | None  # (D, p)
    n_blind: int  # columns that have not seen the held-out buckets
    tail: float  # share of ‖Y‖² of the training pairs that may lie outside Q
    stats: ReadStats
    finished: float

    def __sizeof__(self) -> int:
        return 200 + (0 if self.q is None else self.q.nbytes)


@dataclass(frozen=True, eq=False)
class Solved:
    """What comes back to the driver."""

    fit: Fit
    eigenvectors: np.ndarray
    basis_stats: ReadStats
    fit_stats: ReadStats
    n_pairs: int
    content: str
    times: dict[str, float]

    def __sizeof__(self) -> int:
        return 200 + self.eigenvectors.nbytes + self.fit.vectors.nbytes


def _read_ahead(pairs: Pairs, run: Run) -> Iterator[Block]:
    """The blocks of a run, the next one being read while this one is computed on."""
    with ThreadPoolExecutor(1, thread_name_prefix="lrh-read") as pool:
        pending = pool.submit(pairs.read, *run.blocks[0])
        for following in (*run.blocks[1:], None):
            block = pending.result()
            if following is not None:
                pending = pool.submit(pairs.read, *following)
            yield block


def _fold(pairs: Pairs, run: Run, spec: Spec, stage: str, slab_rows: int,
          reduce_slab: Callable[[Any, Any, Any], Any], bucket_of: Callable[[int], int],
          device: Device) -> Partial:
    """Read a run block by block and fold its rows, slab by slab, into one state a bucket."""
    states: dict[int, Any] = {}
    stats = ReadStats()
    for block in _read_ahead(pairs, run):
        no_weight, end = 0, block.start + len(block.x)
        for piece in run.pieces:
            first, last = max(piece.start, block.start), min(piece.stop, end)
            for start in range(first, last, slab_rows):
                slab = block.rows(start, min(start + slab_rows, last))
                rows = _counted(slab, spec)
                no_weight += len(slab.x) - len(rows[0])
                state = reduce_slab(*(None if a is None else device.put(a) for a in rows))
                bucket = bucket_of(piece.bucket)
                states[bucket] = states[bucket].merge(state) if bucket in states else state
        stats = stats.merge(ReadStats(
            len(block.x), block.n_bytes, block.seconds, _zero_rows(block.x).size,
            _zero_rows(block.y).size, no_weight, process.peak_bytes(),
            RowHashes() if stage == "basis" and spec.route is Route.fitted_basis
            else _hashes(block)))
    _tell(spec, progress.Event(stage, run.index, stats.n_pairs, stats.n_bytes))
    return Partial({bucket: state.to_host() for bucket, state in sorted(states.items())}, stats)


def _counted(slab: Block, spec: Spec) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """x, y and weight of the rows that count; for noise that grows with ‖x‖ divided by ‖x‖².

    Rows of weight zero are left out here, so that no number of pairs has them in it.
    """
    weight = slab.weight
    if spec.weighting == "step":
        length = np.linalg.norm(slab.x.astype(np.float64), axis=1)
        by_step = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0) ** 2
        weight = by_step if weight is None else weight * by_step
    if weight is None:
        return slab.x, slab.y, None
    counts = weight > 0
    return slab.x[counts], slab.y[counts], weight[counts]


def basis_leaf(pairs: Pairs, run: Run, spec: Spec) -> Partial:
    """Reduced pairs of a run: by group (a fitted basis), or by bucket and uncut (few pairs)."""
    device = _device(spec)
    max_rank = spec.n_pairs if spec.route is Route.whole_pairs else spec.max_basis
    rows = max(4 * spec.max_basis, SLAB_BYTES // pairs.row_bytes)
    return _fold(pairs, run, spec, "basis", rows,
                 lambda x, y, weight: reduce_pairs(x, y, weight, max_rank=max_rank),
                 (lambda b: b) if spec.route is Route.whole_pairs else _group, device)


def fit_leaf(pairs: Pairs, run: Run, spec: Spec, basis: Basis | None) -> Partial:
    """Triangles of a run by bucket, over the fitted basis or over all of R^D."""
    device = _device(spec)
    q = None if basis is None or basis.q is None else device.put(
        basis.q.astype(pairs.dtype, copy=False))
    k = pairs.n_features if q is None else int(q.shape[1])
    rows = max(2 * (2 * k + 1), SLAB_BYTES // pairs.row_bytes)
    return _fold(pairs, run, spec, "fit", rows,
                 lambda x, y, weight: reduce_to_triangle(x, y, q, weight), lambda b: b, device)


def merge_partials(*partials: Partial) -> Partial:
    """A node of the tree."""
    process.pin_blas_threads()
    return reduce(Partial.merge, partials)


def finish_basis(partial: Partial, spec: Spec) -> Basis:
    """Q from the training group, cut to the size that held-out gradients reward.

    Where pairs are few, the final fit should use them all: the directions that all pairs
    together would choose are appended, for it alone.
    """
    process.pin_blas_threads()
    refuse_empty(partial.stats)
    train = partial.states[TRAIN]
    q, scales = train.basis()
    held_out = partial.states.get(HELD_OUT, ReducedPairs.empty(train.x, spec.max_basis))
    k = basis_size(q, held_out, rank=spec.asked.rank)
    cut = train.tail + float(np.sum(scales[k:] ** 2))
    q = q[:, :k]
    if held_out.n_pairs and train.n_pairs + held_out.n_pairs < FEW_PAIRS * k:
        everyone = train.merge(held_out).basis()[0][:, :k]
        q = np.concatenate([q, beside(everyone.T, q, np.dtype(np.float64))], axis=1)
    return Basis(np.ascontiguousarray(q), k, cut / train.energy if train.energy else 0.0,
                 partial.stats, time.time())


def solve_buckets(partial: Partial, basis: Basis | None, spec: Spec) -> Solved:
    """Choose, solve and certify from the buckets' triangles."""
    begin = time.time()
    process.pin_blas_threads()
    _tell(spec, progress.Event("solve", 0, 0, 0))
    refuse_empty(partial.stats)
    buckets: dict[int, Triangle] = {b: t for b, t in partial.states.items() if t.n_pairs}
    refuse_useless(buckets)
    q = None if basis is None else basis.q
    if q is None:
        folds = rotating_folds(buckets)
    else:  # the basis has seen the noise of its own pairs: judge on the others only
        held_out = tuple(b for b in buckets if _group(b) == HELD_OUT)
        train = tuple(b for b in buckets if b not in held_out)
        folds = [Fold(train, held_out)] if train and held_out else []
    outcome = in_units(buckets, lambda scaled: fit_symmetric(
        scaled, folds, spec.asked, lossless=q is None, dtype=np.dtype(spec.dtype),
        n_blind=None if basis is None else basis.n_blind,
        tail=0.0 if basis is None else basis.tail))
    lifted = outcome.vectors if q is None else q @ outcome.vectors
    return _done(outcome, lifted, buckets,
                 ReadStats() if basis is None else basis.stats, partial.stats,
                 {"basis": begin if basis is None else basis.finished,
                  "fit": begin, "solve": time.time()})


def solve_whole(partial: Partial, spec: Spec) -> Solved:
    """Few pairs: their own Gram-Schmidt basis loses nothing; the rest is the same."""
    begin = time.time()
    process.pin_blas_threads()
    _tell(spec, progress.Event("solve", 0, 0, 0))
    refuse_empty(partial.stats)
    held: dict[int, ReducedPairs] = {b: s for b, s in partial.states.items() if s.n_pairs}
    x = np.concatenate([s.x for s in held.values()]).astype(np.float64)
    counted = spec.n_pairs - partial.stats.zero_weight_rows
    if len(x) != counted:
        raise RunFailed(explain(
            "solve", expected=f"{counted} pairs, uncut", got=f"{len(x)}",
            consequence="The result would be wrong and was dropped", fix="Please report this"))
    y = np.concatenate([s.y for s in held.values()]).astype(np.float64)
    g = common_basis(x, y, spec.method, np.dtype(spec.dtype))
    buckets = {b: _triangle_of(s, g) for b, s in held.items()}
    refuse_useless(buckets)
    folds = rotating_folds(buckets)
    dtype = np.dtype(spec.dtype)
    if spec.method == "symmetric":
        outcome = in_units(buckets, lambda scaled: fit_symmetric(
            scaled, folds, spec.asked, lossless=True, dtype=dtype,
            n_explored=rank_of(x, rounding_of(dtype, *x.shape))))
    else:
        outcome = in_units(buckets, lambda scaled: fit_exact(
            spec.method, scaled, folds, rank=spec.asked.rank, dtype=dtype))
    return _done(outcome, g @ outcome.vectors, buckets, partial.stats, ReadStats(),
                 {"basis": begin, "fit": begin, "solve": time.time()})


def _triangle_of(held: ReducedPairs, g: np.ndarray) -> Triangle:
    """Pairs that were only scaled by their root weights, in the coordinates of G."""
    one = held.one.astype(np.float64)
    x, y = held.x.astype(np.float64), held.y.astype(np.float64)
    rows = np.concatenate([one[:, None], x @ g, y @ g], axis=1)
    lengths = np.linalg.norm(x, axis=1)
    return Triangle(rows, one @ x, one @ y, float(np.sum(y**2)), held.n_pairs,
                    float(np.sum(lengths**2)), float(np.sum(lengths)))


def _done(outcome: Fit, eigenvectors: np.ndarray, buckets: dict[int, Triangle],
          basis_stats: ReadStats, fit_stats: ReadStats, times: dict[str, float]) -> Solved:
    solved = ReadStats(peak_worker_bytes=process.peak_bytes())
    digest = hashlib.sha256()
    for bucket in buckets.values():
        digest.update(np.float64(bucket.energy).tobytes())
        digest.update(np.ascontiguousarray(bucket.sum_x).tobytes())
        digest.update(np.ascontiguousarray(bucket.sum_y).tobytes())
    return Solved(outcome, eigenvectors, basis_stats.merge(solved), fit_stats,
                  sum(t.n_pairs for t in buckets.values()), digest.hexdigest(), times)


def _tell(spec: Spec, event: progress.Event) -> None:
    if spec.watched:
        progress.emit(spec.run_id, event)


def _group(bucket: int) -> int:
    return HELD_OUT if bucket % HELD_OUT_EVERY == 0 else TRAIN


def _device(spec: Spec) -> Device:
    process.pin_blas_threads()
    return pick_device(spec.device)


def _hashes(block: Block) -> RowHashes:
    """Of rows that say something: padding, of no weight or with x = 0, repeats nothing."""
    told = np.ones(len(block.x), dtype=bool) if block.weight is None else block.weight > 0
    told[_zero_rows(block.x)] = False
    return RowHashes.of(block.x, block.y) if told.all() else RowHashes.of(
        block.x[told], block.y[told])


def _zero_rows(a: np.ndarray) -> np.ndarray:
    suspects = np.flatnonzero(a[:, 0] == 0)
    return suspects[~a[suspects].any(axis=1)]
