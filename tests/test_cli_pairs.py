"""`lrh append` and `lrh inspect` of stores that grow, as a user runs them."""

import io
import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from appenders import holds, raw_group

from lrh_dask import BadPairs, open_pairs, write_pairs
from lrh_dask.stores.incoming import incoming_from

LRH = Path(sys.executable).with_name("lrh")
X, Y = np.random.default_rng(0).standard_normal((2, 57, 5))


def lrh(*args, cwd):
    return subprocess.run([LRH, *map(str, args)], cwd=cwd, capture_output=True, text=True,
                          timeout=120, check=False)


def test_the_command_line_appends_and_says_what(tmp_path):
    np.savez(tmp_path / "a.npz", s=X[:30], g=Y[:30])
    raw_group(tmp_path / "other.zarr", X[30:], Y[30:])
    done = lrh("append", "p.zarr", "a.npz", "--x", "s", "--y", "g", "--label", "run-1",
               cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "30 pairs, rows 0-29" in done.stdout
    done = lrh("append", "p.zarr", "other.zarr", "--recorded", "2026-01-02", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document.items() >= {"start": 30, "stop": 57, "n_pairs": 57, "label": None,
                                "recorded": "2026-01-02T00:00:00Z"}.items()
    assert holds(tmp_path / "p.zarr", X, Y)
    done = lrh("append", "p.zarr", "other.zarr", cwd=tmp_path)
    assert done.returncode == 2
    assert "count twice" in done.stderr
    done = lrh("inspect", "p.zarr", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (found["batches"], found["unpublished_rows"], found["pairs"]) == (2, 0, 57)
    assert "rows 30-56, recorded 2026-01-02T00:00:00Z" in found["newest_batch"]


@pytest.mark.parametrize("kind", ["big.zarr", "big.icechunk"])
def test_a_source_may_be_larger_than_memory(tmp_path, kind):
    """160 MB, whose chunks take 2 MiB each."""
    x = np.random.default_rng(0).standard_normal((40_000, 256))
    write_pairs(tmp_path / "source.zarr", x, x, chunk_rows=1_000)
    code = ("import resource, sys; from lrh_dask.stores.appending import append\n"
            "from lrh_dask.stores.incoming import incoming_from\n"
            "from lrh_dask.stores.manifest import Stamp\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "append('small-' + sys.argv[1], incoming_from('small.npz'), Stamp()); before = peak()\n"
            "append(sys.argv[1], incoming_from('source.zarr'), Stamp(), chunk_rows=1_000)\n"
            "print((peak() - before) / 1024)")
    np.savez(tmp_path / "small.npz", x=x[:2_000], y=x[:2_000])
    done = subprocess.run([sys.executable, "-c", code, kind], cwd=tmp_path, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 50
    assert open_pairs(tmp_path / kind).n_pairs == 40_000


def test_files_that_would_run_code_are_never_loaded(tmp_path):
    np.savez(tmp_path / "o.npz", x=X.astype(object), y=Y)
    (tmp_path / "raw.npz").write_bytes(pickle.dumps({"x": X}))
    with zipfile.ZipFile(tmp_path / "cut.npz", "w") as file:
        content = io.BytesIO()
        np.save(content, X)
        file.writestr("x.npy", content.getvalue()[:500])
        file.writestr("y.npy", content.getvalue())
    np.savez(tmp_path / "names.npz", a=X)
    np.save(tmp_path / "one.npy", X)
    shutil.copy(tmp_path / "one.npy", tmp_path / "one.npz")
    for name, said in (("o.npz", "numpy.savez"), ("raw.npz", "numpy.savez"), ("one.npz", "numpy"),
                       ("cut.npz", "numpy.savez"), ("none.npz", "nothing there"),
                       ("names.npz", r"got arrays \['a'\]")):
        with pytest.raises(BadPairs, match=said):
            incoming_from(tmp_path / name)
    done = lrh("append", "p.zarr", "o.npz", cwd=tmp_path)
    assert done.returncode == 3
    assert "never loaded" in done.stderr
    assert not (tmp_path / "p.zarr").exists()
