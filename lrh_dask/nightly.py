"""The one call that a schedule makes: what is new in a store is counted, and published as a run.

It decides its own work from what is stored, never from a clock or a schedule's interval: called
twice, the second call finds nothing to do; not called for a week, the next one catches up.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any, Protocol

from threadpoolctl import threadpool_limits

from lrh_dask import progress
from lrh_dask.alerts import Alert, judge
from lrh_dask.asked import asked_of
from lrh_dask.catalog import Catalog, Listed
from lrh_dask.cluster import connect
from lrh_dask.config import NightlySettings
from lrh_dask.dashboard import dashboard_of, performance_report, run_span
from lrh_dask.digests import RowDigest
from lrh_dask.errors import BadPairs, RunFailed, SettingsError, explain
from lrh_dask.graph import Stages
from lrh_dask.hessian import LowRankHessian
from lrh_dask.ledger import Checked, chunk_tokens, refuse_changed, suspects
from lrh_dask.nights import Known, Night, fit_night
from lrh_dask.opening import open_pairs
from lrh_dask.pairs import Pairs
from lrh_dask.pipeline import guarded, new_run_id
from lrh_dask.publishing import Tonight, age_of, publish
from lrh_dask.results import load_result
from lrh_dask.segments import cut_into_segments, uncovered
from lrh_dask.states import FORMAT_VERSION, Stored, StoredStates
from lrh_dask.tree import Partial
from lrh_dask.webhook import notify
from lrh_dask.windows import Segment, Window

__all__ = ["Outcome", "Watcher", "nightly"]

RECOMPUTE = "If it was meant, pass --recompute: all pairs are read again, and states made anew"


class Watcher(Protocol):
    """Who is told how a run goes."""

    def say(self, text: str) -> None:
        """One line."""

    def stages(self, n_pairs: int) -> AbstractContextManager[Any]:
        """What has a method ``event`` for each :class:`lrh_dask.progress.Event`."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a call came to.

    Attributes:
        document: what ``lrh nightly --json`` prints.
        path: folder of the run that holds the result.
        is_new: whether it was published by this call.
        alerts: that this call raises.
    """

    document: dict[str, Any]
    path: Path
    is_new: bool
    alerts: tuple[Alert, ...] = ()

    def result(self) -> LowRankHessian:
        """The Hessian, from disk."""
        return load_result(self.path / "result.zarr")


def nightly(settings: NightlySettings, watcher: Watcher, *, recompute: bool = False,
            wait: bool = False, run_id: str | None = None) -> Outcome:
    """Count the pairs of a store that are new, and publish the Hessian of all in the window.

    Args:
        recompute: read all pairs again, whatever is stored of them.
        wait: for another run in the folder to end.
        run_id: name of the run; None makes one.
    Raises:
        Busy: another run is in the folder.
        BadPairs: the store is unusable, has shrunk, or rows that were counted have changed.
        LrhError: see :func:`lrh_dask.fit`.
    """
    catalog = Catalog(settings.runs)
    with catalog.held(wait=wait, say=watcher.say):
        return _Call(settings, watcher, catalog, run_id or new_run_id()).carry_out(
            recompute=recompute)


@dataclass(frozen=True, eq=False)
class _Work:
    """What is to be done.

    Attributes:
        stored: segments in the window whose states are there; ``new``: those to be counted.
        new_pairs: in the window, of which the run before has none; ``late_pairs``: of these, how
            many were recorded before the newest that it has.
        key: digest of all that the result depends on, where nothing is new; else empty.
    """

    stored: Sequence[Stored]
    new: Sequence[Segment]
    new_pairs: int
    late_pairs: int
    key: str

    @property
    def rows(self) -> list[Segment]:
        """All segments in the window."""
        return sorted([*(item.segment for item in self.stored), *self.new], key=lambda s: s.start)


class _Call:
    def __init__(self, settings: NightlySettings, watcher: Watcher, catalog: Catalog,
                 run_id: str) -> None:
        self.settings, self.watcher, self.catalog, self.run_id = settings, watcher, catalog, run_id
        self.started, self.now = time.time(), f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        self.notices: list[str] = []
        self.asked = asked_of(
            rank=settings.rank, basis=settings.basis, method=settings.method,
            center=settings.center, rtol=settings.rtol, psd=settings.psd,
            weighting=settings.weighting, device=settings.device)
        self.pairs = open_pairs(settings.store, x=settings.x, y=settings.y)
        self.states = StoredStates(catalog.folder / "states", _lineage(settings, self.pairs))
        self.runs = catalog.runs()
        ours = [run for run in self.runs if run.lineage == self.states.folder.name]
        self.before: Listed | None = ours[-1] if ours else None
        self.n_stored = 0
        if self.runs and self.runs[-1].created > self.now:
            self._tell(f"the clock says {self.now}, and the last run was at "
                       f"{self.runs[-1].created}: it has gone backwards. Runs keep their order all "
                       "the same")

    def carry_out(self, *, recompute: bool) -> Outcome:
        pairs = self.pairs
        self._tell_lineage()
        work = self._work([] if recompute else self._stored())
        tokens = chunk_tokens(pairs, work.rows)  # before rows are read: a later change shows
        doubtful = suspects(pairs, tokens, self.states.tokens(),
                            [d for item in work.stored for d in item.digests])
        if not doubtful and self._is_done(work):
            return self._nothing_new()
        self.watcher.say(f"{pairs.name}: {pairs.n_pairs:,} pairs over {pairs.n_features:,} "
                         f"features; {work.new_pairs:,} new, {work.late_pairs:,} of them late")
        with ExitStack() as stack:
            client = stack.enter_context(connect(self.settings.cluster, self.watcher.say))
            self.watcher.say(dashboard_of(client))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lrh-")))
            performance = folder / "dask-performance.html"
            with performance_report(performance, self.watcher.say), run_span(
                    self.run_id), guarded():
                checked = self._checked(client, doubtful) if doubtful else Checked()
                if self._is_done(work):
                    self.states.keep_tokens(tokens)
                    return self._nothing_new()
                night = self._fit(work)
            self._keep_states(night, tokens)
            return self._publish(work, night, checked, performance)

    def _checked(self, client: Any, doubtful: Sequence[RowDigest]) -> Checked:
        """Whether rows are still those that were counted.

        Raises:
            BadPairs: they are not.
        """
        n_pairs = sum(d.stop - d.start for d in doubtful)
        with self.watcher.stages(n_pairs) as stages, progress.watch(
                client, self.run_id, stages.event):
            return refuse_changed(Stages(self.pairs, client, self.run_id), self.pairs, doubtful,
                                  self.run_id, RECOMPUTE)

    def _stored(self) -> list[Stored]:
        """Segments that were counted.

        Raises:
            BadPairs: the store has fewer rows.
        """
        stored, said = self.states.segments()
        self.notices += said
        end = max((item.segment.stop for item in stored), default=0)
        if end > self.pairs.n_pairs:
            raise BadPairs(explain(
                self.pairs.name, expected=f"the {end:,} rows that were counted, and more",
                got=f"{self.pairs.n_pairs:,}: the store has shrunk",
                consequence="Pairs that are gone are in the stored states, so nothing was added",
                fix=RECOMPUTE))
        self.n_stored = len(stored)
        return stored

    def _work(self, stored: Sequence[Stored]) -> _Work:
        """Which rows the window is about, and which of them are to be read."""
        settings, n_pairs = self.settings, self.pairs.n_pairs
        window = Window.parse(settings.window)
        by_segment = {item.segment: item for item in stored}
        batches = Segment.of(self.pairs.batches) or [Segment(0, n_pairs, self.now, self.now)]
        kept, fresh = window.choose(list(by_segment), uncovered(batches, by_segment))
        if not kept and not fresh:
            raise SettingsError(explain(
                f"window {settings.window!r} of {self.pairs.name}", expected="some pairs in it",
                got="none", consequence="There is nothing to count",
                fix="Check the label; `lrh inspect` lists those of the store"))
        new = cut_into_segments(fresh, window)
        rows = [] if self.before is None else [
            Segment(start, stop, "", "") for start, stop in
            self.catalog.document(self.before.run)["ledger"]["rows"]]
        newest = max((item.segment.last for item in stored), default="")
        unseen = uncovered([*kept, *fresh], rows)
        digests = [d for segment in kept for d in by_segment[segment].digests]
        return _Work([by_segment[segment] for segment in kept], new,
                     new_pairs=sum(part.n_pairs for part in unseen),
                     late_pairs=sum(part.n_pairs for part in unseen
                                    if part.last < newest) if rows else 0,
                     key="" if new else self._key(kept, digests))

    def _key(self, segments: Sequence[Segment], digests: Sequence[Any]) -> str:
        """Digest of all that a result depends on."""
        s = self.settings
        known = {"lineage": self.states.folder.name, "window": s.window, "rank": s.rank,
                 "center": s.center, "rtol": s.rtol, "psd": s.psd, "device": s.device,
                 "rows": sorted([segment.start, segment.stop] for segment in segments),
                 "digests": sorted([d.start, d.stop, d.digest] for d in digests)}
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def _is_done(self, work: _Work) -> bool:
        return bool(work.key) and self.before is not None and self.before.key == work.key

    def _tell_lineage(self) -> None:
        """Say why all pairs are read where an earlier run of this folder is of no use."""
        if self.states.exist or not self.runs:
            return
        last = self.catalog.document(self.runs[-1].run)["lineage_settings"]
        ours = self.states.lineage
        changed = [f"{name} from {last.get(name)!r} to {ours[name]!r}" for name in ours
                   if last.get(name) != ours[name]]
        if changed:
            self._tell(f"{', '.join(changed)} changed since run {self.runs[-1].run}: that starts "
                       "a new lineage, and all pairs are read")

    def _tell(self, text: str) -> None:
        self.notices.append(text)
        self.watcher.say(f"Notice: {text}.")

    def _fit(self, work: _Work) -> Night:
        known = self._known(work)
        s = self.settings
        new = work.new if known is not None else cut_into_segments(
            work.rows, Window.parse(s.window))
        n_read = sum(segment.n_pairs for segment in new)
        with self.watcher.stages(n_read) as stages:
            return fit_night(
                self.pairs, new, known, run_id=self.run_id, asked=self.asked,
                basis=None if s.basis == "auto" else s.basis, weighting=s.weighting,
                device=s.device, settings=s.model_dump(), n_before=self.n_stored,
                on_event=stages.event)

    def _known(self, work: _Work) -> Known | None:
        """What is stored of the window; None where there is nothing, or it cannot be read."""
        if not work.stored or not self.states.has_states:
            return None
        try:
            with threadpool_limits(1, user_api="blas"):
                whole = reduce(Partial.merge, self.states.load(work.stored))
            basis = self.states.basis()
        except ValueError as error:
            self._tell(f"{error}: all pairs are read again")
            return None
        columns = None if basis is None else basis[0].q.shape[1]
        if columns is not None and self.asked.rank is not None and self.asked.rank > columns:
            self._tell(f"rank {self.asked.rank} does not fit in the stored basis of {columns} "
                       "columns: all pairs are read again")
            return None
        return Known([item.segment for item in work.stored], [whole], basis)

    def _publish(self, work: _Work, night: Night, checked: Checked, performance: Path) -> Outcome:
        segments = [s for s, _ in night.added] if night.read_all else work.rows
        digests = [d for item in self.states.segments()[0] if item.segment in segments
                   for d in item.digests]
        name = self.states.folder.name
        document, alerts = publish(self.catalog, Tonight(
            self.run_id, self.now, self.settings, self.pairs, night, segments, digests, work.new,
            work.new_pairs, work.late_pairs, (name, self.states.lineage),
            self._key(segments, digests), self.states.n_bytes, checked, self.notices, performance))
        self._send(alerts, document)
        return Outcome(document, self.catalog.folder / self.run_id, is_new=True, alerts=alerts)

    def _send(self, alerts: Sequence[Alert], document: dict[str, Any]) -> None:
        webhook = self.settings.alerts.webhook
        if alerts and webhook is not None and (lost := notify(webhook, alerts, document)):
            self.watcher.say(f"Notice: {lost}.")

    def _keep_states(self, night: Night, tokens: dict[str, str]) -> None:
        """Store what was counted, and of which chunks.

        Raises:
            RunFailed: the disk does not take it.
        """
        try:
            self.states.add(night.added, night.basis, afresh=night.read_all,
                            has_states=night.has_states)
            self.states.keep_tokens(tokens)
        except OSError as error:
            raise RunFailed(explain(
                f"write states to {self.states.folder}", expected="room and leave to write",
                got=str(error), fix="Make room and run again",
                consequence="Nothing was published, and these pairs are to be read again",
                )) from error

    def _nothing_new(self) -> Outcome:
        assert self.before is not None
        document = self.catalog.document(self.before.run)
        segments = [Segment(**{**s, "labels": tuple(s["labels"])})
                    for s in document["ledger"]["segments"]]
        path = self.catalog.folder / self.before.run
        stale = self.settings.alerts.model_copy(update={
            "sharpness_above": None, "residual_above": None})
        alerts = judge(stale, load_result(path / "result.zarr"),
                       newest_age_seconds=age_of(segments))
        nothing = {"seconds": {**dict.fromkeys(document["seconds"], 0.0),
                               "total": time.time() - self.started},
                   "bytes": dict.fromkeys(document["bytes"], 0)}
        document = {**document, **nothing, "new_pairs": 0, "late_pairs": 0,
                    "alerts": [asdict(alert) for alert in alerts]}
        self._send(alerts, document)
        return Outcome(document, path, is_new=False, alerts=alerts)


def _lineage(settings: NightlySettings, pairs: Pairs) -> dict[str, Any]:
    """All that stored states depend on: what else is set may change from night to night."""
    store = settings.store if "://" in settings.store else str(Path(settings.store).absolute())
    return {"store": store, "x": settings.x, "y": settings.y, "features": pairs.n_features,
            "dtype": str(pairs.stored_dtype), "weight": pairs.weight is not None,
            "basis": settings.basis, "weighting": settings.weighting, "format": FORMAT_VERSION}
