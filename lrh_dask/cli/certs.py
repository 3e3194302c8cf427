"""`lrh certs`: certificates for a cluster of one's own, and how they are used."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["certs"]


def certs(
        folder: Annotated[Path, typer.Argument(
            metavar="FOLDER", help="A new folder, where all machines of the cluster see it.")],
        days: Annotated[int, typer.Option(
            "--days", min=1, max=3650, help="For how long they are valid.")] = 365) -> None:
    """Make certificates by which scheduler, workers and clients of one cluster know each other.

    Whoever can read the files can run code on the cluster: they are for you alone (mode 0600).
    The authority's own key is not kept; for a new certificate make a new folder.
    """
    from lrh_dask.clusters.certificates import make_certificates

    made = make_certificates(folder, days)
    files = dict(made)
    options = " ".join(f"--tls-{name.replace('_', '-')} {shlex.quote(path)}"
                       for name, path in files.items())
    typer.echo("\n".join([
        f"# valid for {days} days; settings of runs:", "cluster:", "  tls:",
        *(f"    {name}: {path}" for name, path in files.items()),
        "# a scheduler and workers that you start yourself:",
        f"#   dask scheduler --protocol tls {options} --dashboard-address 127.0.0.1:8787",
        f"#   dask worker tls://HOST:8786 {options} --dashboard-address 127.0.0.1:0"]))
