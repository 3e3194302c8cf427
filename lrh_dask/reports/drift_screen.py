"""Two runs beside each other, in a terminal."""

from __future__ import annotations

import math

import numpy as np
from rich.markup import escape
from rich.table import Table

from lrh_dask.drift.drift import Change, Drift
from lrh_dask.drift.drift_words import FAR, headline, index_words, legend, place_of, with_error
from lrh_dask.reports.comparison import Comparison, StoredRun
from lrh_dask.reports.screen import Screen

__all__ = ["show_comparison", "show_drift"]

def show_comparison(screen: Screen, found: Comparison) -> None:
    """What `lrh diff` prints for a person."""
    runs = Table.grid(padding=(0, 2))
    for letter, run in (("A", found.before), ("B", found.after)):
        runs.add_row(f"[bold]{letter}[/bold]", *map(escape, _about(run)))
    screen.output.print(runs)
    screen.output.print(f"[dim]{escape(_sentence(found.about_shared))}[/dim]\n")
    show_drift(screen, found.drift)
    if found.settings:
        table = Table(title="Settings that differ", title_justify="left", box=None,
                      header_style="dim", padding=(0, 2, 0, 0))
        for name in ("", "A", "B"):
            table.add_column(name, overflow="fold")
        for row in found.settings:
            table.add_row(*map(escape, row))
        screen.output.print(table)


def show_drift(screen: Screen, drift: Drift) -> None:
    """Eigenvalues, overlaps and certificates of two runs, A and B."""
    screen.output.print(f"[bold]{escape(_sentence(headline(drift)))}[/bold]\n")
    if drift.eigenvalues:
        screen.output.print(_eigenvalues(drift))
        screen.output.print(f"[dim]{escape(legend(drift))}[/dim]\n")
    if drift.cuts:
        screen.output.print(_overlaps(drift))
        screen.output.print()
    facts = Table.grid(padding=(0, 2))
    for name, change in (("trace", drift.trace), ("residual", drift.residual),
                         ("held out", drift.held_out)):
        facts.add_row(f"[bold]{name}[/bold]", with_error(change.before, change.before_error), "to",
                      with_error(change.after, change.after_error), _drift(change))
    facts.add_row("[bold]index[/bold]", str(drift.index.found[0]), "to",
                  str(drift.index.found[1]), _index(drift))
    facts.add_row("[bold]verdict[/bold]", *_words(drift))
    screen.output.print(facts)


def _eigenvalues(drift: Drift) -> Table:
    table = Table(header_style="bold")
    for name in ("#", "eigenvalue A", "eigenvalue B", "B / A", "drift"):
        table.add_column(name, justify="right", no_wrap=True)
    for change in drift.eigenvalues:
        table.add_row(place_of(change), with_error(change.before, change.before_error),
                      with_error(change.after, change.after_error),
                      with_error(change.ratio, change.ratio_error), _drift(change))
    return table


def _overlaps(drift: Drift) -> Table:
    table = Table(header_style="bold")
    for name in ("leading", "overlap", "noise leaves", "largest angle"):
        table.add_column(name, justify="right", no_wrap=True)
    whole, *smaller = drift.cuts
    for cut in (*smaller, whole):
        size = str(cut.size) if cut is not whole else f"all {cut.size}"
        table.add_row(size + " (no gap)" * (not cut.apart), f"{cut.overlap:.4f}",
                      f"{cut.by_noise:.4f}" if np.isfinite(cut.by_noise) else "-",
                      f"{math.degrees(cut.angles[-1]):.1f}°")
    return table


def _drift(change: Change) -> str:
    if not np.isfinite(change.drift):
        return "-"
    said = f"{change.drift:+.1f}"
    return f"[bold red]{said}[/bold red]" if abs(change.drift) > FAR else said


def _index(drift: Drift) -> str:
    index = drift.index
    if index.is_certain:
        return "[bold red]changed for certain[/bold red]"
    return f"[dim]{index_words(index)}[/dim]"


def _words(drift: Drift) -> tuple[str, str, str, str]:
    before, after = (verdict.name for verdict in drift.verdicts)
    return before, "to", after, "" if before == after else "[bold red]changed[/bold red]"


def _about(run: StoredRun) -> tuple[str, ...]:
    hessian = run.hessian
    created = str(hessian.provenance.get("created") or "")[:16].replace("T", " ")
    return (run.name, created, f"{hessian.n_pairs:,} pairs", f"rank {hessian.rank}",
            hessian.certificates.verdict.name)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
