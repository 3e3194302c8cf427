"""The public workflow may read and nothing else, and what it calls is there."""

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
TOOLS = {"pip-audit": "pip-audit", "cyclonedx-py": "cyclonedx-bom"}


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(WORKFLOW.read_text())


@pytest.fixture(scope="module")
def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_it_may_read_and_nothing_else(workflow, steps):
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    assert "secrets." not in WORKFLOW.read_text()
    assert "pull_request_target" not in WORKFLOW.read_text()
    assert all(step["with"]["persist-credentials"] is False for step in steps
               if step.get("uses", "").startswith("actions/checkout"))


def test_actions_are_of_github_and_pinned_to_a_major_version(steps):
    used = [step["uses"] for step in steps if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", name) for name in used), used


def test_what_it_calls_is_there(steps):
    calls = [call.split() for step in steps for call in step.get("run", "").split("&&") if call]
    installed = {word for call in calls if "install" in call for word in call}
    assert [".ci/run"] in calls
    for program, *_ in calls:
        folder, _, name = program.rpartition("/")
        if folder == ".tools/bin":
            assert name == "pip" or TOOLS[name] in installed
        elif folder == ".ci":
            assert os.access(ROOT / program, os.X_OK)
        else:
            assert program in {"python", ".venv/bin/pip"}


def test_it_tests_what_is_promised_and_audits_every_extra_that_a_test_installs(workflow, project):
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert versions[0] == project["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {versions[-1]}" in project["classifiers"]
    (named,) = re.findall(r'install -q "\.\[([a-z,-]+)\]"', WORKFLOW.read_text())
    (tested,) = [re.findall(r"\[(.+)\]", needed)[0] for needed in
                 project["optional-dependencies"]["test"] if needed.startswith("lrh-dask[")]
    assert set(named.split(",")) >= set(tested.split(","))
    assert set(named.split(",")) <= set(project["optional-dependencies"])


def test_there_is_an_audit_and_a_bill_of_materials(workflow):
    run = [step.get("run", step.get("with", {}).get("path", ""))
           for step in workflow["jobs"]["audit"]["steps"]]
    assert any("pip-audit" in line and "install" not in line for line in run)
    assert any("cyclonedx-py environment" in line for line in run)
    assert run.count("sbom.cdx.json") == 1
