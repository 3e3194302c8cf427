"""Real schedulers make nights by the wrappers in workflows/, twice: systemd, cron, Slurm, Prefect.

`pytest -m workflows` runs them; CONTRIBUTING says what they need. Each is started here, sees
nothing of the machine's own, and ends with its tests.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import crond
import one_node_slurm
import pytest
import user_systemd
import yaml
from cluster_processes import process, until
from home_of_nights import ROOT, at_home, counted, n_ended, waiting_for_a_person, write

from lrh_dask.nights.underway import State, statuses
from lrh_dask.stores.catalog import Catalog
from lrh_dask.stores.locks import exclusive

pytestmark = [pytest.mark.workflows, pytest.mark.skipif(
    sys.platform != "linux", reason="namespaces, Slurm and systemd are Linux's")]
WORKFLOWS = ROOT / "workflows"
SERVICE, TIMER = "lrh-nightly.service", "lrh-nightly.timer"


def there(condition, seconds=120):
    """Wait until it is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def told(unavailable):
    pytest.skip(" ".join(str(unavailable).split()))


# cron: a minute is its shortest interval, so it begins before all others and is asked last

@pytest.fixture(scope="module", autouse=True)
def nights_by_cron(tmp_path_factory):
    """The very line, every minute."""
    home = tmp_path_factory.mktemp("cron")
    runs = at_home(home)
    line = (WORKFLOWS / "crontab").read_text().splitlines()[-1]
    assert line.startswith("30 2 * * * ")
    with contextlib.ExitStack() as stack:
        try:
            started, log = stack.enter_context(crond.crond(home, [
                f"HOME={home}", line.replace("30 2 * * *", "* * * * *")]))
        except crond.Unavailable as error:
            yield str(error)
            return
        yield runs, started, log


# systemd

@pytest.fixture
def systemd(tmp_path):
    """The systemd of a user with both units, the folder of runs, and that of the units."""
    runs = at_home(tmp_path)
    units = tmp_path / ".config" / "systemd" / "user"
    shutil.copytree(WORKFLOWS / "systemd", units)
    before = Path("/proc/self/cgroup").read_text()
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(user_systemd.user_systemd(tmp_path))
        except user_systemd.Unavailable as error:
            told(error)
        yield found, runs, units
        assert Path("/proc/self/cgroup").read_text() == before  # it has left others alone


def changed(systemd, units, unit, lines):
    """Have a unit differ as a person would."""
    (units / f"{unit}.d").mkdir(exist_ok=True)
    (units / f"{unit}.d" / "ours.conf").write_text(f"[{unit.rpartition('.')[2].title()}]\n{lines}")
    systemd.ctl("daemon-reload")


def test_the_service_counts_once(systemd):
    found, runs, _ = systemd
    for _ in range(2):
        found.ctl("start", SERVICE)
        assert found.told(SERVICE, "Result") == "success"
    counted(runs)


def test_the_timer_starts_the_service(systemd):
    found, runs, units = systemd
    changed(found, units, TIMER, "OnCalendar=\nOnCalendar=*:*:0/2\nAccuracySec=1s\n"
                                 "RandomizedDelaySec=0\n")
    found.ctl("enable", "--now", TIMER)
    there(lambda: n_ended(runs) > 1)
    counted(runs)


def test_nights_that_were_missed_are_caught_up_by_one_call(systemd, tmp_path):
    found, runs, units = systemd
    stamp = tmp_path / ".local" / "share" / "systemd" / "timers" / f"stamp-{TIMER}"
    stamp.parent.mkdir(parents=True)
    stamp.touch()
    week = time.time() - 7 * 86400
    os.utime(stamp, (week, week))
    changed(found, units, TIMER, "RandomizedDelaySec=0\n")
    found.ctl("enable", "--now", TIMER)
    there(lambda: n_ended(runs) > 0)
    assert [status.state for status in statuses(runs)] == [State.done]
    there(lambda: "02:30" in found.told(TIMER, "NextElapseUSecRealtime"))


def test_alerts_leave_the_service_failed_and_it_is_not_tried_again(systemd, tmp_path):
    found, _, _ = systemd
    waiting_for_a_person(tmp_path)
    found.ctl("start", SERVICE, check=False)
    assert found.told(SERVICE, "ActiveState") == "failed"
    assert found.told(SERVICE, "ExecMainStatus") == "5"
    assert found.told(SERVICE, "NRestarts") == "0"
    assert SERVICE in found.ctl("list-units", "--failed", "--plain")


