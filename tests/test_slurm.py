"""workflows/slurm.sh makes nights, twice, on a Slurm of one node that is started here."""

import contextlib
import os
import subprocess
import sys
from importlib.util import find_spec

import one_node_slurm
import pytest
import yaml
from home_of_nights import (
    ROOT,
    WORKFLOWS,
    at_home,
    counted,
    there,
    told,
    waiting_for_a_person,
    write,
)

from lrh_dask.nights.underway import statuses

pytestmark = [pytest.mark.workflows, pytest.mark.skipif(
    sys.platform != "linux", reason="namespaces, Slurm and systemd are Linux's")]


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
