"""Clusters of separate processes, started as a person would: `dask scheduler`, `dask worker`."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

DASK = Path(sys.executable).with_name("dask")
HOST = "127.0.0.1"
SET_BY_NANNIES = ("MALLOC_", "OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "ZARR_")
SECONDS = 60


@contextlib.contextmanager
def process(command, log, *, env=None):
    """A process that ends with the block; what it says goes to the file ``log``."""
    with log.open("wb") as out:
        started = subprocess.Popen([*map(str, command)], stdout=out, stderr=out,
                                   env={**fresh_environment(), **(env or {})})
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait(20)


def fresh_environment():
    """Without what clusters in this process have left: nannies set the environment they are in."""
    return {name: value for name, value in os.environ.items()
            if not name.startswith(SET_BY_NANNIES)}


@contextlib.contextmanager
def scheduler(folder, *args, host=HOST, env=None, prefix=()):
    """A scheduler process; the block gets its scheduler file, once it is written."""
    path = folder / f"scheduler-{time.monotonic_ns()}.json"
    command = [*prefix, DASK, "scheduler", "--host", host, "--port", "0", "--dashboard-address",
               f"{HOST}:0", "--scheduler-file", path, *args]
    with process(command, path.with_suffix(".log"), env=env) as started:
        until(path.exists, path.with_suffix(".log"), started)
        yield path


@contextlib.contextmanager
def worker(path, *args, host=HOST, env=None, prefix=()):
    """A worker process of the scheduler whose file this is; connected when the block begins."""
    log = path.with_name(f"worker-{time.monotonic_ns()}.log")
    command = [*prefix, DASK, "worker", "--scheduler-file", path, "--host", host, "--nthreads", "1",
               "--dashboard-address", f"{HOST}:0", *args]
    with process(command, log, env=env) as started:
        until(lambda: "Registered to" in log.read_text(encoding="utf-8"), log, started)
        yield started


@contextlib.contextmanager
def cluster(folder, n_workers=2, *args, **kwargs):
    """A scheduler and workers, alike; the block gets the scheduler file."""
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(scheduler(folder, **kwargs))
        for _ in range(n_workers):
            stack.enter_context(worker(path, *args, **kwargs))
        yield path


def address_in(path):
    return json.loads(path.read_text(encoding="utf-8"))["address"]


@contextlib.contextmanager
def tunnel(address):
    """Another address for what takes connections at one, as of `ssh -L`; gone after the block."""
    host, port = address.removeprefix("tcp://").split(":")
    ends, copying = [], []

    def copy(source, target):
        with contextlib.suppress(OSError):
            while some := source.recv(2**16):
                target.sendall(some)
            target.shutdown(socket.SHUT_WR)

    def serve(door):
        with contextlib.suppress(OSError):  # it was closed
            while True:
                ends.append(door.accept()[0])
                ends.append(socket.create_connection((host, int(port))))
                for pair in (ends[-2:], ends[:-3:-1]):
                    copying.append(threading.Thread(target=copy, args=pair))
                    copying[-1].start()

    with socket.create_server((HOST, 0)) as door:
        serving = threading.Thread(target=serve, args=(door,))
        serving.start()
        yield f"tcp://{HOST}:{door.getsockname()[1]}"
        door.shutdown(socket.SHUT_RDWR)
        serving.join()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in copying:
            thread.join()
        for end in ends:
            end.close()


def until(there, log, started):
    """Wait until it is there; a process that ended instead fails the test with its own words."""
    end = time.monotonic() + SECONDS
    while not there():
        if started.poll() is not None or time.monotonic() > end:
            raise AssertionError(log.read_text(encoding="utf-8"))
        time.sleep(0.05)


def other_software(folder, module=None, **versions):
    """A folder for PYTHONPATH by which a process has other software.

    Args:
        module: the source of `lrh_dask` there.
        versions: of installed packages, as their metadata tell.
    """
    folder.mkdir()
    if module is not None:
        (folder / "lrh_dask").mkdir()
        (folder / "lrh_dask" / "__init__.py").write_text(module)
    for name, version in versions.items():
        told = folder / f"{name}-{version}.dist-info"
        told.mkdir()
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return {"PYTHONPATH": str(folder)}
