"""How far a run is: told to anyone who asks, never backwards, and exact when a stage is over."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import slow_reading
from cluster_processes import cluster
from distributed import Client

from lrh_dask import fit, open_pairs
from lrh_dask.nights.underway import State, status_of
from lrh_dask.runs.progress import BEGINS
from lrh_dask.stores.synthetic import Known, write_known

LRH = [sys.executable, "-m", "lrh_dask"]
N, D, ROW_BYTES = 80_000, 32, 2 * 32 * 4  # so many that a basis is found in a sample
SECONDS = 180


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_known(tmp_path_factory.mktemp("pairs") / "slow.zarr", N,
                       Known.indefinite(D, 4), chunks=(512, D))


@pytest.fixture(scope="module")
def slow_cluster(tmp_path_factory):
    """Its nannies start another worker where one is killed."""
    with cluster(tmp_path_factory.mktemp("cluster"), 2, "--preload",
                 slow_reading.__file__) as path, Client(scheduler_file=str(path)) as client:
        yield client


def submitted(store, folder, scheduler, basis):
    """The folder of runs, and the id of a run that begins there."""
    (folder / "night.yaml").write_text(f"store: {store}\nruns: {folder}/runs\nbasis: {basis}\n")
    done = subprocess.run([*LRH, "submit", "night.yaml", "--scheduler", scheduler], text=True,
                          capture_output=True, check=False, stdin=subprocess.DEVNULL, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs", done.stdout.strip()


def polled(runs, run, look):
    """Every state of a run that was seen from here, until its end; ``look`` sees it as well."""
    seen, end = [], time.monotonic() + SECONDS
    while not (seen and seen[-1].state.is_final):
        assert time.monotonic() < end, seen[-1]
        seen.append(status_of(runs, run))
        look(seen[-1])
        time.sleep(0.02)
    return seen


def assert_counts(seen):
    """Of each attempt no count falls, none exceeds what its stage reads."""
    for before, now in pairwise(seen):
        assert now.attempt >= before.attempt
        if now.attempt == before.attempt:
            assert {stage: now.done[stage] for stage in before.done if
                    now.done[stage] < before.done[stage]} == {}
    for now in seen:
        assert all(done <= now.of[stage] <= N for stage, done in now.done.items())
        assert set(now.done) <= {"basis", "fit", "solve"}  # no pass is made twice


@pytest.mark.parametrize(("basis", "victim"), [
    (8, "nobody"), *(pytest.param(*which, marks=pytest.mark.long) for which in (
        (D, "nobody"), *((basis, victim) for basis in (8, D)
                         for victim in ("a worker", "the worker of the driver"))))])
def test_counts_only_grow_and_end_at_the_pairs_that_were_read(
        store, slow_cluster, tmp_path, basis, victim):
    killed = []
    slow_cluster.wait_for_workers(2, timeout=60)
    runs, run = submitted(store, tmp_path, slow_cluster.scheduler.address, basis)
    follower = subprocess.Popen([*LRH, "wait", run, "--runs", runs], text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE)

    def kill(now):
        if victim != "nobody" and not killed and N // 4 < now.done.get("fit", 0) < N:
            workers = list(slow_cluster.run(os.getpid).values())
            killed.append(next(pid for pid in workers if drives(pid) == (
                victim == "the worker of the driver")))
            os.kill(killed[0], signal.SIGKILL)

    seen = polled(runs, run, kill)
    _, followed = follower.communicate(timeout=30)
    assert seen[-1].state is State.done, seen[-1]
    assert bool(killed) == (victim != "nobody")
    assert_counts(seen)
    assert seen[-1].attempt == 1 + (victim == "the worker of the driver")
    assert any(0 < now.done.get("fit", 0) < N for now in seen)  # it was seen to grow
    read = json.loads((runs / run / "run.json").read_text())["bytes"]
    n_read = {stage: read[stage] // ROW_BYTES for stage in (
        ("basis", "fit") if basis < D else ("fit",))}
    if killed:  # states that were kept count, and are not read again
        assert all(n <= seen[-1].done[stage] for stage, n in n_read.items())
    else:
        assert seen[-1].done == n_read | {"solve": 0}
    assert seen[-1].of == seen[-1].done
    assert set(seen[-1].done) == {*n_read, "solve"}
    assert seen[-1].done["fit"] == N
    assert f"fit: {N:,} of {N:,} pairs" in followed
    told = [int(n.replace(",", "")) for n in re.findall(r"fit: ([\d,]+) of", followed)]
    assert told == sorted(told)


def drives(pid):
    """Whether a worker has started a driver."""
    children = [child for task in Path(f"/proc/{pid}/task").iterdir()
                for child in (task / "children").read_text().split()]
    return any(b"nightly" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)


def deaf(dask_worker, lost):
    """Have a worker lose what its tasks tell, or not any more."""
    if lost:
        dask_worker.log_event = lambda *_: None
    else:
        del dask_worker.log_event


def test_words_of_tasks_that_are_lost_leave_no_count_short(tmp_path, client):
    pairs = open_pairs(write_known(tmp_path / "a.zarr", 3000, Known.indefinite(40, 3),
                                   chunks=(150, 40)))
    events = []
    client.run(deaf, lost=True)
    try:
        fit(pairs, on_event=events.append)
    finally:
        client.run(deaf, lost=False)
    assert [(e.stage, e.n_pairs_of_stage) for e in events if e.run == BEGINS] == [("fit", 3000)]
    assert sum(e.n_pairs for e in events) == 3000
    assert len({e.run for e in events}) == len(events)
