"""The Dask graphs of a run: which task reads what, and which waits for which."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from lrh_dask.runs import progress
from lrh_dask.runs.basis import Outlook, find_basis, outlook
from lrh_dask.runs.executor import Executor
from lrh_dask.runs.kept import Kept, kept_leaf
from lrh_dask.runs.leaves import (
    basis_leaf,
    fit_leaf,
    merge_partials,
    night_leaf,
    reduced_of,
    triangles_of,
)
from lrh_dask.runs.shards import Partition, RunOfShards
from lrh_dask.runs.sources import Sources
from lrh_dask.runs.spec import Spec
from lrh_dask.runs.task_spec import Task, TaskRef
from lrh_dask.runs.tasks import (
    Short,
    Solved,
    solve_buckets,
    solve_stored,
    solve_whole,
    unjudged,
    unless_short,
)
from lrh_dask.runs.tree import Key, Partial, ReadStats, producer, tree_reduce
from lrh_dask.stores.pairs import Pairs

__all__ = ["Stages"]

N_PAIRS = attrgetter("n_pairs")


class Stages:
    """The stages of one run, each a graph that is carried out before the next is made.

    What a stage leaves on the cluster is named by its key and goes into later graphs by it.
    Dask's dashboard knows tasks by the first words of their keys: ``lrh-basis``, ``lrh-fit``,
    ``lrh-merge``, ``lrh-solve``; and stages as spans within that of the run.

    Args:
        client: a Dask client; None carries the stages out in this process.
        run_id: of the run that they are of; whoever watches it is told how far they are.
        kept: where states of runs of shards are kept, if they are.

    Attributes:
        basis: keys of the reduced pairs and of the basis that were found last, if any.
        unjudged: key of the held-out pairs that wait for more to judge a stored basis, if any.
        fitted_over: key of the basis of the last fit; None is all of R^D.
        states: keys of the triangles of each segment of the last fit, where they are kept.
    """

    def __init__(self, pairs: Pairs, client: Any, run_id: str, kept: Kept | None = None) -> None:
        self._executor, self._run_id, self._kept = Executor(client), run_id, kept
        self._sources = Sources(pairs, self._executor, self._own)
        self._name = f"{run_id}-{uuid.uuid4().hex[:8]}"
        self._n_stages = 0
        self._n_passes: Counter[str] = Counter()
        self._finding = ""  # the pass that finds the basis
        self.basis: tuple[Key, Key] | None = None
        self.unjudged: Key | None = None
        self.fitted_over: Key | None = None
        self.states: tuple[Key, ...] = ()

    @property
    def n_tasks(self) -> int:
        """How many tasks were carried out."""
        return self._executor.n_tasks

    def find_basis(self, runs: Sequence[RunOfShards], spec: Spec, before: tuple[Key, Key] | None, *,
                   complete: bool, spent: ReadStats) -> tuple[tuple[Key, Key], Outlook]:
        """Reduce more runs; the keys of all reduced pairs so far and of their basis.

        Args:
            before: those keys of the rounds before; None for the first round.
            complete, spent: see :func:`lrh_dask.runs.basis.find_basis`.
        """
        if before is None:
            self._finding = self._begin("basis", spec.n_pairs)
        spec = replace(spec, stage=self._finding)
        graph, newest = self._tree("basis", basis_leaf, runs, spec)
        found, seen = self._key("orth"), self._key("orth", "outlook")
        reduced, basis = newest, None
        if before is not None:
            reduced, basis = self._key("merge", "rounds"), TaskRef(before[1])
            graph[reduced] = Task(reduced, merge_partials, TaskRef(before[0]), TaskRef(newest))
        graph[found] = Task(found, find_basis, TaskRef(reduced), TaskRef(newest), basis, spec,
                            complete=complete, spent=spent)
        graph[seen] = Task(seen, outlook, TaskRef(found))
        known: Outlook = self._executor.carry_out("basis", graph, seen, keep=(reduced, found))
        self._end(self._finding, runs)
        if before is not None:
            self.forget(before)
        self.basis = reduced, found
        return self.basis, known

    def solve(self, split: Partition, spec: Spec, basis: Key | None,
              stored: Key | None = None) -> Solved | Short:
        """Fit over a basis (its key), or over all of R^D, and solve.

        Args:
            stored: key of the state of pairs that were counted before, over the same basis.
        """
        self.fitted_over = basis
        held = None if basis is None else TaskRef(basis)
        stage = self._begin("fit", split.n_pairs)
        graph, root = self._fit(split, replace(spec, stage=stage), held, stored)
        last = self._key("solve")
        graph[last] = Task(last, solve_buckets, TaskRef(root), held, spec)
        solved: Solved | Short = self._executor.carry_out("fit", graph, last, keep=self.states)
        self._end(stage, split.runs)
        return solved

    def solve_more(self, split: Partition, spec: Spec, share: float, stored: Key | None,
                   basis: Key, reduced: Key, waiting: Key) -> Solved | Short:
        """Count more pairs over a basis that is known, unless they show that it does not do.

        Args:
            share: of these pairs, so many tell whether it does.
            stored, basis, reduced, waiting: keys of the state (if there is one), the basis, the
                reduced pairs and the unjudged ones of those that were counted before.
        """
        self.fitted_over = basis
        stage = self._begin("fit", split.n_pairs)
        graph, roots = self._trees(night_leaf, split, replace(spec, stage=stage), TaskRef(basis),
                                   share)
        self.states = tuple(self._picked(graph, triangles_of, roots))
        whole = self._united(graph, [*([] if stored is None else [stored]), *self.states])
        newest = self._united(graph, self._picked(graph, reduced_of, roots))
        merged, found = self._key("merge", "rounds"), self._key("orth")
        since, few = self._key("merge", "since"), self._key("merge", "unjudged")
        solving, last = self._key("solve"), self._key("solve", "unless-short")
        graph[merged] = Task(merged, merge_partials, TaskRef(reduced), TaskRef(newest))
        graph[since] = Task(since, merge_partials, TaskRef(waiting), TaskRef(newest))
        graph[few] = Task(few, unjudged, TaskRef(since))
        graph[found] = Task(found, find_basis, TaskRef(merged), TaskRef(since), TaskRef(basis),
                            spec, complete=False, spent=ReadStats())
        graph[solving] = Task(solving, solve_stored, TaskRef(whole), TaskRef(basis), spec)
        graph[last] = Task(last, unless_short, TaskRef(solving), TaskRef(basis), TaskRef(found),
                           TaskRef(since), spec.n_pairs)
        self.basis, self.unjudged = (merged, found), few
        solved: Solved | Short = self._executor.carry_out("fit", graph, last,
                                                 keep=(*self.states, *self.basis, few))
        self._end(stage, split.runs)
        return solved

    def _fit(self, split: Partition, spec: Spec, basis: TaskRef | None,
             stored: Key | None) -> tuple[dict[Any, Any], Key]:
        """A tree over each segment, and one above these and what is stored; its root."""
        graph, roots = self._trees(fit_leaf, split, spec, basis)
        self.states = tuple(roots) if spec.digested else ()
        return graph, self._united(graph, [*([] if stored is None else [stored]), *roots])

    def _trees(self, leaf: Callable[..., Partial], split: Partition, spec: Spec,
               *extra: Any) -> tuple[dict[Any, Any], list[Key]]:
        """A tree over each segment; their roots."""
        self.forget(self.states)
        graph: dict[Any, Any] = {}
        roots = []
        for runs in split.segments:
            tree, root = self._tree("fit", leaf, runs, spec, *extra)
            graph.update(tree)
            roots.append(root)
        return graph, roots

    def _picked(self, graph: dict[Any, Any], part: Callable[[Partial], Partial],
                keys: Sequence[Key]) -> list[Key]:
        """Some of the states of partial states; the keys of these."""
        picked = {self._key("merge", part.__name__, i): key for i, key in enumerate(keys)}
        graph.update({mine: Task(mine, part, TaskRef(key)) for mine, key in picked.items()})
        return list(picked)

    def _united(self, graph: dict[Any, Any], keys: list[Key]) -> Key:
        """The root of a tree above partial states."""
        self._n_stages += 1
        merges, root = tree_reduce(keys, merge_partials, self._key("merge", "segments"))
        graph.update(merges)
        return root

    def solve_whole(self, runs: Sequence[RunOfShards], spec: Spec) -> Solved:
        """Bring all pairs to one worker and solve there."""
        solved: Solved = self.reduce("basis", basis_leaf, runs, (replace(spec, stage="basis"),),
                                     solve_whole, spec)
        return solved

    def reduce(self, kind: str, leaf: Callable[..., Partial], runs: Sequence[RunOfShards],
               leaf_args: Sequence[Any], solve: Callable[..., Any], *solve_args: Any,
               n_told: Callable[[RunOfShards], int] = N_PAIRS) -> Any:
        """Leaves over runs, the tree above them, and a last task on what they make together.

        Args:
            n_told: pairs that the leaf over a run says it has read.
        """
        stage = self._begin(kind, sum(map(n_told, runs)))
        graph, root = self._tree(kind, leaf, runs, *leaf_args)
        last = self._key("solve")
        graph[last] = Task(last, solve, TaskRef(root), *solve_args)
        found = self._executor.carry_out(kind, graph, last)
        self._end(stage, runs, n_told)
        return found

    def put(self, kind: str, value: Any) -> Key:
        """The key under which the cluster now holds a value."""
        self._n_stages += 1
        key = self._key(kind)
        self._executor.keep(key, value)
        return key

    def fetch(self, key: Key) -> Any:
        """What a stage left on the cluster."""
        return self._executor.fetch(key)

    def forget(self, keys: Sequence[Key]) -> None:
        """Let the cluster drop what no later stage needs."""
        self._executor.forget(keys)

    def share(self, kind: str, value: Any) -> Any:
        """What many tasks are given: on a cluster it travels once a worker, not once a task."""
        self._n_stages += 1
        key = self._key(kind)
        return self._executor.scatter({key: value})[key]

    def each(self, kind: str, leaf: Callable[..., Any], runs: Sequence[RunOfShards], *extra: Any,
             n_told: Callable[[RunOfShards], int] = N_PAIRS) -> Iterator[tuple[RunOfShards, Any]]:
        """What leaves over runs return, run by run, each as soon as it is there.

        Args:
            n_told: pairs that the leaf over a run says it has read.
        """
        self._n_stages += 1
        stage = self._begin(kind, sum(map(n_told, runs)))
        source = self._sources.of(runs, {})
        by_key = {self._key(kind, run.index): run for run in runs}
        tasks = {key: producer(key, leaf, source[run.index], run, *extra)
                 for key, run in by_key.items()}
        for key, found in self._executor.each(kind, tasks):
            self._end(stage, [by_key[key]], n_told)
            yield by_key[key], found

    def _begin(self, kind: str, n_pairs: int) -> str:
        """The name of a stage that is going to read so many pairs, at most."""
        self._n_passes[kind] += 1
        n = self._n_passes[kind]
        stage = kind if n == 1 else f"{kind} again" if n == 2 else f"{kind}, pass {n}"
        progress.tell(self._run_id, progress.Event(stage, progress.BEGINS, 0, 0, n_pairs))
        return stage

    def _end(self, stage: str, runs: Iterable[RunOfShards],
             n_told: Callable[[RunOfShards], int] = N_PAIRS) -> None:
        """What these leaves return is there: were a word of theirs lost, it counts by now."""
        for run in runs:
            progress.tell(self._run_id, progress.Event(stage, run.index, n_told(run), 0))

    def _tree(self, kind: str, leaf: Callable[..., Partial], runs: Sequence[RunOfShards],
              *extra: Any) -> tuple[dict[Any, Any], Key]:
        """Leaves over runs and the merges above them; the key of the root."""
        self._n_stages += 1
        graph: dict[Any, Any] = {}
        source = self._sources.of(runs, graph)
        # Runs of one bucket are neighbours in the tree, so that they merge early; the order, and
        # with it the bits, depends on the partition alone.
        keys = []
        for run in sorted(runs, key=lambda run: (run.pieces[0].bucket, run.index)):
            key = self._key(kind, run.index)
            task = leaf, source[run.index], run, *extra
            graph[key] = producer(key, *task) if self._kept is None else producer(
                key, kept_leaf, self._kept.of(run), *task)
            keys.append(key)
        merges, root = tree_reduce(keys, merge_partials, self._key("merge"))
        graph.update(merges)
        return graph, root

    def _key(self, kind: str, *which: str | int) -> Key:
        """A key of this stage; the number goes before the run, which may be called anything."""
        return self._own(f"lrh-{kind}"), *which

    def _own(self, key: Any) -> Any:
        """A key of this stage for what goes by another one elsewhere."""
        if isinstance(key, tuple):
            return (self._own(key[0]), *key[1:])
        return f"{key}-{self._n_stages}-{self._name}"
