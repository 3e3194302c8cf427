"""What a fit knows of its own error: residuals, standard errors, and a verdict in words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from lrh_dask.selection import Choice
from lrh_dask.solve import (
    Rows,
    SymmetricFit,
    fit_from_moments,
    own_of_moments,
    symmetric_fit,
)

__all__ = ["ROUNDING", "Certificates", "Verdict", "basis_bias", "curvature_sentence",
           "decide_verdict", "half_widths", "jackknife_errors", "outlying_buckets", "ridge_bias",
           "sign_margins"]

ROUNDING = 1e-6
"""Residuals that differ by less are alike."""
CONVERGED, FEWEST_JUDGED = 0.02, 20
PAIRS_PER_COLUMN = 3
"""Below this many pairs per basis column a jackknife over buckets is not honest."""


class Verdict(Enum):
    """The outcome of a fit; each value says what it means and what to do."""

    converged = (
        "The rank-r Hessian explains pairs it has not seen about as well as those it was "
        "fitted on (or exact pairs along its own eigenvectors bear it out), and little is left "
        "over. Use it.")
    noisy = (
        "The rank-r Hessian explains pairs it has not seen as well as those it was fitted on, "
        "but what is left over is noise (or curvature spread over many directions) of "
        "noticeable size. Trust an eigenvalue only beyond its standard error; more pairs, or "
        "larger batches behind each gradient, lower it.")
    rank_limited = (
        "The asked rank or basis size leaves out curvature that the pairs do show. "
        "Raise `rank` (or use `rank: auto`), or give the workers more memory.")
    underdetermined = (
        "There are too few pairs to check the fit on pairs it has not seen, it fails that check, "
        "or x leaves directions of the basis unexplored. It reproduces the given pairs, and may "
        "be far off elsewhere. Record more pairs, with x in more directions.")
    inconsistent = (
        "Nothing recoverable: no low-rank symmetric H predicts held-out gradients better than "
        "H = 0. Check that y are gradient differences (or Hessian products) of the very x in "
        "the same row, taken on the same batch.")


@dataclass(frozen=True)
class Certificates:
    """Figures that tell how far a result can be believed.

    Attributes:
        residual: ‖Y - HX - b‖ / ‖Y‖ over all pairs, exact.
        held_out_residual: the same over pairs not fitted on, NaN where too few.
        asymmetry: ‖XᵀY - YᵀX‖ / ‖XᵀY‖ in the fitted basis, before symmetrisation.
        captured_energy: share of ‖Y‖² inside the fitted basis.
        tail: bound on the share of ‖Y‖² outside the basis, over the pairs that the basis was
            found on (0: nothing was cut).
        condition: ratio of largest to smallest singular value of the projected x.
        ridge: λ relative to tr(XᵀX)/k.
        n_explored: directions along which x was seen: of R^D, or (a fitted basis) of its columns.
        n_effective: pairs of equal weight and length that would say as much.
        n_duplicates: rows that repeat another, x and y alike (an estimate beyond 32,768 rows).
        n_zero_x, n_zero_y: rows that are all zero.
        outlier_buckets: buckets whose residual exceeds median + 5 MAD.
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
    outlier_buckets: tuple[int, ...] = ()


