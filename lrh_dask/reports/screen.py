"""What a person sees in a terminal: progress, the result table, a plan, a store."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from lrh_dask.errors import printable, public_text
from lrh_dask.runs.budget import Plan, Route
from lrh_dask.runs.progress import Event
from lrh_dask.statistics.hessian import LowRankHessian

__all__ = ["Screen", "figure", "size"]

SHOWN = 10
ADDRESS = re.compile(r"https?://[^\s()]+")


def size(n_bytes: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"


def figure(value: float) -> str:
    """A number to four digits; NaN is a dash."""
    return "-" if not np.isfinite(value) else f"{value:.4g}"


class _Console(Console):
    """Shows what steers a terminal as the text that it is: names may come from anybody."""

    def render(self, *args: Any, **kwargs: Any) -> Iterator[Segment]:
        """What is to be written, piece by piece."""
        for segment in super().render(*args, **kwargs):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


class Screen:
    """Talks to a person: progress and notices on standard error, results on standard output."""

    def __init__(self, *, quiet_output: bool = False) -> None:
        self.errors = _Console(stderr=True, highlight=False, soft_wrap=True)
        self.output = _Console(highlight=False, quiet=quiet_output)

    def say(self, text: str) -> None:
        """One line on standard error; addresses in it can be clicked where a terminal knows how."""
        line = Text(public_text(text))
        for address in ADDRESS.finditer(line.plain):
            line.stylize(f"link {address[0]}", *address.span())
        self.errors.print(line)

    @contextmanager
    def stages(self, n_pairs: int) -> Iterator[_Stages]:
        """A progress bar for each stage, or plain lines where this is no terminal."""
        stages = _Bars(self.errors, n_pairs) if self.errors.is_terminal else _Lines(self, n_pairs)
        with stages:
            yield stages

    def show(self, hessian: LowRankHessian, *, exact: np.ndarray | None = None) -> None:
        """The result: eigenvalues with errors, certificates, cost."""
        c, p = hessian.certificates, hessian.provenance
        table = Table(title=f"Top {min(SHOWN, hessian.rank)} of {hessian.rank} eigenvalues",
                      title_justify="left", header_style="bold")
        table.add_column("#", justify="right")
        table.add_column("eigenvalue", justify="right")
        table.add_column("standard error", justify="right")
        if exact is not None:
            table.add_column("exact", justify="right")
            table.add_column("off by", justify="right")
        for i, (value, error) in enumerate(
                zip(hessian.eigenvalues[:SHOWN], hessian.standard_errors[:SHOWN], strict=True)):
            cells = [str(i + 1), f"{value:.6g}", f"± {error:.2g}" if np.isfinite(error) else "-"]
            if exact is not None:
                cells += [f"{exact[i]:.6g}", f"{100 * (value / exact[i] - 1):+.2f} %"]
            table.add_row(*cells)
        if hessian.rank:
            self.output.print(table)
        unknown = np.isnan(hessian.standard_errors)
        if unknown.any():
            said = "No standard errors" if unknown.all() else "Standard errors"
            self.output.print(f"[dim]{said}: {escape(c.standard_error_note)}.[/dim]")
        facts = Table.grid(padding=(0, 2))
        shown = hessian.eigenvalues[:SHOWN]
        bias = float(np.max(hessian.bias[:SHOWN] / np.abs(shown))) if np.all(shown) and len(
            shown) else np.nan
        seconds = p["seconds"]
        for name, text in (
                ("pairs n", f"{hessian.n_pairs:,}"), ("features D", f"{hessian.n_features:,}"),
                ("rank r", f"{hessian.rank} (of a fitted basis of {c.n_basis} columns)"),
                ("residual, all pairs", figure(c.residual)),
                ("residual, held out", figure(c.held_out_residual)),
                ("asymmetry of XᵀY", figure(c.asymmetry)),
                ("captured energy", figure(c.captured_energy)),
                ("offset b", "fitted" if c.centered else "none"),
                ("x explores", f"{c.n_explored:,} of {hessian.n_features:,} directions"
                 + f", as far as the {c.n_basis:,} columns of the basis show"
                 * (c.n_explored <= c.n_basis < hessian.n_features)),
                ("bias", f"up to {figure(100 * bias)} % of a shown eigenvalue (basis halved, cut, "
                 "ridge, noise)" if np.isfinite(bias) else "-"),
                ("seconds", ", ".join(f"{k} {seconds[k]:.1f}"
                                      for k in ("total", "basis", "fit", "solve"))
                 + f" (workers reading {seconds['read']:.1f})"),
                ("bytes read", ", ".join(f"{k} {size(v)}" for k, v in p["bytes"].items() if v)),
                ("peak of a worker", size(p["peak_worker_bytes"]))):
            facts.add_row(f"[bold]{name}[/bold]", escape(text))
        self.output.print(facts)
        self.output.print(f"[bold]verdict[/bold] [reverse] {c.verdict.name} [/reverse] "
                          f"{escape(c.verdict.value)}", soft_wrap=False)
        self.output.print(f"[bold]curvature[/bold] {escape(hessian.curvature)}.")
        for notice in p["notices"]:
            self.say(f"Notice: {notice}.")

    def plan(self, plan: Plan, n_runs: int, worker_bytes: int | None) -> None:
        """The price of a run; ``worker_bytes`` that a worker has, None where nobody knows yet."""
        facts = Table.grid(padding=(0, 2))
        passes = 2 if plan.route in {Route.fitted_basis, Route.by_features} else 1
        most = "at most " * (plan.route is Route.fitted_basis)
        for name, text in (
                ("route", plan.route.value), ("basis", f"up to {plan.max_basis} columns"),
                ("reads", f"{most}{size(plan.bytes_read)} in {passes} pass"
                          f"{'es'[:2 * (passes - 1)]}, {n_runs} task{'s'[:n_runs > 1]} each"),
                ("computes", f"about {plan.flops:.2g} floating-point operations"),
                ("tasks", f"{plan.n_tasks}"),
                ("memory", f"at most {size(plan.peak_worker_bytes)} a worker"
                 + f"; {size(plan.usual_worker_bytes)} where y has few strong directions"
                 * (plan.usual_worker_bytes < plan.peak_worker_bytes)),
                ("workers", f"{size(worker_bytes)} each" if worker_bytes is not None else
                 "of a memory that these settings do not tell")):
            facts.add_row(f"[bold]{name}[/bold]", escape(text))
        self.output.print(facts)

    def programs(self, found: Mapping[str, Any]) -> None:
        """Programs that were compared: seconds, ratios to the first, errors of eigenvalues."""
        floor = next(iter(found.values()))
        table = Table(box=None, padding=(0, 2, 0, 0))
        for title in ("program", "seconds", "least - most", "times the floor",
                      "error"):
            left = title == "program"
            table.add_column(title, justify="left" if left else "right", no_wrap=left)
        for name, measured in found.items():
            ratio = measured.ratio_to(floor)
            table.add_row(
                name, f"{measured.median:.2f}",
                f"{min(measured.seconds):.2f} - {max(measured.seconds):.2f}",
                f"{np.median(ratio):.2f}",
                "" if measured.error_or_none is None else f"{100 * measured.error:.2g} %")
        self.output.print(table)

    def fact(self, name: str, text: Any) -> None:
        """A name and a value in a line of their own, which is not broken."""
        self.output.print(Text.assemble((name, "bold"), " ", str(text)), soft_wrap=True)

    def facts(self, rows: list[tuple[str, Any]]) -> None:
        """Names and values, one a line."""
        grid = Table.grid(padding=(0, 2))
        for name, text in rows:
            grid.add_row(f"[bold]{escape(name)}[/bold]", escape(str(text)))
        self.output.print(grid)


class _Stages:
    """Follows the events of one run."""

    def __enter__(self) -> _Stages:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def event(self, event: Event) -> None:
        """A task of the run is done."""


class _Bars(_Stages):
    def __init__(self, console: Console, n_pairs: int) -> None:
        self.n_pairs = n_pairs
        self.bars = Progress(
            TextColumn("{task.description:>9}"), BarColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[count]}"), console=console)
        self.tasks: dict[str, Any] = {}
        self.totals: dict[str, int] = {}

    def __enter__(self) -> _Stages:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end("solve")
        self.bars.stop()

    def _end(self, stage: str) -> None:
        """A stage is over: the solve, or a basis that has had enough of a sample."""
        if stage not in self.tasks:
            return
        if stage == "solve":
            self.bars.update(self.tasks[stage], total=1, completed=1)
        elif done := self._done(stage):
            self.bars.update(self.tasks[stage], total=done, count=f"{done:,} pairs")

    def _done(self, stage: str) -> int:
        return int(next(t.completed for t in self.bars.tasks if t.id == self.tasks[stage]))

    def event(self, event: Event) -> None:
        if event.stage not in self.tasks:
            for before in self.tasks:
                self._end(before)
            self.tasks[event.stage] = self.bars.add_task(event.stage, total=None, count="")
            self.totals[event.stage] = event.n_pairs_of_stage or self.n_pairs
        if event.stage != "solve":
            task, total = self.tasks[event.stage], self.totals[event.stage]
            self.bars.update(task, advance=event.n_pairs, total=total)
            self.bars.update(task, count=f"{self._done(event.stage):,} of {total:,} pairs")


class _Lines(_Stages):
    """A line at each quarter of a stage."""

    def __init__(self, screen: Screen, n_pairs: int) -> None:
        self.screen, self.n_pairs = screen, n_pairs
        self.done: dict[str, int] = {}
        self.totals: dict[str, int] = {}
        self.started = time.monotonic()

    def event(self, event: Event) -> None:
        before = self.done.get(event.stage, 0)
        self.done[event.stage] = now = before + event.n_pairs
        elapsed = time.monotonic() - self.started
        total = self.totals.setdefault(event.stage, event.n_pairs_of_stage or self.n_pairs)
        if event.stage == "solve":
            self.screen.say(f"solve: begins after {elapsed:.1f} s")
        elif total and 4 * now // total > 4 * before // total:
            self.screen.say(f"{event.stage}: {now:,} of {total:,} pairs, {elapsed:.1f} s")
        sys.stderr.flush()
