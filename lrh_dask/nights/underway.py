"""Runs under way, told through their folder: whoever sees it can follow, read the log, and cancel.

    <runs>/jobs/<run id>/status.json    the state, how far each stage is; replaced at every change
                        /log.txt        what the run has said
                        /cancel         made by who wants it to end
                        /settings.yaml  of a run that was submitted

A run whose status has not been renewed for LOST_AFTER seconds is lost: its process died.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from lrh_dask.errors import LrhError, SettingsError, explain
from lrh_dask.runs.progress import Event
from lrh_dask.stores.writing import replace_file

__all__ = ["Journal", "State", "Status", "jobs_folder", "note", "status_of", "statuses"]

HEARTBEAT, LOST_AFTER, STOP_AGAIN = 2.0, 30.0, 10.0
PARENT = "LRH_PARENT"
"""In the environment of a driver: the worker's process, without which it is not to go on."""
KEPT = 100
"""Runs that are over and still told of."""
LEAST_SECONDS = 0.25
"""Between two notes of how far a stage is."""


class State(Enum):
    """How a run is; the value says so to a person."""

    queued = "handed to the cluster, not begun"
    running = "under way"
    done = "published"
    nothing_new = "done: nothing was new"
    failed = "failed, nothing was published"
    cancelled = "cancelled, nothing was published"
    lost = "its process died, nothing was published"

    @property
    def is_final(self) -> bool:
        """Whether it will not change any more."""
        return self not in {State.queued, State.running}


@dataclass(frozen=True)
class Status:
    """A run under way, or how it ended.

    Attributes:
        where: the machine it runs on; ``scheduler``: of its cluster.
        began, updated: seconds since 1970.
        n_pairs: of the run; ``done``: pairs read, by stage, in their order; ``of``: that a stage
            reads, at most while it goes on.
        attempt: how many times it was begun: a cluster begins it again where a worker died.
        exit_code: once it has ended.
        result: the run that holds the result: itself, or where nothing was new an earlier one.
        error: what went wrong.
    """

    run: str
    state: State
    where: str = ""
    scheduler: str = ""
    began: float = 0.0
    updated: float = 0.0
    n_pairs: int = 0
    done: dict[str, int] = field(default_factory=dict)
    of: dict[str, int] = field(default_factory=dict)
    attempt: int = 0
    exit_code: int | None = None
    result: str | None = None
    error: str = ""


def jobs_folder(runs: Path) -> Path:
    """Where the runs under way of a folder of runs are told."""
    return runs / "jobs"


def status_of(runs: Path, run: str) -> Status:
    """How a run is.

    Raises:
        SettingsError: there is none of that name.
    """
    path = jobs_folder(runs) / run / "status.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        status = Status(**{f.name: known[f.name] for f in fields(Status) if f.name in known}
                        | {"state": State[known["state"]]})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(explain(
            f"run {run!r} in {runs}", expected="a run that was begun or submitted there",
            got="none" if isinstance(error, FileNotFoundError) else f"{error}",
            consequence="There is nothing to tell", fix="`lrh status` lists them")) from error
    silent = time.time() - max(status.updated, path.stat().st_mtime)
    if status.state is State.running and silent > LOST_AFTER:
        return replace(status, state=State.lost, exit_code=4,
                       error=f"nothing was heard from {status.where} for {silent:.0f} seconds")
    return status


def note(runs: Path, status: Status) -> None:
    """Write down how a run is."""
    content = asdict(status) | {"state": status.state.name, "updated": time.time()}
    replace_file(jobs_folder(runs) / status.run / "status.json", json.dumps(content, indent=1))


def statuses(runs: Path) -> list[Status]:
    """All runs that were begun or submitted, the newest last."""
    found = []
    for path in jobs_folder(runs).glob("*/status.json"):
        with contextlib.suppress(SettingsError):
            found.append(status_of(runs, path.parent.name))
    return sorted(found, key=lambda status: (status.began, status.run))


