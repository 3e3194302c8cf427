"""The one place that uses the insides of Dask's scheduler (private; as of 2026.8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask
from distributed.scheduler import Scheduler


def pack(graph: Any) -> Any:
    """What ``Client.get`` sends of a graph."""
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


class Door:
    """All that is used of the scheduler's insides."""

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
