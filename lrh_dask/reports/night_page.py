"""What the page of a night needs beside the Hessian: the data, the drift, the runs before it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from lrh_dask.drift.alerts import Alert
from lrh_dask.drift.drift import Drift
from lrh_dask.drift.explained import Explained
from lrh_dask.linalg.signs import half_widths
from lrh_dask.statistics.hessian import LowRankHessian

__all__ = ["DataLedger", "NightPage", "PastRun", "Usual", "usual"]

N_BUCKETS = 20
"""Behind the errors of a run that does not say otherwise."""
FEWEST = 5
"""Fewer runs before tonight have no range to speak of."""


class RunRow(Protocol):
    """A run as a catalogue lists it; what is not known is None."""

    @property
    def run(self) -> str: ...
    @property
    def created(self) -> str: ...
    @property
    def n_pairs(self) -> int: ...
    @property
    def new_pairs(self) -> int: ...
    @property
    def rank(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def residual(self) -> float | None: ...
    @property
    def held_out_residual(self) -> float | None: ...
    @property
    def verdict(self) -> str: ...
    @property
    def eigenvalues(self) -> tuple[float, ...]: ...
    @property
    def standard_errors(self) -> tuple[float | None, ...]: ...
    @property
    def n_alerts(self) -> int: ...


@dataclass(frozen=True)
class PastRun:
    """A run as a line of the history.

    Attributes:
        run, created: its name, and when it was (ISO 8601).
        n_pairs, new_pairs: pairs it rests on, and those that no run before it had counted.
        index: negative eigenvalues found.
        eigenvalues, half_widths: leading ones, the largest in magnitude first, and half of each
            95 % interval; NaN where not known.
    """

    run: str
    created: str
    n_pairs: int
    new_pairs: int
    rank: int
    index: int
    residual: float
    held_out_residual: float
    verdict: str
    eigenvalues: tuple[float, ...]
    half_widths: tuple[float, ...]
    n_alerts: int = 0

    @staticmethod
    def of(row: RunRow, n_buckets: int = N_BUCKETS) -> PastRun:
        """A line of a catalogue, whose unknown figures are None."""
        errors = np.array([_known(e) for e in row.standard_errors], dtype=float)
        return PastRun(
            row.run, row.created, row.n_pairs, row.new_pairs, row.rank, row.index,
            _known(row.residual), _known(row.held_out_residual), row.verdict,
            tuple(row.eigenvalues), tuple(half_widths(errors, n_buckets).tolist()), row.n_alerts)

    @staticmethod
    def tonight(hessian: LowRankHessian, *, run: str, created: str, new_pairs: int,
                n_alerts: int, leading: int = 10) -> PastRun:
        """The line of the run that the page is about."""
        c = hessian.certificates
        return PastRun(
            run, created, hessian.n_pairs, new_pairs, hessian.rank, hessian.index, c.residual,
            c.held_out_residual, c.verdict.name, tuple(hessian.eigenvalues[:leading].tolist()),
            tuple(hessian.half_widths[:leading].tolist()), n_alerts)

    def of_sign(self, sign: float) -> list[tuple[float, float]]:
        """Eigenvalues of a sign with their half widths, the largest in magnitude first."""
        return [(v, h) for v, h in zip(self.eigenvalues, self.half_widths, strict=True)
                if math.copysign(1.0, v) == sign]


@dataclass(frozen=True)
class DataLedger:
    """The pairs of a night.

    Attributes:
        new: counted for the first time; ``late`` of them were recorded before pairs that an
            earlier run had counted.
        rejected: rows of the window that do not count (weight 0, or left out as bad).
        total: pairs that the run rests on.
        window: what was asked for, in words.
        oldest, newest: when the first and the last of them were recorded (ISO 8601), or None.
    """

    new: int
    late: int
    rejected: int
    total: int
    window: str
    oldest: str | None = None
    newest: str | None = None


@dataclass(frozen=True, eq=False)
class NightPage:
    """One night, for :func:`lrh_dask.reports.night_report.write_night_report`.

    Attributes:
        run, created: its name, and when it was (ISO 8601).
        data: of the night.
        drifts: what it is compared with, in words ("the last run, 2026-11-01") → the drift.
        explained: tonight's new pairs by the last run, or None.
        alerts: that were raised; ``unjudged`` limits that could not be judged, in sentences.
        history: runs with tonight's as the last one, the oldest first.
    """

    run: str
    created: str
    data: DataLedger
    drifts: Mapping[str, Drift] = field(default_factory=dict)
    explained: Explained | None = None
    alerts: tuple[Alert, ...] = ()
    unjudged: tuple[str, ...] = ()
    history: tuple[PastRun, ...] = ()


@dataclass(frozen=True)
class Usual:
    """One leading eigenvalue tonight, and in the runs before.

    Attributes:
        sign, place: the first, second, ... of its sign.
        tonight: NaN where it was not found.
        median, lowest, highest: of the runs before that found it.
        n_runs: how many did.
    """

    sign: float
    place: int
    tonight: float
    median: float
    lowest: float
    highest: float
    n_runs: int


def usual(history: tuple[PastRun, ...], last: int = 30, leading: int = 8) -> tuple[Usual, ...]:
    """Leading eigenvalues of the newest run, beside so many runs before it.

    They are told apart by sign and order alone: their scatter over the nights is a check of
    standard errors that needs none.
    """
    if len(history) <= FEWEST:
        return ()
    found = []
    for sign in (1.0, -1.0):
        tonight = history[-1].of_sign(sign)
        before = [run.of_sign(sign) for run in history[-1 - last:-1]]
        for place in range(max(len(tonight), *(len(values) for values in before))):
            seen = np.array([values[place][0] for values in before if place < len(values)])
            found.append(Usual(
                sign, place, tonight[place][0] if place < len(tonight) else math.nan,
                *((float(np.median(seen)), float(seen.min()), float(seen.max())) if seen.size
                  else (math.nan,) * 3), seen.size))
    found.sort(key=lambda row: -abs(row.median if math.isnan(row.tonight) else row.tonight))
    return tuple(found[:leading])


def _known(value: float | None) -> float:
    return math.nan if value is None else value
