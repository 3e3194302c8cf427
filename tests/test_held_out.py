"""Scores of candidates, against the rows that judge them."""

from __future__ import annotations

import numpy as np
import pytest

from lrh_dask.linalg.moments import moments_of
from lrh_dask.linalg.solve import Rows, center_rows
from lrh_dask.statistics.fitting import rotating_folds
from lrh_dask.statistics.held_out import NO_RIDGE, Candidate, Split, by_bucket, score, view_of

RIDGES = (0.0, 1e-6, 1e-3, 1e-2, 0.1, 1.0)


def cuts_of(buckets, *, k, center=False):
    moments = moments_of(buckets)
    return [view_of(buckets, Split.of(moments, fold), center, k, 0.0, nested=False, exact=None,
                    psd=False).cut(k) for fold in rotating_folds(buckets)]


@pytest.mark.parametrize("center", [False, True])
def test_scores_are_what_every_cut_leaves_of_the_rows_held_out(make_pairs, make_buckets, center):
    pairs = make_pairs(3, 300, 12, [4.0, -2.0, 1.0], noise=0.3, offset=1.0)
    buckets = make_buckets(pairs.x, pairs.y, 10)
    cuts = cuts_of(buckets, k=9, center=center)
    for candidate in score(cuts, RIDGES, None):
        squares = by_bucket(cuts, candidate)
        np.testing.assert_allclose(squares.squares.sum(axis=0), candidate.squares.sum(axis=0))
        for cut, of_fold in zip(cuts, np.split(squares.squares, len(cuts)), strict=True):
            terms = cut.merely_cut(candidate.ridge).terms
            u = cut.directions @ terms.directions
            for b, of_bucket in zip(cut.view.split.fold.test, of_fold, strict=True):
                rows = Rows.of(buckets[b])
                rows = rows if cut.view.point is None else center_rows(rows, cut.view.point)
                for rank in (0, 3, 9):
                    h = u[:, :rank] * terms.weights[:rank] @ u[:, :rank].T
                    wanted = np.sum((rows.y - rows.x @ h) ** 2)
                    assert of_bucket[rank] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("condition", [1.0, 30.0, 1e4])
def test_a_ridge_is_none_where_it_hardly_changes_any_entry(make_pairs, make_buckets, condition):
    pairs = make_pairs(5, 4000, 12, [4.0, -2.0, 1.0], noise=0.3, condition=condition)
    cut = cuts_of(make_buckets(pairs.x, pairs.y, 10), k=12)[0]
    free, seen = cut.fit.solve_in_axes(), []
    assert not cut.is_none(0.0)
    for ridge in 10.0 ** np.arange(-16.0, 1.0, 0.25):
        changed = np.max(1.0 - cut.fit.solve_in_axes(ridge) / free)
        seen.append(cut.is_none(ridge))
        assert changed <= NO_RIDGE if seen[-1] else changed >= 0.9 * NO_RIDGE
    assert set(seen) == {True, False}


@pytest.mark.parametrize(("n_pairs", "noise"), [(4000, 0.01), (4000, 0.3), (150, 0.3), (60, 1.0)])
def test_candidates_that_are_left_out_would_not_have_won(make_pairs, make_buckets, n_pairs, noise):
    pairs = make_pairs(5, n_pairs, 12, [4.0, -2.0, 1.0], noise=noise)
    cuts = cuts_of(make_buckets(pairs.x, pairs.y, 10), k=12)
    everyone, rest = (score(cuts, RIDGES, least) for least in (None, np.inf))
    least = min(everyone, key=Candidate.loss)
    kept = {v.ridge: v.loss() for v in rest}
    assert kept[least.ridge] == least.loss()
    assert min(kept.values()) == least.loss()
    assert len(everyone) == len(RIDGES)
    assert n_pairs < 4000 or len(rest) < len(RIDGES)
    assert all(v.loss() > least.loss() for v in everyone if v.ridge not in kept)