def test_the_service_comes_again_where_another_run_is_in_the_folder(systemd):
    found, runs, units = systemd
    changed(found, units, SERVICE, "RestartSec=1s\n")
    runs.mkdir()
    with exclusive(runs / ".lock"):
        found.ctl("start", "--no-block", SERVICE)
        there(lambda: found.told(SERVICE, "NRestarts") == "1")
    there(lambda: found.told(SERVICE, "ActiveState") == "inactive")
    assert found.told(SERVICE, "Result") == "success"
    found.ctl("start", SERVICE)
    counted(runs, tries_first=True)


# Slurm

@pytest.fixture(scope="module")
def slurm():
    with contextlib.ExitStack() as stack:
        try:
            folder, env = stack.enter_context(one_node_slurm.slurm())
        except one_node_slurm.Unavailable as error:
            told(error)
        yield folder, env


@pytest.fixture
def login_node(slurm, tmp_path):
    """What asks Slurm from a home on the disk of the cluster, the folder of runs, and the mails."""
    if find_spec("dask_jobqueue") is None:
        pytest.skip("needs the extra jobqueue")
    folder, env = slurm
    shipped = yaml.safe_load((ROOT / "configs" / "slurm.yaml").read_text())["cluster"]
    mine = {"cores": 1, "memory": "2GiB", "queue": "all", "interface": "lo",
            "shared_temp_directory": str(tmp_path), "job_script_prologue": []}
    options = {**shipped["options"], **mine}
    del options["account"]  # a Slurm without accounting knows none
    runs = at_home(tmp_path, cluster={**shipped, "workers": 2, "wait_seconds": 60,
                                      "options": options})

    def ask(*command, check=True):
        done = subprocess.run(command, env={**os.environ, **env, "HOME": str(tmp_path)}, text=True,
                              capture_output=True, cwd=tmp_path, timeout=120, check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    yield ask, runs, folder / "mails"
    ask("scancel", "--user=root")
    there(lambda: not ask("squeue", "--noheader"), 30)


def said(folder):
    """What the jobs of the driver have said."""
    return "".join(path.read_text() for path in sorted(folder.glob("lrh-nightly-*.out")))


def state(ask, job):
    shown = dict(part.partition("=")[::2] for part in ask("scontrol", "show", "job", job).split())
    return shown["JobState"], shown["ExitCode"]


def test_jobs_of_slurm_count_once_and_take_their_workers_back(login_node, tmp_path):
    ask, runs, mails = login_node
    for _ in range(2):
        job = ask("sbatch", "--parsable", WORKFLOWS / "slurm.sh")
        there(lambda: not ask("squeue", "--noheader"))
        assert state(ask, job) == ("COMPLETED", "0:0"), said(tmp_path)
    counted(runs)
    assert said(tmp_path).count("Cluster: slurm, scheduler tls://127.0.0.1") == 1
    assert "2 workers, 2 threads" in said(tmp_path)
    assert not mails.exists()


def test_nights_on_slurm_follow_each_other(login_node):
    ask, runs, _ = login_node
    jobs = [ask("sbatch", "--parsable", WORKFLOWS / "slurm.sh") for _ in range(2)]
    there(lambda: state(ask, jobs[0])[0] == "RUNNING")
    assert state(ask, jobs[1])[0] == "PENDING"
    there(lambda: state(ask, jobs[1])[0] == "COMPLETED")
    counted(runs)


def test_alerts_on_slurm_are_a_failed_job_and_a_mail(login_node, tmp_path):
    ask, _, mails = login_node
    waiting_for_a_person(tmp_path)
    job = ask("sbatch", "--parsable", WORKFLOWS / "slurm.sh")
    there(lambda: state(ask, job) == ("FAILED", "5:0"))
    there(mails.exists, 30)
    assert "Failed" in mails.read_text()
    mails.unlink()


def test_a_driver_whose_time_is_up_takes_its_jobs_back(login_node, tmp_path):
    """It waits for workers that have no room beside it."""
    ask, runs, mails = login_node
    path = tmp_path / "lrh" / "nightly.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["cluster"]["options"]["cores"] = 8
    write(path, settings)
    job = ask("sbatch", "--parsable", WORKFLOWS / "slurm.sh")
    there(lambda: "PENDING" in ask("squeue", "--noheader", "--format=%T"))
    there(lambda: ask("squeue", "--noheader", "--format=%T").count("\n") == 1)
    ask("scancel", "--signal=INT", "--batch", job)  # what --signal has Slurm do by itself
    there(lambda: not ask("squeue", "--noheader"), 60)
    assert state(ask, job)[0] == "FAILED"
    assert [status.exit_code for status in statuses(runs)] == [130]
    there(mails.exists, 30)
    mails.unlink()


# Prefect

@pytest.fixture(scope="module")
def prefect(tmp_path_factory):
    """Prefect's own server on SQLite, the served flow, and what asks both."""
    if find_spec("prefect") is None:
        pytest.skip("needs the extra prefect")
    home = tmp_path_factory.mktemp("prefect")
    runs, port = at_home(home), one_node_slurm.free_ports(1)[0]
    api = f"http://127.0.0.1:{port}/api"
    env = {"PREFECT_HOME": str(home / ".prefect"), "PREFECT_API_URL": api, "DO_NOT_TRACK": "1",
           "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_RUNNER_POLL_FREQUENCY": "1",
           "HOME": str(home)}

    def ask(path, **body):
        """As Prefect's own client: 503 is its database in use, to be asked again."""
        request = urllib.request.Request(f"{api}/{path}", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > end:
                    raise
            time.sleep(1)

    def healthy():
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{api}/health", timeout=5).status == 200

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(process(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port",
             port], home / "server.txt", env=env))
        until(healthy, home / "server.txt", server)
        stack.enter_context(contextlib.chdir(home / "lrh"))
        flow = stack.enter_context(process(
            [sys.executable, WORKFLOWS / "prefect_flow.py", "nightly.yaml"], home / "flow.txt",
            env=env))
        until(lambda: ask("deployments/filter"), home / "flow.txt", flow)
        yield ask, home, runs


def night(ask):
    """A run of the deployment, as its schedule would make it; its last state."""
    deployment, = ask("deployments/filter")
    made = ask(f"deployments/{deployment['id']}/create_flow_run")["id"]
    there(lambda: flow_run(ask, made)["state_type"] in {"COMPLETED", "FAILED", "CRASHED"})
    return flow_run(ask, made)["state"]


def flow_run(ask, made):
    found, = ask("flow_runs/filter", flow_runs={"id": {"any_": [made]}})
    return found


def test_the_deployment_has_its_schedule(prefect):
    ask, _, _ = prefect
    deployment, = ask("deployments/filter")
    assert [one["schedule"]["cron"] for one in deployment["schedules"]] == ["30 2 * * *"]


def test_flows_of_prefect_count_once_then_tell_alerts(prefect):
    ask, home, runs = prefect
    first, second = night(ask), night(ask)
    assert (first["name"], second["name"]) == ("Published", "Nothing new")
    published, = Catalog(runs).runs()
    assert first["message"] == second["message"] == str(runs / published.run)
    waiting_for_a_person(home)
    third = night(ask)
    assert (third["type"], third["name"]) == ("FAILED", "Alerts")
    assert "stale_after" in third["message"]


def test_prefect_tries_again_what_may_get_better_and_nothing_else(prefect):
    ask, home, runs = prefect
    path = home / "lrh" / "nightly.yaml"
    settings = yaml.safe_load(path.read_text())
    write(path, {**settings, "rnak": 3})
    wrong = night(ask)
    assert wrong["type"] == "FAILED"
    assert "rnak: unknown setting" in wrong["message"]
    write(path, settings)
    runs.mkdir(exist_ok=True)
    with exclusive(runs / ".lock"):
        deployment, = ask("deployments/filter")
        ask(f"deployments/{deployment['id']}/create_flow_run")
        there(lambda: any(one["state_name"] == "AwaitingRetry" for one in ask("task_runs/filter")))


def test_cron_runs_its_line_as_it_stands(nights_by_cron):
    if isinstance(nights_by_cron, str):
        told(nights_by_cron)
    runs, started, log = nights_by_cron
    there(lambda: n_ended(runs) > 1 or started.poll() is not None, 200)
    assert started.poll() is None, log.read_text()
    counted(runs)
