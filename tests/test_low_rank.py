"""The cut to low rank, against dense matrices, differences and noise drawn at random."""

from __future__ import annotations

import numpy as np
import pytest
import reference

from lrh_dask.linalg.low_rank import (
    Estimate,
    gained_by_eigenpairs,
    gained_by_terms,
    noise_variance,
    terms_of,
)
from lrh_dask.linalg.moments import Products
from lrh_dask.linalg.solve import Rows, symmetric_fit

K = 12


def graded(seed, condition, n_pairs=200, noise=0.3):
    """Pairs of an indefinite H of rank 4, x with scales from 1 to 1 / condition."""
    rng = np.random.default_rng(seed)
    axes, u = (np.linalg.qr(rng.standard_normal((K, K)))[0] for _ in range(2))
    x = rng.standard_normal((n_pairs, K)) * np.logspace(0.0, -np.log10(condition), K) @ axes
    y = x @ u[:, :4] * [2.0, -1.5, 1.0, -0.7] @ u[:, :4].T
    return x, y + noise * np.sqrt(np.mean(y**2)) * rng.standard_normal(y.shape)


def solved(x, y, ridge=0.0, **options):
    fit = symmetric_fit(x, y)
    return fit, terms_of(fit, fit.solve_in_axes(ridge), ridge, **options)


@pytest.mark.parametrize("ridge", [0.0, 0.01])
@pytest.mark.parametrize("condition", [1.0, 30.0, 1e3])
def test_the_first_terms_are_the_cut_in_units_of_noise(condition, ridge):
    x, y = graded(0, condition)
    fit, terms = solved(x, y, ridge)
    m = fit.solve(ridge)
    for rank in range(K + 1):
        u = terms.directions[:, :rank]
        np.testing.assert_allclose(u * terms.weights[:rank] @ u.T,
                                   reference.cut_in_units_of_noise(m, x, rank), atol=1e-9)


def test_where_scales_of_x_are_alike_it_is_the_cut_by_magnitude():
    rng = np.random.default_rng(1)
    x = np.linalg.qr(rng.standard_normal((100, K)))[0]
    fit, terms = solved(x, x @ np.diag(np.linspace(1.0, -2.0, K)) + rng.standard_normal(x.shape))
    for rank in range(K + 1):
        values, vectors = terms.eigenpairs(rank)
        np.testing.assert_allclose(vectors[:, :rank] * values[:rank] @ vectors[:, :rank].T,
                                   reference.truncated(fit.solve(), rank), atol=1e-12)


@pytest.mark.parametrize("n_terms", [0, 1, 4, K])
def test_eigenpairs_are_those_of_the_cut_and_of_what_is_beside_it(n_terms):
    x, y = graded(2, 100.0)
    fit, terms = solved(x, y)
    values, vectors = terms.eigenpairs(n_terms)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(K), atol=1e-12)
    cut = reference.cut_in_units_of_noise(fit.solve(), x, n_terms)
    first, rest = vectors[:, :n_terms], vectors[:, n_terms:]
    np.testing.assert_allclose(first * values[:n_terms] @ first.T, cut, atol=1e-9)
    np.testing.assert_allclose(rest.T @ fit.solve() @ rest, np.diag(values[n_terms:]), atol=1e-9)
    for part in (values[:n_terms], values[n_terms:]):
        assert np.all(np.diff(np.abs(part)) <= 0)


def test_exact_pairs_are_cut_by_magnitude_and_semidefinite_ones_have_no_negative_terms():
    x, y = graded(3, 100.0)
    fit, by_magnitude = solved(x, y, noisy=False)
    values = np.linalg.eigvalsh(fit.solve())
    np.testing.assert_allclose(by_magnitude.weights, values[np.argsort(-np.abs(values))])
    psd, both = solved(x, y, psd=True)[1], solved(x, y)[1]
    np.testing.assert_allclose(psd.weights[psd.weights > 0], both.weights[both.weights > 0])
    assert np.all(psd.weights >= 0)
    assert np.any(both.weights < 0)


@pytest.mark.parametrize("condition", [1.0, 1e3])
def test_gains_are_what_each_cut_takes_off_the_squares_of_other_pairs(condition):
    x, y = graded(4, condition)
    others = [graded(seed, condition, 30) for seed in (4, 5)]
    terms = solved(x, y)[1]
    for x, y in others:
        of_set = gained_by_terms(terms.weights, terms.directions, Products(x.T @ x, x.T @ y))
        for rank in range(K + 1):
            h = terms.directions[:, :rank] * terms.weights[:rank] @ terms.directions[:, :rank].T
            assert of_set[rank] == pytest.approx(np.sum(y**2) - np.sum((y - x @ h) ** 2), abs=1e-9)


def test_gains_of_eigenpairs_are_those_of_terms_that_share_nothing():
    x, y = graded(4, 30.0)
    values, vectors = solved(x, y)[1].eigenpairs(3)
    others = Products(x.T @ x, x.T @ y)
    np.testing.assert_allclose(gained_by_eigenpairs(values, vectors, others),
                               gained_by_terms(values, vectors, others), atol=1e-9)


