"""Runs in a terminal: the list of a folder, one under way, how far it is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.markup import escape
from rich.table import Table

from lrh_dask.nights.underway import State, Status
from lrh_dask.reports.screen import Screen, figure
from lrh_dask.runs.progress import Event
from lrh_dask.settings.ages import age_words
from lrh_dask.stores.catalog import Listed

__all__ = ["Follower", "show_runs", "show_status", "show_statuses"]

SHOWN, LISTED = 2, 20
STYLES = {State.done: "green", State.nothing_new: "green", State.running: "cyan",
          State.failed: "red", State.lost: "red", State.cancelled: "yellow"}


def show_runs(screen: Screen, runs: Sequence[Listed]) -> None:
    """A line a run, the newest last."""
    if not runs:
        screen.say("No runs yet")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("run", "pairs", "new", "leading", "held out", "alerts"):
        table.add_column(title, no_wrap=True,
                         justify="left" if title in {"run", "leading", "held out"} else "right")
    for run in runs:
        leading = ", ".join(figure(value) for value in run.eigenvalues[:SHOWN])
        late = f" ({run.late_pairs:,} late)" if run.late_pairs else ""
        held_out = "-" if run.held_out_residual is None else figure(run.held_out_residual)
        table.add_row(escape(run.run), f"{run.n_pairs:,}", f"{run.new_pairs:,}{late}", leading,
                      held_out, f"[bold red]{run.n_alerts}[/bold red]" if run.n_alerts else "-")
    screen.output.print(table)


def show_statuses(screen: Screen, found: Sequence[Status]) -> None:
    """A line a run that was begun or submitted, the newest last."""
    if not found:
        screen.say("Nothing was begun or submitted here")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("run", "state", "how far", "since", "where"):
        table.add_column(title, no_wrap=title in {"run", "since"})
    if len(found) > LISTED:
        screen.say(f"The last {LISTED} of {len(found)}; --json tells all")
    for status in found[-LISTED:]:
        style, state = STYLES.get(status.state, "default"), status.state.name.replace("_", " ")
        table.add_row(escape(status.run), f"[{style}]{state}[/{style}]", escape(_how_far(status)),
                      _ago(status.began), escape(status.where))
    screen.output.print(table)


def show_status(screen: Screen, status: Status) -> None:
    """All that is known of a run under way, or of how it ended."""
    rows = [("run", status.run), ("state", f"{status.state.name.replace('_', ' ')}: "
                                           f"{status.state.value}"),
            ("how far", _how_far(status) or "-"), ("begun", _ago(status.began)),
            ("where", status.where or "-"), ("scheduler", status.scheduler or "-")]
    if status.attempt > 1:
        rows.append(("attempts", f"{status.attempt}: it was begun again where it had died"))
    if status.result and status.result != status.run:
        rows.append(("result", f"that of run {status.result}"))
    if status.error:
        rows.append(("error", status.error))
    screen.facts(rows)


def _how_far(status: Status) -> str:
    return ", ".join(f"{stage} {done:,} of {status.of.get(stage, status.n_pairs):,}"
                     if stage != "solve" else stage for stage, done in status.done.items())


def _ago(moment: float) -> str:
    return f"{age_words(max(time.time() - moment, 0.0))} ago"


class Follower:
    """Shows how far a run elsewhere is, as if it were here; what was shown is never taken back."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._stack = screen, ExitStack()
        self._stages: Any = None
        self._shown: dict[str, int] = {}

    @contextmanager
    def following(self) -> Iterator[Follower]:
        """Bars, or lines, while the block runs."""
        with self._stack:
            yield self

    def show(self, status: Status) -> None:
        """What is new of it."""
        if not status.n_pairs:
            return
        if self._stages is None:
            self._stages = self._stack.enter_context(self._screen.stages(status.n_pairs))
        for stage, done in status.done.items():
            before = self._shown.get(stage, -1)
            if done > before:
                self._stages.event(Event(stage, 0, done - max(before, 0), 0,
                                         status.of.get(stage, 0)))
                self._shown[stage] = done
