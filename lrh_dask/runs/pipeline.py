"""One run: pairs -> basis -> tree -> triangle -> tree -> solve, a Dask graph a stage.

Tasks read their own rows; only states travel. The same graphs run on a cluster (a Dask client
is current) or in this process.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from distributed import get_client
from distributed.system import MEMORY_LIMIT

from lrh_dask.errors import LrhError, RunFailed, SettingsError, explain
from lrh_dask.runs import process, progress
from lrh_dask.runs.budget import Plan, Route, plan_run
from lrh_dask.runs.by_features import fit_by_features
from lrh_dask.runs.dashboard import run_span
from lrh_dask.runs.graph import Stages
from lrh_dask.runs.kept import Kept
from lrh_dask.runs.memory import Shape
from lrh_dask.runs.refusals import refuse_incomplete
from lrh_dask.runs.rounds import fit_in_basis
from lrh_dask.runs.shards import Partition, partition
from lrh_dask.runs.spec import Spec
from lrh_dask.runs.tasks import Short, Solved
from lrh_dask.statistics.asked import asked_of
from lrh_dask.statistics.hessian import LowRankHessian
from lrh_dask.statistics.sizes import FAR
from lrh_dask.statistics.verdicts import Verdict
from lrh_dask.stores.blocks import is_dask
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.unchanged import Unchanged

__all__ = ["Method", "assemble", "carry_out", "current_client", "fit", "guarded", "new_run_id",
           "price"]

Method = Literal["symmetric", "seed", "least_norm"]
MOST_DUPLICATES = 0.01
"""Share of repeated rows above which held-out pairs are no judges."""
N_LISTED = 3
DASK_ARRAY_BYTES = 48 * 2**20
"""What `import dask.array` takes in a worker, where nothing else does it."""


def fit(pairs: Pairs, *, rank: int | Literal["auto"] = "auto",
        basis: int | Literal["auto"] = "auto", method: Method = "symmetric",
        center: bool | Literal["auto"] = "auto", rtol: float | None = None, psd: bool = False,
        weighting: Literal["stored", "step"] = "stored",
        device: Literal["auto", "cpu", "gpu"] = "auto", states: str | Path | None = None,
        bad_rows: Literal["fail", "skip"] = "fail",
        on_event: Callable[[progress.Event], None] | None = None) -> LowRankHessian:
    """The low-rank Hessian of stored pairs, with certificates.

    Runs on the current Dask client's cluster, or without one in this process. Two calls with
    the same pairs and settings give the same bits on the same kind of device.

    Args:
        pairs: n pairs over D features (:func:`open_pairs`, or :class:`Pairs` of arrays).
        rank: eigenvalues wanted, or ``auto``: as many as held-out pairs support; of pairs without
            noise, as many as they determine.
        basis: columns to fit in, at most; D of them are all of R^D. ``auto``: all of R^D where D
            is small enough, else as many dominant directions of y as the price allows.
        method: ``symmetric`` (always safe), ``seed`` or ``least_norm`` (few exact pairs).
        center: whether y = H x + b has an offset b; ``auto`` lets held-out pairs decide.
        rtol: instead of a rank: the smallest one whose residual ‖Y - HX - b‖ / ‖Y - b‖, over all
            pairs and held out, is at most this; a notice says where none is.
        psd: H is known to have no negative curvature.
        weighting: ``step`` divides weights by ‖x‖², for noise that grows with the step; residuals
            are then in that weighting. ``stored`` takes the weights of the store, or none.
        device: where blocks are reduced; ``auto`` takes a GPU where one is usable.
        states: folder in which states of runs of shards are kept while the run goes; a call with
            the same one goes on from those that are there, whatever ended the run before. Remove
            it when the result is saved.
        bad_rows: whether rows that hold NaN or Inf are an error, or are left out, counted by shard
            in ``provenance["skipped"]``.
        on_event: called with each :class:`lrh_dask.runs.progress.Event`.
    Returns:
        H = U diag(s) Uᵀ with U (D, r), s (r,) in units of y per unit of x.
    Raises:
        SettingsError: a setting is impossible for these pairs or workers.
        BadPairs: the data cannot be used (the message names rows or chunks).
        RunFailed: the cluster was lost.
    Source: docs in :mod:`lrh_dask.linalg.solve` for the fit, in
        :mod:`lrh_dask.statistics.selection` for the choices.
    """
    started = time.time()
    asked = asked_of(rank=rank, basis=basis, method=method, center=center, rtol=rtol, psd=psd,
                     weighting=weighting, device=device)
    client, pairs = current_client(), replace(pairs, bad_rows=bad_rows)
    plan, split = price(pairs, rank=asked.rank, basis=None if basis == "auto" else basis,
                        method=method, client=client)
    spec = Spec(new_run_id(), method, asked, plan.route, plan.max_basis, device,
                str(pairs.stored_dtype), pairs.n_pairs, watched=on_event is not None,
                weighting=weighting)
    unchanged = Unchanged(pairs, split.ledger)  # before it is told which states are of these rows
    kept = None if states is None else Kept(Path(states), pairs)
    stages = Stages(pairs, client, spec.run_id, kept)
    with progress.watch(client, spec.run_id, on_event), run_span(spec.run_id), guarded():
        solved = carry_out(stages, pairs, split, spec, plan)
        unchanged.refuse_changed()
    plan = replace(plan, n_tasks=stages.n_tasks)
    return assemble(pairs, plan, split, spec, solved, started, {
        "rank": rank, "basis": basis, "method": method, "center": center, "rtol": rtol, "psd": psd,
        "weighting": weighting, "device": device, "bad_rows": bad_rows},
        None if kept is None else kept.tokens.lasting([(0, pairs.n_pairs)]))


def price(pairs: Pairs, *, rank: int | None, method: str, basis: int | None = None,
          client: Any = None, worker_bytes: int | None = None, threads: int = 1,
          split: Partition | None = None) -> tuple[Plan, Partition]:
    """The plan and partition of a run, from shapes alone.

    Args:
        client: a Dask client, whose smallest worker sets memory and threads.
        worker_bytes: memory of a worker; None is that of this machine.
        split: which rows are counted, and how; None is all.
    Raises:
        SettingsError: see :func:`lrh_dask.runs.budget.plan_run`.
    """
    split = split or partition(pairs.n_pairs, pairs.blocks.rows, pairs.row_bytes,
                               one_block=is_dask(pairs.x))
    held_bytes = DASK_ARRAY_BYTES if is_dask(pairs.x) else 0
    if client is not None:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [w["memory_limit"] for w in workers if w["memory_limit"]]
        worker_bytes = min(limits, default=None)
        threads = max((w["nthreads"] for w in workers), default=1)
        if pairs.in_memory:  # sent to the workers beforehand
            held_bytes += pairs.n_pairs * pairs.row_bytes
    elif worker_bytes is None:
        worker_bytes = MEMORY_LIMIT
    blocks = pairs.blocks
    shape = Shape(
        split.n_pairs, pairs.n_features, blocks.itemsize, blocks.rows, blocks.columns,
        blocks.n_ahead, max(len(run.blocks) for run in split.runs), len(split.buckets),
        run_buckets=max(len({piece.bucket for piece in run.pieces}) for run in split.runs),
        threads=threads,
        held_bytes=held_bytes, weight_bytes=blocks.weight_bytes, decoded=blocks.are_decoded,
        streamed=pairs.can_stream, chunk_columns=blocks.chunk_columns)
    return plan_run(shape, split, method=method, rank=rank, basis=basis,
                    worker_bytes=worker_bytes), split


def new_run_id() -> str:
    """The name of a run: when it began, and what tells it from others of that second."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def current_client() -> Any:
    """The Dask client of this process; None where there is none, or in a task.

    Raises:
        SettingsError: it is an asynchronous one.
    """
    if process.in_worker():  # inside a task: waiting for other tasks could wait for ever
        return None
    try:
        client = get_client()
    except ValueError:
        return None
    if client.asynchronous:
        raise SettingsError(explain(
            "fit", expected="a synchronous Dask client, or none",
            got="an asynchronous one", consequence="Nothing was started",
            fix="Call it with `Client(address)` made outside of the event loop, for example "
                "through `asyncio.to_thread`"))
    return None if client.status in {"closing", "closed"} else client