@pytest.mark.parametrize(("n_terms", "noise"), [(4, 0.0), (K, 0.1)])
def test_to_first_order_eigenvalues_of_the_cut_move_as_they_are_said_to(n_terms, noise):
    x, y = graded(6, 30.0, noise=noise)
    fit, terms = solved(x, y)
    m, step = fit.solve_in_axes(), 1e-6
    change = np.random.default_rng(0).standard_normal((K, K))
    change += change.T
    values, vectors = terms.eigenpairs(n_terms)
    there, back = (np.sort(terms_of(fit, m + sign * step * change, 0.0).eigenpairs(
        n_terms)[0][:n_terms]) for sign in (1.0, -1.0))
    u, c = (fit.axes.T @ v[:, :n_terms] for v in (vectors, terms.unmoved(vectors, n_terms)))
    found = np.sum(u * (change @ u), axis=0) - np.sum(c * (change @ c), axis=0)
    order = np.argsort(values[:n_terms])
    np.testing.assert_allclose(found[order], (there - back) / (2.0 * step), rtol=1e-5, atol=1e-5)
    if n_terms < K:  # and not as those of M would
        assert np.max(np.abs(c)) > 0.01


@pytest.mark.parametrize("ridge", [0.0, 0.001])
def test_the_variance_of_an_eigenvalue_of_the_cut_is_that_over_stores(ridge):
    """Noise alone differs. Of M itself they would vary by up to twice as much."""
    rng = np.random.default_rng(7)
    x, clean = graded(7, 30.0, 400, noise=0.0)
    fit, terms = solved(x, clean, ridge)
    values, vectors = terms.eigenpairs(4)
    share = Estimate(np.eye(K), Rows(np.ones(len(x)), x, clean), fit, ridge, fit.solve(ridge),
                     terms, 4, values, vectors).share_of_variance()
    of_m, of_cut = [], []
    for _ in range(600):
        fit, terms = solved(x, clean + 0.01 * rng.standard_normal(clean.shape), ridge)
        m = fit.solve(ridge)
        of_m.append(np.sum(vectors[:, :4] * (m @ vectors[:, :4]), axis=0))
        of_cut.append(terms.eigenpairs(4)[0][:4])
    np.testing.assert_allclose(np.var(of_cut, axis=0) / np.var(of_m, axis=0), share[:4], rtol=0.1)
    assert share[:4].min() < 0.6
    assert np.all(share[4:] == 1.0)


@pytest.mark.parametrize("condition", [1.0, 100.0, 1e6])
def test_noise_alone_reaches_its_edge_and_not_far_beyond(condition):
    """Beyond it is seldom more than one term: what is largest of many scatters about the edge."""
    k, farthest, beyond = 40, [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((400, k)) * np.logspace(0.0, -np.log10(condition), k)
        terms = solved(x, 3.0 * rng.standard_normal(x.shape))[1]
        edges = 3.0 * np.sqrt((terms.inner**2).T @ terms.reach**2)
        farthest.append(np.max(np.abs(terms.weights) / edges))
        beyond.append(terms.n_beyond(9.0))
    assert 0.9 < np.mean(farthest) < 1.0
    assert max(beyond) <= 2
    assert np.mean(beyond) < 0.5


def test_the_variance_of_noise_counts_what_the_fit_has_taken_for_itself():
    """At three pairs a column that is a sixth."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x, y = rng.standard_normal((60, 20)), 3.0 * rng.standard_normal((60, 20))
        left = np.sum((y - x @ symmetric_fit(x, y).solve()) ** 2)
        found.append(noise_variance(left, 60, 20))
    assert np.mean(found) == pytest.approx(9.0, rel=0.02)


def test_terms_without_any_x_are_zero():
    fit, terms = solved(np.zeros((5, 3)), np.ones((5, 3)))
    assert np.all(terms.weights == 0)
    assert terms.n_beyond(1.0) == 0
    assert terms.n_visible(1.0, 1.0) == 0


@pytest.mark.parametrize("noise", [1e-3, 0.1])
def test_curvature_is_visible_along_the_axes_where_it_stands_out_from_noise(noise):
    """Of one curvature along one axis at a time: most often told from noise where it should be."""
    scales = np.r_[np.logspace(0.0, -5.0, K - 2), 0.0, 0.0]
    found, told = [], np.zeros(K)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((400, K)) * scales
        for axis in range(K):
            y = np.zeros_like(x)
            y[:, axis] = x[:, axis]
            y += noise * rng.standard_normal(x.shape)
            terms = solved(x, y)[1]
            found.append(terms.n_visible(1.0, noise**2))
            told[axis] += terms.n_beyond(noise**2) > 0 and np.argmax(
                np.abs(terms.directions[:, 0] * np.sqrt(np.abs(terms.weights[0])))) == axis
    assert abs(np.mean(found) - np.count_nonzero(told > 10)) < 1.0
    assert np.mean(found) < K - 2
