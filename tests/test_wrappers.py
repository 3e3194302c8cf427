"""Wrappers of `lrh nightly` in workflows/, run as schedulers run them: the second night is a no-op.

What needs a scheduler of its own is in test_cron, test_systemd, test_slurm and test_prefect.
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import yaml
from cluster_processes import process, until
from home_of_nights import BIN, ROOT, at_home, counted, waiting_for_a_person

from lrh_dask.drift.alerts import AlertsRaised
from lrh_dask.errors import BadPairs, RunFailed, SettingsError
from lrh_dask.settings.config import NightlySettings
from lrh_dask.stores.catalog import Busy
from lrh_dask.stores.locks import exclusive

WORKFLOWS = ROOT / "workflows"
KUBERNETES = WORKFLOWS / "kubernetes"
FINAL = {kind.exit_code for kind in (SettingsError, BadPairs, AlertsRaised)}
PASSING = {kind.exit_code for kind in (RunFailed, Busy)}


@pytest.mark.parametrize("name", [
    "systemd/lrh-nightly.service", "systemd/lrh-nightly.timer", "crontab", "slurm.sh",
    "kubernetes/cronjob.yaml", "kubernetes/daskjob.yaml", "prefect_flow.py"])
def test_a_wrapper_is_short(name):
    assert len((WORKFLOWS / name).read_text().splitlines()) < 60


def test_two_lines_are_all_that_a_night_needs():
    lines = (ROOT / "configs" / "nightly.yaml").read_text().splitlines()
    needed = yaml.safe_load("\n".join(line for line in lines if line.startswith(("store", "runs"))))
    assert NightlySettings(**needed).alerts == NightlySettings(store="a", runs="b").alerts


def test_every_choice_that_is_commented_out_can_be_taken():
    text = (ROOT / "configs" / "nightly.yaml").read_text()
    head, choices = text.partition("\n# window:")[::2]
    chosen = yaml.safe_load(head + "\nwindow:" + choices.replace("\n# ", "\n").replace(
        "\n  # ", "\n  "))
    settings = NightlySettings(**chosen)
    assert settings.cluster.workers == 4
    assert None not in settings.alerts.model_dump().values()


def test_what_may_get_better_is_tried_again_and_nothing_else_is():
    service = (WORKFLOWS / "systemd" / "lrh-nightly.service").read_text()
    assert "Restart=on-failure\n" in service
    prevented = service.partition("RestartPreventExitStatus=")[2].splitlines()[0]
    assert set(map(int, prevented.split())) == FINAL
    job = cron_job()["spec"]["jobTemplate"]["spec"]
    assert job["podFailurePolicy"]["rules"][0] == {
        "action": "FailJob", "onExitCodes": {
            "containerName": "nightly", "operator": "In", "values": sorted(FINAL)}}
    assert job["backoffLimit"] > 0
    script = containers(dask_job())["nightly"]["args"][0]
    assert f"case $code in {'|'.join(map(str, sorted(PASSING)))})" in script


# systemd

@pytest.fixture
def units(tmp_path):
    """Both units where a user's systemd finds them, and what it takes to look at them."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    at_home(tmp_path)
    folder = tmp_path / ".config" / "systemd" / "user"
    shutil.copytree(WORKFLOWS / "systemd", folder)
    (tmp_path / "run").mkdir(mode=0o700)

    def verify():
        return subprocess.run(
            ["systemd-analyze", "--user", "verify", "--recursive-errors=one",
             *folder.iterdir()], capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")})

    return folder, verify


def test_systemd_knows_every_line_of_the_units(units):
    _, verify = units
    done = verify()
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("name", "line", "wrong"), [
    ("timer", "Persistent=true", "Persistant=true"),
    ("service", "RestartSec=15min", "RestartSec=15moons"),
    ("service", ".venv/bin/lrh", ".venv/bin/no-such")])
def test_a_slip_in_a_unit_would_be_seen(units, name, line, wrong):
    folder, verify = units
    path = folder / f"lrh-nightly.{name}"
    assert line in path.read_text()
    path.write_text(path.read_text().replace(line, wrong))
    done = verify()
    assert (done.returncode != 0) or wrong.rpartition("=")[2] in done.stderr


# cron

def test_the_line_of_cron_prints_something_only_where_a_person_should_look(tmp_path):
    runs = at_home(tmp_path)
    line = (WORKFLOWS / "crontab").read_text().splitlines()[-1]
    command = line.split(maxsplit=5)[5]

    def night():
        done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True,
                              cwd="/", check=False, timeout=120,
                              env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})
        assert done.stderr == ""
        return done.stdout

    assert [night(), night()] == ["", ""]
    counted(runs)
    with exclusive(runs / ".lock"):
        assert night() == ""
    waiting_for_a_person(tmp_path)
    assert "alert" in night()


# Kubernetes

def cron_job():
    return documents("cronjob.yaml")["CronJob"]


