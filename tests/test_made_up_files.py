"""What random files have found (test_fuzz.py), each as the one example that shows it."""

import io
import json
import time
import zipfile

import numpy as np
import pytest
import zarr

from lrh_dask import BadPairs, SettingsError, append_pairs, fit, open_pairs, write_pairs
from lrh_dask.clusters.findings import Health
from lrh_dask.clusters.store_checks import check_chunks
from lrh_dask.errors import SHOWN, explain, public_text
from lrh_dask.nights.states import StoredStates
from lrh_dask.nights.totals import _kept
from lrh_dask.nights.underway import KEPT, State, Status, forget_old, note, status_of, statuses
from lrh_dask.runs.begun import Begun
from lrh_dask.runs.packing import Packed, described, partial_of
from lrh_dask.runs.state_files import read_group, write_group
from lrh_dask.runs.tree import Partial, ReadStats
from lrh_dask.settings.config import NightlySettings, RunSettings, settings_of
from lrh_dask.stores.catalog import Catalog
from lrh_dask.stores.documents import read_document
from lrh_dask.stores.incoming import incoming_from
from lrh_dask.stores.inspection import inspect_pairs
from lrh_dask.stores.results import load_result

X, Y = np.random.default_rng(0).standard_normal((2, 57, 5))


@pytest.fixture
def precious(tmp_path):
    """A folder that is not ours, beside those that are."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / ".thesis.0123456789ab.tmp").write_text("all of it")
    return folder


def test_states_are_in_the_folder_of_states_whatever_their_name_says(tmp_path, precious):
    states = StoredStates(tmp_path / "states", {"store": "a"})
    states.folder.mkdir(parents=True)
    (states.folder / "current").write_text("../../precious")
    again = StoredStates(tmp_path / "states", {"store": "a"})
    again.put_in_order()
    again.add([], None, afresh=True)
    assert list(precious.iterdir())
    assert again.current.parent == states.folder


def test_a_status_is_of_the_run_that_its_folder_names(tmp_path, precious):
    """Old ones are removed by that name."""
    for i in range(KEPT + 1):
        note(tmp_path, Status(f"run-{i:03d}", State.done, began=i))
    path = tmp_path / "jobs" / "run-000" / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"run": "../precious"}))
    assert status_of(tmp_path, "run-000").run == "run-000"
    forget_old(tmp_path)
    assert len(statuses(tmp_path)) == KEPT
    assert list(precious.iterdir())


def test_a_status_that_says_nonsense_is_none(tmp_path):
    note(tmp_path, Status("a", State.done))
    path = tmp_path / "jobs" / "a" / "status.json"
    for name, value in (("done", 7), ("began", "soon"), ("n_pairs", [1]), ("where", {})):
        path.write_text(json.dumps({"run": "a", "state": "done", name: value}))
        with pytest.raises(SettingsError, match="expected a run"):
            status_of(tmp_path, "a")


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a":' * 10**5, '"\\ud800"', "[1", "\xff", "7",
                                  "9" * 5000])
def test_a_document_that_is_none_is_an_error_of_one_kind(tmp_path, text):
    (tmp_path / "run.json").write_text(text, encoding="latin1")
    with pytest.raises((ValueError, TypeError)):
        read_document(tmp_path / "run.json")
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "run.json").write_text(text, encoding="latin1")
    catalog = Catalog(tmp_path / "runs")
    assert catalog.runs() == []
    assert "The run is left out" in catalog.damaged()[0]


@pytest.mark.parametrize("line", [
    "rank: !!int 9e9", "rank: !!timestamp x", "psd: 0x" + "f" * 5000, "window: " + "[" * 10**5,
    "cluster: {memory_limit: 1e400GB}", 'out: "a\\0b"', 'out: "\\ud800"', "rank: " + "x" * 10**6,
    "x: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
        f"{b}: &{b} [{', '.join(['*' + a] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi",
                                                                  strict=True)) + "\nrank: *i"])
def test_settings_that_nobody_would_write_are_refused_in_a_few_words(tmp_path, line):
    path = tmp_path / "a.yaml"
    path.write_text(f"store: a.zarr\n{line}\n")
    with pytest.raises(SettingsError, match="Nothing was started") as caught:
        settings_of(RunSettings, str(path), {}, {})
    assert len(str(caught.value)) < 4000
    with pytest.raises(SettingsError, match="Nothing was started"):
        settings_of(NightlySettings, str(path), {}, {})


def changed(path, **values):
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | values))


def stored(path, **how):
    group = zarr.open_group(path, mode="w", zarr_format=how.pop("zarr_format", 3))
    for name, rows in (("x", X), ("y", Y)):
        group.create_array(name, data=rows, chunks=(10, 5), **how)
    return path


@pytest.mark.parametrize(("how", "rows", "chunk"), [
    ({}, 10**15, 10), ({}, 2**62, 2**60), ({"compressors": None}, 10**9, 10),
    ({"shards": (20, 5)}, 10**7, 10**7)])
def test_a_shape_of_more_rows_than_anybody_has_is_refused_at_once(tmp_path, how, rows, chunk):
    path = stored(tmp_path / "a.zarr", **how)
    for name in "xy":
        changed(path / name / "zarr.json", shape=[rows, 5], chunk_grid={
            "name": "regular", "configuration": {"chunk_shape": [chunk, 5]}})
    with pytest.raises(BadPairs, match="none were read"):
        open_pairs(path)


def test_chunks_that_are_missing_are_counted_up_to_a_thousand(tmp_path):
    path = stored(tmp_path / "a.zarr")
    for name in "xy":
        changed(path / name / "zarr.json", shape=[90_000, 5])
    with pytest.raises(BadPairs, match="x: [0-9]{4} missing"):
        inspect_pairs(open_pairs(path))


def test_chunks_without_rows_are_refused(tmp_path):
    path = stored(tmp_path / "a.zarr", zarr_format=2)
    changed(path / "y" / ".zarray", chunks=[0, 5])
    with pytest.raises(BadPairs, match="chunks that hold some rows|chunk shape .* is invalid"):
        open_pairs(path)


def test_a_compressor_with_settings_beyond_its_own_can_be_told(tmp_path):
    path = stored(tmp_path / "a.zarr", zarr_format=2)
    changed(path / "x" / ".zarray", compressor={
        "id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 7, "blocksize": 0})
    assert not open_pairs(path).has_checksums()


def test_a_missing_chunk_is_seen_before_memory_is_filled_for_it(tmp_path):
    path = stored(tmp_path / "a.zarr")
    for name in "xy":
        changed(path / name / "zarr.json", shape=[10**8, 5], chunk_grid={
            "name": "regular", "configuration": {"chunk_shape": [10**8, 5]}})
        (path / name / "c" / "0" / "0").unlink()
    with pytest.raises(BadPairs, match="missing"):
        open_pairs(path).read(0, 10**8)


def test_a_file_that_unpacks_to_a_thousand_times_its_size_is_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for name in "xy":
            with file.open(f"{name}.npy", "w") as into:
                header = io.BytesIO()
                np.lib.format.write_array_header_1_0(header, {
                    "descr": "<f8", "fortran_order": False, "shape": (2**22, 8)})
                into.write(header.getvalue())
                for _ in range(16):
                    into.write(bytes(2**24))
    assert (tmp_path / "a.npz").stat().st_size < 2**20
    with pytest.raises(BadPairs, match="unpack"):
        incoming_from(tmp_path / "a.npz")


def test_a_result_that_lacks_what_is_shown_of_it_is_refused(tmp_path):
    fit(open_pairs(write_pairs(tmp_path / "a.zarr", X, Y))).save(tmp_path / "r.zarr")
    path = tmp_path / "r.zarr" / "zarr.json"
    document = json.loads(path.read_text())
    for name, value in (("seconds", "x"), ("notices", 7), ("settings", [])):
        attributes = document["attributes"]
        provenance = attributes["provenance"] | {name: value}
        changed(path, attributes=attributes | {"provenance": provenance})
        with pytest.raises(BadPairs, match="expected a complete result"):
            load_result(tmp_path / "r.zarr")
    path.write_text(json.dumps(document))
    assert load_result(tmp_path / "r.zarr").eigenvectors.shape == (5, 0)


def test_a_state_whose_arrays_do_not_fit_together_is_none(make_buckets):
    arrays = Packed()
    partial = Partial(make_buckets(X, Y, 1), ReadStats(n_pairs=57))
    part = described(partial, arrays)
    flat = {name: np.concatenate(parts) for name, parts in arrays.parts.items()}
    assert partial_of(part, flat).states[0].n_pairs == 57
    for name, value in (("n_pairs", -1), ("n_pairs", "x"), ("energy", float("nan")),
                        ("sum_x", {"at": ["float64", 0, [4], ""]}),
                        ("sum_y", {"at": ["float32", 0, [5], ""]}),
                        ("rows", {"at": ["float64", 0, [2, 2], ""]}),
                        ("rows", {"at": ["float64", 0, [10**6, 10**6], "upper"]}),
                        ("ledger", {"spans": [[0, 5], [3, 9]]}), ("kind", "spell")):
        state = part["states"]["0"] | {name: value}
        with pytest.raises(ValueError, match="no states"):
            partial_of(part | {"states": {"0": state}}, flat)


def test_arrays_of_states_are_as_long_as_what_is_stored_of_them(tmp_path):
    arrays = Packed()
    arrays.add(np.arange(20.0))
    write_group(tmp_path / "a.zip", {}, arrays)
    (tmp_path / "a").mkdir()
    write_group(tmp_path / "a", {}, arrays)
    changed(tmp_path / "a" / "float64" / "zarr.json", shape=[10**9])
    with pytest.raises(ValueError, match="the chunks that its metadata speak of"):
        read_group(tmp_path / "a")
    assert read_group(tmp_path / "a.zip")[1]["float64"].tolist() == list(range(20))


def test_what_was_appended_is_of_rows_and_times(tmp_path):
    append_pairs(tmp_path / "a.zarr", X, Y)
    path = tmp_path / "a.zarr" / "lrh_manifest" / "zarr.json"
    document = json.loads(path.read_text())
    for name, value in (("recorded", "yesterday"), ("start", "x"), ("label", 7), ("stop", None)):
        batch = document["attributes"]["batches"][0] | {name: value}
        changed(path, attributes=document["attributes"] | {"batches": [batch]})
        with pytest.raises(BadPairs, match="expected the rows and batches"):
            open_pairs(tmp_path / "a.zarr")


def test_a_home_that_nobody_has_is_a_path_like_any_other(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("store: a.zarr\ncluster: {kind: scheduler_file, scheduler_file: '~}/s.json'}")
    assert settings_of(RunSettings, str(path), {}, {}).cluster.scheduler_file == "~}/s.json"


def test_a_result_of_more_pairs_than_can_be_is_refused(tmp_path):
    fit(open_pairs(write_pairs(tmp_path / "a.zarr", X, Y))).save(tmp_path / "r.zarr")
    path = tmp_path / "r.zarr" / "zarr.json"
    changed(path, attributes=json.loads(path.read_text())["attributes"] | {"n_pairs": 2**64})
    with pytest.raises(BadPairs, match="expected a complete result"):
        load_result(tmp_path / "r.zarr")


def test_what_is_nested_beyond_measure_is_refused_whoever_reads_it(tmp_path):
    fit(open_pairs(write_pairs(tmp_path / "a.zarr", X, Y))).save(tmp_path / "r.zarr")
    (tmp_path / "r.zarr" / "residual_by_rank" / "zarr.json").write_text('{"a":' * 10**5)
    with pytest.raises(BadPairs, match="expected a complete result"):
        load_result(tmp_path / "r.zarr")
    (tmp_path / "begun.json").write_text("[" * 10**5)
    (tmp_path / "a.zip").write_text("")
    assert Begun.noted(tmp_path) is None


def test_a_long_name_in_a_message_is_looked_through_at_once():
    begin = time.monotonic()
    for text in ("x" * 10**6, "x://" * 10**5, "a://b@" * 10**5, "x" * 10**6 + "://u:secret@h/p"):
        public_text(text)
    assert time.monotonic() - begin < 10  # quadratic before
    assert public_text(f"{'x' * 100}://u:secret@h/p") == f"{'x' * 100}://h/p"


def test_a_shard_whose_index_is_damaged_is_told_by_who_only_looks(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for name, rows in (("x", X), ("y", Y)):
        group.create_array(name, data=rows, chunks=(5, 5), shards=(20, 5), compressors=None)
    shard = tmp_path / "a.zarr" / "x" / "c" / "1" / "0"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(BadPairs, match="expected shards as they were written"):
        inspect_pairs(open_pairs(tmp_path / "a.zarr"))
    assert check_chunks(open_pairs(tmp_path / "a.zarr")).health is Health.poor


def among_states(folder, name):
    """A place among the stored states of a lineage."""
    states = StoredStates(folder, {"a": 1})
    path = states.folder / "000001-0123456789ab" / name
    path.mkdir(parents=True)
    (states.folder / "current").write_text(path.parent.name)
    return path


def test_a_stored_basis_that_is_none_is_an_error_of_values(tmp_path):
    path = among_states(tmp_path, "basis.zarr")
    for attributes in ({}, {"basis": {"n_read": [1]}, "parts": []}, {"basis": 7}):
        write_group(path, attributes, Packed())
        with pytest.raises(ValueError, match="have no basis"):
            StoredStates(tmp_path, {"a": 1}).basis()


@pytest.mark.parametrize("out", ["/", ".", ".."])
def test_a_result_needs_a_name(out):
    settings = RunSettings(store="s3://a/b.zarr", out=out)
    with pytest.raises(SettingsError, match="ends in the name of the result"):
        assert settings.states_path


@pytest.mark.parametrize("where", ["chunk", "shard"])
def test_numbers_that_are_said_to_be_texts_are_not_read(tmp_path, where):
    """The first four bytes of a chunk would be the length of a list: 8 GB of one were seen."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for name, rows in (("x", X), ("y", Y)):
        group.create_array(name, data=rows, chunks=(5, 5), compressors=None,
                           shards=(20, 5) if where == "shard" else None)
    path = tmp_path / "a.zarr" / "y" / "zarr.json"
    metadata = json.loads(path.read_text())
    codecs = metadata["codecs"]
    (codecs[0]["configuration"]["codecs"] if where == "shard" else codecs)[0] = {
        "name": "vlen-utf8"}
    good = path.read_text()
    path.write_text(json.dumps(metadata))
    with pytest.raises(BadPairs, match="a codec of texts"):
        open_pairs(tmp_path / "a.zarr")
    path.write_text(json.dumps(json.loads(good) | {"attributes": {"from": "vlen-7"}}))
    assert open_pairs(tmp_path / "a.zarr").n_pairs == len(X)


def test_what_is_cut_short_in_a_message_shows_no_credentials():
    for n in range(SHOWN - 30, SHOWN + 3):
        said = explain(f"{'x ' * (n // 2)}s3://key:{'secret' * 99}@bucket/a?sign=ed", expected="a",
                       got="b" * 10**6, consequence="c", fix="d")
        assert "key" not in said
        assert "secret" not in said
        assert "ed" not in said.replace("expected", "")
        assert len(said) < 3 * SHOWN


def test_a_total_of_nobody_knows_what_is_none(tmp_path):
    path = among_states(tmp_path, "total.zarr")
    for segments in (17, "rows", {"0": 1}):
        write_group(path, {"segments": segments, "parts": []}, Packed())
        assert _kept(StoredStates(tmp_path, {"a": 1}), []) == (0, None)
