"""Symmetric least squares on projected pairs, and the rows of a triangle it reads.

Everything here is small, float64 and on the host. Rows are pairs: X, Y (q, k).

    M = argmin over symmetric M of ‖X M - Y‖² + λ‖M‖²

With the SVD  X = Z diag(σ) Pᵀ  and  C = Pᵀ (Yᵀ Z), the minimiser in the coordinates of P is

    M̂_ij = (C_ij σ_j + C_ji σ_i) / (σ_i² + σ_j² + 2λ),     M = P M̂ Pᵀ

(0 where both σ are negligible), which solves  M S + S M + 2λ M = YᵀX + XᵀY  (S = XᵀX) and loses
accuracy with cond(X), not with its square.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from lrh_dask.linalg.triangle import Triangle

__all__ = ["MANY", "Rows", "SymmetricFit", "center_rows", "directions_of_square",
           "eigenpairs", "fit_from_moments", "gains", "leading_directions", "numerical_rank",
           "own_of_moments", "rank_of", "rounding_of", "sorted_eigenpairs", "symmetric_fit",
           "up_to_last"]

EPS = float(np.finfo(np.float64).eps)
MANY = 4
"""With so many rows a column, dominant directions are taken from their products."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Pairs in the coordinates of a basis of p columns, as rows (q, p) that stand for many.

    Attributes:
        one: (q,) what multiplies the offset.
        x, y: (q, p).
    """

    one: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @staticmethod
    def of(triangle: Triangle) -> Rows:
        """The rows of a triangle's factor."""
        k, factor = triangle.n_basis, triangle.factor
        return Rows(factor[:, 0], factor[:, 1:k + 1], factor[:, k + 1:])

    @staticmethod
    def stack(parts: list[Rows]) -> Rows:
        """Rows of all parts, one under the other."""
        return Rows(np.concatenate([part.one for part in parts]),
                    np.concatenate([part.x for part in parts]),
                    np.concatenate([part.y for part in parts]))

    def project(self, directions: np.ndarray) -> Rows:
        """The same pairs in the coordinates of ``directions`` (p, k)."""
        return Rows(self.one, self.x @ directions, self.y @ directions)

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Weighted means of x and y (p,), zero where no row counts."""
        total = float(self.one @ self.one) or 1.0
        return self.one @ self.x / total, self.one @ self.y / total


def up_to_last(x: np.ndarray) -> int:
    """Up to the last row of x (q, p) that is not zero: half of a triangle's rows say nothing of H.

    One at least.
    """
    return int(np.max(np.flatnonzero(x.any(axis=1)), initial=0)) + 1


def center_rows(rows: Rows, means: tuple[np.ndarray, np.ndarray]) -> Rows:
    """The rows with the given means of x and y taken off every pair."""
    return Rows(rows.one, rows.x - np.outer(rows.one, means[0]),
                rows.y - np.outer(rows.one, means[1]))


def leading_directions(y: np.ndarray, k: int, rounding: float = 0.0) -> np.ndarray:
    """The dominant directions (p, <= k) of rows y (q, p), orthonormal, the strongest first.

    Directions that are nothing but rounding are left out: a fit in them is arbitrary.

    Args:
        rounding: :func:`rounding_of` the pairs.
    """
    if y.shape[0] > MANY * y.shape[1]:
        return directions_of_square(y.T @ y, k, rounding)
    _, scales, vt = np.linalg.svd(y, full_matrices=False)
    return vt.T[:, :min(k, numerical_rank(scales, EPS * max(y.shape), rounding))]


def directions_of_square(yy: np.ndarray, k: int, rounding: float = 0.0) -> np.ndarray:
    """The same from YᵀY (p, p): what lies below the root of its rounding is left out, too."""
    square, directions = eigenpairs(yy)
    scales = np.sqrt(np.maximum(square[::-1], 0.0))
    return directions[:, ::-1][:, :min(k, numerical_rank(scales, 2.0 * EPS**0.5, rounding))]


@dataclass(frozen=True, eq=False)
class SymmetricFit:
    """The fit before the ridge is known: factor once, solve for any λ.

    Attributes:
        axes: P (k, k), the right singular vectors of X.
        sigma: (k,) singular values of X, padded with zeros.
        numerator: (k, k) C_ij σ_j + C_ji σ_i.
        floor: singular values at or below this are rounding.
    """

    axes: np.ndarray
    sigma: np.ndarray
    numerator: np.ndarray
    floor: float

    def solve(self, ridge: float = 0.0) -> np.ndarray:
        """M (k, k) for a ridge relative to the mean square of σ."""
        m = self.solve_in_axes(ridge)
        return self.axes @ m @ self.axes.T

    def solve_in_axes(self, ridge: float = 0.0) -> np.ndarray:
        """M̂ = Pᵀ M P (k, k)."""
        square = self.sigma**2
        denominator = square[:, None] + square[None, :] + 2.0 * ridge * self.scale
        unseen = self.sigma <= self.floor
        with np.errstate(divide="ignore", invalid="ignore"):
            m = self.numerator / denominator
        m[np.ix_(unseen, unseen)] = 0.0
        return m

    @property
    def scale(self) -> float:
        """tr(XᵀX) / k, the unit of the ridge."""
        return float(np.mean(self.sigma**2)) if self.sigma.size else 0.0

    @property
    def seen(self) -> np.ndarray:
        """The singular values of X that are more than rounding, the largest first."""
        return self.sigma[self.sigma > self.floor]


def gains(rows: Rows, values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """By how much each eigenpair lowers ‖Y - XH‖² of rows (r,): 2 s xᵀu uᵀy - s² (uᵀx)², summed.

    Args:
        values, vectors: (r,), (k, r) with orthonormal columns.
    """
    zx, zy = rows.x @ vectors, rows.y @ vectors
    return np.asarray(2.0 * values * np.einsum("qi,qi->i", zx, zy)
                      - values**2 * np.einsum("qi,qi->i", zx, zx))


def eigenpairs(square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (k,), ascending, and eigenvectors (k, k) of a symmetric matrix."""
    # The transpose lies as LAPACK takes it. Graded from the top, a matrix keeps what is small in it
    # where it is reduced from the lower half only.
    values, vectors = eigh(square.T, lower=True, driver="evd", check_finite=False)
    return values, vectors


