"""Pairs that one symmetric H explains to rounding are interpolated, not regressed.

Pairs of one H have XᵀY = YᵀX (pairs x pairs). Where that holds to rounding there is no noise for
a ridge to fight, and few, strongly related pairs (Krylov: each x made of the last y) must not
be judged by leaving some of them out. What is left is the basis, and the pairs show which is
right:

``y``    Y has fewer directions than x explores, cut off clean: H has that rank; all of them.
         Likewise where XᵀY is definite: Y(XᵀY)⁺Yᵀ (Nyström) is then stable with every direction;
``all``  the pairs explore all of R^D: H is determined;
``both`` x adds few directions to those of Y: each pair was made of others (Krylov, descent),
         and what x and y span together closes the recursion.

In no other case is the answer plain (indefinite, few pairs, random x: Nyström with all directions
of Y blows up, two thirds of them are about right), and held-out pairs choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lrh_dask.linalg.solve import (
    MANY,
    Rows,
    center_rows,
    leading_directions,
    numerical_rank,
    rank_of,
    up_to_last,
)

__all__ = ["Interpolation", "asymmetry", "beside", "interpolation", "is_recursion",
           "n_beside", "n_borne_out", "spanning_directions"]

CONSISTENT = {4: 4e-6, 8: 1e-11}
"""By the bytes of a stored number: asymmetry of pairs free of noise, with room for the rounding of
the products that made y. (`seed` tolerates more before it refuses.)"""
CLEAN_GAP = 100.0
ADDS = {4: 1e-4, 8: 1e-6}
"""Likewise: a direction of x counts as new beyond those of Y above this share of ‖X‖."""
PROBED, MISSED = 0.99, 0.1
"""An eigenpair is borne out if so much of |u|² was probed and ‖Hu - su‖ is below so much of |s|."""


@dataclass(frozen=True)
class Interpolation:
    """How consistent pairs are interpolated.

    Attributes:
        center: whether they are consistent once their means are taken off.
        span: what the basis spans, or ``open``: held-out pairs must choose.
        n_basis: its columns (of Y, for ``both``).
        dtype: what the pairs were stored in.
        rank: that of H, where Y has fewer directions than x explores. The basis takes half as
            many again, since rounding has turned the weakest ones.
    """

    center: bool
    span: Literal["y", "both", "all", "open"]
    n_basis: int
    dtype: np.dtype
    rank: int | None = None


def asymmetry(rows: Rows) -> float:
    """‖XᵀY - YᵀX‖ / ‖XᵀY‖ over pairs (XᵀY is pairs x pairs), 0 for consistent noise-free ones."""
    q = up_to_last(rows.x)
    product = rows.x[:q] @ rows.y.T  # and zeros below
    size = float(np.linalg.norm(product))
    unlike = np.hypot(np.linalg.norm(product[:, :q] - product[:, :q].T),
                      2.0**0.5 * np.linalg.norm(product[:, q:]))
    return float(unlike) / size if size > 0 else 0.0


def interpolation(rows: Rows, n_pairs: int, n_features: int, *, center: bool | None,
                  dtype: np.dtype, rounding: float) -> Interpolation | None:
    """How to interpolate the pairs, or None where they are inconsistent.

    Args:
        rows: all pairs in a basis that holds all of y, and of x where it adds little to y.
        n_pairs: n; ``n_features``: D.
        center: an offset is there, is not, or (None) as the pairs say.
        dtype: what the pairs were stored in.
        rounding: :func:`lrh_dask.linalg.solve.rounding_of` the pairs.
    """
    limit = CONSISTENT[max(dtype.itemsize, 4)]
    for centered in (False, True) if center is None else (center,):
        free = n_pairs - centered
        pairs = center_rows(rows, rows.means()) if centered else rows
        if free >= 2 and np.any(pairs.y) and asymmetry(pairs) <= limit:
            return _spanned(pairs, free, n_features, centered, dtype, rounding)
    return None


def spanning_directions(pairs: Rows, exact: Interpolation, rounding: float) -> np.ndarray:
    """Orthonormal directions (p, about n_basis) of what the pairs span."""
    if exact.span == "all":
        return np.eye(pairs.y.shape[1])
    found = leading_directions(pairs.y, exact.n_basis, rounding if exact.rank is None else 0.0)
    return found if exact.span == "y" else np.concatenate(
        [found, beside(pairs.x, found, exact.dtype)], axis=1)


def beside(x: np.ndarray, directions: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Orthonormal directions (p, e) that x (q, p) adds to others (p, k)."""
    rest = x - (x @ directions) @ directions.T
    if x.shape[1] > MANY * x.shape[0]:
        size, turned = _of_products(rest)
        added = rest.T @ turned[:, _adds(size, x, dtype)]
        added /= np.linalg.norm(added, axis=0)
    else:
        _, size, vt = np.linalg.svd(rest, full_matrices=False)
        added = vt[_adds(size, x, dtype)].T
    for _ in range(2):  # the least of them have kept a share of the others
        added = np.linalg.qr(added - directions @ (directions.T @ added))[0]
    return added


