"""The figures of the report: inline SVG that follows a light or a dark page.

Colours are CSS variables. Matplotlib is imported where it is used: the command line starts without.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np

from lrh_dask.statistics.hessian import LowRankHessian

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["INK", "MANY", "MUTED", "NEGATIVE", "POSITIVE", "WIDE", "as_svg", "bucket_figure",
           "curve_of", "held_out_figure", "new_axes", "paragraph", "spectrum_figure", "styled"]

N_POINTS = 500
"""Points in a figure: a file of 300 KiB has no room for more."""
MANY = 60
"""More points than this are drawn smaller, and more ranks on a logarithmic axis."""
WIDE = 50.0
"""Ratio of largest to smallest value from which a vertical axis is logarithmic."""
INK, MUTED, GRID, POSITIVE, NEGATIVE = "#010101", "#020202", "#030303", "#040404", "#050505"
CSS_COLOURS = {INK: "var(--ink, #1c2127)", MUTED: "var(--muted, #5c6670)",
               GRID: "var(--grid, #dfe3e7)", POSITIVE: "var(--positive, #0b62b8)",
               NEGATIVE: "var(--negative, #c2410c)"}
"""Matplotlib cannot write CSS variables: it draws with stand-ins, which are then replaced."""


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's own defaults, ours on top, and the caller's back afterwards."""
    from matplotlib import style

    with style.context(["default", {
            "svg.fonttype": "none", "svg.hashsalt": "lrh_dask", "font.size": 10.5,
            "axes.edgecolor": GRID, "axes.labelcolor": MUTED, "grid.color": GRID,
            "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
            "xtick.color": GRID, "ytick.color": GRID, "xtick.labelcolor": MUTED,
            "ytick.labelcolor": MUTED, "legend.frameon": False, "legend.labelcolor": INK,
            "legend.fontsize": 9.5}]):
        yield


@styled()
def spectrum_figure(hessian: LowRankHessian) -> str:
    """SVG of the eigenvalues with 95 % intervals, or a paragraph that there are none."""
    if hessian.rank == 0:
        return paragraph("No spectrum to draw: this result has rank 0.")
    values, half = hessian.eigenvalues[:N_POINTS], hessian.half_widths[:N_POINTS]
    sizes = np.abs(values)
    log = bool(sizes.min() > 0 and sizes.max() > WIDE * sizes.min())
    figure, axes = new_axes("index" + _first_of(values.size, hessian.rank),
                         "|eigenvalue|" if log else "eigenvalue")
    sign_open = half >= sizes  # NaN is not
    for sign, side, colour, marker in (("positive", values >= 0, POSITIVE, "^"),
                                       ("negative", values < 0, NEGATIVE, "v")):
        for label, here, fill in ((sign, side & ~sign_open, colour),
                                  (f"{sign}, sign open", side & sign_open, "none")):
            if here.any():
                axes.errorbar(np.flatnonzero(here) + 1, (sizes if log else values)[here],
                              yerr=half[here] if np.isfinite(half).any() else None, fmt=marker,
                              color=colour, markerfacecolor=fill, elinewidth=1.2, label=label,
                              markersize=6 if values.size <= MANY else 3.5)
    if log:
        axes.set_yscale("log", nonpositive="clip")
        ends = np.nan_to_num(half) * [[-1.0], [1.0]] + sizes
        lowest = ends[ends > 0.1 * sizes.min()].min()  # bars that go further run off
        axes.set_ylim(lowest / 1.5, ends.max() * 1.5)
    else:
        axes.axhline(0.0, color=MUTED, linewidth=1.0)
    axes.set_xlim(0.4 - 0.01 * values.size, 0.6 + 1.01 * values.size)
    return as_svg(figure, "spectrum", f"{hessian.rank} eigenvalues against index, "
                f"{hessian.index} of them negative, from {values.max():.3g} to {values.min():.3g}")


@styled()
def held_out_figure(hessian: LowRankHessian) -> str:
    """SVG of the held-out residual against rank, or a paragraph saying why there is none."""
    curve = curve_of(hessian, "residual_by_rank")
    error = curve_of(hessian, "residual_by_rank_error")
    if np.count_nonzero(np.isfinite(curve)) < 2:
        return paragraph("No curve to draw: the residual of held-out pairs is not known by rank.")
    last = min(max(3 * hessian.rank, 20), curve.size - 1)
    ranks = np.unique(np.append(np.geomspace(1, last + 1, N_POINTS).astype(int) - 1,
                                [*range(min(last, MANY) + 1), min(hessian.rank, last)]))
    shown = curve[ranks]
    band = error[ranks] if error.size == curve.size else np.full(ranks.size, np.nan)
    figure, axes = new_axes("rank" + _first_of(last, curve.size - 1), "held-out residual")
    if np.isfinite(band).any():
        axes.fill_between(ranks, shown - band, shown + band, color=POSITIVE, alpha=0.25,
                          linewidth=0, label="± one standard error")
    axes.plot(ranks, shown, color=POSITIVE, linewidth=1.6, markersize=3.5,
              marker="o" if last <= MANY else None, label="held-out residual")
    if hessian.rank <= last:
        axes.axvline(hessian.rank, color=NEGATIVE, linestyle="--", linewidth=1.4,
                     label=f"rank of this result, {hessian.rank}")
    if last > MANY:
        axes.set_xscale("symlog", linthresh=1.0, linscale=0.3)
        axes.set_xlim(-0.4, 1.1 * last)
        steps = (m * 10**e for e in range(9) for m in (1, 2, 5))
        axes.set_xticks([0, *(t for t in steps if t <= last)])
    _residual_scale(axes, shown, shown + np.nan_to_num(band))
    return as_svg(figure, "held-out", f"Held-out residual against rank: {curve[0]:.3g} at rank 0, "
                f"lowest {np.nanmin(curve):.3g} at rank {np.nanargmin(curve)}; this result has "
                f"rank {hessian.rank}")


