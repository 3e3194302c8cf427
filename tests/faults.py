"""A cluster that dies piece by piece and is mended, and the drivers that go on through it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import zarr
from cluster_processes import DASK, HOST, address_in, fresh_environment, until
from distributed import Client

from lrh_dask import append_pairs
from lrh_dask.stores.results import load_result

HERE = Path(__file__).parent
N_WORKERS, SECONDS = 3, 150
N, D, CHUNK_ROWS = 4000, 24, 100


def pairs(seed, n):
    """Pairs of one Hessian, with noise."""
    u = np.linalg.qr(np.random.default_rng(0).standard_normal((D, 3)))[0]
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, D))
    return x, x @ (u * [3.0, -2.0, 1.0]) @ u.T + 0.1 * rng.standard_normal((n, D))


def write_store(path, kind):
    """``ours``: with a manifest and checksums, the last chunk part-filled; else of others."""
    x, y = pairs(1, N + 30)
    if kind == "ours":
        append_pairs(path, x, y, chunk_rows=CHUNK_ROWS)
        return
    group = zarr.open_group(path, mode="w")
    for name, rows in (("x", x), ("y", y)):
        group.create_array(name, data=rows, chunks=(CHUNK_ROWS, D),
                           **({} if kind == "compressed" else {"compressors": None}))


class Cluster:
    """A scheduler and workers with nannies, as processes; :meth:`mend` starts what died."""

    def __init__(self, folder, **env):
        self.folder, self.schedule = folder, folder / "faults.json"
        self.env = {**fresh_environment(), "LRH_FAULTS": str(self.schedule),
                    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s", **env}
        self._scheduler, self._nannies, self._n_started = None, [], 0
        self.local = folder / "local"

    @property
    def file(self):
        return self.folder / "scheduler.json"

    def mend(self):
        """Have a scheduler and all workers, be they those that were there."""
        time.sleep(0.3)  # who kills all is the last to go
        if self._scheduler is None or self._scheduler.poll() is not None:
            for nanny in self._nannies:
                _end(nanny)
            self._nannies = []
            self.file.unlink(missing_ok=True)
            self._scheduler, log = self._started(
                "scheduler", "--host", HOST, "--port", "0", "--dashboard-address", f"{HOST}:0",
                "--scheduler-file", self.file)
            until(self.file.exists, log, self._scheduler)
        self._nannies = [nanny for nanny in self._nannies if nanny.poll() is None]
        while len(self._nannies) < N_WORKERS:
            nanny, _ = self._started(
                "worker", "--scheduler-file", self.file, "--host", HOST, "--nthreads", "1",
                "--nanny", "--dashboard-address", f"{HOST}:0", "--memory-limit", "600MiB",
                "--local-directory", self.local)
            self._nannies.append(nanny)
        with Client(address_in(self.file)) as client:
            client.wait_for_workers(N_WORKERS, timeout=60)

    def _started(self, what, *args):
        self._n_started += 1
        log = self.folder / f"{what}-{self._n_started}.log"
        with log.open("wb") as out:
            return subprocess.Popen(
                [str(DASK), what, *map(str, args), "--preload", str(HERE / "fault_preload.py")],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.env,
                start_new_session=True), log

    @property
    def scheduler(self):
        return self._scheduler.pid

    @property
    def nannies(self):
        return [nanny.pid for nanny in self._nannies]

    @property
    def workers(self):
        """Process ids of workers, which their nannies start again."""
        return [child.pid for nanny in self.nannies for child in psutil.Process(nanny).children()
                if "spawn_main" in " ".join(child.cmdline())]

    def logged(self, what):
        """Whether some process of it has written this down."""
        return any(what in log.read_text(errors="replace") for log in self.folder.glob("*.log"))

    def close(self):
        for process in (*self._nannies, self._scheduler):
            if process is not None:
                _end(process)


def _end(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait(20)


class Job:
    """``lrh run --resume`` or ``lrh nightly`` of a store, again and again."""

    def __init__(self, cluster, store, folder, mode):
        self.cluster, self.store, self.folder, self.mode = cluster, store, folder, mode
        self.runs = folder / "runs"
        folder.mkdir(exist_ok=True)
        self.command = ["run", store, "--basis", "6", "--resume", "--out",
                        folder / "a-hessian.zarr", "--json"]
        if mode == "nightly":
            settings = folder / "night.yaml"
            settings.write_text(json.dumps(
                {"store": str(store), "runs": str(self.runs), "basis": 6}))
            self.command = ["nightly", settings, "--json"]

    def start(self, *, dies_at=None):
        command = [sys.executable, "-m", "lrh_dask"] if dies_at is None else [
            sys.executable, HERE / "dying_driver.py", self.folder, dies_at]
        return subprocess.Popen(
            [*map(str, command), *map(str, self.command), "--scheduler", str(self.cluster.file)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=self.cluster.env, start_new_session=True)

    def ended(self, driver):
        """Exit code and what it said."""
        out, err = driver.communicate(timeout=SECONDS)
        return driver.returncode, out + err

    def carry_out(self, faults=(), **how):
        """Run with faults, each of which may be of the driver; exit code and what it said.

        A fault that did not come, as all was done before, would show nothing.
        """
        log = self.cluster.schedule.with_suffix(".done")
        log.unlink(missing_ok=True)
        driver = self.start(**how)
        due = json.dumps([fault(driver.pid) for fault in faults])
        aside = self.cluster.schedule.with_suffix(".tmp")
        aside.write_text(due)
        os.utime(aside, ns=(time.time_ns(), time.time_ns()))
        aside.rename(self.cluster.schedule)
        try:
            code, said = self.ended(driver)
        finally:
            self.cluster.schedule.unlink(missing_ok=True)
        came = log.read_text().splitlines() if log.exists() else []
        assert len(came) == len(faults), (came, due, said)
        return code, said

    def published(self):
        """Bits of what is published, result by result; what cannot be read fails."""
        found = ([self.folder / "a-hessian.zarr"] if self.mode == "run" else
                 sorted(path.parent / "result.zarr" for path in self.runs.glob(
                     "[!.]*/run.json") if not path.parent.is_symlink()))
        return [bits(load_result(path)) for path in found if path.exists()]


def bits(hessian):
    """All numbers of a result, as bytes, and what it says of them."""
    return (hessian.n_pairs, hessian.eigenvalues.tobytes(), hessian.eigenvectors.tobytes(),
            hessian.standard_errors.tobytes(), str(hessian.certificates),
            hessian.provenance["fingerprint"])


