"""What held-out pairs choose, against brute force and against a Hessian that is known."""

from __future__ import annotations

import numpy as np
import pytest
from reference import cut_by_rank, ridge_fit

from lrh_dask.linalg.moments import moments_of
from lrh_dask.linalg.solve import leading_directions
from lrh_dask.statistics import held_out
from lrh_dask.statistics.asked import Asked
from lrh_dask.statistics.fitting import rotating_folds
from lrh_dask.statistics.held_out import Fold
from lrh_dask.statistics.selection import choose

FIVE = [5.0, -4.0, 3.0, 2.5, -2.0]


def choose_from(buckets, *, rank=None, center=None, n_blind=None):
    return choose(buckets, moments_of(buckets), rotating_folds(buckets),
                  Asked(rank=rank, center=center), n_blind=n_blind)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n_features", [30, 60])
def test_the_exact_rank_is_found_at_ten_percent_noise(make_pairs, make_buckets, seed, n_features):
    pairs = make_pairs(seed, 100, n_features, FIVE, noise=0.1)
    choice = choose_from(make_buckets(pairs.x, pairs.y, 10))
    assert choice.rank == 5
    assert 0.05 < choice.held_out_residual < 0.2
    assert choice.held_out_residual == choice.residual_by_rank[5]


@pytest.mark.parametrize(("small", "above"), [(0.1, 0), (0.2, 1)])
def test_a_rank_that_helps_within_its_error_only_is_not_taken(make_pairs, make_buckets, small,
                                                              above):
    """On some of these stores the held-out residual is least at a rank above 5, on one perhaps
    by two standard errors: the true rank is 10."""
    choices = [choose_from(make_buckets(pairs.x, pairs.y, 10)) for pairs in (
        make_pairs(seed, 60, 12, [*FIVE, *[small] * 5], noise=0.5) for seed in range(16))]
    assert sum(np.argmin(c.residual_by_rank) > 5 for c in choices) > above
    ranks = [c.rank for c in choices]
    assert ranks.count(5) >= 16 - above
    assert max(ranks) <= 5 + above


@pytest.mark.parametrize("seed", range(3))
def test_terms_below_the_edge_of_noise_are_kept_where_held_out_pairs_miss_them(
        make_pairs, make_buckets, seed):
    """Of a long spectrum half of what stands out as a whole does not stand out one by one."""
    pairs = make_pairs(seed, 400, 40, 1.0 / np.arange(1.0, 41.0), noise=0.3)
    choice = choose_from(make_buckets(pairs.x, pairs.y, 10))
    assert choice.held_out_residual <= 1.005 * np.min(choice.residual_by_rank)
    assert choice.rank > 30


@pytest.mark.parametrize("seed", range(3))
def test_the_exact_rank_is_found_in_a_fitted_basis(make_pairs, make_buckets, seed):
    pairs = make_pairs(seed, 120, 60, FIVE, noise=0.1)
    basis = leading_directions(pairs.y, 30)
    choice = choose_from(make_buckets(pairs.x, pairs.y, 10, basis), n_blind=30)
    assert choice.rank == 5
    assert choice.n_basis <= 30


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_gains_give_the_residual_of_the_truncated_hessian_for_every_rank(
        make_pairs, make_buckets, rotation, center, nested):
    pairs = make_pairs(3, 70, 12, FIVE, noise=0.4, offset=1.0, condition=30.0)
    basis = rotation(5, 12)[:, :9]
    buckets = make_buckets(pairs.x, pairs.y, 7, basis)
    choice = choose_from(buckets, center=center, n_blind=9 if nested else None)
    k = choice.residual_by_rank.size - 1
    assert 0 < choice.n_terms < k
    rows = list(zip(np.array_split(pairs.x, 7), np.array_split(pairs.y, 7), strict=True))
    squares = np.zeros(k + 1)
    for fold in rotating_folds(buckets):
        x, y = (np.concatenate([rows[b][i] for b in fold.train]) for i in (0, 1))
        mean_x, mean_y = (a.mean(axis=0) if center else np.zeros(12) for a in (x, y))
        x, y = x - mean_x, y - mean_y
        inner = np.eye(9, k) if nested else np.linalg.svd(y @ basis)[2][:k].T
        q = basis @ inner
        m = ridge_fit(x @ q, y @ q, choice.ridge)
        for rank, cut in enumerate(cut_by_rank(m, x @ q, choice.n_terms)):
            h = q @ cut @ q.T
            for b in fold.test:
                test_x, test_y = rows[b]
                squares[rank] += np.sum((test_y - mean_y - (test_x - mean_x) @ h) ** 2)
    np.testing.assert_allclose(choice.residual_by_rank, np.sqrt(squares / np.sum(pairs.y**2)),
                               rtol=1e-8)


