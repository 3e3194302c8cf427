"""The two methods that take few, noise-free pairs whole: `seed` and `least_norm`.

Pairs come as rows X, Y (n, p) in the coordinates of G, the Gram-Schmidt basis of [X Y]; both
methods return signed eigenvalues, the largest in magnitude first, and eigenvectors (p, r).
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import qr, solve_triangular

from lrh_dask.errors import BadPairs, explain
from lrh_dask.linalg.arrays import lower_factor
from lrh_dask.linalg.solve import Rows, numerical_rank, sorted_eigenpairs, symmetric_fit
from lrh_dask.statistics.interpolation import asymmetry, beside, is_recursion, n_beside

__all__ = ["common_basis", "least_norm_eigenpairs", "refuse_inconsistent", "seed_eigenpairs"]

ASYMMETRY_LIMIT = {4: 1e-4, 8: 1e-8}
"""By the bytes of a stored number: asymmetry that `seed` tolerates, noise or not."""
WELL_APART = 1e-6
"""The least relative pivot of rows' products at which two rounds of Cholesky are orthonormal."""


def common_basis(x: np.ndarray, y: np.ndarray, method: str, dtype: np.dtype) -> np.ndarray:
    """G (D, p): orthonormal columns that hold all that a method asks of the rows X, Y (n, D).

    `seed` and `least_norm` ask for [X Y], `symmetric` for Y alone, unless x is so much of
    the span of Y (Krylov) that the little it adds matters.

    Args:
        dtype: what the pairs were stored in.
    """
    n, n_features = x.shape
    if n >= n_features:
        return np.eye(n_features)
    if method == "symmetric":
        g = _orthonormal(y)
        if not is_recursion(n_beside(x, g, dtype), n, n_features):
            return g
        return np.concatenate([g, beside(x, g, dtype)], axis=1)
    if 2 * n >= n_features:
        return np.eye(n_features)
    return _orthonormal(np.concatenate([y, x]))


def _orthonormal(rows: np.ndarray) -> np.ndarray:
    """Q (D, m) of rows (m, D): by Cholesky, twice, where they are well apart; else by Householder.

    Source: Yamamoto, Nakatsukasa, Yanagisawa & Fukaya 2015 (CholeskyQR2).
    """
    q = rows
    for _ in range(2):
        root = lower_factor(q @ q.T, WELL_APART)
        if root is None:
            return np.asarray(qr(rows.T.copy(order="F"), mode="economic", overwrite_a=True,
                                 check_finite=False)[0])
        q = solve_triangular(root, q, lower=True, check_finite=False, overwrite_b=q is not rows)
    return q.T


def refuse_inconsistent(rows: Rows, dtype: np.dtype) -> None:
    """Raise unless XᵀY is symmetric to what the stored dtype can tell.

    Raises:
        BadPairs: naming the measured asymmetry.
    """
    found = asymmetry(rows)
    limit = ASYMMETRY_LIMIT[max(dtype.itemsize, 4)]
    if found > limit:
        raise BadPairs(explain(
            "method 'seed'", expected=f"pairs with XᵀY symmetric to {limit:g} ({dtype} data)",
            got=f"asymmetry ‖XᵀY - YᵀX‖/‖XᵀY‖ = {found:.3g}",
            consequence="Its eigenproblem is the regression of x on y: with noise in y its "
                        "eigenvalues turn complex and wrong",
            fix="Use `--method symmetric`, which is made for noise"))


def seed_eigenpairs(rows: Rows, rounding: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The reference post's eigenproblem, on consistent pairs.

    With J = ŶŶᵀ = U_J S_J U_Jᵀ (Ŷ = GᵀY, columns are pairs), the eigenpairs (1/s, α̂) of

        A = S_J⁺ U_Jᵀ Ŷ X̂ᵀ U_J

    give u = G U_J α̂ and H = Σ s u uᵀ. For consistent pairs A is symmetric (in the SVD
    Ŷ = U_J Σ Vᵀ it is Σ⁻¹ Vᵀ (XᵀY) V Σ⁻¹), so it is solved as such, and H equals the Nyström form
    Y (XᵀY)⁺ Yᵀ. Directions with 1/s = 0 carry no finite curvature and are left out, and
    so is what of Y lies within ``rounding`` (see :func:`lrh_dask.linalg.solve.rounding_of`).
    """
    eps = float(np.finfo(np.float64).eps)
    u_j, sigma, vt = np.linalg.svd(rows.y.T, full_matrices=False)
    keep = np.arange(sigma.size) < numerical_rank(sigma, eps * max(rows.y.shape), rounding)
    u_j, sigma, vt = u_j[:, keep], sigma[keep], vt[keep]
    a = (vt @ rows.x @ u_j) / sigma[:, None]
    inverse, alpha = np.linalg.eigh((a + a.T) / 2.0)
    finite = np.abs(inverse) > eps * inverse.size * np.abs(inverse).max(initial=0)
    return sorted_eigenpairs(1.0 / inverse[finite], u_j @ alpha[:, finite])


def least_norm_eigenpairs(rows: Rows, rounding: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The symmetric H of least Frobenius norm among the least-squares solutions; rank <= 2n.

    Where the pairs are consistent, H = YX⁺ + (YX⁺)ᵀ - X⁺ᵀXᵀYX⁺ (Don 1987). It is the symmetric
    fit without ridge over all of span [X Y]: what no pair has seen is left at zero.
    """
    m = symmetric_fit(rows.x, rows.y, rounding).solve(0.0)
    values, vectors = np.linalg.eigh(m)
    keep = np.abs(values) > np.finfo(np.float64).eps * values.size * np.abs(values).max(initial=0)
    return sorted_eigenpairs(values[keep], vectors[:, keep])
