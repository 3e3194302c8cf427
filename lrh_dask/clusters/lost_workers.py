"""A run whose workers are all gone for good ends, where Dask would wait for ever."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from lrh_dask.errors import RunFailed, explain

__all__ = ["watch_workers"]

LOOK_SECONDS = 2.0
LEAST_SECONDS = 60.0
"""Nannies, queues and operators take so long to replace a worker."""


@contextlib.contextmanager
def watch_workers(client: Any, patience: float, least: float = LEAST_SECONDS) -> Iterator[None]:
    """While the block runs, close the client once there was no worker for so many seconds.

    Args:
        patience: seconds without any worker; at least ``least``.
    Raises:
        RunFailed: that is why the block failed.
    """
    watch = _Watch(client, max(patience, least))
    watch.start()
    try:
        yield
    except Exception as error:
        if watch.has_ended_the_run:
            raise RunFailed(explain(
                "run", expected="at least one worker",
                got=f"none for {watch.patience:g} seconds",
                consequence="No result was written, and Dask would have waited for ever",
                fix="Look at why the workers ended (their logs, their time limit, their memory), "
                    "start new ones, then run again")) from error
        raise
    finally:
        watch.stop.set()


class _Watch(threading.Thread):
    def __init__(self, client: Any, patience: float) -> None:
        super().__init__(name="lrh-watch-workers", daemon=True)
        self.client, self.patience = client, patience
        self.stop = threading.Event()
        self.has_ended_the_run = False

    def run(self) -> None:
        """Ask the scheduler again and again how many workers it has."""
        seen = time.monotonic()
        while not self.stop.wait(min(LOOK_SECONDS, self.patience / 4)):
            try:
                n_workers = self.client.scheduler_info(n_workers=0)["n_workers"]
            except Exception:  # no scheduler: the client itself ends the run
                continue
            if n_workers:
                seen = time.monotonic()
            elif time.monotonic() - seen > self.patience and not self.stop.is_set():
                self.has_ended_the_run = True
                with contextlib.suppress(Exception):
                    self.client.close(timeout=LOOK_SECONDS)
                return
