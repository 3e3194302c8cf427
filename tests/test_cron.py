"""The line of workflows/crontab makes nights, twice, by a cron that is started here."""

import contextlib
import sys

import crond
import pytest
from home_of_nights import WORKFLOWS, at_home, counted, n_ended, there, told

pytestmark = [pytest.mark.workflows, pytest.mark.skipif(
    sys.platform != "linux", reason="namespaces, Slurm and systemd are Linux's")]


@pytest.fixture
def nights_by_cron(tmp_path):
    """The very line, every minute."""
    runs = at_home(tmp_path)
    line = (WORKFLOWS / "crontab").read_text().splitlines()[-1]
    assert line.startswith("30 2 * * * ")
    with contextlib.ExitStack() as stack:
        try:
            started, log = stack.enter_context(crond.crond(tmp_path, [
                f"HOME={tmp_path}", line.replace("30 2 * * *", "* * * * *")]))
        except crond.Unavailable as error:
            told(error)
        yield runs, started, log


def test_cron_runs_its_line_as_it_stands(nights_by_cron):
    runs, started, log = nights_by_cron
    there(lambda: n_ended(runs) > 1 or started.poll() is not None, 200)
    assert started.poll() is None, log.read_text()
    counted(runs)
