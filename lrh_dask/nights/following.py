"""Following a run from elsewhere, until its end or until nobody is left who would end it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from lrh_dask.clusters.running_cluster import client_of
from lrh_dask.errors import LrhError
from lrh_dask.nights.submitting import driver_key
from lrh_dask.nights.underway import State, Status, job_folder, note, status_of
from lrh_dask.settings.config import NightlySettings, settings_of

__all__ = ["follow"]

EVERY = 0.5
SILENCE, LOOKS_EVERY = 5.0, 10.0
"""Seconds for which a submitted run may wait, or be silent, before its scheduler is asked; and
between two questions."""
GIVES_UP = 300.0
"""Seconds of silence after which a run is lost whose scheduler does not answer."""


def follow(runs: Path, run: str, say: Callable[[str], None]) -> Iterator[Status]:
    """How a run is, again and again; the last one is final.

    A submitted run whose process died is begun again as long as the scheduler has its driver.

    Args:
        say: is told what a person should know.
    Raises:
        SettingsError: there is none of that name.
    """
    look, lost_since, doubted = time.monotonic() + SILENCE, None, False
    while True:
        told = status_of(runs, run)
        now = time.monotonic()
        waits = bool(told.scheduler) and told.state in {State.queued, State.lost}
        lost_since = None if told.state is not State.lost else lost_since or now
        gone = ""
        if not waits:
            look = now + SILENCE
        elif now > look:
            look = now + LOOKS_EVERY
            held = _is_held(runs, told)
            if held is None:
                if not doubted:
                    say(f"Notice: no scheduler answers at {told.scheduler} from here, and no "
                        f"process drives the run. If it is gone, `lrh cancel {run}` and submit "
                        "again")
                doubted = True
                if lost_since is not None and now - lost_since > GIVES_UP:
                    gone = told.error
            elif not held and status_of(runs, run).state is told.state:
                gone = (f"the scheduler {told.scheduler} has no driver of it any more: it was "
                        "started anew, or too many workers died of it")
        if gone:
            told = replace(told, state=State.lost, exit_code=4, error=gone)
            with contextlib.suppress(OSError):  # who may only look cannot tell others
                note(runs, told)
        elif told.state is State.lost and waits:
            told = replace(told, state=State.queued, exit_code=None, error="")
        yield told
        if told.state.is_final:
            return
        time.sleep(EVERY)


def _is_held(runs: Path, status: Status) -> bool | None:
    """Whether the scheduler has the driver of a run still to begin; None where it does not say."""
    settings = job_folder(runs, status.run) / "settings.yaml"
    try:
        cluster = settings_of(NightlySettings, str(settings), {},
                              {"scheduler": status.scheduler, "insecure": True}).cluster
        with client_of(cluster, lambda _: None) as client:  # the submitter was told
            key = driver_key(status.run)
            state = client.sync(client.scheduler.get_task_status, keys=[key])[key]
    except (LrhError, OSError):
        return None
    return state not in {None, "erred", "forgotten"}
