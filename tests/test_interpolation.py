"""Pairs without noise: which basis they call for, and what bears a result out."""

from __future__ import annotations

import numpy as np
import pytest

import lrh_dask
from lrh_dask.linalg.solve import Rows, rounding_of, symmetric_fit
from lrh_dask.statistics.interpolation import (
    beside,
    interpolation,
    n_beside,
    n_borne_out,
    spanning_directions,
)

FLOAT64 = np.dtype("float64")


def rows_of(x, y):
    return Rows(np.ones(len(x)), x.astype(float), y.astype(float))


def wanted(x, y, *, center=None, dtype=FLOAT64):
    return interpolation(rows_of(x, y), *x.shape, center=center, dtype=dtype,
                         rounding=rounding_of(dtype, *x.shape))


def krylov(hessian, n_pairs, block=4, seed=0):
    """Each x is the orthonormalised last y."""
    x = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(hessian), block)))[0]
    xs, ys = [], []
    for _ in range(n_pairs // block):
        xs.append(x)
        ys.append(hessian @ x)
        x = np.linalg.qr(ys[-1])[0]
    return np.concatenate(xs, axis=1).T, np.concatenate(ys, axis=1).T


def slow(n_features):
    values = 1.0 / np.arange(1, n_features + 1)
    return np.where(np.arange(n_features) % 3 == 2, -values, values)


@pytest.mark.parametrize("noise", [1e-8, 1e-3])
def test_noisy_pairs_are_not_interpolated(make_pairs, noise):
    pairs = make_pairs(0, 40, 60, [3.0, -2.0, 1.0], noise=noise)
    assert wanted(pairs.x, pairs.y) is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_exact_rank_is_seen_by_its_gap(make_pairs, dtype):
    pairs = make_pairs(0, 40, 60, [3.0, -2.0, 1.0], dtype=dtype)
    found = wanted(pairs.x, pairs.y, dtype=np.dtype(dtype))
    assert (found.span, found.rank, found.n_basis, found.center) == ("y", 3, 4, False)


def test_an_offset_is_seen_by_what_it_breaks(make_pairs):
    pairs = make_pairs(0, 40, 60, [3.0, -2.0, 1.0], offset=1.0)
    assert wanted(pairs.x, pairs.y).center
    assert wanted(pairs.x, pairs.y, center=False) is None


def test_as_many_pairs_as_features_determine_everything(make_pairs):
    pairs = make_pairs(0, 70, 60, slow(60))
    assert wanted(pairs.x, pairs.y).span == "all"


def test_a_definite_hessian_takes_every_direction_of_y(make_pairs):
    """Y(XᵀY)⁺Yᵀ is stable then: better than any smaller basis."""
    pairs = make_pairs(0, 30, 60, np.abs(slow(60)))
    found = wanted(pairs.x, pairs.y)
    assert (found.span, found.n_basis) == ("y", 30)


def test_an_indefinite_slow_spectrum_is_left_to_held_out_pairs(make_pairs):
    pairs = make_pairs(0, 30, 60, slow(60))
    assert wanted(pairs.x, pairs.y).span == "open"


@pytest.mark.parametrize("seed", range(3))
def test_krylov_pairs_take_what_x_and_y_span_together(rotation, seed):
    u = rotation(seed, 200)
    hessian = (u * slow(200)) @ u.T
    x, y = krylov(hessian, 40, seed=seed)
    found = wanted(x, y)
    assert found.span == "both"
    rows = rows_of(x, y)
    q = spanning_directions(rows, found, 0.0)
    np.testing.assert_allclose(q.T @ q, np.eye(q.shape[1]), atol=1e-12)
    assert 40 < q.shape[1] <= 44
    projected = rows.project(q)
    values, vectors = np.linalg.eigh(symmetric_fit(projected.x, projected.y).solve())
    order = np.argsort(-np.abs(values))
    values, vectors = values[order], vectors[:, order]
    n = n_borne_out(projected, values, vectors, 0.0)
    truth = slow(200)[np.argsort(-np.abs(slow(200)))]
    assert n >= 10
    np.testing.assert_allclose(values[:n], truth[:n], rtol=0.02)
    assert np.abs(values[-1] / truth[len(values) - 1] - 1) > 0.02  # and those beyond are not


def test_what_x_adds_is_orthonormal_and_orthogonal(make_pairs, rotation):
    directions = rotation(1, 20)[:, :6]
    x = make_pairs(0, 4, 20, [1.0]).x
    added = beside(x, directions, FLOAT64)
    joint = np.concatenate([directions, added], axis=1)
    np.testing.assert_allclose(joint.T @ joint, np.eye(10), atol=1e-12)
    assert beside(x @ directions @ directions.T, directions, FLOAT64).shape == (20, 0)


def test_few_directions_of_x_are_no_rank_of_the_hessian(rotation):
    """x in 5 dimensions, H of rank 60: y has 5 directions because x has."""
    x = np.random.default_rng(0).standard_normal((200, 5)) @ rotation(3, 60)[:5]
    u = rotation(4, 60)
    found = wanted(x, x @ ((u * slow(60)) @ u.T))
    assert found.rank is None


def test_fewer_directions_of_y_than_of_x_are_the_rank(make_pairs):
    pairs = make_pairs(0, 12, 60, np.linspace(2.0, 1.0, 10))
    assert wanted(pairs.x, pairs.y).rank == 10
    assert wanted(pairs.x[:10], pairs.y[:10]).rank is None  # definite, and no pair to spare


@pytest.mark.parametrize("n_pairs", [60, 70, 200])
def test_pairs_that_span_the_space_keep_every_eigenvalue_above_their_rounding(make_pairs, n_pairs):
    """Leaving some out proves nothing where the rest do not span it: the pairs themselves do."""
    truth = 0.6 ** np.arange(60) * np.where(np.arange(60) % 3 == 2, -1.0, 1.0)
    pairs = make_pairs(0, n_pairs, 60, truth, dtype="float32")
    hessian = lrh_dask.fit(lrh_dask.Pairs(pairs.x, pairs.y))
    assert hessian.certificates.verdict is lrh_dask.Verdict.converged
    assert 16 <= hessian.rank < 40     # 0.6^16 = 3e-4, 0.6^40 = 1e-9
    np.testing.assert_allclose(hessian.eigenvalues, truth[:hessian.rank], rtol=0.1)
    asked = lrh_dask.fit(lrh_dask.Pairs(pairs.x, pairs.y), rank=3)
    assert asked.certificates.verdict is lrh_dask.Verdict.rank_limited


@pytest.mark.parametrize("n_pairs", [10, 30])
def test_of_a_semidefinite_hessian_no_cut_is_nearer_than_all_that_was_found(make_pairs, n_pairs):
    pairs = make_pairs(0, n_pairs, 60, np.abs(slow(60)))
    found = lrh_dask.fit(lrh_dask.Pairs(pairs.x, pairs.y))
    assert (found.rank, found.certificates.verdict) == (n_pairs, lrh_dask.Verdict.underdetermined)
    u, s = found.eigenvectors, found.eigenvalues
    above = np.linalg.eigvalsh(pairs.hessian - (u * s) @ u.T)
    assert above.min() > -1e-12        # H ⪰ M
    errors = [np.linalg.norm(pairs.hessian - (u[:, :r] * s[:r]) @ u[:, :r].T)
              for r in range(n_pairs + 1)]
    assert np.argmin(errors) == n_pairs


def test_as_many_pairs_as_the_rank_of_a_semidefinite_hessian_give_it_all(make_pairs):
    pairs = make_pairs(0, 10, 60, np.linspace(2.0, 1.0, 10))
    found = lrh_dask.fit(lrh_dask.Pairs(pairs.x, pairs.y))
    np.testing.assert_allclose(found.to_dense(), pairs.hessian, atol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n_pairs", "n_features"), [(300, 20), (45, 60)])
@pytest.mark.parametrize("rank", [8, 12, 20])
def test_more_eigenvalues_than_exact_pairs_have_are_not_made_up(make_pairs, rank, n_pairs,
                                                                n_features, dtype):
    truth = [3.0, 2.0, 1.0, 1.0, 0.5]
    pairs = make_pairs(0, n_pairs, n_features, truth, dtype=dtype)
    found = lrh_dask.fit(lrh_dask.Pairs(pairs.x, pairs.y), rank=rank)
    assert 5 <= found.rank <= 8
    assert any(f"rank {rank} was asked for; the pairs show {found.rank}" in said
               for said in found.provenance["notices"]) == (found.rank < rank)
    np.testing.assert_allclose(found.eigenvalues[:5], truth, rtol=1e-5)
    assert "saddle" not in found.curvature
    assert "not a minimum" not in found.curvature


@pytest.mark.parametrize("method", ["symmetric", "least_norm"])
def test_rounding_turns_no_sign(make_pairs, method):
    """Eigenvalues beyond the rank of a positive H are of any sign, and tiny."""
    for seed in range(4):
        pairs = make_pairs(seed, 25, 20, np.linspace(2.0, 0.5, 10), dtype="float32")
        found = lrh_dask.fit(lrh_dask.Pairs(pairs.x, pairs.y), method=method,
                             rank=15 if method == "symmetric" else "auto")
        assert "of negative curvature" not in found.curvature
        assert np.all(found.curves["sign_margins"] > 0)


def test_nearly_exact_pairs_of_ill_conditioned_points_make_no_saddle(make_pairs):
    for seed in range(8):
        pairs = make_pairs(seed, 500, 20, np.linspace(2.0, 0.5, 10))
        x = pairs.x * np.logspace(0, -3, 20)
        y = x @ pairs.hessian
        y += 1e-6 * np.sqrt(np.mean(y**2)) * np.random.default_rng(seed).standard_normal(y.shape)
        found = lrh_dask.fit(lrh_dask.Pairs(x, y))
        assert "of negative curvature" not in found.curvature
        np.testing.assert_allclose(found.eigenvalues[:10], np.linspace(2.0, 0.5, 10), rtol=0.1)


def test_signs_of_exact_pairs_count(make_pairs):
    """Without a standard error: eigenvalues far beyond what rounding could explain."""
    pairs = make_pairs(0, 30, 60, [3.0, -2.0, 1.0], dtype="float32")
    found = lrh_dask.fit(lrh_dask.Pairs(pairs.x, pairs.y))
    assert np.isnan(found.standard_errors).all()
    assert "1 direction of negative and 2 of positive curvature: a saddle" in found.curvature


def test_a_few_long_rows_add_what_a_singular_value_decomposition_says():
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((300, 12)))[0]
    sizes = np.array([1.0, 1e-2, 1e-5, 1e-7])  # the last is below what counts
    x = rng.standard_normal((9, 8)) @ q[:, :8].T
    x += np.linalg.qr(rng.standard_normal((9, 4)))[0] * sizes @ q[:, 8:].T
    added = beside(x, q[:, :8], FLOAT64)
    assert added.shape[1] == n_beside(x, q[:, :8], FLOAT64) == 3
    np.testing.assert_allclose(added.T @ added, np.eye(3), atol=1e-13)
    np.testing.assert_allclose(q[:, :8].T @ added, 0.0, atol=1e-13)
    assert np.linalg.svd(added.T @ q[:, 8:11], compute_uv=False).min() > 1 - 1e-6
