"""What a user sees of a run on Dask's own dashboard and in Prometheus: names, spans, bytes read."""

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from cluster_processes import cluster, process, until
from distributed import Client, LocalCluster
from rich.console import Console

from lrh_dask import Pairs, fit, open_pairs, write_pairs
from lrh_dask.reports.screen import Screen
from lrh_dask.runs import budget
from lrh_dask.runs.budget import Route
from lrh_dask.runs.dashboard import dashboard_of, performance_report
from lrh_dask.runs.metering import Reading
from lrh_dask.stores.writing import pairs_group

LRH = Path(sys.executable).with_name("lrh")
ROUTES = {  # shape, chunk, what is asked for, names of tasks, stages
    Route.all_features: ((3000, 40), (150, 40), {}, {"lrh-fit", "lrh-merge", "lrh-solve"}, ["fit"]),
    Route.whole_pairs: ((200, 900), (20, 900), {}, {
        "lrh-basis", "lrh-merge", "lrh-solve"}, ["basis"]),
    Route.fitted_basis: ((3000, 40), (150, 40), {"basis": 24}, {
        "lrh-basis", "lrh-merge", "lrh-orth", "lrh-fit", "lrh-solve"}, ["basis", "fit"]),
    Route.by_features: ((40, 60_000), (40, 3000), {}, {
        "lrh-basis", "lrh-solve", "lrh-vectors"}, ["basis", "vectors"])}


def stored(path, shape, chunks, seed=0):
    """Noisy pairs of a Hessian of rank 3."""
    rng = np.random.default_rng(seed)
    n, d = shape
    u = np.linalg.qr(rng.standard_normal((d, 3)))[0]
    x = rng.standard_normal(shape)
    y = (x @ u * [3.0, -2.0, 1.0]) @ u.T + 0.01 * rng.standard_normal(shape)
    with pairs_group(path, shape, np.dtype("f4"), chunks=chunks) as group:
        group["x"][:], group["y"][:] = x.astype("f4"), y.astype("f4")
    return open_pairs(path)


@pytest.fixture(autouse=True, scope="module")
def no_store_is_small():
    """Few pairs of very many features are not taken whole, however small the store is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "MAX_WHOLE_BYTES", 3 * 2**20)
        yield


@pytest.fixture(scope="module")
def fresh():
    """A cluster on which nothing else was run, and that other tests here have run on."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0",
                      silence_logs=50) as started, Client(started) as client:
        yield client


def spans(client, tag):
    """Of a span with this tag: names of its tasks, names of its parts, how many tasks it has."""
    def look(dask_scheduler):
        span, = dask_scheduler.extensions["spans"].find_by_tags(tag)
        groups = list(span.traverse_groups())
        return (span.name, {group.prefix.name for group in groups},
                [part.name[1:] for part in span.children],
                sum(sum(group.states.values()) for group in groups))

    return client.run_on_scheduler(look)


@pytest.fixture(scope="module", params=ROUTES, ids=lambda route: route.name)
def ran(request, fresh, tmp_path_factory):
    """A route; the pairs, the result, and the metrics of tasks of a run on it."""
    shape, chunks, asked, *_ = ROUTES[request.param]
    pairs = stored(tmp_path_factory.mktemp("ran") / "a.zarr", shape, chunks)
    before = metrics(fresh)
    hessian = fit(pairs, **asked)
    found = {key: value - before.get(key, 0) for key, value in metrics(fresh).items()}
    return request.param, pairs, hessian, found


def test_tasks_and_stages_of_a_run_go_by_few_names_in_a_span_of_its_own(fresh, ran):
    route, _, hessian, _ = ran
    *_, names, stages = ROUTES[route]
    assert hessian.provenance["route"] == route.name
    tag = f"lrh {hessian.provenance['run']}"
    name, prefixes, parts, n_tasks = spans(fresh, tag)
    assert name == (tag,)
    assert prefixes == names
    assert list(dict.fromkeys(part for part, in parts)) == stages
    assert n_tasks == hessian.provenance["n_tasks"]


def test_rows_in_memory_go_by_a_name_too_and_there_is_no_other(tmp_path, fresh):
    x = np.random.default_rng(0).standard_normal((3000, 40))
    fit(Pairs(x, x))
    known = fresh.run_on_scheduler(lambda dask_scheduler: set(dask_scheduler.task_prefixes))
    assert {name for name in known if not name.startswith("lrh-")} == set()
    assert known <= set().union(*(names for *_, names, _ in ROUTES.values())) | {
        "lrh-rows", "lrh-coefficients"}


