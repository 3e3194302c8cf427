"""A cluster over several hosts, each with an address of its own, fits what one process fits."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cluster_processes import address_in, scheduler, worker
from network_hosts import Unavailable, hosts

import lrh_dask
from lrh_dask.clusters import running_cluster

LRH = Path(sys.executable).with_name("lrh")
FIT = """
import sys, lrh_dask
from lrh_dask.clusters.cluster import connect
from lrh_dask.settings.cluster_settings import ClusterSettings, cluster_at
with connect(ClusterSettings(**cluster_at(sys.argv[1]), insecure=True), print) as client:
    hosts = {w["host"] for w in client.scheduler_info(n_workers=-1)["workers"].values()}
    lrh_dask.fit(lrh_dask.open_pairs(sys.argv[2])).save(sys.argv[3])
print(sorted(hosts))
"""


@pytest.fixture(scope="module")
def network():
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(hosts("driver", "head", "one", "two"))
        except Unavailable as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        yield found


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.standard_normal((20, 3)))[0]
    x = rng.standard_normal((600, 20))
    y = x @ (u * [3.0, -2.0, 1.0]) @ u.T + 0.01 * rng.standard_normal(x.shape)
    return lrh_dask.write_pairs(tmp_path_factory.mktemp("store") / "pairs.zarr", x, y,
                                chunk_rows=20)


@pytest.fixture(scope="module")
def over_hosts(network, tmp_path_factory):
    """A scheduler on one host and a worker on each of two others."""
    folder = tmp_path_factory.mktemp("over-hosts")
    on_head, address = network["head"]
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(scheduler(folder, host=address, prefix=on_head))
        for name in ("one", "two"):
            prefix, own = network[name]
            stack.enter_context(worker(path, host=own, prefix=prefix))
        yield path


def test_a_fit_over_hosts_has_the_bits_of_one_in_this_process(network, over_hosts, store, tmp_path):
    driver, _ = network["driver"]
    done = subprocess.run([*driver, sys.executable, "-c", FIT, address_in(over_hosts), store,
                           tmp_path / "r.zarr"], capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.returncode == 0, done.stderr
    notice, *said = done.stdout.splitlines()
    assert "whoever reaches it runs any code" in notice.lower()
    assert said == [
        f"Cluster: tcp://{network['head'][1]}:{address_in(over_hosts).rpartition(':')[2]}, "
        "2 workers, 2 threads", str(sorted([network["one"][1], network["two"][1]]))]
    there = lrh_dask.LowRankHessian.load(tmp_path / "r.zarr")
    here = lrh_dask.fit(lrh_dask.open_pairs(store))
    np.testing.assert_array_equal(there.eigenvalues, here.eigenvalues)
    np.testing.assert_array_equal(there.eigenvectors, here.eigenvectors)


@pytest.mark.long
def test_the_command_line_takes_the_scheduler_file_of_another_host(network, over_hosts, store,
                                                                   tmp_path):
    driver, _ = network["driver"]
    done = subprocess.run([*driver, LRH, "run", store, "--scheduler", over_hosts, "--insecure",
                           "--out", tmp_path / "r.zarr", "--json"], capture_output=True, text=True,
                          timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rank"] == 3


def test_a_host_that_cannot_be_reached_is_told(lrh, over_hosts, store, monkeypatch):
    """From outside of the switch."""
    monkeypatch.setattr(running_cluster, "CONNECT_SECONDS", 1)
    done = lrh("run", store, "--scheduler", over_hosts, "--insecure", cwd="/")
    assert done.returncode == 4
    assert "no firewall is between" in done.stderr
    assert "Traceback" not in done.stderr
