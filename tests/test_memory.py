"""The price of a run's memory is measured on real workers: never exceeded, and no idle talk.

``pytest -m "long or not long" tests/test_memory.py`` measures all shapes and writes
``tests/benchmarks/memory.md``; one runs always.
"""

from __future__ import annotations

import contextlib
import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
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
    "all_features, float16, compressed": (40_000, 256, {}, {}),
    "all_features, tall": (1_500_000, 16, {}, {}),
    "all_features, large chunks": (60_000, 256, {"chunks": (30_000, 256)}, {}),
    "all_features, large chunks, compressed": (60_000, 256, {"chunks": (30_000, 256)}, {}),
    "all_features, sharded": (60_000, 256, {}, {}),
    "all_features, two threads": (60_000, 256, {}, {}),
    "all_features, chunked columns": (60_000, 256, {"chunks": (8000, 64)}, {}),
    "all_features, two workers": (60_000, 256, {}, {}),
    "all_features, exact": (24_000, 400, {"noise": 0.0, "chunks": (500, 400)}, {}),
    "all_features, kept": (60_000, 256, {}, {}),
    "all_features, exact, kept": (24_000, 400, {"noise": 0.0, "chunks": (500, 400)}, {}),
    "fitted_basis, all pairs": (12_000, 2600, {}, {"basis": 96}),
    "fitted_basis, a sample": (160_000, 512, {}, {"basis": 100}),
    "fitted_basis, weighted": (160_000, 512, {}, {"basis": 100}),
    "fitted_basis, wide rows": (800, 60_000, {"chunks": (64, 60_000)}, {"basis": 32}),
    "fitted_basis, exact": (24_000, 1000, {"noise": 0.0, "chunks": (500, 1000)}, {"basis": 200}),
    "fitted_basis, compressed": (12_000, 2600, {}, {"basis": 96}),
    "fitted_basis, two threads": (160_000, 512, {}, {"basis": 100}),
    "fitted_basis, chunked columns": (12_000, 2600, {"chunks": (1600, 650)}, {"basis": 96}),
    "fitted_basis, float64, two workers": (60_000, 512, {"dtype": "float64"}, {"basis": 100}),
    "fitted_basis, sharded": (12_000, 2600, {"chunks": (1600, 2600)}, {"basis": 96}),
    "fitted_basis, kept": (12_000, 2600, {}, {"basis": 96}),
    "whole_pairs": (200, 60_000, {}, {}),
    "whole_pairs, as many pairs as features": (1000, 1500, {}, {}),
    "whole_pairs, exact": (200, 60_000, {"noise": 0.0}, {}),
    "whole_pairs, of [X Y]": (200, 60_000, {}, {"method": "least_norm"}),
    "whole_pairs, kept": (200, 60_000, {}, {}),
    "by_features": (100, 1_400_000, {"chunks": (50, 50_000)}, {}),
    "by_features, compressed": (100, 700_000, {"chunks": (50, 50_000), "dtype": "float64"}, {}),
    "by_features, exact": (100, 1_400_000, {"chunks": (50, 50_000), "noise": 0.0}, {}),
    "by_features, kept": (100, 1_400_000, {"chunks": (50, 50_000)}, {}),
}


