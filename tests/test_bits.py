"""The same bytes of every result array whatever the workers, their threads and their deaths."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from distributed import Client, LocalCluster

from lrh_dask import fit, open_pairs, write_pairs

SHAPES = {  # 43 blocks make runs of whole buckets, 16 are a run each and cut into buckets
    "all_features": {"n": 2560, "d": 24, "chunk_rows": 60},
    "whole_pairs": {"n": 320, "d": 2570, "chunk_rows": 20},
    "fitted_basis": {"n": 1040, "d": 2570, "chunk_rows": 65}}


def bytes_of(hessian):
    arrays = {name: getattr(hessian, name)
              for name in ("eigenvalues", "standard_errors", "eigenvectors")}
    return {name: a.tobytes() for name, a in {**arrays, **hessian.curves}.items()}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """By route: a store on disk, and what a fit in this process makes of it."""
    found = {}
    for route, (n, d, chunk_rows) in ((r, s.values()) for r, s in SHAPES.items()):
        rng = np.random.default_rng(0)
        u = np.linalg.qr(rng.standard_normal((d, 6)))[0]
        x = rng.standard_normal((n, d))
        y = x @ u * [1.0, -0.9, 0.8, -0.7, 0.6, -0.5] @ u.T
        y += 0.05 * np.std(y) * rng.standard_normal(y.shape)
        pairs = open_pairs(write_pairs(tmp_path_factory.mktemp("bits") / f"{route}.zarr",
                                       x.astype("f4"), y.astype("f4"), chunk_rows=chunk_rows))
        here = fit(pairs)
        assert here.provenance["route"] == route
        assert here.rank == 6
        found[route] = pairs, bytes_of(here)
    return found


def start(n_workers, threads):
    """Real worker processes, each with memory enough for the same plan."""
    return LocalCluster(n_workers=n_workers, threads_per_worker=threads, processes=True,
                        memory_limit="4GiB", dashboard_address="127.0.0.1:0", silence_logs=50)


def assert_same_bytes(stored, where):
    for route, (pairs, expected) in stored.items():
        assert bytes_of(fit(pairs)) == expected, f"{route} {where}"


def test_one_two_or_five_workers_change_no_byte(stored):
    with start(1, 1) as cluster, Client(cluster) as client:
        for n_workers in (1, 2, 5):
            cluster.scale(n_workers)
            client.wait_for_workers(n_workers, timeout=60)
            assert_same_bytes(stored, f"on {n_workers} workers")


def test_tasks_of_one_bucket_each_give_the_same_bytes_over_all_features(stored, monkeypatch):
    """Those of a large store; in a small one several are joined."""
    pairs, expected = stored["all_features"]
    monkeypatch.setattr("lrh_dask.runs.shards.JOINED_BYTES", 0)
    with start(2, 1) as cluster, Client(cluster):
        apart = fit(pairs)
    assert apart.provenance["n_tasks"] > 40, "not the case to try"
    assert bytes_of(apart) == expected


@pytest.mark.long
def test_threads_and_deaths_of_workers_that_hold_states_change_no_byte(stored):
    """Workers of two threads; then one of two is killed in each of the two passes."""
    pairs, expected = stored["fitted_basis"]
    with start(1, 2) as cluster, Client(cluster) as client:
        assert_same_bytes(stored, "on two threads")
        cluster.scale(2)
        client.wait_for_workers(2, timeout=60)
        seen, lost = [], {}

        def kill_at_the_sixth_run(event):
            seen.append(event.stage)
            if event.stage != "solve" and seen.count(event.stage) == 6:
                victim = max(cluster.scheduler.workers.values(), key=lambda w: len(w.has_what))
                nanny, = (n for n in cluster.workers.values() if n.worker_address == victim.address)
                os.kill(nanny.pid, signal.SIGKILL)
                lost[event.stage] = len(victim.has_what)

        assert bytes_of(fit(pairs, on_event=kill_at_the_sixth_run)) == expected
    assert set(lost) == {"basis", "fit"}
    assert min(lost.values()) > 0
