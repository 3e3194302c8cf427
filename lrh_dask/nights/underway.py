"""Runs under way, told through their folder: whoever sees it can follow, read the log, and cancel.

    <runs>/jobs/<run id>/status.json    the state, how far each stage is; replaced at every change
                        /log.txt        what the run has said
                        /cancel         made by who wants it to end
                        /settings.yaml  of a run that was submitted

A run whose status has not been renewed for LOST_AFTER seconds is lost: its process died.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path

from lrh_dask.errors import SettingsError, explain, public_text
from lrh_dask.settings.ages import age_words
from lrh_dask.stores.aside import replace_file
from lrh_dask.stores.documents import MALFORMED, known, read_document
from lrh_dask.stores.inside import inside, refuse_links

__all__ = ["State", "Status", "forget_old", "job_folder", "jobs_folder", "note", "status_of",
           "statuses"]

LOST_AFTER = 30.0
KEPT = 100
"""Runs that are over and still told of."""


class State(Enum):
    """How a run is; the value says so to a person."""

    queued = "handed to the cluster, not begun"
    running = "under way"
    done = "published"
    nothing_new = "done: nothing was new"
    failed = "failed, nothing was published"
    cancelled = "cancelled, nothing was published"
    lost = "its process died, nothing was published"

    @property
    def is_final(self) -> bool:
        """Whether it will not change any more."""
        return self not in {State.queued, State.running}


@dataclass(frozen=True)
class Status:
    """A run under way, or how it ended.

    Attributes:
        where: the machine it runs on; ``scheduler``: of its cluster.
        began, updated: seconds since 1970.
        n_pairs: of the run; ``done``: pairs read, by stage, in their order; ``of``: that a stage
            reads, at most while it goes on.
        attempt: how many times it was begun: a cluster begins it again where a worker died.
        exit_code: once it has ended.
        result: the run that holds the result: itself, or where nothing was new an earlier one.
        error: what went wrong.
    """

    run: str
    state: State
    where: str = ""
    scheduler: str = ""
    began: float = 0.0
    updated: float = 0.0
    n_pairs: int = 0
    done: dict[str, int] = field(default_factory=dict)
    of: dict[str, int] = field(default_factory=dict)
    attempt: int = 0
    exit_code: int | None = None
    result: str | None = None
    error: str = ""


def jobs_folder(runs: Path) -> Path:
    """Where the runs under way of a folder of runs are told."""
    return runs / "jobs"


def job_folder(runs: Path, run: str) -> Path:
    """Where a run under way is told.

    Raises:
        SettingsError: its name leads elsewhere, or somebody has put a link there.
    """
    refuse_links(jobs_folder(runs))
    return inside(jobs_folder(runs), run)


def status_of(runs: Path, run: str) -> Status:
    """How a run is.

    Raises:
        SettingsError: there is none of that name.
    """
    path = job_folder(runs, run) / "status.json"
    try:
        told = read_document(path)
        status = known(Status, told | {"state": State[told["state"]], "run": run})
        silent = time.time() - max(status.updated, path.stat().st_mtime)
    except (OSError, *MALFORMED) as error:
        raise SettingsError(explain(
            f"run {run!r} in {runs}", expected="a run that was begun or submitted there",
            got="none" if isinstance(error, FileNotFoundError) else f"{error}",
            consequence="There is nothing to tell", fix="`lrh status` lists them")) from error
    if status.state is State.running and silent > LOST_AFTER:
        return replace(status, state=State.lost, exit_code=4,
                       error=f"nothing was heard from {status.where} for {age_words(silent)}")
    return status


def note(runs: Path, status: Status) -> None:
    """Write down how a run is."""
    content = asdict(status) | {"state": status.state.name, "updated": time.time(),
                                "error": public_text(status.error)}
    replace_file(job_folder(runs, status.run) / "status.json", json.dumps(content, indent=1))


def statuses(runs: Path) -> list[Status]:
    """All runs that were begun or submitted, the newest last."""
    found = []
    for path in jobs_folder(runs).glob("*/status.json"):
        with contextlib.suppress(SettingsError):
            found.append(status_of(runs, path.parent.name))
    return sorted(found, key=lambda status: (status.began, status.run))


def forget_old(runs: Path) -> None:
    """Remove what is told of runs that were over long ago."""
    for one in [status for status in statuses(runs) if status.state.is_final][:-KEPT]:
        shutil.rmtree(job_folder(runs, one.run), ignore_errors=True)