def carry_out(stages: Stages, pairs: Pairs, split: Partition, spec: Spec, plan: Plan) -> Solved:
    """Go the way of the plan over all pairs of the partition."""
    if spec.route is Route.whole_pairs:
        return stages.solve_whole(split.runs, spec)
    if spec.route is Route.by_features:
        return fit_by_features(stages, pairs, split, spec)
    if spec.route is Route.fitted_basis:
        return fit_in_basis(stages, pairs, split, spec, all_features_too=plan.all_features_too)
    solved = stages.solve(split, spec, None)
    assert not isinstance(solved, Short)
    return solved


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """What fails in the block is said so that a person can act on it.

    Raises:
        RunFailed: the cluster was lost, or it failed for no known reason.
    """
    try:
        yield
    except LrhError:
        raise
    except Exception as error:
        raise _explained(error) from error


def _explained(error: Exception) -> LrhError:
    name = type(error).__name__
    lost = name in {"CancelledError", "FutureCancelledError", "CommClosedError", "KilledWorker",
                    "TimeoutError"}
    fix = ("A worker or the scheduler was lost (out of memory, or killed): look at its log, then "
           "run again") if lost else (
           "Install the same lrh_dask on every worker as here"
           if isinstance(error, ImportError) else
           "This is not a known failure: please report it with the message above")
    return RunFailed(explain(
        "run", expected="the cluster to carry it through", got=f"{name}: {error}",
        consequence="No result was written", fix=fix))


