"""The command that compares two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lrh_dask.cli.options import Json

__all__ = ["diff"]


def diff(
        before: Annotated[Path, typer.Argument(
            metavar="A", help="The earlier run: RESULT.zarr, or a run folder.")],
        after: Annotated[Path, typer.Argument(
            metavar="B", help="The later run: RESULT.zarr, or a run folder.")],
        shared: Annotated[int | None, typer.Option(
            "--shared", metavar="N", min=0, show_default="as run folders say, else none",
            help="Pairs that are in both runs, which makes the error of a change smaller.")] = None,
        leading: Annotated[int, typer.Option(
            "--leading", metavar="K", min=1, help="Eigenvalues to compare.")] = 10,
        as_json: Json = False) -> None:
    """Say what has changed from one run to another, beyond their errors.

    Eigenvalues are followed by their direction, and counted as drifted in standard errors of the
    change; subspaces are compared by principal angles, beside what noise alone would turn.
    """
    from lrh_dask.reports.comparison import StoredRun, compare_runs
    from lrh_dask.reports.drift_screen import show_comparison
    from lrh_dask.reports.screen import Screen

    found = compare_runs(StoredRun.load(before), StoredRun.load(after), shared_pairs=shared,
                         leading=leading)
    if as_json:
        typer.echo(json.dumps(found.document()))
        return
    show_comparison(Screen(), found)
