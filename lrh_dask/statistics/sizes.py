"""Sizes: how many rows have which length, to a factor of two, and how many are far from the others.

A row a million times longer than the others decides a fit alone; one as much shorter says nothing.
Both count, and are told: a wrong unit, a loss that blew up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["FAR", "LARGEST", "Sizes", "exponents"]

FAR = 20
"""Lengths 2^FAR, a million, times the median of all, or as many times less, are far from it."""
LARGEST = 2200
"""Exponents of squares, from the least that a float64 has."""


@dataclass(frozen=True)
class Sizes:
    """A frozen state: rows that are not zero, by the exponent of their length.

    Laws: merge is the sum, so any tree over the same rows gives the same.

    Attributes:
        counts: rows by exponent e, lengths from 2^(e-1) to 2^e.
    """

    counts: dict[int, int] = field(default_factory=dict)

    @staticmethod
    def of(by_square: np.ndarray) -> Sizes:
        """Of sums of :func:`exponents`."""
        exponent = (np.flatnonzero(by_square) - LARGEST // 2) // 2
        found: dict[int, int] = {}
        for e, n in zip(exponent.tolist(), by_square[by_square > 0].tolist(), strict=True):
            found[e] = found.get(e, 0) + n
        return Sizes(found)

    def merge(self, other: Sizes) -> Sizes:
        """The rows of both."""
        return Sizes({e: self.counts.get(e, 0) + other.counts.get(e, 0)
                      for e in sorted({*self.counts, *other.counts})})

    @property
    def n_far(self) -> int:
        """Rows whose length is far from the median of all."""
        total, seen, median = sum(self.counts.values()), 0, 0
        for e in sorted(self.counts):
            seen, median = seen + self.counts[e], e
            if 2 * seen >= total:
                break
        return sum(n for e, n in self.counts.items() if abs(e - median) > FAR)


def exponents(squares: np.ndarray) -> np.ndarray:
    """How many squares (m,) have which exponent (LARGEST,); those of zero are in none."""
    found = np.bincount(np.frexp(squares)[1] + LARGEST // 2, minlength=LARGEST)
    found[LARGEST // 2] -= np.count_nonzero(squares == 0)
    return found
