"""How far the leading subspaces of two runs agree: principal angles, at cuts that mean something.

With U₁ (D, m₁), U₂ (D, m₂) orthonormal the singular values of U₁ᵀU₂ are cos θ_i, the cosines of
the min(m₁, m₂) principal angles. A cut through a cluster of equal eigenvalues says nothing, for its
vectors may be turned in any way; so cuts are made at gaps that both runs show beyond their errors.

Noise turns eigenvectors, too. With V_i the variance of eigenvalue s_i, to first order

    Σ sin²θ ≈ Σ_{i≤m} ( Σ_{j>m} V_ij / (s_i - s_j)² + (D - r) V_i / s_i² )

(V_ij = V_i V_j / (V_i + V_j)) of each run, and of both together as their errors add up, see
:mod:`lrh_dask.drift.drift`. An overlap is shown beside the one that noise alone leaves: twice as
much is lost there as in simulations, for noise beside what was found is not that of its
eigenvalues.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrh_dask.drift.matching import APART
from lrh_dask.statistics.hessian import LowRankHessian

__all__ = ["Cut", "cuts_of", "turned_by_noise"]

NARROW = 0.1
"""A gap narrower than that share of its eigenvalue lets a little drift turn the vectors far."""


@dataclass(frozen=True)
class Cut:
    """The agreement of two leading subspaces.

    Attributes:
        size: m, the dimension of both (of the smaller one, where it is all that was found).
        overlap: mean cos² of the principal angles, 1 where the subspaces are the same.
        by_noise: the overlap that noise alone leaves, about; NaN where errors are missing.
        angles: principal angles in radians, the smallest first.
        apart: both runs show a gap here; else the overlap says nothing.
    """

    size: int
    overlap: float
    by_noise: float
    angles: tuple[float, ...]
    apart: bool


def cuts_of(before: LowRankHessian, after: LowRankHessian, leading: int,
            shared: float, least: float) -> tuple[Cut, ...]:
    """The whole of both runs first, then every smaller dimension with a gap below it on both.

    Args:
        leading: no smaller dimension above this.
        shared, least: correlation of the two runs' errors, and the least share of them by which
            the runs differ, see :mod:`lrh_dask.drift.drift`.
    Cost: O(D r²) flops.
    Source: Björck & Golub 1973 (principal angles, of subspaces of different dimension too).
    """
    inner = before.eigenvectors.T @ after.eigenvectors
    both = min(inner.shape)
    if both == 0:
        return ()
    gaps = _gaps(before)[:both] & _gaps(after)[:both]
    sizes = [m for m in range(1, min(both - 1, leading) + 1) if gaps[m - 1]]
    ends = bool(before.rank == after.rank and gaps[both - 1])
    return (_cut(inner, both, before, after, shared, least, apart=ends, whole=True),
            *(_cut(inner, m, before, after, shared, least, apart=True) for m in sizes))


def turned_by_noise(hessian: LowRankHessian, size: int) -> float:
    """Σ sin²θ that noise may put between the leading ``size`` eigenvectors and the true ones."""
    s, variance = hessian.eigenvalues, hessian.standard_errors**2
    lead, rest = slice(None, size), slice(size, None)
    both = variance[lead, None] + variance[None, rest]
    off = np.where(both > 0, variance[lead, None] * variance[None, rest] / np.where(
        both > 0, both, 1.0), both)  # 0 or NaN stay what they are
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.sum(off / (s[lead, None] - s[None, rest]) ** 2)
        beside = (hessian.n_features - hessian.rank) * np.sum(variance[lead] / s[lead] ** 2)
    return float(inside + beside)


def _cut(inner: np.ndarray, size: int, before: LowRankHessian, after: LowRankHessian,
         shared: float, least: float, *, apart: bool, whole: bool = False) -> Cut:
    block = inner if whole else inner[:size, :size]
    cosines = np.minimum(np.linalg.svd(block, compute_uv=False), 1.0)
    t_b, t_a = (np.sqrt(turned_by_noise(run, size)) for run in (before, after))
    lost = np.maximum(t_b**2 + t_a**2 - 2.0 * shared * t_b * t_a,
                      (least * np.maximum(t_b, t_a)) ** 2)
    by_noise = float(max(1.0 - lost / size, 0.0)) if np.isfinite(lost) else float("nan")
    return Cut(size, float(np.mean(cosines**2)), by_noise, tuple(np.arccos(cosines).tolist()),
               apart)


def _gaps(hessian: LowRankHessian) -> np.ndarray:
    """Whether the first m eigenvalues stand apart in magnitude from what follows (r,), m = 1..r.

    Behind the last one lies what noise may hide: the margin of its sign.
    """
    size, errors = np.abs(hessian.eigenvalues), np.nan_to_num(hessian.standard_errors)
    hidden = np.nan_to_num(hessian.curves.get("sign_margins", np.zeros(hessian.rank)))[-1:]
    follows, error = np.append(size[1:], hidden), np.append(errors[1:], 0.0 * hidden)
    return np.asarray(size - follows > np.maximum(APART * np.hypot(errors, error), NARROW * size))
