"""The leading eigenvalues over nights, as inline SVG for the page of a night."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lrh_dask.reports.figures import (
    INK,
    MUTED,
    NEGATIVE,
    POSITIVE,
    WIDE,
    as_svg,
    new_axes,
    paragraph,
    styled,
)
from lrh_dask.reports.night_page import PastRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["nights_figure"]

N_LINES = 6
"""Leading eigenvalues that are drawn."""
FEW, MANY = 15, 40
"""So many nights have large markers; more than that have none."""
LABELLED = 8
"""Changes of the index that are named, not only marked."""
CLIPPED = 0.7
"""On a logarithmic axis the lowest end of a bar that is shown, in shares of the least value."""


@styled()
def nights_figure(history: tuple[PastRun, ...]) -> str:
    """SVG of the leading eigenvalues of each run with 95 % intervals, or a paragraph.

    Eigenvalues are joined by sign and order. Changes of the index and runs that raised alerts are
    marked.

    Args:
        history: runs, the oldest first.
    """
    nights = np.arange(len(history))
    lines = _lines(history)
    if not lines:
        return paragraph("No eigenvalues over nights to draw: no run has found any.")
    seen = np.concatenate([np.abs(values[np.isfinite(values)]) for _, values, _ in lines])
    log = bool(seen.min() > 0 and seen.max() > WIDE * seen.min())
    figure, axes = new_axes("run", "|eigenvalue|" if log else "eigenvalue")
    size = 5.5 if nights.size <= FEW else 3.0 if nights.size <= MANY else 0.0
    labelled = set()
    for sign, values, half in lines:
        colour, marker, name = ((POSITIVE, "^", "positive") if sign > 0
                                else (NEGATIVE, "v", "negative"))
        axes.errorbar(
            nights, np.abs(values) if log else values, fmt=marker, linestyle="-", color=colour,
            yerr=half if np.isfinite(half).any() else None, linewidth=1.2, elinewidth=1.0,
            markersize=size, label=None if name in labelled else name)
        labelled.add(name)
    if log:
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(CLIPPED * seen.min(), 1.6 * seen.max())
    else:
        axes.axhline(0.0, color=MUTED, linewidth=1.0)
        axes.margins(y=0.12)
    axes.set_xlim(-0.6, nights[-1] + 0.6)
    changes = _mark_index(axes, history)
    alarmed = [i for i in nights if history[i].n_alerts]
    if alarmed:
        axes.plot(alarmed, np.full(len(alarmed), 0.03), "X", color=NEGATIVE, markersize=7,
                  transform=axes.get_xaxis_transform(), clip_on=False, label="alert raised")
    return as_svg(figure, "nights", f"The {len(lines)} leading eigenvalues over {len(history)} "
                  f"runs, from {history[0].created[:10]} to {history[-1].created[:10]}: "
                  f"{changes} changes of the index, {len(alarmed)} runs with alerts",
                  x_names=_dates(history))


def _lines(history: tuple[PastRun, ...]) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Sign, values and half widths (n_runs,) of the eigenvalues that are largest at any time."""
    found = []
    for sign in (1.0, -1.0):
        nights = [run.of_sign(sign) for run in history]
        for place in range(max((len(night) for night in nights), default=0)):
            values, half = np.array([night[place] if place < len(night) else (np.nan, np.nan)
                                     for night in nights]).T
            found.append((sign, values, half))
    found.sort(key=lambda line: -float(np.nanmedian(np.abs(line[1]))))
    return found[:N_LINES]


def _mark_index(axes: Axes, history: tuple[PastRun, ...]) -> int:
    """A line at each run whose number of negative eigenvalues is another; how many there are."""
    changed = [i for i in range(1, len(history)) if history[i].index != history[i - 1].index]
    for k, i in enumerate(changed):
        axes.axvline(i - 0.5, color=INK, linestyle=":", linewidth=1.2,
                     label="index changed" if k == 0 else None)
        if len(changed) <= LABELLED:
            side, shift = ("left", 3) if i < 0.9 * len(history) else ("right", -3)
            axes.annotate(f"{history[i - 1].index} → {history[i].index}", (i - 0.5, 1.0),
                          (shift, -2), xycoords=axes.get_xaxis_transform(), ha=side, va="top",
                          textcoords="offset points", color=INK, fontsize=9)
    return len(changed)


def _dates(history: tuple[PastRun, ...]) -> tuple[str, ...]:
    """Month and day of each run; the hour, too, where several are of one day."""
    days = [run.created[:10] for run in history]
    if len(set(days)) == len(days):
        return tuple(day[5:] for day in days)
    return tuple(run.created[5:16].replace("T", " ") for run in history)
