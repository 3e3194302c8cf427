"""ReducedPairs: at most k pairs that stand for many, whatever tree they were merged in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import shards
from hypothesis import given

from lrh_dask.errors import BadPairs
from lrh_dask.linalg.arrays import device_of, to_host
from lrh_dask.linalg.reduced_pairs import EXACT_ROWS, ReducedPairs, Reducing, reduce_pairs

SKETCH, EXACT = (300, 40, 6), (20, 40, 6)  # n_pairs, n_features, max_rank


def as_pairs_of(state):
    return state.x, state.y, state.one


def moments(state):
    """What does not depend on the signs of V: YᵀY, XᵀY and 1ᵀY of the reduced pairs."""
    x, y, one = (to_host(a).astype(float) for a in as_pairs_of(state))
    return y.T @ y, x.T @ y, one @ y


def residual_squares(y, state):
    q, _ = state.basis()
    y = y.astype(float)
    return float(np.sum((y - y @ q @ q.T) ** 2))


def reduce_and_merge(case, merge_in_any_order):
    return merge_in_any_order([reduce_pairs(x, y, max_rank=case.max_rank) for x, y in case.parts],
                              case.seed)


@given(case=shards(noise=(0.3,)))
def test_the_empty_state_is_the_identity_of_merge(case):
    x, y = case.pairs.x, case.pairs.y
    state, empty = reduce_pairs(x, y, max_rank=case.max_rank), ReducedPairs.empty(x, case.max_rank)
    for merged in (state.merge(empty), empty.merge(state)):
        for got, kept in zip(as_pairs_of(merged), as_pairs_of(state), strict=True):
            np.testing.assert_array_equal(got, kept)
        assert (merged.n_pairs, merged.tail, merged.energy, merged.max_rank) == (
            state.n_pairs, state.tail, state.energy, state.max_rank)


@given(case=shards(noise=(0.3,)))
def test_merge_never_writes_its_inputs(case, frozen, merge_in_any_order):
    states = [reduce_pairs(x, y, max_rank=case.max_rank) for x, y in case.parts]
    held = [replace(s, x=frozen(s.x), y=frozen(s.y), one=frozen(s.one)) for s in states]
    before = [[a.tobytes() for a in as_pairs_of(s)] for s in held]
    merge_in_any_order(held, case.seed).basis()
    assert [[a.tobytes() for a in as_pairs_of(s)] for s in held] == before


@given(case=shards(noise=(0.3,)))
def test_any_tree_accounts_for_every_pair_and_every_square(case, merge_in_any_order):
    state = reduce_and_merge(case, merge_in_any_order)
    energy = float(np.sum(case.pairs.y.astype(float) ** 2))
    assert state.n_pairs == sum(case.sizes)
    assert state.y.shape[0] <= case.max_rank
    assert state.energy == pytest.approx(energy, rel=case.squares_within)
    kept = float(np.sum(state.y.astype(float) ** 2))
    assert kept + state.tail == pytest.approx(energy, rel=case.rounding, abs=0.0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("at_once", [0, 7, 50, 1000])
def test_pieces_that_wait_are_counted_once_and_outlive_their_block(make_pairs, at_once, weighted):
    pairs = make_pairs(1, 90, 20, [2.0, -1.0], noise=0.3)
    weight = np.random.default_rng(0).uniform(0.5, 2.0, 90) if weighted else None
    whole = reduce_pairs(pairs.x, pairs.y, weight, max_rank=90)
    reducing, block = Reducing(90, at_once), np.empty((2, 40, 20))
    for part in np.split(np.arange(90), [3, 5, 45, 50, 88]):
        if at_once < 40:  # else every piece waits, and its block may go
            block = np.empty((2, 40, 20))
        x, y = block[:, :part.size]
        block[:] = np.nan
        x[:], y[:] = pairs.x[part], pairs.y[part]
        reducing.add(x, y, None if weight is None else weight[part])
    found = reducing.state()
    for array, wanted in zip(moments(found), moments(whole), strict=True):
        np.testing.assert_allclose(array, wanted, atol=1e-10)
    assert found.n_pairs == 90
    assert found.energy == pytest.approx(whole.energy)


@pytest.mark.parametrize("n_rows", [4, 20, 60])
def test_no_state_keeps_the_block_that_it_was_made_from(n_rows):
    """A slice of it would, out of sight of its price."""
    block = np.random.default_rng(0).standard_normal((2, 500, 30))
    reducing = Reducing(20, at_once=10)
    reducing.add(*block[:, :n_rows])
    state = reducing.state()
    assert not any(np.shares_memory(a, block) for a in as_pairs_of(state))


@given(case=shards(offset=(0.0, 3.0)))
def test_reduced_pairs_satisfy_the_equation_of_the_pairs(case, merge_in_any_order):
    state = reduce_and_merge(case, merge_in_any_order)
    x, y, one = (a.astype(float) for a in as_pairs_of(state))
    assert state.x.dtype == case.dtype
    size = np.linalg.norm(case.pairs.y.astype(float)) + np.linalg.norm(case.pairs.x.astype(float))
    error = np.linalg.norm(y - x @ case.pairs.hessian - np.outer(one, case.pairs.offset))
    assert error <= case.rounding * size


@given(case=shards(low_rank=True))
def test_any_tree_finds_the_span_of_low_rank_gradients(case, merge_in_any_order):
    state = reduce_and_merge(case, merge_in_any_order)
    energy = float(np.sum(case.pairs.y.astype(float) ** 2))
    assert residual_squares(case.pairs.y, state) <= case.rounding**2 * energy
    _, scales = state.basis()
    assert np.count_nonzero(scales > 1e-4 * scales.max(initial=0.0)) <= case.rank


@given(case=shards(noise=(0.0, 0.3, 3.0), offset=(0.0, 3.0)))
def test_tail_bounds_the_residual_of_every_pair(case, merge_in_any_order):
    state = reduce_and_merge(case, merge_in_any_order)
    true = residual_squares(case.pairs.y, state)
    assert true <= state.tail + case.rounding * state.energy


@pytest.mark.parametrize("n_shards", [1, 4, 16])
@pytest.mark.parametrize("spectrum", [np.ones(200), 1.0 / np.arange(1, 201)], ids=["flat", "slow"])
def test_tail_and_basis_are_close_to_the_best_possible(make_pairs, n_shards, spectrum):
    pairs = make_pairs(5, 800, 200, spectrum, noise=0.1)
    parts = zip(np.array_split(pairs.x, n_shards), np.array_split(pairs.y, n_shards), strict=True)
    state = ReducedPairs.empty(pairs.x, 10)
    for x, y in parts:
        state = state.merge(reduce_pairs(x, y, max_rank=10))
    true = residual_squares(pairs.y, state)
    best = np.sum(np.linalg.svd(pairs.y, compute_uv=False)[10:] ** 2)
    assert best <= true <= 1.05 * best
    assert true <= state.tail <= 1.15 * true


@pytest.mark.parametrize("shape", [EXACT, SKETCH], ids=["exact", "sketch"])
def test_rotating_the_features_rotates_the_result(make_pairs, rotation, shape):
    n_pairs, n_features, max_rank = shape
    assert (n_pairs > EXACT_ROWS * max_rank and n_features > 2 * max_rank) == (shape is SKETCH)
    pairs = make_pairs(1, n_pairs, n_features, 0.7 ** np.arange(n_features), noise=0.05)
    turn = rotation(2, n_features)
    state = reduce_pairs(pairs.x, pairs.y, max_rank=max_rank)
    turned = reduce_pairs(pairs.x @ turn, pairs.y @ turn, max_rank=max_rank)
    (yy, xy, oney), (turned_yy, turned_xy, turned_oney) = moments(state), moments(turned)
    np.testing.assert_allclose(turned_yy, turn.T @ yy @ turn, atol=1e-9 * np.abs(yy).max())
    np.testing.assert_allclose(turned_xy, turn.T @ xy @ turn, atol=1e-9 * np.abs(xy).max())
    np.testing.assert_allclose(turned_oney, oney @ turn, atol=1e-9 * np.abs(oney).max())
    assert turned.tail == pytest.approx(state.tail, rel=1e-9)


@pytest.mark.parametrize("shape", [EXACT, SKETCH], ids=["exact", "sketch"])
@pytest.mark.parametrize("factor", [1e-12, 0.3, 1e9])
def test_scaling_x_and_y_together_scales_the_reduced_pairs(make_pairs, shape, factor):
    n_pairs, n_features, max_rank = shape
    pairs = make_pairs(1, n_pairs, n_features, 0.7 ** np.arange(n_features), noise=0.05)
    state = reduce_pairs(pairs.x, pairs.y, max_rank=max_rank)
    scaled = reduce_pairs(factor * pairs.x, factor * pairs.y, max_rank=max_rank)
    for got, wanted in zip(moments(scaled), moments(state), strict=True):
        unit = factor ** (2 if wanted.ndim == 2 else 1)
        np.testing.assert_allclose(got / unit, wanted, atol=1e-9 * np.abs(wanted).max())
    (q, scales), (scaled_q, scaled_scales) = state.basis(), scaled.basis()
    np.testing.assert_allclose(scaled_q @ scaled_q.T, q @ q.T, atol=1e-9)
    np.testing.assert_allclose(scaled_scales, factor * scales, rtol=1e-9)


def test_an_integer_weight_counts_as_repeated_rows(make_pairs, frozen):
    pairs = make_pairs(3, 15, 30, 0.7 ** np.arange(30), noise=0.1, offset=1.0)
    weight = frozen(np.arange(15) % 4)
    weighted = reduce_pairs(pairs.x, pairs.y, weight, max_rank=6)
    repeated = reduce_pairs(np.repeat(pairs.x, weight, axis=0),
                            np.repeat(pairs.y, weight, axis=0), max_rank=6)
    for got, wanted in zip(moments(weighted), moments(repeated), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-11 * np.abs(wanted).max())
    assert weighted.tail == pytest.approx(repeated.tail)
    assert weighted.energy == pytest.approx(repeated.energy)


@pytest.mark.parametrize("n_pairs", [10, 50], ids=["uncut", "cut"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_basis_is_orthonormal_in_float64_and_sorted_by_dominance(make_pairs, dtype, n_pairs):
    pairs = make_pairs(4, n_pairs, 40, 0.5 ** np.arange(8), noise=0.01, dtype=dtype)
    state = reduce_pairs(pairs.x, pairs.y, max_rank=10)
    q, scales = state.basis()
    assert q.dtype == np.float64
    np.testing.assert_allclose(q.T @ q, np.eye(10), atol=1e-13)
    np.testing.assert_allclose(np.linalg.norm(state.y.astype(float) @ q, axis=0), scales)
    assert np.all(np.diff(scales) <= 0)


def test_one_pair_is_kept_as_it_is(make_pairs):
    pairs = make_pairs(6, 1, 12, [1.0, -1.0])
    state = reduce_pairs(pairs.x, pairs.y, max_rank=3)
    np.testing.assert_array_equal(state.x, pairs.x)
    q, scales = state.basis()
    np.testing.assert_allclose(q @ q.T, pairs.y.T @ pairs.y / np.sum(pairs.y**2), atol=1e-15)
    assert scales == pytest.approx(np.linalg.norm(pairs.y))


@pytest.mark.parametrize("max_rank", [2, 100], ids=["cut", "uncut"])
def test_a_duplicated_pair_is_one_direction_counted_many_times(make_pairs, max_rank):
    pairs = make_pairs(6, 1, 12, [1.0, -1.0])
    x, y = np.repeat(pairs.x, 7, axis=0), np.repeat(pairs.y, 7, axis=0)
    state = reduce_pairs(x[:3], y[:3], max_rank=max_rank).merge(
        reduce_pairs(x[3:], y[3:], max_rank=max_rank))
    q, scales = state.basis()
    assert state.n_pairs == 7
    assert scales == pytest.approx([np.sqrt(7) * np.linalg.norm(pairs.y)])
    assert q.shape == (12, 1)


def test_gradients_that_are_all_zero_have_no_directions(make_pairs):
    x = make_pairs(6, 30, 12, []).x
    state = reduce_pairs(x, 0.0 * x, max_rank=4)
    q, scales = state.basis()
    assert (q.shape, scales.shape, state.tail, state.energy) == ((12, 0), (0,), 0.0, 0.0)


def test_a_shard_without_rows_changes_nothing(make_pairs):
    pairs = make_pairs(6, 9, 12, [1.0, -1.0])
    state = reduce_pairs(pairs.x, pairs.y, max_rank=4)
    without_rows = reduce_pairs(pairs.x[:0], pairs.y[:0], max_rank=4)
    for merged in (state.merge(without_rows), without_rows.merge(state)):
        for name, value in vars(state).items():
            np.testing.assert_array_equal(getattr(merged, name), value)
    assert without_rows.basis()[0].shape == (12, 0)


@pytest.mark.parametrize("small_first", [True, False])
def test_a_merge_keeps_within_its_own_max_rank(make_pairs, small_first):
    pairs = make_pairs(6, 20, 12, [1.0] * 12)
    empty, state = ReducedPairs.empty(pairs.x, 3), reduce_pairs(pairs.x, pairs.y, max_rank=8)
    some = reduce_pairs(pairs.x[:5], pairs.y[:5], max_rank=3)
    for small in (empty, some):
        merged = small.merge(state) if small_first else state.merge(small)
        assert merged.y.shape[0] <= merged.max_rank
        assert np.sum(merged.y**2) + merged.tail == pytest.approx(merged.energy)


def test_states_over_other_features_are_refused(make_pairs):
    small, large = make_pairs(0, 3, 4, [1.0]), make_pairs(0, 3, 5, [1.0])
    with pytest.raises(BadPairs, match=r"expected 4 features, got 5"):
        reduce_pairs(small.x, small.y, max_rank=2).merge(
            reduce_pairs(large.x, large.y, max_rank=2))


def test_a_state_reports_the_bytes_of_its_arrays(make_pairs):
    pairs = make_pairs(0, 100, 50, [1.0], dtype="float32")
    state = reduce_pairs(pairs.x, pairs.y, max_rank=20)
    assert state.__sizeof__() == pytest.approx(4 * 20 * (50 + 50 + 1), abs=300)


@pytest.mark.parametrize("rows_per_shard", [10, 100], ids=["exact", "sketch"])
def test_another_array_library_gives_the_same_reduced_pairs(make_pairs, other_device,
                                                            rows_per_shard):
    pairs = make_pairs(8, 2 * rows_per_shard, 40, 0.7 ** np.arange(40), noise=0.05)
    weight = 1.0 + np.arange(rows_per_shard) % 3

    def reduce_on(put):
        states = [reduce_pairs(put(x), put(y), w, max_rank=6) for x, y, w in
                  zip(np.split(pairs.x, 2), np.split(pairs.y, 2), [None, put(weight)], strict=True)]
        return ReducedPairs.empty(put(pairs.x), 6).merge(states[0]).merge(states[1])

    here, there = reduce_on(np.asarray), reduce_on(other_device.put)
    q, scales = here.basis()
    other_q, other_scales = there.basis()
    for array in (*as_pairs_of(there), other_q):
        assert device_of(array) == other_device.handle
    tolerance = 1e-12 if other_device.name == "strict" else 1e-10
    for got, wanted in zip(moments(there.to_host()), moments(here), strict=True):
        np.testing.assert_allclose(got, wanted, atol=tolerance * np.abs(wanted).max())
    np.testing.assert_allclose(other_scales, scales, rtol=tolerance)
    np.testing.assert_allclose(to_host(other_q) @ to_host(other_q).T, q @ q.T, atol=tolerance)
    assert there.tail == pytest.approx(here.tail, rel=tolerance)
