"""How far an eigenvalue may be off: standard errors, intervals, bias, and what its sign proves."""

from __future__ import annotations

import numpy as np

from lrh_dask.solve import (
    Rows,
    SymmetricFit,
    center_rows,
    fit_from_moments,
    own_of_moments,
    symmetric_fit,
)
from lrh_dask.triangle import Triangle

__all__ = ["basis_bias", "curvature_sentence", "errors_of", "half_widths", "jackknife_errors",
           "ridge_bias", "sign_margins"]

MIN_BUCKETS = 5
"""Fewer buckets than that leave no error to estimate."""
PAIRS_PER_COLUMN = 3
"""Below this many pairs per basis column a jackknife over buckets is not honest."""
SPREAD = 0.6
"""Effective pairs a pair of normally spread points, at least: lengths differ even there."""


def errors_of(buckets: dict[int, Triangle], total: Triangle,
              means: tuple[np.ndarray, np.ndarray] | None, directions: np.ndarray,
              inner: np.ndarray, ridge: float, n_explored: int, rounding: float, *,
              exact: bool) -> tuple[np.ndarray, str]:
    """Standard errors of the eigenvalues, or NaN, and why or how.

    Args:
        means: what was taken off x and y (k,), where an offset was fitted.
        directions: (p, k) basis of the fit; ``inner``: (k, r) eigenvectors in it.
        n_explored: columns of the basis along which x differs from zero.
        exact: the pairs were interpolated.
    """
    n_basis = directions.shape[1]
    n_pairs = [t.n_pairs for t in buckets.values() if t.n_pairs]
    missing = np.full(inner.shape[1], np.nan)
    if len(n_pairs) < MIN_BUCKETS:
        return missing, f"fewer than {MIN_BUCKETS} buckets of pairs: no error can be estimated"
    if exact:
        return missing, ("the pairs are free of noise and were interpolated: they have no scatter "
                         "to estimate an error from, see `bias`")
    wanted = PAIRS_PER_COLUMN * n_basis
    if sum(n_pairs) < wanted or total.n_effective < SPREAD * wanted:
        return missing, (
            f"{sum(n_pairs)} pairs (as good as {total.n_effective:.0f} of equal weight and length) "
            f"for a basis of {n_basis} columns: fewer than {PAIRS_PER_COLUMN} pairs a "
            "column leave no honest error")
    if n_explored < n_basis:
        return missing, (f"x differs from zero along {n_explored} of the {n_basis} columns "
                         "of the basis: what H does along the others is not known")
    rows = [Rows.of(t) for t in buckets.values() if t.n_pairs]
    if means is not None:
        rows = [center_rows(r, means) for r in rows]
    errors = jackknife_errors([r.project(directions) for r in rows], n_pairs, inner, ridge,
                              center=means is not None, rounding=rounding)
    return errors, (f"jackknife over {len(n_pairs)} buckets, conditional on the basis; "
                    "intervals by Student's t")


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


def sign_margins(errors: np.ndarray, bias: np.ndarray, n_basis: int,
                 n_buckets: int) -> np.ndarray:
    """How far from zero an eigenvalue must lie for its sign to count (r,).

    An eigenvector is chosen among all directions of the basis, after looking: noise alone makes
    eigenvalues up to the edge √(2k) of its standard errors. Bias comes on top. NaN where no
    error is known.
    """
    edge = np.sqrt(2.0 * max(n_basis, 1))
    typical = np.maximum(errors, np.median(errors)) if errors.size else errors
    return np.maximum(half_widths(errors, n_buckets),
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
