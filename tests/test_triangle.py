"""Triangle: the R of the projected pairs, the same whatever tree it was merged in."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
from conftest import shards
from hypothesis import given

from lrh_dask.errors import BadPairs
from lrh_dask.linalg.arrays import device_of
from lrh_dask.linalg.gathering import Gathering, padded, reduce_to_triangle
from lrh_dask.linalg.solve import Rows
from lrh_dask.linalg.triangle import Triangle


def gram(triangle):
    return triangle.factor.T @ triangle.factor


def literal_rows(x, y, basis, weight=None):
    """[√w, √w x̃ᵀ, √w ỹᵀ], in float64."""
    root = np.ones((len(x), 1)) if weight is None else np.sqrt(weight)[:, None]
    return root * np.concatenate([np.ones((len(x), 1)), x.astype(float) @ basis,
                                  y.astype(float) @ basis], axis=1)


def assert_same(got, wanted, tolerance=1e-13):
    """The two stand for the same pairs, to rounding."""
    assert got.n_pairs == wanted.n_pairs
    assert got.energy == pytest.approx(wanted.energy, rel=tolerance)
    size = 1.0 + np.abs(gram(wanted)).max(initial=0.0)
    np.testing.assert_allclose(gram(got), gram(wanted), atol=tolerance * size)
    np.testing.assert_allclose(got.sum_x, wanted.sum_x, atol=tolerance * size)
    np.testing.assert_allclose(got.sum_y, wanted.sum_y, atol=tolerance * size)


def basis_of(case, rotation):
    return rotation(case.seed, case.n_features)[:, :case.max_rank]


@given(case=shards(noise=(0.3,)))
def test_the_empty_state_is_the_identity_of_merge(case, rotation):
    basis = basis_of(case, rotation)
    state = reduce_to_triangle(case.pairs.x, case.pairs.y, basis)
    empty = Triangle.empty(case.n_features, basis.shape[1])
    for merged in (state.merge(empty), empty.merge(state)):
        for got, kept in ((merged.factor, state.factor), (merged.sum_x, state.sum_x),
                          (merged.sum_y, state.sum_y)):
            np.testing.assert_array_equal(got, kept)
        assert (merged.energy, merged.n_pairs) == (state.energy, state.n_pairs)


@given(case=shards(noise=(0.3,)))
def test_merge_never_writes_its_inputs(case, rotation, frozen, merge_in_any_order):
    basis = frozen(basis_of(case, rotation))
    states = [reduce_to_triangle(x, y, basis) for x, y in case.parts]
    held = [replace(s, rows=frozen(s.rows), sum_x=frozen(s.sum_x), sum_y=frozen(s.sum_y),
                    gram=None if s.gram is None else frozen(s.gram)) for s in states]

    def written() -> list[bytes]:
        return [a.tobytes() for s in held for a in (s.rows, s.sum_x, s.sum_y, s.gram)
                if a is not None]

    before = written()
    merge_in_any_order(held, case.seed)
    assert written() == before


@given(case=shards(noise=(0.3,), offset=(0.0, 10.0)))
def test_merge_order_does_not_change_the_gram_matrix(case, rotation, merge_in_any_order):
    basis = basis_of(case, rotation)
    merged = merge_in_any_order([reduce_to_triangle(x, y, basis) for x, y in case.parts], case.seed)
    assert merged.factor.shape[0] <= merged.factor.shape[1] == 2 * basis.shape[1] + 1
    assert merged.factor.dtype == np.float64
    rows = literal_rows(case.pairs.x, case.pairs.y, basis)
    size = 1.0 + np.sum(rows**2)
    np.testing.assert_allclose(gram(merged), rows.T @ rows, atol=case.rounding * size)
    x, y = case.pairs.x.astype(float), case.pairs.y.astype(float)
    within = case.squares_within
    np.testing.assert_allclose(merged.sum_x, x.sum(axis=0), atol=within * size)
    np.testing.assert_allclose(merged.sum_y, y.sum(axis=0), atol=within * size)
    assert merged.energy == pytest.approx(np.sum(y**2), rel=within)
    assert merged.n_pairs == sum(case.sizes)


def dead_at_first(n=3000, n_features=8):
    """Pairs whose first feature is zero in the first half, which is not well conditioned."""
    x, y = np.random.default_rng(3).standard_normal((2, n, n_features))
    x[:n // 2, 0] = y[:n // 2, 0] = 0.0
    return x, y


def test_a_state_is_a_gram_matrix_or_rows_never_both(merge_in_any_order):
    """Else it were twice as large as its price."""
    x, y = dead_at_first()
    rows = literal_rows(x, y, np.eye(8))
    parts = np.array_split(np.arange(3000), [4, 700, 705, 1400, 2200, 2205])
    states = [reduce_to_triangle(x[part], y[part]) for part in parts]
    assert {state.gram is None for state in states} == {True, False}, "not the case to try"
    for seed in range(6):
        merged = merge_in_any_order(states, seed)
        assert merged.gram is not None
        assert merged.rows.shape == (0, 17)
        np.testing.assert_allclose(gram(merged), rows.T @ rows, atol=1e-13 * np.sum(rows**2))
    first = merge_in_any_order(states[:4], 0)
    assert first.gram is None
    assert first.rows.shape == (17, 17)
    gathering = Gathering()
    for part in parts:
        gathering.add(x[part], y[part])
    np.testing.assert_allclose(gram(gathering.state()), rows.T @ rows, atol=1e-13 * np.sum(rows**2))
    assert gathering.state().rows.shape == (0, 17)


def test_no_state_keeps_the_memory_of_what_it_was_made_from():
    """An empty slice would, out of sight of its price."""
    x, y = dead_at_first()
    block, gathering = x.copy(), Gathering()
    held = weakref.ref(block)
    gathering.add(block, y)
    del block
    assert held() is None
    dead, live = (reduce_to_triangle(x[part], y[part]) for part in (slice(1500), slice(1500, None)))
    assert dead.gram is None, "not the case to try"
    for state in (live, dead.merge(live), live.merge(dead)):
        assert state.gram is not None
        assert state.rows.base is None


@pytest.mark.parametrize(("mean", "allowed"), [
    (0.0, 1e-5), (30.0, 5e-4), (90.0, 5e-3), (1000.0, 1e-8)])
def test_a_mean_costs_products_in_float32_little_and_a_large_one_takes_float64(mean, allowed):
    """x about its mean, against products in float64; rounding adds up along the mean."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((300_000, 3)) + mean).astype("f4")
    y = rng.standard_normal(x.shape).astype("f4")
    rows = Rows.of(reduce_to_triangle(x, y))
    about = rows.x - np.outer(rows.one, rows.means()[0])
    exact = x.astype(float) - x.mean(axis=0, dtype=float)
    wanted = exact.T @ exact
    assert np.abs(about.T @ about - wanted).max() < allowed * wanted.max()


