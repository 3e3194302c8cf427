"""A chunk that is missing inside a shard is never read as zeros, by any version of Zarr."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

from lrh_dask import BadPairs, fit, open_pairs
from lrh_dask.stores.chunks import has_checksum
from lrh_dask.stores.inspection import inspect_pairs

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


def test_an_index_of_another_kind_is_told(tmp_path):
    path = sharded(tmp_path / "a.zarr", index_codecs=[BytesCodec(), ZstdCodec()])
    assert any("index is not known here" in said for said in open_pairs(path).notices())
    assert not any("shards" in said for said in open_pairs(
        sharded(tmp_path / "b.zarr")).notices())


@pytest.mark.parametrize(("inner", "protected"), [
    ([BytesCodec()], False), ([BytesCodec(), Crc32cCodec()], True),
    ([BytesCodec(), ZstdCodec(checksum=True)], True), ([BytesCodec(), ZstdCodec()], False)])
def test_a_checksum_of_the_index_is_none_of_the_numbers(tmp_path, inner, protected):
    pairs = open_pairs(sharded(tmp_path / "a.zarr", inner=inner))
    assert has_checksum(pairs.x) == protected
    told = inspect_pairs(pairs)
    assert told["checksums"] == protected
    assert ("no checksums: a bit that flips" in told["notices"]) != protected