def test_two_runs_at_once_do_not_mix(tmp_path, fresh):
    shape, chunks, asked, names, _ = ROUTES[Route.fitted_basis]
    pairs = [stored(tmp_path / f"{seed}.zarr", shape, chunks, seed) for seed in range(2)]
    events, found = {0: [], 1: []}, {}

    def run(i):
        found[i] = fit(pairs[i], on_event=events[i].append, **asked)

    both = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    for i, hessian in found.items():
        _, prefixes, _, n_tasks = spans(fresh, f"lrh {hessian.provenance['run']}")
        assert prefixes == names
        assert n_tasks == hessian.provenance["n_tasks"]
        assert sum(e.n_pairs for e in events[i] if e.stage == "fit") == shape[0]


def metrics(client):
    """Fine metrics of all tasks so far, by name of tasks, activity and unit."""
    found = {}
    for digests in client.run(lambda dask_worker: dict(dask_worker.digests_total)).values():
        for key, value in digests.items():
            if isinstance(key, tuple) and key[0] == "execute":
                found[key[-3:]] = found.get(key[-3:], 0) + value
    return found


def test_bytes_and_seconds_of_reading_are_told_by_the_tasks_that_read(ran):
    route, pairs, hessian, found = ran
    *_, names, _ = ROUTES[route]
    read = hessian.provenance["bytes"]
    told = {name: found[name, "lrh-read", "bytes"] for name in names
            if found.get((name, "lrh-read", "bytes"))}
    assert told == {
        Route.all_features: lambda: {"lrh-fit": read["fit"]},
        Route.whole_pairs: lambda: {"lrh-basis": read["basis"]},
        Route.fitted_basis: lambda: {"lrh-basis": read["basis"], "lrh-fit": read["fit"]},
        Route.by_features: lambda: {"lrh-basis": pairs.stored_bytes,
                                    "lrh-vectors": read["basis"] - pairs.stored_bytes},
    }[route]()
    for name in told:
        assert found[name, "lrh-read", "seconds"] > 0


def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def read_and_compute(waits):
    """0.3 s of reading, by another thread or by this one, and 0.4 s of computing."""
    reading = Reading()
    with reading:
        time.sleep(0.3) if waits else spin(0.3)
    spin(0.4)
    reading.n_bytes = 1000
    reading.tell()


@pytest.mark.parametrize("waits", [True, False])
def test_waiting_for_what_another_thread_reads_is_not_taken_off_the_seconds_of_the_cpu(
        fresh, waits):
    name = f"lrh-try-{'waits' if waits else 'reads'}"
    fresh.submit(read_and_compute, waits, key=name).result()
    found = metrics(fresh)
    assert found[name, "lrh-read", "bytes"] == 1000
    assert found[name, "lrh-read", "seconds"] >= 0.3
    assert found[name, "thread-cpu", "seconds"] == pytest.approx(0.4, abs=0.03)
    assert found[name, "thread-noncpu", "seconds"] >= -0.01


def test_here_in_this_process_nobody_is_told_and_nothing_fails():
    reading = Reading()
    with reading:
        pass
    reading.tell()


