"""One job as the command line asks for it: its settings, its price, its run, what is kept."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from distributed.system import MEMORY_LIMIT

from lrh_dask.clusters.cluster import connect, default_workers
from lrh_dask.clusters.cluster_kinds import worker_of as asked_worker
from lrh_dask.errors import BadPairs, LrhError
from lrh_dask.reports.screen import Screen, size
from lrh_dask.runs.begun import Begun
from lrh_dask.runs.budget import Plan
from lrh_dask.runs.dashboard import dashboard_of, performance_report
from lrh_dask.runs.kept import remove_kept
from lrh_dask.runs.pipeline import fit, price
from lrh_dask.runs.shards import Partition
from lrh_dask.settings.cluster_settings import ClusterSettings
from lrh_dask.settings.config import RunSettings
from lrh_dask.statistics.hessian import LowRankHessian
from lrh_dask.stores.aside import refuse_existing, refuse_unwritable
from lrh_dask.stores.inside import refuse_links
from lrh_dask.stores.layout import is_zarr
from lrh_dask.stores.opening import open_pairs
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.results import is_result, load_result, save_result
from lrh_dask.stores.tokens import RowTokens

__all__ = ["Stopped", "fit_job", "keep", "price_of", "run_job", "worker_of"]


class Stopped(LrhError):
    """The user pressed Ctrl-C."""

    exit_code = 130

    def __str__(self) -> str:
        return "stopped by the user; no result was written"


def run_job(settings: RunSettings, screen: Screen, *,
            report: Path | None = None) -> LowRankHessian:
    """Carry out a job and write its result; what needs no pairs to be refused is refused first.

    Args:
        report: where Dask's report of the run goes.
    Raises:
        LrhError: see :func:`lrh_dask.fit`; SettingsError also where the result cannot go.
    """
    path = settings.result_path
    if not (settings.resume and is_result(path)):
        refuse_existing(path, overwrite=settings.overwrite, is_ours=is_result)
    refuse_unwritable(path)
    if report is not None:
        refuse_unwritable(report, fix="Choose another place with --performance-report")
    pairs, notices = _opened(settings)
    if settings.resume and is_result(path):
        if (found := _done_before(path, pairs, settings)) is not None:
            screen.say(f"{path} is the result of these pairs and settings: nothing is left to do")
            remove_kept(settings.states_path)
            return found
        refuse_existing(path, overwrite=settings.overwrite, is_ours=is_result)
    for said in notices:
        screen.say(f"Notice: {said}.")
    if worker_of(settings.cluster)[1] is not None:  # too dear a run ends before a cluster starts
        price_of(pairs, settings)
    if settings.resume:
        refuse_links(settings.states_path)
        with suppress(OSError):  # told by who keeps states there
            Begun.of(pairs, RowTokens(pairs),
                     settings=settings.of_result).note(settings.states_path)
    with connect(settings.cluster, screen.say) as client:
        screen.say(dashboard_of(client))
        with performance_report(report, screen.say):
            hessian = fit_job(pairs, settings, screen, notices)
    keep(hessian, settings)
    if settings.resume:
        remove_kept(settings.states_path)
    return hessian


def _opened(settings: RunSettings) -> tuple[Pairs, list[str]]:
    """The pairs to be counted: those that a run which goes on had begun with, and a notice of it.

    Raises:
        BadPairs: they cannot be opened.
    """
    def opened(snapshot: str | None = None) -> Pairs:
        return open_pairs(settings.store, x=settings.x, y=settings.y, snapshot=snapshot)

    now = opened()
    if not settings.resume:
        return now, []
    begun = Begun.noted(settings.states_path)
    if begun is None:
        return now, []
    pairs = begun.pairs_of(now, opened) if begun.settings == settings.of_result else None
    if pairs is None:
        return now, [f"{settings.states_path} is of a run of other pairs or settings, which was "
                     "broken off: this one begins anew"]
    more = now.n_pairs - pairs.n_pairs
    return pairs, [] if not more else [
        f"{more:,} pairs were appended since this run began: it goes on with the "
        f"{pairs.n_pairs:,} that there were. Another run counts all"]


def _done_before(path: Path, pairs: Pairs, settings: RunSettings) -> LowRankHessian | None:
    """The result at a path, if it is that of these pairs and settings."""
    tokens = RowTokens(pairs) if is_zarr(pairs.x) else None
    with suppress(BadPairs, KeyError, TypeError):
        found = load_result(path)
        theirs = found.provenance["settings"]
        if tokens is not None and tokens.tell and found.provenance["rows"] == tokens.lasting(
                [(0, pairs.n_pairs)]) and all(
                theirs[name] == value for name, value in settings.of_result.items()):
            return found
    return None


def price_of(pairs: Pairs, settings: RunSettings) -> tuple[Plan, Partition]:
    """The price of a run on the cluster that the settings ask for.

    Raises:
        SettingsError: the rank is out of reach, or the workers are too small.
    """
    threads, n_bytes = worker_of(settings.cluster)
    return price(pairs, rank=None if settings.rank == "auto" else settings.rank,
                 basis=None if settings.basis == "auto" else settings.basis,
                 method=settings.method, threads=threads,
                 worker_bytes=sys.maxsize if n_bytes is None else n_bytes)


def worker_of(cluster: ClusterSettings) -> tuple[int, int | None]:
    """Threads and bytes of a worker; None where settings do not tell it of other machines.

    Raises:
        SettingsError: they tell no size.
    """
    threads, n_bytes = asked_worker(cluster)
    if n_bytes is None and cluster.kind == "local":
        n_bytes = int(MEMORY_LIMIT // (cluster.workers or default_workers()))
    return threads, n_bytes


def fit_job(pairs: Pairs, settings: RunSettings, screen: Screen,
            notices: Sequence[str] = ()) -> LowRankHessian:
    """Fit on the current client, showing progress; the result carries all settings.

    Args:
        notices: that the result is to carry as well.
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
                          bad_rows=settings.bad_rows,
                          states=settings.states_path if settings.resume else None,
                          on_event=stages.event)
    except KeyboardInterrupt:
        raise Stopped from None
    known = hessian.provenance
    return replace(hessian, provenance={**known, "settings": settings.model_dump(),
                                        "notices": [*known["notices"], *notices]})


def keep(hessian: LowRankHessian, settings: RunSettings) -> Path:
    """Write the result where the settings say.

    Raises:
        SettingsError: the place is taken or cannot be written.
    """
    return save_result(hessian, settings.result_path, overwrite=settings.overwrite)
