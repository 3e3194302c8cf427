"""Few pairs of many features are fitted block by block, as if one worker had held them whole."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

from lrh_dask import BadPairs, RunFailed, fit, open_pairs
from lrh_dask.runs import budget, by_features, graph, memory, tree
from lrh_dask.runs.pipeline import price
from lrh_dask.stores import blocks

N, D = 60, 3000
ROOT_OF_ROUNDING = np.sqrt(np.finfo(np.float64).eps)  # of residuals of exact pairs no more is known


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of one chunk, and no store so small that one worker takes it whole."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    monkeypatch.setattr(budget, "MAX_WHOLE_BYTES", 0)


def store(path, *, dtype="float32", noise=0.05, offset=0.0, weight=None, change=None):
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.standard_normal((D, 5)))[0]
    x = rng.standard_normal((N, D))
    y = x @ u * [1.0, -0.9, 0.8, 0.7, -0.6] @ u.T
    size = np.linalg.norm(y) / np.sqrt(y.size)
    y = y + noise * size * rng.standard_normal(y.shape) + offset * size
    if change is not None:
        change(x, y)
    group = zarr.open_group(path, mode="w")
    for name, a in (("x", x.astype(dtype)), ("y", y.astype(dtype)), ("weight", weight)):
        if a is not None:
            group.create_array(name, data=a, chunks=(40, 700)[:a.ndim], compressors=None)
    return open_pairs(path), u


def both_ways(found, monkeypatch, **settings):
    apart = fit(found, **settings)
    monkeypatch.setattr(budget, "MAX_WHOLE_BYTES", 2**40)
    whole = fit(found, **settings)
    assert (apart.provenance["route"], whole.provenance["route"]) == ("by_features", "whole_pairs")
    return apart, whole


def assert_alike(apart, whole, within):
    assert apart.certificates.verdict is whole.certificates.verdict
    assert apart.rank == whole.rank
    np.testing.assert_allclose(apart.eigenvalues, whole.eigenvalues, rtol=within)
    np.testing.assert_allclose(apart.standard_errors, whole.standard_errors, rtol=100 * within)
    np.testing.assert_allclose(apart.bias, whole.bias, atol=100 * within)
    overlap = np.linalg.svd(apart.eigenvectors.T @ whole.eigenvectors, compute_uv=False)
    np.testing.assert_allclose(overlap, 1.0, atol=10 * within)
    for name in ("residual", "held_out_residual", "captured_energy", "n_explored", "n_effective"):
        assert getattr(apart.certificates, name) == pytest.approx(
            getattr(whole.certificates, name), rel=100 * within, abs=ROOT_OF_ROUNDING)


@pytest.mark.parametrize(("dtype", "within"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("settings", [{}, {"center": True}, {"rank": 3}, {"weighting": "step"}],
                         ids=str)
def test_noisy_pairs_give_the_same_as_on_one_worker(tmp_path, monkeypatch, dtype, within, settings):
    found, _ = store(tmp_path / "a.zarr", dtype=dtype, offset=0.2)
    apart, whole = both_ways(found, monkeypatch, **settings)
    assert_alike(apart, whole, within)
    assert apart.eigenvectors.dtype == dtype
    assert (apart.offset is None) == (whole.offset is None)
    if apart.offset is not None:
        np.testing.assert_allclose(apart.offset, whole.offset,
                                   atol=10 * within * np.linalg.norm(whole.offset))


@pytest.mark.parametrize("method", ["symmetric", "seed", "least_norm"])
def test_exact_pairs_give_the_same_by_every_method(tmp_path, monkeypatch, method):
    found, _ = store(tmp_path / "a.zarr", dtype="float64", noise=0.0)
    apart, whole = both_ways(found, monkeypatch, method=method)
    assert_alike(apart, whole, 1e-7)
    assert apart.certificates.residual < 1e-7


def test_rows_without_weight_or_content_and_copies_are_counted(tmp_path, monkeypatch):
    def change(x, y):
        x[3], y[3] = x[50], y[50]
        x[7], y[8] = 0.0, 0.0

    weight = np.ones(N)
    weight[[0, 20]] = 0.0
    found, _ = store(tmp_path / "a.zarr", weight=weight, change=change)
    apart, whole = both_ways(found, monkeypatch)
    for hessian in (apart, whole):
        c = hessian.certificates
        assert (hessian.n_pairs, c.n_zero_x, c.n_zero_y, c.n_duplicates) == (N - 2, 1, 1, 1)


def test_each_chunk_is_read_once_for_the_fit_and_y_once_more_for_the_vectors(tmp_path):
    found, _ = store(tmp_path / "a.zarr")
    told = []
    hessian = fit(found, on_event=told.append)
    assert hessian.provenance["bytes_read"] == 1.5 * found.stored_bytes
    assert sum(event.n_pairs for event in told if event.stage == "basis") == N


def test_a_cluster_gives_the_same_bits(tmp_path):
    found, _ = store(tmp_path / "a.zarr")
    here = fit(found)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0",
                      silence_logs=50) as cluster, Client(cluster):
        there = fit(found)
    for name in ("eigenvalues", "standard_errors", "eigenvectors"):
        assert getattr(here, name).tobytes() == getattr(there, name).tobytes()


@pytest.mark.parametrize("label", ["x", "y"])
def test_a_chunk_that_is_missing_or_not_finite_is_refused(tmp_path, label):
    found, _ = store(tmp_path / "a.zarr")
    array = zarr.open_group(tmp_path / "a.zarr")[label]
    array[50, 1000] = np.nan
    with pytest.raises(BadPairs, match=rf"{label}: expected finite values, got NaN.*\(50\)"):
        fit(found)
    shutil.rmtree(tmp_path / "a.zarr" / label / "c" / "1")
    with pytest.raises(BadPairs, match=rf"read columns .* of .*{label}.*missing"):
        fit(found)


def test_the_price_does_not_grow_with_the_features(tmp_path):
    found, _ = store(tmp_path / "a.zarr")
    plan, _ = price(found, rank=None, method="symmetric")
    assert plan.route is budget.Route.by_features
    assert plan.bytes_read == 1.5 * found.stored_bytes
    assert plan.peak_worker_bytes < memory.IDLE_BYTES + memory.RETAINED + 20 * 2**20


def test_features_that_a_tree_takes_twice_or_not_at_all_leave_no_result(tmp_path, monkeypatch):
    pairs, _ = store(tmp_path / "a.zarr")
    monkeypatch.setattr(by_features, "RUN_BYTES", 1)  # a block a leaf
    fit(pairs)
    for changed, said in ((lambda keys: [*keys, keys[0]], "in both"),
                          (lambda keys: keys[:-1], "left out")):
        monkeypatch.setattr(graph, "tree_reduce", lambda keys, merge, name, changed=changed:
                            tree.tree_reduce(changed(keys), merge, name))
        with pytest.raises(RunFailed, match=said):
            fit(pairs)
