"""No port is open to other machines unless TLS guards it, or somebody has said that it may be."""

import json
import subprocess
import sys
import time
from pathlib import Path

import dask
import one_machine_queue
import psutil
import pytest
import yaml
from cluster_processes import process, until

from lrh_dask import SettingsError
from lrh_dask.clusters import running_cluster
from lrh_dask.clusters.certificates import make_certificates
from lrh_dask.clusters.cluster import connect
from lrh_dask.clusters.cluster_kinds import KINDS
from lrh_dask.clusters.exposure import is_exposed, is_loopback, refuse_exposed
from lrh_dask.settings.cluster_settings import QUEUES, ClusterSettings
from lrh_dask.settings.config import RunSettings, settings_of
from lrh_dask.stores.synthetic import Known, write_known

JOB = {"cores": 1, "memory": "2GiB", "walltime": "00:10:00"}
AWAY = "tcp://192.0.2.1:8786"


def listening(roots):
    """Addresses that processes and all that they have started listen at, as the kernel tells."""
    found = set()
    for root in roots:
        for one in [root, *root.children(recursive=True)]:
            try:
                found |= {tuple(at.laddr) for at in one.net_connections("inet")
                          if at.status == psutil.CONN_LISTEN}
            except psutil.Error:  # it has ended
                continue
    return found


def test_every_port_of_a_run_is_on_this_machine_as_the_kernel_tells(tmp_path):
    write_known(tmp_path / "p.zarr", 20_000, Known.indefinite(32, 4))
    found, most = set(), 0
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "lrh_dask", "run", "p.zarr", "--workers", "2"], cwd=tmp_path,
            stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        root = psutil.Process(running.pid)
        while running.poll() is None:
            try:
                now = listening([root])
            except psutil.Error:
                break
            found, most = found | now, max(most, len(now))
            time.sleep(0.02)
        assert running.wait(60) == 0, (tmp_path / "log").read_text()
    # scheduler, its dashboard, two nannies, two workers, their dashboards
    assert most >= 8, found
    assert all(is_loopback(host) for host, _ in found), found


