"""What a fit knows of how far it can be believed: exact residuals, and where the pairs differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrh_dask.linalg.signs import noise_margins, sign_margins
from lrh_dask.linalg.solve import Rows, center_rows
from lrh_dask.linalg.triangle import Triangle
from lrh_dask.statistics.selection import Choice
from lrh_dask.statistics.uncertainty import Errors
from lrh_dask.statistics.verdicts import Grounds, Verdict, decide_verdict

__all__ = ["ROUNDING", "Certificates", "Fit", "Solution", "certified", "left_over",
           "outlying_buckets", "share"]

ROUNDING = 1e-6
"""Residuals that differ by less are alike."""
EXACT = 1e-5
"""A residual below this leaves so little noise that signs count without standard errors."""
DOMINANT, UNEXPLAINED = 0.9, 0.5
"""A bucket that holds so much of all squares left, and of whose own length so much is left."""


@dataclass(frozen=True)
class Certificates:
    """Figures that tell how far a result can be believed.

    Attributes:
        residual: ‖Y - HX - b‖ / ‖Y‖ over all pairs, exact.
        held_out_residual: the same over pairs not fitted on, NaN where too few. The candidate is
            the one that did best on them, so it is a little hopeful.
        asymmetry: ‖XᵀY - YᵀX‖ / ‖XᵀY‖ in the fitted basis, before symmetrisation.
        captured_energy: share of ‖Y‖² inside the fitted basis.
        tail: bound on the share of ‖Y‖² outside the basis, over the pairs that the basis was
            found on (0: nothing was cut).
        condition: ratio of largest to smallest singular value of the projected x.
        ridge: λ relative to tr(XᵀX)/k.
        n_explored: directions along which x was seen: of R^D, or (a fitted basis) of its columns.
        n_effective: pairs by Kish's formula, (Σ a)² / Σ a² with a = √w ‖x‖: fewer than were
            counted where few rows are heavy or long.
        n_duplicates: rows that repeat another, x and y alike (an estimate beyond 16,384 rows).
        n_zero_x, n_zero_y: rows that are all zero.
        n_far_x, n_far_y: rows a million times longer or shorter than the median.
        n_skipped: rows that held NaN or Inf and were left out.
        outlier_buckets: see :func:`outlying_buckets`.
        n_basis: columns k that were fitted; ``n_buckets``: buckets behind the errors.
        standard_error_note: why standard errors are missing, or what they are conditional on.
        verdict: the outcome.
    """

    residual: float
    held_out_residual: float
    asymmetry: float
    captured_energy: float
    tail: float
    condition: float
    ridge: float
    n_basis: int
    n_buckets: int
    centered: bool
    standard_error_note: str
    verdict: Verdict
    n_explored: int = 0
    n_effective: float = float("nan")
    n_duplicates: int = 0
    n_zero_x: int = 0
    n_zero_y: int = 0
    n_far_x: int = 0
    n_far_y: int = 0
    n_skipped: int = 0
    outlier_buckets: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Fit:
    """Eigenpairs in the coordinates of the basis, with their certificates.

    Attributes:
        eigenvalues (r,), standard_errors (r,): signed, the largest in magnitude first.
        vectors: (p, r) in the coordinates of the basis.
        bias: (r,) see :class:`lrh_dask.statistics.uncertainty.Errors`; NaN if unknown.
        margins: (r,) how far from zero an eigenvalue must lie for its sign to count; NaN where
            none can.
        mean_x, mean_y: (D,) weighted means where an offset b = mean_y - H mean_x was fitted.
        bucket_residuals: ‖Y - HX - b‖ / ‖Y‖ of each bucket by its number, NaN without pairs.
        residual_by_rank, residual_by_rank_error: held out, for ranks 0..k.
    """

    eigenvalues: np.ndarray
    standard_errors: np.ndarray
    vectors: np.ndarray
    bias: np.ndarray
    margins: np.ndarray
    mean_x: np.ndarray | None
    mean_y: np.ndarray | None
    bucket_residuals: np.ndarray
    residual_by_rank: np.ndarray
    residual_by_rank_error: np.ndarray
    certificates: Certificates
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Solution:
    """A solved fit that is not certified yet, in the coordinates of the basis.

    Attributes:
        values (r,), vectors (p, r): its eigenpairs.
        errors, choice, grounds: what is known of them, chosen, and judged by.
        means: of x and y (p,), where an offset was fitted.
        x_scales: singular values of x that are more than rounding, the largest first.
        n_explored, asymmetry, tail, notices: see :class:`Certificates`, :class:`Fit`.
        captured: ‖Y‖² inside the fitted basis.
        lossless: the triangles hold all of x and y, so no square lies outside.
        n_buckets: buckets behind the errors; ``rounding``: of the stored numbers, relative.
    """

    values: np.ndarray
    vectors: np.ndarray
    errors: Errors
    choice: Choice
    means: tuple[np.ndarray, np.ndarray] | None
    grounds: Grounds
    x_scales: np.ndarray
    n_explored: int
    asymmetry: float
    captured: float
    lossless: bool
    tail: float
    n_buckets: int
    rounding: float
    notices: tuple[str, ...] = ()

    def squares(self, triangle: Triangle, mean_y: np.ndarray) -> tuple[float, float]:
        """‖Y - HX - b‖² of a triangle's pairs, and ‖Y - mean‖², over all D features."""
        rows, energy = Rows.of(triangle), triangle.energy
        if self.means is not None:
            rows, energy = center_rows(rows, self.means), triangle.energy_about(mean_y)
        outside = 0.0 if self.lossless else max(energy - float(np.sum(rows.y**2)), 0.0)
        return left_over(rows, self.values, self.vectors) + outside, energy


