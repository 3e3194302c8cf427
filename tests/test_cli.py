"""The command line as a user runs it: real clusters, real exit codes, and what takes a process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import distributed  # noqa: F401  connect imports it, and a busy machine takes long over it
import numpy as np
import pytest
import xarray as xr
import zarr

from lrh_dask import LowRankHessian, __version__, write_pairs

LRH = Path(sys.executable).with_name("lrh")
RNG = np.random.default_rng(0)
U = np.linalg.qr(RNG.standard_normal((12, 2)))[0]
X = RNG.standard_normal((200, 12))
Y = X @ (U * [2.0, -1.0]) @ U.T + 0.01 * RNG.standard_normal((200, 12))
JSON_KEYS = {"eigenvalues", "standard_errors", "rank", "method", "n_pairs", "n_features",
             "residual", "held_out_residual", "asymmetry", "captured_energy", "verdict",
             "seconds", "peak_worker_bytes", "result"}


def lrh_process(*args, cwd, **kwargs):
    return subprocess.run([LRH, *map(str, args)], cwd=cwd, capture_output=True, text=True,
                          timeout=120, check=False, **kwargs)


def raw_store(path, x, y, **kwargs):
    group = zarr.open_group(path, mode="w")
    for name, array in (("x", x), ("y", y)):
        if array is not None:
            group.create_array(name, data=array, chunks=(20, *array.shape[1:]),
                               config={"write_empty_chunks": True}, **kwargs)
    return path


@pytest.fixture
def store(tmp_path):
    return write_pairs(tmp_path / "pairs.zarr", X, Y, chunk_rows=20)


def test_json_is_one_document_and_nothing_else(store, tmp_path):
    done = lrh_process("run", store.name, "--workers", 2, "--memory-limit", "1GiB", "--json",
                       cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) >= JSON_KEYS
    assert set(document["seconds"]) == {"total", "read", "basis", "fit", "solve"}
    assert document["rank"] == 2
    np.testing.assert_allclose(document["eigenvalues"], [2.0, -1.0], atol=0.01)
    assert document["n_pairs"] == 200
    assert Path(document["result"]) == Path("pairs-hessian.zarr")
    assert "Dashboard: http://127.0.0.1:" in done.stderr
    assert "fit: 200 of 200 pairs" in done.stderr
    with xr.open_zarr(tmp_path / document["result"]) as data:
        np.testing.assert_array_equal(data["eigenvalues"], document["eigenvalues"])


def test_the_table_shows_errors_and_certificates_then_a_report(lrh, store, tmp_path):
    done = lrh("run", store.name, "--workers", 1, "--out", "r.zarr", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("standard error", "held out", "captured energy", "verdict", "curvature", "r.zarr"):
        assert text in done.stdout
    done = lrh("report", "r.zarr", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "<svg" in (tmp_path / "r.html").read_text()


def test_a_file_of_settings_runs_and_options_override_it(lrh, store, tmp_path):
    (tmp_path / "run.yaml").write_text(
        f"store: {store}\nrank: 1\nout: {tmp_path}/a.zarr\n"
        "cluster: {kind: local, workers: 1, memory_limit: 1GiB}\n")
    done = lrh("run", "run.yaml", "--rank", 2, "--center", "no", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["rank"], document["centered"]) == (2, False)
    assert LowRankHessian.load(tmp_path / "a.zarr").rank == 2


def test_it_runs_on_a_scheduler_that_is_there(lrh, store, tmp_path, two_workers):
    done = lrh("run", store.name, "--scheduler", two_workers.scheduler_address, "--json",
               cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rank"] == 2


def test_plan_prices_a_run_without_running_it(lrh, store, tmp_path):
    done = lrh("plan", store.name, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["bytes_read"] == X.nbytes + Y.nbytes
    assert plan["peak_worker_bytes"] > 2**27
    assert "memory" in lrh("plan", store.name, cwd=tmp_path).stdout
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.zarr"]


def test_an_error_is_a_document_too_where_json_is_asked_for(lrh, tmp_path):
    done = lrh("run", "nowhere.zarr", "--json", cwd=tmp_path)
    assert done.returncode == 3
    error = json.loads(done.stdout)["error"]
    assert (error["kind"], error["exit_code"]) == ("BadPairs", 3)
    assert done.stderr.endswith(f"error: {error['message']}\n")


@pytest.mark.parametrize("call", [
    ["run"], ["plan", "a.zarr", "--nope"], ["wait", "RUN", "--timeout", "soon"], ["nope"]])
def test_a_wrong_call_is_a_document_too_where_json_is_asked_for(lrh, call, tmp_path):
    done = lrh(*call, "--json", cwd=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["exit_code"]) == (2, 2)
    assert error["message"] in " ".join(done.stderr.replace("│", " ").split())
    assert lrh(*call, cwd=tmp_path).stdout == ""


@pytest.mark.parametrize("cluster", [
    {"kind": "slurm", "workers": 1, "options": {"cores": 4, "memory": "64MiB"}},
    {"kind": "kubernetes", "workers": 1, "options": {"resources": {"limits": {"memory": "16Mi"}}}},
    {"workers": 1, "memory_limit": "16MiB"}])
def test_a_plan_is_priced_by_the_workers_that_settings_ask_for(lrh, store, tmp_path, cluster):
    (tmp_path / "run.yaml").write_text(json.dumps({"store": store.name, "cluster": cluster}))
    done = lrh("plan", "run.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "of its limit of 16 MiB" in done.stderr


def test_a_plan_says_where_the_memory_of_workers_is_not_known(lrh, store, tmp_path):
    (tmp_path / "run.yaml").write_text(json.dumps({
        "store": store.name, "cluster": {"kind": "kubernetes", "workers": 1}}))
    assert "of a memory that these settings do not tell" in lrh(
        "plan", "run.yaml", cwd=tmp_path).stdout
    done = lrh("plan", "run.yaml", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["worker_bytes"] is None
    assert "3.0 GiB each" in lrh("plan", store.name, "--memory-limit", "3GiB", cwd=tmp_path).stdout


def test_a_queue_is_not_asked_for_workers_that_are_too_small(lrh, store, tmp_path):
    cluster = {"kind": "slurm", "workers": 1, "options": {"cores": 4, "memory": "64MiB"}}
    (tmp_path / "run.yaml").write_text(json.dumps({"store": store.name, "cluster": cluster}))
    assert "of its limit of 16 MiB" in lrh("run", "run.yaml", cwd=tmp_path).stderr


def test_inspect_says_what_a_store_holds(lrh, store, tmp_path):
    done = lrh("inspect", store.name, "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (found["pairs"], found["features"], found["checksums"]) == (200, 12, True)
    y = Y.copy()
    y[[31, 95], 0] = np.nan
    raw_store(tmp_path / "bad.zarr", X, y)
    done = lrh("inspect", "bad.zarr", "--all", cwd=tmp_path)
    assert done.returncode == 3
    assert "(31)" in done.stderr
    assert "(95)" in done.stderr
    raw_store(tmp_path / "none.zarr", np.full_like(X, np.nan), Y)
    assert "x = 0" not in lrh("inspect", "none.zarr", "--all", cwd=tmp_path).stderr


def test_version_and_help(lrh, tmp_path):
    assert __version__ in lrh("--version", cwd=tmp_path).stdout
    text = lrh("--help", cwd=tmp_path).stdout
    for command in ("run", "demo", "inspect", "plan", "report"):
        assert command in text
        assert lrh(command, "--help", cwd=tmp_path).returncode == 0


def nan_rows(array):
    array = array.copy()
    array[[45, 47]] = np.nan
    return array


def without_chunk(path, truncate=False):
    chunk = path / "y" / "c" / "3" / "0"
    if truncate:
        chunk.write_bytes(chunk.read_bytes()[:50])
    else:
        chunk.unlink()
    return path


BAD_STORES = {
    "nothing there": lambda _: None,
    "got arrays ['x']": lambda p: raw_store(p, X, None),
    "one shape": lambda p: raw_store(p, X, Y[:150]),
    "2-D": lambda p: raw_store(p, X[:, 0], Y[:, 0]),
    "got bool": lambda p: raw_store(p, X > 0, Y > 0),
    "got complex128": lambda p: raw_store(p, X + 0j, Y + 0j),
    "(45, 47)": lambda p: raw_store(p, X, nan_rows(Y)),
    "1 pairs": lambda p: raw_store(p, X[:1], Y[:1]),
    "x = 0 in all": lambda p: raw_store(p, 0 * X, Y),
    "c/3/0": lambda p: without_chunk(raw_store(p, X, Y)),
    "can be decoded": lambda p: without_chunk(raw_store(p, X, Y), truncate=True),
}


@pytest.mark.parametrize("said", BAD_STORES)
def test_bad_data_is_one_clear_error_and_leaves_nothing(lrh, tmp_path, said):
    BAD_STORES[said](tmp_path / "bad.zarr")
    before = {p.name for p in tmp_path.iterdir()}
    done = lrh("run", "bad.zarr", "--workers", 1, cwd=tmp_path)
    assert done.returncode == 3
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert {p.name for p in tmp_path.iterdir()} == before


def test_an_error_ends_the_process_with_its_code(tmp_path):
    done = lrh_process("run", raw_store(tmp_path / "bad.zarr", X, Y[:150]), cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""
    assert lrh_process("run", "--no-such-option", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(("args", "said"), [
    (["--rank", "13"], "expected 1 to 12"),
    (["--rank", "few"], "'auto' or a whole number"),
    (["--method", "best"], "'symmetric', 'seed' or 'least_norm'"),
    (["--out", "/usr"], "one that exists"),
    (["--out", "pairs.zarr"], "destroy its own input"),
    (["--memory-limit", "64MiB"], "--memory-limit"),
    (["--device", "tpu"], "'cpu'"),
    (["--no-such-option"], "No such option"),
    (["--scheduler", "nonsense"], "expected an address"),
])
def test_a_wrong_call_exits_with_2(lrh, store, tmp_path, args, said):
    done = lrh("run", store.name, *args, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.zarr"]


def test_overwriting_spares_all_but_results(lrh, store, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("mine")
    for out in ("precious", "pairs.zarr", "."):
        done = lrh("run", store.name, "--out", out, "--overwrite", cwd=tmp_path)
        assert done.returncode == 2, done.stderr
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "mine"
    assert (store / "x").is_dir()


def test_a_place_that_cannot_be_written_is_refused_before_the_run(lrh, store, tmp_path):
    done = lrh("run", store.name, "--out", "/proc/nowhere/r.zarr", cwd=tmp_path)
    assert done.returncode == 2
    assert "Nothing was computed" in done.stderr
    assert "Dashboard" not in done.stderr


def test_a_terminal_without_unicode_gets_its_result(store, tmp_path):
    done = lrh_process("run", store.name, "--workers", 1, cwd=tmp_path,
               env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "eigenvalue" in done.stdout


def _heed_interrupts():
    """Also where the tests are a background job, which a shell has ignore them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_a_run_with_one_line(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30_000, 256), dtype=np.float32)
    write_pairs(tmp_path / "pairs.zarr", x, x, chunk_rows=500)
    with subprocess.Popen([LRH, "run", "pairs.zarr", "--workers", "1"], cwd=tmp_path,
                          stderr=subprocess.PIPE, text=True, start_new_session=True,
                          preexec_fn=_heed_interrupts) as run:
        for line in run.stderr:
            if line.startswith("fit:"):
                break
        os.killpg(run.pid, signal.SIGINT)
        rest = run.stderr.read()
    assert run.returncode == 130
    assert "error: stopped by the user" in rest
    assert "Traceback" not in rest
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.zarr"]


def test_an_unknown_setting_in_a_file_exits_with_2(lrh, store, tmp_path):
    (tmp_path / "run.yaml").write_text(f"store: {store}\nrnak: 3\n")
    done = lrh("run", "run.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "rnak: unknown setting" in done.stderr


def test_a_dead_scheduler_is_told_after_the_ten_seconds_it_names(lrh, store, tmp_path):
    """Not after the 30 s that distributed would wait by itself."""
    started = time.monotonic()
    done = lrh("run", store.name, "--scheduler", "tcp://127.0.0.1:9", cwd=tmp_path)
    assert 9 < time.monotonic() - started < 15
    assert done.returncode == 4
    assert "connect to scheduler tcp://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
    assert "within 10 seconds" in done.stderr


def test_a_run_killed_midway_leaves_no_result(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30_000, 256)).astype(np.float32)
    write_pairs(tmp_path / "pairs.zarr", x, x, chunk_rows=500)
    run = subprocess.Popen([LRH, "run", "pairs.zarr", "--workers", "1"], cwd=tmp_path,
                           stderr=subprocess.PIPE, text=True, start_new_session=True)
    for line in run.stderr:
        if line.startswith("fit:"):
            break
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    run.stderr.close()
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["pairs.zarr"]
