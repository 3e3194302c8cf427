"""Many small jobs, one after another, on one cluster of separate processes that stays.

What each process holds is looked at from outside: memory, open files, threads, files in its
folders; and what the scheduler and its workers still know of jobs that are over.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr
from cluster_processes import scheduler, worker
from dask.utils import key_split
from distributed import Client

import lrh_dask
from lrh_dask.nights.every_night import nightly
from lrh_dask.stores.synthetic import Known, write_known

MIB = 2**20
N_WORKERS = 2
NIGHTS_A_FOLDER = 10
"""After so many nights another folder begins: the list of runs is to grow no further."""
SHORT_LOGS = {"DASK_DISTRIBUTED__ADMIN__LOG_LENGTH": "1000",
              "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "100",
              "DASK_DISTRIBUTED__SCHEDULER__DASHBOARD__TASKS__TASK_STREAM_LENGTH": "1000"}
"""Dask keeps so many lines of what it did (10,000), so many seconds of its profile (1,000, of which
`lrh` gives the workers that it starts 100, too), and so many tasks on its dashboard (100,000, of
2 KiB each): these fill up soon."""
SETTLES = 10.0
ALLOWED_BYTES = 1024
"""By which a job may make a process grow, beside Dask's own notes: what an allocator scatters."""


@dataclass(frozen=True)
class Sample:
    """What is there after so many jobs: of each process, and of the cluster in all.

    Attributes:
        memory: resident bytes by process; ``files``: open ones; ``threads``.
        children: processes under those of the cluster, and under this one.
        leftovers: files in the folders for temporary files.
        tasks: that the scheduler knows; ``keys``: that workers hold; ``clients``: of the scheduler.
        notes: bytes, by process, of Dask's own notes of jobs, which it never drops: those of the
            scheduler of spans with their groups of tasks, and of what clients did; those of a
            worker of how long it took for each span.
    """

    jobs: int
    seconds: float
    memory: dict[str, int]
    files: dict[str, int]
    threads: dict[str, int]
    children: int
    leftovers: int
    tasks: int
    keys: int
    clients: int
    notes: dict[str, int]


@dataclass(frozen=True)
class Slope:
    """Growth of a series by job, with its standard error, over the second half of it."""

    by_job: float
    error: float

    @staticmethod
    def of(jobs: list[int], values: list[float]) -> Slope:
        """Least squares; what follows itself from sample to sample counts as fewer samples."""
        half = len(jobs) // 2
        x, y = np.asarray(jobs[half:], float), np.asarray(values[half:], float)
        x = x - x.mean()
        slope = float(x @ y / (x @ x))
        rest = y - y.mean() - slope * x
        variance = float(rest @ rest) / max(len(x) - 2, 1)
        follows = float(rest[1:] @ rest[:-1] / max(rest @ rest, 1e-300))
        follows = min(max(follows, 0.0), 0.95)
        return Slope(slope, (variance / float(x @ x) * (1 + follows) / (1 - follows)) ** 0.5)


def slopes(samples: Sequence[Sample]) -> dict[str, Slope]:
    """Growth of the memory of each process, in bytes a job, without Dask's notes in it."""
    return {name: Slope.of([s.jobs for s in samples], [
        s.memory[name] - s.notes.get(name, 0) for s in samples])
        for name in samples[0].memory}


