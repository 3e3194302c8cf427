"""The Dask graph of a run: which task reads what, and which waits for which."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from dask._task_spec import Task, TaskRef

from lrh_dask.budget import Route
from lrh_dask.pairs import Pairs, is_dask, slice_in_memory
from lrh_dask.shards import Partition
from lrh_dask.tasks import (
    Spec,
    basis_leaf,
    finish_basis,
    fit_leaf,
    merge_partials,
    solve_buckets,
    solve_whole,
)
from lrh_dask.tree import Partial, producer, tree_reduce

__all__ = ["run_graph"]


def run_graph(pairs: Pairs, split: Partition, spec: Spec,
              client: Any) -> tuple[dict[Any, Any], str]:
    """The whole run as one graph; the name of its last task."""
    name = uuid.uuid4().hex
    graph: dict[Any, Any] = {}
    # Runs of one bucket are neighbours in the tree, so that they merge early; the order, and
    # with it the bits, depends on the partition alone.
    order = sorted(split.runs, key=lambda run: (run.pieces[0].bucket, run.index))
    shipped = None if is_dask(pairs.x) else _shipped(pairs, split, client)

    def stage(kind: str, leaf: Callable[..., Partial], *extra: Any) -> str:
        keys = []
        source = _dask_blocks(pairs, split, graph) if shipped is None else shipped
        for run in order:
            key = f"lrh-{kind}-{name}-{run.index}"
            graph[key] = producer(key, leaf, source[run.index], run, spec, *extra)
            keys.append(key)
        merges, root = tree_reduce(keys, merge_partials, f"lrh-merge-{name}-{kind}")
        graph.update(merges)
        return root

    solve = f"lrh-solve-{name}"
    if spec.route is Route.all_features:
        root = stage("fit", fit_leaf, None)
        graph[solve] = Task(solve, solve_buckets, TaskRef(root), None, spec)
        return graph, solve
    root = stage("basis", basis_leaf)
    if spec.route is Route.whole_pairs:
        graph[solve] = Task(solve, solve_whole, TaskRef(root), spec)
        return graph, solve
    basis = f"lrh-orth-{name}"
    graph[basis] = Task(basis, finish_basis, TaskRef(root), spec)
    root = stage("fit", fit_leaf, TaskRef(basis))
    graph[solve] = Task(solve, solve_buckets, TaskRef(root), TaskRef(basis), spec)
    return graph, solve


def _shipped(pairs: Pairs, split: Partition, client: Any) -> dict[int, Any]:
    """What each run is given to read from: the store's address, or a slice of arrays in memory."""
    parts = [pairs.part(run.blocks[0][0], run.blocks[-1][1]) for run in split.runs]
    if client is not None and pairs.in_memory:
        parts = client.scatter(parts, hash=False)
    return {run.index: part for run, part in zip(split.runs, parts, strict=True)}


def _dask_blocks(pairs: Pairs, split: Partition, graph: dict[Any, Any]) -> dict[int, Any]:
    """Blocks of dask arrays, under keys of their own for each stage.

    A second pass computes them again: kept from the first, they would fill the workers.
    """
    from dask.graph_manipulation import clone

    arrays = clone(*(a for a in (pairs.x, pairs.y, pairs.weight) if a is not None))
    sources = {}
    for run in split.runs:
        start, stop = run.blocks[0][0], run.blocks[-1][1]
        cuts = [a[start:stop].rechunk(-1) for a in arrays]
        for cut in cuts:
            graph.update(cut.__dask_graph__())
        keys = [_first(cut.__dask_keys__()) for cut in cuts]
        key = f"lrh-block-{uuid.uuid4().hex}"
        graph[key] = Task(key, slice_in_memory, pairs.name, start, *(TaskRef(k) for k in keys))
        sources[run.index] = TaskRef(key)
    return sources


def _first(keys: Any) -> Any:
    while isinstance(keys, list):
        keys = keys[0]
    return keys