def jackknife_errors(buckets: list[Rows], n_pairs: list[int], vectors: np.ndarray, ridge: float,
                     *, center: bool, rounding: float = 0.0) -> np.ndarray:
    """Standard error of each eigenvalue, leaving out one bucket of pairs at a time.

    The eigenvalue without bucket j is u_iᵀ M₍₋ⱼ₎ u_i: to first order the eigenvalue of M₍₋ⱼ₎,
    and free of the matching of eigenvectors. Conditional on the basis.

    Args:
        rounding: :func:`lrh_dask.solve.rounding_of` the pairs.
        buckets: rows of each bucket in the basis (q, k), centred already where ``center``.
        n_pairs: pairs in each bucket.
        vectors: (k, r) eigenvectors of the full fit.
    Cost: O(n_buckets k³).
    Source: Busing, Meijer & van der Leeden 1999 (delete-m_j jackknife).
    """
    s_xx = [rows.x.T @ rows.x for rows in buckets]
    s_xy = [rows.x.T @ rows.y for rows in buckets]
    total_xx, total_xy = sum(s_xx), sum(s_xy)
    weight = np.array([rows.one @ rows.one for rows in buckets])
    sum_x = np.array([rows.one @ rows.x for rows in buckets])
    sum_y = np.array([rows.one @ rows.y for rows in buckets])

    def eigenvalues(xx: np.ndarray, xy: np.ndarray, keep: np.ndarray) -> np.ndarray:
        if center:
            mean_x = sum_x[keep].sum(axis=0) / weight[keep].sum()
            xx = xx - np.outer(sum_x[keep].sum(axis=0), mean_x)
            xy = xy - np.outer(mean_x, sum_y[keep].sum(axis=0))
        m = fit_from_moments(xx, xy, rounding).solve(ridge)
        return np.einsum("ki,kl,li->i", vectors, m, vectors, optimize=True)

    everyone = np.ones(len(buckets), dtype=bool)
    full = eigenvalues(total_xx, total_xy, everyone)
    sizes = np.asarray(n_pairs, dtype=float)
    h = (sizes.sum() / sizes)[:, None]
    without = np.empty((len(buckets), vectors.shape[1]))
    for j in range(len(buckets)):
        keep = everyone.copy()
        keep[j] = False
        without[j] = eigenvalues(total_xx - s_xx[j], total_xy - s_xy[j], keep)
    pseudo = h * full - (h - 1.0) * without
    center_of_all = len(buckets) * full - ((1.0 - 1.0 / h) * without).sum(axis=0)
    variance = ((pseudo - center_of_all) ** 2 / (h - 1.0)).mean(axis=0)
    return np.sqrt(variance)


def decide_verdict(residual: float, choice: Choice, n_eigenvalues: int, *, n_explored: int,
                   basis_is_full: bool, rank_was_asked: bool, n_pairs: int,
                   consistent: bool = False, undetermined: bool = False, borne_out: bool = False,
                   floor: float = 1e-6) -> Verdict:
    """The outcome of a fit, from its residuals.

    What an offset explains is no merit of H: residuals are judged against the one of rank 0,
    which is ‖Y - b‖ / ‖Y‖.

    Args:
        residual: ‖Y - HX - b‖ / ‖Y - b‖ over all pairs.
        floor: residuals below this are rounding.
        n_explored: directions of the basis along which x differs from zero.
        n_pairs: noise cannot be told from curvature by fewer than FEWEST_JUDGED of them.
        consistent: the pairs are those of one H to rounding, so too few at worst.
        undetermined: y has as many directions as x explores, and x does not explore all of R^D.
        borne_out: exact pairs show every eigenpair, see :mod:`lrh_dask.interpolation`.
        basis_is_full: more columns could have been used, had the workers' memory allowed it.
    """
    if borne_out:
        return Verdict.converged
    if np.isnan(choice.held_out_residual):
        return Verdict.underdetermined
    unexplained = float(choice.residual_by_rank[0]) if choice.residual_by_rank.size else 1.0
    if unexplained == 0:
        return Verdict.converged
    held_out = choice.held_out_residual / unexplained
    curve = choice.residual_by_rank / unexplained
    if n_eigenvalues == 0 or held_out > 0.999:
        return Verdict.underdetermined if consistent else Verdict.inconsistent
    if not residual / 2.0 - floor <= held_out <= 2.0 * residual + floor:
        return Verdict.underdetermined
    if n_explored < choice.n_basis or undetermined:
        return Verdict.underdetermined
    if rank_was_asked and curve.size and held_out > 1.2 * float(curve.min()) + floor:
        return Verdict.rank_limited
    if basis_is_full and n_eigenvalues >= choice.n_basis and held_out > floor:
        return Verdict.rank_limited
    if held_out <= CONVERGED:
        return Verdict.converged
    return Verdict.noisy if n_pairs >= FEWEST_JUDGED else Verdict.underdetermined


def outlying_buckets(residuals: np.ndarray) -> tuple[int, ...]:
    """The buckets whose residual exceeds median + 5 MAD, and does so beyond rounding."""
    if not np.isfinite(residuals).any():
        return ()
    median = np.nanmedian(residuals)
    spread = 5.0 * np.nanmedian(np.abs(residuals - median))
    return tuple(np.flatnonzero(residuals > median + max(float(spread), ROUNDING)).tolist())


