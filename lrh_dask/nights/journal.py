"""Writes down how a run goes while it goes, and hears when it is cancelled."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from lrh_dask.errors import LrhError, SettingsError, printable, public_text
from lrh_dask.nights.underway import State, Status, forget_old, job_folder, note, status_of
from lrh_dask.runs.progress import Event
from lrh_dask.stores.inside import no_link

__all__ = ["PARENT", "Journal", "Watcher"]

HEARTBEAT, STOP_AGAIN = 2.0, 10.0
PARENT = "LRH_PARENT"
"""In the environment of a driver: the worker's process, without which it is not to go on."""
LEAST_SECONDS = 0.25
"""Between two notes of how far a stage is."""


class Watcher(Protocol):
    """Who is told how a run goes."""

    def say(self, text: str) -> None:
        """One line."""

    def stages(self, n_pairs: int) -> AbstractContextManager[Any]:
        """What has a method ``event`` for each :class:`lrh_dask.runs.progress.Event`."""


class _Log:
    """Tells the log what a person at a terminal would be told."""

    def say(self, text: str) -> None:
        """One line."""
        logging.getLogger(__name__).info(text)

    def stages(self, _: int) -> AbstractContextManager[Any]:
        """Nothing is told of single tasks."""
        return nullcontext(self)

    def event(self, event: Event) -> None:
        """A task is done."""


class Journal:
    """Writes down how a run goes, beside whoever else is told.

    Args:
        other: who is told as well; None is the log of this package.
    """

    def __init__(self, runs: Path, run: str, other: Watcher | None = None) -> None:
        self.run, self.folder, self._runs = run, job_folder(runs, run), runs
        self._other, self._lock = other or _Log(), threading.RLock()
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
            with contextlib.suppress(OSError):  # others tidy up as well
                forget_old(self._runs)

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
        with contextlib.suppress(OSError), open(
                self.folder / "log.txt", "a", encoding="utf-8", opener=no_link) as log:
            log.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {printable(public_text(text))}\n")

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