def test_a_finished_factor_is_upper_triangular(make_pairs, rotation):
    pairs = make_pairs(1, 30, 10, [1.0])
    factor = reduce_to_triangle(pairs.x, pairs.y, rotation(0, 10)[:, :4]).factor
    np.testing.assert_array_equal(factor, np.triu(factor))


def test_the_factor_keeps_what_the_gram_matrix_loses(make_pairs, merge_in_any_order):
    """cond, not cond²: at cond 1e10 the Gram matrix knows nothing of the smallest direction."""
    pairs = make_pairs(2, 120, 8, np.ones(8), condition=1e10)
    parts = zip(np.split(pairs.x, 4), np.split(pairs.y, 4), strict=True)
    state = merge_in_any_order([reduce_to_triangle(x, y) for x, y in parts], 0)
    true = np.linalg.svd(pairs.x, compute_uv=False)[-1]
    kept = np.linalg.svd(state.factor[:, 1:9], compute_uv=False)[-1]
    squared = np.sqrt(np.abs(np.linalg.eigvalsh(pairs.x.T @ pairs.x)[0]))
    assert abs(kept - true) < 1e-4 * true
    assert abs(squared - true) > true


@given(case=shards(noise=(0.3,)))
def test_rotating_features_and_basis_together_leaves_the_gram_matrix(case, rotation):
    turn, basis = rotation(case.seed + 1, case.n_features), basis_of(case, rotation)
    x, y = case.pairs.x.astype(float), case.pairs.y.astype(float)
    state = reduce_to_triangle(x, y, basis)
    turned = reduce_to_triangle(x @ turn, y @ turn, turn.T @ basis)
    assert_same(turned, replace(state, sum_x=state.sum_x @ turn, sum_y=state.sum_y @ turn), 1e-12)


