"""The Dask graphs of a run: which task reads what, and which waits for which."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from dask._task_spec import DataNode, Task, TaskRef, convert_legacy_graph

from lrh_dask.basis import Outlook, find_basis, outlook
from lrh_dask.blocks import is_dask
from lrh_dask.leaves import basis_leaf, fit_leaf, merge_partials
from lrh_dask.memory import AHEAD_OF_FETCHING
from lrh_dask.pairs import Pairs, slice_in_memory
from lrh_dask.shards import Partition, Run
from lrh_dask.spec import Spec
from lrh_dask.tasks import Short, Solved, solve_buckets, solve_unless_short, solve_whole
from lrh_dask.tree import Partial, ReadStats, producer, tree_reduce

__all__ = ["Stages"]


class Stages:
    """The stages of one run, each a graph that is carried out before the next is made.

    What a stage leaves on the cluster is named by its key and goes into later graphs by it.

    Args:
        client: a Dask client; None carries the stages out in this process.

    Attributes:
        basis: keys of the reduced pairs and of the basis that were found last, if any.
        fitted_over: key of the basis of the last fit; None is all of R^D.
        states: keys of the triangles of each segment of the last fit, where they are kept.
    """

    def __init__(self, pairs: Pairs, client: Any) -> None:
        self._pairs, self._client = pairs, client
        self._name = uuid.uuid4().hex
        self._n_stages = self.n_tasks = 0
        self._kept: dict[str, Any] = {}  # by key: a future, or here in this process the value
        self.basis: tuple[str, str] | None = None
        self.fitted_over: str | None = None
        self.states: tuple[str, ...] = ()
        self._parts: dict[tuple[int, int], Any] = {}

    def find_basis(self, runs: Sequence[Run], spec: Spec, before: tuple[str, str] | None, *,
                   complete: bool, spent: ReadStats) -> tuple[tuple[str, str], Outlook]:
        """Reduce more runs; the keys of all reduced pairs so far and of their basis.

        Args:
            before: those keys of the rounds before; None for the first round.
            complete, spent: see :func:`lrh_dask.basis.find_basis`.
        """
        graph, newest = self._tree("basis", basis_leaf, runs, spec)
        found, seen = self._key("orth"), self._key("outlook")
        reduced, basis = newest, None
        if before is not None:
            reduced, basis = self._key("merge"), TaskRef(before[1])
            graph[reduced] = Task(reduced, merge_partials, TaskRef(before[0]), TaskRef(newest))
        graph[found] = Task(found, find_basis, TaskRef(reduced), TaskRef(newest), basis, spec,
                            complete=complete, spent=spent)
        graph[seen] = Task(seen, outlook, TaskRef(found))
        known: Outlook = self._carry_out(graph, seen, keep=(reduced, found))
        if before is not None:
            self.forget(before)
        self.basis = reduced, found
        return self.basis, known

    def solve(self, split: Partition, spec: Spec, basis: str | None,
              stored: str | None = None) -> Solved | Short:
        """Fit over a basis (its key), or over all of R^D, and solve.

        Args:
            stored: key of the state of pairs that were counted before, over the same basis.
        """
        self.fitted_over = basis
        held = None if basis is None else TaskRef(basis)
        graph, root = self._fit(split, spec, held, stored)
        last = self._key("solve")
        graph[last] = Task(last, solve_buckets, TaskRef(root), held, spec)
        solved: Solved | Short = self._carry_out(graph, last, keep=self.states)
        return solved

    def solve_more(self, split: Partition, spec: Spec, stored: str, basis: str,
                   reduced: str) -> Solved | Short:
        """Count more pairs over a basis that is known, unless they show that it does not do.

        Args:
            stored, basis, reduced: keys of the state, the basis and the reduced pairs of those
                that were counted before.
        """
        self.fitted_over = basis
        graph, root = self._fit(split, spec, TaskRef(basis), stored)
        more, newest = self._tree("basis", basis_leaf, split.runs, spec)
        graph.update(more)
        merged, found, last = self._key("merge"), self._key("orth"), self._key("solve")
        graph[merged] = Task(merged, merge_partials, TaskRef(reduced), TaskRef(newest))
        graph[found] = Task(found, find_basis, TaskRef(merged), TaskRef(newest), TaskRef(basis),
                            spec, complete=False, spent=ReadStats())
        graph[last] = Task(last, solve_unless_short, TaskRef(root), TaskRef(basis), TaskRef(found),
                           TaskRef(newest), spec)
        self.basis = merged, found
        solved: Solved | Short = self._carry_out(graph, last, keep=(*self.states, *self.basis))
        return solved

    def _fit(self, split: Partition, spec: Spec, basis: TaskRef | None,
             stored: str | None) -> tuple[dict[Any, Any], str]:
        """A tree over each segment, and one above these and what is stored; its root."""
        self.forget(self.states)
        graph: dict[Any, Any] = {}
        roots = []
        for runs in split.segments:
            tree, root = self._tree("fit", fit_leaf, runs, spec, basis)
            graph.update(tree)
            roots.append(root)
        merges, whole = tree_reduce([*([stored] if stored else []), *roots], merge_partials,
                                    self._key("merge-segments"))
        graph.update(merges)
        self.states = tuple(roots) if spec.digested else ()
        return graph, whole

    def solve_whole(self, runs: Sequence[Run], spec: Spec) -> Solved:
        """Bring all pairs to one worker and solve there."""
        solved: Solved = self.reduce("basis", basis_leaf, runs, (spec,), solve_whole, spec)
        return solved

    def reduce(self, kind: str, leaf: Callable[..., Partial], runs: Sequence[Run],
               leaf_args: Sequence[Any], solve: Callable[..., Any], *solve_args: Any) -> Any:
        """Leaves over runs, the tree above them, and a last task on what they make together."""
        graph, root = self._tree(kind, leaf, runs, *leaf_args)
        last = self._key("solve")
        graph[last] = Task(last, solve, TaskRef(root), *solve_args)
        return self._carry_out(graph, last)

    def put(self, kind: str, value: Any) -> str:
        """The key under which the cluster now holds a value."""
        self._n_stages += 1
        key = self._key(kind)
        self._kept[key] = value if self._client is None else self._client.scatter(
            {key: value}, hash=False)[key]
        return key

    def fetch(self, key: str) -> Any:
        """What a stage left on the cluster."""
        kept = self._kept[key]
        return kept if self._client is None else kept.result()

    def share(self, value: Any) -> Any:
        """What many tasks are given: on a cluster it travels once a worker, not once a task."""
        return value if self._client is None else self._client.scatter(value, hash=False)

    def each(self, kind: str, leaf: Callable[..., Any], runs: Sequence[Run],
             *extra: Any) -> Iterator[tuple[Run, Any]]:
        """What leaves over runs return, run by run, each as soon as it is there."""
        self._n_stages += 1
        source = self._sources(runs, {})
        by_key = {f"{self._key(kind)}-{run.index}": run for run in runs}
        tasks = {key: producer(key, leaf, source[run.index], run, *extra)
                 for key, run in by_key.items()}
        self.n_tasks += len(tasks)
        if self._client is None:
            from dask.local import get_sync
            from threadpoolctl import threadpool_limits

            for key, run in by_key.items():
                with threadpool_limits(1, user_api="blas"):
                    found = get_sync(tasks, key)
                yield run, found
            return
        from distributed import as_completed

        waiting = iter(tasks.items())
        at_once = AHEAD_OF_FETCHING * sum(self._client.nthreads().values())
        futures = as_completed(self._start(islice(waiting, at_once)))
        for future in futures:
            yield by_key[future.key], future.result()
            future.release()
            futures.update(self._start(islice(waiting, 1)))

    def _start(self, tasks: Iterable[tuple[str, Any]]) -> list[Any]:
        """Futures of tasks that need no others."""
        graph = dict(tasks)
        return self._submit(graph, list(graph)) if graph else []

    def _tree(self, kind: str, leaf: Callable[..., Partial], runs: Sequence[Run],
              *extra: Any) -> tuple[dict[Any, Any], str]:
        """Leaves over runs and the merges above them; the key of the root."""
        self._n_stages += 1
        graph: dict[Any, Any] = {}
        source = self._sources(runs, graph)
        # Runs of one bucket are neighbours in the tree, so that they merge early; the order, and
        # with it the bits, depends on the partition alone.
        keys = []
        for run in sorted(runs, key=lambda run: (run.pieces[0].bucket, run.index)):
            key = f"{self._key(kind)}-{run.index}"
            graph[key] = producer(key, leaf, source[run.index], run, *extra)
            keys.append(key)
        merges, root = tree_reduce(keys, merge_partials, self._key(f"merge-{kind}"))
        graph.update(merges)
        return graph, root

    def _key(self, kind: str) -> str:
        return f"lrh-{self._own(kind)}"

    def _own(self, key: Any) -> Any:
        """A key of this stage for what goes by another one elsewhere."""
        if isinstance(key, tuple):
            return (self._own(key[0]), *key[1:])
        return f"{key}-{self._name}-{self._n_stages}"

    def _carry_out(self, graph: dict[Any, Any], key: str, keep: tuple[str, ...] = ()) -> Any:
        """Compute a graph; the value of one key, while those to keep stay where they are."""
        self.n_tasks += len(graph)
        wanted = [key, *keep]
        if self._client is None:
            from dask.local import get_sync
            from threadpoolctl import threadpool_limits

            graph.update({k: DataNode(k, value) for k, value in self._kept.items()})
            with threadpool_limits(1, user_api="blas"):
                found = get_sync(graph, wanted)
            self._kept.update(zip(keep, found[1:], strict=True))
            return found[0]
        last, *futures = self._submit(graph, wanted)
        try:
            found = last.result()
        finally:
            last.release()
        self._kept.update(zip(keep, futures, strict=True))
        return found

    def _submit(self, graph: dict[Any, Any], keys: list[str]) -> list[Any]:
        """Futures of some keys of a graph."""
        from dask.highlevelgraph import HighLevelGraph

        # Of a plain dict the client would hash every argument of every task: 1 ms a leaf.
        layers = HighLevelGraph.from_collections(keys[0], graph)
        futures: list[Any] = self._client.get(layers, keys, sync=False)
        return futures

    def forget(self, keys: Sequence[str]) -> None:
        """Let the cluster drop what no later stage needs."""
        for key in keys:
            self._kept.pop(key)

    def _sources(self, runs: Sequence[Run], graph: dict[Any, Any]) -> dict[int, Any]:
        """What each run is given to read from: the store's address, or its rows."""
        if is_dask(self._pairs.x):
            return self._dask_blocks(runs, graph)
        spans = {run.index: (run.blocks[0][0], run.blocks[-1][1]) for run in runs}
        missing = [span for span in spans.values() if span not in self._parts]
        parts = [self._pairs.part(*span) for span in missing]
        if parts and self._client is not None and self._pairs.in_memory:
            parts = self._client.scatter(parts, hash=False)
        self._parts.update(zip(missing, parts, strict=True))
        return {index: self._parts[span] for index, span in spans.items()}

    def _dask_blocks(self, runs: Sequence[Run], graph: dict[Any, Any]) -> dict[int, Any]:
        """Blocks of dask arrays, under keys of their own for each stage.

        A second pass computes them again: kept from the first, they would fill the workers.
        """
        pairs = self._pairs
        arrays = [a.rechunk({0: pairs.blocks.rows, 1: -1} if a.ndim == 2 else pairs.blocks.rows)
                  for a in (pairs.x, pairs.y, pairs.weight) if a is not None]
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
            key = f"lrh-block-{uuid.uuid4().hex}"
            graph[key] = Task(key, slice_in_memory, pairs.name, run.blocks[0][0],
                              *(TaskRef(names.get(k, k)) for k in keys[run.index]))
            sources[run.index] = TaskRef(key)
        return sources
