"""Stores: what is read is what was written, and what cannot be read is refused by name."""

import os
import warnings

import dask.array as da
import numpy as np
import pytest
import zarr

from lrh_dask import BadPairs, Pairs, SettingsError, open_pairs, write_pairs

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((2, 57, 5))


def store_of(path, **arrays):
    group = zarr.open_group(path, mode="w")
    for name, array in arrays.items():
        group.create_array(name, data=array, chunks=(10, *array.shape[1:]),
                           config={"write_empty_chunks": True})
    return path


def test_what_is_written_is_read_back(tmp_path):
    weight = RNG.random(57)
    pairs = open_pairs(write_pairs(tmp_path / "a.zarr", X, Y, weight, chunk_rows=10))
    block = pairs.read(13, 42)
    np.testing.assert_array_equal(block.x, X[13:42])
    np.testing.assert_array_equal(block.y, Y[13:42])
    np.testing.assert_array_equal(block.weight, weight[13:42])
    assert pairs.has_checksums()


@pytest.mark.parametrize(("stored", "computed"), [
    ("<f4", "f4"), (">f4", "f4"), (">f8", "f8"), ("<f2", "f4"), ("i2", "f8"), ("u1", "f8")])
def test_dtypes_are_read_right_in_their_working_dtype(tmp_path, stored, computed):
    x, y = (10 * np.abs(X)).astype(stored), (10 * np.abs(Y)).astype(stored)
    pairs = open_pairs(store_of(tmp_path / "a.zarr", x=x, y=y))
    block = pairs.read(0, 57)
    assert block.x.dtype == np.dtype(computed)
    assert block.x.dtype.isnative
    np.testing.assert_array_equal(block.y, y.astype(computed))
    assert bool(pairs.notices()) == (stored in {"<f2", "i2", "u1"})


@pytest.mark.parametrize("dtype", [bool, complex])
def test_unreal_dtypes_are_refused(tmp_path, dtype):
    with pytest.raises(BadPairs, match="expected float32 or float64"):
        open_pairs(store_of(tmp_path / "a.zarr", x=X.astype(dtype), y=Y.astype(dtype)))


def test_object_arrays_are_refused():
    with pytest.raises(BadPairs, match="object"):
        Pairs(X.astype(object), Y.astype(object))


@pytest.mark.parametrize(("x", "y", "said"), [
    (X, Y[:50], r"x \(57, 5\) and y \(50, 5\)"),
    (X[:, 0], Y[:, 0], "2-D"),
    (X[:0], Y[:0], "0 pairs"),
    (X[:1], Y[:1], "1 pairs"),
])
def test_shapes_that_are_no_pairs_are_refused(x, y, said):
    with pytest.raises(BadPairs, match=said):
        Pairs(x, y)


def test_a_store_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadPairs, match="nothing there"):
        open_pairs(tmp_path / "nowhere.zarr")


def test_a_group_without_y_says_what_it_has(tmp_path):
    with pytest.raises(BadPairs, match=r"got arrays \['x'\]"):
        open_pairs(store_of(tmp_path / "a.zarr", x=X))


def test_other_names_are_settings(tmp_path):
    path = store_of(tmp_path / "a.zarr", s=X, g=Y)
    np.testing.assert_array_equal(open_pairs(path, x="s", y="g").read(0, 57).y, Y)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(tmp_path, bad):
    y = Y.copy()
    y[[23, 25], 3] = bad
    pairs = open_pairs(store_of(tmp_path / "a.zarr", x=X, y=y))
    with pytest.raises(BadPairs, match=r"rows 20-29 of .*a.zarr/y: .* in 2 rows \(23, 25\)"):
        pairs.read(20, 30)
    pairs.read(30, 57)


def test_values_whose_sum_overflows_are_finite_all_the_same(tmp_path):
    big = np.full((20, 5), 3e38, dtype=np.float32)
    block = open_pairs(store_of(tmp_path / "a.zarr", x=big, y=big)).read(0, 20)
    assert np.isfinite(block.x).all()


def test_a_file_address_is_that_path(tmp_path):
    path = write_pairs(tmp_path / "a b.zarr", X, Y)
    pairs = open_pairs(path.as_uri())
    assert pairs.x.store.root == path
    np.testing.assert_array_equal(pairs.read(0, 57).x, X)


def test_a_missing_chunk_is_never_read_as_zeros(tmp_path):
    path = store_of(tmp_path / "a.zarr", x=X, y=Y)
    (path / "x" / "c" / "4" / "0").unlink()
    pairs = open_pairs(path)
    pairs.read(0, 40)
    with pytest.raises(BadPairs, match="c/4/0"):
        pairs.read(35, 45)


