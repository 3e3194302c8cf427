"""`lrh doctor`: what can be looked at before a run, as a person or a script reads it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrh_dask.cli.options import (
    Insecure,
    Json,
    Memory,
    Scheduler,
    Threads,
    Workers,
    XName,
    YName,
)
from lrh_dask.clusters.findings import Finding, Health

__all__ = ["doctor"]

COLOURS = {Health.good: "green", Health.fair: "yellow", Health.poor: "bold red"}


def doctor(
        store: Annotated[str | None, typer.Argument(
            metavar="[STORE|CONFIG.yaml]", show_default=False,
            help="A store of pairs to be looked at, too, or a file of settings.")] = None,
        scheduler: Scheduler = None, insecure: Insecure = False, workers: Workers = None,
        threads_per_worker: Threads = None, memory_limit: Memory = None,
        device: Annotated[str | None, typer.Option(
            "--device", metavar="auto|cpu|gpu", show_default="auto",
            help="Where workers are to compute.")] = None,
        x: XName = None, y: YName = None, as_json: Json = False) -> None:
    """Look at cluster, workers and store before a run; each check has a verdict and a fix.

    Software, ports, TLS, threads, allocator, memory, disk, GPUs; chunks and checksums. Without a
    scheduler it looks at the local cluster that a run would start here. Nothing is changed.

    Exit codes: 0 where nothing is poor, 1 where something is.
    """
    from lrh_dask.clusters.doctor import examine
    from lrh_dask.reports.screen import Screen
    from lrh_dask.settings.config import NightlySettings, RunSettings, settings_of
    from lrh_dask.settings.yaml_file import read_yaml

    nightly = store and store.endswith((".yaml", ".yml")) and "runs" in read_yaml(Path(store))[0]
    kind = NightlySettings if nightly else RunSettings
    settings = settings_of(kind, store or "no-store", {"device": device, "x": x, "y": y}, {
        "scheduler": scheduler, "workers": workers, "threads_per_worker": threads_per_worker,
        "memory_limit": memory_limit, "insecure": insecure})
    screen = Screen(quiet_output=as_json)
    found = examine(settings, with_store=store is not None, say=screen.say)
    if as_json:
        typer.echo(json.dumps([{"name": finding.name, "health": finding.health.name,
                                "said": finding.said, "fix": finding.fix} for finding in found]))
    show(found, screen.output)
    if any(finding.health is Health.poor for finding in found):
        raise typer.Exit(1)


def show(found: Iterable[Finding], console: Console) -> None:
    """A row a check, the fix below what was seen, and how many are how."""
    found = list(found)
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in found:
        seen = Text(finding.said)
        if finding.fix:
            seen.append(f"\n→ {finding.fix}", style="cyan")
        table.add_row(Text(finding.health.name, style=COLOURS[finding.health]), finding.name, seen)
    console.print(table)
    counts = Counter(finding.health for finding in found)
    console.print(Text(", ").join(
        Text(f"{counts[health]} {health.name}", style=COLOURS[health])
        for health in reversed(list(Health)) if counts[health]))
