"""Submit and leave: the driver is on the cluster's side, the folder of runs tells how it goes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slow_reading
from cluster_processes import HOST, address_in, cluster, scheduler, tunnel, worker

from lrh_dask import fit, open_pairs
from lrh_dask.clusters import running_cluster
from lrh_dask.nights import underway
from lrh_dask.nights.journal import Journal
from lrh_dask.nights.underway import State, Status, jobs_folder, status_of, statuses
from lrh_dask.stores.synthetic import Known, write_known

SECONDS = 90
N_SLOW = 20_000
SLOWLY = ("--preload", slow_reading.__file__)


@pytest.fixture(scope="module")
def scheduler_file(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("cluster"), 2, *SLOWLY) as path:
        yield path


@pytest.fixture
def config(tmp_path, make_pairs):
    """A small store and a file of settings that names it, from the folder that they are in."""
    write_known(tmp_path / "pairs.zarr", 3000, Known.indefinite(16, 4))
    path = tmp_path / "night.yaml"
    path.write_text("store: pairs.zarr\nruns: runs\n")
    return path


@pytest.fixture
def slow(tmp_path):
    """A store that takes a worker some seconds."""
    write_known(tmp_path / "slow.zarr", N_SLOW, Known.indefinite(16, 4), chunks=(256, 16))
    path = tmp_path / "slow.yaml"
    path.write_text("store: slow.zarr\nruns: runs\n")
    return path


@pytest.fixture
def submit(lrh):
    """Submits a run, and returns its id."""
    def submit(config, scheduler_file):
        done = lrh("submit", config.name, "--scheduler", scheduler_file, cwd=config.parent)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return submit


def submitted_by_a_process(*args, **kwargs):
    """What it has said, once it has ended."""
    done = subprocess.run([sys.executable, "-m", "lrh_dask", "submit", *map(str, args)], text=True,
                          capture_output=True, check=False, stdin=subprocess.DEVNULL,
                          timeout=SECONDS, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(runs, run, *, states=(), done=lambda _: True, seconds=SECONDS):
    end = time.monotonic() + seconds
    while not ((now := status_of(runs, run)).state in states and done(now)):
        assert time.monotonic() < end, now
        assert now.state in (*states, State.lost) or not now.state.is_final, now
        time.sleep(0.1)
    return now


def test_a_submitted_run_ends_without_its_submitter(lrh, config, scheduler_file, tmp_path):
    run = submitted_by_a_process(config.name, "--scheduler", address_in(scheduler_file),
                                 cwd=tmp_path).strip()
    waited = lrh("wait", run, "--runs", "night.yaml", cwd=tmp_path)
    assert waited.returncode == 0, waited.stderr
    assert "done: published" in waited.stdout
    assert os.readlink(tmp_path / "runs" / "latest") == run
    document = json.loads((tmp_path / "runs" / run / "run.json").read_text())
    np.testing.assert_array_equal(document["eigenvalues"],
                                  fit(open_pairs(tmp_path / "pairs.zarr")).eigenvalues)
    assert "3,000 of 3,000 pairs" in lrh("logs", run, "--runs", "runs", cwd=tmp_path).stdout


def test_a_run_that_finds_nothing_new_names_the_one_before(
        lrh, submit, config, scheduler_file, tmp_path):
    run, again = (submit(config, scheduler_file) for _ in range(2))
    assert lrh("wait", again, cwd=tmp_path).returncode == 0
    assert status_of(tmp_path / "runs", again).state is State.nothing_new
    assert status_of(tmp_path / "runs", again).result == run
    told = json.loads(lrh("status", again, "--json", cwd=tmp_path).stdout)
    assert (told["state"], told["result"]) == ("nothing_new", run)
    listed = lrh("status", cwd=tmp_path).stdout
    assert run in listed
    assert again in listed


@pytest.mark.long
def test_dasks_own_setting_names_the_scheduler(lrh, config, scheduler_file, tmp_path):
    told = json.loads(submitted_by_a_process(config, "--json", cwd=tmp_path, env={
        **os.environ, "DASK_SCHEDULER_ADDRESS": address_in(scheduler_file)}))
    assert told["state"] in {"queued", "running", "done"}
    assert lrh("wait", told["run"], cwd=tmp_path).returncode == 0


def test_without_a_scheduler_nothing_is_submitted(lrh, config, tmp_path):
    done = lrh("submit", config, cwd=tmp_path)
    assert done.returncode == 2
    assert "would end with it" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_tells_why_from_anywhere(
        lrh, submit, config, scheduler_file, tmp_path):
    (tmp_path / "pairs.zarr" / "y" / "c" / "0" / "0").unlink()
    run = submit(config, scheduler_file)
    waited = lrh("wait", run, cwd=tmp_path)
    assert waited.returncode == 3
    now = status_of(tmp_path / "runs", run)
    assert (now.state, now.exit_code) == (State.failed, 3)
    assert "every chunk to be stored" in now.error
    assert "every chunk to be stored" in lrh("logs", run, cwd=tmp_path).stdout
    assert not (tmp_path / "runs" / "latest").exists()


def test_alerts_are_the_exit_code_of_the_wait(lrh, submit, config, scheduler_file, tmp_path):
    config.write_text(config.read_text() + "alerts: {sharpness_above: 0.1}\n")
    run = submit(config, scheduler_file)
    assert lrh("wait", run, cwd=tmp_path).returncode == 5
    assert (tmp_path / "runs" / run / "result.zarr").exists()


def test_a_run_can_be_cancelled_from_anywhere(lrh, submit, slow, scheduler_file, tmp_path):
    runs = tmp_path / "runs"
    run = submit(slow, scheduler_file)
    until(runs, run, states=[State.running], done=lambda now: sum(now.done.values()) > 0)
    cancelled = lrh("cancel", run, "--runs", runs, cwd="/")
    assert cancelled.returncode == 0, cancelled.stderr
    now = until(runs, run, states=[State.cancelled], seconds=20)
    assert now.exit_code == 130
    assert not (runs / "latest").exists()
    assert lrh("wait", run, "--runs", runs, cwd="/").returncode == 130
    again = lrh("cancel", run, "--runs", runs, cwd="/")
    assert again.returncode == 2
    assert "expected a run that is waiting or under way, got cancelled" in again.stderr
    run = submit(slow, scheduler_file)  # the folder is free, and the cluster as well
    assert lrh("wait", run, "--runs", runs, cwd="/").returncode == 0


@pytest.mark.long
def test_a_driver_that_dies_with_its_worker_is_begun_again(submit, slow, tmp_path):
    runs = tmp_path / "runs"
    with scheduler(tmp_path) as path, worker(path, "--no-nanny", *SLOWLY) as first:
        run = submit(slow, path)
        until(runs, run, states=[State.running], done=lambda now: sum(now.done.values()) > 0)
        follower = subprocess.Popen([sys.executable, "-m", "lrh_dask", "wait", run, "--runs", runs],
                                    stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        with worker(path, "--no-nanny", *SLOWLY):
            driver = driver_of(first.pid)
            first.kill()
            os.kill(driver, signal.SIGKILL)
            now = until(runs, run, states=[State.done])
            _, followed = follower.communicate(timeout=30)
    assert now.attempt == 2
    assert follower.returncode == 0, followed
    assert json.loads((runs / run / "run.json").read_text())["n_pairs"] == N_SLOW


@pytest.mark.long
def test_a_run_whose_driver_the_scheduler_has_given_up_is_lost(lrh, submit, slow, tmp_path):
    allow = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    with scheduler(tmp_path, env=allow) as path, worker(path, "--no-nanny", *SLOWLY) as only:
        run = submit(slow, path)
        until(tmp_path / "runs", run, states=[State.running])
        only.kill()
        waited = lrh("wait", run, "--timeout", 60, cwd=tmp_path)
    assert waited.returncode == 4
    assert "has no driver of it any more" in waited.stdout
    assert status_of(tmp_path / "runs", run).state is State.lost


@pytest.mark.long
def test_the_driver_goes_by_the_address_that_its_worker_has(
        lrh, config, scheduler_file, tmp_path):
    """The submitter may have come through a tunnel that is closed by now."""
    with tunnel(address_in(scheduler_file)) as address:
        done = lrh("submit", config.name, "--scheduler", address, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert lrh("wait", done.stdout.strip(), cwd=tmp_path).returncode == 0


@pytest.mark.long
def test_a_driver_does_not_outlive_its_worker_and_is_begun_again_at_once(submit, slow, tmp_path):
    runs = tmp_path / "runs"
    with scheduler(tmp_path) as path, worker(path, "--no-nanny", *SLOWLY) as first:
        with worker(path, "--no-nanny", *SLOWLY) as second:
            run = submit(slow, path)
            until(runs, run, states=[State.running])
            for one in (first, second):
                if driver_of(one.pid):
                    one.kill()
            now = until(runs, run, states=[State.done], seconds=underway.LOST_AFTER + 15)
    assert now.attempt == 2


def driver_of(pid):
    """The process that a worker has started to drive a run, if any."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir()
                for child in (task / "children").read_text().split()]
    return next((child for child in children if b"nightly" in Path(
        f"/proc/{child}/cmdline").read_bytes()), None)