def basis_bias(rows: Rows, m: np.ndarray, vectors: np.ndarray, ridge: float,
               rounding: float) -> np.ndarray:
    """How far each eigenvalue moves when the basis is halved: |uᵀ(M - M_half)u| (r,).

    What a cut basis leaves out is gone from M in the same way as what the half leaves out, so
    this bounds it wherever the spectrum decays.

    Args:
        rows: pairs in the basis, its columns sorted by dominance; ``m``: their fit (k, k).
        vectors: (k, r) eigenvectors of m.
    """
    half = vectors.shape[0] // 2
    if half == 0:
        return np.full(vectors.shape[1], np.nan)
    fit = symmetric_fit(rows.x[:, :half], rows.y[:, :half], rounding, own=own_of_moments(half))
    kept = vectors[:half]
    return np.abs(np.einsum("ki,kl,li->i", vectors, m, vectors, optimize=True)
                  - np.einsum("ki,kl,li->i", kept, fit.solve(ridge), kept, optimize=True))


def ridge_bias(fit: SymmetricFit, m: np.ndarray, vectors: np.ndarray,
               ridge: float) -> np.ndarray:
    """How far the ridge shrinks each eigenvalue: |uᵀ(M - M at λ/100)u| (r,).

    Without any ridge, directions that x hardly touches would drown the shrinkage in noise.

    Args:
        m: the fit (k, k) with the ridge; ``vectors``: (k, r) its eigenvectors.
    """
    if ridge == 0:
        return np.zeros(vectors.shape[1])
    change = m - fit.solve(ridge / 100.0)
    return np.abs(np.einsum("ki,kl,li->i", vectors, change, vectors, optimize=True))


def half_widths(errors: np.ndarray, n_buckets: int) -> np.ndarray:
    """Half widths of 95 % intervals: Student's t of ``n_buckets`` - 1 degrees of freedom."""
    from scipy.stats import t

    return errors * float(t.ppf(0.975, n_buckets - 1))  # NaN without a degree of freedom


def sign_margins(errors: np.ndarray, bias: np.ndarray, certificates: Certificates) -> np.ndarray:
    """How far from zero an eigenvalue must lie for its sign to count (r,).

    An eigenvector is chosen among all directions of the basis, after looking: noise alone makes
    eigenvalues up to the edge √(2k) of its standard errors. Bias comes on top. NaN where no
    error is known.
    """
    edge = np.sqrt(2.0 * max(certificates.n_basis, 1))
    typical = np.maximum(errors, np.median(errors)) if errors.size else errors
    return np.maximum(half_widths(errors, certificates.n_buckets),
                      edge * typical) + np.nan_to_num(bias)


def curvature_sentence(eigenvalues: np.ndarray, halves: np.ndarray, n_features: int, *,
                       certified: bool = True) -> str:
    """What the signs of the eigenvalues prove, and what they cannot.

    A sign counts only where zero lies beyond its margin; where none is known signs are taken as
    they are, and the sentence says so. "Minimum" is never certified.

    Args:
        halves: (r,) margins (:func:`sign_margins`), NaN where unknown.
        certified: the fit was checked, so that its signs can prove something.
    """
    known = np.isfinite(halves)
    margin = np.where(known, halves, 0.0)
    negative = int(np.count_nonzero(eigenvalues + margin < 0))
    positive = int(np.count_nonzero(eigenvalues - margin > 0))
    unsure = eigenvalues.size - negative - positive
    notes = [f"{unsure:,} within their error of zero"] * bool(unsure)
    notes += ["signs without known errors"] * bool(eigenvalues.size and not known.all())
    if not certified:
        notes.insert(0, "no sign is certified, because the fit could not be checked or failed its "
                        "check")
    notes.append(f"{n_features - eigenvalues.size:,} of {_count(n_features)} unexplored")
    if not certified:
        said = f"{_count(negative)} of negative and {positive:,} of positive curvature in the fit"
    elif negative and positive:
        said = f"{_count(negative)} of negative and {positive:,} of positive curvature: a " \
               "saddle where the gradient is zero"
    elif negative:
        said = f"{_count(negative)} of negative curvature: not a minimum"
    else:
        said = f"no negative curvature among the {_count(eigenvalues.size)} seen"
    return "; ".join([said, *notes])


def _count(n: int) -> str:
    return f"{n:,} direction{'' if n == 1 else 's'}"
