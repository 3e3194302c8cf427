"""Icechunk: what was committed is read, of the snapshot that was pinned, and nothing else."""

import subprocess
import sys

import numpy as np
import pytest
from appenders import by_another_program
from zarr.core.sync import sync

from lrh_dask import BadPairs, SettingsError, append_pairs, open_pairs, write_pairs
from lrh_dask.stores.snapshots import changed_chunks

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((2, 57, 5))


def test_snapshots_say_which_chunks_were_written(tmp_path):
    store = tmp_path / "a.icechunk"
    snapshots = []
    for start, stop in ((0, 33), (33, 40), (40, 57)):
        append_pairs(store, X[start:stop], Y[start:stop], chunk_rows=10)
        snapshots.append(open_pairs(store).snapshot)
    first, second, third = snapshots
    assert changed_chunks(store, second, third) == {
        f"{label}/c/{i}/0" for label in "xy" for i in (4, 5)}
    assert changed_chunks(store, first, second) == {"x/c/3/0", "y/c/3/0"}
    assert changed_chunks(store, third, third) == set()
    assert open_pairs(store, snapshot=first).n_pairs == 33
    with pytest.raises(BadPairs, match="Read all of them"):
        changed_chunks(store, third, first)


def test_a_chunk_lost_from_a_repository_is_told(tmp_path):
    store = tmp_path / "a.icechunk"
    append_pairs(store, *RNG.standard_normal((2, 400, 40)), chunk_rows=100)
    for path in (store / "chunks").iterdir():
        path.unlink()
    with pytest.raises(BadPairs, match="chunks that can be decoded"):
        open_pairs(store).read(0, 400)


def test_a_chunk_deleted_in_a_commit_is_never_read_as_zeros(tmp_path):
    store = tmp_path / "a.icechunk"
    append_pairs(store, X, Y, chunk_rows=10)
    by_another_program(store, lambda group: sync(group.store.delete("y/c/2/0")))
    assert open_pairs(store).missing("y") == ["c/2/0"]
    with pytest.raises(BadPairs, match="c/2/0"):
        open_pairs(store).read(0, 57)


def test_an_icechunk_store_that_is_not_there_is_not_made_by_a_reader(tmp_path):
    with pytest.raises(BadPairs, match="nothing there"):
        open_pairs(tmp_path / "a.icechunk")
    assert not list(tmp_path.iterdir())
    with pytest.raises(SettingsError, match="of none"):
        open_pairs(write_pairs(tmp_path / "a.zarr", X, Y), snapshot="ABC")


def test_a_repository_is_known_by_what_is_in_it(tmp_path):
    append_pairs(tmp_path / "a.icechunk", X, Y)
    (tmp_path / "a.icechunk").rename(tmp_path / "pairs")
    append_pairs(tmp_path / "pairs", Y, X)
    assert open_pairs(tmp_path / "pairs").n_pairs == 114


def test_a_full_disk_leaves_the_snapshot_that_was_there(tmp_path):
    append_pairs(tmp_path / "a.icechunk", X, Y)
    before = open_pairs(tmp_path / "a.icechunk").snapshot
    done = subprocess.run([sys.executable, "-c", (
        "import resource, signal; import numpy as np; from lrh_dask import append_pairs\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, -1))\n"
        "x = np.random.default_rng(1).standard_normal((5000, 5))\n"
        "append_pairs('a.icechunk', x, x)")],
        cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "expected room and permission to write" in done.stderr
    assert open_pairs(tmp_path / "a.icechunk").snapshot == before


def test_without_the_extra_it_is_named(tmp_path):
    append_pairs(tmp_path / "a.icechunk", X, Y)
    (tmp_path / "icechunk.py").write_text("raise ImportError('not installed')")
    done = subprocess.run([sys.executable, "-c", "from lrh_dask.cli.app import main; main()",
                           "inspect", "a.icechunk"], cwd=tmp_path, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 2
    assert "pip install 'lrh-dask[icechunk]'" in done.stderr


def test_rows_that_are_there_already_are_refused_before_they_are_written(tmp_path):
    store = tmp_path / "a.icechunk"
    append_pairs(store, X, Y)
    size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    with pytest.raises(SettingsError, match="rows that are not there yet"):
        append_pairs(store, X, Y)
    assert sum(path.stat().st_size for path in store.rglob("*") if path.is_file()) == size
