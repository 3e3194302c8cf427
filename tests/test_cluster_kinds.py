"""Every kind of cluster starts as asked, or says what it lacks."""

import gc
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import one_machine_queue
import pytest
from cluster_processes import process, until

import lrh_dask
from lrh_dask import RunFailed, SettingsError
from lrh_dask.clusters.cluster import connect
from lrh_dask.clusters.cluster_kinds import KINDS, start_cluster, worker_of, worker_variables
from lrh_dask.settings.cluster_settings import QUEUES, ClusterSettings

ROOT = Path(__file__).parent.parent
JOB = {"cores": 2, "memory": "4GiB", "walltime": "00:10:00", "interface": "lo"}
SETTINGS = {**{queue: {"workers": 2, "options": JOB} for queue in QUEUES},
            "kubernetes": {"workers": 2, "insecure": True}, "cuda": {},
            "ssh": {"hosts": ["127.0.0.1", "127.0.0.1"]}}


def settings_of(kind, **more):
    return ClusterSettings(kind=kind, **{**SETTINGS[kind], **more})


def test_every_kind_that_is_started_has_settings():
    assert set(KINDS) == set(SETTINGS)


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_missing_package_is_told_with_its_extra(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, KINDS[kind].needs, None)  # as if it were not installed
    with pytest.raises(SettingsError, match=rf'pip install "lrh-dask\[{KINDS[kind].extra}\]"'), \
            connect(settings_of(kind)):
        raise AssertionError


def test_the_extras_named_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {kind.extra for kind in KINDS.values()} <= set(project["optional-dependencies"])


@pytest.mark.parametrize("env", [{"A": "b"}, [{"name": "A", "value": "b"}]])
def test_pods_get_what_makes_workers_fast_and_their_own_environment(env):
    """As a mapping or as in a manifest."""
    options = KINDS["kubernetes"].options(settings_of("kubernetes", options={"env": env}))
    found = options["env"]
    told = found if isinstance(found, dict) else {item["name"]: item["value"] for item in found}
    assert told == {**{name: str(n) for name, n in worker_variables(1).items()}, "A": "b"}
    assert (options["n_workers"], options["resource_timeout"]) == (2, 300)


@pytest.mark.parametrize(("kind", "options", "threads", "gib"), [
    ("slurm", {"cores": 4, "memory": "64GiB"}, 1, 16),
    ("lsf", {"cores": 4, "processes": 2, "memory": "64GiB"}, 2, 32),
    ("pbs", {"memory": "64GiB"}, 1, None),  # of how many processes?
    ("sge", {}, 1, None), ("kubernetes", {}, 1, None), ("ssh", {}, 1, None), ("cuda", {}, 1, None),
    ("kubernetes", {"resources": {"limits": {"memory": "8Gi"}}}, 1, 8)])
def test_a_worker_is_as_large_as_settings_make_it(kind, options, threads, gib):
    found = worker_of(settings_of(kind, options=options))
    assert found == (threads, gib and gib * 2**30)


def test_a_size_that_is_none_is_told():
    with pytest.raises(SettingsError, match="memory such as 64GiB, got .*'gigs'"):
        worker_of(settings_of("slurm", options={"cores": 1, "memory": "16 gigs"}))


def test_passwords_in_options_are_kept_out_of_results():
    settings = settings_of("ssh", options={"connect_options": {"password": "secret"}})
    assert "secret" not in f"{settings.model_dump()}{settings!r}"


@pytest.fixture
def queue(tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    one_machine_queue.install(tmp_path / "bin", monkeypatch)
    return tmp_path / "bin"


@pytest.mark.parametrize("kind", QUEUES)
def test_a_queues_job_exports_what_makes_workers_fast(kind, queue):
    options = {**JOB, "job_script_prologue": ["module load python"]}
    if kind in {"pbs", "sge"}:
        options["resource_spec"] = "select=1"
    with start_cluster(settings_of(kind, options=options)) as cluster:
        script = cluster.job_script()
    for name, value in worker_variables(1).items():
        assert f"export {name}={value}\n" in script
    assert "module load python" in script
    assert "--nthreads 1" in script
    assert "--nworkers 2" in script


def ended(jobs):
    """Wait until no process of these jobs is left."""
    end = time.monotonic() + 20
    while any(Path(f"/proc/{job}").exists() for job in jobs):
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("kind", ["slurm", pytest.param("lsf", marks=pytest.mark.long)])
def test_a_run_on_a_queue_gives_what_any_cluster_gives_and_takes_its_jobs_back(kind, queue):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 8))
    store = lrh_dask.write_pairs(queue.parent / "p.zarr", x, x * np.arange(8.0), chunk_rows=20)
    here = lrh_dask.fit(lrh_dask.open_pairs(store))
    heard = []
    with connect(settings_of(kind, wait_seconds=60), heard.append) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        assert {w["memory_limit"] for w in workers.values()} == {2 * 2**30}
        environ = client.run(lambda: dict(__import__("os").environ))
        there = lrh_dask.fit(lrh_dask.open_pairs(store))
    assert len(workers) == 2
    assert all(e["MALLOC_TRIM_THRESHOLD_"] == "268435456" for e in environ.values())
    assert heard[0].startswith(f"Cluster: {kind}, scheduler tcp://127.0.0.1")
    np.testing.assert_array_equal(there.eigenvalues, here.eigenvalues)
    started = (queue / "started").read_text().split()
    assert len(one_machine_queue.scripts(queue)) == len(started) == 1  # two processes a job
    assert (queue / "cancelled").read_text().split() == started
    ended(started)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_queue_with_certificates_made_for_the_run(queue):
    secure = {**JOB, "security": True, "shared_temp_directory": str(queue.parent)}
    heard = []
    with connect(settings_of("slurm", options=secure, wait_seconds=60), heard.append):
        pass
    assert heard[0].startswith("Cluster: slurm, scheduler tls://")
    gc.collect()  # dask-jobqueue leaves files open, and Python warns of it


