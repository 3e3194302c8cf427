"""Carries graphs out, on a cluster or in this process, and knows what is left there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from lrh_dask.runs.memory import AHEAD_OF_FETCHING
from lrh_dask.runs.task_spec import DataNode
from lrh_dask.runs.tree import Key

__all__ = ["Executor"]


class Executor:
    """Computes graphs; what is to stay where it was computed goes into later graphs by its key.

    Args:
        client: a Dask client; None computes in this process, one task after another.

    Attributes:
        n_tasks: how many were carried out.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._kept: dict[Key, Any] = {}  # by key: a future, or here in this process the value
        self.n_tasks = 0

    def keep(self, key: Key, value: Any) -> None:
        """Have a value under a key."""
        self._kept[key] = self.scatter({key: value})[key]

    def fetch(self, key: Key) -> Any:
        """What is kept under a key."""
        kept = self._kept[key]
        return kept if self._client is None else kept.result()

    def forget(self, keys: Sequence[Key]) -> None:
        """Let the cluster drop what no later graph needs."""
        for key in keys:
            self._kept.pop(key)

    def scatter(self, values: dict[Key, Any]) -> dict[Key, Any]:
        """What stands for values in graphs: it travels once a worker, not once a task."""
        if self._client is None:
            return values
        futures: dict[Key, Any] = self._client.scatter(values, hash=False)
        return futures

    def carry_out(self, stage: str, graph: dict[Any, Any], key: Key,
                  keep: tuple[Key, ...] = ()) -> Any:
        """Compute a graph; the value of one key, while those to keep stay where they are."""
        self.n_tasks += len(graph)
        wanted = [key, *keep]
        if self._client is None:
            graph.update({k: DataNode(k, value) for k, value in self._kept.items()})
            found = _here(graph, wanted)
            self._kept.update(zip(keep, found[1:], strict=True))
            return found[0]
        last, *futures = self._submit(stage, graph, wanted)
        try:
            found = last.result()
        finally:
            last.release()
        self._kept.update(zip(keep, futures, strict=True))
        return found

    def each(self, stage: str, tasks: Mapping[Key, Any]) -> Iterator[tuple[Key, Any]]:
        """Key and value of tasks that need no others, each as soon as it is there."""
        self.n_tasks += len(tasks)
        if self._client is None:
            for key in tasks:
                yield key, _here(tasks, key)
            return
        from distributed import as_completed

        waiting = iter(tasks.items())
        at_once = AHEAD_OF_FETCHING * sum(self._client.nthreads().values())
        futures = as_completed(self._start(stage, islice(waiting, at_once)))
        for future in futures:
            yield future.key, future.result()
            future.release()
            futures.update(self._start(stage, islice(waiting, 1)))

    def _start(self, stage: str, tasks: Iterable[tuple[Key, Any]]) -> list[Any]:
        graph = dict(tasks)
        return self._submit(stage, graph, list(graph)) if graph else []

    def _submit(self, stage: str, graph: dict[Any, Any], keys: list[Key]) -> list[Any]:
        """Futures of some keys of a graph, whose tasks are a span of the run's."""
        from dask.highlevelgraph import HighLevelGraph
        from distributed import span

        with span(stage):  # tasks of one name are in the span that their first one is in
            # Of a plain dict the client would hash every argument of every task: 1 ms a leaf.
            layers = HighLevelGraph.from_collections(str(keys[0][0]), graph)
            futures: list[Any] = self._client.get(layers, keys, sync=False)
        return futures


def _here(graph: Mapping[Any, Any], keys: Any) -> Any:
    from dask.local import get_sync
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        return get_sync(graph, keys)
