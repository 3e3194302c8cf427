"""Nothing that we read can run code: no pickle is loaded, none is written."""

import ast
import json
import os
import pickle
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr

import lrh_dask
from lrh_dask import BadPairs
from lrh_dask.runs.state_files import read_group
from lrh_dask.stores.results import load_result

PACKAGE = Path(lrh_dask.__file__).parent
RUNS_CODE = {"pickle", "cPickle", "_pickle", "dill", "marshal", "shelve", "joblib", "torch",
             "jsonpickle", "cloudpickle"}
BY_NETWORK = {PACKAGE / "clusters" / "probes.py"}
"""Functions that it has Dask send to workers; no file."""


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value)
                                           for word in node.keywords}


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0]


def wrong(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path not in BY_NETWORK:
        yield from RUNS_CODE & set(imported(tree))
    for name, words in calls(tree):
        last = name.rpartition(".")[2]
        if name in {"np.load", "numpy.load"} and words.get("allow_pickle") != "False":
            yield "np.load without allow_pickle=False"
        if name.startswith("yaml.") and last.endswith("load") and last != "safe_load":
            yield name
        if name in {"eval", "exec", "os.system"} or words.get("shell") == "True":
            yield name


def test_no_module_reads_or_writes_what_runs_code():
    looked_at = sorted(PACKAGE.rglob("*.py"))
    assert len(looked_at) > 100
    assert {path.name: found for path in looked_at if (found := list(wrong(path)))} == {}


@pytest.mark.parametrize("text", [
    "import pickle", "from joblib import load", "np.load(a)", "np.load(a, allow_pickle=True)",
    "yaml.load(a)", "yaml.unsafe_load(a)", "eval(a)", "run(a, shell=True)"])
def test_the_look_at_modules_finds_what_it_looks_for(tmp_path, text):
    (tmp_path / "a.py").write_text(text)
    assert list(wrong(tmp_path / "a.py"))


class MakesFolder:
    """Unpickled it makes a folder, as it could do anything else."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


PICKLE, DELTA = {"id": "pickle", "protocol": 5}, {"id": "delta", "dtype": "<f8"}


@pytest.fixture
def malicious(tmp_path, monkeypatch):
    """A function that makes a store of format 2 whose chunks are programs; what they would make."""
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    made = tmp_path / "made"
    program = pickle.dumps(MakesFolder(made))
    numcodecs.Pickle().decode(program)  # it is no empty threat
    made.rmdir()

    def make(attributes=None, **metadata):
        store = tmp_path / "p.zarr"
        for name in ("x", "y"):
            (store / name).mkdir(parents=True)
            (store / name / ".zarray").write_text(json.dumps({
                "zarr_format": 2, "shape": [4, 2], "chunks": [4, 2], "dtype": "<f8", "order": "C",
                "compressor": None, "filters": None, "fill_value": None, **metadata}))
            (store / name / "0.0").write_bytes(program)
        (store / ".zgroup").write_text('{"zarr_format": 2}')
        (store / ".zattrs").write_text(json.dumps(attributes or {}))
        return store

    return make, made


CODED = [{"dtype": "|O", "filters": [PICKLE]}, {"filters": [PICKLE]},
         {"filters": [DELTA, PICKLE]}, {"compressor": PICKLE}, {"dtype": "|O"},
         {"dtype": [["a", "|O"]], "filters": [PICKLE]}]


@pytest.mark.parametrize("coded", CODED)
@pytest.mark.parametrize("command", ["inspect", "run", "append"])
def test_a_store_whose_chunks_are_programs_is_refused_before_one_is_decoded(
        lrh, malicious, tmp_path, coded, command):
    make, made = malicious
    store = make(**coded)
    args = {"inspect": ["--all"], "append": []}.get(command, ["--out", tmp_path / "r.zarr"])
    done = lrh(command, *([tmp_path / "new.zarr"] if command == "append" else []), store, *args,
               cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "runs whatever code their writer chose" in done.stderr
    assert "Traceback" not in done.stderr
    assert not made.exists()


def test_results_and_states_of_that_format_are_none(malicious):
    make, made = malicious
    store = make({"lrh_dask_format": 1, "lrh_dask_states": 2}, dtype="|O", filters=[PICKLE])
    with pytest.raises(BadPairs):
        load_result(store)
    with pytest.raises(ValueError, match="cannot be read"):
        read_group(store)
    assert not made.exists()


def test_pairs_of_format_2_that_are_numbers_are_read(tmp_path):
    group = zarr.open_group(tmp_path / "p.zarr", mode="w", zarr_format=2)
    for name in ("x", "y"):
        group.create_array(name, data=np.ones((4, 2)), filters=[numcodecs.Delta("<f8")])
    assert lrh_dask.open_pairs(tmp_path / "p.zarr").n_pairs == 4


def test_objects_in_npz_are_refused_and_not_loaded(lrh, tmp_path):
    made = tmp_path / "made"
    objects = np.empty(1, object)
    objects[0] = MakesFolder(made)
    np.savez(tmp_path / "new.npz", x=objects, y=objects)
    done = lrh("append", "p.zarr", "new.npz", cwd=tmp_path)
    assert done.returncode == 3
    assert "Python objects are never loaded" in done.stderr
    assert not made.exists()
