"""The price of a run's memory is measured on real workers: never exceeded, and no idle talk."""

from __future__ import annotations

import contextlib
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

from lrh_dask import SettingsError, fit, open_pairs
from lrh_dask.clusters.cluster import worker_environment
from lrh_dask.runs.pipeline import price
from lrh_dask.runs.process import peak_bytes
from lrh_dask.stores.synthetic import Known, write_known

SHAPES = {  # n, D, what else; the route that it takes
    "all_features": (60_000, 256, {}, {}),
    "all_features, float64": (20_000, 384, {"dtype": "float64"}, {}),
    "all_features, compressed": (60_000, 256, {}, {}),
    "all_features, weighted": (60_000, 256, {}, {}),
    "all_features, a dead feature": (48_000, 384, {"chunks": (1000, 384)}, {}),
    "all_features, exact": (24_000, 400, {"noise": 0.0, "chunks": (500, 400)}, {}),
    "fitted_basis, all pairs": (12_000, 2600, {}, {"basis": 96}),
    "fitted_basis, a sample": (160_000, 512, {}, {"basis": 100}),
    "fitted_basis, weighted": (160_000, 512, {}, {"basis": 100}),
    "fitted_basis, wide rows": (800, 60_000, {"chunks": (64, 60_000)}, {"basis": 32}),
    "fitted_basis, exact": (24_000, 1000, {"noise": 0.0, "chunks": (500, 1000)}, {"basis": 200}),
    "fitted_basis, compressed": (12_000, 2600, {}, {"basis": 96}),
    "fitted_basis, two threads": (160_000, 512, {}, {"basis": 100}),
    "whole_pairs": (200, 60_000, {}, {}),
    "whole_pairs, as many pairs as features": (1000, 1500, {}, {}),
    "whole_pairs, exact": (200, 60_000, {"noise": 0.0}, {}),
    "whole_pairs, of [X Y]": (200, 60_000, {}, {"method": "least_norm"}),
    "by_features": (100, 1_400_000, {"chunks": (50, 50_000)}, {}),
    "by_features, exact": (100, 1_400_000, {"chunks": (50, 50_000), "noise": 0.0}, {}),
}


ALWAYS = {"all_features", "fitted_basis, a sample", "whole_pairs, of [X Y]", "by_features"}
"""One a route; the others are of the long suite."""


def _forget_the_peak():
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def written(path, shape):
    """A store of that shape; its numbers are noise where they need not be more."""
    n, d, stored, _ = SHAPES[shape]
    write_known(path, n, Known.indefinite(d, 8), **stored)
    group = zarr.open_group(path)
    if "weighted" in shape:  # in one chunk, as one who writes it afterwards would
        group.create_array("weight", data=np.arange(n) % 3.0, chunks=(n,))
    if "dead" in shape:  # in one half, so that buckets are well conditioned only when merged
        for name in "xy":
            group[name][:n // 2, 0] = 0.0
    if "compressed" in shape:
        for name in "xy":
            array = group[name]
            rows, chunks = array[:], array.chunks
            group.create_array(name, data=rows, chunks=chunks, overwrite=True)
    return open_pairs(path)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(),
                    reason="peaks of processes are read from Linux's /proc")
@pytest.mark.parametrize("shape", [
    pytest.param(shape, marks=[] if shape in ALWAYS else pytest.mark.long) for shape in SHAPES])
def test_a_worker_stays_below_its_price_and_not_far(tmp_path, shape):
    pairs, asked = written(tmp_path / "a.zarr", shape), SHAPES[shape][3]
    assert pairs.blocks.are_decoded == ("compressed" in shape)
    threads = 2 if "threads" in shape else 1
    with one_worker(threads_per_worker=threads) as client:
        plan, _ = price(pairs, rank=None, client=client, **{"method": "symmetric", **asked})
        client.run(_forget_the_peak)
        hessian = fit(pairs, **asked)
        peak, = client.run(peak_bytes).values()
    assert hessian.provenance["route"] == shape.split(",")[0]
    assert peak <= plan.usual_worker_bytes <= plan.peak_worker_bytes
    together = 1.5 if threads == 1 else 2.0  # tasks are seldom at their dearest together
    assert plan.usual_worker_bytes <= together * peak, (peak, plan)


def test_a_worker_of_the_size_that_a_refusal_names_carries_run_after_run(tmp_path):
    """Dask pauses a worker above four fifths of its limit; what it held is not all given back."""
    pairs = open_pairs(write_known(tmp_path / "a.zarr", 60_000, Known.indefinite(256, 8)))
    with pytest.raises(SettingsError, match="--memory-limit") as caught:
        price(pairs, rank=None, method="symmetric", worker_bytes=2**27)
    needed = str(caught.value).split("--memory-limit ")[2].split("`")[0]
    with one_worker(memory_limit=needed) as client:
        for _ in range(3):
            fit(pairs)
        status, = {w["status"] for w in client.scheduler_info(n_workers=-1)["workers"].values()}
    assert status == "running"


@contextlib.contextmanager
def one_worker(threads_per_worker=1, **settings):
    with dask.config.set(worker_environment(threads_per_worker)), LocalCluster(
            n_workers=1, dashboard_address="127.0.0.1:0", silence_logs=50,
            threads_per_worker=threads_per_worker, **settings) as cluster, \
            Client(cluster) as client:
        yield client
