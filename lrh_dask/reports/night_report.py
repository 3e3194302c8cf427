"""The page of a night: the report of its Hessian, and what has changed since nights before."""

from __future__ import annotations

import math
from pathlib import Path

from lrh_dask.drift.drift import Drift
from lrh_dask.drift.drift_words import FAR, headline, index_words, legend, place_of, with_error
from lrh_dask.reports.night_figure import nights_figure
from lrh_dask.reports.night_page import NightPage, usual
from lrh_dask.reports.report import render, write_page
from lrh_dask.statistics.hessian import LowRankHessian
from lrh_dask.stores.catalog import N_RECENT

__all__ = ["write_night_report"]


def write_night_report(hessian: LowRankHessian, path: str | Path, night: NightPage) -> Path:
    """Write the page of a night as one HTML file, aside first and then renamed; its path.

    It holds all that :func:`lrh_dask.reports.report.write_report` writes. The same input gives
    the same bytes: no date is taken from a clock.

    Raises:
        SettingsError: the path is a directory.
    """
    from markupsafe import Markup

    return write_page(render(
        hessian, "night.html", night=night, far=FAR, headline=headline, place_of=place_of,
        legend=legend, index_words=index_words, with_error=with_error, cuts=_cuts,
        usual=usual(night.history, N_RECENT), n_runs=N_RECENT,
        nights=Markup(nights_figure(night.history))), path)


def _cuts(drift: Drift) -> list[tuple[str, float, float, float, bool]]:
    """Size, overlap, that which noise leaves, largest angle in degrees, whether it stands apart."""
    whole, *smaller = drift.cuts or (None,)
    if whole is None:
        return []
    return [(str(c.size) if c is not whole else f"all {c.size}", c.overlap, c.by_noise,
             math.degrees(c.angles[-1]), c.apart) for c in (*smaller, whole)]
