"""Rows read a few at a time are those of the chunks, and damage is found before they count."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from test_bits import bytes_of
from zarr.codecs import Crc32cCodec

from lrh_dask import BadPairs, Pairs, fit, open_pairs
from lrh_dask.runs.budget import Route
from lrh_dask.runs.leaves import fit_leaf
from lrh_dask.runs.memory import CACHED_BYTES
from lrh_dask.runs.pipeline import price
from lrh_dask.runs.spec import Spec
from lrh_dask.statistics.asked import Asked
from lrh_dask.stores.chunks import read_rows
from lrh_dask.stores.streaming import Stream, can_stream
from lrh_dask.stores.synthetic import Known, write_known

N, D, CHUNK_ROWS = 57, 5, 10
needs_a_failing_file = pytest.mark.skipif(
    not Path("/proc/self/mem").exists(),
    reason="only Linux has a file, /proc/self/mem, that opens and whose first page is an I/O error")
ROWS = 10 * np.random.default_rng(0).standard_normal((N, D))


def array_of(path, rows=ROWS, checksums=True):
    return zarr.create_array(path, data=rows, chunks=(CHUNK_ROWS, D),
                             compressors=(Crc32cCodec(),) if checksums else None,
                             config={"write_empty_chunks": True})


def chunk_of(array, chunk):
    return array.store.root / array.path / "c" / str(chunk) / "0"


def read_all(array, fill=frozenset()):
    with Stream("rows", array, fill) as stream:
        rows = [stream.read(start, min(start + 4, N)).copy() for start in range(0, N, 4)]
    return np.concatenate(rows)


def damage(path, at, mask=4):
    content = bytearray(path.read_bytes())
    content[at] ^= mask
    path.write_bytes(content)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Arrays with checksums and without, of every kind of number."""
    folder = tmp_path_factory.mktemp("arrays")
    return [(rows, array_of(folder / f"{dtype}-{i}", rows, **settings))
            for dtype in ("float16", "float32", "float64", "int16")
            for rows in [ROWS.astype(dtype)]
            for i, settings in enumerate([{}, {"checksums": False}])]


@given(st.data())
def test_any_rows_in_any_order_are_those_stored(arrays, data):
    rows, array = arrays[data.draw(st.integers(0, len(arrays) - 1))]
    with Stream("rows", array) as stream:
        for _ in range(data.draw(st.integers(1, 6))):
            start = data.draw(st.integers(0, N - 1))
            stop = data.draw(st.integers(start + 1, N))
            np.testing.assert_array_equal(stream.read(start, stop), rows[start:stop])


def test_a_missing_chunk_is_refused_unless_it_is_declared_fill(tmp_path):
    array = array_of(tmp_path / "a")
    chunk_of(array, 4).unlink()
    with pytest.raises(BadPairs, match=r"rows 40-43 of rows: expected every chunk.*c/4/0"):
        read_all(array)
    expected = ROWS.copy()
    expected[40:50] = 0.0
    np.testing.assert_array_equal(read_all(array, frozenset({"c/4/0"})), expected)


