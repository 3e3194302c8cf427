"""Other software on scheduler or workers is told before a run, by name, with the fix."""

import contextlib
import shutil
from pathlib import Path

import pytest
from cluster_processes import other_software, scheduler, worker

import lrh_dask
from lrh_dask import RunFailed, __version__
from lrh_dask.clusters.cluster import connect, reach
from lrh_dask.clusters.versions import (
    Agreement,
    Package,
    compare_versions,
    refuse_mismatched,
    survived,
)
from lrh_dask.settings.cluster_settings import ClusterSettings

GONE = 'raise ModuleNotFoundError("No module named \'lrh_dask\'")'


def settings_for(path):
    return ClusterSettings(kind="scheduler_file", scheduler_file=str(path))


@pytest.fixture(scope="module")
def scheduler_file(tmp_path_factory):
    """Of a scheduler like this process, that workers come to and leave."""
    with scheduler(tmp_path_factory.mktemp("scheduler")) as path:
        yield path


@pytest.fixture
def one_worker(scheduler_file):
    """Starts one, in an environment of its own, as the only one."""
    @contextlib.contextmanager
    def started(env=None):
        with worker(scheduler_file, "--no-nanny", env=env):
            yield scheduler_file

    return started


def agreements(path):
    with reach(settings_for(path)) as client:
        return {package.name: package for package in compare_versions(client)}


def test_the_same_environment_agrees_in_everything(one_worker):
    with one_worker() as path:
        found = agreements(path)
    assert {package.agreement for package in found.values()} == {Agreement.same}
    assert {"python", "lrh-dask", "dask", "distributed", "numpy", "zarr", "numcodecs", "scipy",
            "xxhash", "crc32c", "msgpack", "cloudpickle"} == set(found)
    assert found["lrh-dask"].client == __version__


@pytest.mark.parametrize(("module", "said"), [
    (GONE, "none on tcp://127.0.0.1"),
    ('__version__ = "0.0.9"', "0.0.9 failed"),
    (f'__version__ = "{__version__}"', "failed (ModuleNotFoundError: No module named "
                                       "'lrh_dask.runs')"),
], ids=["missing", "older", "broken"])
def test_a_worker_without_this_lrh_dask_is_refused(tmp_path, one_worker, module, said):
    with one_worker(other_software(tmp_path / "other", module)) as path:
        with pytest.raises(RunFailed, match="expected the same lrh-dask") as caught, \
                connect(settings_for(path)):
            raise AssertionError
        assert said in str(caught.value)
        assert f"pip install lrh-dask=={__version__}" in str(caught.value)


def test_the_scheduler_needs_lrh_dask_too(tmp_path):
    """It unpickles the graph."""
    other = other_software(tmp_path / "other", GONE)
    with scheduler(tmp_path, env=other) as path, worker(path, "--no-nanny"):
        with pytest.raises(RunFailed, match="none on the scheduler"), connect(settings_for(path)):
            raise AssertionError


def another_checkout(folder):
    """A copy of this package that differs in a line: the file that has it."""
    copy = folder / "lrh_dask"
    shutil.copytree(Path(lrh_dask.__file__).parent, copy,
                    ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "errors.py").open("a") as changed:
        changed.write("# another line\n")
    return copy / "errors.py"


def test_the_source_that_a_worker_has_loaded_is_compared(tmp_path, one_worker):
    """Not the one on its disk by now, as after `git pull` under a running cluster."""
    changed = another_checkout(tmp_path / "other")
    with one_worker({"PYTHONPATH": str(tmp_path / "other")}) as path:
        before = agreements(path)["lrh-dask"]
        shutil.copy(Path(lrh_dask.__file__).parent / "errors.py", changed)
        after = agreements(path)["lrh-dask"]
    assert before == after
    assert before.agreement is Agreement.apart
    assert "other source" in str(before)


def test_what_a_run_survives_is_a_notice_and_what_it_does_not_an_error(tmp_path, one_worker):
    other = other_software(tmp_path / "other", numpy="2.99.1", zarr="3.0.1", dask="2020.1.0")
    with one_worker(other) as path:
        found = agreements(path)
        with pytest.raises(RunFailed) as caught:
            refuse_mismatched(found.values())
    assert found["numpy"].agreement is Agreement.near
    assert [said for said in survived(found.values()) if "2.99.1 on tcp://" in said]
    said = str(caught.value)
    assert "the same dask, zarr" in said
    assert "2020.1.0 on tcp://" in said
    assert "numpy" not in said


def test_a_notice_does_not_stop_a_run(tmp_path, one_worker):
    other, heard = other_software(tmp_path / "other", numpy="2.99.1"), []
    with one_worker(other) as path:
        with connect(settings_for(path), heard.append):
            pass
    assert heard[0].startswith("Cluster: tcp://127.0.0.1")
    assert "2.99.1" in heard[1]


@pytest.mark.parametrize(("name", "there", "agreement"), [
    ("python", "3.11.9", Agreement.near), ("python", "3.12.7", Agreement.apart),
    ("dask", "2026.8.1", Agreement.apart), ("zarr", "3.1.7", Agreement.near),
    ("zarr", "3.2.6", Agreement.apart), ("numpy", "3.11.7", Agreement.near),
    ("numpy", "4.1.6", Agreement.apart), ("scipy", None, Agreement.missing)])
def test_how_much_of_a_version_must_be_the_same(name, there, agreement):
    here = {"python": "3.11.7", "dask": "2026.8.0", "zarr": "3.1.6"}.get(name, "3.1.6")
    package = Package(name, here, here, {"tcp://a:1": here, "tcp://b:1": there})
    assert package.agreement is agreement
    assert "tcp://a:1" not in str(package)
    if agreement in {Agreement.apart, Agreement.missing}:
        with pytest.raises(RunFailed, match=r"tcp://b:1"):
            refuse_mismatched([package])


def test_a_python_that_differs_is_told_as_such():
    found = Package("python", "3.11.7", "3.11.7", {"tcp://a:1": "3.12.1"})
    with pytest.raises(RunFailed, match=r"by Python 3\.11, or run from an environment like"):
        refuse_mismatched([found])


def test_many_workers_are_counted_not_listed():
    workers = {f"tcp://h:{i}": "2.0.0" for i in range(100)}
    assert str(Package("numpy", "3.0.0", "3.0.0", workers)).endswith("tcp://h:3 and 96 more")
