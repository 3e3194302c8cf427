"""A cluster of simulated workers, played against Dask's own scheduler on a virtual clock.

The scheduler is ``distributed.Scheduler`` itself, with its state machine, its queue of root
tasks, work stealing and active memory manager, as configured by default; it is never started, so
that it opens no socket. The graph is what :meth:`lrh_dask.graph.Stages.solve` hands to a client.
Workers are simulated: they read what the scheduler sends, fetch what they do not hold, run one
task at a time in order of priority, and report back. Nothing is computed.

What the design predicts (written before anything was measured), for N leaves, W workers of one
thread, a fan-in of F and c = max(ceil(saturation), 1) tasks a worker may have at once:

    depth              ceil(log_F N)
    merges             at least (N - 1) / (F - 1), and by depth more at most: one group a level
                       may be short
    tasks              N + merges + 1 (the solve)
    results moved      at most N - 1: a merge runs where one of its inputs lies, so of its g inputs
                       g - 1 are moved, and over all merges the g - 1 sum to N - 1; at least
                       W - 1, if every worker merged all of its own leaves first
    bytes moved        at most the sum over merges of the bytes of all inputs but the largest,
                       and W - 1 copies of the basis
    live results       at most c W + (F - 1) depth in the cluster: leaves leave the queue in tree
                       order, so only the c W that are out at once are without their siblings,
                       and left of them at most F - 1 results a level wait; with copies in
                       transit at most (2 F - 1) / F times that
    on one worker      at most F depth, and not its N / W leaves
    time               (N leaf + merges merge) / W + depth (merge + transfer) + solve
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import process_time
from typing import Any

import dask
import numpy as np
import zarr
from dask.sizeof import sizeof
from distributed.scheduler import Scheduler

from lrh_dask.asked import Asked
from lrh_dask.budget import Route
from lrh_dask.duplicates import KEPT, RowHashes
from lrh_dask.graph import Stages
from lrh_dask.pairs import Pairs
from lrh_dask.shards import RUN_BYTES, Run, partition
from lrh_dask.spec import Spec
from lrh_dask.tree import FAN_IN, Partial, ReadStats
from lrh_dask.triangle import Triangle

BASIS = "lrh-orth-of-the-stage-before"


@dataclass(frozen=True)
class Seconds:
    """What things take on the virtual clock; leaves by up to ``spread`` of it more or less."""

    leaf: float = 1.5
    spread: float = 0.2
    merge: float = 0.02
    solve: float = 2.0
    message: float = 0.002
    transfer: float = 0.005
    bandwidth: float = 100e6


@dataclass(frozen=True)
class Price:
    """Bytes of a result as Dask counts them, and the triangles in it."""

    n_bytes: int
    n_triangles: int


class _Client:
    """Keeps the graph that it is given."""

    def get(self, graph, wanted, sync):
        assert not sync
        assert len(wanted) == 1
        self.graph = graph
        return [self]

    def result(self):
        return None

    def release(self):
        return None


@dataclass(frozen=True)
class FitGraph:
    """The graph of the fit stage over a fitted basis of k columns, one leaf a chunk of rows.

    Args:
        folder: where a store of that shape, without a chunk in it, is made.
    """

    folder: Path
    n_leaves: int
    n_basis: int = 64
    n_features: int = 1024

    @cached_property
    def submitted(self) -> Any:
        """What the client is given."""
        row_bytes = 8 * self.n_features
        rows = RUN_BYTES // row_bytes
        shape = rows * self.n_leaves, self.n_features
        group = zarr.open_group(self.folder / f"{self.n_leaves}.zarr", mode="w")
        x, y = (group.create_array(name, shape=shape, chunks=(rows, self.n_features), dtype="f4")
                for name in ("x", "y"))
        pairs = Pairs(x, y)
        split = partition(pairs.n_pairs, pairs.chunk_rows, pairs.row_bytes)
        assert len(split.runs) == self.n_leaves
        spec = Spec("simulated", "symmetric", Asked(), Route.fitted_basis, self.n_basis, "cpu",
                    "float32", pairs.n_pairs, watched=False)
        client = _Client()
        Stages(pairs, client).solve(split.runs, spec, BASIS)
        return client.graph

    @cached_property
    def tasks(self) -> dict[str, Any]:
        return dict(self.submitted)

    @cached_property
    def root(self) -> str:
        """The last merge."""
        return next(iter(self.tasks[self.last].dependencies - {BASIS}))

    @cached_property
    def last(self) -> str:
        return next(key for key in self.tasks if key.startswith("lrh-solve"))

    @cached_property
    def merges(self) -> list[str]:
        return [key for key in self.tasks if key.startswith("lrh-merge")]

    @cached_property
    def depth(self) -> int:
        """Merges between a leaf and the solve, counted in the graph."""
        above = dict.fromkeys(self.tasks, 0)
        for key in self.merges:  # made level by level
            above[key] = 1 + max(above[k] for k in self.tasks[key].dependencies)
        return above[self.root]

    @cached_property
    def prices(self) -> dict[str, Price]:
        held = {}  # by key: leaves below it, buckets as bits
        for key, task in self.tasks.items():
            runs = [a for a in task.args if isinstance(a, Run)]
            if runs:
                held[key] = 1, sum(1 << b for b in {p.bucket for r in runs for p in r.pieces})
        for key in self.merges:
            below = [held[k] for k in self.tasks[key].dependencies]
            held[key] = sum(n for n, _ in below), _union(bits for _, bits in below)
        found = {BASIS: Price(200 + 8 * self.n_features * self.n_basis, 0),
                 self.last: Price(8 * self.n_features * self.n_basis, 0)}
        known: dict[tuple[int, int], Price] = {}
        for key, (n_leaves, bits) in held.items():
            kind = round(KEPT / 2 * n_leaves / self.n_leaves), bits.bit_count()
            if kind not in known:
                known[kind] = self._price(*kind)
            found[key] = known[kind]
        return found

    def _price(self, n_hashes: int, n_buckets: int) -> Price:
        columns = 2 * self.n_basis + 1
        sums = np.zeros(self.n_features)
        triangle = Triangle(np.zeros((columns, columns)), sums, sums)
        hashes = np.zeros(n_hashes, dtype=np.uint64)
        partial = Partial(dict.fromkeys(range(n_buckets), triangle),
                          ReadStats(hashes=RowHashes(hashes, hashes)))
        return Price(sizeof(partial), n_buckets)


def _union(bits):
    found = 0
    for b in bits:
        found |= b
    return found


@dataclass(frozen=True)
class Predicted:
    """The formulas above."""

    depth: int
    n_merges: tuple[int, int]
    moved: tuple[int, int]
    moved_triangles: int
    moved_bytes: int
    live: int
    live_with_copies: int
    live_on_one: int
    seconds: float

    @staticmethod
    def of(graph: FitGraph, n_workers: int, saturation: float, seconds: Seconds) -> Predicted:
        n, prices = graph.n_leaves, graph.prices
        depth = next(d for d in range(64) if FAN_IN**d >= n)
        fewest = -(-(n - 1) // (FAN_IN - 1))
        inputs = [[prices[k] for k in graph.tasks[key].dependencies] for key in graph.merges]
        slots = max(math.ceil(saturation), 1)
        live = slots * n_workers + (FAN_IN - 1) * depth
        return Predicted(
            depth, (fewest, fewest + depth), (n_workers - 1, n - 1),
            sum(sum(p.n_triangles for p in group) - max(p.n_triangles for p in group)
                for group in inputs),
            sum(sum(p.n_bytes for p in group) - max(p.n_bytes for p in group)
                for group in inputs) + (n_workers - 1) * prices[BASIS].n_bytes,
            live, live * (2 * FAN_IN - 1) // FAN_IN, FAN_IN * depth,
            (n * seconds.leaf + fewest * seconds.merge) / n_workers
            + depth * (seconds.merge + seconds.transfer) + seconds.solve)


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
        door = _Door(validate=validate)
        try:
            cluster = _Cluster(door, graph, seconds or Seconds(), seed)
            await cluster.run(n_workers)
        finally:
            await door.close()
        return cluster.found

    with dask.config.set(settings):
        return asyncio.run(play())


def pack(graph: Any) -> Any:
    """What ``Client.get`` sends of a graph (private: distributed 2026.7 and 2026.8)."""
    from dask._expr import HLGExpr, LLGExpr
    from distributed.protocol import serialize, to_serialize
    from distributed.protocol.serialize import Serialized

    wrapped = LLGExpr(graph) if isinstance(graph, dict) else HLGExpr(graph)
    return Serialized(*serialize(to_serialize(wrapped), on_error="raise"))


class _Mailbox:
    """What the scheduler takes for its connection to a worker."""

    def __init__(self, address: str, letters: list[tuple[str, dict[str, Any]]]) -> None:
        self._address, self._letters = address, letters

    def send(self, *messages: dict[str, Any]) -> None:
        self._letters.extend((self._address, message) for message in messages)


class _Door:
    """All that is used of the scheduler's insides (private: distributed 2026.7 and 2026.8)."""

    def __init__(self, *, validate: bool) -> None:
        letters: list[tuple[str, dict[str, Any]]] = []

        class Unstarted(Scheduler):
            def start_http_server(self, *_, **__):
                """No socket is opened."""

            async def handle_worker(self, _, worker):
                """No connection is listened to: what is sent lies here until it is read."""
                self.stream_comms[worker] = _Mailbox(worker, letters)

        self._letters = letters
        self.scheduler = Unstarted(validate=validate)
        self.saturation = self.scheduler.WORKER_SATURATION

    async def add_worker(self, address: str, bandwidth: float) -> None:
        class Comm:
            async def write(self, message):
                assert message["status"] == "OK"

        await self.scheduler.add_worker(
            Comm(), address=address, status="running", server_id=address, nthreads=1, name=address,
            resolve_address=False, now=0.0, resources={}, memory_limit=4 * 2**30,
            metrics={"bandwidth": {"total": bandwidth, "workers": {}, "types": {}},
                     "digests_total_since_heartbeat": {}, "memory": 300 * 2**20,
                     "spilled_bytes": {"memory": 0, "disk": 0}},
            services={}, local_directory="", versions={}, nanny="", extra={}, stimulus_id="start")

    def put(self, key: str, address: str, n_bytes: int) -> None:
        """A value that lies on a worker since the stage before, wanted by the driver."""
        self.scheduler.update_data(who_has={key: [address]}, nbytes={key: n_bytes},
                                   client="driver")

    async def submit(self, packed: Any, key: str) -> None:
        await self.scheduler.update_graph(
            client="driver", expr_ser=packed, keys={key}, internal_priority=None,
            submitting_task=None, fifo_timeout="60s", annotations={},
            span_metadata={"collections": [{"type": "low-level-graph"}]})

    def tell(self, op: str, **message: Any) -> None:
        """A message of a worker."""
        self.scheduler.stream_handlers[op](**message)

    @staticmethod
    def finished(address: str, key: str, run_id: int, n_bytes: int, start: float,
                 stop: float) -> dict[str, Any]:
        """The message of a worker that finished a task."""
        return {"op": "task-finished", "worker": address, "key": key, "run_id": run_id,
                "nbytes": n_bytes, "type": b"", "typename": "Partial", "metadata": {},
                "thread": 0, "status": "OK", "stimulus_id": f"task-finished-{stop}",
                "startstops": [{"action": "compute", "start": start, "stop": stop}]}

    @property
    def housekeeping(self) -> list[tuple[float, Callable[[], None]]]:
        """What the scheduler does by the clock: every so many seconds, what."""
        from dask.utils import parse_timedelta

        every = parse_timedelta(dask.config.get("distributed.scheduler.work-stealing-interval"))
        manager = self.scheduler.extensions["amm"]
        return [(every, self.scheduler.extensions["stealing"].balance),
                (manager.interval, manager.run_once)]

    def is_done(self, key: str) -> bool:
        return self.scheduler.tasks[key].state == "memory"

    def letters(self) -> list[tuple[str, dict[str, Any]]]:
        """What was sent to workers since this was last asked."""
        found = list(self._letters)
        self._letters.clear()
        return found

    @staticmethod
    def post(letters: list[tuple[str, dict[str, Any]]]) -> None:
        """Make of every letter the bytes that would go over the network."""
        from distributed.protocol import dumps

        for _, letter in letters:
            dumps(letter)

    async def close(self) -> None:
        await self.scheduler.rpc.close()
        self.scheduler.stream_comms.clear()


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

    def __init__(self, door: _Door, graph: FitGraph, seconds: Seconds, seed: int) -> None:
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
        if key.startswith("lrh-fit"):
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
            elif key.startswith("lrh-merge"):
                duration = cost.merge
            else:
                duration = cost.leaf * (1.0 + cost.spread * self._random.uniform(-1.0, 1.0))
            worker.busy_seconds += duration
            self._at(duration, self._finish, worker, task, self._now)

    def _finish(self, worker: _Worker, task: _Task, started: float) -> None:
        del worker.tasks[task.key]
        worker.running = None
        if task.key.startswith("lrh-fit"):
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
            self._leaves_out -= key.startswith("lrh-fit")
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
