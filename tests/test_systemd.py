"""The units of workflows/systemd make nights, twice, by a user's systemd that is started here."""

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
import user_systemd
from home_of_nights import WORKFLOWS, at_home, counted, n_ended, there, told, waiting_for_a_person

from lrh_dask.nights.underway import State, statuses
from lrh_dask.stores.locks import exclusive

pytestmark = [pytest.mark.workflows, pytest.mark.skipif(
    sys.platform != "linux", reason="namespaces, Slurm and systemd are Linux's")]
SERVICE, TIMER = "lrh-nightly.service", "lrh-nightly.timer"


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
