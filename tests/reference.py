"""Slow, literal versions of the formulas, to hold the fast code against.

Rows are pairs, x and y (n, D), except in :func:`seed_hessian`, which follows the post line by
line and takes its columns X, Y (D, n).
"""

from __future__ import annotations

import numpy as np


def kronecker_fit(x, y, ridge):
    """M S + S M + 2 λ M = YᵀX + XᵀY (S = XᵀX) as one dense system; least norm where singular."""
    k = x.shape[1]
    s, eye = x.T @ x, np.eye(k)
    system = np.kron(eye, s) + np.kron(s, eye) + 2.0 * ridge * np.eye(k * k)
    right = (y.T @ x + x.T @ y).ravel()
    return np.linalg.lstsq(system, right, rcond=1e-12)[0].reshape(k, k)


def least_norm_fit(x, y):
    """argmin ‖X M - Y‖ over symmetric M, of least ‖M‖: one unknown per entry of a triangle."""
    k = x.shape[1]
    units = []
    for i in range(k):
        for j in range(i, k):
            unit = np.zeros((k, k))
            unit[i, j] = unit[j, i] = 1.0 if i == j else np.sqrt(0.5)  # ‖unit‖ = 1
            units.append(unit)
    system = np.stack([(x @ unit).ravel() for unit in units], axis=1)
    weights = np.linalg.lstsq(system, y.ravel(), rcond=1e-12)[0]
    return sum(w * unit for w, unit in zip(weights, units, strict=True))


def don_closed_form(x, y):
    """Y X⁺ + (Y X⁺)ᵀ - X⁺ᵀ XᵀY X⁺, columns as pairs (Don 1987)."""
    inverse = np.linalg.pinv(x.T)
    return y.T @ inverse + (y.T @ inverse).T - inverse.T @ x @ y.T @ inverse


def nystrom(x, y, rank):
    """Y (XᵀY)⁺ Yᵀ, columns as pairs; ``rank`` is that of XᵀY."""
    u, s, vt = np.linalg.svd(x @ y.T)
    return y.T @ (vt[:rank].T / s[:rank]) @ u[:, :rank].T @ y


def gram_schmidt(columns):
    """Modified Gram-Schmidt, each column twice; what depends on earlier columns is left out."""
    basis = []
    for column in columns.T:
        rest = column.astype(np.float64)
        for _ in range(2):
            for g in basis:
                rest = rest - g * (g @ rest)
        if np.linalg.norm(rest) > 1e-10 * np.linalg.norm(column):
            basis.append(rest / np.linalg.norm(rest))
    return np.stack(basis, axis=1)


def seed_hessian(X, Y):
    """The post's H_r = U_r S_r U_rᵀ, its formulas in its order."""
    G = gram_schmidt(np.concatenate([X, Y], axis=1))
    X_hat, Y_hat = G.T @ X, G.T @ Y
    J = Y_hat @ Y_hat.T
    U_J, S_J, _ = np.linalg.svd(J)
    seen = S_J > 1e-13 * S_J[0]
    I_n = np.diag(seen.astype(float))
    S_J_pinv = np.diag(np.where(seen, 1.0 / np.where(seen, S_J, 1.0), 0.0))
    U_Jn = U_J @ I_n
    inverse_s, alpha_hat = np.linalg.eig(I_n @ S_J_pinv @ U_J.T @ Y_hat @ X_hat.T @ U_Jn)
    if np.abs(np.imag(inverse_s)).max() > 1e-8 * np.abs(inverse_s).max():
        msg = "complex eigenvalues: the pairs belong to no symmetric H"
        raise ValueError(msg)
    D = X.shape[0]
    H = np.zeros((D, D))
    for value, vector in zip(np.real(inverse_s), np.real(alpha_hat).T, strict=True):
        if abs(value) > 1e-10 * np.abs(inverse_s).max():
            u = G @ (U_Jn @ vector)
            u /= np.linalg.norm(u)
            H += np.outer(u, u) / value
    return H


def truncated(hessian, rank):
    """The ``rank`` eigenpairs of largest magnitude."""
    values, vectors = np.linalg.eigh(hessian)
    kept = np.argsort(-np.abs(values))[:rank]
    return (vectors[:, kept] * values[kept]) @ vectors[:, kept].T


def cut_in_units_of_noise(m, x, rank):
    """S^-¼ (S^¼ M S^¼)_r S^-¼, S = XᵀX."""
    squares, axes = np.linalg.eigh(x.T @ x)
    there, back = (axes * squares**power @ axes.T for power in (0.25, -0.25))
    return back @ truncated(there @ m @ there, rank) @ back


def cut_by_rank(m, x, n_terms):
    """H of rank 0..k: eigenpairs of the cut to so many terms, then those of M beside them."""
    cut = cut_in_units_of_noise(m, x, n_terms)
    values, vectors = np.linalg.eigh(cut)
    beside = vectors[:, np.argsort(-np.abs(values))[n_terms:]]
    rest = beside @ beside.T @ m @ beside @ beside.T
    return [truncated(cut, rank) if rank <= n_terms else cut + truncated(rest, rank - n_terms)
            for rank in range(len(m) + 1)]


def ridge_fit(x, y, relative_ridge):
    """argmin ‖X M - Y‖² + λ‖M‖² with λ in units of tr(XᵀX)/k, by least_norm_fit on longer rows."""
    k = x.shape[1]
    root = np.sqrt(relative_ridge * np.sum(x**2) / k)
    return least_norm_fit(np.concatenate([x, root * np.eye(k)]),
                          np.concatenate([y, np.zeros((k, k))]))


def jackknife_errors(parts, vectors, relative_ridge, *, center):
    """Delete-m_j jackknife of u_iᵀ M u_i by a refit from the pairs for each bucket left out."""
    def statistic(chosen):
        x = np.concatenate([x for x, _ in chosen])
        y = np.concatenate([y for _, y in chosen])
        if center:
            x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        m = ridge_fit(x, y, relative_ridge)
        return np.array([u @ m @ u for u in vectors.T])

    g, n = len(parts), sum(len(x) for x, _ in parts)
    full = statistic(parts)
    without = [statistic(parts[:j] + parts[j + 1:]) for j in range(g)]
    shares = [len(x) / n for x, _ in parts]
    estimate = g * full - sum((1.0 - m) * t for m, t in zip(shares, without, strict=True))
    variance = sum(
        (full / m - (1.0 / m - 1.0) * t - estimate) ** 2 / (1.0 / m - 1.0)
        for m, t in zip(shares, without, strict=True)) / g
    return np.sqrt(variance)
