"""A night as a run in the catalogue: beside the runs before it, judged, written down, published."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

from lrh_dask.drift.alerts import Alert, judge, unjudged
from lrh_dask.drift.drift import Drift, compare
from lrh_dask.drift.explained import Explained, explained
from lrh_dask.errors import BadPairs, SettingsError, finding
from lrh_dask.nights.agenda import Agenda
from lrh_dask.nights.going_on import Night
from lrh_dask.nights.looking_again import Checked
from lrh_dask.nights.owed import Owed
from lrh_dask.reports.comparison import drift_document
from lrh_dask.reports.night_page import DataLedger, NightPage, PastRun
from lrh_dask.reports.night_report import write_night_report
from lrh_dask.runs.tree import Partial
from lrh_dask.settings.config import NightlySettings
from lrh_dask.statistics.hessian import LowRankHessian
from lrh_dask.stores.catalog import N_RECENT, Catalog, Listed
from lrh_dask.stores.counted import CountedRows
from lrh_dask.stores.digests import RowDigest
from lrh_dask.stores.documents import MALFORMED, read_document
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.results import load_result, plain, save_result, summary
from lrh_dask.stores.windows import Segment, ahead, uncovered

__all__ = ["Tonight", "age_of", "changed_settings", "publish"]

OF_THE_FIT = ("rank", "center", "rtol", "psd")


@dataclass(frozen=True, eq=False)
class Tonight:
    """All that a run has to say for itself.

    Attributes:
        created: when it began (ISO 8601, UTC); ``started``: the same, in seconds since 1970.
        segments, digests: of all pairs that it is about.
        agenda: what was to be done.
        lineage: name and settings of it; ``key``: digest of all that the result depends on.
        checked: what looking again at rows has cost.
        notices: beside those of the fit.
        performance: what Dask has written of it.
    """

    run: str
    created: str
    started: float
    settings: NightlySettings
    pairs: Pairs
    night: Night
    segments: Sequence[Segment]
    digests: Sequence[RowDigest]
    agenda: Agenda
    lineage: tuple[str, dict[str, Any]]
    key: str
    states_bytes: int
    checked: Checked
    notices: Sequence[str]
    performance: Path


def publish(catalog: Catalog, owed: Owed,
            tonight: Tonight) -> tuple[dict[str, Any], tuple[Alert, ...]]:
    """Publish a run; what ``lrh nightly --json`` prints of it, and the alerts it raises.

    Raises:
        RunFailed: the disk does not take it.
    """
    all_runs = catalog.runs()
    store = str(tonight.lineage[1]["store"])
    runs = [run for run in all_runs
            if (run.store, run.window) == (store, tonight.settings.window)]
    notices, drifts = list(tonight.notices), {}
    for name, run in _to_compare_with(runs).items():
        try:
            drifts[name] = _drift_since(catalog, run, tonight)
        except (BadPairs, SettingsError) as error:
            notices.append(f"run {run.run} could not be compared with: {finding(error)}")
    tested = _explained(catalog, runs, tonight)
    alert_settings = tonight.settings.alerts
    alike = {name: drifts[name] for name, run in _to_compare_with(runs).items() if name in drifts
             and not changed_settings(catalog.folder / run.run, tonight.settings)}
    judged: dict[str, Any] = {"drifts": alike, "explained": tested,
                              "newest_age_seconds": age_of(tonight.segments)}
    alerts = judge(alert_settings, tonight.night.hessian, **judged)
    open_limits = unjudged(alert_settings, tonight.night.hessian, **judged)
    hessian = _with_provenance(tonight, notices)
    path = catalog.folder / tonight.run
    document = plain({
        **summary(hessian, path / "result.zarr"), "run": tonight.run,
        "sequence": all_runs[-1].sequence + 1 if all_runs else 1, "created": tonight.created,
        "store": store, "snapshot": tonight.pairs.snapshot,
        "window": tonight.settings.window, "lineage": tonight.lineage[0],
        "lineage_settings": tonight.lineage[1], "key": tonight.key, "index": hessian.index,
        "new_pairs": tonight.agenda.new_pairs, "late_pairs": tonight.agenda.late_pairs,
        "rejected_pairs": _n_pairs(tonight.segments) - hessian.n_pairs,
        "read_all": tonight.night.read_all, "states_bytes": tonight.states_bytes,
        "alerts": [asdict(alert) for alert in alerts], "unjudged": list(open_limits),
        "drift": {name: drift_document(drift) for name, drift in drifts.items()},
        "explained": None if tested is None else {
            "residual": tested.residual, "error": tested.error, "held_out": tested.held_out,
            "excess": tested.excess},
        "ledger": {"rows": _joined(tonight.segments),
                   "segments": [asdict(segment) for segment in tonight.segments]}})
    page = _page(tonight, hessian, runs, drifts, tested, alerts, open_limits)

    def fill(folder: Path) -> None:
        save_result(hessian, folder / "result.zarr")
        write_night_report(hessian, folder / "report.html", page)
        if tonight.performance.exists():
            shutil.move(tonight.performance, folder / tonight.performance.name)
        for name, content in (
                ("settings.json", tonight.settings.model_dump()),
                ("ledger.json", {**document["ledger"],
                                 "digests": [asdict(d) for d in tonight.digests]})):
            (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")

    if alerts:  # before they can be read: whoever dies now is not the only one who knew
        owed.note(tonight.run)
    catalog.publish(tonight.run, document, fill)
    return document, alerts


def age_of(segments: Sequence[Segment]) -> float | None:
    """Seconds since the newest pair was recorded; None where all clocks were wrong."""
    now = datetime.now(UTC)
    newest = max((s.last for s in segments if not ahead(s, now.isoformat())), default=None)
    return None if newest is None else max(
        (now - datetime.fromisoformat(newest)).total_seconds(), 0.0)


def changed_settings(run: Path, settings: NightlySettings) -> list[str]:
    """Settings of the fit that a run had otherwise, as words; of what a lineage goes by, none."""
    try:
        theirs = read_document(run / "settings.json")
        return [f"{name} from {theirs[name]!r} to {value!r}" for name in OF_THE_FIT
                if theirs[name] != (value := getattr(settings, name))]
    except (OSError, *MALFORMED):
        return []


def _to_compare_with(runs: Sequence[Listed]) -> dict[str, Listed]:
    """The last run, and the first of the last N_RECENT where that is another one."""
    found = {}
    if runs:
        found[f"the last run, {runs[-1].created[:10]}"] = runs[-1]
    if len(runs) > 1:
        first = runs[-N_RECENT:][0]
        n = len(runs[-N_RECENT:])
        found[f"{n} runs ago, {first.created[:10]}"] = first
    return found


def _drift_since(catalog: Catalog, run: Listed, tonight: Tonight) -> Drift:
    before = load_result(catalog.folder / run.run / "result.zarr")
    theirs, hessian = CountedRows.of(catalog.folder / run.run), tonight.night.hessian
    ours = CountedRows(run.store, tuple((s.start, s.stop) for s in tonight.segments),
                       frozenset(tonight.digests))
    shared = 0 if theirs is None else ours.n_shared(theirs)
    return compare(before, hessian, shared_pairs=min(shared, before.n_pairs, hessian.n_pairs))


def _rows_of(catalog: Catalog, run: Listed) -> list[Segment]:
    """Those that a run is about."""
    return [Segment(start, stop, "", "")
            for start, stop in catalog.document(run.run)["ledger"]["rows"]]


def _explained(catalog: Catalog, runs: Sequence[Listed], tonight: Tonight) -> Explained | None:
    """How the last run explains pairs that it has not seen, where that needs no reading."""
    if not runs or runs[-1].lineage != tonight.lineage[0]:
        return None
    seen = _rows_of(catalog, runs[-1])
    states = [partial for segment, partial in tonight.night.added
              if _n_pairs(uncovered([segment], seen)) == segment.n_pairs]
    if not states:
        return None
    triangles = {bucket: state for bucket, state in reduce(Partial.merge, states).states.items()
                 if state.n_pairs}
    basis = tonight.night.basis
    with suppress(BadPairs, SettingsError):  # a new basis may lack what the last run had found
        return explained(load_result(catalog.folder / runs[-1].run / "result.zarr"), triangles,
                         None if basis is None else basis.basis.q) if triangles else None
    return None


def _with_provenance(tonight: Tonight, notices: Sequence[str]) -> LowRankHessian:
    known = tonight.night.hessian.provenance
    return replace(tonight.night.hessian, provenance={
        **known, "run": tonight.run, "notices": [*known["notices"], *notices],
        "seconds": {**known["seconds"], "verify": tonight.checked.seconds,
                    "total": time.time() - tonight.started},
        "bytes": {**known["bytes"], "verify": tonight.checked.n_bytes},
        "bytes_read": known["bytes_read"] + tonight.checked.n_bytes})


def _page(tonight: Tonight, hessian: LowRankHessian, runs: Sequence[Listed],
          drifts: dict[str, Drift], tested: Explained | None, alerts: Sequence[Alert],
          open_limits: Sequence[str]) -> NightPage:
    return NightPage(
        run=tonight.run, created=tonight.created, drifts=drifts, explained=tested,
        alerts=tuple(alerts), unjudged=tuple(open_limits),
        data=DataLedger(
            new=tonight.agenda.new_pairs, late=tonight.agenda.late_pairs, total=hessian.n_pairs,
            rejected=_n_pairs(tonight.segments) - hessian.n_pairs, window=tonight.settings.window,
            oldest=min(s.first for s in tonight.segments),
            newest=max(s.last for s in tonight.segments)),
        history=(*(PastRun.of(run) for run in runs), PastRun.tonight(
            hessian, run=tonight.run, created=tonight.created,
            new_pairs=tonight.agenda.new_pairs, n_alerts=len(alerts))))


def _n_pairs(segments: Sequence[Segment]) -> int:
    return sum(segment.n_pairs for segment in segments)


def _joined(segments: Sequence[Segment]) -> list[list[int]]:
    """Rows of segments in their order, those that follow each other as one."""
    rows: list[list[int]] = []
    for segment in segments:
        if rows and rows[-1][1] == segment.start:
            rows[-1][1] = segment.stop
        else:
            rows.append([segment.start, segment.stop])
    return rows
