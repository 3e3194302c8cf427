"""A real systemd of a user, in namespaces of its own, with a home that is ours.

It needs root. Whether the machine was booted with systemd does not matter; one that it has is
neither seen nor touched. A systemd takes all processes of its control group in hand: so this one
gets a group of its own, and a view of the groups in which there is no other.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from cluster_processes import process

SYSTEMD = Path("/lib/systemd/systemd")
GROUP = """
echo $$ > "$GROUP/cgroup.procs" || exit 1
exec unshare --cgroup --mount --propagation private --pid --fork --kill-child --mount-proc \\
     sh -c "$BEGIN"
"""
BEGIN = f"""
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR"
mount -t cgroup2 cgroup2 /sys/fs/cgroup
grep -qx 0::/ /proc/self/cgroup
test -e /sys/fs/cgroup/cgroup.type          # what is seen as the root is not the machine's
test "$(wc -l < /sys/fs/cgroup/cgroup.procs)" -lt 9
# as a child: as the first process of its namespace the systemd of a user refuses to be
{SYSTEMD} --user --unit=timers.target --log-target=console --log-level=info &
wait
"""


class Unavailable(Exception):
    """This machine has no systemd, or does not let its user make namespaces."""


class Systemd:
    """``systemctl --user``, asked from outside."""

    def __init__(self, prefix, env):
        self._prefix, self._env = prefix, env

    def ctl(self, *args, check=True):
        """What it prints."""
        done = subprocess.run([*self._prefix, "systemctl", "--user", "--no-pager", *args],
                              env=self._env, capture_output=True, text=True, timeout=120,
                              check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def told(self, unit, name):
        """A property of a unit."""
        return self.ctl("show", "--value", f"--property={name}", unit)


@contextlib.contextmanager
def user_systemd(home):
    """The systemd of a user whose home this is."""
    if not SYSTEMD.exists() or shutil.which("unshare") is None or os.geteuid() != 0:
        raise Unavailable(f"{SYSTEMD}, `unshare` and root are needed")
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(home),
           "XDG_RUNTIME_DIR": "/run/user/lrh"}
    log = Path(tempfile.mkdtemp(prefix="lrh-systemd-")) / "log.txt"
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, log.parent)
        group = stack.enter_context(_own_group())
        started = stack.enter_context(process(
            ["env", "-i", *(f"{k}={v}" for k, v in {**env, "GROUP": group, "BEGIN": BEGIN}.items()),
             "sh", "-c", GROUP], log))
        stack.callback(started.kill)  # a first process of a namespace is deaf to milder signals
        found = _once_it_answers(started, env, log)
        try:
            yield found
        finally:
            found.ctl("exit", check=False)
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(20)


@contextlib.contextmanager
def _own_group():
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    roots = [Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"]
    if not roots:
        raise Unavailable("no control groups (version 2) are mounted")
    group = roots[0] / f"lrh-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        raise Unavailable(f"no control group can be made: {error}") from error
    try:
        yield group
    finally:
        end = time.monotonic() + 10
        while group.exists() and time.monotonic() < end:
            for folder in sorted(group.rglob("*/"), reverse=True):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            with contextlib.suppress(OSError):  # its processes are ending
                group.rmdir()
            time.sleep(0.05)


def _once_it_answers(started, env, log):
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
    end = time.monotonic() + 20
    while started.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
        if inside := children.read_text().split():
            found = Systemd(["nsenter", "--target", inside[0], "--mount", "--pid"], env)
            if found.ctl("is-active", "timers.target", check=False) == "active":
                return found
    raise Unavailable(f"the systemd of a user did not start: {log.read_text()}")