def scraped(port):
    """Samples of ``/metrics``: value by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in text.splitlines() if line and not line.startswith("#")}


def test_prometheus_has_the_stages_of_a_run_and_the_bytes_it_has_read(tmp_path):
    shape, chunks, asked, names, _ = ROUTES[Route.fitted_basis]
    pairs = stored(tmp_path / "a.zarr", shape, chunks)
    with cluster(tmp_path, 2, "--no-nanny") as path, Client(scheduler_file=str(path)) as client:
        read = fit(pairs, **asked).provenance["bytes"]
        info = client.scheduler_info(n_workers=-1)
        scheduler = scraped(info["services"]["dashboard"])
        workers = [scraped(w["services"]["dashboard"]) for w in info["workers"].values()]
    for name in names:
        label = f'task_prefix_name="{name}"'
        assert scheduler[f'dask_scheduler_prefix_state_totals_total{{state="memory",{label}}}'] > 0
        assert scheduler[f"dask_scheduler_tasks_compute_seconds_total{{{label}}}"] > 0
    for stage in ("basis", "fit"):
        label = f'{{task_prefix_name="lrh-{stage}"}}'
        assert sum(w.get(f"lrh_read_bytes_total{label}", 0) for w in workers) == read[stage]
        assert sum(w.get(f"lrh_read_seconds_total{label}", 0) for w in workers) > 0


def test_where_a_scheduler_has_no_dashboard_none_is_named(tmp_path, monkeypatch):
    path = tmp_path / "scheduler.json"
    with process([Path(sys.executable).with_name("dask"), "scheduler", "--host", "127.0.0.1",
                  "--port", "0", "--dashboard-address", "127.0.0.1:0", "--no-dashboard",
                  "--scheduler-file", path], tmp_path / "log") as started:
        until(path.exists, tmp_path / "log", started)
        with Client(scheduler_file=str(path)) as client:
            assert re.fullmatch(r"Dashboard: none at http://127.0.0.1:\d+/status \(.*without one\)",
                                dashboard_of(client))


def test_the_dashboard_that_is_named_answers_or_it_is_told_that_it_does_not(
        two_workers, monkeypatch):
    import dask

    with Client(two_workers.scheduler_address) as client:
        link = dashboard_of(client).removeprefix("Dashboard: ")
        with urllib.request.urlopen(link, timeout=10) as answer:
            assert b"bokeh" in answer.read()
        with dask.config.set({"distributed.dashboard.link": "http://127.0.0.1:9/{port}/status"}):
            port = client.scheduler_info()["services"]["dashboard"]
            assert dashboard_of(client) == (f"Dashboard: http://127.0.0.1:9/{port}/status (which "
                                            "does not answer from here)")
        with dask.config.set({"distributed.dashboard.link": "/user/{LRH_NO_SUCH}/status"}):
            assert "'LRH_NO_SUCH'" in dashboard_of(client)
        monkeypatch.setenv("LRH_SUCH", link)
        with dask.config.set({"distributed.dashboard.link": "{LRH_SUCH}"}):
            assert dashboard_of(client) == f"Dashboard: {link}"


def test_addresses_can_be_clicked_in_a_terminal_and_copied_from_a_file():
    said = "Dashboard: http://127.0.0.1:8787/status (which [1] does not answer from here)"
    screen = Screen()
    screen.errors = Console(file=StringIO(), force_terminal=True, soft_wrap=True, width=40)
    screen.say(said)
    shown = screen.errors.file.getvalue()
    assert re.search(r"\x1b]8;[^;]*;http://127.0.0.1:8787/status\x1b\\", shown)
    assert re.sub(r"\x1b]8;[^\x1b]*\x1b\\|\x1b\[[0-9;]*m", "", shown) == f"{said}\n"
    screen.errors = Console(file=StringIO(), soft_wrap=True, width=40)
    screen.say(said)
    assert screen.errors.file.getvalue() == f"{said}\n"


def test_a_run_leaves_dasks_report_which_needs_no_network(tmp_path):
    x = np.random.default_rng(0).standard_normal((200, 12))
    write_pairs(tmp_path / "pairs.zarr", x, x)
    done = subprocess.run([LRH, "run", "pairs.zarr", "--workers", "1", "--performance-report",
                           "dask.html", "--json"], cwd=tmp_path, capture_output=True, text=True,
                          timeout=120, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_pairs"] == 200
    page = (tmp_path / "dask.html").read_text(encoding="utf-8")
    assert "Dask Performance Report" in page
    assert "lrh-solve" in page
    assert "lrh run pairs.zarr --workers 1" in page
    assert not re.search(r'<script[^>]+src=|rel="stylesheet"', page)


def test_a_report_that_cannot_be_made_is_told_and_fails_nothing(tmp_path, two_workers):
    told = []
    (tmp_path / "file").touch()
    with Client(two_workers), performance_report(tmp_path / "file" / "dask.html", told.append):
        pass
    assert len(told) == 1
    assert "no performance report" in told[0]
    with Client(two_workers) as client, performance_report(tmp_path / "a.html", told.append):
        client.close()  # as where the cluster is lost
    assert len(told) == 2


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_computed(lrh, tmp_path):
    x = np.random.default_rng(0).standard_normal((200, 12))
    write_pairs(tmp_path / "pairs.zarr", x, x)
    (tmp_path / "file").touch()
    done = lrh("run", "pairs.zarr", "--performance-report", "file/dask.html", cwd=tmp_path)
    assert done.returncode == 2
    assert "--performance-report" in done.stderr
    assert not (tmp_path / "pairs-hessian.zarr").exists()
