"""Clusters that other packages start: queues, Kubernetes, GPUs of this machine, SSH."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from dask.utils import parse_bytes

from lrh_dask.clusters.exposure import LOOPBACK, is_loopback
from lrh_dask.clusters.running_cluster import security_of
from lrh_dask.errors import RunFailed, SettingsError, explain
from lrh_dask.settings.cluster_settings import CONNECT_SECONDS, QUEUES, ClusterSettings, Kind

__all__ = ["KINDS", "SECONDS_OF_PROFILE", "ClusterKind", "start_cluster", "worker_of",
           "worker_variables"]

SECONDS_OF_PROFILE = 100
"""A worker keeps a profile of each of the last 1,000 by default: 100 MiB and more, in no price."""



@dataclass(frozen=True)
class ClusterKind:
    """How clusters of a kind are started, and what a person looks at when none starts."""

    extra: str
    needs: str
    """The module without which it cannot be started."""
    home: str
    class_name: str
    options: Callable[[ClusterSettings], dict[str, Any]]
    """What the class is given: the settings' own `options` go before ours."""
    look_at: str

def worker_variables(threads: int) -> dict[str, int]:
    """Environment of a worker process that reads chunk after chunk."""
    return {
        # Dask trims the allocator's memory at every chance, which halves the speed of reading.
        "MALLOC_TRIM_THRESHOLD_": 268435456,
        "MALLOC_MMAP_THRESHOLD_": 33554432,
        # Zarr reads on threads of its own: as many as compute, and none keeps freed chunks apart.
        "MALLOC_ARENA_MAX": 1,
        "ZARR_THREADING__MAX_WORKERS": threads,
        "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": SECONDS_OF_PROFILE,
    }


def start_cluster(settings: ClusterSettings) -> Any:
    """Start a cluster of the kind asked for; its workers may be on their way.

    Raises:
        SettingsError: the extra is not installed, or the class refuses its options.
        RunFailed: the queue, the operator or a machine did not take it.
    """
    kind = KINDS[settings.kind]
    try:
        import_module(kind.needs)
        made = getattr(import_module(kind.home), kind.class_name)
    except ImportError as error:
        raise SettingsError(explain(
            f"cluster of kind {settings.kind}", expected=f"the package {kind.needs}",
            got=f"none that can be imported ({error})", consequence="Nothing was started",
            fix=f'Install the extra: pip install "lrh-dask[{kind.extra}]"')) from error
    submit = str(getattr(getattr(made, "job_cls", None), "submit_command", "") or "").split(" ")[0]
    if submit and shutil.which(submit) is None:
        raise SettingsError(explain(
            f"cluster of kind {settings.kind}", expected=f"the queue's command `{submit}`",
            got="none in PATH", consequence="Nothing was started",
            fix="Run on a machine from which jobs are submitted, such as a login node"))
    refusals = (TypeError,) if settings.kind == "kubernetes" else (TypeError, ValueError)
    try:
        cluster = made(**kind.options(settings))
        if settings.kind in QUEUES:
            _submit(cluster, settings.workers)
    except refusals as error:  # Kubernetes raises ValueError where it finds no credentials, too
        raise SettingsError(explain(
            f"cluster.options for kind {settings.kind}",
            expected=f"what {kind.home}.{kind.class_name} takes", got=" ".join(str(error).split()),
            consequence="Nothing was started",
            fix="See its documentation, and the examples in configs/")) from error
    except Exception as error:
        raise RunFailed(explain(
            f"start a cluster of kind {settings.kind}", expected="one that answers",
            got=f"{type(error).__name__}: {' '.join(str(error).split()) or 'no more was said'}",
            consequence="Nothing was computed", fix=f"{kind.look_at}, then run again")) from error
    return cluster


def _submit(cluster: Any, n_workers: int | None) -> None:
    """Submit all jobs and have the queue's refusal raised, which would only be logged."""
    n_jobs = math.ceil((n_workers or 1) / cluster._dummy_job.worker_processes)

    from distributed.core import Status

    async def submit() -> None:  # as `scale` would have it done later, unseen
        while len(cluster.worker_spec) < n_jobs:
            cluster.worker_spec.update(cluster.new_worker_spec())
        await cluster._correct_state()

    try:
        cluster.sync(submit)
    except Exception:
        with contextlib.suppress(AssertionError):  # Dask's, of jobs that never were
            cluster.close()
        cluster.status = Status.closed  # whatever its closing has left undone
        raise


def _for_queue(settings: ClusterSettings) -> dict[str, Any]:
    """One thread a process unless asked otherwise; dashboards answer to their machines only."""
    options = dict(settings.options)
    processes, threads = _of_a_job(options)
    if "cores" in options:
        options.setdefault("processes", processes)
    exports = [f"export {name}={n}" for name, n in worker_variables(threads).items()]
    if settings.tls is not None:
        options["security"] = security_of(settings.tls)
    return {**options, "n_workers": 0,  # submitted once it stands
            "worker_extra_args": ["--dashboard-address", f"{LOOPBACK}:0",
                                  *options.get("worker_extra_args", [])],
            "job_script_prologue": [*exports, *options.get("job_script_prologue", [])],
            "scheduler_options": {"dashboard_address": f"{LOOPBACK}:0",
                                  **options.get("scheduler_options", {})}}


