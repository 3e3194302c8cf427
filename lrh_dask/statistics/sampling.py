"""How far noise moves eigenvalues: the scatter of the residuals, and a jackknife over buckets."""

from __future__ import annotations

import numpy as np

from lrh_dask.linalg.low_rank import Estimate
from lrh_dask.linalg.moments import Moments, pooled
from lrh_dask.linalg.solve import SymmetricFit, fit_from_moments

__all__ = ["jackknife_errors", "sampling_errors", "scatter_of", "unevenness"]

FAR = 2.0
"""A jackknife so many times the scatter is no chance, but of two or three buckets."""


def sampling_errors(moments: list[Moments], n_pairs: list[int], found: Estimate, *, center: bool,
                    rounding: float) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors (k,) of all eigenvalues, and :func:`scatter_of` (k, k).

    The scatter of the residuals gives the standard error of each, taking noise to be alike in all
    pairs. Noise that grows where x is large shows in the jackknife over buckets, which says by
    how much all of them are too small: by its median, where each eigenvector counts as the noise
    along it (where there is hardly any, what leaks in from others is no growth). Alone the
    jackknife would be wild where few buckets hold most of what is known (the first steps of a
    descent); where it is FAR above for one eigenvalue it counts, since H itself may change along
    the rows.

    Args:
        moments: of each bucket, over all p columns; n_pairs: in each.
    """
    inner, m, ridge = found.vectors, found.free, found.ridge
    free = sum(n_pairs) - center - (inner.shape[0] + 1) / 2
    left = (found.rows.y - found.rows.x @ m) @ inner
    noise = np.sum(left**2, axis=0) / free
    scatter = scatter_of(found.fit, inner, ridge, noise)
    vectors = found.directions @ inner
    if vectors.shape[1] < vectors.shape[0]:
        moments, vectors = [part.project(found.directions) for part in moments], inner
    jackknife = jackknife_errors(moments, n_pairs, vectors, ridge, center=center, rounding=rounding)
    jackknife /= np.sqrt(unevenness(moments, n_pairs, vectors, center=center))
    alike = np.diag(scatter)
    told = alike > 0
    growth = _median(jackknife[told]**2 / alike[told], noise[told]) if told.any() else 1.0
    standard = np.sqrt(alike * max(growth, 1.0))
    return np.where(jackknife > FAR * standard, jackknife, standard), scatter


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    """The one of some values (k,) below which half of their weights (k,) lie."""
    order = np.argsort(values)
    up_to = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(up_to, up_to[-1] / 2.0)])


def scatter_of(fit: SymmetricFit, vectors: np.ndarray, ridge: float,
               noise: np.ndarray) -> np.ndarray:
    """Variances (k, k) of u_iᵀ M u_j, where the noise of Y is alike in all pairs.

    In the axes of X, M̂_pq = (C_pq σ_q + C_qp σ_p) / (σ_p² + σ_q² + 2λ) and noise enters by
    C = Pᵀ Yᵀ Z. With a_i = Pᵀ u_i and noise of variance v_i along u_i this gives
    v_i B_ij + v_j B_ji, twice that for i = j, where B = (a∘a)ᵀ G (a∘a) and
    G_pq = σ_q² / (σ_p² + σ_q² + 2λ)²: exact where the scales of X and the noise are alike in all
    directions, else up to their differences.

    Args:
        vectors: (k, k) orthonormal u.
        noise: (k,) variance v of Y along each.
    Cost: O(k³).
    """
    square = fit.sigma**2
    both = square[:, None] + square[None, :] + 2.0 * ridge * fit.scale
    gain = np.divide(square[None, :], both**2, out=np.zeros_like(both), where=both > 0)
    shares = (fit.axes.T @ vectors) ** 2
    one_way = noise[:, None] * (shares.T @ gain @ shares)
    variance = one_way + one_way.T
    np.fill_diagonal(variance, 2.0 * np.diag(variance))
    return variance


def jackknife_errors(buckets: list[Moments], n_pairs: list[int], vectors: np.ndarray, ridge: float,
                     *, center: bool, rounding: float = 0.0) -> np.ndarray:
    """Standard error of each eigenvalue, leaving out one bucket of pairs at a time.

    The eigenvalue without bucket j is u_iᵀ M₍₋ⱼ₎ u_i: to first order the eigenvalue of M₍₋ⱼ₎,
    and free of the matching of eigenvectors. Conditional on the basis.

    Args:
        rounding: :func:`lrh_dask.linalg.solve.rounding_of` the pairs.
        buckets: moments of each bucket in the basis of k columns.
        n_pairs: pairs in each bucket.
        vectors: (k, r) eigenvectors of the full fit.
        center: an offset is fitted, anew without each bucket.
    Cost: O(n_buckets k³).
    Source: Busing, Meijer & van der Leeden 1999 (delete-m_j jackknife).
    """
    whole = pooled(buckets)
    point = whole.mean if center else None
    everything = whole.about(point)

    def eigenvalues(xx: np.ndarray, xy: np.ndarray) -> np.ndarray:
        fit = fit_from_moments(xx, xy, rounding)
        inside = fit.axes.T @ vectors
        return np.sum(inside * (fit.solve_in_axes(ridge) @ inside), axis=0)

    def without(bucket: Moments) -> np.ndarray:
        one = bucket.about(point)
        xx, xy = everything.xx - one.xx, everything.xy - one.xy
        if center:  # the means of all others, about those of all, are those of the bucket mirrored
            x, y = (mean - of_all for mean, of_all in zip(bucket.mean, whole.mean, strict=True))
            share = bucket.weight**2 / (whole.weight - bucket.weight)
            xx, xy = xx - share * np.outer(x, x), xy - share * np.outer(x, y)
        return eigenvalues(xx, xy)

    full = eigenvalues(everything.xx, everything.xy)
    left_out = np.array([without(bucket) for bucket in buckets])
    sizes = np.asarray(n_pairs, dtype=float)
    h = (sizes.sum() / sizes)[:, None]
    pseudo = h * full - (h - 1.0) * left_out
    center_of_all = len(buckets) * full - ((1.0 - 1.0 / h) * left_out).sum(axis=0)
    variance = ((pseudo - center_of_all) ** 2 / (h - 1.0)).mean(axis=0)
    return np.sqrt(variance)


def unevenness(buckets: list[Moments], n_pairs: list[int], vectors: np.ndarray, *,
               center: bool) -> np.ndarray:
    """By how much the jackknife overstates each variance (r,) where few buckets tell most of it.

    Of a mean over J buckets of which bucket j holds the share p_j of the information and 1/h_j of
    the pairs, its expectation is Σ_j (h_j - 1) p_j / (1 - p_j) / J times the variance: 1 where
    p_j = 1/h_j. Of an eigenvalue the information is ‖Xu‖².

    Args:
        buckets, n_pairs, vectors, center: see :func:`jackknife_errors`.
    """
    point = pooled(buckets).mean if center else None
    told = np.array([np.sum(vectors * (bucket.about(point).xx @ vectors), axis=0)
                     for bucket in buckets])
    total = told.sum(axis=0)
    share = np.divide(told, total, out=np.zeros_like(told), where=total > 0)
    sizes = np.asarray(n_pairs, dtype=float)
    others = (sizes.sum() / sizes - 1.0)[:, None]
    return np.maximum((others * share / np.maximum(1.0 - share, 1e-9)).mean(axis=0), 1.0)