def test_a_queue_that_starts_no_job_is_told_after_the_seconds_set(queue):
    one_machine_queue.make_room(queue, 0)
    with pytest.raises(RunFailed, match=r"none within 2 seconds.*squeue"), \
            connect(settings_of("slurm", wait_seconds=2)):
        raise AssertionError


@pytest.mark.long
def test_a_run_starts_with_the_workers_that_came_and_says_so(queue):
    one_machine_queue.make_room(queue, 1)
    heard = []
    with connect(settings_of("slurm", workers=4, wait_seconds=25), heard.append) as client:
        assert client.scheduler_info(n_workers=0)["n_workers"] == 2
    assert heard[0].startswith("Notice: 2 of 4 workers came within 25 seconds")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_queue_that_refuses_a_job_is_told_at_once_in_its_own_words(queue, caplog):
    (queue / "sbatch").write_text("#!/bin/sh\necho 'sbatch: invalid account' >&2\nexit 1\n")
    begin = time.monotonic()
    with pytest.raises(RunFailed, match="sbatch: invalid account"), connect(settings_of("slurm")):
        raise AssertionError
    assert time.monotonic() - begin < 20
    assert "Traceback" not in caplog.text
    gc.collect()  # Dask does not close a cluster whose jobs were refused, and warns of it


def test_a_machine_without_the_queues_command_is_told(queue, monkeypatch):
    monkeypatch.setenv("PATH", str(queue.parent))
    with pytest.raises(SettingsError, match="`sbatch`"), connect(settings_of("slurm")):
        raise AssertionError


@pytest.mark.parametrize(("options", "said"), [
    ({"interface": "lo"}, "cores and memory"), ({**JOB, "no_such": 1}, "no_such")])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_options_that_a_queue_does_not_know_are_told(queue, options, said):
    with pytest.raises(SettingsError, match=f"(?s)cluster.options for kind slurm.*{said}"), \
            connect(settings_of("slurm", options=options)):
        raise AssertionError
    gc.collect()  # dask-jobqueue leaves a cluster that was never opened, and warns of it


@pytest.fixture
def ssh_options(tmp_path):
    """What a client of an SSH server of our own is to say."""
    pytest.importorskip("asyncssh", reason="needs the extra ssh")
    import ssh_server

    ssh_server.make_keys(tmp_path)
    log, port = tmp_path / "ssh.log", tmp_path / "port"
    with process([sys.executable, ssh_server.__file__, tmp_path], log) as started:
        until(port.exists, log, started)
        yield {"connect_options": {
            "port": int(port.read_text()), "known_hosts": None, "username": "anybody",
            "client_keys": [str(tmp_path / "client")]}}


@pytest.mark.long
def test_ssh_starts_workers_with_their_settings_and_ends_them(ssh_options):
    settings = ClusterSettings(kind="ssh", hosts=("127.0.0.1",) * 3, workers=4,
                               memory_limit="1GiB", options=ssh_options)
    heard = []
    with connect(settings, heard.append) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        environ = client.run(lambda: dict(__import__("os").environ))
        pids = client.run(lambda: __import__("os").getpid())
    assert len(workers) == 4
    assert {w["memory_limit"] for w in workers.values()} == {2**30}
    assert all(e["MALLOC_TRIM_THRESHOLD_"] == "268435456" for e in environ.values())
    assert heard[0].startswith("Cluster: ssh, scheduler tcp://")
    assert heard[0].endswith("4 workers, 4 threads")
    ended(pids.values())


def test_a_machine_that_does_not_answer_is_told(ssh_options):
    refused = {**ssh_options["connect_options"], "port": 9}
    settings = ClusterSettings(kind="ssh", hosts=("127.0.0.1", "127.0.0.1"),
                               options={"connect_options": refused})
    with pytest.raises(RunFailed, match=r"start a cluster of kind ssh.*Try `ssh HOST`"), \
            connect(settings):
        raise AssertionError


def test_a_key_that_is_not_taken_is_told(ssh_options, tmp_path):
    (tmp_path / "other").mkdir()
    import ssh_server

    ssh_server.make_keys(tmp_path / "other")
    other = {**ssh_options["connect_options"], "client_keys": [str(tmp_path / "other" / "client")]}
    settings = ClusterSettings(kind="ssh", hosts=("127.0.0.1", "127.0.0.1"),
                               options={"connect_options": other})
    with pytest.raises(RunFailed, match="Permission denied"), connect(settings):
        raise AssertionError
