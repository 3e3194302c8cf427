"""Events of a run, from the tasks to whoever watches.

On a cluster they travel as Dask worker events under one topic, so that any client can listen; in
the process of the watcher they are handed over directly. Each run of shards counts once in each
pass, however often its task ran. An event lost costs a tick of a progress bar, never a result: once
what a pass has made is there, the driver tells of all its runs itself.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["BEGINS", "Event", "emit", "tell", "watch"]

TOPIC = "lrh"
BEGINS = -1
"""In place of a run of shards: the stage begins, and how many pairs it may read is known."""
_listeners: dict[str, Callable[[Event], None]] = {}
_subscribed: Counter[str] = Counter()  # watches of each client
_lock = threading.Lock()


@dataclass(frozen=True)
class Event:
    """A task is done.

    Attributes:
        stage: ``basis``, ``fit``, ``verify`` (a run of shards was read; ``fit again`` and so on
            where a second pass does so), ``solve`` (it begins) or ``vectors`` (they were made over
            some of the features).
        run: index of the run of shards, or ``BEGINS``.
        n_pairs, n_bytes: what was read in it.
        n_pairs_of_stage: that the stage reads at most; 0 where it is not told.
    """

    stage: str
    run: int
    n_pairs: int
    n_bytes: int
    n_pairs_of_stage: int = 0


def emit(run_id: str, event: Event) -> None:
    """Tell whoever watches the run, from a task of it."""
    if run_id in _listeners:
        tell(run_id, event)
        return
    from distributed import get_worker

    with contextlib.suppress(ValueError):
        get_worker().log_event(TOPIC, {"run_id": run_id, **asdict(event)})


def tell(run_id: str, event: Event) -> None:
    """Tell who watches the run in this process, if anybody does."""
    listener = _listeners.get(run_id)
    if listener is not None:
        listener(event)


@contextlib.contextmanager
def watch(client: Any, run_id: str, on_event: Callable[[Event], None] | None) -> Iterator[None]:
    """Have ``on_event`` called with every event of the run, once per task, one at a time."""
    if on_event is None:
        yield
        return
    seen: set[tuple[str, int]] = set()
    lock = threading.RLock()

    def once(event: Event) -> None:  # a task that ran again tells again
        with lock:
            if (event.stage, event.run) not in seen:
                seen.add((event.stage, event.run))
                on_event(event)

    _listeners[run_id] = once
    try:
        with contextlib.nullcontext() if client is None else _subscription(client):
            yield
    finally:
        del _listeners[run_id]


@contextlib.contextmanager
def _subscription(client: Any) -> Iterator[None]:
    """A client has one for all that watch through it."""
    with _lock:
        _subscribed[client.id] += 1
        if _subscribed[client.id] == 1:
            client.subscribe_topic(TOPIC, _received)
    try:
        yield
    finally:
        with _lock:
            _subscribed[client.id] -= 1
            if not _subscribed[client.id]:
                del _subscribed[client.id]
                with contextlib.suppress(Exception):  # the scheduler may be gone; the run says so
                    client.unsubscribe_topic(TOPIC)


def _received(message: tuple[float, dict[str, Any]]) -> None:
    told = message[1]
    tell(told["run_id"], Event(**{f.name: told[f.name] for f in fields(Event)}))
