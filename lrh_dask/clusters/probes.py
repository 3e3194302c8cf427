"""What a process of a cluster says of itself.

These functions are sent whole: they run where lrh_dask is not installed, so each imports what
it needs, asks nothing of this package, and returns what any Python can read.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle

__all__ = ["ask_nannies", "ask_scheduler", "ask_workers", "blas", "ends_of_store", "gpu", "library",
           "process"]


def ask_workers(client: Any, probe: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """What a probe returns on each worker, by address; an exception where it failed."""
    with _sent_whole():
        return dict(client.run(probe, *args, on_error="return"))


def ask_nannies(client: Any, probe: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """The same in the processes that watch over workers, for those workers that have one."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    watched = [address for address, worker in workers.items() if worker.get("nanny")]
    if not watched:
        return {}
    with _sent_whole():
        return dict(client.run(probe, *args, nanny=True, workers=watched, on_error="return"))


def ask_scheduler(client: Any, probe: Callable[..., Any], *args: Any) -> Any:
    """What a probe returns on the scheduler; an exception where it failed."""
    with _sent_whole():
        try:
            return client.run_on_scheduler(probe, *args)
        except Exception as error:
            return error


@contextlib.contextmanager
def _sent_whole() -> Any:
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def library() -> dict[str, str | None]:
    """The lrh_dask that tasks use here: version, digest of its source, what failed."""
    from importlib import import_module

    found: dict[str, str | None] = {"version": None, "source": None, "failed": None}
    try:
        package = import_module("lrh_dask")
        found["version"] = str(getattr(package, "__version__", "unknown"))
        import_module("lrh_dask.runs.tasks")  # with all that it needs
        found["source"] = import_module("lrh_dask.source").SOURCE
    except Exception as error:
        found["failed"] = f"{type(error).__name__}: {error}"
    return found


def process(dask_worker: Any = None, dask_scheduler: Any = None) -> dict[str, Any]:
    """What matters of a scheduler, a worker or its nanny, and of the machine it is on."""
    import math
    import os
    import platform
    import shutil
    import socket
    from pathlib import Path

    import psutil

    server = dask_worker or dask_scheduler

    def text(path: str) -> str:
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    def ceilings() -> list[float]:
        """Limits of memory that the kernel sets, of this process' group and those around it."""
        found = [float(psutil.virtual_memory().total)]
        for line in text("/proc/self/cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            v2 = not controllers
            root = Path("/sys/fs/cgroup" if v2 else "/sys/fs/cgroup/memory")
            name = "memory.max" if v2 else "memory.limit_in_bytes"
            if v2 or "memory" in controllers.split(","):
                here = root / path.strip("/")
                for folder in (here, *here.parents):
                    limit = text(str(folder / name))
                    if limit.isdigit():
                        found.append(float(limit))
                    if folder == root:
                        break
        return found

    def listens() -> list[tuple[str, str, bool]]:
        """(what for, address, whether encrypted) of each port that is open."""
        found = []
        for listener in getattr(server, "listeners", []):
            address = str(listener.listen_address)
            scheme, _, rest = address.partition("://")
            if scheme != "inproc":
                found.append(("tasks", rest, scheme == "tls"))
        http = getattr(server, "http_server", None)
        for port in getattr(http, "_sockets", {}).values():
            host, number = port.getsockname()[:2]
            found.append(("dashboard", f"{host}:{number}", bool(getattr(http, "ssl_options", 0))))
        return found

    folder = str(getattr(server, "local_directory", None) or Path.cwd())
    mounts = [part for part in psutil.disk_partitions(all=True)
              if Path(folder).is_relative_to(part.mountpoint)]
    manager = getattr(server, "memory_manager", None)
    saturation = float(getattr(server, "WORKER_SATURATION", 1.0))
    return {
        "host": socket.gethostname(), "kernel": text("/proc/sys/kernel/random/boot_id"),
        "group": text("/proc/self/cgroup"), "listens": listens(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        "threads": getattr(getattr(server, "state", None), "nthreads", 0),
        "watched": bool(getattr(server, "nanny", None)),
        "memory_limit": getattr(manager, "memory_limit", None),
        "memory_ceiling": min(ceilings()), "memory_total": psutil.virtual_memory().total,
        "environ": {name: os.environ[name] for name in os.environ if name.startswith("MALLOC_")},
        "glibc": platform.libc_ver()[0] == "glibc",
        "folder": folder, "free": shutil.disk_usage(folder).free,
        "filesystem": max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "",
        "queues": not math.isinf(saturation),
    }


def blas() -> dict[str, Any]:
    """Threads of each BLAS library that tasks use here."""
    import numpy as np
    import scipy.linalg
    from threadpoolctl import threadpool_info

    scipy.linalg.eigh(np.eye(2))
    return {str(pool["internal_api"]): int(pool["num_threads"]) for pool in threadpool_info()
            if pool["user_api"] == "blas"}


def gpu() -> dict[str, Any]:
    """Whether a task could compute on a GPU here, by the probe that a run uses."""
    from pathlib import Path

    from lrh_dask.linalg.arrays import pick_device

    found = {"there": Path("/dev/nvidia0").exists(), "works": False, "said": ""}
    try:
        pick_device("gpu")
        found["works"] = True
    except Exception as error:
        found["said"] = str(error)
    return found


def ends_of_store(pairs: Any) -> str:
    """Digest of the first and the last row that a task reads here."""
    import hashlib

    digest = hashlib.sha256()
    for start in (0, pairs.n_pairs - 1):
        block = pairs.part(start, start + 1).read(start, start + 1)
        digest.update(block.x.tobytes() + block.y.tobytes())
    return digest.hexdigest()
