"""A solved fit and what is attached to it: exact residuals, standard errors, the verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrh_dask.certificates import (
    PAIRS_PER_COLUMN,
    Certificates,
    decide_verdict,
    jackknife_errors,
    outlying_buckets,
)
from lrh_dask.selection import Choice
from lrh_dask.solve import Rows, center_rows
from lrh_dask.triangle import Triangle

__all__ = ["Fit", "Solution", "certified", "errors_of", "left_over", "share"]

MIN_BUCKETS = 5
"""Fewer buckets than that leave no error to estimate."""
SPREAD = 0.6
"""Effective pairs a pair of normally spread points, at least: lengths differ even there."""


@dataclass(frozen=True, eq=False)
class Fit:
    """Eigenpairs in the coordinates of the basis, with their certificates.

    Attributes:
        eigenvalues (r,), standard_errors (r,): signed, the largest in magnitude first.
        vectors: (p, r) in the coordinates of the basis.
        bias: (r,) what halving the basis, and the ridge, do to each eigenvalue; NaN if unknown.
        mean_x, mean_y: (D,) weighted means where an offset b = mean_y - H mean_x was fitted.
        bucket_residuals: (n_buckets,) ‖Y - HX - b‖ / ‖Y‖ of each bucket.
        residual_by_rank, residual_by_rank_error: held out, for ranks 0..k.
    """

    eigenvalues: np.ndarray
    standard_errors: np.ndarray
    vectors: np.ndarray
    bias: np.ndarray
    mean_x: np.ndarray | None
    mean_y: np.ndarray | None
    bucket_residuals: np.ndarray
    residual_by_rank: np.ndarray
    residual_by_rank_error: np.ndarray
    certificates: Certificates
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Solution:
    """A solved fit that is not certified yet, in the coordinates of the basis."""

    values: np.ndarray
    vectors: np.ndarray
    errors: np.ndarray
    bias: np.ndarray
    error_note: str
    choice: Choice
    means: tuple[np.ndarray, np.ndarray] | None
    x_scales: np.ndarray
    columns_explored: int
    n_fitted: int
    n_explored: int
    asymmetry: float
    captured: float
    lossless: bool
    tail: float
    rank_was_asked: bool
    basis_is_full: bool
    floor: float = 1e-6
    consistent: bool = False
    borne_out: bool = False
    notices: tuple[str, ...] = ()

    def undetermined(self, n_features: int) -> bool:
        """Whether as many directions were fitted as x explores, and there is more to explore.

        H may then do anything beyond: nothing says that its directions end with those seen.
        """
        return self.lossless and self.n_fitted >= self.n_explored < n_features

    def squares(self, triangle: Triangle, mean_y: np.ndarray) -> tuple[float, float]:
        """‖Y - HX - b‖² of a triangle's pairs, and ‖Y - mean‖², over all D features."""
        rows, energy = Rows.of(triangle), triangle.energy
        if self.means is not None:
            weight = float(rows.one @ rows.one)
            energy += float(weight * (mean_y @ mean_y) - 2.0 * (mean_y @ triangle.sum_y))
            rows = center_rows(rows, self.means)
        outside = 0.0 if self.lossless else max(energy - float(np.sum(rows.y**2)), 0.0)
        return left_over(rows, self.values, self.vectors) + outside, energy


def errors_of(buckets: dict[int, Triangle], total: Triangle,
              means: tuple[np.ndarray, np.ndarray] | None, directions: np.ndarray,
              inner: np.ndarray, choice: Choice, n_explored: int, rounding: float, *,
              exact: bool) -> tuple[np.ndarray, str]:
    """Standard errors of the eigenvalues, or NaN, and why or how."""
    n_pairs = [t.n_pairs for t in buckets.values() if t.n_pairs]
    missing = np.full(inner.shape[1], np.nan)
    if len(n_pairs) < MIN_BUCKETS:
        return missing, f"fewer than {MIN_BUCKETS} buckets of pairs: no error can be estimated"
    if exact:
        return missing, ("the pairs are free of noise and were interpolated: they have no scatter "
                         "to estimate an error from, see `bias`")
    wanted = PAIRS_PER_COLUMN * choice.n_basis
    if sum(n_pairs) < wanted or total.n_effective < SPREAD * wanted:
        return missing, (
            f"{sum(n_pairs)} pairs (as good as {total.n_effective:.0f} of equal weight and length) "
            f"for a basis of {choice.n_basis} columns: fewer than {PAIRS_PER_COLUMN} pairs a "
            "column leave no honest error")
    if n_explored < choice.n_basis:
        return missing, (f"x differs from zero along {n_explored} of the {choice.n_basis} columns "
                         "of the basis: what H does along the others is not known")
    rows = [Rows.of(t) for t in buckets.values() if t.n_pairs]
    if means is not None:
        rows = [center_rows(r, means) for r in rows]
    errors = jackknife_errors([r.project(directions) for r in rows], n_pairs, inner, choice.ridge,
                              center=means is not None, rounding=rounding)
    return errors, (f"jackknife over {len(n_pairs)} buckets, conditional on the basis; "
                    "intervals by Student's t")


def certified(buckets: dict[int, Triangle], total: Triangle, found: Solution) -> Fit:
    """Attach the exact residual of the *truncated* H, over all pairs and by bucket."""
    one = Rows.of(total).one
    mean_x, mean_y = total.sum_x / (one @ one), total.sum_y / (one @ one)
    left, centred_energy = found.squares(total, mean_y)
    by_bucket = [share(found.squares(t, mean_y)[0], t.energy) for t in buckets.values()]
    choice, seen, centered = found.choice, found.x_scales, found.means is not None
    return Fit(
        eigenvalues=found.values, standard_errors=found.errors, vectors=found.vectors,
        bias=found.bias, notices=found.notices,
        mean_x=mean_x if centered else None, mean_y=mean_y if centered else None,
        bucket_residuals=np.array(by_bucket), residual_by_rank=choice.residual_by_rank,
        residual_by_rank_error=choice.residual_by_rank_error,
        certificates=Certificates(
            residual=share(left, total.energy), held_out_residual=choice.held_out_residual,
            asymmetry=found.asymmetry,
            captured_energy=min(found.captured / centred_energy, 1.0) if centred_energy > 0
            else 1.0,
            tail=found.tail,
            condition=float(seen[0] / seen[-1]) if seen.size else float("nan"),
            ridge=choice.ridge, n_basis=choice.n_basis, n_buckets=len(buckets),
            centered=centered, standard_error_note=found.error_note,
            n_explored=found.n_explored, n_effective=min(total.n_effective, total.n_pairs),
            outlier_buckets=outlying_buckets(np.array(by_bucket)),
            verdict=decide_verdict(
                share(left, centred_energy), choice, found.values.size,
                n_explored=found.columns_explored, basis_is_full=found.basis_is_full,
                rank_was_asked=found.rank_was_asked, borne_out=found.borne_out,
                n_pairs=total.n_pairs, consistent=found.consistent,
                undetermined=found.undetermined(total.sum_y.size), floor=found.floor)))


def left_over(rows: Rows, values: np.ndarray, vectors: np.ndarray) -> float:
    """‖Y - X H‖² of rows, inside the basis."""
    return float(np.sum((rows.y - (rows.x @ vectors * values) @ vectors.T) ** 2))


def share(squares: float, energy: float) -> float:
    """sqrt(squares / energy), 0 where there is no energy."""
    return float(np.sqrt(squares / energy)) if energy > 0 else 0.0
