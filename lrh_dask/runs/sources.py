"""What each run of shards is given to read from: the store's address, or its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakMethod

from lrh_dask.runs.executor import Executor
from lrh_dask.runs.shards import RunOfShards
from lrh_dask.runs.task_spec import Task, TaskRef, convert_legacy_graph
from lrh_dask.runs.tree import Key
from lrh_dask.stores.blocks import is_dask
from lrh_dask.stores.pairs import Pairs, slice_in_memory

__all__ = ["Sources"]


class Sources:
    """Makes what tasks read from, and what is in memory travel once.

    Args:
        own: method that makes a key of the stage that asks out of one that others use, too. Its
            object has this one: they must not keep each other, and what is on the cluster, alive.
    """

    def __init__(self, pairs: Pairs, executor: Executor, own: Callable[[Any], Any]) -> None:
        self._pairs, self._executor, self._owner = pairs, executor, WeakMethod(own)
        self._parts: dict[tuple[int, int], Any] = {}

    def of(self, runs: Sequence[RunOfShards], graph: dict[Any, Any]) -> dict[int, Any]:
        """By the index of each run; tasks that it needs are put into the graph."""
        if is_dask(self._pairs.x):
            return self._dask_blocks(runs, graph)
        spans = {run.index: (run.blocks[0][0], run.blocks[-1][1]) for run in runs}
        missing = [span for span in spans.values() if span not in self._parts]
        parts = {self._rows(*span): self._pairs.part(*span) for span in missing}
        if parts and self._pairs.in_memory:
            parts = self._executor.scatter(parts)
        self._parts.update(zip(missing, parts.values(), strict=True))
        return {index: self._parts[span] for index, span in spans.items()}

    def _dask_blocks(self, runs: Sequence[RunOfShards], graph: dict[Any, Any]) -> dict[int, Any]:
        """Blocks of dask arrays, under keys of their own for each stage.

        A second pass computes them again: kept from the first, they would fill the workers.
        """
        pairs = self._pairs
        arrays = [a.rechunk({0: pairs.blocks.rows, 1: -1} if a.ndim == 2 else pairs.blocks.rows)
                  for a in pairs.arrays.values()]
        keys = {run.index: [(a.name, run.blocks[0][0] // pairs.blocks.rows, *[0] * (a.ndim - 1))
                            for a in arrays] for run in runs}
        nodes: dict[Any, Any] = {}
        for array, wanted in zip(arrays, zip(*keys.values(), strict=True), strict=True):
            nodes.update(array.__dask_graph__().cull(set(wanted)).to_dict())
        nodes = convert_legacy_graph(nodes)  # without what is on the cluster under its own key
        names = {key: self._own(key) for key in nodes}
        graph.update({name: nodes[key].substitute(names, key=name) for key, name in names.items()})
        sources = {}
        for run in runs:
            key = self._rows(run.index)
            graph[key] = Task(key, slice_in_memory, pairs.name, run.blocks[0][0],
                              *(TaskRef(names.get(k, k)) for k in keys[run.index]),
                              bad_rows=pairs.bad_rows)
            sources[run.index] = TaskRef(key)
        return sources

    def _own(self, key: Any) -> Any:
        own = self._owner()
        assert own is not None
        return own(key)

    def _rows(self, *which: int) -> Key:
        return self._own("lrh-rows"), *which
