"""How many rows occur more than once: a mergeable sample of hashes of rows.

Of each row a key, a cheap hash, is known (or none); the rows whose keys are small are hashed as a
whole, and of these hashes the smallest are kept. Whichever rows a hash belongs to, all of its
copies are counted or none. How small a key must be depends on how many rows there are, and
on how many different keys: where rows are few, or differ little, all are hashed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from xxhash import xxh3_64_intdigest

__all__ = ["KEPT", "LEAST_KEYS", "RowHashes"]

KEPT = 2**15
LEAST_KEYS = 16
"""Of so many different keys rows are hashed at least: few different rows are not passed by."""
LARGEST = 2**64 - 1
ODD = np.uint64(0x9E3779B97F4A7C15)


def _nothing() -> np.ndarray:
    return np.zeros(0, dtype=np.uint64)


@dataclass(frozen=True, eq=False)
class RowHashes:
    """The KEPT smallest hashes of rows of small keys, and how often each was seen.

    Laws: the empty state is the identity of :meth:`merge`, which is pure and associative.

    Attributes:
        hashes: (m,) uint64, sorted, different; ``counts``, ``keys``: (m,) uint64.
        known: hashes up to this one are here, with all of their counts.
        n_rows: rows that were offered.
        wanted: rows of keys up to this one are to be hashed.
        up_to: rows of keys up to this one are: the wanted, and those of LEAST_KEYS keys at least.
    """

    hashes: np.ndarray = field(default_factory=_nothing)
    counts: np.ndarray = field(default_factory=_nothing)
    keys: np.ndarray = field(default_factory=_nothing)
    known: int = LARGEST
    n_rows: int = 0
    wanted: int = LARGEST
    up_to: int = LARGEST

    @staticmethod
    def of(*arrays: np.ndarray, keys: tuple[np.ndarray, ...] = (),
           share: float = 1.0, told: np.ndarray | None = None) -> RowHashes:
        """Hashes of the rows of arrays (m, ...) side by side; equal rows have equal hashes.

        Args:
            told: (m,) bool, the rows that are offered; None is all.
            keys: (m,) float64 each, such as lengths of rows: equal for equal rows.
            share: about this share of the rows is hashed, or more.
        Cost: one pass over the rows that are hashed (XXH3, Collet 2019).
        """
        n_rows = len(arrays[0]) if told is None else int(np.count_nonzero(told))
        mixed = _mixed(keys) if keys else np.zeros(len(arrays[0]), dtype=np.uint64)
        wanted = int(share * 2.0**64) if share < 1.0 else LARGEST
        up_to = _small(mixed if told is None else mixed[told], wanted, LARGEST)
        small = mixed <= np.uint64(up_to)
        rows = np.flatnonzero(small if told is None else small & told)
        return RowHashes(*_counted(_hashed(arrays, rows), np.ones(len(rows), np.uint64),
                                   mixed[rows], LARGEST), n_rows, wanted, up_to)

    def merge(self, *others: RowHashes) -> RowHashes:
        """The sample of the rows of all."""
        parts = [part for part in (self, *others) if part.n_rows]
        if len(parts) <= 1:
            return parts[0] if parts else self
        hashes, counts, keys = (np.concatenate(columns) for columns in zip(*(
            (part.hashes, part.counts, part.keys) for part in parts), strict=True))
        wanted = min(part.wanted for part in parts)
        up_to = _small(keys, wanted, min(part.up_to for part in parts))
        known = min(part.known for part in parts)
        taken = (keys <= np.uint64(up_to)) & (hashes <= np.uint64(known))
        return RowHashes(*_counted(hashes[taken], counts[taken], keys[taken], known),
                         sum(part.n_rows for part in parts), wanted, up_to)

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
        return 200 + self.hashes.nbytes + self.counts.nbytes + self.keys.nbytes


def _mixed(keys: tuple[np.ndarray, ...]) -> np.ndarray:
    """A cheap hash (m,) of keys (m,) float64 each."""
    total = np.zeros(len(keys[0]), dtype=np.uint64)
    for key in keys:
        total = (total ^ key.view(np.uint64)) * ODD
        total ^= total >> np.uint64(32)
    return total * ODD


def _small(keys: np.ndarray, wanted: int, known: int) -> int:
    """The largest key that counts as small, of which all up to ``known`` are among ``keys``."""
    if wanted >= known:
        return known
    different = np.unique(keys)[:LEAST_KEYS]
    return known if len(different) < LEAST_KEYS else min(known, max(wanted, int(different[-1])))


def _hashed(arrays: tuple[np.ndarray, ...], rows: np.ndarray) -> np.ndarray:
    """Hashes (k,) of the bits of some rows (k,) of arrays (m, ...) side by side."""
    hashes = [0] * len(rows)
    for a in arrays:
        if not a[:1].flags.c_contiguous:
            a = np.ascontiguousarray(a)
        hashes = [xxh3_64_intdigest(a[row], seed)
                  for row, seed in zip(rows.tolist(), hashes, strict=True)]
    return np.array(hashes, dtype=np.uint64)


def _counted(hashes: np.ndarray, counts: np.ndarray, keys: np.ndarray,
             known: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The KEPT smallest of hashes, each once, their counts' sums and keys, and what is known now.

    Args:
        known: hashes up to this one are all there.
    """
    different, first, index = np.unique(hashes, return_index=True, return_inverse=True)
    sums = np.zeros(len(different), dtype=np.uint64)
    np.add.at(sums, index, counts)
    if len(different) <= KEPT:
        return different, sums, keys[first], known
    return different[:KEPT].copy(), sums[:KEPT].copy(), keys[first[:KEPT]], int(different[KEPT - 1])
