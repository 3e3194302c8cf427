"""One job as the command line asks for it: its settings, its price, its run, what is kept."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from dask.utils import parse_bytes
from distributed.system import MEMORY_LIMIT

from lrh_dask.clusters.cluster import connect, default_workers
from lrh_dask.errors import LrhError
from lrh_dask.reports.screen import Screen, size
from lrh_dask.runs.budget import Plan
from lrh_dask.runs.dashboard import dashboard_of, performance_report
from lrh_dask.runs.pipeline import fit, price
from lrh_dask.runs.shards import Partition
from lrh_dask.settings.cluster_settings import QUEUES, ClusterSettings
from lrh_dask.settings.config import RunSettings
from lrh_dask.statistics.hessian import LowRankHessian
from lrh_dask.stores.opening import open_pairs
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.results import is_result, save_result
from lrh_dask.stores.writing import refuse_existing, refuse_unwritable

__all__ = ["Stopped", "fit_job", "keep", "price_of", "run_job"]


class Stopped(LrhError):
    """The user pressed Ctrl-C."""

    exit_code = 130

    def __str__(self) -> str:
        return "stopped by the user; no result was written"


def run_job(settings: RunSettings, screen: Screen, *,
            report: Path | None = None) -> LowRankHessian:
    """Carry out a job; all that can be refused without reading pairs is refused first.

    Args:
        report: where Dask's report of the run goes.
    Raises:
        LrhError: see :func:`lrh_dask.fit`; SettingsError also where the result cannot go.
    """
    path = settings.result_path
    refuse_existing(path, overwrite=settings.overwrite, is_ours=is_result)
    refuse_unwritable(path)
    if report is not None:
        refuse_unwritable(report, fix="Choose another place with --performance-report")
    pairs = open_pairs(settings.store, x=settings.x, y=settings.y)
    if settings.cluster.kind == "local":  # too dear a run ends before a cluster starts
        price_of(pairs, settings)
    with connect(settings.cluster, screen.say) as client:
        screen.say(dashboard_of(client))
        with performance_report(report, screen.say):
            return fit_job(pairs, settings, screen)


def price_of(pairs: Pairs, settings: RunSettings) -> tuple[Plan, Partition]:
    """The price of a run on the cluster that the settings ask for.

    Raises:
        SettingsError: the rank is out of reach, or the workers are too small.
    """
    return price(pairs, rank=None if settings.rank == "auto" else settings.rank,
                 basis=None if settings.basis == "auto" else settings.basis,
                 method=settings.method, threads=settings.cluster.threads_per_worker,
                 worker_bytes=_worker_bytes(settings.cluster))


def _worker_bytes(cluster: ClusterSettings) -> int:
    """Memory of a worker; no limit where settings do not tell it of other machines."""
    if cluster.memory_limit is not None:
        return int(parse_bytes(cluster.memory_limit))
    if cluster.kind == "local":
        return int(MEMORY_LIMIT // (cluster.workers or default_workers()))
    if cluster.kind in QUEUES and "memory" in cluster.options:
        processes = cluster.options.get("processes", cluster.options.get("cores", 1))
        return int(parse_bytes(cluster.options["memory"]) // processes)
    return sys.maxsize


def fit_job(pairs: Pairs, settings: RunSettings, screen: Screen) -> LowRankHessian:
    """Fit on the current client, showing progress; the result carries all settings.

    Raises:
        LrhError: see :func:`lrh_dask.fit`.
        Stopped: the user pressed Ctrl-C.
    """
    screen.say(f"{pairs.name}: {pairs.n_pairs:,} pairs over {pairs.n_features:,} features, "
               f"{pairs.dtype}, {size(pairs.stored_bytes)}")
    try:
        with screen.stages(pairs.n_pairs) as stages:
            hessian = fit(pairs, rank=settings.rank, basis=settings.basis, method=settings.method,
                          center=settings.center, rtol=settings.rtol, psd=settings.psd,
                          weighting=settings.weighting, device=settings.device,
                          on_event=stages.event)
    except KeyboardInterrupt:
        raise Stopped from None
    return replace(hessian, provenance={**hessian.provenance, "settings": settings.model_dump()})


def keep(hessian: LowRankHessian, settings: RunSettings) -> Path:
    """Write the result where the settings say.

    Raises:
        SettingsError: the place is taken or cannot be written.
    """
    return save_result(hessian, settings.result_path, overwrite=settings.overwrite)
