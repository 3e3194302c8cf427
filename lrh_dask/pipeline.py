"""One run: pairs -> basis -> tree -> triangle -> tree -> solve, as one Dask graph.

Tasks read their own rows; only states travel. The same graph runs on a cluster (a Dask client
is current) or in this process.
"""

from __future__ import annotations

import hashlib
import platform
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import reduce
from typing import Any, Literal

import numpy as np
from dask._task_spec import Task, TaskRef

from lrh_dask import process, progress
from lrh_dask.arrays import Device, pick_device
from lrh_dask.budget import SLAB_BYTES, Plan, Route, plan_run
from lrh_dask.errors import BadPairs, LrhError, RunFailed, SettingsError, explain
from lrh_dask.exact_pairs import gram_schmidt_basis
from lrh_dask.fitting import Fit, fit_exact, fit_symmetric, rotating_folds
from lrh_dask.hessian import LowRankHessian
from lrh_dask.pairs import Block, Pairs, is_dask, slice_in_memory
from lrh_dask.reduced_pairs import ReducedPairs, reduce_pairs
from lrh_dask.scree import basis_size
from lrh_dask.selection import Fold
from lrh_dask.shards import Partition, Run, partition
from lrh_dask.tree import Partial, ReadStats, producer, tree_reduce
from lrh_dask.triangle import Triangle, reduce_to_triangle

__all__ = ["Method", "fit", "price"]

Method = Literal["symmetric", "seed", "least_norm"]
HELD_OUT_EVERY = 5
"""Every fifth bucket is held out of a fitted basis."""
TRAIN, HELD_OUT = 0, 1


@dataclass(frozen=True)
class _Spec:
    """What every task of a run is told."""

    run_id: str
    method: str
    rank: int | None
    center: bool | None
    route: Route
    max_basis: int
    device: str
    dtype: str


@dataclass(frozen=True, eq=False)
class _Basis:
    """What the basis stage hands to the fit stage."""

    q: np.ndarray | None  # (D, k)
    tail: float
    stats: ReadStats
    finished: float

    def __sizeof__(self) -> int:
        return 200 + (0 if self.q is None else self.q.nbytes)


@dataclass(frozen=True, eq=False)
class _Solved:
    """What comes back to the driver."""

    fit: Fit
    eigenvectors: np.ndarray
    basis_stats: ReadStats
    fit_stats: ReadStats
    n_pairs: int
    content: str
    times: dict[str, float]


def fit(pairs: Pairs, *, rank: int | Literal["auto"] = "auto", method: Method = "symmetric",
        center: bool | Literal["auto"] = "auto", device: Literal["auto", "cpu", "gpu"] = "auto",
        on_plan: Callable[[Plan], None] | None = None,
        on_event: Callable[[progress.Event], None] | None = None) -> LowRankHessian:
    """The low-rank Hessian of stored pairs, with certificates.

    Runs on the current Dask client's cluster, or without one in this process. Two calls with
    the same pairs and settings give the same bits on the same kind of device.

    Args:
        pairs: n pairs over D features (:func:`open_pairs`, or :class:`Pairs` of arrays).
        rank: eigenvalues wanted, or ``auto``: as many as held-out pairs support.
        method: ``symmetric`` (always safe), ``seed`` or ``least_norm`` (few exact pairs).
        center: whether y = H x + b has an offset b; ``auto`` lets held-out pairs decide.
        device: where blocks are reduced; ``auto`` takes a GPU where one is usable.
        on_plan: called with the :class:`lrh_dask.budget.Plan` before anything is read.
        on_event: called with each :class:`lrh_dask.progress.Event`.
    Returns:
        H = U diag(s) Uᵀ with U (D, r), s (r,) in units of y per unit of x.
    Raises:
        SettingsError: a setting is impossible for these pairs or workers.
        BadPairs: the data cannot be used (the message names rows or chunks).
        RunFailed: the cluster was lost.
    Source: docs in :mod:`lrh_dask.solve` for the fit, :mod:`lrh_dask.selection` for the choices.
    """
    started = time.time()
    wanted_rank, wanted_center = check_settings(rank, method, center)
    client = _current_client()
    plan, split = price(pairs, rank=wanted_rank, method=method, client=client)
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    spec = _Spec(run_id, method, wanted_rank, wanted_center, plan.route, plan.max_basis, device,
                 str(pairs.dtype))
    graph, root = _graph(pairs, split, spec, client)
    if on_plan is not None:
        on_plan(plan)
    with progress.watch(client, run_id, on_event):
        try:
            solved = _compute(client, graph, root)
        except LrhError:
            raise
        except Exception as error:
            raise _explained(error) from error
    return _assemble(pairs, plan, spec, solved, started, {
        "rank": rank, "method": method, "center": center, "device": device})


