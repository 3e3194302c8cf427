"""What a call came to, told to whoever waits for it: the status of the run, alerts, the webhook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lrh_dask.drift.alerts import Alert, AlertsRaised
from lrh_dask.nights.journal import Journal
from lrh_dask.nights.owed import Owed
from lrh_dask.nights.underway import State
from lrh_dask.nights.webhook import notify
from lrh_dask.statistics.hessian import LowRankHessian
from lrh_dask.stores.catalog import Catalog
from lrh_dask.stores.documents import known
from lrh_dask.stores.results import load_result

__all__ = ["Outcome", "alerts_of", "conclude"]


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


def conclude(journal: Journal, catalog: Catalog, owed: Owed, webhook: str | None, state: State,
             document: dict[str, Any], alerts: Sequence[Alert], *,
             is_told: bool = False) -> Outcome:
    """Tell how it ended, and send alerts: these, and what an earlier call has died before.

    Args:
        webhook: the variable of the environment that holds its address, if there is one.
        is_told: these alerts were sent before.
    """
    run = str(document["run"])
    to_send = [] if is_told or not alerts else [(document, alerts)]
    of_run = owed.run
    if of_run not in {None, journal.run} and any(of_run == row.run for row in catalog.runs()):
        before = catalog.document(str(of_run))
        late = alerts_of(before)
        to_send.append((before, late))
        alerts = (*alerts, *late)
        document["alerts"] = [asdict(alert) for alert in alerts]
        journal.say(f"Notice: alerts of run {of_run} had not been told.")
    journal.end(state, AlertsRaised.exit_code if alerts else 0, result=run)
    lost = [said for about, these in to_send if webhook is not None and (
        said := notify(webhook, these, about))]
    for said in lost:
        journal.say(f"Notice: {said}.")
    if not lost:
        owed.settle()
    return Outcome(document, catalog.folder / run, is_new=state is State.done,
                   alerts=tuple(alerts))


def alerts_of(document: dict[str, Any]) -> tuple[Alert, ...]:
    """Those that a published run has raised."""
    return tuple(known(Alert, alert) for alert in document["alerts"])
