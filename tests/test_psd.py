"""The semidefinite fit, against a literal projected gradient and its optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest

import lrh_dask
from lrh_dask.linalg import psd
from lrh_dask.linalg.psd import semidefinite_solve
from lrh_dask.linalg.solve import symmetric_fit

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def rows(seed, n, k, noise, condition=1.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, k)) * np.logspace(0, -np.log10(condition), k)
    m = rng.standard_normal((k, 2))
    y = x @ (m @ m.T)
    return x, y + noise * np.sqrt(np.mean(y**2)) * rng.standard_normal(y.shape)


def objective(x, y, m, ridge):
    return np.sum((x @ m - y) ** 2) + ridge * np.sum(x**2) / x.shape[1] * np.sum(m**2)


def plain_descent(x, y, ridge, steps=20_000):
    """M <- (M - gradient / L) with its negative eigenvalues cut, many times."""
    penalty = ridge * np.sum(x**2) / x.shape[1]
    s, t = x.T @ x, x.T @ y
    rate = 0.5 / (np.linalg.eigvalsh(s)[-1] + penalty)
    m = np.zeros_like(s)
    for _ in range(steps):
        gradient = s @ m + m @ s - t - t.T + 2.0 * penalty * m
        values, vectors = np.linalg.eigh(m - rate * gradient)
        m = (vectors * np.maximum(values, 0)) @ vectors.T
    return m


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_least_of_all_semidefinite_fits(seed, ridge):
    x, y = rows(seed, 12, 6, noise=1.0)
    (m, settled), plain = semidefinite_solve(symmetric_fit(x, y), ridge), plain_descent(x, y, ridge)
    assert settled
    assert np.linalg.eigvalsh(symmetric_fit(x, y).solve(ridge))[0] < -1e-3  # the cone matters
    assert np.linalg.eigvalsh(m)[0] > -1e-12
    assert objective(x, y, m, ridge) <= objective(x, y, plain, ridge) * (1 + 1e-9)
    np.testing.assert_allclose(m, plain, atol=1e-6 * np.linalg.norm(plain))


@pytest.mark.parametrize("explored", [3, 4])
@pytest.mark.parametrize(("noise", "ridge"), [(0.0, 0.0), (0.1, 0.0), (0.1, 1e-2)])
def test_what_x_shares_with_directions_it_leaves_unexplored_is_fitted(explored, noise, ridge):
    """Semidefinite completions exist: cutting the cross terms to zero would lose most of y."""
    x, y = rows(3, 20, 6, noise=0.0)
    inside = np.linalg.qr(np.random.default_rng(0).standard_normal((6, explored)))[0]
    h = np.linalg.lstsq(x, y, rcond=None)[0]
    x = x @ inside @ inside.T
    y = x @ h + noise * np.std(y) * np.random.default_rng(1).standard_normal(y.shape)
    m, _ = semidefinite_solve(symmetric_fit(x, y), ridge)
    assert np.linalg.eigvalsh(m)[0] > -1e-9 * np.linalg.norm(m)
    least = objective(x, y, plain_descent(x, y, ridge), ridge)
    assert objective(x, y, m, ridge) <= 1.001 * least + 1e-6 * np.sum(y**2)


@pytest.mark.parametrize("condition", [1.0, 1e3])
def test_no_semidefinite_direction_improves_it(condition):
    """Optimality: the gradient is ⪰ 0 and meets M at zero."""
    x, y = rows(5, 30, 8, noise=1.0, condition=condition)
    m, settled = semidefinite_solve(symmetric_fit(x, y))
    assert settled
    scale = np.diag(1.0 / np.sqrt(np.diag(x.T @ x)))
    gradient = x.T @ (x @ m - y)
    gradient = scale @ (gradient + gradient.T) @ scale * np.sqrt(np.sum(x**2))
    size = np.linalg.norm(scale @ (x.T @ y) @ scale) * np.sqrt(np.sum(x**2))
    assert np.linalg.eigvalsh(gradient)[0] > -1e-6 * size
    assert abs(np.sum(x.T @ (x @ m - y) * m)) < 1e-6 * np.sum(y**2)


def test_the_held_out_residual_is_that_of_the_semidefinite_fit():
    """x in a few directions: cutting negative eigenvalues off instead would tell of another H."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((300, 6)) @ rng.standard_normal((6, 40))
        u = rng.standard_normal((40, 5))
        y = x @ u @ u.T
        y += 0.05 * np.std(y) * rng.standard_normal(y.shape)
        certificates = lrh_dask.fit(lrh_dask.Pairs(x, y), rank=12, psd=True).certificates
        assert 0.7 < certificates.held_out_residual / certificates.residual < 2.0


def test_a_fit_that_is_semidefinite_already_is_returned():
    x, y = rows(1, 40, 6, noise=0.0)
    fit = symmetric_fit(x, y)
    np.testing.assert_allclose(semidefinite_solve(fit)[0], fit.solve(), atol=1e-12)


@pytest.mark.parametrize("n_pairs", [
    40, 600, pytest.param(120, marks=pytest.mark.long)])
def test_for_a_semidefinite_hessian_psd_is_not_worse(make_pairs, n_pairs):
    squares = {True: 0.0, False: 0.0}
    for seed in range(6):
        pairs = make_pairs(seed, n_pairs, 20, [1.0, 0.6, 0.3, 0.1], noise=1.0)
        for constrained in squares:
            hessian = lrh_dask.fit(lrh_dask.Pairs(pairs.x, pairs.y), rank=4, psd=constrained)
            squares[constrained] += np.sum((hessian.to_dense() - pairs.hessian) ** 2)
            assert not constrained or (hessian.eigenvalues >= 0).all()
    assert squares[True] <= squares[False] * 1.01


def test_the_fit_of_a_user_is_the_dense_reference():
    x, y = rows(7, 60, 6, noise=1.0)
    hessian = lrh_dask.fit(lrh_dask.Pairs(x, y), rank=6, psd=True, center=False)
    assert hessian.rank < 6  # the cone matters: what it cuts is no eigenpair
    plain = plain_descent(x, y, hessian.certificates.ridge)
    np.testing.assert_allclose(hessian.to_dense(), plain, atol=1e-6 * np.linalg.norm(plain))


def test_a_fit_that_has_not_settled_says_so(monkeypatch):
    x, y = rows(5, 300, 30, noise=1.0)
    monkeypatch.setattr(psd, "MAX_STEPS", 2)
    hessian = lrh_dask.fit(lrh_dask.Pairs(x, y), rank=30, psd=True)
    assert any("has not settled" in notice for notice in hessian.provenance["notices"])