def check_settings(rank: object, method: object,
                   center: object) -> tuple[int | None, bool | None]:
    """Settings as the fit takes them: None stands for ``auto``.

    Raises:
        SettingsError: one of them is none of those allowed.
    """
    if rank != "auto" and (isinstance(rank, bool) or not isinstance(rank, (int, np.integer))
                           or rank < 1):
        raise SettingsError(explain("rank", expected="'auto' or a whole number >= 1",
                                    got=repr(rank), consequence="Nothing was started",
                                    fix="Give the number of eigenvalues you want"))
    if method not in ("symmetric", "seed", "least_norm"):
        raise SettingsError(explain("method", expected="symmetric, seed or least_norm",
                                    got=repr(method), consequence="Nothing was started",
                                    fix="`symmetric` is always safe"))
    if center != "auto" and not isinstance(center, (bool, np.bool_)):
        raise SettingsError(explain("center", expected="'auto', True or False", got=repr(center),
                                    consequence="Nothing was started", fix="Use 'auto'"))
    return (None if rank == "auto" else int(rank), None if center == "auto" else bool(center))  # type: ignore[call-overload]


def price(pairs: Pairs, *, rank: int | None, method: str, client: Any = None,
          worker_bytes: int | None = None, threads: int = 1) -> tuple[Plan, Partition]:
    """The plan and partition of a run, from shapes alone.

    Args:
        client: a Dask client, whose smallest worker sets memory and threads.
    Raises:
        SettingsError: see :func:`lrh_dask.budget.plan_run`.
    """
    split = partition(pairs.n_pairs, pairs.chunk_rows, pairs.row_bytes,
                      **({"run_bytes": 1} if is_dask(pairs.x) else {}))
    if client is not None:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [w["memory_limit"] for w in workers if w["memory_limit"]]
        worker_bytes = min(limits, default=None)
        threads = max((w["nthreads"] for w in workers), default=1)
    plan = plan_run(pairs.n_pairs, pairs.n_features, pairs.dtype.itemsize, pairs.chunk_rows,
                    split, method=method, rank=rank, threads=threads, worker_bytes=worker_bytes)
    return plan, split


def _graph(pairs: Pairs, split: Partition, spec: _Spec, client: Any) -> tuple[dict[Any, Any], str]:
    """The whole run as one graph; the name of its last task."""
    name = uuid.uuid4().hex
    graph: dict[Any, Any] = {}
    # Runs of one bucket are neighbours in the tree, so that they merge early; the order, and
    # with it the bits, depends on the partition alone.
    order = sorted(split.runs, key=lambda run: (run.pieces[0].bucket, run.index))
    source = _sources(pairs, split, graph, client)

    def stage(kind: str, leaf: Callable[..., Partial], *extra: Any) -> str:
        keys = []
        for run in order:
            key = f"lrh-{kind}-{name}-{run.index}"
            graph[key] = producer(key, leaf, source[run.index], run, spec, *extra)
            keys.append(key)
        merges, root = tree_reduce(keys, _merge, f"lrh-merge-{name}-{kind}")
        graph.update(merges)
        return root

    solve = f"lrh-solve-{name}"
    if spec.route is Route.all_features:
        root = stage("fit", _fit_leaf, None)
        graph[solve] = Task(solve, _solve, TaskRef(root), None, spec)
        return graph, solve
    root = stage("basis", _basis_leaf)
    if spec.route is Route.whole_pairs:
        graph[solve] = Task(solve, _solve_whole, TaskRef(root), spec)
        return graph, solve
    basis = f"lrh-orth-{name}"
    graph[basis] = Task(basis, _finish_basis, TaskRef(root), spec)
    root = stage("fit", _fit_leaf, TaskRef(basis))
    graph[solve] = Task(solve, _solve, TaskRef(root), TaskRef(basis), spec)
    return graph, solve


