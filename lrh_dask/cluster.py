"""Where a run is carried out: a local cluster of processes, or one that is there already."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from lrh_dask.config import ClusterSettings
from lrh_dask.errors import RunFailed, SettingsError, explain

__all__ = ["connect", "default_workers", "worker_environment"]

CONNECT_SECONDS = 10
MAX_WORKERS = 8
DASHBOARD_PORT = 8787


def worker_environment(threads: int) -> dict[str, int]:
    """Dask settings that have a nanny start its worker with these environment variables."""
    variables = {
        # Dask trims the allocator's memory at every chance, which halves the speed of reading.
        "MALLOC_TRIM_THRESHOLD_": 268435456,
        "MALLOC_MMAP_THRESHOLD_": 33554432,
        # Zarr reads on threads of its own: as many as compute, and none keeps freed chunks apart.
        "MALLOC_ARENA_MAX": 1,
        "ZARR_THREADING__MAX_WORKERS": threads,
    }
    return {f"distributed.nanny.pre-spawn-environ.{name}": n for name, n in variables.items()}


@contextlib.contextmanager
def connect(settings: ClusterSettings) -> Iterator[Any]:
    """A Dask client on the cluster that the settings ask for; a local one ends with the block.

    Raises:
        RunFailed: no scheduler answers, or it has no workers.
        SettingsError: the address is none.
    """
    import dask

    with dask.config.set({**worker_environment(settings.threads_per_worker),
                          "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s"}):
        if settings.kind == "address":
            with _client(settings.address or "") as client:
                yield client
        else:
            with _local(settings) as client:
                yield client


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    from distributed import Client

    noisy = [logging.getLogger(name) for name in ("distributed.client", "distributed.core")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:  # the error below says it better than their tracebacks
        logger.setLevel(logging.CRITICAL)
    try:
        try:
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=True)
        except ValueError as error:
            raise SettingsError(explain(
                f"scheduler {address!r}", expected="an address such as tcp://host:8786",
                got=str(error), consequence="Nothing was started",
                fix="Copy the address that `dask scheduler` prints")) from error
        except (OSError, TimeoutError) as error:
            raise RunFailed(explain(
                f"connect to scheduler {address}",
                expected=f"an answer within {CONNECT_SECONDS} seconds",
                got=f"none ({type(error).__name__})", consequence="Nothing was started",
                fix="Check that `dask scheduler` runs there and that no firewall is between, or "
                    "leave --scheduler out for a local cluster")) from error
        with client:
            if not client.scheduler_info(n_workers=-1)["workers"]:
                try:
                    client.wait_for_workers(1, timeout=CONNECT_SECONDS)
                except TimeoutError as error:
                    raise RunFailed(explain(
                        f"scheduler {address}", expected="at least one worker",
                        got=f"none within {CONNECT_SECONDS} seconds",
                        consequence="Nothing was started",
                        fix=f"Start one with `dask worker {address}`")) from error
            yield client
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _local(settings: ClusterSettings) -> Iterator[Any]:
    """Worker processes on this machine; scheduler and dashboard answer to this machine only."""
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        with _workers_deaf_to_interrupts(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Port .* is already in use")  # Dask takes another
            cluster = stack.enter_context(LocalCluster(
                n_workers=settings.workers or default_workers(),
                threads_per_worker=settings.threads_per_worker, processes=True,
                memory_limit=settings.memory_limit or "auto", silence_logs=logging.CRITICAL,
                dashboard_address=f"127.0.0.1:{_free_dashboard_port()}"))
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
            probe.bind(("127.0.0.1", DASHBOARD_PORT))
        except OSError:
            return 0
    return DASHBOARD_PORT
