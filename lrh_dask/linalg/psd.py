"""Symmetric least squares for users who know that H has no negative curvature.

    M = argmin over M ⪰ 0 of ‖X M - Y‖² + λ‖M‖²

In the singular coordinates of X, with τ_i² = σ_i² + λ, the unknown is N with
M̂_ij = N_ij / √(τ_i τ_j): it is semidefinite where M is, and the problem becomes

    ½ Σ W_ij N_ij² - Σ T_ij N_ij,   W_ij = τ_i / τ_j + τ_j / τ_i,
                                     T_ij = (C_ij σ_j + C_ji σ_i) / √(τ_i τ_j)

whose condition is that of τ, not its square. A fast projected gradient, the projection cutting
negative eigenvalues, solves it.
"""

from __future__ import annotations

import numpy as np

from lrh_dask.linalg.solve import SymmetricFit

__all__ = ["semidefinite_solve"]

MAX_STEPS = 2000
TOLERANCE = 1e-12
LEAST_RIDGE = 1e-8
"""Where x leaves directions unexplored only a ridge gives the problem a solution."""


def semidefinite_solve(fit: SymmetricFit, ridge: float = 0.0) -> tuple[np.ndarray, bool]:
    """M ⪰ 0 (k, k) for a ridge relative to the mean square of σ, and whether it has settled.

    Where the unconstrained M is semidefinite, it is returned.

    Cost: one eigendecomposition of (k, k) a step; some hundred steps at condition 1e3, and
    MAX_STEPS, unsettled, far beyond.
    Source: Gillis & Sharma 2018; restarts by O'Donoghue & Candès 2015.
    """
    free = fit.solve(ridge)
    lowest = float(np.linalg.eigvalsh(free)[0]) if free.size else 0.0
    if lowest >= -1e-14 * np.linalg.norm(free):
        return free, True
    if not np.all(fit.sigma > fit.floor):
        ridge = max(ridge, LEAST_RIDGE)
    tau = np.sqrt(fit.sigma**2 + ridge * fit.scale)
    root = np.sqrt(np.outer(tau, tau))
    weight = tau[:, None] / tau[None, :] + tau[None, :] / tau[:, None]
    target = fit.numerator / root
    rate = 1.0 / float(weight.max())
    here = ahead = _projected(target / weight)
    momentum, settled = 1.0, False
    for _ in range(MAX_STEPS):
        following = _projected(ahead - rate * (weight * ahead - target))
        step = following - here
        if np.linalg.norm(step) <= TOLERANCE * np.linalg.norm(following):
            here, settled = following, True
            break
        if np.sum((ahead - following) * step) > 0:
            momentum = 1.0
        after = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum**2))
        ahead = following + (momentum - 1.0) / after * step
        here, momentum = following, after
    return fit.axes @ (here / root) @ fit.axes.T, settled


def _projected(n: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(n)
    return (vectors * np.maximum(values, 0.0)) @ vectors.T
