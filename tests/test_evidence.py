"""The likely ridge, against the likelihood of the pairs written out."""

from __future__ import annotations

import numpy as np
import pytest

from lrh_dask.statistics import evidence
from lrh_dask.statistics.evidence import likely_ridge


def log_likelihood(x, y, relative_ridge):
    """log N(vec Y; 0, s²(I + A Aᵀ/λ)) with s² at its maximum; A maps unit matrices to X M."""
    n, k = x.shape
    penalty = relative_ridge * np.sum(x**2) / k
    columns = []
    for i in range(k):
        for j in range(i, k):
            unit = np.zeros((k, k))
            unit[i, j] = unit[j, i] = 1.0 if i == j else np.sqrt(0.5)
            columns.append((x @ unit).ravel())
    a = np.stack(columns, axis=1)
    covariance = np.eye(n * k) + a @ a.T / penalty
    squares = y.ravel() @ np.linalg.solve(covariance, y.ravel())
    return -0.5 * (n * k * np.log(squares) + np.linalg.slogdet(covariance)[1])


@pytest.mark.parametrize("n_pairs", [3, 12], ids=["fewer pairs than columns", "more"])
@pytest.mark.parametrize("seed", range(4))
def test_the_likely_ridge_maximises_the_likelihood_of_the_pairs(n_pairs, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n_pairs, 5)) * [3.0, 1.0, 1.0, 0.3, 0.1]
    m = rng.standard_normal((5, 5))
    y = x @ (m + m.T) + rng.standard_normal((n_pairs, 5))
    wanted = max(evidence.GRID, key=lambda ridge: log_likelihood(x, y, ridge))
    assert likely_ridge(x.T @ x, x.T @ y, float(np.sum(y**2)), n_pairs) == wanted


def test_more_noise_asks_for_more_ridge():
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 200, 8))
    m = rng.standard_normal((8, 8))
    found = []
    for size in (0.1, 1.0, 10.0):
        y = x @ (m + m.T) + size * noise
        found.append(likely_ridge(x.T @ x, x.T @ y, float(np.sum(y**2)), 200))
    assert found == sorted(found)
    assert found[0] < found[1] < found[2]