def _sources(pairs: Pairs, split: Partition, graph: dict[Any, Any],
             client: Any) -> dict[int, Any]:
    """What each run is given to read from: an address, a slice, or blocks of a dask array."""
    if not is_dask(pairs.x) and not is_dask(pairs.y):
        parts = [pairs.part(run.blocks[0][0], run.blocks[-1][1]) for run in split.runs]
        if client is not None and parts[0] is not pairs:  # arrays in memory go out beforehand
            parts = client.scatter(parts, hash=False)
        return {run.index: part for run, part in zip(split.runs, parts, strict=True)}
    import dask.array as da

    arrays = [da.asarray(a) for a in (pairs.x, pairs.y)]
    if pairs.weight is not None:
        arrays.append(da.asarray(pairs.weight))
    sources = {}
    for run in split.runs:
        start, stop = run.blocks[0][0], run.blocks[-1][1]
        cuts = [a[start:stop].rechunk(-1) for a in arrays]
        for cut in cuts:
            graph.update(cut.__dask_graph__())
        keys = [_first(cut.__dask_keys__()) for cut in cuts]
        key = f"lrh-block-{uuid.uuid4().hex}"
        graph[key] = Task(key, slice_in_memory, pairs.name, start, *(TaskRef(k) for k in keys))
        sources[run.index] = TaskRef(key)
    return sources


def _first(keys: Any) -> Any:
    while isinstance(keys, list):
        keys = keys[0]
    return keys


# -- tasks: what runs on a worker ---------------------------------------------------------------


def _read_ahead(pairs: Pairs, run: Run) -> Iterator[Block]:
    """The blocks of a run, the next one being read while this one is computed on."""
    with ThreadPoolExecutor(1, thread_name_prefix="lrh-read") as pool:
        pending = pool.submit(pairs.read, *run.blocks[0])
        for following in (*run.blocks[1:], None):
            block = pending.result()
            if following is not None:
                pending = pool.submit(pairs.read, *following)
            yield block


def _fold(pairs: Pairs, run: Run, spec: _Spec, stage: str, slab_rows: int,
          reduce_slab: Callable[[Any, Any, Any], Any], bucket_of: Callable[[int], int],
          device: Device) -> Partial:
    """Read a run block by block and fold its rows, slab by slab, into one state a bucket."""
    states: dict[int, Any] = {}
    stats = ReadStats()
    for block in _read_ahead(pairs, run):
        end = block.start + len(block.x)
        for piece in run.pieces:
            first, last = max(piece.start, block.start), min(piece.stop, end)
            for start in range(first, last, slab_rows):
                slab = block.rows(start, min(start + slab_rows, last))
                weight = None if slab.weight is None else device.put(slab.weight)
                state = reduce_slab(device.put(slab.x), device.put(slab.y), weight)
                bucket = bucket_of(piece.bucket)
                states[bucket] = states[bucket].merge(state) if bucket in states else state
        stats = stats.merge(ReadStats(
            len(block.x), block.n_bytes, block.seconds, _zero_rows(block.x), _zero_rows(block.y),
            process.peak_bytes()))
    progress.emit(spec.run_id, progress.Event(stage, run.index, stats.n_pairs, stats.n_bytes))
    return Partial({bucket: state.to_host() for bucket, state in sorted(states.items())}, stats)


