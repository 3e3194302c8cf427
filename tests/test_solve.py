"""Symmetric least squares, against dense solves that follow its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import kronecker_fit, least_norm_fit, ridge_fit

from lrh_dask.linalg.gathering import reduce_to_triangle
from lrh_dask.linalg.solve import (
    Rows,
    center_rows,
    fit_from_moments,
    leading_directions,
    rounding_of,
    symmetric_fit,
)


def relative(got, wanted):
    return np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


def noisy_rows(seed, n_rows, k):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n_rows, k)), rng.standard_normal((n_rows, k))


@given(seed=st.integers(0, 2**16), n_rows=st.integers(1, 14), k=st.integers(1, 7),
       ridge=st.sampled_from([1e-4, 1e-2, 1.0, 100.0]))
def test_a_fit_with_ridge_solves_the_matrix_equation(seed, n_rows, k, ridge):
    x, y = noisy_rows(seed, n_rows, k)
    m = symmetric_fit(x, y).solve(ridge)
    absolute = ridge * np.sum(x**2) / k
    np.testing.assert_allclose(m, kronecker_fit(x, y, absolute), atol=1e-9 * np.abs(m).max())
    np.testing.assert_allclose(m, ridge_fit(x, y, ridge), atol=1e-9 * np.abs(m).max())


@given(seed=st.integers(0, 2**16), n_rows=st.integers(1, 14), k=st.integers(1, 7))
def test_a_fit_without_ridge_is_the_least_squares_solution_of_least_norm(seed, n_rows, k):
    x, y = noisy_rows(seed, n_rows, k)
    m = symmetric_fit(x, y).solve()
    wanted = least_norm_fit(x, y)
    np.testing.assert_allclose(m, m.T, atol=1e-12 * np.abs(m).max())
    size = 1e-11 * np.linalg.cond(x) * np.abs(wanted).max()
    np.testing.assert_allclose(m, wanted, atol=size)


def test_an_underdetermined_fit_has_nothing_where_no_pair_has_looked(make_pairs):
    pairs = make_pairs(0, 5, 12, [3.0, -2.0, 1.0])
    m = symmetric_fit(pairs.x, pairs.y).solve()
    unseen = np.linalg.svd(pairs.x)[2][5:].T
    np.testing.assert_allclose(unseen.T @ m @ unseen, 0.0, atol=1e-14)
    np.testing.assert_allclose(pairs.x @ m, pairs.y, atol=1e-13)  # and yet it fits every pair
    assert relative(m, kronecker_fit(pairs.x, pairs.y, 0.0)) < 1e-10


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_repeated_and_dependent_pairs_do_not_spoil_the_fit(make_pairs, ridge):
    pairs = make_pairs(1, 6, 10, [3.0, -2.0, 1.0], noise=0.5)
    mix = np.random.default_rng(0).standard_normal((30, 6))
    x, y = np.concatenate([pairs.x, mix @ pairs.x]), np.concatenate([pairs.y, mix @ pairs.y])
    got = symmetric_fit(x, y).solve(ridge)
    assert relative(got, ridge_fit(x, y, ridge)) < 1e-10


@pytest.mark.parametrize("shape", [(0, 4), (3, 4), (9, 4)])
def test_points_that_are_all_zero_say_nothing(shape):
    fit = symmetric_fit(np.zeros(shape), np.ones(shape))
    for ridge in (0.0, 0.1):
        np.testing.assert_array_equal(fit.solve(ridge), np.zeros((4, 4)))


@pytest.mark.parametrize("seed", range(4))
def test_the_error_grows_with_the_condition_and_not_with_its_square(make_pairs, seed):
    spectrum = np.linspace(1.0, 2.0, 20) * (-1.0) ** np.arange(20)
    pairs = make_pairs(seed, 200, 20, spectrum, condition=1e5)
    x, y = pairs.x, pairs.y
    assert relative(symmetric_fit(x, y).solve(), pairs.hessian) < 1e-12
    assert relative(kronecker_fit(x, y, 0.0), pairs.hessian) > 1e-9
    assert relative(fit_from_moments(x.T @ x, x.T @ y).solve(), pairs.hessian) > 1e-9


@pytest.mark.parametrize("n_rows", [4, 30])
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_moments_give_the_same_fit_where_x_is_well_conditioned(n_rows, ridge):
    x, y = noisy_rows(3, n_rows, 8)
    got = fit_from_moments(x.T @ x, x.T @ y).solve(ridge)
    assert relative(got, symmetric_fit(x, y).solve(ridge)) < 1e-10


def test_a_fit_in_its_own_axes_is_the_fit_turned():
    fit = symmetric_fit(*noisy_rows(4, 20, 6))
    turned = fit.axes.T @ fit.solve(0.1) @ fit.axes
    np.testing.assert_allclose(fit.solve_in_axes(0.1), turned, atol=1e-13)


def test_scaling_x_and_y_together_changes_nothing():
    x, y = noisy_rows(5, 20, 6)
    for ridge in (0.0, 1e-2):
        assert relative(symmetric_fit(1e-8 * x, 1e-8 * y).solve(ridge),
                        symmetric_fit(x, y).solve(ridge)) < 1e-12


def test_float32_pairs_that_depend_on_each_other_are_not_taken_for_new_ones(make_pairs):
    """All differences of 8 points: 28 pairs of rank 7, and of rank 28 once rounded."""
    points = make_pairs(5, 8, 50, [5.0, -4.0, 3.0, 2.0], dtype="float32")
    i, j = np.triu_indices(8, 1)
    x, y = ((a[i] - a[j]).astype(float) for a in (points.x, points.y))
    wanted = least_norm_fit(x[:7], y[:7])  # the differences to the first point
    assert relative(symmetric_fit(x, y, rounding_of(np.float32, 28, 50)).solve(), wanted) < 1e-5
    assert relative(symmetric_fit(x, y).solve(), wanted) > 1.0


def test_a_triangle_is_fitted_as_its_pairs(make_pairs):
    pairs = make_pairs(6, 60, 7, [2.0, -1.0], noise=0.3)
    rows = Rows.of(reduce_to_triangle(pairs.x, pairs.y))
    assert relative(symmetric_fit(rows.x, rows.y).solve(0.01),
                    symmetric_fit(pairs.x, pairs.y).solve(0.01)) < 1e-12


def test_an_offset_is_fitted_by_taking_off_the_means(make_pairs):
    pairs = make_pairs(7, 40, 5, [2.0, -1.0], noise=0.3, offset=20.0)
    rows = Rows.stack([Rows.of(reduce_to_triangle(x, y)) for x, y in
                       zip(np.split(pairs.x, 2), np.split(pairs.y, 2), strict=True)])
    centred = center_rows(rows, rows.means())
    np.testing.assert_allclose(rows.means()[1], pairs.y.mean(axis=0), atol=1e-12)
    x, y = pairs.x - pairs.x.mean(axis=0), pairs.y - pairs.y.mean(axis=0)
    assert relative(symmetric_fit(centred.x, centred.y).solve(), least_norm_fit(x, y)) < 1e-10


def test_means_are_weighted(make_pairs):
    pairs = make_pairs(8, 20, 5, [2.0], offset=1.0)
    weight = 1.0 + np.arange(20)
    mean_x, mean_y = Rows.of(reduce_to_triangle(pairs.x, pairs.y, weight=weight)).means()
    np.testing.assert_allclose(mean_x, np.average(pairs.x, axis=0, weights=weight), atol=1e-13)
    np.testing.assert_allclose(mean_y, np.average(pairs.y, axis=0, weights=weight), atol=1e-13)


@pytest.mark.parametrize("n_rows", [12, 90], ids=["wide", "tall"])
def test_leading_directions_capture_the_most_there_is(n_rows):
    y = np.random.default_rng(9).standard_normal((n_rows, 30)) * 0.8 ** np.arange(30)
    w = leading_directions(y, 5)
    np.testing.assert_allclose(w.T @ w, np.eye(5), atol=1e-13)
    assert np.sum((y @ w) ** 2) == pytest.approx(
        np.sum(np.linalg.svd(y, compute_uv=False)[:5] ** 2))
    assert np.all(np.diff(np.linalg.norm(y @ w, axis=0)) < 0)


def test_projecting_rows_projects_x_and_y(rotation):
    x, y = noisy_rows(10, 4, 6)
    rows, directions = Rows(np.ones(4), x, y), rotation(0, 6)[:, :2]
    projected = rows.project(directions)
    np.testing.assert_array_equal(projected.x, x @ directions)
    np.testing.assert_array_equal(projected.y, y @ directions)