def n_beside(x: np.ndarray, directions: np.ndarray, dtype: np.dtype) -> int:
    """How many :func:`beside` would find, at a fraction of its price."""
    rest = x - (x @ directions) @ directions.T
    size = (_of_products(rest)[0] if x.shape[1] > x.shape[0]
            else np.linalg.svd(rest, compute_uv=False))
    return int(np.count_nonzero(_adds(size, x, dtype)))


def _of_products(rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Singular values and left vectors of rows, from their products: ADDS is far above √eps."""
    square, turned = np.linalg.eigh(rest @ rest.T)
    return np.sqrt(np.maximum(square, 0.0)), turned


def _adds(size: np.ndarray, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.asarray(size > ADDS[max(dtype.itemsize, 4)] * np.linalg.norm(x))


def is_recursion(n_added: int, n_pairs: int, n_features: int) -> bool:
    """Whether x adds far fewer directions to those of Y than random points would."""
    return n_added <= 0.5 * min(n_pairs, n_features - n_pairs)


def n_borne_out(pairs: Rows, values: np.ndarray, vectors: np.ndarray, rounding: float) -> int:
    """How many leading eigenpairs (s, u) the pairs themselves bear out.

    Where u = Xc (columns are pairs), Hu = Yc is known and not fitted: for exact pairs
    |s - eigenvalue of H| <= ‖Hu - su‖, the Ritz residual.
    """
    fit = np.linalg.svd(pairs.x, full_matrices=False)
    kept = numerical_rank(fit[1], np.finfo(np.float64).eps * max(pairs.x.shape), rounding)
    inside = fit[2][:kept] @ vectors                            # u in the directions of x
    images = (inside.T / fit[1][:kept]) @ fit[0][:, :kept].T @ pairs.y     # rows H P u
    missed = np.linalg.norm(images - (values * (fit[2][:kept].T @ inside)).T, axis=1)
    good = (np.sum(inside**2, axis=0) >= PROBED) & (missed <= MISSED * np.abs(values))
    return int(np.argmin(np.append(good, False)))


def _spanned(pairs: Rows, n_pairs: int, n_features: int, center: bool, dtype: np.dtype,
             rounding: float) -> Interpolation:
    p = pairs.y.shape[1]
    _, scales, axes = np.linalg.svd(pairs.y, full_matrices=False)
    kept = numerical_rank(scales, np.finfo(np.float64).eps * max(pairs.y.shape), rounding)
    following = scales[kept] if kept < scales.size else 0.0
    if kept < rank_of(pairs.x, rounding) and scales[kept - 1] > CLEAN_GAP * following:
        return Interpolation(center, "y", min(kept + kept // 2, n_pairs, p), dtype, rank=kept)
    if n_pairs >= n_features:
        sigma = np.linalg.svd(pairs.x, compute_uv=False)
        if sigma[-1] * 1e-3 > rounding * np.linalg.norm(sigma):
            return Interpolation(center, "all", p, dtype)
        return Interpolation(center, "open", 0, dtype)
    core = pairs.x @ pairs.y.T
    ends = np.linalg.eigvalsh((core + core.T) / 2.0)[[0, -1]]
    definite = np.abs(ends).min() <= np.finfo(np.float64).eps * core.shape[0] * np.abs(ends).max()
    if ends[0] * ends[1] > 0 or definite:
        return Interpolation(center, "y", kept, dtype)
    added = n_beside(pairs.x, axes[:kept].T, dtype)
    if added and is_recursion(added, n_pairs, n_features):
        return Interpolation(center, "both", kept, dtype)
    return Interpolation(center, "open", 0, dtype)
