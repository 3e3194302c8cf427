"""Dask's own dashboard: where it is, what a run is called on it, and what it leaves in a file."""

from __future__ import annotations

import contextlib
import shlex
import sys
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from lrh_dask.errors import public_text

__all__ = ["dashboard_of", "performance_report", "run_span"]

ANSWER_SECONDS = 2.0


@contextlib.contextmanager
def run_span(run_id: str) -> Iterator[None]:
    """What is computed in the block is one span, ``lrh <run id>``, whose parts are the stages."""
    from dask.base import get_annotations
    from distributed import span

    tag = f"lrh {run_id}"
    known = get_annotations().get("span")
    with contextlib.nullcontext() if known and tag in known["name"] else span(tag):
        yield


def dashboard_of(client: Any) -> str:
    """Where the dashboard of a cluster is, or why there is none, in a line."""
    try:
        link = client.dashboard_link
    except KeyError as error:
        return ("Dashboard: unknown, as its address in Dask's settings "
                f"(`distributed.dashboard.link`) has {error} in it and the environment has not")
    if not link:
        return "Dashboard: none"
    try:
        with urllib.request.urlopen(urllib.request.Request(link, method="HEAD"),
                                    timeout=ANSWER_SECONDS):
            return f"Dashboard: {link}"
    except HTTPError as error:
        if error.code == 404:
            return f"Dashboard: none at {link} (the scheduler may have been started without one)"
    except (OSError, ValueError, HTTPException):
        return f"Dashboard: {link} (which does not answer from here)"
    return f"Dashboard: {link}"


@contextlib.contextmanager
def performance_report(path: Path | None, say: Callable[[str], None]) -> Iterator[None]:
    """Write Dask's report of the block, as a page that needs no network; None: write none.

    A block that fails leaves none. A report that cannot be made costs nothing but itself.

    Args:
        say: is told where there is no report, and why.
    """
    if path is None:
        yield
        return
    from distributed import get_client
    from distributed import performance_report as recorded

    recording = recorded(filename=str(path), mode="inline")
    try:
        recording.__enter__()
    except Exception as error:
        say(f"Notice: there will be no performance report: {type(error).__name__}: {error}.")
        yield
        return
    yield
    try:
        name = Path(sys.argv[0]).name
        ours = name == "lrh" or Path(sys.argv[0]).parent.name == "lrh_dask"
        said = public_text(shlex.join([name, *sys.argv[1:]])) if ours else "lrh_dask"
        get_client().sync(recording.__aexit__, None, None, None,
                          code=said)  # else these lines are shown
    except Exception as error:
        say(f"Notice: there is no performance report: {type(error).__name__}: {error}.")
