"""Appending: what is published stays, what is not is never seen, and only pairs get in."""

import json
import pickle
import signal
import subprocess
import sys
import time

import appenders
import numpy as np
import pytest
import zarr
from appenders import by_another_program, files_of, holds, raw_group
from zarr.codecs import BloscCodec

from lrh_dask import BadPairs, SettingsError, append_pairs, fit, open_pairs, write_pairs
from lrh_dask.stores.appending import append
from lrh_dask.stores.incoming import incoming_from
from lrh_dask.stores.inspection import inspect_pairs
from lrh_dask.stores.manifest import Stamp, chunk_digests

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((2, 57, 5))
KINDS = ["a.zarr", "a.icechunk"]


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    """Where a store may be made, of each kind."""
    return tmp_path / request.param


def appender(*args):
    return subprocess.Popen([sys.executable, appenders.__file__, *map(str, args)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    """What a process said, once it has ended well."""
    out, error = process.communicate(timeout=250)
    assert process.returncode == 0, error
    return out


def in_batches(store, x, y, cuts, *weight, **kwargs):
    """Append rows cut into batches."""
    for start, stop in zip([0, *cuts], [*cuts, len(x)], strict=True):
        append_pairs(store, x[start:stop], y[start:stop], *(w[start:stop] for w in weight),
                     **kwargs)
    return open_pairs(store)


# What a kill leaves


@pytest.mark.parametrize(("manifest", "by"), [
    ("kept", 5), ("none", 5), *(pytest.param(manifest, 1, marks=pytest.mark.long)
                                for manifest in ("kept", "none"))])
def test_a_kill_at_any_step_loses_nothing_and_leaves_nothing(tmp_path, manifest, by):
    """Killed before each change of a file in turn, and every time the store is opened and added to.

    It ends with the very bytes of a store that was written at once.
    """
    n_steps = int(ended(appender("steps", tmp_path, manifest, by)))
    assert n_steps > 30


def test_a_reader_never_sees_torn_rows_whoever_is_killed(store):
    writers = appender("lives", store, 12)
    n_seen = []
    while writers.poll() is None:
        if store.exists():
            pairs = open_pairs(store)
            n_seen.append(pairs.n_pairs)
            appenders.check_numbered(pairs)
    told = [int(line) for line in ended(writers).splitlines()]
    assert n_seen == sorted(n_seen)
    assert len(set(n_seen)) > 3
    pairs = open_pairs(store)
    appenders.check_numbered(pairs)
    assert pairs.n_pairs >= max(told)
    append_pairs(store, *appenders.numbered(pairs.n_pairs, pairs.n_pairs + 40))
    appenders.check_numbered(open_pairs(store))


def test_two_appenders_at_once_lose_nothing(store):
    writers = [appender("tagged", store, tag, 20) for tag in (1, 2, 3)]
    for writer in writers:
        ended(writer)
    pairs = open_pairs(store)
    assert len(pairs.batches) == 60
    x = pairs.read(0, 180).x
    for tag in (1, 2, 3):  # each in the order in which it was appended
        np.testing.assert_array_equal(x[x[:, 0] == tag, 1], np.repeat(np.arange(20), 3))


def test_an_append_waits_for_the_one_under_way(tmp_path):
    """The lock is the system's: held by a stopped process, given back by a killed one."""
    store = tmp_path / "a.zarr"
    append_pairs(store, X, Y, chunk_rows=10)
    holder = subprocess.Popen([sys.executable, "-c", (
        "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(60)"), store / "x" / ".lrh-lock"],
        stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    second = subprocess.Popen([sys.executable, "-c", (
        "import sys; from lrh_dask import append_pairs; import numpy as np; "
        "print('begins', flush=True); "
        "append_pairs(sys.argv[1], np.ones((4, 5)), np.ones((4, 5)))"), store],
        stdout=subprocess.PIPE)
    assert second.stdout.readline() == b"begins\n"
    time.sleep(1)
    assert second.poll() is None
    assert open_pairs(store).n_pairs == 57
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    second.communicate(timeout=60)
    assert second.returncode == 0
    assert open_pairs(store).n_pairs == 61


# What is read


def test_what_is_appended_is_what_one_write_gives(store):
    pairs = in_batches(store, X, Y, [7, 25, 30], chunk_rows=10)
    assert holds(store, X, Y)
    assert [(b.start, b.stop) for b in pairs.batches] == [(0, 7), (7, 25), (25, 30), (30, 57)]
    assert pairs.blocks.chunk_rows == 10
    assert pairs.has_checksums()
    assert not any(pairs.missing(label) for label in ("x", "y"))


def test_a_store_of_write_pairs_is_appended_to(tmp_path):
    weight = RNG.random(57)
    write_pairs(tmp_path / "once.zarr", X, Y, weight, chunk_rows=10)
    write_pairs(tmp_path / "a.zarr", X[:33], Y[:33], weight[:33], chunk_rows=10)
    append_pairs(tmp_path / "a.zarr", X[33:], Y[33:], weight[33:])
    once, twice = (open_pairs(tmp_path / name) for name in ("once.zarr", "a.zarr"))
    for label in ("x", "y", "weight"):
        assert chunk_digests(getattr(twice, label), 2) == chunk_digests(getattr(once, label), 1)
        np.testing.assert_array_equal(getattr(twice, label)[:], getattr(once, label)[:])


@pytest.mark.parametrize("layout", [
    {"compressors": (BloscCodec(),)}, {"compressors": ()}, {"chunks": (7, 2)},
    {"shards": (20, 6), "chunks": (5, 3)},
    {"chunk_key_encoding": {"name": "v2", "separator": "."}}])
def test_stores_of_any_layout_are_adopted_and_appended_to(tmp_path, layout):
    x, y = RNG.standard_normal((2, 57, 6))
    store = raw_group(tmp_path / "a.zarr", x[:33], y[:33], **layout)
    append_pairs(store, x[33:50], y[33:50], label="second")
    append_pairs(store, x[50:], y[50:])
    assert holds(store, x, y)
    assert [b.label for b in open_pairs(store).batches] == [None, "second", None]
    with zarr.config.set({"array.write_empty_chunks": True}):
        np.testing.assert_array_equal(zarr.open_group(store, mode="r")["x"][:], x)


def test_an_opened_store_is_pinned(store):
    append_pairs(store, X[:33], Y[:33], chunk_rows=10)
    before = pickle.loads(pickle.dumps(open_pairs(store)))
    append_pairs(store, X[33:], Y[33:])
    np.testing.assert_array_equal(before.read(0, 33).x, X[:33])
    assert (before.n_pairs, len(before.batches)) == (33, 1)
    assert open_pairs(store).n_pairs == 57


def test_rows_of_zeros_are_stored(store):
    zeros = np.zeros((30, 5))
    append_pairs(store, X, Y, chunk_rows=10)
    append_pairs(store, X[:30], zeros)
    assert holds(store, np.concatenate([X, X[:30]]), np.concatenate([Y, zeros]))


def test_a_manifest_is_no_surprise_to_other_readers(tmp_path):
    store = tmp_path / "a.zarr"
    append_pairs(store, X, Y)
    group = zarr.open_group(store, mode="r")  # warnings are errors here
    assert {name for name, _ in group.members(max_depth=None)} == {
        "x", "y", "lrh_manifest", "lrh_manifest/000000"}
    assert sorted(group.array_keys()) == ["x", "y"]


def test_an_append_writes_of_its_own_chunks_alone(tmp_path):
    """Else n appends would cost n²."""
    store = tmp_path / "a.zarr"
    append_pairs(store, X, Y, chunk_rows=1)
    size = (store / "lrh_manifest" / "zarr.json").stat().st_size
    append_pairs(store, X[:1] + 1, Y[:1])
    assert (store / "lrh_manifest" / "zarr.json").stat().st_size - size < 250
    node = zarr.open_group(store, mode="r")["lrh_manifest/000001"].attrs.asdict()
    assert [list(node[name]) for name in ("x", "y")] == [["c/57/0"]] * 2
    pairs = open_pairs(store)
    assert len(chunk_digests(pairs.x, 2)) == 58
    assert len(pickle.dumps(pairs.part(0, 57))) < 2500


@pytest.mark.parametrize("layout", [{}, {"compressors": (BloscCodec(),)}])
def test_inspection_names_chunks_that_are_not_as_they_were_appended(tmp_path, layout):
    store = raw_group(tmp_path / "a.zarr", X[:33], Y[:33], **layout)
    append_pairs(store, X[33:], Y[33:])
    assert inspect_pairs(open_pairs(store), every_row=True)["as_appended"] == "yes, all 12 chunks"
    zarr.open_group(store, mode="r+")["y"][21] += 1.0
    told = inspect_pairs(open_pairs(store), every_row=True)["as_appended"]
    assert told == "no: other bytes in y (rows 20-29)"
    assert "as_appended" not in inspect_pairs(open_pairs(store))  # every chunk would be read


def test_a_damaged_manifest_is_told_by_an_append(tmp_path):
    store = tmp_path / "a.zarr"
    append_pairs(store, X, Y)
    (store / "lrh_manifest" / "zarr.json").write_text("{")
    with pytest.raises(BadPairs, match=r"Restore lrh_manifest/zarr\.json from a copy"):
        append_pairs(store, Y, X)


def test_damaged_digests_are_told_and_runs_do_not_need_them(tmp_path):
    store = tmp_path / "a.zarr"
    append_pairs(store, X, Y)
    (store / "lrh_manifest" / "000000" / "zarr.json").write_text("[")
    pairs = open_pairs(store)
    with pytest.raises(BadPairs, match="000000.*runs do not need to know"):
        inspect_pairs(pairs, every_row=True)
    np.testing.assert_array_equal(pairs.read(0, 57).x, X)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_a_store_that_grew_is_that_of_its_pairs(tmp_path, make_pairs, client, kind):
    pairs = make_pairs(1, 600, 12, [4.0, -2.0, 1.0], noise=0.05)
    stored = in_batches(tmp_path / kind, pairs.x, pairs.y, [100, 333], chunk_rows=50)
    write_pairs(tmp_path / "once.zarr", pairs.x, pairs.y, chunk_rows=50)
    once = open_pairs(tmp_path / "once.zarr")
    found, expected = fit(stored, rank=3), fit(once, rank=3)
    np.testing.assert_array_equal(found.eigenvalues, expected.eigenvalues)
    assert (stored.snapshot is not None) == (kind == "a.icechunk")


# What is refused


@pytest.mark.parametrize(("x", "y", "weight", "said"), [
    (X[:, :4], Y[:, :4], None, "expected 5 features, as its pairs have, got 4"),
    (X, Y[:50], None, "x and y of one shape"),
    (X[:0], Y[:0], None, "at least one pair"),
    (X, Y, np.ones(57), "expected no weights, as its pairs have, got some"),
    (X.astype(complex), Y, None, "float32 or float64"),
    (X.astype(np.longdouble), Y, None, "float32 or float64"),
    (np.where(np.arange(57)[:, None] == 20, np.nan, X), Y, None, r"/x: .* in 1 rows \(20\)"),
    (X, np.where(np.arange(57)[:, None] >= 50, -np.inf, Y), None, r"/y: .* in 7 rows \(50, 51"),
    (1e200 * X, Y, None, "whose squares a float64 can hold"),
])
def test_what_is_no_pairs_of_this_store_is_refused(store, x, y, weight, said):
    append_pairs(store, X, Y, chunk_rows=10)
    before = files_of(store)
    with pytest.raises(BadPairs, match=said):
        append_pairs(store, x, y, weight)
    assert files_of(store) == before


def test_numbers_are_not_rounded_unasked(store):
    append_pairs(store, X.astype("f4"), Y.astype("f4"))
    with pytest.raises(BadPairs, match=r"x that float32 holds without rounding, got float64"):
        append_pairs(store, X, Y)
    append_pairs(store, X.astype("f2"), Y.astype("f4"))
    assert open_pairs(store).n_pairs == 114


def test_weights_are_with_all_pairs_or_none(store):
    append_pairs(store, X, Y, np.ones(57))
    with pytest.raises(BadPairs, match="expected weights, as its pairs have, got none"):
        append_pairs(store, X[:9], Y[:9])
    with pytest.raises(BadPairs, match=r"none below zero.* in 1 rows \(3\)"):
        append_pairs(store, X[:9], Y[:9], np.where(np.arange(9) == 3, -1.0, 1.0))
    append_pairs(store, X[:9], Y[:9], np.arange(9))
    np.testing.assert_array_equal(open_pairs(store).read(57, 66).weight, np.arange(9))


def test_rows_that_are_there_already_are_refused(store):
    in_batches(store, X, Y, [30], chunk_rows=10)
    before = files_of(store)
    with pytest.raises(SettingsError, match=r"those of rows 30-56, bit for bit.*count twice"):
        append_pairs(store, X[30:], Y[30:])
    assert open_pairs(store).n_pairs == 57
    if store.suffix == ".zarr":
        assert files_of(store) == before
    append_pairs(store, X[30:], Y[30:], again=True)
    assert open_pairs(store).n_pairs == 84


def test_a_source_with_a_bad_row_far_on_leaves_the_store_as_it_was(tmp_path):
    """A Zarr source is read as it is written: half of it is there when the row is found."""
    y = Y.copy()
    y[48, 2] = np.nan
    source = raw_group(tmp_path / "other.zarr", X, y)
    append_pairs(tmp_path / "a.zarr", X[:33], Y[:33], chunk_rows=10)
    before = files_of(tmp_path / "a.zarr")
    with pytest.raises(BadPairs, match=r"other.zarr/y: .* in 1 rows \(48\)"):
        append(tmp_path / "a.zarr", incoming_from(source), Stamp())
    assert files_of(tmp_path / "a.zarr") == before


def test_a_full_disk_leaves_the_store_as_it_was(tmp_path):
    """A file system of 1 MiB would do; a limit on the size of files does without root."""
    store = tmp_path / "a.zarr"
    append_pairs(store, X, Y, chunk_rows=20)
    before = files_of(store)
    done = subprocess.run([sys.executable, "-c", (
        "import resource, signal, sys; import numpy as np; from lrh_dask import append_pairs\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, -1))\n"
        "x = np.random.default_rng(1).standard_normal((5000, 5)); append_pairs(sys.argv[1], x, x)"
        ), store], capture_output=True, text=True, check=False)
    assert "expected room and permission to write" in done.stderr
    assert "RunFailed" in done.stderr
    assert files_of(store) == before


def test_rows_that_another_program_wrote_are_neither_read_nor_destroyed(store):
    append_pairs(store, X[:33], Y[:33], chunk_rows=10)
    by_another_program(store, lambda group: [group[name].append(array[33:57])
                                    for name, array in (("x", X), ("y", Y))])
    pairs = open_pairs(store)
    assert pairs.n_pairs == 33
    assert any("24 rows beyond these 33 are not published" in told for told in pairs.notices())
    assert inspect_pairs(pairs)["unpublished_rows"] == 24
    before = files_of(store)
    with pytest.raises(BadPairs, match="Another program wrote rows.*remove the group lrh_manifest"):
        append_pairs(store, X, Y)
    assert files_of(store) == before
    by_another_program(store, lambda group: group.__delitem__("lrh_manifest"))
    append_pairs(store, Y, X)
    assert holds(store, np.concatenate([X, Y]), np.concatenate([Y, X]))


def test_lost_rows_are_told(tmp_path):
    store = tmp_path / "a.zarr"
    append_pairs(store, X, Y, chunk_rows=10)
    zarr.open_group(store)["y"].resize((50, 5))
    for do in (lambda: open_pairs(store), lambda: append_pairs(store, X, X)):
        with pytest.raises(BadPairs, match=r"the 57 rows that were published, got .*50.*Restore"):
            do()


def test_a_foreign_store_with_a_longer_x_is_not_adopted(tmp_path):
    with pytest.raises(BadPairs, match="57 rows in x, 50 rows in y"):
        append_pairs(raw_group(tmp_path / "a.zarr", X, Y[:50]), X, Y)


@pytest.mark.parametrize("change", [
    lambda node: node["attributes"].update(rows=56),
    lambda node: node["attributes"]["batches"].pop(0),
    lambda node: node["attributes"].update(lrh_manifest=9),
    lambda node: node.pop("attributes"),
])
def test_a_damaged_manifest_is_told(tmp_path, change):
    store = tmp_path / "a.zarr"
    in_batches(store, X, Y, [30])
    path = store / "lrh_manifest" / "zarr.json"
    node = json.loads(path.read_text())
    change(node)
    path.write_text(json.dumps(node))
    for do in (lambda: open_pairs(store), lambda: append_pairs(store, Y, X)):
        with pytest.raises(BadPairs, match="Restore lrh_manifest/zarr.json from a copy"):
            do()


def test_old_formats_are_to_be_copied(tmp_path):
    group = zarr.open_group(tmp_path / "old.zarr", mode="w", zarr_format=2)
    for name, array in (("x", X), ("y", Y)):
        group.create_array(name, data=array, chunks=(10, 5))
    with pytest.raises(BadPairs, match=r"Zarr format 2.*lrh append NEW.zarr"):
        append_pairs(tmp_path / "old.zarr", X, Y)
    append(tmp_path / "new.zarr", incoming_from(tmp_path / "old.zarr"), Stamp())
    assert holds(tmp_path / "new.zarr", X, Y)


@pytest.mark.parametrize(("kwargs", "said"), [
    ({"label": "two\nlines"}, "a label of one line"), ({"label": " "}, "a label of one line"),
    ({"recorded": "yesterday"}, "2026-11-02T03:00:00Z"),
    ({"recorded": "2091-01-01"}, "expected a time that has been")])
def test_labels_and_times_are_looked_at_first(tmp_path, kwargs, said):
    with pytest.raises(SettingsError, match=said):
        append_pairs(tmp_path / "a.zarr", X, Y, **kwargs)
    assert not list(tmp_path.iterdir())


def test_times_are_kept_in_utc(store):
    batch = append_pairs(store, X, Y, recorded="2026-11-02T03:00:00+01:00", label="run-17")
    assert (batch.recorded, batch.label) == ("2026-11-02T02:00:00Z", "run-17")
    assert append_pairs(store, Y, X, recorded="2020-01-01").recorded == "2020-01-01T00:00:00Z"
    assert open_pairs(store).batches[0] == batch


def test_a_store_is_not_appended_to_itself(tmp_path):
    store = tmp_path / "a.zarr"
    in_batches(store, X, Y, [30])
    with pytest.raises(SettingsError, match="the store itself"):
        append(store, incoming_from(str(tmp_path / "." / "a.zarr")), Stamp())


def test_buckets_are_not_appended_to():
    with pytest.raises(SettingsError, match="a local path, got an address"):
        append_pairs("s3://bucket/a.zarr", X, Y)
