"""Commands that look at stores of pairs and add to them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from lrh_dask.cli.options import Json, Store, XName, YName

__all__ = ["commands"]

commands = typer.Typer()


@commands.command(rich_help_panel="Pairs")
def append(
        store: Annotated[str, typer.Argument(
            metavar="STORE", help="Path of a store of pairs; made where there is none.")],
        pairs: Annotated[str, typer.Argument(
            metavar="PAIRS.npz|OTHER.zarr", help="Arrays x and y, (n, D) each.")],
        label: Annotated[str | None, typer.Option(
            "--label", metavar="TEXT", show_default=False,
            help="What recorded them, such as the name of a training run.")] = None,
        recorded: Annotated[str | None, typer.Option(
            "--recorded", metavar="TIME", show_default="now",
            help="When they were recorded, such as 2026-11-02T03:00:00Z.")] = None,
        again: Annotated[bool, typer.Option(
            "--again", help="Count rows once more that were appended before.")] = False,
        x: XName = None, y: YName = None, as_json: Json = False) -> None:
    """Append pairs to a store: all of them are published, or none.

    Readers see what was published before, and a second writer waits. A killed append leaves the
    store as it was. --x and --y name the arrays of both.
    """
    from lrh_dask.reports.screen import Screen
    from lrh_dask.stores.appending import append
    from lrh_dask.stores.incoming import incoming_from
    from lrh_dask.stores.manifest import Stamp

    names = {"x": x or "x", "y": y or "y", "weight": "weight"}
    batch = append(store, incoming_from(pairs, **names), Stamp(label, recorded, again),
                   names=names)
    if as_json:
        typer.echo(json.dumps({"store": store, "n_pairs": batch.stop, **asdict(batch)}))
        return
    Screen().facts([
        ("store", store), ("appended", f"{batch.stop - batch.start} pairs, rows {batch.start}-"
                                       f"{batch.stop - 1}"),
        ("label", batch.label or "none"), ("recorded", batch.recorded)])


@commands.command(rich_help_panel="Pairs")
def inspect(
        store: Store, x: XName = None, y: YName = None,
        every_row: Annotated[bool, typer.Option(
            "--all", help="Read every row, and name all bad ones.")] = False,
        as_json: Json = False) -> None:
    """Say what a store holds and whether it is usable, before any run."""
    from lrh_dask.reports.screen import Screen, size
    from lrh_dask.stores.inspection import inspect_pairs
    from lrh_dask.stores.opening import open_pairs

    screen = Screen(quiet_output=as_json)
    found = inspect_pairs(open_pairs(store, x=x or "x", y=y or "y"), every_row=every_row)
    if as_json:
        typer.echo(json.dumps(found))
    found["bytes"] = size(found["bytes"])
    screen.facts([(name.replace("_", " "), value) for name, value in found.items()])


