"""`seed` and `least_norm` on few exact pairs, against the post and dense solves."""

from __future__ import annotations

import numpy as np
import pytest
from reference import don_closed_form, least_norm_fit, nystrom, seed_hessian

from lrh_dask.errors import BadPairs
from lrh_dask.linalg.solve import Rows, rounding_of
from lrh_dask.statistics.exact_pairs import (
    common_basis,
    least_norm_eigenpairs,
    refuse_inconsistent,
    seed_eigenpairs,
)

RANK_TEN = np.array([5.0, -4.0, 3.0, 2.5, -2.0, 1.8, 1.5, -1.2, 1.1, 1.0])
SPECTRA = {"indefinite": RANK_TEN[:5], "positive": np.abs(RANK_TEN[:5]), "one": RANK_TEN[:1]}

FLOAT64 = np.dtype("float64")

def relative(got, wanted):
    return np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


def rows_in(basis, x, y):
    return Rows(np.ones(len(x)), x @ basis, y @ basis)


def hessian_by(method, x, y, *settings):
    basis = common_basis(x, y, "seed", FLOAT64)
    values, vectors = method(rows_in(basis, x, y), *settings)
    vectors = basis @ vectors
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(values.size), atol=1e-10)
    assert np.all(np.diff(np.abs(values)) <= 0)
    return (vectors * values) @ vectors.T