def _basis_leaf(pairs: Pairs, run: Run, spec: _Spec) -> Partial:
    device = _device(spec)
    max_rank = run.n_pairs if spec.route is Route.whole_pairs else spec.max_basis
    rows = max(4 * max_rank, SLAB_BYTES // pairs.row_bytes)
    return _fold(pairs, run, spec, "basis", rows,
                 lambda x, y, weight: reduce_pairs(x, y, weight, max_rank=max_rank),
                 (lambda b: b) if spec.route is Route.whole_pairs else _group, device)


def _fit_leaf(pairs: Pairs, run: Run, spec: _Spec, basis: _Basis | None) -> Partial:
    device = _device(spec)
    q = None if basis is None or basis.q is None else device.put(
        basis.q.astype(pairs.dtype, copy=False))
    k = pairs.n_features if q is None else int(q.shape[1])
    rows = max(2 * (2 * k + 1), SLAB_BYTES // pairs.row_bytes)
    return _fold(pairs, run, spec, "fit", rows,
                 lambda x, y, weight: reduce_to_triangle(x, y, q, weight), lambda b: b, device)


def _merge(*partials: Partial) -> Partial:
    process.pin_blas_threads()
    return reduce(Partial.merge, partials)


def _finish_basis(partial: Partial, spec: _Spec) -> _Basis:
    """Q from the training group, cut to the size that held-out gradients reward."""
    process.pin_blas_threads()
    train = partial.states[TRAIN]
    q, _ = train.basis()
    held_out = partial.states.get(HELD_OUT, ReducedPairs.empty(train.x, spec.max_basis))
    k = basis_size(q, held_out, rank=spec.rank)
    return _Basis(np.ascontiguousarray(q[:, :k]), train.tail, partial.stats, time.time())


def _solve(partial: Partial, basis: _Basis | None, spec: _Spec) -> _Solved:
    """Choose, solve and certify from the buckets' triangles."""
    begin = time.time()
    process.pin_blas_threads()
    progress.emit(spec.run_id, progress.Event("solve", 0, 0, 0))
    buckets: dict[int, Triangle] = partial.states
    _refuse_zero_x(partial.stats)
    q = None if basis is None else basis.q
    if q is None:
        folds = rotating_folds(buckets)
    else:  # the basis has seen the noise of its own pairs: judge on the others only
        held_out = tuple(b for b in buckets if _group(b) == HELD_OUT)
        folds = [Fold(tuple(b for b in buckets if b not in held_out), held_out)]
    outcome = fit_symmetric(buckets, folds, rank=spec.rank, center=spec.center,
                            nested=q is not None, lossless=q is None,
                            tail=0.0 if basis is None else basis.tail)
    lifted = outcome.vectors if q is None else q @ outcome.vectors
    return _done(outcome, lifted, buckets, ReadStats() if basis is None else basis.stats,
                 partial.stats, {"basis": begin if basis is None else basis.finished,
                                 "fit": begin, "solve": time.time()})


def _solve_whole(partial: Partial, spec: _Spec) -> _Solved:
    """Few pairs: their own Gram-Schmidt basis G of [X Y] loses nothing, and the rest is the same."""
    begin = time.time()
    process.pin_blas_threads()
    progress.emit(spec.run_id, progress.Event("solve", 0, 0, 0))
    _refuse_zero_x(partial.stats)
    held: dict[int, ReducedPairs] = partial.states
    x = np.concatenate([s.x for s in held.values()]).astype(np.float64)
    y = np.concatenate([s.y for s in held.values()]).astype(np.float64)
    g = gram_schmidt_basis(x, y) if 2 * len(x) < x.shape[1] else np.eye(x.shape[1])
    buckets = {b: _triangle_of(s, g) for b, s in held.items()}
    folds = rotating_folds(buckets)
    if spec.method == "symmetric":
        outcome = fit_symmetric(buckets, folds, rank=spec.rank, center=spec.center, nested=False,
                                lossless=True)
    else:
        outcome = fit_exact(spec.method, buckets, folds, rank=spec.rank,
                            dtype=np.dtype(spec.dtype))
    return _done(outcome, g @ outcome.vectors, buckets, partial.stats, ReadStats(),
                 {"basis": begin, "fit": begin, "solve": time.time()})


def _triangle_of(held: ReducedPairs, g: np.ndarray) -> Triangle:
    """Pairs that were only scaled by their root weights, in the coordinates of G."""
    one = held.one.astype(np.float64)
    x, y = held.x.astype(np.float64), held.y.astype(np.float64)
    rows = np.concatenate([one[:, None], x @ g, y @ g], axis=1)
    return Triangle(rows, one @ x, one @ y, float(np.sum(y**2)), held.n_pairs)


def _done(outcome: Fit, eigenvectors: np.ndarray, buckets: dict[int, Triangle],
          basis_stats: ReadStats, fit_stats: ReadStats, times: dict[str, float]) -> _Solved:
    solved = ReadStats(peak_worker_bytes=process.peak_bytes())
    digest = hashlib.sha256()
    for bucket in buckets.values():
        digest.update(np.float64(bucket.energy).tobytes())
        digest.update(np.ascontiguousarray(bucket.sum_x).tobytes())
        digest.update(np.ascontiguousarray(bucket.sum_y).tobytes())
    return _Solved(outcome, eigenvectors, basis_stats.merge(solved), fit_stats,
                   sum(t.n_pairs for t in buckets.values()), digest.hexdigest(), times)


def _group(bucket: int) -> int:
    return HELD_OUT if bucket % HELD_OUT_EVERY == 0 else TRAIN


def _device(spec: _Spec) -> Device:
    process.pin_blas_threads()
    return pick_device(spec.device)


def _zero_rows(a: np.ndarray) -> int:
    suspects = np.flatnonzero(a[:, 0] == 0)
    return int(np.count_nonzero(~a[suspects].any(axis=1))) if suspects.size else 0


def _refuse_zero_x(stats: ReadStats) -> None:
    if stats.n_pairs and stats.zero_x_rows == stats.n_pairs:
        raise BadPairs(explain(
            "all pairs", expected="points or steps x that differ from zero",
            got=f"x = 0 in all {stats.n_pairs} rows",
            consequence="y = H 0 says nothing about H",
            fix="Check that x was written; for secant pairs it is the step, not its direction"))


# -- driver: what runs where `fit` was called ----------------------------------------------------


def _current_client() -> Any:
    try:
        from distributed import get_client
    except ImportError:
        return None
    try:
        return get_client()
    except ValueError:
        return None


def _compute(client: Any, graph: dict[Any, Any], root: str) -> _Solved:
    if client is None:
        from dask.local import get_sync
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, user_api="blas"):
            solved: _Solved = get_sync(graph, root)
        return solved
    future = client.get(graph, root, sync=False)
    try:
        solved = future.result()
    finally:
        future.release()
    return solved


def _explained(error: Exception) -> LrhError:
    name = type(error).__name__
    lost = name in {"CancelledError", "FutureCancelledError", "CommClosedError", "KilledWorker",
                    "TimeoutError"}
    return RunFailed(explain(
        "run", expected="the cluster to carry it through", got=f"{name}: {error}",
        consequence="No result was written",
        fix="A worker or the scheduler was lost (out of memory, or killed): look at its log, then "
            "run again" if lost else
            "This is not a known failure: please report it with the message above"))


def _assemble(pairs: Pairs, plan: Plan, spec: _Spec, solved: _Solved, started: float,
              settings: dict[str, Any]) -> LowRankHessian:
    """The result as a user gets it, with everything needed to judge and repeat it.

    Raises:
        RunFailed: not every pair was counted exactly once.
    """
    if solved.n_pairs != pairs.n_pairs:
        raise RunFailed(explain(
            "run", expected=f"{pairs.n_pairs} pairs counted once each", got=f"{solved.n_pairs}",
            consequence="The result would be wrong and was dropped",
            fix="Please report this"))
    outcome, times = solved.fit, solved.times
    u, s = solved.eigenvectors, outcome.eigenvalues
    offset = None
    if outcome.mean_x is not None and outcome.mean_y is not None:
        offset = outcome.mean_y - u @ (s * (u.T @ outcome.mean_x))   # b = ȳ - H x̄
    both = solved.basis_stats.merge(solved.fit_stats)
    seconds = {"total": time.time() - started, "read": both.read_seconds,
               "basis": max(times["basis"] - started, 0.0) if plan.route is not Route.all_features
               else 0.0,
               "fit": max(times["fit"] - times["basis"], 0.0)
               if plan.route is not Route.all_features else max(times["fit"] - started, 0.0),
               "solve": max(times["solve"] - times["fit"], 0.0)}
    notices = pairs.notices()
    last = solved.fit_stats if solved.fit_stats.n_pairs else solved.basis_stats
    notices += [f"{count} of {pairs.n_pairs} rows of {label} are all zero (counted)"
                for label, count in (("x", last.zero_x_rows), ("y", last.zero_y_rows)) if count]
    return LowRankHessian(
        eigenvalues=s, standard_errors=outcome.standard_errors, eigenvectors=u,
        n_pairs=solved.n_pairs, certificates=outcome.certificates, offset=offset,
        curves={"residual_by_rank": outcome.residual_by_rank,
                "residual_by_rank_error": outcome.residual_by_rank_error,
                "bucket_residuals": outcome.bucket_residuals},
        provenance={
            "run": spec.run_id, "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "store": pairs.name, "settings": settings, "route": plan.route.name,
            "fingerprint": hashlib.sha256(
                (pairs.fingerprint() + solved.content).encode()).hexdigest(),
            "versions": _versions(), "seconds": seconds,
            "bytes": {"basis": solved.basis_stats.n_bytes, "fit": solved.fit_stats.n_bytes},
            "bytes_read": both.n_bytes, "n_tasks": plan.n_tasks,
            "peak_worker_bytes": both.peak_worker_bytes, "notices": notices,
            "plan": {**asdict(plan), "route": plan.route.name}})


def _versions() -> dict[str, str]:
    import dask
    import scipy
    import zarr

    from lrh_dask import __version__

    return {"lrh_dask": __version__, "python": platform.python_version(),
            "numpy": np.__version__, "scipy": scipy.__version__, "zarr": zarr.__version__,
            "dask": dask.__version__}
