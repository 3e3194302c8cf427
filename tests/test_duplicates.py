"""Rows that repeat others are counted, exactly while few and by a fair sample beyond."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrh_dask.linalg import duplicates
from lrh_dask.linalg.arrays import row_squares
from lrh_dask.linalg.duplicates import RowHashes


def rows(seed, n, n_features=5, dtype="float64"):
    return np.random.default_rng(seed).standard_normal((n, n_features)).astype(dtype)


@given(st.lists(st.lists(st.integers(0, 12), max_size=30), min_size=1, max_size=5),
       st.sampled_from(["float16", "float32", "float64"]), st.integers(1, 5))
def test_repeated_rows_are_counted_whatever_the_parts(parts, dtype, n_features):
    pool = rows(0, 13, n_features, dtype)
    found = RowHashes()
    for part in parts:
        found = RowHashes.of(pool[part], -pool[part]).merge(found)
    everyone = [i for part in parts for i in part]
    assert found.n_duplicates == len(everyone) - len(set(everyone))


def test_rows_that_differ_in_x_or_y_alone_are_no_duplicates():
    x, y = rows(0, 50), rows(1, 50)
    assert RowHashes.of(np.repeat(x, 2, axis=0), rows(2, 100)).n_duplicates == 0
    assert RowHashes.of(rows(2, 100), np.repeat(y, 2, axis=0)).n_duplicates == 0
    assert RowHashes.of(np.concatenate([x, y]), np.concatenate([y, x])).n_duplicates == 0


def test_rows_of_small_whole_numbers_do_not_collide():
    grid = np.stack(np.meshgrid(*[np.arange(12.0)] * 3), axis=-1).reshape(-1, 3)
    assert RowHashes.of(grid, grid).n_duplicates == 0


def test_beyond_the_sample_the_share_is_estimated(monkeypatch):
    monkeypatch.setattr(duplicates, "KEPT", 1000)
    found = RowHashes()
    for seed in (0, 1, 2, 0):  # a quarter of the rows repeats
        found = found.merge(RowHashes.of(rows(seed, 5000)))
    assert found.hashes.size == 1000
    assert found.n_duplicates == pytest.approx(5000, rel=0.1)


def test_rows_chosen_by_their_keys_give_the_same_share():
    found = RowHashes()
    for seed in (0, 1, 2, 0):
        x, y = rows(seed, 5000), rows(seed + 9, 5000)
        found = found.merge(RowHashes.of(x, y, keys=(np.vecdot(x, x), np.vecdot(y, y)), share=0.1))
    assert found.hashes.size == pytest.approx(1500, rel=0.1)
    assert found.n_rows == 20_000
    assert found.n_duplicates == pytest.approx(5000, rel=0.1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_features", [1, 7, 1001])
def test_equal_rows_have_lengths_of_the_same_bits_wherever_they_lie(dtype, n_features):
    row = rows(0, 1, n_features, dtype)
    block = np.concatenate([rows(1, 13, n_features, dtype), np.repeat(row, 5, axis=0)])
    for start in range(8):
        assert set(row_squares(block[start:])[-5:]) == set(row_squares(row))


def test_merge_writes_no_input_and_has_an_identity():
    a, b = RowHashes.of(rows(0, 30)), RowHashes.of(rows(1, 30))
    for state in (a, b):
        state.hashes.flags.writeable = state.counts.flags.writeable = False
    both = a.merge(b).merge(RowHashes())
    np.testing.assert_array_equal(both.hashes, b.merge(a).hashes)
    assert int(both.counts.sum()) == 60


@pytest.mark.parametrize("n_different", [1, 4, 20, 60, 500])
@pytest.mark.parametrize("seed", range(5))
def test_few_different_rows_are_never_passed_by(n_different, seed):
    """However small the share: of 4 different rows mostly none has a key below it."""
    x, y = rows(seed, n_different), rows(seed + 99, n_different)
    found, n = RowHashes(), 100_000
    which = np.random.default_rng(seed).integers(0, n_different, n)
    for part in np.split(which, 200):
        keys = (np.vecdot(x, x)[part], np.vecdot(y, y)[part])
        found = found.merge(RowHashes.of(x[part], y[part], keys=keys, share=1e-3))
    assert found.n_duplicates == pytest.approx(n - n_different, abs=0 if n_different < 16 else 200)


def test_rows_of_one_length_are_all_hashed():
    x = np.where(rows(0, 6000, 30) > 0, 1.0, -1.0)
    x[3000:] = x[:3000]
    keys = (np.vecdot(x, x),)
    assert RowHashes.of(x, keys=keys, share=1e-3).n_duplicates == 3000


@pytest.mark.parametrize("share", [1e-4, 0.05, 0.5])
def test_a_sample_is_that_of_the_rows_however_they_are_cut(share):
    x = rows(0, 9000)
    key = np.vecdot(x, x)
    whole = RowHashes.of(x, keys=(key,), share=share)
    parts = [RowHashes.of(x[a:b], keys=(key[a:b],), share=share)
             for a, b in ((0, 10), (10, 4000), (4000, 4500), (4500, 9000))]
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        found = RowHashes()
        for i in order:
            found = found.merge(parts[i])
        assert found == whole == parts[order[0]].merge(*(parts[i] for i in order[1:]))
        assert (found.n_rows, found.up_to) == (9000, whole.up_to)
    assert whole.hashes.size == pytest.approx(max(16, 9000 * share), rel=0.2)


@pytest.mark.parametrize("last_first", [False, True])
def test_of_more_hashes_than_are_kept_all_copies_are_counted_or_none(monkeypatch, last_first):
    """Few different keys at first, so that all rows are hashed; more later, so that few are."""
    monkeypatch.setattr(duplicates, "KEPT", 1000)
    x, others = rows(0, 8000), rows(1, 3000)
    key = np.arange(8000) % 10.0
    states = [RowHashes.of(x, keys=(key,), share=1e-4),
              RowHashes.of(np.concatenate([x, others]), share=1e-4,
                           keys=(np.concatenate([key, np.repeat(np.arange(10.0, 40.0), 100)]),))]
    found = states[last_first].merge(states[not last_first])
    assert states[0].hashes.size == 1000, "not the case to try"
    assert set(found.counts) <= {1, 2}
    assert found.n_duplicates == pytest.approx(8000, rel=0.15)
    assert all(a.base is None for state in states for a in (state.hashes, state.counts, state.keys))


def test_rows_that_are_not_told_are_as_if_they_were_not_there():
    x = rows(0, 900)
    key, told = np.vecdot(x, x), np.arange(900) % 3 > 0
    assert RowHashes.of(x, keys=(key,), share=0.1, told=told) == RowHashes.of(
        x[told], keys=(key[told],), share=0.1)
