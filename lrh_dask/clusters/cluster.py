"""Where a run is carried out: a cluster that it starts and ends, or one that runs already."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from lrh_dask.clusters.cluster_kinds import (
    KINDS,
    SECONDS_OF_PROFILE,
    start_cluster,
    worker_variables,
)
from lrh_dask.clusters.exposure import LOOPBACK, refuse_exposed
from lrh_dask.clusters.lost_workers import watch_workers
from lrh_dask.clusters.running_cluster import connected, security_of, wait_for_workers
from lrh_dask.clusters.versions import compare_versions, refuse_mismatched, survived
from lrh_dask.errors import RunFailed, explain
from lrh_dask.settings.cluster_settings import CONNECT_SECONDS, ClusterSettings, named_by_dask

__all__ = ["connect", "default_workers", "reach", "worker_environment"]

MAX_WORKERS = 8
DASHBOARD_PORT = 8787
TRIM, DASKS_TRIM = "MALLOC_TRIM_THRESHOLD_", "65536"


def _unheard(_: str) -> None:
    """Nobody listens."""


def worker_environment(threads: int) -> dict[str, int]:
    """Dask settings that have a nanny start its worker with these environment variables.

    A nanny hands its own settings down, too, and these go before the environment.
    """
    return {"distributed.admin.low-level-log-length": SECONDS_OF_PROFILE, **{
        f"distributed.nanny.pre-spawn-environ.{name}": n
        for name, n in worker_variables(threads).items()}}


@contextlib.contextmanager
def connect(settings: ClusterSettings, say: Callable[[str], None] = _unheard) -> Iterator[Any]:
    """A Dask client on the cluster that the settings ask for; what is started ends with the block.

    Versions are compared first. Where all workers are lost for long in mid-run, the run ends.

    Args:
        say: is told what a person should know: which cluster, and notices.
    Raises:
        RunFailed: no scheduler answers, it has no workers, or their software is another.
        SettingsError: the address is none, or open to others; a file or an extra is missing.
    """
    with reach(settings, say) as client:
        if settings.kind != "local":
            found = compare_versions(client)
            refuse_mismatched(found)
            for notice in survived(found):
                say(f"Notice: {notice}.")
        client.run(_get_ready, on_error="ignore")
        with watch_workers(client, settings.patience):
            yield client


def _get_ready() -> None:
    """Import on a worker what tasks need: the first of them would wait for it."""
    import scipy.linalg  # noqa: F401
    import zarr.storage  # noqa: F401

    import lrh_dask.runs.graph  # noqa: F401


@contextlib.contextmanager
def reach(settings: ClusterSettings, say: Callable[[str], None] = _unheard) -> Iterator[Any]:
    """The same client, whatever software its cluster has.

    Raises:
        RunFailed: no scheduler answers, or it has no workers.
        SettingsError: the address is none, or open to others; a file or an extra is missing.
    """
    import dask
    import distributed  # noqa: F401 - its defaults must be there before, or they go with the block

    if os.environ.get(TRIM) == DASKS_TRIM:  # left by nannies of another cluster of this process
        del os.environ[TRIM]
    with dask.config.set({**worker_environment(settings.threads_per_worker), **_inherited(settings),
                          "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s"}):
        if not settings.runs_already:
            refuse_exposed(settings, say)
        how = (connected(settings, say) if settings.runs_already else
               _local(settings) if settings.kind == "local" else _started(settings, say))
        with how as client:
            say(f"Cluster: {_described(settings, client)}")
            yield client


def _inherited(settings: ClusterSettings) -> dict[str, Any]:
    """Dask settings by which processes on other machines (kind ``ssh``) find their certificates."""
    if settings.kind != "ssh" or settings.tls is None:
        return {}
    tls, here = settings.tls, "distributed.comm"
    return {f"{here}.require-encryption": True, f"{here}.tls.ca-file": tls.ca_file, **{
        f"{here}.tls.{role}.{what}": getattr(tls, what)
        for role in ("client", "scheduler", "worker") for what in ("cert", "key")}}


def _described(settings: ClusterSettings, client: Any) -> str:
    """Which cluster it is, in a line."""
    told = client.scheduler_info(n_workers=0)
    where = {"local": "on this machine", "cuda": "on the GPUs of this machine"}.get(
        settings.kind, client.scheduler.address)
    if settings.address is not None and settings.address == named_by_dask():
        where += " (named by DASK_SCHEDULER_ADDRESS or Dask's own settings)"
    elif not settings.runs_already and settings.kind not in {"local", "cuda"}:
        where = f"{settings.kind}, scheduler {where}"
    workers = f"{told['n_workers']} worker{'s' * (told['n_workers'] != 1)}"
    return f"{where}, {workers}, {told['total_threads']} thread{'s' * (told['total_threads'] != 1)}"


@contextlib.contextmanager
def _started(settings: ClusterSettings, say: Callable[[str], None]) -> Iterator[Any]:
    """A cluster of a fixed number of workers that a queue, an operator or SSH starts."""
    from distributed import Client

    kind = KINDS[settings.kind]
    with contextlib.ExitStack() as stack:
        with _workers_deaf_to_interrupts():
            cluster = start_cluster(settings)
        stack.callback(_close, cluster)
        client = stack.enter_context(Client(cluster, timeout=settings.patience))
        n_wanted = settings.workers or max(len(settings.hosts) - 1, 1)
        begin = time.monotonic()
        n_workers = wait_for_workers(client, n_wanted, settings.patience)
        if not n_workers:
            raise RunFailed(explain(
                f"start workers by {settings.kind}", expected="at least one worker",
                got=f"none within {time.monotonic() - begin:.0f} seconds",
                consequence="What was asked for is taken back, and nothing was computed",
                fix=f"{kind.look_at}; `wait_seconds` in `cluster` is how long a run waits"))
        if n_workers < n_wanted:
            say(f"Notice: {n_workers} of {n_wanted} workers came within "
                f"{settings.patience:g} seconds: the run starts with those; others join it as "
                "they come.")
        yield client


def _close(cluster: Any) -> None:
    """End what was started; an error on the way must not hide what happened before."""
    try:
        cluster.close()
    except Exception as error:
        logging.getLogger(__name__).warning("closing the cluster: %s", error)


@contextlib.contextmanager
def _local(settings: ClusterSettings) -> Iterator[Any]:
    """Worker processes on this machine; scheduler and dashboard answer to this machine only."""
    from distributed import Client, LocalCluster

    encrypted = {} if settings.tls is None else {"protocol": "tls://",
                                                 "security": security_of(settings.tls)}
    with contextlib.ExitStack() as stack:
        with _workers_deaf_to_interrupts(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Port .* is already in use")  # Dask takes another
            cluster = stack.enter_context(LocalCluster(
                n_workers=settings.workers or default_workers(),
                threads_per_worker=settings.threads_per_worker, processes=True,
                memory_limit=settings.memory_limit or "auto", silence_logs=logging.CRITICAL,
                dashboard_address=f"{LOOPBACK}:{_free_dashboard_port()}", host=LOOPBACK,
                **encrypted))
        yield stack.enter_context(Client(cluster))


@contextlib.contextmanager
def _workers_deaf_to_interrupts() -> Iterator[None]:
    """Processes started here inherit that Ctrl-C is ignored: the driver alone ends the run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def default_workers() -> int:
    """Worker processes of a local cluster where none are asked for."""
    return min(os.cpu_count() or 1, MAX_WORKERS)


def _free_dashboard_port() -> int:
    """Dask's usual port where it is free, else any."""
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, DASHBOARD_PORT))
        except OSError:
            return 0
    return DASHBOARD_PORT