def dask_job():
    return documents("daskjob.yaml")["DaskJob"]


def documents(name):
    loaded = yaml.safe_load_all((KUBERNETES / name).read_text())
    return {document["kind"]: document for document in loaded}


def containers(dask_job):
    """By name."""
    cluster = dask_job["spec"]["cluster"]["spec"]
    return {found["name"]: found for part in (dask_job["spec"]["job"], cluster["scheduler"],
                                              cluster["worker"])
            for found in part["spec"]["containers"]}


@pytest.mark.workflows
@pytest.mark.parametrize("version", ["1.31", "1.34"])
def test_kubernetes_knows_every_field(version):
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for document in documents("cronjob.yaml").values():
        validator.validate(document, version, strict=True)
    slip = cron_job()
    slip["spec"]["concurencyPolicy"] = slip["spec"].pop("concurrencyPolicy")
    with pytest.raises(validator.ValidationError, match="concurencyPolicy"):
        validator.validate(slip, version, strict=True)


def closed(schema):
    """A schema that knows no other fields than those it names, as `kubectl` has it."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and (
            not schema.get("x-kubernetes-preserve-unknown-fields")):
        found.setdefault("additionalProperties", False)
    return found


@pytest.fixture(scope="module")
def schema_of_a_dask_job():
    jsonschema = pytest.importorskip("jsonschema")
    package = importlib.util.find_spec("dask_kubernetes")
    if package is None:
        pytest.skip("pip install --no-deps dask-kubernetes")
    crds = Path(package.submodule_search_locations[0]).glob("**/crds/daskjob.yaml")
    crd = yaml.safe_load(next(crds).read_text())
    schema = closed(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    schema["properties"] |= {"apiVersion": {"const": "kubernetes.dask.org/v1"},
                             "kind": {"const": "DaskJob"}, "metadata": {"type": "object"}}
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.workflows
def test_the_operator_knows_every_field(schema_of_a_dask_job):
    assert list(schema_of_a_dask_job.iter_errors(dask_job())) == []
    slip = dask_job()
    slip["spec"]["job"]["spec"]["restartPolice"] = "Never"
    slip["spec"]["cluster"]["spec"]["worker"]["replicas"] = "many"
    assert len(list(schema_of_a_dask_job.iter_errors(slip))) == 2


def test_nights_on_kubernetes_do_not_overlap_and_end():
    assert cron_job()["spec"]["concurrencyPolicy"] == "Forbid"
    assert dask_job()["spec"]["job"]["spec"]["restartPolicy"] == "Never"
    assert dask_job()["spec"]["cluster"]["spec"]["scheduler"]["service"]["selector"][
        "dask.org/cluster-name"] == dask_job()["metadata"]["name"]


@pytest.fixture
def pod(tmp_path):
    """A pod's files and environment as they are on this machine, and its folder of runs."""
    runs = at_home(tmp_path)
    settings = documents("cronjob.yaml")["ConfigMap"]["data"]["nightly.yaml"]
    assert "workers: 4" in settings
    (tmp_path / "nightly.yaml").write_text(settings.replace("/data", str(runs.parent)).replace(
        "workers: 4", "workers: 1"))
    env = {**os.environ, "HOME": str(tmp_path), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return runs, env, lambda text: text.replace("/etc/lrh", str(tmp_path))


@pytest.mark.long
def test_the_container_of_the_cron_job_counts_once(pod):
    runs, env, here = pod
    spec = cron_job()["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    for _ in range(2):
        subprocess.run([*map(here, spec["command"])], env=env, cwd=spec["workingDir"], check=True,
                       capture_output=True, timeout=120)
    counted(runs)


@pytest.mark.workflows
def test_the_containers_of_the_dask_job_find_each_other_and_count_once(pod, tmp_path):
    """The first night begins before there is a scheduler, as pods do."""
    runs, env, here = pod
    found = containers(dask_job())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env |= {"DASK_SCHEDULER_ADDRESS": f"tcp://127.0.0.1:{port}", "DASK_WORKER_NAME": "one",
            "LRH_PAUSE": "1"}
    mine = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]

    def command(name):
        spec = found[name]
        given = [here(part).replace("$(DASK_WORKER_NAME)", "one") for part in (
            *spec["command"], *spec.get("args", ()))]
        return [port if part == "8786" else part for part in given]

    with contextlib.ExitStack() as stack:
        logs = {name: tmp_path / f"{name}.log" for name in found}
        first = stack.enter_context(process(command("nightly"), logs["nightly"], env=env))
        until(lambda: "expected an answer within" in logs["nightly"].read_text(), logs["nightly"],
              first)
        for name in ("scheduler", "worker"):
            stack.enter_context(process([*command(name), *mine], logs[name], env=env))
        assert first.wait(60) == 0, logs["nightly"].read_text()
        subprocess.run(command("nightly"), env=env, check=True, capture_output=True, timeout=60)
    counted(runs, tries_first=True)
