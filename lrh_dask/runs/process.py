"""The worker process itself: its BLAS threads and its peak memory."""

from __future__ import annotations

import os
import resource
import sys
from functools import cache
from pathlib import Path

__all__ = ["in_worker", "peak_bytes", "pin_blas_threads"]


def pin_blas_threads() -> None:
    """One BLAS thread in a Dask worker, for good: another number gives other bits.

    Outside of a worker nothing is changed here; the driver limits threads around the run.
    """
    if in_worker():
        _pin(os.getpid())


@cache
def _pin(pid: int) -> None:  # noqa: ARG001 - once a process, a forked one included
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="blas")


def in_worker() -> bool:
    """Whether this code runs in a task of a Dask worker."""
    from distributed import get_worker

    try:
        get_worker()
    except ValueError:
        return False
    return True


def peak_bytes() -> int:
    """Largest resident size of this process so far, in bytes."""
    try:  # unlike ru_maxrss, this one starts afresh when a process is spawned
        status = Path("/proc/self/status").read_text(encoding="ascii")
        line = next(row for row in status.splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
