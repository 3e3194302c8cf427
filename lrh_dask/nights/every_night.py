"""The one call that a schedule makes: what is new in a store is counted, and published as a run.

It decides its own work from what is stored, never from a clock or a schedule's interval: called
twice, the second call finds nothing to do; not called for a week, the next one catches up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from lrh_dask.clusters.cluster import connect
from lrh_dask.drift.alerts import Alert, judge
from lrh_dask.errors import BadPairs, RunFailed, explain, finding
from lrh_dask.linalg.ledger import Ledger
from lrh_dask.nights.agenda import (
    RECOMPUTE,
    Agenda,
    agenda_of,
    key_of,
    lineage_of,
    refuse_shrunk,
)
from lrh_dask.nights.going_on import Counted, Night, fit_night
from lrh_dask.nights.journal import Journal, Watcher
from lrh_dask.nights.looking_again import Checked, refuse_changed, suspects
from lrh_dask.nights.outcome import Outcome, alerts_of, conclude
from lrh_dask.nights.owed import Owed
from lrh_dask.nights.publishing import Tonight, age_of, changed_settings, publish
from lrh_dask.nights.states import StoredStates
from lrh_dask.nights.totals import total_of
from lrh_dask.nights.underway import State
from lrh_dask.nights.unfinished import Unfinished
from lrh_dask.runs import progress
from lrh_dask.runs.dashboard import dashboard_of, performance_report, run_span
from lrh_dask.runs.graph import Stages
from lrh_dask.runs.pipeline import guarded, new_run_id
from lrh_dask.runs.segments import cut_into_segments
from lrh_dask.settings.config import NightlySettings, settings_of
from lrh_dask.statistics.asked import asked_of
from lrh_dask.stores.catalog import Catalog, Listed
from lrh_dask.stores.counted import CountedRows
from lrh_dask.stores.digests import RowDigest
from lrh_dask.stores.opening import open_pairs
from lrh_dask.stores.results import load_result
from lrh_dask.stores.tokens import chunk_tokens
from lrh_dask.stores.unchanged import Unchanged
from lrh_dask.stores.windows import Segment, Window

__all__ = ["nightly"]

LOOKED_AT_HERE = 64 * 2**20
"""Up to so many bytes of rows that are to be looked at again are read by this process."""


def nightly(settings: NightlySettings | str | Path, watcher: Watcher | None = None, *,
            recompute: bool = False, wait: bool = False, run_id: str | None = None) -> Outcome:
    """Count the pairs of a store that are new, and publish the Hessian of all in the window.

    Args:
        settings: or the YAML file that they stand in.
        watcher: who is told how it goes; None is the log of this package.
        recompute: read all pairs again, whatever is stored of them.
        wait: for another run in the folder to end.
        run_id: name of the run; None makes one.
    Raises:
        Busy: another run is in the folder.
        BadPairs: the store is unusable, has shrunk, or rows that were counted have changed.
        SettingsError: the settings cannot be read, or not be carried out.
        LrhError: see :func:`lrh_dask.fit`.
    """
    if not isinstance(settings, NightlySettings):
        settings = settings_of(NightlySettings, str(settings), {}, {})
    catalog = Catalog(settings.runs)
    catalog.refuse_unwritable()
    if not catalog.folder.exists():  # of a store that is not there, no folder is left behind
        open_pairs(settings.store, x=settings.x, y=settings.y)
    journal = Journal(catalog.folder, run_id or new_run_id(), watcher)
    with journal.kept(), catalog.held(wait=wait, say=journal.say):
        call = _Call(settings, journal, catalog, recompute=recompute)
        outcome = call.carry_out()
        if not call.more_came:
            return outcome
        more = Journal(catalog.folder, new_run_id(), watcher)
        with more.kept():
            of_all = _Call(settings, more, catalog).carry_out()
        return replace(of_all if of_all.is_new else outcome,
                       alerts=(*outcome.alerts, *of_all.alerts))


class _Call:
    """What one run does.

    Attributes:
        more_came: a run that was broken off is finished first, about the pairs that it had begun
            with; there are more of them now.
    """

    def __init__(self, settings: NightlySettings, journal: Journal, catalog: Catalog, *,
                 recompute: bool = False) -> None:
        self.settings, self.journal, self.catalog = settings, journal, catalog
        self.started, self.created = time.time(), f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        self.now = self.created  # as of which windows and days are told
        self.notices: list[str] = []
        self.asked = asked_of(
            rank=settings.rank, basis=settings.basis, method=settings.method,
            center=settings.center, rtol=settings.rtol, psd=settings.psd,
            weighting=settings.weighting, device=settings.device)
        self.pairs = replace(open_pairs(settings.store, x=settings.x, y=settings.y),
                             bad_rows=settings.bad_rows)
        self.states = StoredStates(catalog.folder / "states", lineage_of(settings, self.pairs))
        self.states.put_in_order()
        self.owed = Owed(catalog.folder)
        self.damaged = catalog.damaged()
        self.runs = catalog.runs()
        self.ours = [run for run in self.runs if run.lineage == self.states.name]
        self.before: Listed | None = self.ours[-1] if self.ours else None
        self.recompute, self.more_came = recompute, False
        self.unfinished = Unfinished(self.states.folder, settings)
        if (before := self.unfinished.goes_on(self.pairs, recompute=recompute)) is not None:
            self.pairs, self.now, self.recompute = before.pairs, before.now, before.recompute
            self.more_came = before.n_more > 0
            journal.say(f"Run {before.run} was broken off: it is finished first" + (
                f", then {before.n_more:,} pairs that came since are counted"
                if self.more_came else ""))

    def carry_out(self) -> Outcome:
        if any(run.run == self.journal.run for run in self.runs):
            return self._published_before()
        recompute = self.recompute
        for said in self.damaged:
            self._tell(said.removesuffix("."))
        self._tell_what_is_unusual()
        stored, unreadable = ([], []) if recompute else self.states.segments()
        self.notices += unreadable
        agenda = agenda_of(self.settings, self.pairs, stored, self._rows_before(), self.now)
        for said in agenda.notices:
            self._tell(said)
        n_pairs, window = sum(s.n_pairs for s in agenda.rows), Window.parse(self.settings.window)
        if n_pairs < min(window.n_pairs or 0, self.pairs.n_pairs):
            self.notices.append(f"the window holds {n_pairs:,} pairs: it slides in steps of about "
                                "a tenth")
        tokens = chunk_tokens(self.pairs, agenda.rows)  # before reading: a later change shows
        if not all(tokens.values()):
            self.notices.append("this kind of store does not tell when a chunk was written: rows "
                                "that were counted are read every night to see that they are the "
                                "same. A copy on disk, or in s3:// or gs://, spares that")
        # A snapshot stands for all rows: those outside of the window are to be the same, too.
        counted = agenda.digests if self.pairs.snapshot is None else [
            d for item in stored for d in item.digests]
        if not stored and not recompute:
            counted = self._digests_before()
        before = self.states.tokens()
        doubtful = suspects(self.pairs, tokens, before, counted)
        may_differ = not all(item.digests for item in agenda.stored) and any(
            before.get(key) != token for key, token in tokens.items())
        if may_differ:
            self.notices.append("chunks were written since the last run, and whether rows that it "
                                "counted have changed cannot be told: all are read again")
        if not doubtful and not may_differ and self._is_done(agenda):
            return self._nothing_new(Checked())
        self.journal.say(
            f"{self.pairs.name}: {self.pairs.n_pairs:,} pairs over {self.pairs.n_features:,} "
            f"features; {agenda.new_pairs:,} new, {agenda.late_pairs:,} of them late")
        performance = self.journal.folder / "dask-performance.html"
        performance.unlink(missing_ok=True)  # Dask would write through a link
        with connect(self.settings.cluster, self.journal.say) as client:
            self.journal.say(dashboard_of(client))
            with performance_report(performance, self.journal.say), run_span(
                    self.journal.run), guarded():
                checked = self._checked(client, doubtful) if doubtful else Checked()
                if not may_differ and self._is_done(agenda):
                    self.states.keep_tokens({**before, **tokens})
                    return self._nothing_new(checked)
                night = self._fit(agenda, n_before=len(stored))
        self._keep_states(night, tokens)
        return self._publish(agenda, night, checked, performance)

    def _tell_what_is_unusual(self) -> None:
        """A clock that went back, and why all pairs are read where earlier runs are of no use."""
        if not self.runs:
            return
        last = self.runs[-1]
        if last.created > self.created:
            self._tell(f"the clock says {self.created}, and the last run was at {last.created}: it "
                       "has gone backwards. Runs keep their order all the same")
        if self.before is not None and (changed := changed_settings(
                self.catalog.folder / self.before.run, self.settings)):
            self._tell(f"{', '.join(changed)} changed since run {self.before.run}: what differs "
                       "from it may be that, and raises no alert of drift")
        if not self.states.exist:
            theirs = self.catalog.document(last.run)["lineage_settings"]
            changed = [f"{name} from {theirs.get(name)!r} to {value!r}"
                       for name, value in self.states.lineage.items() if theirs.get(name) != value]
            if changed:
                self._tell(f"{', '.join(changed)} changed since run {last.run}: that starts a new "
                           "lineage, and all pairs are read")

    def _digests_before(self) -> list[RowDigest]:
        """Of the rows of the last run, where nothing is stored of them any more.

        Raises:
            BadPairs: the store has fewer rows.
        """
        if self.before is None:
            return []
        self._tell("what was stored of earlier runs is gone or damaged: all pairs are read again")
        rows = CountedRows.of(self.catalog.folder / self.before.run)
        digests = [] if rows is None else sorted(rows.digests)
        refuse_shrunk(self.pairs, max((d.stop for d in digests), default=0))
        return digests

    def _tell(self, text: str) -> None:
        self.notices.append(text)
        self.journal.say(f"Notice: {text}.")

    def _rows_before(self) -> list[Segment]:
        """Segments that runs of this lineage were about, whatever their windows."""
        found = {(s["start"], s["stop"], s["first"], s["last"]) for run in self.ours
                 for s in self.catalog.document(run.run)["ledger"]["segments"]}
        return [Segment(*fields) for fields in sorted(found)]

    def _is_done(self, agenda: Agenda) -> bool:
        """Whether the last run is what this one would be."""
        return not agenda.new and self.before is not None and self.before.key == key_of(
            self.states.name, self.settings, agenda.rows, agenda.digests) and self._has_result()

    def _has_result(self) -> bool:
        """Whether the result of the last run is still there."""
        assert self.before is not None
        try:
            load_result(self.catalog.folder / self.before.run / "result.zarr")
        except BadPairs as error:
            said = (f"the result of run {self.before.run} cannot be read ({finding(error)}): it is "
                    "published again, from what is stored")
            if said not in self.notices:
                self._tell(said)
            return False
        return True

    def _checked(self, client: Any, doubtful: Sequence[RowDigest]) -> Checked:
        """Whether rows are still those that were counted.

        Raises:
            BadPairs: they are not.
        """
        run_id, n_pairs = self.journal.run, sum(d.stop - d.start for d in doubtful)
        if n_pairs * self.pairs.row_bytes <= LOOKED_AT_HERE:
            client = None
        with self.journal.stages(n_pairs) as stages, progress.watch(client, run_id, stages.event):
            return refuse_changed(Stages(self.pairs, client, run_id), self.pairs, doubtful, run_id,
                                  RECOMPUTE)

    def _fit(self, agenda: Agenda, *, n_before: int) -> Night:
        unchanged = Unchanged(self.pairs, Ledger.of((s.start, s.stop) for s in agenda.rows))
        known, s = self._counted(agenda, n_before), self.settings
        kept, said = (None, None) if known is not None and not agenda.new else (
            self.unfinished.begin(self.pairs, self.journal.run, self.now,
                                  recompute=self.recompute))
        self.notices += [] if said is None else [said]
        new = agenda.new if known is not None else cut_into_segments(
            agenda.rows, Window.parse(s.window), self.now)
        with self.journal.stages(sum(segment.n_pairs for segment in new)) as stages:
            return fit_night(
                self.pairs, new, known, run_id=self.journal.run, asked=self.asked,
                basis=None if s.basis == "auto" else s.basis, weighting=s.weighting,
                device=s.device, settings=s.model_dump(), n_before=n_before, kept=kept,
                unchanged=unchanged,
                on_event=stages.event)

    def _counted(self, agenda: Agenda, n_before: int) -> Counted | None:
        """What is stored of the window; None where nothing is stored, or it is of no use."""
        if not self.states.has_states or n_before == 0:
            return None
        try:
            with threadpool_limits(1, user_api="blas"):
                states = [total_of(self.states, agenda.stored, keep=len(
                    agenda.stored) == n_before)] if agenda.stored else []
            basis = self.states.basis()
        except ValueError as error:
            self._tell(f"{error}: all pairs are read again")
            return None
        columns = self.pairs.n_features if basis is None else basis.basis.q.shape[1]
        if self.asked.rank is not None and self.asked.rank > columns:
            self._tell(f"rank {self.asked.rank} does not fit in the stored basis of {columns} "
                       "columns: all pairs are read again")
            return None
        return Counted([item.segment for item in agenda.stored], states, basis)

    def _keep_states(self, night: Night, tokens: dict[str, str]) -> None:
        """Store what was counted, and of which chunks.

        Raises:
            RunFailed: the disk does not take it.
        """
        try:
            self.states.add(night.added, night.basis, afresh=night.read_all,
                            has_states=night.has_states)
            self.states.keep_tokens({**self.states.tokens(), **tokens})
            self.unfinished.remove()
        except OSError as error:
            raise RunFailed(explain(
                f"write states to {self.states.folder}", expected="room and leave to write",
                got=str(error), fix="Make room and run again",
                consequence="Nothing was published, and these pairs are to be read again",
                )) from error

    def _publish(self, agenda: Agenda, night: Night, checked: Checked,
                 performance: Path) -> Outcome:
        segments = sorted([*(s for s, _ in night.added), *(
            item.segment for item in (() if night.read_all else agenda.stored))],
            key=lambda s: s.start)
        digests = [d for item in self.states.segments()[0] if item.segment in segments
                   for d in item.digests]
        key = key_of(self.states.name, self.settings, segments, digests)
        document, alerts = publish(self.catalog, self.owed, Tonight(
            run=self.journal.run, created=self.created, started=self.started,
            settings=self.settings, pairs=self.pairs, night=night, segments=segments,
            digests=digests, agenda=agenda,
            lineage=(self.states.name, self.states.lineage), key=key,
            states_bytes=self.states.n_bytes, checked=checked, notices=self.notices,
            performance=performance))
        if any(alert.name == "stale_after" for alert in alerts):
            self.owed.stale_again(max(s.last for s in segments))
        return self._ended(State.done, document, alerts)

    def _published_before(self) -> Outcome:
        """This run, whose process has died when it was published."""
        document = self.catalog.document(self.journal.run)
        self.catalog.point_at(self.runs[-1].run)
        return self._ended(State.done, document, alerts_of(document))

    def _nothing_new(self, checked: Checked) -> Outcome:
        """The last run again; of alerts, whether its pairs have grown too old."""
        assert self.before is not None
        document = self.catalog.document(self.before.run)
        self.catalog.point_at(self.before.run)
        segments = [Segment.known(s) for s in document["ledger"]["segments"]]
        stale = self.settings.alerts.model_copy(update={
            "sharpness_above": None, "residual_above": None})
        alerts = judge(stale, load_result(self.catalog.folder / self.before.run / "result.zarr"),
                       newest_age_seconds=age_of(segments))
        document |= {
            "seconds": {**dict.fromkeys(document["seconds"], 0.0), "verify": checked.seconds,
                        "total": time.time() - self.started},
            "bytes": {**dict.fromkeys(document["bytes"], 0), "verify": checked.n_bytes},
            "new_pairs": 0, "late_pairs": 0, "read_all": False, "notices": self.notices,
            "alerts": [asdict(alert) for alert in alerts]}
        again = bool(alerts) and self.owed.stale_again(max(s.last for s in segments))
        return self._ended(State.nothing_new, document, alerts, is_told=again)

    def _ended(self, state: State, document: dict[str, Any], alerts: Sequence[Alert], *,
               is_told: bool = False) -> Outcome:
        return conclude(self.journal, self.catalog, self.owed, self.settings.alerts.webhook, state,
                        document, alerts, is_told=is_told)