def test_a_run_whose_process_died_is_told_as_lost(tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    code = ("import sys, time; from pathlib import Path\n"
            "from lrh_dask.nights import journal\n"
            "journal.HEARTBEAT = 0.2\n"
            "with journal.Journal(Path(sys.argv[1]), 'a-run').kept(): time.sleep(60)")
    started = subprocess.Popen([sys.executable, "-c", code, runs])
    while not (jobs_folder(runs) / "a-run" / "status.json").exists():
        time.sleep(0.05)
    monkeypatch.setattr(underway, "LOST_AFTER", 1.5)
    time.sleep(2)
    assert status_of(runs, "a-run").state is State.running  # it is heard of
    started.kill()
    started.wait()
    now = until(runs, "a-run", states=[State.lost], seconds=10)
    assert "nothing was heard" in now.error


def test_workers_that_do_not_see_the_folder_are_told_before_anything_is_submitted(
        lrh, config, tmp_path):
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    hidden = tmp_path / "elsewhere"
    hidden.mkdir()
    with scheduler(hidden) as path:
        address = address_in(path)
        log = hidden / "worker.log"
        command = (
            f"mount -t tmpfs none {config.parent} && exec {sys.executable} -m "
            f"distributed.cli.dask_worker {address} --nthreads 1 --host {HOST} --no-dashboard")
        with log.open("wb") as out:
            started = subprocess.Popen(["unshare", "-m", "sh", "-c", command], stdout=out,
                                       stderr=out, cwd="/")
        try:
            end = time.monotonic() + 30
            while "Registered to" not in log.read_text() and time.monotonic() < end:
                time.sleep(0.1)
            done = lrh("submit", config.name, "--scheduler", address, cwd=config.parent)
        finally:
            started.kill()
            started.wait()
    assert done.returncode == 2
    assert "a worker that sees" in done.stderr
    assert "on a disk that workers and you share" in done.stderr


def test_a_scheduler_that_does_not_answer_is_told(lrh, config, tmp_path, monkeypatch):
    monkeypatch.setattr(running_cluster, "CONNECT_SECONDS", 1)
    done = lrh("submit", config, "--scheduler", "tcp://127.0.0.1:1", cwd=tmp_path)
    assert done.returncode == 4
    assert "expected an answer within" in done.stderr
    assert statuses(tmp_path / "runs") == []


def test_waiting_may_be_given_up_and_the_run_goes_on(
        lrh, submit, slow, scheduler_file, tmp_path):
    run = submit(slow, scheduler_file)
    given_up = lrh("wait", run, "--timeout", "0.5", cwd=tmp_path)
    assert given_up.returncode == 124
    assert "The run goes on" in given_up.stderr
    assert lrh("wait", run, cwd=tmp_path).returncode == 0


@pytest.mark.long
def test_a_run_that_waits_for_a_scheduler_that_is_gone_is_told_of_it(lrh, tmp_path):
    underway.note(tmp_path, Status("a-run", State.queued, scheduler="tcp://127.0.0.1:9",
                                   began=time.time()))
    done = lrh("wait", "a-run", "--runs", tmp_path, "--timeout", 25, cwd=tmp_path)
    assert done.returncode == 124
    assert done.stderr.count("no scheduler answers at tcp://127.0.0.1:9 from here") == 1
    assert "`lrh cancel a-run`" in done.stderr


@pytest.mark.parametrize("command", ["status", "wait", "logs", "cancel"])
def test_a_run_that_is_not_there_is_told(lrh, command, tmp_path):
    (tmp_path / "runs").mkdir()
    done = lrh(command, "nothing", "--runs", "runs", cwd=tmp_path)
    assert done.returncode == 2
    assert "`lrh status` lists them" in done.stderr


def test_the_folder_of_runs_may_be_named_by_the_environment(lrh, tmp_path):
    (tmp_path / "mine").mkdir()
    done = lrh("runs", "--json", cwd="/", env={"LRH_RUNS": str(tmp_path / "mine")})
    assert json.loads(done.stdout) == []
    done = lrh("runs", cwd=tmp_path)
    assert done.returncode == 2
    assert "Name it with --runs" in done.stderr


def test_a_secret_of_the_settings_is_kept_from_others(
        lrh, submit, config, scheduler_file, tmp_path):
    secret = "http://127.0.0.1:1/very-secret"
    config.write_text(config.read_text() + f"alerts: {{sharpness_above: 0.1, webhook: {secret}}}\n")
    run = submit(config, scheduler_file)
    assert lrh("wait", run, cwd=tmp_path).returncode == 5
    told = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()
            and b"very-secret" in path.read_bytes()]
    assert told == [jobs_folder(tmp_path / "runs") / run / "settings.yaml"]
    assert told[0].stat().st_mode & 0o077 == 0
    assert "alerts were not sent" in lrh("logs", run, cwd=tmp_path).stdout


def test_only_the_last_runs_that_are_over_are_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(underway, "KEPT", 2)
    for i in range(5):
        with Journal(tmp_path, f"run-{i}").kept() as _:
            time.sleep(0.01)
        underway.note(tmp_path, Status(f"run-{i}", State.done, began=float(i)))
    with Journal(tmp_path, "last").kept():
        pass
    assert [one.run for one in statuses(tmp_path) if one.state.is_final] == ["run-3", "run-4"]


def test_statuses_are_listed_in_the_order_they_began(tmp_path):
    for name, began in (("b", 1.0), ("a", 2.0)):
        folder = jobs_folder(tmp_path) / name
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(json.dumps(
            {"run": name, "state": "done", "began": began, "updated": began}))
    (jobs_folder(tmp_path) / "broken").mkdir()
    (jobs_folder(tmp_path) / "broken" / "status.json").write_text("{")
    assert statuses(tmp_path) == [Status("b", State.done, began=1.0, updated=1.0),
                                  Status("a", State.done, began=2.0, updated=2.0)]