class Journal:
    """Writes down how a run goes, beside whoever else is told.

    Args:
        other: who is told as well (:class:`lrh_dask.nights.every_night.Watcher`).
    """

    def __init__(self, runs: Path, run: str, other: Any) -> None:
        self.run, self.folder, self._runs = run, jobs_folder(runs) / run, runs
        self._other, self._lock = other, threading.RLock()
        now = time.time()
        try:
            before = status_of(runs, run)
        except SettingsError:
            before = Status(run, State.queued)
        self._status = Status(run, State.running, platform.node(), before.scheduler, now, now,
                              attempt=before.attempt + 1)
        self._written = 0.0

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the status while the block runs; it ends as ``failed`` where that raises."""
        self._stoppable = threading.current_thread() is threading.main_thread()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write()
        over = threading.Event()
        heart = threading.Thread(target=self._beat, args=(over,), name="lrh-journal", daemon=True)
        heart.start()
        try:
            yield
        except BaseException as error:
            code = error.exit_code if isinstance(error, LrhError) else (
                130 if isinstance(error, KeyboardInterrupt) else 4)
            if self._status.state.is_final:
                pass  # it was published before that
            elif self._is_cancelled():
                self.end(State.cancelled, 130, error="cancelled by `lrh cancel`")
            else:
                said = "stopped by the user" if code == 130 else str(error)
                self.end(State.failed, code, error=said)
                self._note(f"error: {said}")
            raise
        finally:
            over.set()
            heart.join()
            over_long_ago = [one for one in statuses(self._runs) if one.state.is_final][:-KEPT]
            for one in over_long_ago:
                shutil.rmtree(jobs_folder(self._runs) / one.run, ignore_errors=True)

    def end(self, state: State, exit_code: int, *, result: str | None = None,
            error: str = "") -> None:
        """Note how it ended."""
        with self._lock:
            self._status = replace(self._status, state=state, exit_code=exit_code, result=result,
                                   error=error)
            self._write()

    def say(self, text: str) -> None:
        """One line.

        Raises:
            KeyboardInterrupt: it was cancelled, which was not heard while a cluster was started.
        """
        self._note(text)
        self._other.say(text)
        if self._is_cancelled() and not self._status.state.is_final:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def stages(self, n_pairs: int) -> Iterator[Journal]:
        """What is told of every event."""
        with self._lock:
            self._status = replace(self._status, n_pairs=n_pairs)
        with self._other.stages(n_pairs) as self._stages:
            yield self

    def event(self, event: Event) -> None:
        """A task is done."""
        self._stages.event(event)
        with self._lock:
            done, of = {**self._status.done}, {**self._status.of}
            if event.stage not in done:  # what has begun before has read what it wanted
                of |= {stage: n for stage, n in done.items() if n}
            done[event.stage] = done.get(event.stage, 0) + event.n_pairs
            of[event.stage] = max(event.n_pairs_of_stage, of.get(event.stage, 0),
                                  done[event.stage])
            self._status = replace(self._status, done=done, of=of)
            if time.time() - self._written > LEAST_SECONDS:
                self._write()

    def _write(self) -> None:
        with self._lock:
            self._written = time.time()
            with contextlib.suppress(OSError):  # a full disk is told by who must write there
                note(self._runs, self._status)

    def _note(self, text: str) -> None:
        with contextlib.suppress(OSError), (self.folder / "log.txt").open(
                "a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}\n")

    def _is_cancelled(self) -> bool:
        return (self.folder / "cancel").exists()

    def _beat(self, over: threading.Event) -> None:
        """Renew the status, and stop this process where it was cancelled."""
        stopped, parent = 0.0, os.environ.get(PARENT)
        while not over.wait(HEARTBEAT / 2):
            if parent is not None and os.getppid() != int(parent):
                # The cluster begins the run again elsewhere: two drivers would tell two counts.
                self._note("the worker that it was begun on has died, and so does it")
                with self._lock:
                    self._status = replace(self._status, state=State.queued)
                    self._write()
                os.kill(os.getpid(), signal.SIGKILL)
            if time.time() - self._written > HEARTBEAT:
                self._write()
            # Again and again: while a cluster is started Ctrl-C is not heard.
            if self._is_cancelled() and time.time() - stopped > STOP_AGAIN:
                stopped = time.time()
                self._note("cancelled" if self._stoppable else
                           "cannot be cancelled: it runs in a thread of another program")
                if self._stoppable:
                    os.kill(os.getpid(), signal.SIGINT)