def test_a_missing_shard_is_never_read_as_zeros(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for name, array in (("x", X), ("y", Y)):
        group.create_array(name, data=array, shards=(20, 5), chunks=(5, 5))
    (tmp_path / "a.zarr" / "y" / "c" / "1" / "0").unlink()
    pairs = open_pairs(tmp_path / "a.zarr")
    assert pairs.blocks.chunk_rows == 20
    with pytest.raises(BadPairs, match="c/1/0"):
        pairs.read(20, 25)


def test_masks_and_unknown_lengths_are_refused_with_what_to_do():
    with pytest.raises(BadPairs, match="a masked array.*Leave out the rows"):
        Pairs(np.ma.masked_greater(X, 0.5), Y)
    x, y = (da.from_array(a, chunks=(20, 5)) for a in (X, Y))
    with pytest.raises(BadPairs, match=r"a known number of rows.*compute_chunk_sizes"):
        Pairs(x[x[:, 0] > 0], y[x[:, 0] > 0])


def test_a_store_that_went_away_is_never_read_as_zeros(tmp_path):
    pairs = open_pairs(write_pairs(tmp_path / "a.zarr", X, Y))
    (tmp_path / "a.zarr").rename(tmp_path / "b.zarr")
    with pytest.raises(BadPairs, match="a store that this worker can see"):
        pairs.read(0, 10)


def test_chunks_declared_as_fill_may_be_missing(tmp_path):
    path = store_of(tmp_path / "a.zarr", x=X, y=Y)
    (path / "x" / "c" / "4" / "0").unlink()
    zarr.open_group(path).attrs["lrh_fill_chunks"] = {"x": ["c/4/0"]}
    assert not open_pairs(path).read(40, 50).x.any()


def test_a_truncated_chunk_is_refused(tmp_path):
    path = write_pairs(tmp_path / "a.zarr", X, Y, chunk_rows=10)
    chunk = path / "y" / "c" / "2" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(BadPairs, match=r"rows 20-29 of .*/y: expected chunks that can be decoded"):
        open_pairs(path).read(20, 30)


def test_a_flipped_bit_is_found_in_stores_that_we_write(tmp_path):
    path = write_pairs(tmp_path / "a.zarr", X, Y, chunk_rows=10)
    chunk = path / "x" / "c" / "0" / "0"
    raw = bytearray(chunk.read_bytes())
    raw[77] ^= 4
    chunk.write_bytes(raw)
    with pytest.raises(BadPairs, match="decoded"):
        open_pairs(path).read(0, 10)


def test_an_existing_store_is_not_overwritten_unasked(tmp_path):
    path = write_pairs(tmp_path / "a.zarr", X, Y)
    with pytest.raises(SettingsError, match="one that exists"):
        write_pairs(path, X[:5], Y[:5])
    assert open_pairs(path).n_pairs == 57
    write_pairs(path, X[:5], Y[:5], overwrite=True)
    assert open_pairs(path).n_pairs == 5
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_a_failed_writer_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_pairs(tmp_path / "a.zarr", X, Y)
    assert list(tmp_path.iterdir()) == []


def test_only_pairs_are_overwritten_by_pairs(tmp_path):
    for name in ("folder", "file"):
        path = tmp_path / name
        path.mkdir() if name == "folder" else path.write_text("precious")
        with pytest.raises(SettingsError, match="something else"):
            write_pairs(path, X, Y, overwrite=True)
        assert path.exists()
    assert len(list(tmp_path.iterdir())) == 2


def test_rows_appended_after_consolidation_are_seen(tmp_path):
    path = store_of(tmp_path / "a.zarr", x=X, y=Y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(path))
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    group["x"].append(X)
    group["y"].append(Y)
    assert open_pairs(path).n_pairs == 114


def test_arrays_of_different_kinds_are_refused(tmp_path):
    stored = open_pairs(write_pairs(tmp_path / "a.zarr", X, Y))
    with pytest.raises(SettingsError, match="NumPy and Zarr"):
        Pairs(stored.x, Y)


def test_negative_weights_are_refused():
    weight = np.ones(57)
    weight[9] = -1
    with pytest.raises(BadPairs, match=r"weight: expected finite values >= 0.*\(9\)"):
        Pairs(X, Y, weight).read(0, 57)


def test_dask_arrays_are_pairs_too():
    pairs = Pairs(da.from_array(X, chunks=(20, 2)), da.from_array(Y, chunks=(20, 5)))
    assert (pairs.n_pairs, pairs.n_features, pairs.blocks.chunk_rows) == (57, 5, 20)


def test_credentials_in_an_address_are_not_repeated():
    with pytest.raises(BadPairs) as caught:
        open_pairs("memory://user:secret@bucket/none.zarr")
    assert "secret" not in str(caught.value)
