"""What moves eigenvalues and is no scatter: the ridge, noise to second order, a cut basis."""

from __future__ import annotations

import numpy as np

from lrh_dask.linalg.solve import Rows, SymmetricFit, own_of_moments, symmetric_fit

__all__ = ["basis_bias", "noise_bias", "ridge_bias"]

LINKED = 4.0
"""Neighbours so many √V apart may have been one eigenvalue that noise has parted."""


def noise_bias(values: np.ndarray, scatter: np.ndarray) -> np.ndarray:
    """How far noise pushes each eigenvalue from the others (k,), signed, to second order.

    Σ_j V_ij / (s_i - s_j), each term kept below √V_ij where eigenvalues nearly meet. Within a
    cluster, eigenvalues that noise alone may have parted, the gaps seen are those that the push
    has made: of a semicircle that began in one point the sum gives half of it, so it counts twice.

    Args:
        values: (k,) eigenvalues; ``scatter``: V (k, k), see
            :func:`lrh_dask.statistics.sampling.scatter_of`.
    Source: Potters & Bouchaud 2020 (additive noise and the Hilbert transform of a spectrum).
    """
    gap = values[:, None] - values[None, :]
    square = gap**2 + scatter
    push = np.divide(scatter * gap, square, out=np.zeros_like(square), where=square > 0)
    order = np.argsort(values)
    parted = np.diff(values[order]) > LINKED * np.sqrt(scatter[order[:-1], order[1:]])
    cluster = np.empty(values.size, dtype=int)
    cluster[order] = np.concatenate([[0], np.cumsum(parted)])[:values.size]
    return np.asarray((push * (1 + (cluster[:, None] == cluster))).sum(axis=1))


def basis_bias(rows: Rows, m: np.ndarray, vectors: np.ndarray, ridge: float,
               rounding: float) -> np.ndarray:
    """How far each eigenvalue moves when the basis is halved: |uᵀ(M - M_half)u| (r,).

    What a cut basis leaves out is gone from M in the same way as what the half leaves out: an
    indication where the spectrum goes on, an excess where it ends before the basis does. Nothing
    for an eigenvector that lies mostly outside of the half: its change tells of itself only.

    Args:
        rows: pairs in the basis, its columns sorted by dominance; ``m``: their fit (k, k).
        vectors: (k, r) eigenvectors of m.
    """
    half = vectors.shape[0] // 2
    if half == 0:
        return np.full(vectors.shape[1], np.nan)
    fit = symmetric_fit(rows.x[:, :half], rows.y[:, :half], rounding, own=own_of_moments(half))
    kept = vectors[:half]
    inside = np.sum(kept**2, axis=0) > 0.5
    return inside * np.abs(np.einsum("ki,kl,li->i", vectors, m, vectors, optimize=True)
                  - np.einsum("ki,kl,li->i", kept, fit.solve(ridge), kept, optimize=True))


def ridge_bias(fit: SymmetricFit, m: np.ndarray, vectors: np.ndarray,
               ridge: float) -> np.ndarray:
    """How far the ridge has moved each eigenvalue: uᵀ(M - M at λ/100)u (r,), signed.

    Without any ridge, directions that x hardly touches would drown the shrinkage in noise.

    Args:
        m: the fit (k, k) with the ridge; ``vectors``: (k, r) its eigenvectors.
    """
    if ridge == 0:
        return np.zeros(vectors.shape[1])
    change = m - fit.solve(ridge / 100.0)
    return np.asarray(np.einsum("ki,kl,li->i", vectors, change, vectors, optimize=True))
