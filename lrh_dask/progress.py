"""Events of a run, from the tasks to whoever watches.

On a cluster they travel as Dask worker events under one topic, so that any client can listen;
in this process they are handed over directly. An event lost costs a tick of a progress bar,
never a result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["Event", "emit", "watch"]

TOPIC = "lrh"
_listeners: dict[str, Callable[[Event], None]] = {}


@dataclass(frozen=True)
class Event:
    """A task is done.

    Attributes:
        stage: ``basis``, ``fit``, ``fit again`` (a run of shards was reduced), ``solve`` (it
            begins) or ``vectors`` (they were made over some of the features).
        run: index of the run of shards.
        n_pairs, n_bytes: what was read in it.
    """

    stage: str
    run: int
    n_pairs: int
    n_bytes: int


def emit(run_id: str, event: Event) -> None:
    """Tell whoever watches the run."""
    listener = _listeners.get(run_id)
    if listener is not None:
        listener(event)
        return
    from distributed import get_worker

    with contextlib.suppress(ValueError):
        get_worker().log_event(TOPIC, {"run_id": run_id, **asdict(event)})


@contextlib.contextmanager
def watch(client: Any, run_id: str, on_event: Callable[[Event], None] | None) -> Iterator[None]:
    """Have ``on_event`` called with every event of the run, once per task."""
    if on_event is None:
        yield
        return
    seen: set[tuple[str, int]] = set()

    def once(event: Event) -> None:  # a task that ran again tells again
        if (event.stage, event.run) not in seen:
            seen.add((event.stage, event.run))
            on_event(event)

    if client is None:
        _listeners[run_id] = once
        try:
            yield
        finally:
            del _listeners[run_id]
        return

    def received(message: tuple[float, dict[str, Any]]) -> None:
        if message[1]["run_id"] == run_id:
            once(Event(**{field.name: message[1][field.name] for field in fields(Event)}))

    client.subscribe_topic(TOPIC, received)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # the scheduler may be gone; the run has said so
            client.unsubscribe_topic(TOPIC)