def test_a_store_that_went_away_is_told_as_such(tmp_path):
    array = array_of(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(BadPairs, match="a store that this worker can see"):
        read_all(array)


@pytest.mark.parametrize("chunk", [2, N // CHUNK_ROWS])
@pytest.mark.parametrize("at", [0, 8 * D * CHUNK_ROWS - 1, -1])
def test_a_flipped_bit_is_found_in_any_chunk_and_its_checksum(tmp_path, chunk, at):
    """In the last chunk, too, most rows of which are of no pair."""
    array = array_of(tmp_path / "a")
    damage(chunk_of(array, chunk), at)
    with pytest.raises(BadPairs, match=f"c/{chunk}/0 is not what its crc32c"):
        read_all(array)


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("n_bytes", [0, 100, 399, 403, 500])
@pytest.mark.parametrize(("chunk", "rows"), [(2, "20-29"), (N // CHUNK_ROWS, "50-56")])
def test_a_chunk_of_another_length_is_refused(tmp_path, checksums, n_bytes, chunk, rows):
    array = array_of(tmp_path / "a", checksums=checksums)
    path = chunk_of(array, chunk)
    path.write_bytes((2 * path.read_bytes())[:n_bytes])
    with pytest.raises(BadPairs, match=f"rows {rows} of rows: expected chunks that can be decoded"):
        read_all(array)


@needs_a_failing_file
def test_what_the_system_says_of_a_file_is_told(tmp_path):
    array = array_of(tmp_path / "a")
    chunk_of(array, 2).unlink()
    chunk_of(array, 2).symlink_to("/proc/self/mem")  # opens, and has no first page
    with pytest.raises(BadPairs, match=r"rows 20-29 of rows: .*\[Errno 5\]"):
        read_all(array)


@needs_a_failing_file
def test_an_error_that_has_gone_by_the_second_look_is_told_too(tmp_path, monkeypatch):
    array = array_of(tmp_path / "a")
    path, content = chunk_of(array, 2), chunk_of(array, 2).read_bytes()
    path.unlink()
    path.symlink_to("/proc/self/mem")

    def mended(*args):
        path.unlink()
        path.write_bytes(content)
        return read_rows(*args)

    monkeypatch.setattr("lrh_dask.stores.streaming.read_rows", mended)
    with pytest.raises(BadPairs, match=r"\[Errno 5\].* a moment later no error") as caught:
        read_all(array)
    assert isinstance(caught.value.__cause__, OSError)


def test_a_chunk_that_was_written_while_it_was_read_is_refused(tmp_path):
    array = array_of(tmp_path / "a")
    other = array_of(tmp_path / "b", ROWS + 1.0)
    with Stream("rows", array) as stream:
        stream.read(0, 5)
        with chunk_of(array, 0).open("r+b") as file:  # the same file, as a rewrite in place
            file.write(chunk_of(other, 0).read_bytes())
        stream.read(5, 10)
        with pytest.raises(BadPairs, match=r"rows 0-9 of rows: .* written meanwhile"):
            stream.check()


# In runs: chunks of 1.6 MiB, the last one partly of no row, and a basis of fewer columns than D.

@pytest.fixture
def store(tmp_path):
    return write_known(tmp_path / "a.zarr", 12_000, Known.indefinite(600, 4), chunks=(700, 600))


@pytest.mark.parametrize("at_once", [CACHED_BYTES, 100 * 2 * 600 * 4])
def test_a_run_from_files_gives_the_bits_of_one_from_blocks(store, monkeypatch, at_once):
    """Slabs of pieces as a whole (up to 300 rows), and of a hundred rows."""
    group = zarr.open_group(store)
    monkeypatch.setattr("lrh_dask.runs.leaves.CACHED_BYTES", at_once)
    monkeypatch.setattr("lrh_dask.runs.leaves.MERGED_AT_ONCE", 2)
    for label in "xy":
        group[label][5000:5300] = group[label][:300]
    weight = 1.0 + np.arange(12_000) % 3
    weight[::7] = 0.0
    for stored in (None, group.create_array("weight", data=weight, chunks=(5000,))):
        pairs = Pairs(group["x"], group["y"], stored)
        assert pairs.can_stream
        streamed = fit(pairs, basis=40)
        assert streamed.provenance["route"] == "fitted_basis"
        with monkeypatch.context() as patch:
            patch.setattr(Pairs, "can_stream", False)
            whole = fit(pairs, basis=40)
        assert bytes_of(streamed) == bytes_of(whole)
        assert streamed.provenance["bytes"] == whole.provenance["bytes"]
        assert streamed.n_pairs == whole.n_pairs
        repeated = 300 if stored is None else sum(
            w > 0 and v > 0 for w, v in zip(weight[:300], weight[5000:5300], strict=True))
        for hessian in (streamed, whole):
            assert hessian.certificates.n_duplicates == repeated


def pass_over(path):
    """What a worker does with the first run of a store in the second pass."""
    pairs = open_pairs(path)
    _, split = price(pairs, rank=None, method="symmetric", basis=40)
    spec = Spec("run", "symmetric", Asked(), Route.fitted_basis, 40, "cpu", "float32",
                pairs.n_pairs, watched=False)
    return fit_leaf(pairs, split.runs[0], spec, SimpleNamespace(q=np.eye(600)[:, :40]))


def test_damage_that_makes_a_number_infinite_is_told_as_damage(store):
    path = store / "y" / "c" / "0" / "0"
    number = np.frombuffer(path.read_bytes(), "<f4", 1, 4 * 600 * 20)
    last = 4 * 600 * 20 + 3  # sign and upper exponent
    damage(path, last, number.view("u1")[3] & 0x7F ^ 0x7F)
    damage(path, last - 1, 0x80 & ~number.view("u1")[2])
    with pytest.raises(BadPairs, match=r"rows 0-699 of .*/y: .*c/0/0 is not what its crc32c"):
        pass_over(store)


def test_a_number_that_was_stored_as_not_finite_is_named(store):
    zarr.open_group(store)["y"][20, 3] = np.inf
    with pytest.raises(BadPairs, match=r"of .*/y: expected finite values, got NaN or Inf in 1 rows "
                                       r"\(20\)"):
        pass_over(store)


def test_damage_behind_the_last_row_of_a_run_is_found(store):
    damage(store / "x" / "c" / "0" / "0", -5)
    with pytest.raises(BadPairs, match=r"rows 0-699 of .*/x: .*c/0/0 is not what its crc32c"):
        pass_over(store)


def test_a_chunk_gone_after_the_first_pass_is_named(store):
    (store / "x" / "c" / "0" / "0").unlink()
    with pytest.raises(BadPairs, match=r"/x: expected every chunk to be stored, .*c/0/0"):
        pass_over(store)


def test_other_chunks_are_read_as_blocks(store, tmp_path):
    x = zarr.open_group(store)["x"]
    assert can_stream(x)
    memory = zarr.create_array(zarr.storage.MemoryStore(), data=x[:], chunks=x.chunks,
                               compressors=None)
    compressed = zarr.create_array(tmp_path / "b", data=x[:], chunks=x.chunks)
    wide = zarr.create_array(tmp_path / "e", data=x[:], chunks=(700, 1000), compressors=None)
    narrow = zarr.create_array(tmp_path / "c", data=x[:], chunks=(1400, 300), compressors=None)
    small = zarr.create_array(tmp_path / "d", data=x[:], chunks=(100, 600), compressors=None)
    assert not any(map(can_stream, (memory, compressed, wide, narrow, small, x[:])))
