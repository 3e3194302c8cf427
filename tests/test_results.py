"""Results: whole or absent, and readable by others."""

import dataclasses

import numpy as np
import pytest
import xarray as xr
import zarr

from lrh_dask import BadPairs, LowRankHessian, Pairs, SettingsError, fit
from lrh_dask.stores.results import DIMENSIONS


@pytest.fixture(scope="module")
def hessian():
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.standard_normal((30, 3)))[0]
    x = rng.standard_normal((400, 30))
    y = x @ (u * [3.0, -2.0, 1.0]) @ u.T + 0.1 * rng.standard_normal((400, 30)) + 5.0
    return fit(Pairs(x, y, name="made up"))


def test_a_result_reads_back_as_it_was(hessian, tmp_path):
    read = LowRankHessian.load(hessian.save(tmp_path / "r.zarr"))
    for name in ("eigenvalues", "standard_errors", "eigenvectors", "offset"):
        np.testing.assert_array_equal(getattr(read, name), getattr(hessian, name))
    assert read.certificates == hessian.certificates
    assert read.n_pairs == hessian.n_pairs
    assert read.provenance["settings"] == hessian.provenance["settings"]
    for name, curve in hessian.curves.items():
        np.testing.assert_array_equal(read.curves[name], curve)


def test_xarray_opens_it_with_named_dimensions(hessian, tmp_path):
    with xr.open_zarr(hessian.save(tmp_path / "r.zarr")) as data:
        assert data["eigenvectors"].dims == ("feature", "rank")
        assert {name: data[name].dims for name in data} == {
            name: DIMENSIONS[name] for name in data}
        assert data.attrs["provenance"]["store"] == "made up"
        assert data.attrs["lrh_dask_format"] == 1
        for key in ("settings", "fingerprint", "versions"):
            assert data.attrs["provenance"][key]
        assert data.attrs["certificates"]["verdict"] == hessian.certificates.verdict.name


def test_an_existing_result_is_kept(hessian, tmp_path):
    path = hessian.save(tmp_path / "r.zarr")
    with pytest.raises(SettingsError, match="--overwrite"):
        hessian.save(path)
    hessian.save(path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["r.zarr"]


def test_a_writer_that_dies_leaves_nothing_that_looks_whole(hessian, tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(zarr, "consolidate_metadata", die)
    with pytest.raises(KeyboardInterrupt):
        hessian.save(tmp_path / "r.zarr")
    assert list(tmp_path.iterdir()) == []


def test_nan_and_rank_zero_survive(hessian, tmp_path):
    empty = dataclasses.replace(
        hessian, eigenvalues=np.zeros(0), standard_errors=np.zeros(0),
        eigenvectors=np.zeros((30, 0)), offset=None, curves={},
        certificates=dataclasses.replace(hessian.certificates, held_out_residual=np.nan))
    read = LowRankHessian.load(empty.save(tmp_path / "r.zarr"))
    assert (read.rank, read.n_features, read.offset) == (0, 30, None)
    assert np.isnan(read.certificates.held_out_residual)


def test_what_is_no_result_is_refused(hessian, tmp_path):
    with pytest.raises(BadPairs, match="nothing there"):
        LowRankHessian.load(tmp_path / "none.zarr")
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(BadPairs, match="another Zarr group"):
        LowRankHessian.load(tmp_path / "other.zarr")
    path = hessian.save(tmp_path / "r.zarr")
    group = zarr.open_group(path)
    group.attrs["lrh_dask_format"] = 99
    with pytest.raises(BadPairs, match="format 99"):
        LowRankHessian.load(path)