def leaks(samples: Sequence[Sample]) -> list[str]:
    """What is more at the end than it was half way, in words; nothing where all is well."""
    half, last = samples[len(samples) // 2:-1] or samples[:1], samples[-1]
    found = [f"memory of {name} by {slope.by_job / 1024:.1f} ± {slope.error / 1024:.1f} KiB a job"
             for name, slope in slopes(samples).items()
             if slope.by_job - 3 * slope.error > ALLOWED_BYTES]
    for what in ("files", "threads"):
        found += [f"{what} of {name}: {now}" for name, now in getattr(last, what).items()
                  if now > max(getattr(s, what)[name] for s in half) + 1]
    found += [f"{what}: {getattr(last, what)}" for what in ("children", "leftovers", "clients")
              if getattr(last, what) > max(getattr(s, what) for s in half)]
    found += [f"{what} left: {getattr(last, what)}" for what in ("tasks", "keys")
              if getattr(last, what)]
    return found


def endure(n_jobs: int, *, every: int, say: Callable[[Sample], None]) -> list[Sample]:
    """Carry out jobs, looking at everything after each so many of them."""
    with tempfile.TemporaryDirectory(prefix="endurance-") as name:
        folder = Path(name)
        temporary = folder / "tmp"
        temporary.mkdir()
        env = {"TMPDIR": str(temporary), "PYTHONPATH": str(Path(__file__).parent), **SHORT_LOGS}
        with _cluster(folder, env) as (path, processes), _tmpdir(temporary), Client(
                scheduler_file=str(path), set_as_default=True) as client:
            began, samples = time.monotonic(), []
            for n, job in enumerate(islice(_jobs(folder, path), n_jobs), 1):
                job()
                if n % every == 0 or n == n_jobs:
                    samples.append(_sample(n, began, client, processes, folder))
                    say(samples[-1])
        return samples


@contextlib.contextmanager
def _cluster(folder: Path, env: dict[str, str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(scheduler(folder, env=env))
        started = [stack.enter_context(worker(
            path, "--local-directory", folder / "local", env=env)) for _ in range(N_WORKERS)]
        address = next(p for p in psutil.Process().children() if str(path) in p.cmdline()
                       and "scheduler" in p.cmdline())
        found = {"client": psutil.Process(), "scheduler": address}
        for i, nanny in enumerate(started):
            found[f"nanny {i}"] = psutil.Process(nanny.pid)
            found[f"worker {i}"] = max(psutil.Process(nanny.pid).children(recursive=True),
                                       key=lambda p: p.memory_info().rss)
        yield path, found


@contextlib.contextmanager
def _tmpdir(folder: Path) -> Iterator[None]:
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _jobs(folder: Path, path: Path) -> Iterator[Callable[[], object]]:
    """Fits by all routes in turn, some that keep states, and every twentieth a night."""
    stores = {
        "small": write_known(folder / "small.zarr", 400, Known.indefinite(16, 4)),
        "tall": write_known(folder / "tall.zarr", 3000, Known.indefinite(48, 4),
                            chunks=(200, 48)),
        "wide": write_known(folder / "wide.zarr", 40, Known.indefinite(1200, 4)),
        "exact": write_known(folder / "exact.zarr", 60, Known.indefinite(80, 4), noise=0.0,
                             dtype="float64")}
    zarr.open_group(stores["tall"]).create_array("weight", data=np.arange(3000) % 3.0,
                                                 chunks=(200,))

    def fitted(store: str, **asked: Any) -> Callable[[], object]:
        return lambda: lrh_dask.fit(lrh_dask.open_pairs(stores[store]), **asked)

    def keeping() -> None:
        states = folder / "states"
        lrh_dask.fit(lrh_dask.open_pairs(stores["tall"]), states=states)
        shutil.rmtree(states)

    nights = _nights(folder, path)
    small = fitted("small")
    fits = [small, fitted("tall", basis=8), fitted("wide"), small, fitted("exact", method="seed"),
            keeping, fitted("tall", rank=3), fitted("exact"),
            fitted("tall", basis=8, weighting="step")]
    return cycle([*fits, small, *fits, lambda: next(nights)])


def _nights(folder: Path, path: Path) -> Iterator[None]:
    """Nights of a store that grows; another one begins when it has grown for some nights."""
    rng = np.random.default_rng(0)
    for n in range(10**9):
        home = folder / "nights"
        if n % NIGHTS_A_FOLDER == 0:
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            (home / "night.yaml").write_text(
                f"store: {home}/pairs.zarr\nruns: {home}/runs\nbasis: 6\n"
                f"cluster: {{kind: scheduler_file, scheduler_file: {path}}}\n", encoding="utf-8")
        x = rng.standard_normal((200, 12))
        lrh_dask.append_pairs(home / "pairs.zarr", x, x * np.arange(12))
        nightly(home / "night.yaml")
        yield


def _sample(n: int, began: float, client: Client, processes: dict[str, Any],
            folder: Path) -> Sample:
    _forget()
    end = time.monotonic() + SETTLES
    while True:
        tasks, clients, noted = client.run_on_scheduler(_of_scheduler)
        workers = {pid: rest for pid, *rest in client.run(_of_worker).values()}
        keys = sum(n_keys for n_keys, _ in workers.values())
        if not tasks + keys or time.monotonic() > end:
            break
        time.sleep(0.05)
    told = {name: _told(p) for name, p in processes.items()}
    return Sample(
        n, time.monotonic() - began, *({name: told[name][i] for name in told} for i in range(3)),
        children=len(psutil.Process().children(recursive=True)),
        leftovers=sum(len(files) for root in ("tmp", "local")
                      for _, _, files in os.walk(folder / root)),
        tasks=tasks, keys=keys, clients=clients,
        notes={"scheduler": noted} | {name: workers[p.pid][1] for name, p in processes.items()
                                      if p.pid in workers})


def _told(process: Any) -> tuple[int, int, int]:
    with process.oneshot():
        return process.memory_info().rss, process.num_fds(), process.num_threads()


def _of_scheduler(dask_scheduler: Any) -> tuple[int, int, int]:
    _forget()
    spans, topics = dask_scheduler.extensions["spans"], dask_scheduler._broker._topics
    return (len(dask_scheduler.tasks), len(dask_scheduler.clients), n_bytes_of(
        spans.spans, spans.spans_search_by_tag, spans.spans_search_by_name, topics,
        dask_scheduler.task_prefixes))


NOTED = {"Span", "TaskGroup", "TaskPrefix", "Topic", "WeakSet"}


def n_bytes_of(*roots: Any) -> int:
    """Bytes of objects and of all that is in them: containers, text, numbers, notes of Dask."""
    seen: set[int] = set()
    waiting, total = list(roots), 0
    while waiting:
        item = waiting.pop()
        kind = type(item)
        if id(item) in seen or not (
                kind.__module__ in {"builtins", "collections"} or kind.__name__ in NOTED) or (
                    isinstance(item, (type, type(sys), type(len), type(n_bytes_of)))):
            continue
        seen.add(id(item))
        total += sys.getsizeof(item)
        waiting += gc.get_referents(item)
    return total


def _of_worker(dask_worker: Any) -> tuple[int, int, int]:
    _forget()
    return os.getpid(), len(dask_worker.data), n_bytes_of(
        dask_worker.digests_total, dask_worker.digests_max)


def _forget() -> None:
    """Bokeh's documents are cycles, which wait for Python's look; Dask caches 100,000 names."""
    key_split.cache_clear()
    gc.collect()