def assemble(pairs: Pairs, plan: Plan, split: Partition, spec: Spec, solved: Solved,
             started: float, settings: dict[str, Any], rows: str | None = None) -> LowRankHessian:
    """The result as a user gets it, with everything needed to judge and repeat it.

    Args:
        rows: digest of what their chunks were, where it is known.
    Raises:
        RunFailed: not every pair was counted exactly once.
    """
    last = solved.fit_stats if solved.fit_stats.n_pairs else solved.basis_stats
    n_pairs = split.n_pairs
    refuse_incomplete("rows", solved.ledger, split.ledger)
    counted = n_pairs - last.zero_weight_rows - last.n_skipped
    if solved.n_pairs != counted:
        raise RunFailed(explain(
            "run", expected=f"{counted} pairs counted once each", got=f"{solved.n_pairs}",
            consequence="The result would be wrong and was dropped",
            fix="Please report this"))
    outcome, times = solved.fit, solved.times
    both = solved.basis_stats.merge(solved.fit_stats)
    seconds = {"total": time.time() - started, "read": both.read_seconds,
               "basis": max(times["basis"] - started, 0.0) if plan.route is not Route.all_features
               else 0.0,
               "fit": max(times["fit"] - times["basis"], 0.0)
               if plan.route is not Route.all_features else max(times["fit"] - started, 0.0),
               "solve": max(times["solve"] - times["fit"], 0.0)}
    notices = pairs.notices() + [plan.notice] * bool(plan.notice) + list(
        solved.notices + outcome.notices + both.said)
    if last.zero_weight_rows:
        notices.append(f"{last.zero_weight_rows} of {n_pairs} rows have weight 0 and do not count")
    if last.skipped:
        shards = [(start, stop - 1) for start, stop, _ in last.skipped]
        notices.append(f"{last.n_skipped} of {n_pairs} rows hold NaN or Inf and were left out (in "
                       f"the shards of rows {_listed(shards)})")
    notices += [f"{count} of {n_pairs} rows of {label} are all zero (counted)"
                for label, count in (("x", last.zero_x_rows), ("y", last.zero_y_rows)) if count]
    notices += [f"{count} of {n_pairs} rows of {label} are more than {2**FAR:,} times longer or "
                "shorter than the median (counted): look at their unit"
                for label, count in (("x", last.x_sizes.n_far), ("y", last.y_sizes.n_far)) if count]
    notices += [f"bucket {bucket} (rows {_listed(split.rows_of(bucket))}) is explained much worse "
                "than the others: look at those pairs"
                for bucket in outcome.certificates.outlier_buckets]
    repeated = last.n_duplicates
    certificates = replace(outcome.certificates, n_duplicates=repeated,
                           n_zero_x=last.zero_x_rows, n_zero_y=last.zero_y_rows,
                           n_far_x=last.x_sizes.n_far, n_far_y=last.y_sizes.n_far,
                           n_skipped=last.n_skipped)
    errors = outcome.standard_errors
    if repeated > MOST_DUPLICATES * n_pairs:
        said = (f"{repeated:,} of {n_pairs:,} rows repeat others: pairs held out are not "
                "new then")
        notices.append(f"{said}, so the held-out residual is too good. Remove them")
        if certificates.verdict is not Verdict.inconsistent:
            certificates = replace(certificates, verdict=Verdict.underdetermined)
        certificates = replace(certificates, standard_error_note=f"{said}, no error is honest")
        errors = np.full_like(errors, np.nan)
    return LowRankHessian(
        eigenvalues=outcome.eigenvalues, standard_errors=errors,
        eigenvectors=solved.eigenvectors, n_pairs=solved.n_pairs, certificates=certificates,
        offset=solved.offset,
        curves={"bias": outcome.bias, "sign_margins": outcome.margins,
                "residual_by_rank": outcome.residual_by_rank,
                "residual_by_rank_error": outcome.residual_by_rank_error,
                "bucket_residuals": outcome.bucket_residuals},
        provenance={
            "run": spec.run_id, "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "store": pairs.name, "snapshot": pairs.snapshot, "settings": settings, "rows": rows,
            "skipped": [{"start": a, "stop": b, "n": n} for a, b, n in last.skipped],
            "route": plan.route.name,
            "fingerprint": hashlib.sha256(
                (pairs.fingerprint() + solved.content).encode()).hexdigest(),
            "versions": dict(_versions()), "seconds": seconds,
            "bytes": {"basis": solved.basis_stats.n_bytes, "fit": solved.fit_stats.n_bytes},
            "bytes_read": both.n_bytes, "n_tasks": plan.n_tasks,
            "peak_worker_bytes": both.peak_worker_bytes, "notices": notices,
            "plan": {**asdict(plan), "route": plan.route.name}})


def _listed(rows: list[tuple[int, int]]) -> str:
    more = f" and {len(rows) - N_LISTED} more pieces" if len(rows) > N_LISTED else ""
    return ", ".join(f"{first}-{last}" for first, last in rows[:N_LISTED]) + more


@cache
def _versions() -> dict[str, str]:
    packages = ("lrh-dask", "numpy", "scipy", "zarr", "dask", "distributed")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
