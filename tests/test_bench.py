"""The comparison runs real programs on a store of a known Hessian, and leaves nothing behind."""

from __future__ import annotations

import json

import numpy as np
from typer.testing import CliRunner

from lrh_dask import open_pairs
from lrh_dask.cli.app import app
from lrh_dask.reports import rivals
from lrh_dask.stores.synthetic import Known, write_known


def test_a_store_holds_pairs_of_its_hessian_however_it_is_chunked(tmp_path):
    known = Known.indefinite(40, 5)
    h = known.eigenvectors * known.eigenvalues @ known.eigenvectors.T
    for name, chunks in (("rows", None), ("blocks", (70, 16))):
        pairs = open_pairs(write_known(tmp_path / name, 300, known, noise=0.1, chunks=chunks))
        block = pairs.read(0, 300)
        left = block.y - block.x @ h
        assert 0.09 < np.linalg.norm(left) / np.linalg.norm(block.x @ h) < 0.11
        assert abs(np.mean(block.x**2) - 1.0) < 0.05
        assert np.linalg.matrix_rank(block.x) == 40


def test_every_program_finds_the_eigenvalues(tmp_path):
    known = Known.indefinite(40, 5)
    store = str(write_known(tmp_path / "a.zarr", 3000, known, noise=0.01, chunks=(500, 40)))
    for program in (rivals.numpy_normal_equations, rivals.dask_normal_equations,
                    rivals.svd_compressed):
        np.testing.assert_allclose(program(store, 5), known.eigenvalues, rtol=1e-2)


def test_the_command_prints_one_document_and_removes_its_store(tmp_path):
    done = CliRunner().invoke(app, ["bench", "--pairs", "2000", "--features", "64", "--rounds", "1",
                                    "--workers", "1", "--folder", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert list(found)[:2] == ["read floor", "lrh"]
    assert all(len(one["seconds"]) == 1 and one["seconds"][0] > 0 for one in found.values())
    assert found["lrh"]["error"] <= 1.5 * found["NumPy normal equations"]["error"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_room_is_refused(tmp_path):
    done = CliRunner().invoke(app, ["bench", "--pairs", "100000000", "--features", "100000",
                                    "--folder", str(tmp_path)])
    assert "MiB for the store" in str(done.exception)
    assert list(tmp_path.iterdir()) == []
