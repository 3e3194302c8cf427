"""A chunk that is missing inside a shard is never read as zeros, by any version of Zarr."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec, ZstdCodec
from zarr.storage import LocalStore

from lrh_dask import BadPairs, fit, open_pairs
from lrh_dask.stores.inspection import inspect_pairs
from lrh_dask.stores.layout import has_checksum

X = np.random.default_rng(0).standard_normal((57, 6))
SHARD, CHUNK = (20, 6), (5, 3)


def sharded(path, *, empty=None, index_location="end", index_codecs=None, inner=None,
            keep_empty=False):
    """Rows in shards; those of ``empty`` are zeros, which Zarr does not store unless told."""
    group = zarr.open_group(path, mode="w")
    for name in "xy":
        rows = X.copy()
        if empty is not None and name == "y":
            rows[empty] = 0.0
        array = group.create_array(
            name, shape=X.shape, dtype=X.dtype, chunks=SHARD, compressors=None, fill_value=0.0,
            config={"write_empty_chunks": keep_empty}, serializer=ShardingCodec(
                chunk_shape=CHUNK, codecs=inner or [BytesCodec()], index_location=index_location,
                index_codecs=index_codecs or [BytesCodec(), Crc32cCodec()]))
        array[:] = rows
    return path


@pytest.mark.parametrize("index_location", ["start", "end"])
@pytest.mark.parametrize("index_codecs", [None, [BytesCodec()]])
def test_a_chunk_missing_inside_a_shard_is_never_read_as_zeros(tmp_path, index_location,
                                                               index_codecs):
    path = sharded(tmp_path / "a.zarr", empty=np.s_[25:30, 3:], index_location=index_location,
                   index_codecs=index_codecs)
    assert not zarr.open_group(path)["y"][25:30, 3:].any()  # without a word
    pairs = open_pairs(path)
    np.testing.assert_array_equal(pairs.read(0, 20).x, X[:20])
    pairs.read(40, 57)
    pairs.read(30, 40)
    pairs.read(20, 40, columns=(0, 3))
    for rows in ((20, 40), (29, 30)):
        with pytest.raises(BadPairs, match=r"1 missing \(c/1/0 \(1, 1\)\)"):
            pairs.read(*rows)
    with pytest.raises(BadPairs, match="every chunk to be stored"):
        fit(pairs)
    with pytest.raises(BadPairs, match=r"y: 1 missing \(c/1/0 \(1, 1\)\)"):
        inspect_pairs(pairs)


def test_chunks_beyond_the_last_row_are_not_missed(tmp_path):
    pairs = open_pairs(sharded(tmp_path / "a.zarr"))
    np.testing.assert_array_equal(pairs.read(40, 57).y, X[40:])
    assert inspect_pairs(pairs, every_row=True)["usable"] == "yes"


def test_zeros_that_were_stored_are_zeros(tmp_path):
    pairs = open_pairs(sharded(tmp_path / "a.zarr", empty=np.s_[25:30, 3:], keep_empty=True))
    assert not pairs.read(25, 30).y[:, 3:].any()


def test_a_shard_that_is_declared_to_hold_fill_may_lack_chunks(tmp_path):
    path = sharded(tmp_path / "a.zarr", empty=np.s_[25:30, 3:])
    zarr.open_group(path).attrs["lrh_fill_chunks"] = {"y": ["c/1/0"]}
    assert not open_pairs(path).read(25, 30).y[:, 3:].any()


@pytest.mark.parametrize("at", [-1, -30])
def test_an_index_that_is_damaged_is_an_error(tmp_path, at):
    path = sharded(tmp_path / "a.zarr")
    shard = path / "x" / "c" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[at] ^= 1
    shard.write_bytes(content)
    with pytest.raises(BadPairs, match="read rows 0-19 of .*/x: expected chunks that can be"):
        open_pairs(path).read(0, 20)


@pytest.mark.parametrize("how", [
    {"index_codecs": [BytesCodec(), Crc32cCodec(), Crc32cCodec()]},
    {"inner": [ShardingCodec(chunk_shape=(5, 1), codecs=[BytesCodec()])]}])
def test_shards_of_which_nobody_could_tell_what_is_missing_are_refused(tmp_path, how):
    with pytest.raises(BadPairs, match="expected shards of one level"):
        open_pairs(sharded(tmp_path / "a.zarr", **how))


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")
def test_shards_behind_another_codec_are_refused(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for name in "xy":
        group.create_array(name, data=X[:, :5], chunks=(20, 5), compressors=None, filters=[
            TransposeCodec(order=(1, 0))], serializer=ShardingCodec(
                chunk_shape=(5, 5), codecs=[BytesCodec()]))
    with pytest.raises(BadPairs, match="expected shards of one level"):
        open_pairs(tmp_path / "a.zarr")


@pytest.mark.parametrize(("inner", "protected"), [
    ([BytesCodec()], False), ([BytesCodec(), Crc32cCodec()], True),
    ([BytesCodec(), ZstdCodec(checksum=True)], True), ([BytesCodec(), ZstdCodec()], False)])
def test_a_checksum_of_the_index_is_none_of_the_numbers(tmp_path, inner, protected):
    pairs = open_pairs(sharded(tmp_path / "a.zarr", inner=inner))
    assert has_checksum(pairs.x) == protected
    told = inspect_pairs(pairs)
    assert told["checksums"] == protected
    assert ("no checksums: a bit that flips" in told["notices"]) != protected


@pytest.mark.parametrize("inner", [None, [BytesCodec(), Crc32cCodec()]])
@pytest.mark.parametrize("shard", ["c/1/0", "c/2/0"])
def test_a_shard_that_ends_before_what_its_index_says_is_never_read_as_zeros(
        tmp_path, inner, shard):
    """The index lies at the beginning and is whole; of the last shard only a part is asked for."""
    path = sharded(tmp_path / "a.zarr", index_location="start", inner=inner)
    stored = path / "y" / shard
    stored.write_bytes(stored.read_bytes()[:8 * 16 + 4 + 5 * 3 * 8 + (4 if inner else 0)])
    pairs, first = open_pairs(path), int(shard[2]) * 20
    for rows in ((first, min(first + 20, 57)), (first + 5, first + 7)):
        with pytest.raises(BadPairs, match="expected chunks that can be decoded"):
            pairs.read(*rows)
    with pytest.raises(BadPairs):
        fit(pairs)


def test_an_index_that_speaks_of_chunks_of_no_bytes_is_an_error(tmp_path):
    path = sharded(tmp_path / "a.zarr", index_codecs=[BytesCodec()])
    stored = path / "y" / "c" / "2" / "0"
    content = bytearray(stored.read_bytes())
    content[-8:] = bytes(8)  # the length of the last
    stored.write_bytes(content)
    with pytest.raises(BadPairs, match="chunks of no bytes"):
        open_pairs(path).read(40, 57)


class Away(LocalStore):
    """Whose folder is elsewhere while one of its chunks is read."""

    async def get(self, key, *args, **kwargs):
        with self.away(key):
            return await super().get(key, *args, **kwargs)

    def get_sync(self, key, **kwargs):  # of newer versions of Zarr
        with self.away(key):
            return super().get_sync(key, **kwargs)

    @contextlib.contextmanager
    def away(self, key):
        moved = self.root.with_name("away")
        if key.endswith("y/c/1/0"):
            self.root.rename(moved)
        try:
            yield
        finally:
            if key.endswith("y/c/1/0"):
                moved.rename(self.root)


@pytest.mark.parametrize("how", [{"compressors": "auto"}, {"compressors": None},
                                 {"shards": (40, 6)}], ids=str)
def test_a_store_that_is_away_while_a_chunk_is_read_is_told_although_it_is_back(tmp_path, how):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for name in "xy":
        group.create_array(name, data=X, chunks=SHARD, **how)
    pairs = open_pairs(zarr.open_group(Away(tmp_path / "a.zarr"), mode="r"))
    with pytest.raises(BadPairs, match=r"missing \(c/|decoded"):
        pairs.read(20, 57)
