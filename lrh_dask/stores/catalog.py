"""The catalogue: a folder of runs, each a folder that is written once and never changed.

    <folder>/<run id>/run.json      what `lrh nightly --json` prints, the ledger, the settings
                     /result.zarr, report.html, ...
            /latest                 the run that was published last (a symbolic link)
            /index.json             a line a run; it can be deleted, and is made anew
            /alerts.json            what is to be told yet (:mod:`lrh_dask.nights.owed`)
            /states/                what the next run goes on from (:mod:`lrh_dask.nights.states`)

A run is written aside and renamed: what has its name is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lrh_dask.errors import BadPairs, LrhError, RunFailed, explain
from lrh_dask.stores.aside import (
    beside,
    put_in_order,
    refuse_unwritable,
    replace_file,
    written_aside,
)
from lrh_dask.stores.documents import MALFORMED, known, read_document
from lrh_dask.stores.inside import inside
from lrh_dask.stores.locks import exclusive
from lrh_dask.stores.windows import Segment

__all__ = ["N_RECENT", "Busy", "Catalog", "Listed"]

FORMAT_VERSION = 1
N_LEADING = 10
N_RECENT = 30
"""A run is compared with the last one and the last so many."""


class Busy(LrhError):
    """Another run holds the folder; the exit code is the one that schedulers try again after."""

    exit_code = os.EX_TEMPFAIL


@dataclass(frozen=True)
class Listed:
    """A run as the index knows it.

    Attributes:
        sequence: 1, 2, ...: the order of runs, whatever clocks say.
        created: time of day (ISO 8601, UTC).
        lineage, key: what its states, and what the whole result depends on (digests).
        window: which pairs it is about.
        eigenvalues, standard_errors: of the leading ones; errors may be None.
        n_alerts: alerts it raised.
    """

    run: str
    sequence: int
    created: str
    store: str
    lineage: str
    window: str
    key: str
    n_pairs: int
    new_pairs: int
    late_pairs: int
    rank: int
    index: int
    residual: float | None
    held_out_residual: float | None
    verdict: str
    eigenvalues: tuple[float, ...]
    standard_errors: tuple[float | None, ...]
    n_alerts: int


@dataclass(frozen=True)
class _Ledger:
    rows: tuple[tuple[int, int], ...]
    segments: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class _ForTheNext:
    """What the next night needs of the document of a run besides."""

    ledger: _Ledger
    lineage_settings: dict[str, Any]
    seconds: dict[str, float]
    bytes: dict[str, float]
    alerts: tuple[dict[str, Any], ...]


class Catalog:
    """Runs in a folder.

    Args:
        folder: made where there is none.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()

    @contextlib.contextmanager
    def held(self, *, wait: bool, say: Callable[[str], None]) -> Iterator[None]:
        """Keep other runs out of the folder.

        Args:
            wait: for another run to end, which ``say`` is told of.

        Raises:
            SettingsError: the folder cannot be made or written.
            Busy: another run is in it, and it is not to be waited for.
        """
        self.refuse_unwritable()
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(exclusive(self.folder / ".lock", wait=False))
                busy = None
            except BlockingIOError:
                busy = Busy(explain(
                    f"run in {self.folder}", expected="no other run in this folder", got="one",
                    consequence="Two at once would count pairs twice, so nothing was started",
                    fix="Run again when it is done, or pass --wait"))
            if busy is not None and not wait:
                raise busy
            if busy is not None:
                say(f"Another run is in {self.folder}: waiting for its end")
                stack.enter_context(exclusive(self.folder / ".lock"))
            put_in_order(self.folder)
            yield

    def refuse_unwritable(self) -> None:
        """Raise where nothing can be written, before hours go into what would go there.

        Raises:
            SettingsError: the folder cannot be made or written.
        """
        refuse_unwritable(self.folder / "run", fix="Choose another with `runs:`",
                          name=str(self.folder))

    def runs(self) -> list[Listed]:
        """All published runs, in their order; the index is made anew where it is not right."""
        return self._read()[0]

    def damaged(self) -> list[str]:
        """What is wrong with runs whose documents cannot be read, and what to do.

        All documents are read, whatever the index says: :meth:`runs` lists none of these after.
        """
        return self._read(believing_index=False)[1]

    def _read(self, *, believing_index: bool = True) -> tuple[list[Listed], list[str]]:
        try:
            index = read_document(self.folder / "index.json")
            before = {row["run"]: (row["stamp"], known(Listed, row)) for row in index["runs"]}
        except (OSError, *MALFORMED):
            before = {}
        rows: dict[str, tuple[list[int], Listed]] = {}
        damaged = []
        for path in sorted(self.folder.glob("[!.]*/run.json")):
            name = path.parent.name
            if path.parent.is_symlink():
                continue
            with contextlib.suppress(FileNotFoundError):  # somebody is deleting it
                found = path.stat()
                stamp = [found.st_size, found.st_mtime_ns]
                try:
                    same = believing_index and name in before and before[name][0] == stamp
                    rows[name] = before[name] if same else (
                        stamp, _row(path, {**self.document(name), "run": name}))
                except BadPairs as error:
                    damaged.append(str(error))
        if rows != before:
            with contextlib.suppress(OSError):  # who may only look need not keep it
                replace_file(self.folder / "index.json", json.dumps(
                    {"format": FORMAT_VERSION, "runs": [
                        {**asdict(row), "stamp": stamp} for stamp, row in rows.values()]},
                    indent=1))
        return sorted((row for _, row in rows.values()),
                      key=lambda row: (row.sequence, row.created)), damaged

    def document(self, run: str) -> dict[str, Any]:
        """What a run has written about itself.

        Raises:
            BadPairs: it cannot be read.
        """
        path = inside(self.folder, run) / "run.json"
        try:
            document = read_document(path)
        except (OSError, *MALFORMED) as error:
            raise _unreadable(path, error) from error
        return document

    def publish(self, run: str, document: dict[str, Any], fill: Callable[[Path], None]) -> Path:
        """Publish a run and move ``latest`` to it.

        Args:
            fill: writes everything else into a folder that is not published yet.
        Raises:
            RunFailed: the disk is full, or what else may fail in writing.
            SettingsError: its name leads elsewhere.
        """
        path = inside(self.folder, run)
        try:
            with written_aside(path, overwrite=False, is_ours=lambda _: False) as aside:
                fill(aside)
                (aside / "run.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
        except OSError as error:
            raise RunFailed(explain(
                f"write {path}", expected="room and leave to write", got=str(error),
                consequence="The run was not published; `latest` is the one before",
                fix="Make room and run again: what was counted is not read again")) from error
        self.point_at(run)
        self.runs()
        return path

    def point_at(self, run: str) -> None:
        """Have ``latest`` be this run.

        Raises:
            RunFailed: it cannot be moved.
        """
        latest = self.folder / "latest"
        link = beside(latest)
        try:
            if not latest.is_symlink() or os.readlink(latest) != run:
                link.symlink_to(run)
                os.replace(link, latest)
        except OSError as error:
            raise RunFailed(explain(
                f"move {latest} to {run}", expected="room and leave to write", got=str(error),
                consequence="The run is published, but `latest` is another one",
                fix="Make room and run again: that only moves `latest`")) from error


def _row(path: Path, document: dict[str, Any]) -> Listed:
    """A run as the index knows it, from what it has written about itself.

    Raises:
        BadPairs: something is missing there.
    """
    try:
        found = known(Listed, {**document, "eigenvalues": document["eigenvalues"][:N_LEADING],
                               "standard_errors": document["standard_errors"][:N_LEADING],
                               "n_alerts": len(document["alerts"])})
        if found.run != path.parent.name:
            message = f"it is of run {found.run}"
            raise ValueError(message)
        for segment in known(_ForTheNext, document).ledger.segments:
            Segment.known(segment)
    except MALFORMED as error:
        raise _unreadable(path, error) from error
    return found


def _unreadable(path: Path, error: Exception) -> BadPairs:
    return BadPairs(explain(
        f"read {path}", expected="what a run says of itself",
        got=f"{type(error).__name__}: {error}",
        consequence="The run is left out: none is compared with it, and pairs that it alone was "
                    "about are called new once more",
        fix=f"Restore it, or remove {path.parent}: its pairs are counted in the states all the "
            "same"))
