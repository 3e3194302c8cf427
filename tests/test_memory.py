"""The price of a run's memory is measured on real workers: never exceeded, and no idle talk."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from lrh_dask import fit, open_pairs
from lrh_dask.cluster import MALLOC
from lrh_dask.pipeline import price
from lrh_dask.process import peak_bytes
from lrh_dask.synthetic import Known, write_known

SHAPES = {  # n, D, what else; the route that it takes
    "all_features": (60_000, 256, {}, {}),
    "all_features, float64": (20_000, 384, {"dtype": "float64"}, {}),
    "fitted_basis, all pairs": (12_000, 2600, {}, {"basis": 96}),
    "fitted_basis, a sample": (160_000, 512, {}, {"basis": 100}),
    "whole_pairs": (250, 16_000, {}, {}),
    "by_features": (100, 2_000_000, {"chunks": (50, 50_000)}, {}),
}


def _forget_the_peak():
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(),
                    reason="peaks of processes are read from Linux's /proc")
@pytest.mark.parametrize("shape", SHAPES)
def test_a_worker_stays_below_its_price_and_not_far(tmp_path, shape):
    n, d, stored, asked = SHAPES[shape]
    pairs = open_pairs(write_known(tmp_path / "a.zarr", n, Known.indefinite(d, 8), **stored))
    import dask

    with dask.config.set(MALLOC), LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0",
            silence_logs=50) as cluster, Client(cluster) as client:
        plan, _ = price(pairs, rank=None, method="symmetric", client=client, **asked)
        client.run(_forget_the_peak)
        hessian = fit(pairs, **asked)
        peak, = client.run(peak_bytes).values()
    assert hessian.provenance["route"] == shape.split(",")[0]
    assert peak <= plan.usual_worker_bytes <= plan.peak_worker_bytes
    assert plan.usual_worker_bytes <= 1.5 * peak, (peak, plan)