DECODED = {"compressed", "sharded"}
PAGE, MIB = Path(__file__).parent / "benchmarks" / "memory.md", 2**20
ALWAYS = {"fitted_basis, all pairs"}
"""The others are of the long suite; test_pipeline always has one over all of R^D."""


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
    if DECODED & set(shape.split(", ")):
        for name in "xy":
            rows, chunks = group[name][:], group[name].chunks
            how = {"chunks": chunks}
            if "float16" in shape:
                rows = rows.astype("float16")
            if "sharded" in shape:
                how = {"shards": chunks, "chunks": (chunks[0] // 4, chunks[1])}
            group.create_array(name, data=rows, overwrite=True, **how)
    return open_pairs(path)


@pytest.fixture(scope="module")
def measured():
    """Price and peak by shape; they become a page when all shapes are there."""
    found = {}
    yield found
    if found.keys() == SHAPES.keys():
        PAGE.write_text(page(found), encoding="utf-8")


def page(found):
    lines = "\n".join(
        f"| {shape} | {SHAPES[shape][0]:,} × {SHAPES[shape][1]:,} | {price / MIB:,.0f} | "
        f"{peak / MIB:,.0f} | {peak / price:.2f} |" for shape, (price, peak) in found.items())
    ratios = [peak / price for price, peak in found.values()]
    return f"""\
# Memory: what a worker is said to need, and what it took

Written by `pytest -m "long or not long" tests/test_memory.py`: {datetime.now(UTC):%Y-%m-%d}, \
{platform.machine()}, {platform.system()}, Python {platform.python_version()}, lrh-dask \
{version("lrh-dask")}, NumPy {version("numpy")}, Zarr {version("zarr")}, Dask {version("dask")}.

The price is that of `lrh plan` for such pairs, whose y has few strong directions. The peak is the
largest resident size (VmHWM) that any worker process had in the run, Python and libraries
included. No peak may be above its price ({len(found)} shapes; the nearest comes to \
{max(ratios):.2f} of it), and no price
far above its peak.

| route and shape | n × D | price, MiB | peak, MiB | peak / price |
| --- | ---: | ---: | ---: | ---: |
{lines}
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(),
                    reason="peaks of processes are read from Linux's /proc")
@pytest.mark.parametrize("shape", [
    pytest.param(shape, marks=[] if shape in ALWAYS else pytest.mark.long) for shape in SHAPES])
def test_a_worker_stays_below_its_price_and_not_far(tmp_path, measured, shape):
    pairs, asked = written(tmp_path / "a.zarr", shape), SHAPES[shape][3]
    assert pairs.blocks.are_decoded == bool(DECODED & set(shape.split(", ")))
    threads = 2 if "threads" in shape else 1
    with workers(2 if "workers" in shape else 1, threads) as client:
        plan, _ = price(pairs, rank=None, client=client, **{"method": "symmetric", **asked})
        client.run(_forget_the_peak)
        hessian = fit(pairs, **asked, **({"states": tmp_path / "kept"} if "kept" in shape else {}))
        peak = max(client.run(peak_bytes).values())
    measured[shape] = plan.usual_worker_bytes, peak
    assert hessian.provenance["route"] == shape.split(",")[0]
    assert peak <= plan.usual_worker_bytes <= plan.peak_worker_bytes
    together = 1.5 if threads == 1 else 2.0  # tasks are seldom at their dearest together
    assert plan.usual_worker_bytes <= together * peak, (peak, plan)


@pytest.mark.long
def test_a_worker_of_the_size_that_a_refusal_names_carries_run_after_run(tmp_path):
    """Dask pauses a worker above four fifths of its limit; what it held is not all given back."""
    pairs = open_pairs(write_known(tmp_path / "a.zarr", 60_000, Known.indefinite(256, 8)))
    with pytest.raises(SettingsError, match="--memory-limit") as caught:
        price(pairs, rank=None, method="symmetric", worker_bytes=2**27)
    needed = str(caught.value).split("--memory-limit ")[2].split("`")[0]
    with workers(memory_limit=needed) as client:
        for _ in range(3):
            fit(pairs)
        status, = {w["status"] for w in client.scheduler_info(n_workers=-1)["workers"].values()}
    assert status == "running"


@pytest.mark.parametrize(("n", "d", "chunks", "asked"), [
    (4000, 96, (500, 96), ["--basis", 96]), (4000, 300, (500, 300), ["--basis", 20]),
    (120, 3000, (120, 3000), ["--method", "seed"])])
def test_a_worker_below_the_price_of_the_plan_is_refused_before_any_task(
        tmp_path, lrh, n, d, chunks, asked):
    """By settings before a cluster starts, and on a cluster that is there before a task does."""
    write_known(tmp_path / "a.zarr", n, Known.indefinite(d, 4), chunks=chunks)
    planned = lrh("plan", "a.zarr", "--json", *asked, cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    price = json.loads(planned.stdout)["peak_worker_bytes"]
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, silence_logs=50,
                      memory_limit=price - 1, dashboard_address=None) as cluster:
        for where in (["--memory-limit", f"{price - 1}B", "--workers", 1],
                      ["--scheduler", cluster.scheduler_address]):
            done = lrh("run", "a.zarr", *asked, *where, cwd=tmp_path)
            assert done.returncode == 2
            assert "Nothing" in done.stderr or "nothing was started" in done.stderr
            assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
        assert cluster.scheduler.transition_counter == 0
        assert not cluster.scheduler.task_prefixes


@contextlib.contextmanager
def workers(n_workers=1, threads_per_worker=1, **settings):
    with dask.config.set(worker_environment(threads_per_worker)), LocalCluster(
            n_workers=n_workers, dashboard_address="127.0.0.1:0", silence_logs=50,
            threads_per_worker=threads_per_worker, **settings) as cluster, \
            Client(cluster) as client:
        yield client