def _of_a_job(options: Mapping[str, Any]) -> tuple[int, int]:
    """Worker processes of a job, and threads of each."""
    cores = options.get("cores", 1)
    processes = options.get("processes", cores)
    return processes, max(1, cores // processes)


def worker_of(settings: ClusterSettings) -> tuple[int, int | None]:
    """Threads and bytes of a worker as settings ask for them; None where they do not tell.

    Raises:
        SettingsError: they tell no size.
    """
    options, processes, threads = settings.options, 1, settings.threads_per_worker
    memory: Any = settings.memory_limit
    try:
        if settings.kind in QUEUES:
            processes, threads = _of_a_job(options)
            memory = options.get("memory") if {"cores", "processes"} & set(options) else None
        elif settings.kind == "kubernetes":
            memory = ((options.get("resources") or {}).get("limits") or {}).get("memory")
        return threads, None if memory is None else int(parse_bytes(memory) / processes)
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise SettingsError(explain(
            f"cluster.options for kind {settings.kind}",
            expected="numbers of cores and processes, and memory such as 64GiB",
            got=f"{type(error).__name__}: {error}", consequence="Nothing was started",
            fix="See the examples in configs/")) from error


def _for_kubernetes(settings: ClusterSettings) -> dict[str, Any]:
    options = {"name": f"lrh-{os.getpid()}", "quiet": True,
               "resource_timeout": int(settings.patience), **settings.options,
               "n_workers": settings.workers}
    ours = {name: str(n) for name, n in worker_variables(1).items()}
    given = options.get("env") or {}
    if isinstance(given, Mapping):
        options["env"] = {**ours, **given}
    else:  # as in a manifest
        options["env"] = [*({"name": name, "value": value} for name, value in ours.items()), *given]
    return options


def _for_gpus(settings: ClusterSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "threads_per_worker": settings.threads_per_worker, "dashboard_address": f"{LOOPBACK}:0",
        "silence_logs": 50, **settings.options}
    if settings.workers is not None:
        options["n_workers"] = settings.workers
    if settings.memory_limit is not None:
        options["memory_limit"] = settings.memory_limit
    return options


def _for_ssh(settings: ClusterSettings) -> dict[str, Any]:
    """Workers inherit Dask's settings from here, those of their environment and of TLS among them.

    On one machine all ports are on 127.0.0.1.
    """
    options = dict(settings.options)
    connect = options.get("connect_options", {})
    if isinstance(connect, Mapping):
        options["connect_options"] = {"connect_timeout": CONNECT_SECONDS,
                                      "login_timeout": CONNECT_SECONDS, **connect}
    n_workers = (settings.workers or len(settings.hosts) - 1) // (len(settings.hosts) - 1)
    both: dict[str, Any] = {"host": LOOPBACK} if all(map(is_loopback, settings.hosts)) else {}
    if settings.tls is not None:
        both["protocol"] = "tls://"
        options["security"] = security_of(settings.tls)
    both["dashboard_address"] = f"{LOOPBACK}:0"
    worker = {**both, "nthreads": settings.threads_per_worker, "n_workers": n_workers}
    if settings.memory_limit is not None:
        worker["memory_limit"] = settings.memory_limit
    return {**options, "hosts": list(settings.hosts),
            "worker_options": {**worker, **options.get("worker_options", {})},
            "scheduler_options": {**both, "port": 0, **options.get("scheduler_options", {})}}


def _queue(class_name: str, look_at: str) -> ClusterKind:
    return ClusterKind("jobqueue", "dask_jobqueue", "dask_jobqueue", class_name, _for_queue,
                       look_at)


KINDS: Mapping[Kind, ClusterKind] = {
    "slurm": _queue("SLURMCluster", "See `squeue --me` and the job's log"),
    "pbs": _queue("PBSCluster", "See `qstat -u $USER` and the job's log"),
    "lsf": _queue("LSFCluster", "See `bjobs` and the job's log"),
    "sge": _queue("SGECluster", "See `qstat` and the job's log"),
    "kubernetes": ClusterKind(
        "kubernetes", "dask_kubernetes", "dask_kubernetes.operator", "KubeCluster",
        _for_kubernetes, "See `kubectl get pods` and `kubectl describe daskcluster`: the "
                         "operator must run, and its pods must be able to pull the image"),
    "cuda": ClusterKind("cuda-cluster", "dask_cuda", "dask_cuda", "LocalCUDACluster", _for_gpus,
                        "See `nvidia-smi`"),
    "ssh": ClusterKind("ssh", "asyncssh", "distributed", "SSHCluster", _for_ssh,
                       "Try `ssh HOST`, and this Python there (or `remote_python`)"),
}