@pytest.fixture
def queue(tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    one_machine_queue.install(tmp_path / "bin", monkeypatch)
    return tmp_path / "bin"


def test_jobs_of_one_machine_are_reached_by_it_alone(queue):
    settings = ClusterSettings(kind="slurm", workers=1, wait_seconds=60,
                               options={**JOB, "interface": "lo"})
    with connect(settings):
        jobs = [psutil.Process(int(pid)) for pid in (queue / "started").read_text().split()]
        found = listening([psutil.Process(), *jobs])
        assert len(listening(jobs)) >= 2
    assert all(is_loopback(host) for host, _ in found), found


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_jobs_with_certificates_may_listen_to_their_network(queue, tmp_path):
    """Their dashboards, which TLS does not cover, may not."""
    tls = make_certificates(tmp_path / "tls", 3)
    heard = []
    settings = ClusterSettings(kind="slurm", workers=1, wait_seconds=60, tls=tls,
                               options={**JOB, "scheduler_options": {"host": "127.0.0.1"}})
    with connect(settings, heard.append) as client:
        addresses = [client.scheduler.address, *client.scheduler_info(n_workers=-1)["workers"]]
        pages = client.run(lambda dask_worker: [
            socket.getsockname()[0] for socket in dask_worker.http_server._sockets.values()])
        assert client.submit(sum, [1, 2]).result() == 3
    assert heard[0].startswith("Cluster: slurm, scheduler tls://")
    assert all(address.startswith("tls://") for address in addresses)
    assert {host for hosts in pages.values() for host in hosts} == {"127.0.0.1"}


@pytest.fixture
def ssh(tmp_path):
    """The process of an SSH server of our own, and what a client of it is to say."""
    pytest.importorskip("asyncssh", reason="needs the extra ssh")
    import ssh_server

    ssh_server.make_keys(tmp_path)
    log, port = tmp_path / "ssh.log", tmp_path / "port"
    with process([sys.executable, ssh_server.__file__, tmp_path], log) as started:
        until(port.exists, log, started)
        yield started, {"connect_options": {
            "port": int(port.read_text()), "known_hosts": None, "username": "anybody",
            "client_keys": [str(tmp_path / "client")]}}


@pytest.mark.parametrize("encrypted", [False, True])
def test_processes_by_ssh_on_one_machine_are_reached_by_it_alone(ssh, tmp_path, encrypted):
    server, options = ssh
    tls = make_certificates(tmp_path / "tls", 3) if encrypted else None
    settings = ClusterSettings(kind="ssh", hosts=("127.0.0.1",) * 2, options=options, tls=tls)
    with connect(settings) as client:
        found = listening([psutil.Process(), psutil.Process(server.pid)])
        addresses = [client.scheduler.address, *client.scheduler_info(n_workers=-1)["workers"]]
        assert client.submit(sum, [1, 2]).result() == 3
    assert all(is_loopback(host) for host, _ in found), found
    assert {address.partition("://")[0] for address in addresses} == {
        "tls" if encrypted else "tcp"}


def test_dashboards_by_ssh_stay_on_their_machines_where_tasks_do_not():
    settings = ClusterSettings(kind="ssh", hosts=("192.0.2.1", "192.0.2.2"), insecure=True)
    options = KINDS["ssh"].options(settings)
    for what in ("scheduler_options", "worker_options"):
        assert options[what]["dashboard_address"] == "127.0.0.1:0"
        assert "host" not in options[what]


@pytest.mark.parametrize("options", [
    JOB, {**JOB, "interface": "no-such"}, {**JOB, "scheduler_options": {"host": "127.0.0.1"}},
    {**JOB, "interface": "lo", "scheduler_options": {"host": "0.0.0.0"}}])
def test_jobs_that_would_be_open_to_others_are_never_submitted(queue, options):
    with pytest.raises(SettingsError, match=r"(?s)runs any code.*--insecure"), \
            connect(ClusterSettings(kind="slurm", workers=1, options=options)):
        raise AssertionError
    assert (queue / "started").read_text() == ""


@pytest.mark.parametrize("settings", [
    *({"kind": kind, "workers": 1} for kind in (*QUEUES, "kubernetes")),
    {"kind": "ssh", "hosts": ["127.0.0.1", "192.0.2.1"]},
    {"kind": "ssh", "hosts": ["127.0.0.1"] * 2, "options": {"worker_options": {"host": "0.0.0.0"}}},
    {"kind": "cuda", "options": {"host": "0.0.0.0"}},
    {"kind": "address", "address": AWAY}, {"kind": "address", "address": "head.example.org:8786"}])
def test_what_is_open_to_others_is_refused_at_once_and_told_with_insecure(settings):
    begin, heard = time.monotonic(), []
    with pytest.raises(SettingsError, match=r"(?s)127\.0\.0\.1.*runs any code.*nothing was started"
                                            r".*insecure: true"), \
            connect(ClusterSettings(**settings)):
        raise AssertionError
    assert time.monotonic() - begin < 5
    refuse_exposed(ClusterSettings(**settings, insecure=True), heard.append,
                   settings.get("address"))
    (notice,) = heard
    assert "runs any code" in notice
    assert "\n" not in notice


@pytest.mark.parametrize("asked", ["0.0.0.0:8787", ":8787", 8787, "[::]:0", "192.0.2.1:1"])
@pytest.mark.parametrize("of", ["options", "scheduler_options", "worker_options"])
def test_a_dashboard_that_others_could_read_is_refused_unless_told(asked, of):
    options = {"dashboard_address": asked}
    given = {"kind": "ssh", "hosts": ["127.0.0.1"] * 2,
             "options": options if of == "options" else {of: options}}
    with pytest.raises(SettingsError, match="expected a dashboard on 127"), \
            connect(ClusterSettings(**given)):
        raise AssertionError
    refuse_exposed(ClusterSettings(**given, insecure=True), [].append)
    options["dashboard_address"] = "127.0.0.1:8787"
    refuse_exposed(ClusterSettings(**given), [].append)


@pytest.mark.parametrize(("address", "exposed"), [
    ("tcp://127.0.0.1:1", False), ("tcp://[::1]:1", False), ("tcp://localhost:1", False),
    ("127.0.0.1:1", False), ("tls://192.0.2.1:1", False), ("tcp://192.0.2.1:1", True),
    ("192.0.2.1:1", True), ("tcp://127.0.0.1.example.org:1", True), ("tcp://0.0.0.0:1", True),
    ("ws://192.0.2.1:1", True), ("tcp://localhost@192.0.2.1:1", True), ("tcp://[::]:1", True),
    ("nonsense://h:1", False)])
def test_an_address_is_judged_by_who_can_reach_it(address, exposed):
    assert is_exposed(address) is exposed


@pytest.fixture
def config(tmp_path):
    write_known(tmp_path / "p.zarr", 200, Known.indefinite(8, 2))
    (tmp_path / "night.yaml").write_text("store: p.zarr\nruns: runs\n")
    return tmp_path


@pytest.mark.parametrize("command", [
    ("run", "p.zarr"), ("nightly", "night.yaml"), ("submit", "night.yaml")])
def test_each_command_wants_insecure_for_a_plain_scheduler_elsewhere(
        lrh, config, command, monkeypatch):
    done = lrh(*command, "--scheduler", AWAY, cwd=config)
    assert done.returncode == 2
    assert f"scheduler {AWAY}: expected ports on 127.0.0.1, or TLS" in done.stderr
    monkeypatch.setattr(running_cluster, "CONNECT_SECONDS", 1)
    done = lrh(*command, "--scheduler", AWAY, "--insecure", cwd=config)
    assert done.returncode == 4
    assert f"Notice: scheduler {AWAY}: a port of another machine without TLS" in done.stderr
    assert "expected an answer within" in done.stderr


def test_a_scheduler_file_or_the_environment_that_leads_elsewhere_is_refused_too(lrh, config):
    (config / "s.json").write_text(json.dumps({"address": AWAY}))
    by_file = lrh("run", "p.zarr", "--scheduler", "s.json", cwd=config)
    with dask.config.set({"scheduler-address": AWAY}):  # as DASK_SCHEDULER_ADDRESS does
        by_environment = lrh("run", "p.zarr", cwd=config)
    for done in (by_file, by_environment):
        assert done.returncode == 2
        assert "runs any code" in done.stderr


def test_what_a_file_allows_holds_for_a_scheduler_that_is_given(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("store: a\ncluster: {workers: 2, insecure: true}\n")
    assert settings_of(RunSettings, str(path), {}, {"scheduler": AWAY}).cluster.insecure
    path.write_text("store: a\n")
    assert not settings_of(RunSettings, str(path), {}, {"scheduler": AWAY}).cluster.insecure


def test_examples_that_leave_the_machine_say_how_they_are_guarded():
    examples = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
    kinds = set()
    for path in examples:
        cluster = ClusterSettings(**(yaml.safe_load(path.read_text()).get("cluster") or {}))
        refuse_exposed(cluster, lambda _: None, cluster.address)
        kinds.add(cluster.kind)
    assert {"slurm", "kubernetes", "address"} <= kinds
