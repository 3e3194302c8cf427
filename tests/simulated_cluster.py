"""A cluster of simulated workers, played against Dask's own scheduler on a virtual clock.

The scheduler is ``distributed.Scheduler`` itself, with its state machine, its queue of root
tasks, work stealing and active memory manager, as configured by default; it is never started, so
that it opens no socket. The graph is what :meth:`lrh_dask.runs.graph.Stages.solve` hands to a
client.
Workers are simulated: they read what the scheduler sends, fetch what they do not hold, run one
task at a time in order of priority, and report back. Nothing is computed.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import process_time
from typing import Any

import dask
from dask.utils import key_split
from fit_graph import BASIS, FitGraph, Seconds
from scheduler_door import Door, pack


@dataclass
class Measured:
    """What was counted while the workers played; the basis counts in bytes alone.

    Attributes:
        moved: results that went from worker to worker; ``moved_triangles`` in them.
        moved_bytes: of these and of copies of the basis.
        live: most results in the cluster at once, copies aside; ``live_with_copies``.
        live_on_one: most results on one worker at once; ``bytes_on_one``, the basis aside.
        leaves_out: most leaves that were with workers and not done.
        n_steals: tasks that work stealing moved.
        n_dropped: copies that the active memory manager dropped.
        seconds: the virtual clock at the end; ``idle``: share of it that workers had no task.
        client_seconds: CPU of the client that packs the graph; ``graph_bytes`` of it.
        submit_seconds: CPU of the scheduler from there to the first tasks sent.
        cpu_seconds: CPU of its answers to messages; ``packing_seconds``: of pickling these;
            ``housekeeping_seconds``: of work stealing and the active memory manager.
    """

    n_tasks: int = 0
    moved: int = 0
    moved_triangles: int = 0
    moved_bytes: int = 0
    live: int = 0
    live_with_copies: int = 0
    live_on_one: int = 0
    bytes_on_one: int = 0
    leaves_out: int = 0
    n_steals: int = 0
    n_dropped: int = 0
    seconds: float = 0.0
    idle: float = 0.0
    client_seconds: float = 0.0
    graph_bytes: int = 0
    submit_seconds: float = 0.0
    cpu_seconds: float = 0.0
    packing_seconds: float = 0.0
    housekeeping_seconds: float = 0.0


def simulate(graph: FitGraph, n_workers: int, *, saturation: float | str = 1.1,
             seconds: Seconds | None = None, seed: int = 0, validate: bool = False) -> Measured:
    """Carry the graph out on workers of one thread each.

    Args:
        saturation: as in ``distributed.scheduler.worker-saturation``.
        validate: let the scheduler check its own state after every message.
    """
    settings = {"distributed.scheduler.worker-saturation": saturation,
                "distributed.scheduler.active-memory-manager.start": False,
                "distributed.admin.large-graph-warning-threshold": "10GB"}

    async def play() -> Measured:
        door = Door(validate=validate)
        try:
            cluster = _Cluster(door, graph, seconds or Seconds(), seed)
            await cluster.run(n_workers)
        finally:
            await door.close()
        return cluster.found

    with dask.config.set(settings):
        return asyncio.run(play())


@dataclass
class _Task:
    key: str
    run_id: int
    priority: tuple
    needs: list[str]
    missing: set[str]
    running: bool = False


@dataclass
class _Worker:
    address: str
    tasks: dict[str, _Task] = field(default_factory=dict)
    ready: list[tuple[tuple, str]] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    coming: set[str] = field(default_factory=set)
    running: _Task | None = None
    n_live: int = 0
    n_bytes: int = 0
    busy_seconds: float = 0.0


class _Cluster:
    """Workers, their network and the clock."""

    def __init__(self, door: Door, graph: FitGraph, seconds: Seconds, seed: int) -> None:
        self._door, self._graph, self._seconds = door, graph, seconds
        self._prices = graph.prices
        self._random = random.Random(seed)
        self._now = 0.0
        self._n_events = 0
        self._events: list[tuple[float, int, Callable[..., None], tuple]] = []
        self._workers: dict[str, _Worker] = {}
        self._copies: Counter[str] = Counter()  # of every live result
        self._n_live = self._leaves_out = 0
        self._done = False
        self.found = Measured(n_tasks=len(graph.tasks))

    async def run(self, n_workers: int) -> None:
        found, door = self.found, self._door
        for i in range(n_workers):
            address = f"tcp://10.0.{i // 250}.{i % 250 + 1}:8000"
            await door.add_worker(address, self._seconds.bandwidth)
            self._workers[address] = _Worker(address)
        first = next(iter(self._workers.values()))
        self._hold(first, BASIS)
        door.put(BASIS, first.address, self._prices[BASIS].n_bytes)
        start = process_time()
        packed = pack(self._graph.submitted)
        found.client_seconds = process_time() - start
        found.graph_bytes = sum(memoryview(frame).nbytes for frame in packed.frames)
        start = process_time()
        await door.submit(packed, self._graph.last)
        found.submit_seconds = process_time() - start
        self._deliver()
        for every, chore in door.housekeeping:
            self._at(every, self._keep_house, every, chore)
        while self._events:
            self._now, _, act, args = heapq.heappop(self._events)
            act(*args)
        assert self._done, "the scheduler has nothing to do, and the solve is not done"
        busy = sum(worker.busy_seconds for worker in self._workers.values())
        found.idle = 1.0 - busy / (n_workers * found.seconds)

    def _at(self, delay: float, act: Callable[..., None], *args: Any) -> None:
        self._n_events += 1
        heapq.heappush(self._events, (self._now + delay, self._n_events, act, args))

    def _keep_house(self, every: float, chore: Callable[[], None]) -> None:
        if self._done:
            return
        start = process_time()
        chore()
        self.found.housekeeping_seconds += process_time() - start
        self._deliver()
        self._at(every, self._keep_house, every, chore)

    def _deliver(self) -> None:
        """Post what the scheduler has to say."""
        letters = self._door.letters()
        start = process_time()
        self._door.post(letters)
        self.found.packing_seconds += process_time() - start
        acts = {"compute-task": self._take, "free-keys": self._free,
                "steal-request": self._give_up, "remove-replicas": self._drop_copies}
        for address, letter in letters:
            self._at(self._seconds.message, acts[letter["op"]], self._workers[address], letter)

    def _take(self, worker: _Worker, letter: dict[str, Any]) -> None:
        """A task to compute: fetch what it needs and is not here."""
        key, needs = letter["key"], list(letter["who_has"])
        task = _Task(key, letter["run_id"], letter["priority"], needs,
                     {k for k in needs if k not in worker.held})
        worker.tasks[key] = task
        if key_split(key) == "lrh-fit":
            self._leaves_out += 1
            self.found.leaves_out = max(self.found.leaves_out, self._leaves_out)
        for needed in task.missing - worker.coming:
            worker.coming.add(needed)
            self._at(self._seconds.transfer
                     + self._prices[needed].n_bytes / self._seconds.bandwidth,
                     self._arrive, worker, needed)
        if not task.missing:
            heapq.heappush(worker.ready, (task.priority, key))
            self._start(worker)

    def _arrive(self, worker: _Worker, key: str) -> None:
        price = self._prices[key]
        worker.coming.discard(key)
        self.found.moved_bytes += price.n_bytes
        if key != BASIS:
            self.found.moved += 1
            self.found.moved_triangles += price.n_triangles
        waiting = [task for task in worker.tasks.values() if key in task.missing]
        if not waiting:  # the task that wanted it was stolen
            return
        self._hold(worker, key)
        self._report("add-keys", worker=worker.address, keys=[key],
                     stimulus_id=f"gathered-{self._now}")
        for task in waiting:
            task.missing.discard(key)
            if not task.missing:
                heapq.heappush(worker.ready, (task.priority, task.key))
        self._start(worker)

    def _start(self, worker: _Worker) -> None:
        """The next task, where the one thread is free."""
        while worker.running is None and worker.ready:
            _, key = heapq.heappop(worker.ready)
            if key not in worker.tasks:  # stolen
                continue
            task = worker.running = worker.tasks[key]
            cost = self._seconds
            if key == self._graph.last:
                duration = cost.solve
            elif key_split(key) == "lrh-merge":
                duration = cost.merge
            else:
                duration = cost.leaf * (1.0 + cost.spread * self._random.uniform(-1.0, 1.0))
            worker.busy_seconds += duration
            self._at(duration, self._finish, worker, task, self._now)

    def _finish(self, worker: _Worker, task: _Task, started: float) -> None:
        del worker.tasks[task.key]
        worker.running = None
        if key_split(task.key) == "lrh-fit":
            self._leaves_out -= 1
        self._hold(worker, task.key)
        self._report(**self._door.finished(worker.address, task.key, task.run_id,
                                           self._prices[task.key].n_bytes, started, self._now))
        self._start(worker)

    def _free(self, worker: _Worker, letter: dict[str, Any]) -> None:
        for key in letter["keys"]:
            assert key not in worker.tasks, "nothing is cancelled in these runs"
            self._let_go(worker, key)

    def _drop_copies(self, worker: _Worker, letter: dict[str, Any]) -> None:
        """The active memory manager's wish; refused where a task here needs the copy."""
        for key in letter["keys"]:
            if any(key in task.needs for task in worker.tasks.values()):
                self._report("add-keys", worker=worker.address, keys=[key],
                             stimulus_id=f"refused-{self._now}")
            elif key in worker.held:
                self.found.n_dropped += 1
                self._let_go(worker, key)

    def _give_up(self, worker: _Worker, letter: dict[str, Any]) -> None:
        """Work stealing: given up where it does not run yet."""
        key = letter["key"]
        task = worker.tasks.get(key)
        if task is None:
            state = "memory" if key in worker.held else None
        elif task is worker.running:
            state = "executing"
        else:
            state = "waiting" if task.missing else "ready"
            del worker.tasks[key]
            self._leaves_out -= key_split(key) == "lrh-fit"
            self.found.n_steals += 1
        self._report("steal-response", worker=worker.address, key=key, state=state,
                     stimulus_id=letter["stimulus_id"])

    def _hold(self, worker: _Worker, key: str) -> None:
        assert key not in worker.held
        worker.held.add(key)
        if key == BASIS:
            return
        found = self.found
        worker.n_live += 1
        worker.n_bytes += self._prices[key].n_bytes
        self._copies[key] += 1
        self._n_live += 1
        found.live = max(found.live, len(self._copies))
        found.live_with_copies = max(found.live_with_copies, self._n_live)
        found.live_on_one = max(found.live_on_one, worker.n_live)
        found.bytes_on_one = max(found.bytes_on_one, worker.n_bytes)

    def _let_go(self, worker: _Worker, key: str) -> None:
        if key not in worker.held:
            return
        worker.held.remove(key)
        if key == BASIS:
            return
        worker.n_live -= 1
        worker.n_bytes -= self._prices[key].n_bytes
        self._n_live -= 1
        self._copies[key] -= 1
        if not self._copies[key]:
            del self._copies[key]

    def _report(self, op: str, **message: Any) -> None:
        """Tell the scheduler, a message's time from now."""
        self._at(self._seconds.message, self._tell, op, message)

    def _tell(self, op: str, message: dict[str, Any]) -> None:
        start = process_time()
        self._door.tell(op, **message)
        self.found.cpu_seconds += process_time() - start
        self._deliver()
        if not self._done and message.get("key") == self._graph.last \
                and self._door.is_done(self._graph.last):
            self._done = True
            self.found.seconds = self._now