def sorted_eigenpairs(values: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The eigenpairs by magnitude, the largest first."""
    order = np.argsort(-np.abs(values), kind="stable")
    return values[order], vectors[:, order]


def rounding_of(dtype: np.dtype, n_pairs: int, n_features: int) -> float:
    """Share of ‖Y‖ (Frobenius) that the rounding of stored pairs reaches in one direction.

    Entries are off by about 0.2 eps of their size, independently, so that the largest singular
    value of what is off is 0.2 eps ‖Y‖ (1/√n + 1/√D); five times that is the floor. Pairs that
    depend on each other (all differences of a few points) are independent once rounded to
    float32; what they say along those directions is nothing but rounding.
    """
    return float(np.finfo(dtype).eps) * (max(n_pairs, 1) ** -0.5 + max(n_features, 1) ** -0.5)


def numerical_rank(scales: np.ndarray, own: float, rounding: float) -> int:
    """How many singular values (k,) are more than rounding.

    Args:
        own: share of the largest that the computation itself may reach.
        rounding: :func:`rounding_of` the pairs.
    """
    return int(np.count_nonzero(scales > _floor(scales, own, rounding)))


def _floor(scales: np.ndarray, own: float, rounding: float) -> float:
    return max(own * float(scales.max(initial=0.0)), rounding * float(np.linalg.norm(scales)))


def rank_of(x: np.ndarray, rounding: float) -> int:
    """Directions along which rows x (q, p) differ from zero."""
    square = np.linalg.eigvalsh(x.T @ x if x.shape[0] > x.shape[1] else x @ x.T)
    return numerical_rank(np.sqrt(np.maximum(square, 0.0)), own_of_moments(x.shape[1]), rounding)


def symmetric_fit(x: np.ndarray, y: np.ndarray, rounding: float = 0.0, *,
                  own: float | None = None) -> SymmetricFit:
    """Factor the rows X, Y (q, k) for symmetric least squares.

    Args:
        rounding: :func:`rounding_of` the pairs.
        own: share of the largest σ below which a direction counts as not seen, by default what
            the SVD itself may reach.
    Cost: one SVD of (q, k), O(q k²).
    Source: Higham 1988 (the symmetric Procrustes problem).
    """
    k = x.shape[1]
    x, y = x[:up_to_last(x)], y[:up_to_last(x)]
    if x.shape[0] > k:
        z, sigma, axes = np.linalg.svd(x, full_matrices=False)
    else:  # fewer rows than columns: P must still span all k directions
        z, sigma, axes = np.linalg.svd(x, full_matrices=True)
    sigma = np.concatenate([sigma, np.zeros(k - sigma.size)])
    c = np.zeros((k, k))
    c[:, :z.shape[1]] = axes @ (y.T @ z)
    weighted = c * sigma
    own = EPS * max(k, 1) if own is None else own
    return SymmetricFit(axes.T, sigma, weighted + weighted.T, _floor(sigma, own, rounding))


def own_of_moments(k: int) -> float:
    """Share of the largest σ of x (q, k) that moments can resolve: the root of their rounding.

    Candidates, errors and the fit that they speak of must agree on what counts as seen, so a
    regression takes this share too.
    """
    return float(np.sqrt(EPS * max(k, 1)))


def fit_from_moments(s_xx: np.ndarray, s_xy: np.ndarray, rounding: float = 0.0) -> SymmetricFit:
    """The same factors from XᵀX and XᵀY (k, k): cheaper, accurate to cond² only.

    Good enough to compare candidates and for standard errors, never for the reported fit.
    """
    square, axes = eigenpairs(s_xx)
    square, axes = square[::-1], axes[:, ::-1]
    sigma = np.sqrt(np.maximum(square, 0.0))
    floor = _floor(sigma, own_of_moments(square.size), rounding)
    rotated = axes.T @ s_xy @ axes
    return SymmetricFit(axes, np.where(sigma > floor, sigma, 0.0), rotated + rotated.T, floor)
