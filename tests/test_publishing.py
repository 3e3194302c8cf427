"""A night may die at any step: what it leaves is whole, and the next one counts each pair once."""

import subprocess
import sys

import dying_nights
import pytest
from cluster_processes import cluster


@pytest.fixture(scope="module")
def scheduler_file(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("cluster"), 1) as path:
        yield path


@pytest.mark.parametrize(("basis", "first", "by"), [
    ("auto", 3, 271), (6, 5, 311),
    pytest.param("auto", 0, 1, marks=pytest.mark.long),
    pytest.param(6, 0, 1, marks=pytest.mark.long)])
def test_a_kill_at_any_step_loses_nothing_and_leaves_nothing(
        scheduler_file, tmp_path, basis, first, by):
    done = subprocess.run([sys.executable, dying_nights.__file__, *map(str, (
        tmp_path, scheduler_file, basis, first, by))], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100  # steps
