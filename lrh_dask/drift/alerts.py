"""What a night raises, by limits that a person has set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrh_dask.errors import LrhError
from lrh_dask.settings.ages import age_words
from lrh_dask.settings.alert_settings import AlertSettings

if TYPE_CHECKING:
    from lrh_dask.drift.drift import Drift
    from lrh_dask.drift.explained import Explained
    from lrh_dask.statistics.hessian import LowRankHessian

__all__ = ["Alert", "AlertSettings", "AlertsRaised", "judge", "unjudged"]

TURNED = 2.0
"""An overlap raises an alert where more is lost than so many times what noise may turn."""
NEVER = 1e-6
"""Chances below this are not worth a number."""


@dataclass(frozen=True)
class Alert:
    """One limit that was passed.

    Attributes:
        name: of the setting.
        what: what was found, in a sentence without its full stop.
        measured, limit: the two figures, in the unit of the setting (seconds for an age).
        to_do: what a person should look at.
    """

    name: str
    what: str
    measured: float
    limit: float
    to_do: str

    def __str__(self) -> str:
        return f"{self.what} ({self.name}: {self.shown_limit}). {self.to_do}."

    @property
    def shown_limit(self) -> str:
        """The limit as a person writes it."""
        return age_words(self.limit) if self.name == "stale_after" else f"{self.limit:.6g}"


class AlertsRaised(LrhError):
    """The run is done and its result whole, but it raised alerts."""

    exit_code = 5
    has_result = True

    def __init__(self, alerts: Sequence[Alert]) -> None:
        super().__init__(alerts)
        self.alerts = tuple(alerts)

    def __str__(self) -> str:
        n = len(self.alerts)
        return f"{n} alert{'s'[:n > 1]}: {' '.join(map(str, self.alerts))} The run itself is done."


def judge(settings: AlertSettings, hessian: LowRankHessian, *,
          drifts: Mapping[str, Drift] | None = None, explained: Explained | None = None,
          newest_age_seconds: float | None = None) -> tuple[Alert, ...]:
    """The limits that tonight's result passes. What is not known passes none, see :func:`unjudged`.

    Args:
        drifts: what tonight is compared with ("the last run", ...) → how it has changed.
        explained: tonight's new pairs by the last run.
        newest_age_seconds: age of the newest recorded pair.
    """
    found = [_sharpness(settings.sharpness_above, hessian)]
    for other, drift in (drifts or {}).items():
        found += [_drift(settings.drift_beyond, other, drift),
                  _overlap(settings.overlap_below, other, drift)]
    found += [_explained(settings.drift_beyond, explained),
              _residual(settings.residual_above, hessian),
              _stale(settings.stale_seconds, newest_age_seconds)]
    return tuple(alert for alert in found if alert is not None)


def unjudged(settings: AlertSettings, hessian: LowRankHessian, *,
             drifts: Mapping[str, Drift] | None = None, explained: Explained | None = None,
             newest_age_seconds: float | None = None) -> tuple[str, ...]:
    """Sentences about limits that were set but could not be judged tonight, as :func:`judge` is."""
    known, said = drifts or {}, []
    if settings.drift_beyond is not None and explained is None and all(
            d.worst is None for d in known.values()):
        said.append("drift_beyond: no eigenvalue has a standard error on both nights" if known else
                    "drift_beyond: there is no earlier run to compare with")
    if settings.overlap_below is not None and all(d.least_cut is None for d in known.values()):
        said.append("overlap_below: no leading eigenvalues stand apart from the rest on both nights"
                    if known else "overlap_below: there is no earlier run to compare with")
    if settings.residual_above is not None and math.isnan(hessian.certificates.held_out_residual):
        said.append("residual_above: no pairs could be held out")
    if settings.stale_after is not None and newest_age_seconds is None:
        said.append("stale_after: the age of the newest pair is not known")
    return tuple(said)


def _sharpness(limit: float | None, hessian: LowRankHessian) -> Alert | None:
    if limit is None or not hessian.rank:
        return None
    place = int(hessian.eigenvalues.argmax())
    value, half = float(hessian.eigenvalues[place]), float(hessian.half_widths[place])
    if value <= limit:
        return None
    interval = f" ± {half:.2g} (95 %)" if math.isfinite(half) else ""
    within = ", within its error of the limit" if value - half <= limit else ""
    return Alert("sharpness_above", f"the largest eigenvalue is {value:.4g}{interval}{within}",
                 value, limit, "Steps longer than 2 / sharpness overshoot: look at the learning "
                               "rate, and at what changed in training")


def _drift(limit: float | None, other: str, drift: Drift) -> Alert | None:
    worst = drift.worst
    if limit is None or worst is None or abs(worst.drift) <= limit:
        return None
    n_beyond = sum(abs(e.drift) > limit for e in drift.eigenvalues)
    more = f", and {n_beyond - 1} more beyond" if n_beyond > 1 else ""
    return Alert("drift_beyond",
                 f"an eigenvalue went from {worst.before:.4g} to {worst.after:.4g} since {other}, "
                 f"{abs(worst.drift):.1f} standard errors{more}; by chance "
                 f"{_once_in(drift.chance)}", abs(worst.drift), limit,
                 "Compare the two runs: settings, data and the model may have changed")


def _overlap(limit: float | None, other: str, drift: Drift) -> Alert | None:
    cuts = [c for c in drift.cuts if limit is not None and c.apart and c.overlap < limit
            and not 1.0 - c.overlap <= TURNED * (1.0 - c.by_noise)]
    if limit is None or not cuts:
        return None
    cut = min(cuts, key=lambda c: c.overlap)
    return Alert("overlap_below",
                 f"the leading {_of_size(cut.size)} overlap by {cut.overlap:.3f} with those of "
                 f"{other}" + (f"; noise alone leaves about {cut.by_noise:.3f}"
                               if math.isfinite(cut.by_noise) else ""), cut.overlap, limit,
                 "The curvature has turned: what was tuned to the old directions no longer fits")


def _explained(limit: float | None, found: Explained | None) -> Alert | None:
    if limit is None or found is None or not found.excess > limit:
        return None
    return Alert("drift_beyond",
                 f"the last run leaves {found.residual:.3g} of {found.n_pairs:,} new pairs where "
                 f"{found.held_out:.3g} was promised, {found.excess:.1f} standard errors more (by "
                 f"chance {_once_in(found.chance)})",
                 found.excess, limit,
                 "The Hessian has moved, or the new pairs are noisier: look at the new shards")


def _residual(limit: float | None, hessian: LowRankHessian) -> Alert | None:
    value = hessian.certificates.held_out_residual
    if limit is None or not value > limit:
        return None
    return Alert("residual_above", f"the residual of held-out pairs is {value:.3g}", value, limit,
                 "Look at the verdict and at the buckets: pairs may be noisy, mixed or mismatched")


def _stale(limit: float | None, age: float | None) -> Alert | None:
    if limit is None or age is None or not age > limit:
        return None
    return Alert("stale_after", f"the newest pair is {age_words(age)} old", age, limit,
                 "Check that pairs are still being recorded")


def _once_in(chance: float) -> str:
    """How often chance alone does that, in nights like this."""
    if chance < NEVER:
        return "next to never"
    return f"once in {1.0 / chance:,.0f} nights" if chance < 1 else "any night"


def _of_size(n: int) -> str:
    return "eigenvector" if n == 1 else f"{n} eigenvectors"
