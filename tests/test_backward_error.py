"""Errors of the factorisations in units of ‖A‖ k eps, on random and adversarial rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg

from lrh_dask import BadPairs, Pairs, fit
from lrh_dask.linalg.gathering import reduce_to_triangle
from lrh_dask.linalg.reduced_pairs import reduce_pairs
from lrh_dask.linalg.solve import (
    Rows,
    center_rows,
    leading_directions,
    own_of_moments,
    rounding_of,
    symmetric_fit,
)
from lrh_dask.linalg.triangle import merge_all
from lrh_dask.statistics.asked import Asked
from lrh_dask.statistics.exact_pairs import common_basis
from lrh_dask.statistics.fitting import fit_symmetric, rotating_folds
from lrh_dask.statistics.interpolation import beside

EPS = float(np.finfo(np.float64).eps)
FLOAT64 = np.dtype("float64")
ALLOWED = 50.0
HUGE, TINY, DENORMAL = 498, -498, -1030
"""Powers of two: about 1e150, 1e-150, and numbers of fewer digits than a float64 has."""

ORDINARY = {  # from random rows (n, D) and others
    "random": lambda a, _: a,
    "graded columns": lambda a, _: a * np.logspace(0.0, -15.0, a.shape[1]),
    "graded rows": lambda a, _: a * np.logspace(0.0, -15.0, len(a))[:, None],
    "near-singular": lambda a, other: a[:, :3] @ other[:3] + 1e-14 * other,
    "duplicated rows": lambda a, _: np.repeat(a, 4, axis=0)[:len(a)],
    "one denormal column": lambda a, _: np.where(np.arange(a.shape[1]) == 1, 5e-310, a),
    "one column of denormal squares": lambda a, _: a * np.where(
        np.arange(a.shape[1]) == 1, 1e-160, 1e3),
    "columns far apart": lambda a, _: np.where(np.arange(a.shape[1]) % 2, 1e-75, 1e35) * a}
SCALED = {"huge": lambda a, _: np.ldexp(a, HUGE), "tiny": lambda a, _: np.ldexp(a, TINY)}
KINDS = {**ORDINARY, **SCALED}
ANY_SIZE = {**KINDS, "denormal": lambda a, _: np.ldexp(a, DENORMAL)}
SHAPES = [(12, 40), (40, 40), (300, 40)]


def rows_of(kind, n_rows, n_features, seed=0):
    rng = np.random.default_rng([seed, n_rows, n_features])
    return ANY_SIZE[kind](*rng.standard_normal((2, n_rows, n_features)))


def norm(a):
    """Frobenius, of numbers of any size."""
    peak = np.abs(a).max(initial=0.0)
    return float(np.linalg.norm(a / peak)) * peak if peak else 0.0


def departure(q):
    """‖I - QᵀQ‖ / (k eps)."""
    k = q.shape[1]
    return np.linalg.norm(np.eye(k) - q.T @ q) / (k * EPS)


def missed(a, q):
    """‖A - A Q Qᵀ‖ / (‖A‖ k eps), for A of any size and k columns of Q."""
    a = a / np.abs(a).max()
    return norm(a - a @ q @ q.T) / (norm(a) * q.shape[1] * EPS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ANY_SIZE)
def test_the_basis_of_reduced_pairs_is_orthonormal_and_holds_every_y(kind, shape):
    y = rows_of(kind, *shape)
    q, _ = reduce_pairs(y, y, max_rank=400).basis()
    assert q.shape[1] > 0
    assert departure(q) < ALLOWED
    assert missed(y, q) < ALLOWED


@pytest.mark.parametrize("kind", ANY_SIZE)
def test_a_basis_stays_orthonormal_through_cuts_and_merges(kind, merge_in_any_order):
    y = rows_of(kind, 300, 40)
    states = [reduce_pairs(part, part, max_rank=10) for part in np.array_split(y, 7)]
    for seed in range(3):
        q, scales = merge_in_any_order(states, seed).basis()
        assert 0 < q.shape[1] <= 10
        assert departure(q) < ALLOWED
        assert np.all(np.diff(scales) <= 0)


@pytest.mark.parametrize("method", ["seed", "symmetric"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_common_basis_is_orthonormal_and_holds_every_y(kind, method):
    x, y = rows_of(kind, 12, 40, seed=1), rows_of(kind, 12, 40)
    g = common_basis(x, y, method, FLOAT64)
    assert departure(g) < ALLOWED
    assert missed(y, g) < ALLOWED
    assert method == "symmetric" or missed(x, g) < ALLOWED


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_leading_directions_are_orthonormal(kind, shape):
    y = rows_of(kind, *shape)
    for k in (1, 10, 40):
        directions = leading_directions(y, k)
        assert 0 < directions.shape[1] <= k
        assert departure(directions) < ALLOWED


@pytest.mark.parametrize("kind", KINDS)
def test_what_x_adds_is_orthonormal_and_orthogonal_to_the_directions_of_y(kind):
    for n_features in (40, 15):
        rows = rows_of(kind, 24, n_features)
        held = leading_directions(rows[:3], 3)
        joint = np.concatenate([held, beside(rows[3:], held, FLOAT64)], axis=1)
        assert joint.shape[1] <= n_features
        assert departure(joint) < ALLOWED


def gram_error(triangle, rows):
    """max |RᵀR - AᵀA|_ij / (‖a_i‖ ‖a_j‖ k eps): no column hides behind a larger one."""
    sizes = np.array([norm(column) or 1.0 for column in rows.T])
    r, a = triangle.factor / sizes, rows / sizes
    return np.abs(r.T @ r - a.T @ a).max() / (a.shape[1] * EPS)


@pytest.mark.parametrize("columns", [40, 7], ids=["all features", "a basis"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_triangle_is_the_factor_of_its_rows_after_any_merges(
        kind, columns, rotation, merge_in_any_order):
    x, y = rows_of(kind, 300, 40, seed=1), rows_of(kind, 300, 40)
    basis = None if columns == 40 else rotation(0, 40)[:, :columns]
    rows = np.concatenate([np.ones((300, 1)), *(a if basis is None else a @ basis
                                                for a in (x, y))], axis=1)
    parts = np.array_split(np.arange(300), [5, 100, 101, 290])
    states = [reduce_to_triangle(x[part], y[part], basis) for part in parts]
    for state in (reduce_to_triangle(x, y, basis), *(merge_in_any_order(states, s)
                                                     for s in range(3))):
        assert state.factor.shape == (2 * columns + 1,) * 2
        assert gram_error(state, rows) < ALLOWED
        for got, a in ((state.sum_x, x), (state.sum_y, y)):
            exact = np.array([math.fsum(column) for column in a.T])
            assert np.all(np.abs(got - exact) <= ALLOWED * EPS * np.abs(a).sum(axis=0))
        assert state.energy == pytest.approx(norm(y) ** 2, rel=ALLOWED * EPS)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("judged", [False, True], ids=["no folds", "folds"])
@pytest.mark.parametrize("kind", ORDINARY)
def test_eigenpairs_of_full_rank_are_those_of_the_fit(kind, judged, center, make_buckets):
    k, x = 15, rows_of(kind, 300, 15, seed=1)
    y = x @ np.diag(np.linspace(2.0, -1.0, k)) + rows_of(kind, 300, k)
    buckets = make_buckets(x, y, 10)
    found = fit_symmetric(buckets, rotating_folds(buckets) if judged else [],
                          Asked(rank=k, center=center), n_blind=k, lossless=False, dtype=FLOAT64)
    kept = found.certificates.n_basis
    rows = Rows.of(merge_all(list(buckets.values())))
    rows = center_rows(rows, rows.means()) if center else rows
    m = symmetric_fit(rows.x[:, :kept], rows.y[:, :kept], rounding_of(FLOAT64, 300, k),
                      own=own_of_moments(kept)).solve(found.certificates.ridge)
    u = found.vectors[:kept]
    assert departure(u) < ALLOWED
    assert found.eigenvalues.size == kept
    assert norm(m - u * found.eigenvalues @ u.T) / (norm(m) * kept * EPS) < ALLOWED


@pytest.mark.parametrize("ridge", [0.0, 1e-10, 1e-3, 1.0, 100.0])
@pytest.mark.parametrize("shape", [(9, 20), (20, 20), (150, 20)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_fit_is_a_stationary_point_of_its_squares(kind, shape, ridge):
    """M S + S M + 2λM = YᵀX + XᵀY, S = XᵀX; of scaled pairs M is that of the unscaled ones."""
    x, y = rows_of(kind, *shape, seed=1), rows_of(kind, *shape)
    m = symmetric_fit(x, y).solve(ridge)
    down = -{"huge": HUGE, "tiny": TINY}.get(kind, 0)
    x, y = np.ldexp(x, down), np.ldexp(y, down)
    s, right = x.T @ x, y.T @ x + x.T @ y
    left = m @ s + s @ m + 2.0 * ridge * np.trace(s) / len(s) * m
    size = 2.0 * norm(s) * norm(m) + norm(right)
    assert norm(left - right) / (size * len(m) * EPS) < ALLOWED
    assert norm(m - m.T) / (norm(m) * len(m) * EPS) < ALLOWED


@pytest.mark.parametrize("seed", range(4))
def test_a_triangle_gives_at_cond_1e5_what_moments_cannot(make_pairs, merge_in_any_order, seed):
    spectrum = np.linspace(1.0, 2.0, 20) * (-1.0) ** np.arange(20)
    pairs = make_pairs(seed, 200, 20, spectrum, condition=1e5)
    parts = zip(np.split(pairs.x, 4), np.split(pairs.y, 4), strict=True)
    rows = Rows.of(merge_in_any_order([reduce_to_triangle(x, y) for x, y in parts], seed))
    by_triangle = symmetric_fit(rows.x, rows.y).solve()
    s, right = pairs.x.T @ pairs.x, pairs.x.T @ pairs.y
    by_moments = scipy.linalg.solve_sylvester(s, s, right + right.T)
    size = np.linalg.norm(pairs.hessian)
    assert np.linalg.norm(by_triangle - pairs.hessian) < 1e-12 * size
    assert np.linalg.norm(fit(Pairs(pairs.x, pairs.y)).to_dense() - pairs.hessian) < 1e-12 * size
    assert np.linalg.norm(by_moments - pairs.hessian) > 1e-9 * size


@pytest.mark.parametrize("shape", [(300, 20), (40, 800)], ids=["all features", "whole pairs"])
@pytest.mark.parametrize("power", [HUGE, 300, 200, -200, -300, TINY])
def test_scaling_x_and_y_together_changes_no_figure_of_a_result(make_pairs, shape, power):
    pairs = make_pairs(3, *shape, [4.0, -3.0, 2.0, 1.0], noise=0.1)
    plain = fit(Pairs(pairs.x, pairs.y))
    scaled = fit(Pairs(np.ldexp(pairs.x, power), np.ldexp(pairs.y, power)))
    assert scaled.rank == plain.rank == 4
    np.testing.assert_allclose(scaled.to_dense(), plain.to_dense(), atol=1e-12)
    for a, b in ((scaled.standard_errors, plain.standard_errors),
                 *((scaled.curves[name], plain.curves[name]) for name in plain.curves)):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    for name in ("residual", "held_out_residual", "asymmetry", "ridge", "verdict"):
        a, b = getattr(scaled.certificates, name), getattr(plain.certificates, name)
        assert a == (b if name == "verdict" else pytest.approx(b, rel=1e-6))


@pytest.mark.parametrize("shape", [(300, 20), (40, 800)], ids=["all features", "whole pairs"])
@pytest.mark.parametrize("method", ["symmetric", "seed", "least_norm"])
def test_denormal_pairs_are_refused(make_pairs, shape, method):
    pairs = make_pairs(3, *shape, [4.0, -3.0, 2.0, 1.0])
    with pytest.raises(BadPairs, match="1e-150 to 1e150"):
        fit(Pairs(np.ldexp(pairs.x, DENORMAL), np.ldexp(pairs.y, DENORMAL)), method=method)


@pytest.mark.parametrize(("large", "small"), [(1e3, 1e-160), (1e100, 1e-100), (1e80, 1e-90)])
def test_a_feature_of_another_size_costs_the_others_nothing(large, small):
    """As the gradients of a saturated unit; its squares may leave the range of a float64."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 6)) * np.array([large] * 5 + [small])
    y = x @ np.diag([3.0, -2.0, 1.0, 0.0, 0.0, 0.0])
    y += 0.05 * large * rng.standard_normal(y.shape) * np.array([1.0] * 5 + [small / large])
    assert fit(Pairs(x, y)).eigenvalues == pytest.approx([3.0, -2.0, 1.0], rel=0.01)