def certified(buckets: dict[int, Triangle], total: Triangle, found: Solution) -> Fit:
    """Attach the exact residual of the *truncated* H, over all pairs and by bucket."""
    mean_x, mean_y = total.sum_x / total.weight, total.sum_y / total.weight
    left, centred_energy = found.squares(total, mean_y)
    left_in = np.full(max(buckets) + 1, np.nan)   # a bucket without pairs has none
    by_bucket, pairs_in = left_in.copy(), np.zeros(left_in.size)
    for b, t in buckets.items():
        pairs_in[b] = t.n_pairs
        left_in[b] = found.squares(t, mean_y)[0]
        by_bucket[b] = share(left_in[b], t.energy)
    choice, seen, centered = found.choice, found.x_scales, found.means is not None
    return Fit(
        eigenvalues=found.values, standard_errors=found.errors.standard, vectors=found.vectors,
        bias=found.errors.bias, margins=_margins(found, total, left, centred_energy),
        notices=found.notices,
        mean_x=mean_x if centered else None, mean_y=mean_y if centered else None,
        bucket_residuals=by_bucket, residual_by_rank=choice.residual_by_rank,
        residual_by_rank_error=choice.residual_by_rank_error,
        certificates=Certificates(
            residual=share(left, total.energy), held_out_residual=choice.held_out_residual,
            asymmetry=found.asymmetry,
            captured_energy=min(found.captured / centred_energy, 1.0) if centred_energy > 0
            else 1.0,
            tail=found.tail,
            condition=float(seen[0] / seen[-1]) if seen.size else float("nan"),
            ridge=choice.ridge, n_basis=choice.n_basis, n_buckets=len(buckets),
            centered=centered, standard_error_note=found.errors.note,
            n_explored=found.n_explored, n_effective=total.n_effective,
            outlier_buckets=outlying_buckets(
                by_bucket, left_in, pairs_in,
                rounding=ROUNDING if found.lossless else found.grounds.floor),
            verdict=decide_verdict(share(left, centred_energy), choice, found.values.size,
                                   found.grounds)))


def _margins(found: Solution, total: Triangle, left: float, energy: float) -> np.ndarray:
    """Margins of the signs (:mod:`lrh_dask.linalg.signs`).

    They are NaN where neither errors nor exact pairs tell.

    Args:
        left, energy: ‖Y - HX - b‖² and ‖Y - b‖² over all pairs.
    """
    choice, grounds = found.choice, found.grounds
    margins = sign_margins(found.errors.standard, found.errors.bias, choice.n_basis,
                           found.n_buckets)
    residual = share(left, energy)
    if not (grounds.borne_out or residual <= EXACT):
        return margins
    rows = Rows.of(total)
    if found.means is not None:
        rows = center_rows(rows, found.means)
    # What a cut leaves of consistent pairs is curvature.
    noise = found.asymmetry if grounds.consistent else max(residual, found.asymmetry)
    lengths = np.linalg.norm(rows.x @ found.vectors, axis=0)
    return np.where(np.isfinite(margins), margins, noise_margins(
        float(max(noise, found.rounding) * np.sqrt(energy)), lengths))


def outlying_buckets(residuals: np.ndarray, left: np.ndarray,
                     n_pairs: np.ndarray, *, rounding: float = ROUNDING) -> tuple[int, ...]:
    """The buckets that are explained much worse than the others.

    Their residual exceeds the median by five of its scatter (the MAD, or that of n squares where
    pairs are few), and does so beyond rounding; or nearly all that is left of the pairs lies in
    one of them, which H does not explain: a few rows as large as that let no H be seen in the
    others either, so that all residuals are alike.

    Args:
        residuals: (n_buckets,) ‖Y - HX - b‖ / ‖Y‖, NaN for a bucket without pairs.
        left: (n_buckets,) ‖Y - HX - b‖².
        n_pairs: (n_buckets,) pairs in each.
        rounding: residuals that differ by less do not differ.
    """
    known = np.isfinite(residuals)
    if not known.any():
        return ()
    median = np.nanmedian(residuals)
    spread = np.maximum(np.nanmedian(np.abs(residuals - median)),
                        median / np.sqrt(2.0 * np.maximum(n_pairs, 1)))
    far = residuals > median + np.maximum(5.0 * spread, rounding)
    if np.count_nonzero(known) > 2:
        far |= (left > DOMINANT * np.nansum(left)) & (residuals > UNEXPLAINED)
    return tuple(np.flatnonzero(far).tolist())


def left_over(rows: Rows, values: np.ndarray, vectors: np.ndarray) -> float:
    """‖Y - X H‖² of rows, inside the basis."""
    return float(np.sum((rows.y - (rows.x @ vectors * values) @ vectors.T) ** 2))


def share(squares: float, energy: float) -> float:
    """sqrt(squares / energy), 0 where there is no energy."""
    return float(np.sqrt(squares / energy)) if energy > 0 else 0.0
