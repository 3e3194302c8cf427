"""workflows/prefect_flow.py makes nights, twice, by a server of Prefect that is started here."""

import contextlib
import json
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec

import one_node_slurm
import pytest
import yaml
from cluster_processes import process, until
from home_of_nights import WORKFLOWS, at_home, there, waiting_for_a_person, write

from lrh_dask.stores.catalog import Catalog
from lrh_dask.stores.locks import exclusive

pytestmark = pytest.mark.workflows


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
