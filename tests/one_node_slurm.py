"""A real Slurm of one node: munge, controller and node daemon of our own, ended with the block.

It needs Debian's packages slurmctld, slurmd, slurm-client and munge, and root. Its ports, keys
and state are its own: a Slurm that this machine has stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from cluster_processes import process

NEEDS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"
CONF = """
ClusterName=lrh
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MailProg={folder}/mail
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
MAIL = """#!/bin/sh
echo "$@" >> "{folder}/mails"
"""


class Unavailable(Exception):
    """This machine has no such daemons, or its user may not start them."""


@contextlib.contextmanager
def slurm():
    """The block gets the folder of the daemons, with SLURM_CONF and PATH set for its commands."""
    missing = [name for name in NEEDS if shutil.which(name, path=PATH) is None]
    if missing:
        raise Unavailable(f"no {', '.join(missing)}; Debian's packages slurmctld, slurmd, "
                          "slurm-client and munge have them")
    if os.geteuid() != 0:
        raise Unavailable("a Slurm daemon is started by root")
    folder = Path(tempfile.mkdtemp(prefix="lrh-slurm-"))
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o755)
    folder.chmod(0o755)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    (folder / "mail").write_text(MAIL.format(folder=folder))
    (folder / "mail").chmod(0o755)
    conf = folder / "slurm.conf"
    host = platform.node().partition(".")[0]
    conf.write_text(CONF.format(folder=folder, host=host, ports=free_ports(2)))
    env = {"SLURM_CONF": str(conf), "PATH": PATH}
    munged = ["munged", "--foreground", "--force", "--key-file", key,
              *(f"--{name}={folder}/munge/{name.partition('-')[0]}" for name in (
                  "socket", "log-file", "pid-file", "seed-file"))]
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for command in (munged, ["slurmctld", "-D", "-c"], ["slurmd", "-D"]):
            found = [shutil.which(command[0], path=PATH), *command[1:]]
            stack.enter_context(process(found, folder / f"{command[0]}.txt", env=env))
        _until_idle(folder, env)
        yield folder, env


def free_ports(n):
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _until_idle(folder, env):
    end = time.monotonic() + 60
    while True:
        told = subprocess.run(["sinfo", "--noheader", "--format=%T"], env={**os.environ, **env},
                              capture_output=True, text=True, check=False)
        if told.stdout.strip() == "idle":
            return
        if time.monotonic() > end:
            said = "".join(path.read_text(errors="replace")[-2000:]
                           for path in folder.glob("*.txt"))
            raise Unavailable(f"its node does not come up: {told.stdout}{told.stderr}{said}")
        time.sleep(0.2)