@pytest.mark.parametrize("factor", [1e-9, 3.0])
def test_scaling_x_and_y_together_scales_all_but_the_count(make_pairs, factor):
    pairs = make_pairs(3, 40, 6, [1.0, -1.0], noise=0.1, offset=1.0)
    state = reduce_to_triangle(pairs.x, pairs.y)
    scaled = reduce_to_triangle(factor * pairs.x, factor * pairs.y)
    unit = np.array([1.0, *[factor] * 12])
    np.testing.assert_allclose(gram(scaled) / np.outer(unit, unit), gram(state), atol=1e-11)
    np.testing.assert_allclose(scaled.sum_y / factor, state.sum_y, rtol=1e-12)
    assert scaled.energy == pytest.approx(factor**2 * state.energy)
    assert scaled.n_pairs == state.n_pairs


def test_no_basis_means_all_features(make_pairs):
    pairs = make_pairs(3, 40, 6, [1.0, -1.0], noise=0.1)
    assert_same(reduce_to_triangle(pairs.x, pairs.y),
                reduce_to_triangle(pairs.x, pairs.y, np.eye(6)))


@pytest.mark.parametrize("n_pairs", [5, 40], ids=["fewer rows than columns", "more"])
def test_an_integer_weight_counts_as_repeated_rows(make_pairs, rotation, frozen, n_pairs):
    pairs = make_pairs(4, n_pairs, 12, [1.0, -1.0], noise=0.2, offset=1.0)
    weight, basis = frozen(np.arange(n_pairs) % 4), rotation(0, 12)[:, :3]
    weighted = reduce_to_triangle(pairs.x, pairs.y, basis, weight)
    repeated = reduce_to_triangle(np.repeat(pairs.x, weight, axis=0),
                                  np.repeat(pairs.y, weight, axis=0), basis)
    assert weighted.n_pairs == n_pairs  # pairs counted, not weights
    assert_same(replace(weighted, n_pairs=repeated.n_pairs), repeated)


def test_any_weights_give_the_weighted_gram_matrix(make_pairs, frozen):
    pairs = make_pairs(5, 40, 6, [1.0, -1.0], noise=0.2)
    weight = frozen(np.random.default_rng(0).uniform(0.0, 3.0, 40))
    state = reduce_to_triangle(pairs.x, pairs.y, weight=weight)
    rows = literal_rows(pairs.x, pairs.y, np.eye(6), weight)
    np.testing.assert_allclose(gram(state), rows.T @ rows, atol=1e-11)
    np.testing.assert_allclose(state.sum_x, weight @ pairs.x, atol=1e-12)
    np.testing.assert_allclose(state.sum_y, weight @ pairs.y, atol=1e-12)
    assert state.energy == pytest.approx(weight @ np.sum(pairs.y**2, axis=1))


@pytest.mark.parametrize("scale", [1e-36, 1e-22, 1e20, 1e35])
def test_numbers_at_the_ends_of_float32_lose_nothing(scale):
    rng = np.random.default_rng(0)
    x, y = (a.astype("f4") for a in (rng.standard_normal((400, 6)),
                                     scale * rng.standard_normal((400, 6))))
    rows = literal_rows(x, y, np.eye(6))
    size = np.linalg.norm(rows, axis=0)
    np.testing.assert_allclose(gram(reduce_to_triangle(x, y)) / np.outer(size, size),
                               rows.T @ rows / np.outer(size, size), atol=1e-6)