@pytest.mark.parametrize("seed", range(10))
def test_noise_alone_has_rank_zero(make_buckets, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, 300, 20))
    choice = choose_from(make_buckets(x, y, 10))
    assert choice.rank == 0
    assert choice.held_out_residual == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_an_offset_a_hundred_times_the_signal_is_centred(make_pairs, make_buckets, seed):
    pairs = make_pairs(seed, 200, 20, FIVE, noise=0.1, offset=100.0)
    choice = choose_from(make_buckets(pairs.x, pairs.y, 10))
    assert choice.center
    assert choice.rank == 5


@pytest.mark.parametrize("seed", range(4))
def test_few_pairs_without_offset_stay_uncentred(make_pairs, make_buckets, seed):
    pairs = make_pairs(seed, 60, 40, FIVE, noise=0.1)
    assert not choose_from(make_buckets(pairs.x, pairs.y, 10)).center


@pytest.mark.parametrize("center", [False, True])
def test_a_stated_centring_and_rank_are_obeyed(make_pairs, make_buckets, center):
    pairs = make_pairs(1, 200, 20, FIVE, noise=0.1, offset=1.0)
    choice = choose_from(make_buckets(pairs.x, pairs.y, 10), center=center, rank=3)
    assert (choice.center, choice.rank) == (center, 3)
    assert choice.held_out_residual == choice.residual_by_rank[3]


def test_a_rank_beyond_the_basis_is_cut_to_it(make_pairs, make_buckets):
    pairs = make_pairs(1, 200, 6, FIVE, noise=0.1)
    assert choose_from(make_buckets(pairs.x, pairs.y, 10), rank=50).rank == 6


@pytest.mark.parametrize("n_pairs", [48, 400], ids=["fewer pairs than features", "more"])
def test_a_slow_spectrum_without_noise_asks_for_many_columns_and_no_ridge(
        make_pairs, make_buckets, n_pairs):
    pairs = make_pairs(2, n_pairs, 64, 1.0 / np.arange(1, 65))
    choice = choose_from(make_buckets(pairs.x, pairs.y, 8))
    assert choice.n_basis >= min(n_pairs, 64) / 2
    assert choice.rank > 20
    assert choice.ridge <= 1e-8


def test_a_ridge_is_chosen_where_it_pays(make_pairs, make_buckets):
    pairs = make_pairs(4, 60, 20, [1.0] * 20, noise=0.5, condition=300.0)
    choice = choose_from(make_buckets(pairs.x, pairs.y, 10), center=False, rank=20)
    assert choice.ridge > 1e-6
    with_ridge, without = (np.linalg.norm(ridge_fit(pairs.x, pairs.y, ridge) - pairs.hessian)
                           for ridge in (choice.ridge, 0.0))
    assert with_ridge < 0.5 * without


def test_scaling_x_and_y_together_changes_no_choice(make_pairs, make_buckets):
    pairs = make_pairs(4, 100, 20, FIVE, noise=0.2, offset=1.0)
    here = choose_from(make_buckets(pairs.x, pairs.y, 10))
    there = choose_from(make_buckets(1e-6 * pairs.x, 1e-6 * pairs.y, 10))
    assert (here.n_basis, here.ridge, here.rank, here.center) == (
        there.n_basis, there.ridge, there.rank, there.center)
    np.testing.assert_allclose(there.residual_by_rank, here.residual_by_rank, rtol=1e-6)


@pytest.mark.parametrize("center", [False, True])
def test_the_directions_of_a_fold_are_blind_to_its_test_pairs(make_pairs, make_buckets, monkeypatch,
                                                              center):
    pairs, others = (make_pairs(seed, 60, 20, FIVE, noise=0.3) for seed in (5, 6))
    found = []

    def watched(y, k, rounding):
        found.append(leading_directions(y, k, rounding))
        return found[-1]

    monkeypatch.setattr(held_out, "leading_directions", watched)
    fold = Fold(train=(0, 2, 3), test=(1, 4))
    tested = np.isin(np.repeat(np.arange(5), 12), fold.test)[:, None]
    x, y = (np.where(tested, b, a) for a, b in ((pairs.x, others.x), (pairs.y, others.y)))
    stores = [make_buckets(*xy, 5) for xy in ((pairs.x, pairs.y), (x, y))]
    choices = [choose(buckets, moments_of(buckets), [fold], Asked(rank=5, center=center))
               for buckets in stores]
    np.testing.assert_array_equal(*found)
    assert choices[0].held_out_residual != choices[1].held_out_residual


@pytest.mark.parametrize("size", [
    0.5, *(pytest.param(size, marks=pytest.mark.long) for size in (0.1, 3.0))])
def test_the_error_of_the_held_out_residual_covers_its_scatter(make_pairs, make_buckets, size):
    """Noise of one size in all stores, not one that goes by the energy of each."""
    choices, hessian = [], make_pairs(0, 20, 10, FIVE).hessian
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x, noise = rng.standard_normal((2, 200, 10))
        choices.append(choose_from(make_buckets(x, x @ hessian + size * noise, 10), rank=5,
                                   center=False))
    scatter = np.std([c.held_out_residual for c in choices])
    assert 0.7 < scatter / np.mean([c.residual_by_rank_error[5] for c in choices]) < 1.4
