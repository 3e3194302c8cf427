"""The ridge that makes the pairs most likely (empirical Bayes), from moments alone.

With noise of variance s² in every entry of Y and a prior M_ii ~ N(0, s²/λ), M_ij ~ N(0, s²/2λ),
the fit with ridge λ is the most likely M. In the singular coordinates of X = Z diag(σ) Pᵀ, with
B = Zᵀ Y P, every entry of M̂ meets only B_ij and B_ji, so the likelihood of λ is a sum over pairs
(i, j):  cov(B_ij, B_ji) = s² (I + v vᵀ / 2λ),  v = (σ_i, σ_j).

Held-out residual sees only what the points x excite. Where they excite the strongest curvature
least (an optimiser has settled there), it asks for too much ridge at no cost to itself; the
likelihood weighs every direction by what is known of it.
"""

from __future__ import annotations

import numpy as np

from lrh_dask.linalg.solve import eigenpairs

__all__ = ["likely_ridge"]

GRID = np.logspace(-10.0, 1.0, 45)
FACTORS = 16
"""So many factors make one logarithm; each is k / GRID[0] at most."""


def likely_ridge(s_xx: np.ndarray, s_xy: np.ndarray, y_energy: float, n_pairs: float) -> float:
    """The ridge of largest marginal likelihood, in units of tr(XᵀX)/k.

    Args:
        s_xx, s_xy: XᵀX and XᵀY (k, k).
        y_energy: ‖Y‖² inside the basis.
        n_pairs: pairs behind the moments.
    Cost: one eigendecomposition, and O(k²) for each ridge of the grid.
    Source: MacKay 1992 (the evidence framework), for symmetric M.
    """
    square, axes = eigenpairs(s_xx)
    k, scale = square.size, float(np.mean(square))
    if scale <= 0:
        return 0.0
    seen = square > np.finfo(np.float64).eps * k * max(float(square[-1]), 0.0)
    square = np.where(seen, square, 0.0)
    cross = axes.T @ s_xy @ axes                       # cross_ij = σ_i B_ij
    b = np.divide(cross, np.sqrt(square)[:, None], out=np.zeros_like(cross),
                  where=seen[:, None])
    i, j = np.triu_indices(k, 1)
    both = square[i] + square[j]
    agreed = (cross[i, j] + cross[j, i]) ** 2          # (v · b)²
    alone = np.diag(b) ** 2
    left = max(y_energy - float(np.sum(b**2)), 0.0) + float(np.sum(b[i, j]**2 + b[j, i]**2))
    starts = np.arange(0, both.size, FACTORS)
    best, most = 0.0, -np.inf
    for ridge in GRID:
        penalty = ridge * scale
        grown = 1.0 + both / (2.0 * penalty)
        squares = left - float(np.sum(agreed / grown)) / (2.0 * penalty) + float(
            np.sum(alone * penalty / (penalty + square)))
        if squares <= 0:
            continue
        likelihood = -0.5 * (n_pairs * k * np.log(squares) + float(
            np.sum(np.log(np.multiply.reduceat(grown, starts)))) + float(
                np.sum(np.log1p(square / penalty))))
        if likelihood > most:
            best, most = float(ridge), likelihood
    return best
