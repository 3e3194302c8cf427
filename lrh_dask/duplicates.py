"""How many rows occur more than once: a mergeable sample of hashes of rows.

The hashes kept are the smallest ones, so whichever rows a hash belongs to, all of its copies
are counted or none. With fewer different rows than are kept the count is exact. Where rows are
many, only those are hashed whose key, a cheap hash of the same row, is small.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from xxhash import xxh3_64_intdigest

__all__ = ["KEPT", "RowHashes"]

KEPT = 2**15
ODD = np.uint64(0x9E3779B97F4A7C15)


def _nothing() -> np.ndarray:
    return np.zeros(0, dtype=np.uint64)


@dataclass(frozen=True, eq=False)
class RowHashes:
    """The KEPT smallest hashes of rows, and how often each was seen.

    Laws: the empty state is the identity of :meth:`merge`, which is pure and associative.

    Attributes:
        hashes: (m,) uint64, sorted, different; ``counts``: (m,) uint64.
        n_rows: rows that were offered.
    """

    hashes: np.ndarray = field(default_factory=_nothing)
    counts: np.ndarray = field(default_factory=_nothing)
    n_rows: int = 0

    @staticmethod
    def of(*arrays: np.ndarray, keys: tuple[np.ndarray, ...] = (),
           share: float = 1.0) -> RowHashes:
        """Hashes of the rows of arrays (m, ...) side by side; equal rows have equal hashes.

        Args:
            keys: (m,) float64 each, such as lengths of rows: equal for equal rows.
            share: about this share of the rows is hashed, chosen by their keys.
        Cost: one pass over the rows that are hashed (XXH3, Collet 2019).
        """
        rows = np.arange(len(arrays[0]))
        if share < 1.0:
            rows = np.flatnonzero(_mixed(keys) < np.uint64(share * 2.0**64))
        hashes, counts = np.unique(_hashed(arrays, rows), return_counts=True)
        return RowHashes(*_kept(hashes, counts), n_rows=len(arrays[0]))

    def merge(self, *others: RowHashes) -> RowHashes:
        """The sample of the rows of all."""
        parts = [part for part in (self, *others) if part.n_rows]
        if len(parts) <= 1:
            return parts[0] if parts else self
        hashes, index = np.unique(np.concatenate([part.hashes for part in parts]),
                                  return_inverse=True)
        counts = np.zeros(hashes.size, dtype=np.uint64)
        np.add.at(counts, index, np.concatenate([part.counts for part in parts]))
        return RowHashes(*_kept(hashes, counts), n_rows=sum(part.n_rows for part in parts))

    @property
    def n_duplicates(self) -> int:
        """Rows that repeat an earlier one: exact where all were hashed and kept, else estimated."""
        seen = int(self.counts.sum())
        return round(self.n_rows * (1.0 - self.hashes.size / seen)) if seen else 0

    def __eq__(self, other: object) -> bool:
        """Whether both sampled the same rows."""
        return (isinstance(other, RowHashes) and np.array_equal(self.hashes, other.hashes)
                and np.array_equal(self.counts, other.counts))

    def __sizeof__(self) -> int:
        """Bytes of the arrays, so that Dask places and spills states by their true size."""
        return 200 + self.hashes.nbytes + self.counts.nbytes


def _mixed(keys: tuple[np.ndarray, ...]) -> np.ndarray:
    """A cheap hash (m,) of keys (m,) float64 each."""
    total = np.zeros(len(keys[0]), dtype=np.uint64)
    for key in keys:
        total = (total ^ key.view(np.uint64)) * ODD
        total ^= total >> np.uint64(32)
    return total * ODD


def _hashed(arrays: tuple[np.ndarray, ...], rows: np.ndarray) -> np.ndarray:
    """Hashes (k,) of the bits of some rows (k,) of arrays (m, ...) side by side."""
    hashes = [0] * len(rows)
    for a in arrays:
        if not a[:1].flags.c_contiguous:
            a = np.ascontiguousarray(a)
        hashes = [xxh3_64_intdigest(a[row], seed)
                  for row, seed in zip(rows.tolist(), hashes, strict=True)]
    return np.array(hashes, dtype=np.uint64)


def _kept(hashes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return hashes[:KEPT], counts[:KEPT].astype(np.uint64)
