"""Cutting a fit to low rank, in units in which noise is alike in all directions.

In the axes of X noise of variance v in every entry of Y reaches M̂_ij with variance
v / (σ_i² + σ_j²), twice that on the diagonal. Along directions that x hardly touches it is large,
and a cut by magnitude would keep what noise has made there before what pairs show elsewhere. With
D = diag(√σ) the noise of D M̂ D has variance v σ_i σ_j / (σ_i² + σ_j²), at most v / 2 (v on the
diagonal) however short x is, and its rank and signs are those of M̂ (Sylvester's law of inertia).
What H leaves of the pairs weighs (H - M̂)_ij² by (σ_i² + σ_j²) / 2; D puts σ_i σ_j in its place,
which makes the cut one eigendecomposition:

    H_r = D⁻¹ (D M̂ D)_r D⁻¹,   (·)_r: the r eigenpairs that are largest in magnitude

(S^-¼ (S^¼ M S^¼)_r S^-¼ in any axes, S = XᵀX), which is M cut by magnitude where the scales of x
are alike. Along directions that x hardly touches H_r is not what noise says there, but what a
matrix of rank r must be, given the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lrh_dask.linalg.moments import Products
from lrh_dask.linalg.solve import Rows, SymmetricFit, eigenpairs, sorted_eigenpairs

__all__ = ["Estimate", "Terms", "gained_by_eigenpairs", "gained_by_terms", "noise_variance",
           "terms_of"]

SHORTEST = 1e-8
"""Scales of x below this share of the largest count as it."""


@dataclass(frozen=True, eq=False)
class Terms:
    """M = Σ_i w_i u_i u_iᵀ, what stands out most from noise first: H_r is the sum of the first r.

    Attributes:
        weights: (k,) w, eigenvalues of D M̂ D.
        inner: (k, k) its eigenvectors, orthonormal.
        units: the diagonal of D (k,).
        fit, ridge: what M was solved with.
    """

    weights: np.ndarray
    inner: np.ndarray
    units: np.ndarray
    fit: SymmetricFit
    ridge: float

    @property
    def in_axes(self) -> np.ndarray:
        """U (k, k) in the axes of X, u as columns: not orthonormal."""
        return self.inner / self.units[:, None]

    @property
    def directions(self) -> np.ndarray:
        """U (k, k), u as columns: not orthonormal."""
        return self.fit.axes @ self.in_axes

    @cached_property
    def reach(self) -> np.ndarray:
        """How far noise of variance one in every entry of Y can push an eigenvalue (k,).

        Along each axis of X; infinite where no x lies.
        """
        variance = np.outer(self.units, self.units) ** 2 * variance_in_axes(self.fit, self.ridge)
        reach = 2.0 * np.sqrt(variance.sum(axis=1) + np.diag(variance))  # the diagonal: twice
        reach[self.fit.sigma <= self.fit.floor] = np.inf
        return np.asarray(reach)

    def n_beyond(self, noise: float) -> int:
        """How many terms noise of that variance in every entry of Y has not made."""
        reach = np.where(np.isfinite(self.reach), self.reach, 0.0)
        edges = np.sqrt((self.inner**2).T @ reach**2 * noise)
        return int(np.count_nonzero(np.abs(self.weights) > edges))

    def n_visible(self, size: float, noise: float) -> int:
        """Along how many axes of X curvature of that size would be told from noise."""
        return int(np.count_nonzero(size * self.units**2 > self.reach * noise**0.5))

    def unmoved(self, vectors: np.ndarray, n_terms: int) -> np.ndarray:
        """C (k, r) for u in the range of H_r: uᵀH_r u moves as uᵀMu - cᵀMc, to first order.

        What changes D M̂ D beside its r leading eigenvectors V is cut away again:
        c = D (I - V Vᵀ) D⁻¹ u, which is zero where the scales of x are alike. What is cut away
        counts as small beside what is kept.
        """
        rest = self.inner[:, n_terms:]
        inside = rest.T @ ((self.fit.axes.T @ vectors) / self.units[:, None])
        return np.asarray(self.fit.axes @ (self.units[:, None] * (rest @ inside)))

    def eigenpairs(self, n_terms: int) -> tuple[np.ndarray, np.ndarray]:
        """Eigenpairs (k,), (k, k) of H_r, the largest first, then those of M beside its range."""
        q, r = np.linalg.qr(self.directions)
        found = []
        for part in (slice(0, n_terms), slice(n_terms, None)):
            values, vectors = sorted_eigenpairs(*eigenpairs(
                (r[part, part] * self.weights[part]) @ r[part, part].T))
            found.append((values, q[:, part] @ vectors))
        return (np.concatenate([values for values, _ in found]),
                np.concatenate([vectors for _, vectors in found], axis=1))


@dataclass(frozen=True, eq=False)
class Estimate:
    """A fit with all its eigenpairs, in a basis of k columns.

    Attributes:
        directions: (p, k) the basis, in the coordinates of the triangles.
        rows: all pairs in it, means taken off where an offset is fitted.
        fit, ridge: the factors, and the ridge relative to tr(XᵀX)/k.
        free: (k, k) M without constraints.
        terms, n_terms: of M as it is constrained, and to how many it is cut.
        values, vectors: (k,), (k, k) :meth:`Terms.eigenpairs`, those of the cut first.
    """

    directions: np.ndarray
    rows: Rows
    fit: SymmetricFit
    ridge: float
    free: np.ndarray
    terms: Terms
    n_terms: int
    values: np.ndarray
    vectors: np.ndarray

    def share_of_variance(self) -> np.ndarray:
        """The variance of each eigenvalue over that of uᵀMu (k,), to first order: 1 beside the cut.

        Too small where the spectrum goes on, since what is cut away counts as nothing. Noise
        being alike in all entries of Y, they are those of Σ_pq (a_p a_q - c_p c_q) M̂_pq and of
        Σ_pq a_p a_q M̂_pq, a and c being u and :meth:`Terms.unmoved` in the axes of X.
        """
        variance = variance_in_axes(self.fit, self.ridge)
        cut = self.vectors[:, :self.n_terms]
        a, c = (self.fit.axes.T @ v for v in (cut, self.terms.unmoved(cut, self.n_terms)))
        of_m, across, off = (np.sum(b * (variance @ b), axis=0) for b in (a**2, a * c, c**2))
        share = np.ones(self.values.size)
        np.divide(of_m - 2.0 * across + off, of_m, out=share[:self.n_terms], where=of_m > 0)
        return share


def variance_in_axes(fit: SymmetricFit, ridge: float) -> np.ndarray:
    """Variance of M̂_pq (k, k) where that of Y is one in every entry; on the diagonal half of it."""
    square = fit.sigma**2
    both = square[:, None] + square[None, :]
    held = both + 2.0 * ridge * fit.scale
    return np.divide(both, held**2, out=np.zeros_like(both), where=held > 0)


def terms_of(fit: SymmetricFit, m: np.ndarray, ridge: float, *, noisy: bool = True,
             psd: bool = False) -> Terms:
    """The terms of a solution.

    Args:
        m: M̂ (k, k), in the axes of X; ``ridge``: with which it was found.
        noisy: else D = I, and the terms are eigenpairs of M.
        psd: negative weights count as zero.
    Cost: one eigendecomposition of (k, k).
    Source: Benaych-Georges & Nadakuditi 2011 (what stands out from noise). Where variances differ
        Bandeira & van Handel 2016 bound noise by the row that varies most; ``reach`` is that of
        each row, and what a term may reach the mean over its rows: a heuristic.
    """
    units = np.ones(fit.sigma.size)
    if noisy and np.any(fit.sigma):
        units = np.sqrt(np.maximum(fit.sigma, SHORTEST * fit.sigma.max()))
    values, vectors = eigenpairs(units[:, None] * m * units)
    weights, inner = sorted_eigenpairs(np.maximum(values, 0.0) if psd else values, vectors)
    return Terms(weights, inner, units, fit, ridge)


def noise_variance(left: float, n_pairs: float, k: int) -> float:
    """Variance of noise in every entry of Y, from the squares that M (k, k) leaves of n pairs."""
    free = n_pairs * k - k * (k + 1) / 2
    return max(left, 0.0) / free if free > 0 else 0.0


def gained_by_terms(weights: np.ndarray, directions: np.ndarray,
                    pairs: Products) -> np.ndarray:
    """By how much Σ_{i<=r} w_i u_i u_iᵀ lowers ‖Y - X H‖² for r = 0..m: (m+1,).

    Args:
        directions: (k, m) u as columns.
    Cost: O(k² m).
    """
    linear = 2.0 * weights * np.sum(directions * (pairs.xy @ directions), axis=0)
    square = directions.T @ (pairs.xx @ directions)
    square *= directions.T @ directions
    # what term i shares with all before it counts twice
    shared = weights * (2.0 * (np.tril(square) @ weights) - np.diag(square) * weights)
    return np.concatenate([[0.0], np.cumsum(linear - shared)])


def gained_by_eigenpairs(values: np.ndarray, vectors: np.ndarray, pairs: Products) -> np.ndarray:
    """The same for orthonormal u (k, m), which share nothing."""
    linear, square = (np.sum(vectors * (product @ vectors), axis=0)
                      for product in (pairs.xy, pairs.xx))
    return np.concatenate([[0.0], np.cumsum(2.0 * values * linear - values**2 * square)])
