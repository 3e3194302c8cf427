"""The graph of a fit stage, the price of what its tasks return, and what the design predicts of it.

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

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from dask.sizeof import sizeof
from dask.utils import key_split

from lrh_dask.linalg.duplicates import KEPT, LEAST_KEYS, RowHashes
from lrh_dask.linalg.triangle import Triangle
from lrh_dask.runs.budget import Route
from lrh_dask.runs.graph import Stages
from lrh_dask.runs.shards import RUN_BYTES, RunOfShards, partition
from lrh_dask.runs.spec import Spec
from lrh_dask.runs.tree import FAN_IN, Key, Partial, ReadStats
from lrh_dask.statistics.asked import Asked
from lrh_dask.stores.pairs import Pairs

BASIS = ("lrh-orth-of-the-stage-before",)


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
        split = partition(pairs.n_pairs, pairs.blocks.chunk_rows, pairs.row_bytes)
        assert len(split.runs) == self.n_leaves
        spec = Spec("simulated", "symmetric", Asked(), Route.fitted_basis, self.n_basis, "cpu",
                    "float32", pairs.n_pairs, watched=False)
        client = _Client()
        Stages(pairs, client, "simulated").solve(split, spec, BASIS)
        return client.graph

    @cached_property
    def tasks(self) -> dict[Key, Any]:
        return dict(self.submitted)

    @cached_property
    def root(self) -> Key:
        """The last merge."""
        return next(iter(self.tasks[self.last].dependencies - {BASIS}))

    @cached_property
    def last(self) -> Key:
        return next(key for key in self.tasks if key_split(key) == "lrh-solve")

    @cached_property
    def merges(self) -> list[Key]:
        return [key for key in self.tasks if key_split(key) == "lrh-merge"]

    @cached_property
    def depth(self) -> int:
        """Merges between a leaf and the solve, counted in the graph."""
        above = dict.fromkeys(self.tasks, 0)
        for key in self.merges:  # made level by level
            above[key] = 1 + max(above[k] for k in self.tasks[key].dependencies)
        return above[self.root]

    @cached_property
    def prices(self) -> dict[Key, Price]:
        held = {}  # by key: leaves below it, buckets as bits
        for key, task in self.tasks.items():
            runs = [a for a in task.args if isinstance(a, RunOfShards)]
            if runs:
                held[key] = 1, sum(1 << b for b in {p.bucket for r in runs for p in r.pieces})
        for key in self.merges:
            below = [held[k] for k in self.tasks[key].dependencies]
            held[key] = sum(n for n, _ in below), _union(bits for _, bits in below)
        found = {BASIS: Price(200 + 8 * self.n_features * self.n_basis, 0),
                 self.last: Price(8 * self.n_features * self.n_basis, 0)}
        known: dict[tuple[int, int], Price] = {}
        for key, (n_leaves, bits) in held.items():
            n_hashes = max(LEAST_KEYS, round(KEPT / 2 * n_leaves / self.n_leaves))
            kind = n_hashes, bits.bit_count()
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
                          ReadStats(hashes=RowHashes(hashes, hashes, hashes)))
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
