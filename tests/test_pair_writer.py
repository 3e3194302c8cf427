"""Recorders: every pair that was added is stored once, and one bad pair costs no others."""

import contextlib

import numpy as np
import pytest
from appenders import holds

from lrh_dask import BadPairs, PairWriter, SettingsError, append_pairs, open_pairs
from lrh_dask.stores import local_stores

X, Y = np.random.default_rng(0).standard_normal((2, 57, 5))


@pytest.fixture(params=["a.zarr", "a.icechunk"])
def store(request, tmp_path):
    """Where a store may be made, of each kind."""
    return tmp_path / request.param


def test_a_recorder_loses_no_pair(store):
    weight = np.arange(57.0)
    with PairWriter(store, label="run-1", rows_at_once=10) as writer:
        for i in range(30):
            writer.add(X[i], Y[i], weight[i])
        writer.add(X[30:], Y[30:], weight[30:])
    assert holds(store, X, Y)
    pairs = open_pairs(store)
    np.testing.assert_array_equal(pairs.read(0, 57).weight, weight)
    assert {b.label for b in pairs.batches} == {"run-1"}
    assert [b.stop for b in pairs.batches] == [10, 20, 30, 40, 50, 57]


def test_a_recorder_that_fails_keeps_what_was_published(store):
    with pytest.raises(ZeroDivisionError), PairWriter(store, rows_at_once=10) as writer:  # noqa: PT012
        writer.add(X[:33], Y[:33])
        raise ZeroDivisionError
    assert open_pairs(store).n_pairs == 30


def test_one_bad_pair_costs_a_recorder_no_others(store):
    with PairWriter(store, rows_at_once=10) as writer:
        writer.add(X[:15], Y[:15])
        for x, y, said in ((X[15], np.full(5, np.nan), "finite"),
                           (X[15, :4], Y[15, :4], "features"),
                           (X[15].astype(complex), Y[15], "float32 or float64")):
            with pytest.raises(BadPairs, match=said):
                writer.add(x, y)
        writer.add(list(map(int, X[15])), Y[15])
    assert holds(store, np.vstack([X[:15], X[15].astype(int)]), Y[:16])


def test_a_recorder_hears_at_once_that_a_store_is_of_other_pairs(store):
    append_pairs(store, X, Y)
    with pytest.raises(BadPairs, match="expected 5 features"):
        PairWriter(store).add(X[0, :3], Y[0, :3])


def test_a_recorder_goes_on_in_a_store_of_its_kind(store):
    append_pairs(store, X.astype("f8"), Y)
    with PairWriter(store) as writer:
        writer.add(X[0].astype("f4"), Y[0].astype("f4"))
    assert open_pairs(store).n_pairs == 58
    with pytest.raises(SettingsError, match="at least 1"):
        PairWriter(store, rows_at_once=0)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_pairs_whose_append_was_interrupted_after_it_was_published_count_once(
        tmp_path, monkeypatch, error):
    store = tmp_path / "a.zarr"
    append_pairs(store, X[:10], Y[:10], chunk_rows=10)
    writer = PairWriter(store, rows_at_once=40)
    writer.add(X[10:20], Y[10:20])

    def failing(folder, keys, _sync=local_stores.sync_folders):
        _sync(folder, keys)
        if folder == store and open_pairs(store).n_pairs == 20:
            monkeypatch.undo()
            raise error

    monkeypatch.setattr(local_stores, "sync_folders", failing)
    with contextlib.suppress(KeyboardInterrupt):
        writer.flush()
    writer.add(X[20:30], Y[20:30])
    writer.flush()
    pairs = open_pairs(store)
    assert pairs.n_pairs == 30
    np.testing.assert_array_equal(pairs.read(0, 30).x, X[:30])
