"""The tree: how partial states of tasks become one.

It knows no mathematics. Its shape is fixed by the order of the leaves, so that the result has
the same bits whatever the workers, their number, their order or their deaths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from lrh_dask.linalg.duplicates import RowHashes
from lrh_dask.linalg.ledger import Ledger
from lrh_dask.runs.task_spec import Task, TaskRef
from lrh_dask.statistics.sizes import Sizes
from lrh_dask.stores.digests import RowDigest

__all__ = ["Key", "Partial", "ReadStats", "producer", "tree_reduce"]

FAN_IN = 4

Key = tuple[str | int, ...]
"""Of a task: its name, which those that do the same share, and which of them it is."""


@dataclass(frozen=True)
class ReadStats:
    """What reading cost, summed up the tree: each row is in it exactly once."""

    n_pairs: int = 0
    n_bytes: int = 0
    read_seconds: float = 0.0
    zero_x_rows: int = 0
    zero_y_rows: int = 0
    zero_weight_rows: int = 0
    x_sizes: Sizes = field(default_factory=Sizes)
    y_sizes: Sizes = field(default_factory=Sizes)
    skipped: tuple[tuple[int, int, int], ...] = ()  # a shard's rows, and how many were left out
    peak_worker_bytes: int = 0
    hashes: RowHashes = field(default_factory=RowHashes)
    n_repeated: int | None = None  # counted otherwise than by hashes
    digests: tuple[RowDigest, ...] = ()  # of the rows, where they are asked for
    said: tuple[str, ...] = ()  # what a user should know, each once

    @property
    def n_skipped(self) -> int:
        """Rows that held NaN or Inf and were left out."""
        return sum(n for _, _, n in self.skipped)

    @property
    def n_duplicates(self) -> int:
        """Rows that repeat an earlier one, as far as is known."""
        return self.hashes.n_duplicates if self.n_repeated is None else self.n_repeated

    def to_no_avail(self) -> ReadStats:
        """Of what was read and is dropped only the price counts, no pair."""
        return ReadStats(n_bytes=self.n_bytes, read_seconds=self.read_seconds, said=self.said)

    def known_before(self) -> ReadStats:
        """Of what an earlier run has read all counts but the price."""
        return replace(self, n_bytes=0, read_seconds=0.0, peak_worker_bytes=0)

    def merge(self, other: ReadStats) -> ReadStats:
        """Sums, and the larger peak."""
        return ReadStats(
            self.n_pairs + other.n_pairs, self.n_bytes + other.n_bytes,
            self.read_seconds + other.read_seconds, self.zero_x_rows + other.zero_x_rows,
            self.zero_y_rows + other.zero_y_rows,
            self.zero_weight_rows + other.zero_weight_rows,
            self.x_sizes.merge(other.x_sizes), self.y_sizes.merge(other.y_sizes),
            tuple(sorted(self.skipped + other.skipped)),
            max(self.peak_worker_bytes, other.peak_worker_bytes),
            self.hashes.merge(other.hashes),
            other.n_repeated if self.n_repeated is None else self.n_repeated,
            tuple(sorted(self.digests + other.digests)),
            tuple(dict.fromkeys(self.said + other.said)))


@dataclass(frozen=True)
class Partial:
    """States by bucket, with what reading them cost."""

    states: dict[int, Any]
    stats: ReadStats

    def merge(self, other: Partial) -> Partial:
        """Bucket by bucket; a bucket that only one side holds is handed on.

        Raises:
            RunFailed: a bucket of both holds the same rows.
        """
        states = dict(self.states)
        for bucket, state in other.states.items():
            states[bucket] = states[bucket].merge(state) if bucket in states else state
        return Partial(dict(sorted(states.items())), self.stats.merge(other.stats))

    @property
    def ledger(self) -> Ledger:
        """The rows that the states of all buckets have seen.

        Raises:
            RunFailed: two buckets hold the same rows.
        """
        return Ledger.union(state.ledger for state in self.states.values())

    def known_before(self) -> Partial:
        """The same states, which cost nothing any more."""
        return Partial(self.states, self.stats.known_before())

    def __sizeof__(self) -> int:
        """Bytes of the states, so that Dask places and spills them by their true size."""
        return 200 + self.stats.hashes.__sizeof__() + sum(
            state.__sizeof__() for state in self.states.values())


def producer(key: Key, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Task:
    """A leaf task. The mark lets the scheduler queue leaves instead of flooding the workers."""
    return Task(key, func, *args, _data_producer=True, **kwargs)


def tree_reduce(leaves: list[Key], merge: Callable[..., Any],
                name: Key) -> tuple[dict[Key, Task], Key]:
    """Merge tasks over leaf keys, neighbours first.

    Args:
        leaves: keys in the order that fixes the tree.
        merge: takes up to four results and returns one.
        name: tasks are called ``(*name, level, i)``.
    Returns:
        The merge tasks, and the key of the root (a leaf's own key where there is one leaf).
    """
    graph: dict[Key, Task] = {}
    level, keys = 0, leaves
    while len(keys) > 1:
        level += 1
        groups = [keys[i:i + FAN_IN] for i in range(0, len(keys), FAN_IN)]
        keys = []
        for i, group in enumerate(groups):
            if len(group) == 1:
                keys.append(group[0])
                continue
            key = (*name, level, i)
            graph[key] = Task(key, merge, *(TaskRef(k) for k in group))
            keys.append(key)
    return graph, keys[0]
