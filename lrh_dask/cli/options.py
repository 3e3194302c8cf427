"""Options that commands share, and how the text of an option becomes a setting."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["BasisText", "Insecure", "Json", "Memory", "MethodText", "RankText", "Scheduler",
           "Store", "Threads", "Workers", "XName", "YName", "number_or_text", "yes_or_no"]

Store = Annotated[str, typer.Argument(
    metavar="STORE", help="Path or URL of a Zarr group with arrays x and y, (n, D) each.")]
XName = Annotated[str | None, typer.Option("--x", help="Name of the array of points or steps.",
                                           show_default="x")]
YName = Annotated[str | None, typer.Option("--y", help="Name of the array of gradients.",
                                           show_default="y")]
RankText = Annotated[str | None, typer.Option(
    "--rank", metavar="auto|N", show_default="auto",
    help="Eigenvalues wanted; auto: as many as held-out pairs support.")]
BasisText = Annotated[str | None, typer.Option(
    "--basis", metavar="auto|K", show_default="auto",
    help="Columns to fit in, at most; as many as features are all of R^D.")]
MethodText = Annotated[str | None, typer.Option(
    "--method", metavar="symmetric|seed|least_norm", show_default="symmetric",
    help="symmetric is always safe; seed and least_norm take few exact pairs.")]
Scheduler = Annotated[str | None, typer.Option(
    "--scheduler", metavar="ADDRESS|FILE.json", show_default="DASK_SCHEDULER_ADDRESS, else a local "
    "cluster", help="Run on this Dask scheduler: tls://host:8786, tcp://127.0.0.1:8786, or what "
                    "`dask scheduler --scheduler-file` wrote. It goes before a file's cluster.")]
Insecure = Annotated[bool, typer.Option(
    "--insecure", help="Use a cluster that other machines can reach without TLS: whoever does runs "
                       "any code there, as you.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Processes of the local cluster.",
                                             show_default="one a core, at most 8")]
Threads = Annotated[int | None, typer.Option("--threads-per-worker", show_default="1",
                                             help="Threads of a local worker.")]
Memory = Annotated[str | None, typer.Option(
    "--memory-limit", metavar="SIZE", help="Memory of a local worker, such as 4GiB.",
    show_default="its share of this machine")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, "
                                                   "and nothing else there.")]


def number_or_text(value: str | None) -> int | str | None:
    """A whole number where it is one; what the settings do not know they refuse."""
    try:
        return None if value is None else int(value)
    except ValueError:
        return value


def yes_or_no(value: str | None) -> bool | str | None:
    """True or False where it says so."""
    return {"yes": True, "no": False}.get(value, value) if value is not None else None
