"""What a task reads, and how long it waits for that, where Dask and Prometheus users look.

Dask's Fine Performance Metrics show it as the activity ``lrh-read`` of a task's name, in seconds
and bytes; ``/metrics`` of a worker as ``lrh_read_bytes_total`` and ``lrh_read_seconds_total``,
where prometheus_client is installed.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any, Self

__all__ = ["Reading"]

ACTIVITY = "lrh-read"


class Reading:
    """Counts what one task reads, and the time in its ``with`` blocks; told once, at the end."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self.seconds = self._busy_seconds = 0.0

    def __enter__(self) -> Self:
        self._begin, self._begin_busy = time.perf_counter(), time.thread_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._begin
        self._busy_seconds += time.thread_time() - self._begin_busy

    def tell(self) -> None:
        """Tell Dask and Prometheus, from the task's own thread."""
        from distributed.metrics import context_meter

        context_meter.digest_metric(ACTIVITY, self.n_bytes, "bytes")
        context_meter.digest_metric(ACTIVITY, self.seconds, "seconds")
        # Dask takes such seconds off the CPU's. Those in which other threads read, and this one
        # slept, are to come off the time without CPU: cpu = busy - read + idle, and the rest.
        context_meter.digest_metric("thread-noncpu", self._busy_seconds - self.seconds, "seconds")
        _count(self)


def _count(reading: Reading) -> None:
    from distributed import get_worker

    try:
        task = get_worker().get_current_task()
    except ValueError:  # not in a task
        return
    counters = _counters()
    if counters is not None:
        from dask.utils import key_split

        name = key_split(task)
        for counter, value in zip(counters, (reading.n_bytes, reading.seconds), strict=True):
            counter.labels(name).inc(value)


@cache
def _counters() -> tuple[Any, Any] | None:
    """Of this process; None where Prometheus is not asked for."""
    try:
        from prometheus_client import Counter
    except ImportError:
        return None
    return (Counter("lrh_read_bytes", "Bytes of pairs that tasks have read", ["task_prefix_name"]),
            Counter("lrh_read_seconds", "Seconds that tasks have waited for pairs",
                    ["task_prefix_name"]))