@pytest.mark.parametrize("cuts", [(1,), (5, 9, 700), (699,), tuple(range(50, 3000, 50))], ids=len)
def test_pieces_too_few_to_judge_wait_for_others(cuts):
    """Any cut into pieces is multiplied in the data's dtype, as the whole is, and as exact."""
    rng = np.random.default_rng(1)
    x, y = (rng.standard_normal((3000, 20)).astype("f4") for _ in range(2))
    gathering = Gathering()
    for part_x, part_y in zip(np.split(x, cuts), np.split(y, cuts), strict=True):
        room = [part_x.copy(), part_y.copy()]
        gathering.add(*room)
        for array in room:
            array[...] = np.nan  # the block may be read over once it was added
    rows = literal_rows(x, y, np.eye(20))
    np.testing.assert_allclose(gram(gathering.state()), rows.T @ rows, atol=1e-6 * 3000)
    assert gathering._in_dtype


def test_rank_deficient_and_duplicated_pairs_keep_their_gram_matrix(make_pairs):
    pairs = make_pairs(6, 3, 6, [1.0, -1.0])
    x, y = np.tile(pairs.x, (20, 1)), np.tile(pairs.y, (20, 1))
    state = reduce_to_triangle(x, y)
    rows = literal_rows(x, y, np.eye(6))
    np.testing.assert_allclose(gram(state), rows.T @ rows, atol=1e-11)
    assert np.linalg.matrix_rank(state.factor, tol=1e-10) == 3


def test_one_pair_is_kept_as_it_is_and_no_pair_as_nothing(make_pairs):
    pairs = make_pairs(6, 1, 6, [1.0, -1.0])
    one, none = (reduce_to_triangle(pairs.x[:n], pairs.y[:n]) for n in (1, 0))
    np.testing.assert_array_equal(one.factor, literal_rows(pairs.x, pairs.y, np.eye(6)))
    assert (none.n_pairs, none.energy, none.factor.shape) == (0, 0.0, (0, 13))
    assert none.merge(one) is one
    assert one.merge(none) is one


def test_triangles_over_bases_of_other_size_are_refused():
    with pytest.raises(BadPairs, match=r"expected a basis of 2 columns, got one of 3"):
        Triangle.empty(9, 2).merge(Triangle.empty(9, 3))


def test_a_state_reports_the_bytes_of_its_arrays():
    state = reduce_to_triangle(np.ones((30, 50), np.float32), np.ones((30, 50), np.float32),
                               np.eye(50, 4))
    assert state.__sizeof__() == pytest.approx(8 * (9 * 9 + 50 + 50), abs=300)
    x, y = np.random.default_rng(0).standard_normal((2, 100, 20))
    state = reduce_to_triangle(x, y)
    assert state.gram is not None
    assert state.__sizeof__() == pytest.approx(8 * (41 * 41 + 20 + 20), abs=300)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_another_array_library_gives_the_same_triangle(make_pairs, rotation, other_device, dtype):
    pairs = make_pairs(7, 60, 20, [3.0, -2.0], noise=0.1, offset=1.0, dtype=dtype)
    basis, weight = rotation(1, 20)[:, :5], 1.0 + np.arange(30) % 3

    def reduce_on(put):
        states = [reduce_to_triangle(put(x), put(y), put(basis), w) for x, y, w in
                  zip(np.split(pairs.x, 2), np.split(pairs.y, 2), [None, put(weight)], strict=True)]
        return states[0].merge(states[1])

    there = reduce_on(other_device.put)
    for array in (there.factor, there.sum_x, there.sum_y):
        assert device_of(array) == other_device.handle
    loose = {"float32": 1e-5, "float64": 1e-10}[dtype]
    tolerance = 1e-12 if other_device.name == "strict" else loose
    assert_same(there.to_host(), reduce_on(np.asarray), tolerance)


def test_columns_that_pad_a_basis_are_in_no_triangle(make_pairs, rotation, other_device):
    """On the other library, too: a basis on a device is padded there."""
    pairs = make_pairs(7, 60, 20, [3.0, -2.0], noise=0.1)
    for k in (5, 16):
        basis = rotation(1, 20)[:, :k]
        wanted = reduce_to_triangle(pairs.x, pairs.y, basis)
        for put in (np.asarray, other_device.put):
            wide = padded(put(basis))
            assert wide.shape == (20, 16)
            gathering = Gathering(wide, k)
            gathering.add(put(pairs.x), put(pairs.y))
            assert_same(gathering.state().to_host(), wanted, 1e-12)
