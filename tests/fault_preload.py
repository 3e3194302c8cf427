"""Preloads of Dask processes by which faults come at a count of finished tasks, not at a time.

``dask scheduler --preload fault_preload.py`` does what the file $LRH_FAULTS says, a JSON list of
{"after": tasks, "do": name, ...}; ``dask worker --preload fault_preload.py`` makes each task that
reads pairs take a while, and takes up what lies in the folder $LRH_FAULTS.d: ``bloat`` (the task
that finds it asks for more memory than its worker has), ``poison`` (a row: who reads it dies).
"""

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

SECONDS = 0.08


def kill(pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def kill_workers(nannies):
    """Kill the worker of each nanny, which is the one that it has by now."""
    import psutil

    kill([child.pid for nanny in nannies for child in psutil.Process(nanny).children()
          if "spawn_main" in " ".join(child.cmdline())])


def stop(pids, seconds):
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(seconds, os.kill, (pid, signal.SIGCONT)).start()


def rename(path, to):
    Path(path).rename(to)


def remove(path):
    Path(path).unlink()


def cut(path, n_bytes):
    os.truncate(path, os.path.getsize(path) - n_bytes)


def flip(path, at, unnoticed=False):
    """One bit; unnoticed, the file has the time of its last change as before."""
    before = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(at)
        bit = file.read(1)[0] ^ 4
        file.seek(at)
        file.write(bytes([bit]))
    if unnoticed:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rewrite(path, checksummed):
    """Other numbers, whose checksum is right."""
    from crc32c import crc32c

    content = Path(path).read_bytes()
    numbers = content[:-4] if checksummed else content
    numbers = struct.pack("<d", 7.0) + numbers[8:]
    aside = Path(f"{path}.aside")
    aside.write_bytes(numbers + (struct.pack("<I", crc32c(numbers)) if checksummed else b""))
    aside.rename(path)


def append(*args):
    subprocess.run([sys.executable, *args], check=True, stdin=subprocess.DEVNULL)


def touch(path, text=""):
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(text)


class Faults:
    """A scheduler plugin that counts tasks of runs as they are done."""

    name = "faults"

    def __init__(self, path):
        self.path, self.count, self.known = path, 0, None

    def transition(self, key, start, finish, *_, **__):
        if (start, finish) != ("processing", "memory") or "lrh-" not in str(key):
            return
        try:
            told = os.stat(self.path).st_mtime_ns
        except FileNotFoundError:
            return
        if told != self.known:  # another schedule
            self.known, self.count = told, 0
            self.due = json.loads(self.path.read_text())
        self.count += 1
        for fault in [f for f in self.due if f["after"] == self.count]:
            with self.path.with_suffix(".done").open("a") as log:
                log.write(f"{self.count} {fault['do']}\n")
            globals()[fault["do"]](*fault.get("args", ()))


def dask_setup(server):
    path = Path(os.environ["LRH_FAULTS"])
    if type(server).__name__ == "Scheduler":
        from distributed.diagnostics.plugin import SchedulerPlugin

        server.add_plugin(type("Faults", (Faults, SchedulerPlugin), {})(path))
        return
    from lrh_dask.runs import leaves

    fold, orders = leaves._fold, Path(f"{path}.d")

    def slow(pairs, run, *args, **kwargs):
        time.sleep(SECONDS)
        try:
            (orders / "bloat").unlink()
        except OSError:
            pass
        else:
            held = []
            while True:  # until its nanny ends it
                held.append(b"\1" * 2**24)
                time.sleep(0.005)
        try:
            row = int((orders / "poison").read_text())
        except OSError:
            row = -1
        if any(start <= row < stop for start, stop in run.blocks):
            os.kill(os.getpid(), signal.SIGKILL)
        return fold(pairs, run, *args, **kwargs)

    leaves._fold = slow