@styled()
def bucket_figure(hessian: LowRankHessian) -> str:
    """SVG of the residual of each bucket, or a paragraph that there is nothing to compare."""
    residuals = curve_of(hessian, "bucket_residuals")
    if np.count_nonzero(np.isfinite(residuals)) < 2:
        return paragraph("No buckets to compare: the pairs were not split, or into one only.")
    far = np.array(hessian.certificates.outlier_buckets, dtype=int)
    median = float(np.nanmedian(residuals))
    near = np.setdiff1d(np.arange(residuals.size), far)
    figure, axes = new_axes("bucket", "residual")
    axes.axhline(median, color=MUTED, linewidth=1.0, label=f"median, {median:.3g}")
    axes.plot(near, residuals[near], "o", color=POSITIVE, markersize=5, label="bucket")
    if far.size:
        axes.plot(far, residuals[far], "X", color=NEGATIVE, markersize=8,
                  label="beyond median + 5 MAD")
    for bucket in far[:12]:
        axes.annotate(str(bucket), (bucket, residuals[bucket]), (7, 0), color=INK,
                      textcoords="offset points", va="center")
    _residual_scale(axes, residuals, residuals)
    return as_svg(figure, "buckets", f"Residual of {residuals.size} buckets, median {median:.3g}, "
                f"{far.size} of them beyond median + 5 MAD")


def curve_of(hessian: LowRankHessian, name: str) -> np.ndarray:
    """A curve of the result, empty where it has none."""
    return np.asarray(hessian.curves.get(name, ()), dtype=float)


def _first_of(shown: int, available: int) -> str:
    return "" if shown == available else f" (up to {shown:,} of {available:,})"


def paragraph(text: str) -> str:
    """What stands where there is nothing to draw."""
    return f'<p class="empty">{html.escape(text)}</p>'


def new_axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """Empty axes of a figure that belongs to no window; x counts things."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.6, 3.3), facecolor="none", layout="constrained")
    axes = figure.add_subplot(facecolor="none")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, steps=[1, 2, 5, 10], integer=True,
                                               min_n_ticks=1))
    axes.grid(axis="y")
    return figure, axes


def _residual_scale(axes: Axes, residuals: np.ndarray, tops: np.ndarray) -> None:
    """From zero, or logarithmic where the residuals span decades."""
    seen = residuals[np.isfinite(residuals) & (residuals > 0)]
    if seen.size and seen.max() > WIDE * seen.min():
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(seen.min() / 2.0, np.nanmax(tops) * 2.0)
    else:
        axes.set_ylim(0.0, 1.12 * float(np.nanmax(tops)) or 1.0)


def as_svg(figure: Figure, name: str, title: str, x_names: Sequence[str] = ()) -> str:
    """Write the figure as an SVG element with a text alternative and ids of its own.

    Args:
        x_names: what stands at x = 0, 1, ... instead of the number.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    def number(value: float, _: int | None) -> str:
        return f"{value:g}".replace("-", "−")

    def place(value: float, at: int | None) -> str:
        if not x_names:
            return number(value, at)
        return x_names[round(value)] if value == round(value) and (
            0 <= value < len(x_names)) else ""

    for axis, words in ((figure.axes[0].xaxis, place), (figure.axes[0].yaxis, number)):
        axis.set_major_formatter(FuncFormatter(words))
        axis.set_minor_formatter(NullFormatter())
    figure.legend(loc="outside upper left", ncols=4, handletextpad=0.4)
    sheet = StringIO()
    figure.savefig(sheet, format="svg")
    svg = re.sub(r"<metadata>.*?</metadata>", "", sheet.getvalue(), flags=re.DOTALL)  # the date
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg[svg.index("<svg"):])
    for stand_in, colour in CSS_COLOURS.items():
        svg = svg.replace(stand_in, colour)
    alternative = html.escape(title)
    head, body = svg.split(">", 1)
    return f'{head} role="img" aria-label="{alternative}">\n <title>{alternative}</title>{body}'


