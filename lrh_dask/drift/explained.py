"""How well a run explains pairs that it has never seen: tonight's, by last night's H.

Eigenvalues may stand still while the curvature turns, and errors may be missing; what a run says
of new pairs is the sharpest test of whether it still holds. It needs no pass of its own: the
triangle of the new rows over the basis Q (D, k), which holds the range of H, has it exactly.
With X̃ = XQ, Ỹ = YQ, M = QᵀHQ and b̃ = Qᵀb

    ‖Y - XH - b‖² = (‖Y - b‖² - ‖Ỹ - b̃‖²) + ‖Ỹ - X̃M - b̃‖²

(rows are pairs), for nothing that H does lies outside of Q.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from lrh_dask.errors import SettingsError, explain
from lrh_dask.linalg.solve import Rows
from lrh_dask.linalg.triangle import Triangle
from lrh_dask.statistics.certificates import share
from lrh_dask.statistics.hessian import LowRankHessian

__all__ = ["Explained", "explained"]

OUTSIDE = 1e-4
"""Eigenvectors that leave the basis by less were stored in float32, or are rounding."""


@dataclass(frozen=True)
class Explained:
    """New pairs, judged by a run that has not seen them.

    Attributes:
        residual: ‖Y - XH - b‖ / ‖Y - b‖ over the new pairs, exact.
        error: its standard error, from the scatter of the buckets; NaN for fewer than two.
        held_out: what the run itself promised, ‖Y - XH - b‖ / ‖Y - b‖ of pairs it held out.
        held_out_error: standard error of that, NaN where not known.
        n_pairs, n_buckets: new pairs, and the parts they came in.
        by_bucket: bucket → residual of its own pairs.
    """

    residual: float
    error: float
    held_out: float
    held_out_error: float
    n_pairs: int
    n_buckets: int
    by_bucket: Mapping[int, float]

    @property
    def excess(self) -> float:
        """By how many standard errors new pairs are explained worse than was promised."""
        error = float(np.hypot(self.error, self.held_out_error))
        return (self.residual - self.held_out) / error if error > 0 else float("nan")

    @property
    def chance(self) -> float:
        """How likely noise alone does that: few buckets know their own scatter badly.

        Student's t of ``n_buckets`` - 1 degrees of freedom, one-sided.
        """
        if self.n_buckets < 2 or math.isnan(self.excess):
            return float("nan")
        return float(stdtr(self.n_buckets - 1, -self.excess))


def explained(before: LowRankHessian, triangles: Mapping[int, Triangle],
              q: np.ndarray | None) -> Explained:
    """How well a run explains new pairs, given bucket by bucket, beside what it promised.

    Args:
        triangles: of the new pairs alone, over the basis ``q`` (D, k); None is all of R^D.
    Raises:
        SettingsError: the basis does not hold the eigenvectors of ``before``.
    Cost: O(k² r + D k r) flops a bucket; no pass over pairs.
    """
    found = {b: _squares(t, q, before) for b, t in triangles.items() if t.n_pairs}
    left, energy = (np.array([pair[i] for pair in found.values()]) for i in (0, 1))
    residual = share(float(left.sum()), float(energy.sum())) if found else float("nan")
    curve = np.asarray(before.curves.get("residual_by_rank", ()), dtype=float)
    errors = np.asarray(before.curves.get("residual_by_rank_error", ()), dtype=float)
    unit = float(curve[0]) if curve.size and curve[0] > 0 else 1.0  # ‖Y - b‖ / ‖Y‖
    return Explained(
        residual, _error(left, energy, residual),
        before.certificates.held_out_residual / unit,
        float(errors[before.rank]) / unit if before.rank < errors.size else float("nan"),
        sum(t.n_pairs for t in triangles.values()), len(found),
        {b: share(*pair) for b, pair in found.items()})


def _squares(triangle: Triangle, q: np.ndarray | None,
             hessian: LowRankHessian) -> tuple[float, float]:
    """‖Y - XH - b‖² and ‖Y - b‖² of the pairs in a triangle."""
    u, b = hessian.eigenvectors, hessian.offset
    inner = u if q is None else q.T @ u
    _refuse_outside(triangle, q, u, inner)
    rows = Rows.of(triangle)
    offset = np.zeros(u.shape[0]) if b is None else b
    energy = triangle.energy_about(offset)
    about = rows.y - np.outer(rows.one, offset if q is None else q.T @ offset)
    inside = float(np.sum(about**2))
    left = about - (rows.x @ inner * hessian.eigenvalues) @ inner.T
    return max(energy - inside, 0.0) + float(np.sum(left**2)), energy


def _refuse_outside(triangle: Triangle, q: np.ndarray | None, u: np.ndarray,
                    inner: np.ndarray) -> None:
    n_columns = u.shape[0] if q is None else q.shape[1]
    if triangle.n_basis != n_columns or triangle.sum_y.size != u.shape[0]:
        raise SettingsError(explain(
            "explain new pairs", expected=f"a triangle over {n_columns} columns of the "
            f"{u.shape[0]} features", got=f"one over {triangle.n_basis} of {triangle.sum_y.size}",
            consequence="It was not projected on this basis",
            fix="Project the new pairs on the basis that is given"))
    outside = 0.0 if q is None or not u.size else float(
        np.max(np.linalg.norm(u - q @ inner, axis=0)))
    if outside > OUTSIDE:
        raise SettingsError(explain(
            "explain new pairs", expected="a basis that holds the eigenvectors of the earlier run",
            got=f"one that leaves out {outside:.2g} of one of them",
            consequence="The residual would be that of another Hessian",
            fix="Project the new pairs on the basis that the earlier run was fitted in"))


def _error(left: np.ndarray, energy: np.ndarray, residual: float) -> float:
    """Standard error of √(Σ left / Σ energy): that of a ratio of sums over buckets.

    With R = Σ left / Σ energy over g buckets,

        Var R ≈ g/(g-1) Σ (left_b - R energy_b)² / (Σ energy)²,    error = √(Var R) / 2√R

    Source: Cochran 1977 (Sampling Techniques), section 6.5.
    """
    g, total = left.size, float(energy.sum())
    if g < 2 or total <= 0 or residual <= 0:
        return float("nan")
    scatter = left - residual**2 * energy
    return float(np.sqrt(g / (g - 1.0) * np.sum(scatter**2)) / total / (2.0 * residual))
