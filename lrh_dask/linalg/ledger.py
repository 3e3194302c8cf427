"""Ledger: which rows a state has counted, so that none can count twice or be left out unseen.

Every state carries one. Merging states merges their ledgers, which must not overlap; a run
publishes only where the ledgers of its states make up all of its rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrh_dask.errors import RunFailed, explain

__all__ = ["Ledger"]

N_LISTED = 3


@dataclass(frozen=True, eq=False)
class Ledger:
    """Numbers of rows (of products over features: of features), as disjoint spans.

    Laws: the empty ledger is the identity of :meth:`merge`; merge is associative, commutative,
    and refuses what both hold.

    Attributes:
        spans: (m, 2) int64, first number and the one after the last of each, in order, neither
            overlapping nor touching.
    """

    spans: np.ndarray

    @staticmethod
    def of(spans: Iterable[tuple[int, int]]) -> Ledger:
        """Of spans in any order; empty ones are left out.

        Raises:
            RunFailed: two of them overlap.
        """
        return _disjoint(np.array([*spans], dtype=np.int64).reshape(-1, 2))

    def merge(self, other: Ledger) -> Ledger:
        """The rows of both.

        Raises:
            RunFailed: some are in both.
        """
        if not len(other.spans):
            return self
        if not len(self.spans):
            return other
        return _disjoint(np.concatenate([self.spans, other.spans]))

    @staticmethod
    def union(ledgers: Iterable[Ledger]) -> Ledger:
        """The rows of all.

        Raises:
            RunFailed: some are in two of them.
        """
        return _disjoint(np.concatenate([np.zeros((0, 2), np.int64),
                                         *(ledger.spans for ledger in ledgers)]))

    @property
    def n_rows(self) -> int:
        """How many they are."""
        return int(np.sum(self.spans[:, 1] - self.spans[:, 0]))

    def without(self, other: Ledger) -> Ledger:
        """The rows that the other one does not hold."""
        edges = np.unique(np.concatenate([self.spans.ravel(), other.spans.ravel()]))
        return Ledger.of((a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)
                         if self._holds(a) and not other._holds(a))

    def overlaps(self, start: int, stop: int) -> bool:
        """Whether some of the rows ``start`` to ``stop`` are among these."""
        at = int(np.searchsorted(self.spans[:, 0], stop, side="left")) - 1
        return at >= 0 and bool(start < self.spans[at, 1])

    def _holds(self, number: int) -> bool:
        at = int(np.searchsorted(self.spans[:, 0], number, side="right")) - 1
        return at >= 0 and bool(number < self.spans[at, 1])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and np.array_equal(self.spans, other.spans)

    def __hash__(self) -> int:
        return hash(self.spans.tobytes())

    def __str__(self) -> str:
        """As messages say it: "0-99, 200-299"."""
        shown = [f"{start}-{stop - 1}" for start, stop in self.spans[:N_LISTED].tolist()]
        more = len(self.spans) - N_LISTED
        return (", ".join(shown) or "none") + (f" and {more} more spans" if more > 0 else "")

    def __sizeof__(self) -> int:
        return 100 + self.spans.nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        return Ledger, (self.spans,)


def _disjoint(spans: np.ndarray) -> Ledger:
    """A ledger of spans (m, 2) in any order.

    Raises:
        RunFailed: two of them overlap.
    """
    spans = spans[spans[:, 1] > spans[:, 0]]
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    stops = np.maximum.accumulate(spans[:, 1])
    twice = np.flatnonzero(spans[1:, 0] < stops[:-1])
    if twice.size:
        at = int(twice[0])
        first, last = int(spans[at + 1, 0]), int(min(spans[at + 1, 1], stops[at]))
        raise RunFailed(explain(
            "merge states", expected="rows that only one of them has counted",
            got=f"rows {first}-{last - 1} in both",
            consequence="They would count twice, so nothing was published",
            fix="Please report this"))
    begins = np.flatnonzero(np.concatenate([[True], spans[1:, 0] > stops[:-1]])[:len(spans)])
    ends = np.concatenate([begins[1:], [len(spans)]])[:len(begins)] - 1
    joined = np.stack([spans[begins, 0], stops[ends]], axis=1)
    joined.flags.writeable = False
    return Ledger(joined)