@pytest.mark.parametrize("n_pairs", [3, 30], ids=["few", "more than D"])
def test_the_basis_is_orthonormal_and_spans_every_x_and_y(make_pairs, n_pairs):
    pairs = make_pairs(0, n_pairs, 20, RANK_TEN)
    basis = common_basis(pairs.x, pairs.y, "seed", FLOAT64)
    assert basis.shape == (20, min(20, 2 * n_pairs))
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-14)
    for a in (pairs.x, pairs.y):
        np.testing.assert_allclose(a @ basis @ basis.T, a, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_pairs", [5, 12, 30])
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_seed_is_the_posts_formulas_and_the_nystrom_form(make_pairs, seed, n_pairs, spectrum):
    pairs = make_pairs(seed, n_pairs, 25, spectrum)
    got = hessian_by(seed_eigenpairs, pairs.x, pairs.y)
    assert relative(got, seed_hessian(pairs.x.T, pairs.y.T)) < 1e-7
    assert relative(got, nystrom(pairs.x, pairs.y, len(spectrum))) < 1e-9
    assert relative(got, pairs.hessian) < 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_seed_follows_the_post_also_where_pairs_are_fewer_than_the_rank(make_pairs, seed):
    pairs = make_pairs(seed, 4, 25, RANK_TEN)
    got = hessian_by(seed_eigenpairs, pairs.x, pairs.y)
    assert relative(got, seed_hessian(pairs.x.T, pairs.y.T)) < 1e-7
    assert relative(got, nystrom(pairs.x, pairs.y, 4)) < 1e-9
    assert relative(pairs.x @ got, pairs.y) < 1e-9
    assert relative(got, pairs.hessian) > 0.1


@pytest.mark.parametrize("noise", [1e-6, 0.1])
def test_seed_refuses_noisy_pairs_and_names_the_asymmetry_and_the_way_out(make_pairs, noise):
    pairs = make_pairs(1, 12, 25, RANK_TEN, noise=noise)
    product = pairs.x @ pairs.y.T
    found = np.linalg.norm(product - product.T) / np.linalg.norm(product)
    rows = rows_in(common_basis(pairs.x, pairs.y, "seed", FLOAT64), pairs.x, pairs.y)
    with pytest.raises(BadPairs, match=r"--method symmetric") as caught:
        refuse_inconsistent(rows, np.dtype("float64"))
    assert f"{found:.3g}" in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_seed_accepts_pairs_that_are_exact_to_their_dtype(make_pairs, dtype):
    pairs = make_pairs(2, 30, 25, RANK_TEN, dtype=dtype)
    x, y = pairs.x.astype(float), pairs.y.astype(float)
    refuse_inconsistent(rows_in(common_basis(x, y, "seed", FLOAT64), x, y), np.dtype(dtype))


def test_float32_rounding_is_noise_to_pairs_said_to_be_float64(make_pairs):
    pairs = make_pairs(2, 30, 25, RANK_TEN, dtype="float32")
    x, y = pairs.x.astype(float), pairs.y.astype(float)
    with pytest.raises(BadPairs, match="asymmetry"):
        refuse_inconsistent(rows_in(common_basis(x, y, "seed", FLOAT64), x, y), np.dtype("float64"))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("n_pairs", [2, 5, 20])
def test_least_norm_is_the_least_squares_solution_of_least_norm(make_pairs, seed, noise, n_pairs):
    pairs = make_pairs(seed, n_pairs, 9, RANK_TEN[:3], noise=noise)
    got = hessian_by(least_norm_eigenpairs, pairs.x, pairs.y)
    assert relative(got, least_norm_fit(pairs.x, pairs.y)) < 1e-9
    assert np.linalg.matrix_rank(got, tol=1e-10) <= 2 * n_pairs


@pytest.mark.parametrize("seed", range(4))
def test_least_norm_has_dons_closed_form_on_consistent_pairs(make_pairs, seed):
    pairs = make_pairs(seed, 12, 40, RANK_TEN)
    got = hessian_by(least_norm_eigenpairs, pairs.x, pairs.y)
    assert relative(got, don_closed_form(pairs.x, pairs.y)) < 1e-12
    assert relative(pairs.x @ got, pairs.y) < 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_twenty_exact_pairs_of_rank_ten_are_enough_for_seed_and_not_for_least_norm(make_pairs,
                                                                                  seed):
    pairs = make_pairs(seed, 20, 300, RANK_TEN)
    by_seed = hessian_by(seed_eigenpairs, pairs.x, pairs.y)
    by_norm = hessian_by(least_norm_eigenpairs, pairs.x, pairs.y)
    assert relative(by_seed, pairs.hessian) < 1e-13
    assert 0.90 < relative(by_norm, pairs.hessian) < 0.97
    assert relative(pairs.x @ by_norm, pairs.y) < 1e-12  # both fit every pair
    assert np.linalg.norm(by_norm) < np.linalg.norm(by_seed)


@pytest.mark.parametrize("method", [seed_eigenpairs, least_norm_eigenpairs])
def test_float32_pairs_that_depend_on_each_other_are_not_taken_for_new_ones(make_pairs, method):
    """All differences of 8 points: 28 pairs of rank 7, and of rank 28 once rounded."""
    points = make_pairs(5, 8, 50, RANK_TEN[:4], dtype="float32")
    i, j = np.triu_indices(8, 1)
    x, y = ((a[i] - a[j]).astype(float) for a in (points.x, points.y))
    wanted = hessian_by(method, x[:7], y[:7])  # the differences to the first point
    assert relative(hessian_by(method, x, y, rounding_of(np.float32, 28, 50)), wanted) < 1e-5
    assert relative(hessian_by(method, x, y), wanted) > 1.0


@pytest.mark.parametrize("method", [seed_eigenpairs, least_norm_eigenpairs])
@pytest.mark.parametrize("silent", ["x", "y"])
def test_pairs_without_curvature_have_no_eigenpairs(make_pairs, method, silent):
    pairs = make_pairs(3, 4, 12, RANK_TEN)
    x, y = (0.0 * a if name == silent else a for name, a in (("x", pairs.x), ("y", pairs.y)))
    values, vectors = method(Rows(np.ones(4), x, y))
    assert values.size == 0
    assert vectors.shape == (12, 0)


@pytest.mark.parametrize("method", ["symmetric", "least_norm"])
@pytest.mark.parametrize("rank", [5, 30])
def test_the_common_basis_is_orthonormal_and_holds_the_rows_well_apart_or_not(method, rank):
    """By Cholesky, or where rows depend on each other by Householder."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 400))
    y = rng.standard_normal((30, 400))
    y[rank:] = rng.standard_normal((30 - rank, rank)) @ y[:rank]
    y = np.logspace(0.0, -2.0, 30)[:, None] * (100.0 * y[0] + y)  # one Cholesky would not do
    g = common_basis(x, y, method, np.dtype(np.float64))
    assert g.shape == (400, 30 if method == "symmetric" else 60)
    np.testing.assert_allclose(g.T @ g, np.eye(g.shape[1]), atol=1e-13)
    for rows in (y, x) if method == "least_norm" else (y,):
        np.testing.assert_allclose(rows @ g @ g.T, rows, atol=1e-12)
