"""The report: one HTML file that a person reads to decide whether to believe a Hessian.

Judgements are made here, the prose stands in ``templates/report.html``, the figures come from
:mod:`lrh_dask.reports.figures`. The file needs nothing else: no script, no fonts, no links.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lrh_dask.errors import SettingsError, explain, printable
from lrh_dask.reports.figures import (
    bucket_figure,
    curve_of,
    held_out_figure,
    spectrum_figure,
)
from lrh_dask.statistics.certificates import ROUNDING
from lrh_dask.statistics.hessian import LowRankHessian

__all__ = ["flat", "grades", "render", "write_page", "write_report"]

N_ROWS = 30
"""Eigenvalues in the table."""


def write_report(hessian: LowRankHessian, path: str | Path) -> Path:
    """Write the report of a result as one HTML file, aside first and then renamed; its path.

    The same result gives the same bytes: the date is that of the result, not of the report.

    Raises:
        SettingsError: the path is a directory.
    """
    return write_page(render(hessian), path)


def write_page(page: str, path: str | Path) -> Path:
    """Write a page, aside first and then renamed; its path.

    Raises:
        SettingsError: the path is a directory.
    """
    path = Path(path)
    if path.is_dir():
        raise SettingsError(explain(
            f"report {path}", expected="the name of a file", got="a directory",
            consequence="No report was written",
            fix=f"Give a file name, for example {path / 'report.html'}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_text(printable(page), encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def grades(hessian: LowRankHessian) -> dict[str, str]:
    """Each certificate judged ``good``, ``fair``, ``poor`` or ``unknown``."""
    c, buckets = hessian.certificates, curve_of(hessian, "bucket_residuals")
    gap = (c.held_out_residual - ROUNDING) / max(c.residual, ROUNDING)
    half = hessian.half_widths
    unsure = np.mean(half >= np.abs(hessian.eigenvalues)) if np.isfinite(half).any() else np.nan
    return {
        "residual": _grade(c.residual, 0.02, 0.3),
        "held_out": "poor" if c.held_out_residual > 0.999 else _grade(gap, 1.2, 2.0),
        "errors": _grade(float(unsure), 0.0, 0.25),
        "captured": _grade(1.0 - c.captured_energy, 0.01, 0.1),
        "tail": _grade(c.tail, 0.01, 0.1),
        "asymmetry": _grade(c.asymmetry, 0.02, 0.3),
        "condition": _grade(c.condition, 1e4, 1e8),
        "ridge": _grade(c.ridge, 1e-3, 0.1),
        "buckets": _grade(len(c.outlier_buckets) if buckets.size > 1 else np.nan, 0, 1),
    }


def _grade(value: float, good: float, fair: float) -> str:
    """Judge a value that is better the smaller it is; NaN is unknown."""
    if np.isnan(value):
        return "unknown"
    return "good" if value <= good else "fair" if value <= fair else "poor"


def render(hessian: LowRankHessian, template: str = "report.html", **more: Any) -> str:
    """A page about a result.

    Args:
        more: what a template that extends the report needs beside it.
    """
    import jinja2
    from markupsafe import Markup

    pages = jinja2.Environment(loader=jinja2.PackageLoader("lrh_dask.reports"), autoescape=True,
                               undefined=jinja2.StrictUndefined, trim_blocks=True,
                               lstrip_blocks=True)
    pages.filters |= {"number": _number, "percent": _percent}
    known, buckets = hessian.provenance, curve_of(hessian, "bucket_residuals")
    sure = np.count_nonzero(hessian.half_widths < np.abs(hessian.eigenvalues))
    return pages.get_template(template).render(
        hessian=hessian, c=hessian.certificates, grades=grades(hessian), known=known,
        settings=flat(known.get("settings") or {}), rows=_rows(hessian), sure=sure,
        outliers=hessian.certificates.outlier_buckets, n_buckets=buckets.size,
        spectrum=Markup(spectrum_figure(hessian)), held_out=Markup(held_out_figure(hessian)),
        buckets=Markup(bucket_figure(hessian)), **more)


def _rows(hessian: LowRankHessian) -> list[tuple[float, ...]]:
    """Value, standard error, interval, relative error and bias of the first eigenvalues."""
    s, error, half = hessian.eigenvalues, hessian.standard_errors, hessian.half_widths
    relative = np.divide(error, np.abs(s), out=np.full(s.size, np.nan), where=s != 0)
    return list(zip(*(column[:N_ROWS].tolist() for column in (
        s, error, s - half, s + half, relative, hessian.bias)), strict=True))


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as lines ``a.b.c`` and value."""
    lines: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            lines += flat(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", str(value)))
    return lines


def _number(value: float | None, digits: int = 3) -> str:
    """Format for a reader: 1,234 for counts, a true minus, a dash for what is not known."""
    if value is None or np.isnan(value):
        return "–"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    text = f"{value:{'#' if digits > 3 else ''}.{digits}g}".rstrip(".")
    return text.replace("-", "−")


def _percent(share: float, digits: int = 4) -> str:
    return "–" if np.isnan(share) else f"{_number(100.0 * share, digits)} %"
