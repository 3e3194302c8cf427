"""RowGram: all that few pairs of very many features say of each other, summed over features.

Notation: n pairs over D features, D ≫ n. Z (2n, D) are the rows of X and below them those of Y.

    Z Zᵀ = W Λ Wᵀ        Z' = W Λ^½ (2n, p), p <= 2n

The rows of Z' have the same products among each other as those of Z: they are the same pairs
in an orthonormal basis of their span, E = Zᵀ W Λ^-½ (D, p). Every fit of (X, Y) is that of
(X', Y') turned by E, so D is met twice only: when Z Zᵀ is summed, and when vectors u' are lifted
to u = E u' = Zᵀ c. Products are float64; directions below √eps of the largest are lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lrh_dask.linalg.arrays import Array, in_range, lower_factor, namespace, to_host
from lrh_dask.linalg.ledger import Ledger

__all__ = ["CAST_FEATURES", "RowGram", "Summing", "lifting_coefficients"]

APART = 1e-4
"""Above this relative pivot of Z Zᵀ products in float32 do: summed over blocks in float64 they are
off by 4e-9 of the diagonal, and the smallest eigenvalue by 4e-5 of itself."""
CAST_FEATURES = 2048
"""So many features, or as many as there are rows, are made float64 at once."""
REPEATED = 1e-12
"""Squared distance of two rows, relative to their squares, at which one repeats the other."""


@dataclass(frozen=True, eq=False)
class RowGram:
    """A frozen state: products of rows, over the features seen so far.

    Laws: merge is the sum, so that any tree over the same features gives the same to rounding.

    Attributes:
        products: Z Zᵀ (2n, 2n) float64.
        ledger: the features that it has seen, of all rows.
        bad: (n,) bool, rows of which some feature was NaN or Inf: they do not count; None is none.
    """

    products: Array
    ledger: Ledger = field(default_factory=lambda: Ledger.of(()))
    bad: np.ndarray | None = None

    def merge(self, other: RowGram) -> RowGram:
        """The products over the features of both.

        Raises:
            RunFailed: some features are in both.
        """
        bad = self.bad if other.bad is None else (
            other.bad if self.bad is None else self.bad | other.bad)
        return RowGram(self.products + other.products, self.ledger.merge(other.ledger), bad)

    def without(self, bad: np.ndarray) -> RowGram:
        """The products with zeros for rows of x and y that are not to count ((n,) bool)."""
        good = np.tile(~bad, 2)
        return RowGram(to_host(self.products) * (good[:, None] & good), self.ledger, bad)

    def to_host(self) -> RowGram:
        """The same state in host memory, as it travels."""
        return RowGram(to_host(self.products), self.ledger, self.bad)

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """X' and Y' (n, 2n + 1) float64: the pairs in an orthonormal basis of their span.

        Columns of zeros stand for the features beyond it.
        """
        products = to_host(self.products)
        m = products.shape[0]
        scale = np.sqrt(np.diagonal(products))
        unit = np.where(scale > 0, scale, 1.0)
        values, vectors = np.linalg.eigh(products / np.outer(unit, unit))
        kept = values > m * np.finfo(np.float64).eps * values[-1]
        rows = np.zeros((m, m + 1))
        rows[:, :np.count_nonzero(kept)] = scale[:, None] * vectors[:, kept] * np.sqrt(values[kept])
        return rows[:m // 2], rows[m // 2:]

    def n_repeated(self) -> int:
        """Pairs that repeat an earlier one, as far as the products tell."""
        products = to_host(self.products)
        n = products.shape[0] // 2
        both = products[:n, :n] / max(np.trace(products[:n, :n]), np.finfo(float).tiny) \
            + products[n:, n:] / max(np.trace(products[n:, n:]), np.finfo(float).tiny)
        square = np.diagonal(both)
        apart = square[:, None] + square[None, :] - 2.0 * both
        same = apart <= REPEATED * (square[:, None] + square[None, :])
        return int(np.count_nonzero(np.tril(same & (square > 0), -1).any(axis=1)))

    def __sizeof__(self) -> int:
        """Bytes of the products, so that Dask places and spills states by their true size."""
        return 200 + 8 * int(np.prod(self.products.shape))


class Summing:
    """Sums products of rows over blocks of features, one after another.

    A block is multiplied in its own dtype where its rows are well apart in it and its numbers
    well within the dtype's range: then so they are in the sum, too. Else it is multiplied again,
    in float64, and so are all that follow.
    """

    def __init__(self) -> None:
        self._products: Array | None = None
        self._in_dtype = True

    def add(self, z: Array) -> None:
        """Count a block of features: Z (2n, w), the rows of x and below them those of y."""
        xp = namespace(z)
        if self._in_dtype and z.dtype != xp.float64 and z.shape[1] > z.shape[0]:
            with np.errstate(over="ignore", invalid="ignore"):
                products = z @ z.T
            self._in_dtype = in_range(products, z.shape[1])
            products = xp.astype(products, xp.float64)
            if self._in_dtype and lower_factor(products, APART) is not None:
                self._sum(products)
                return
            self._in_dtype = False
        width = max(z.shape[0], CAST_FEATURES)
        for start in range(0, z.shape[1], width):
            part = xp.astype(z[:, start:min(start + width, z.shape[1])], xp.float64)
            self._sum(part @ part.T)

    def _sum(self, products: Array) -> None:
        self._products = products if self._products is None else self._products + products

    def state(self) -> RowGram:
        """The products over all blocks so far (there must be one)."""
        if self._products is None:
            raise ValueError("no block was added")
        return RowGram(self._products)


def lifting_coefficients(x: np.ndarray, y: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """C (2n, r) with Zᵀ C the lifted vectors; where Y alone spans them, nothing of X.

    Args:
        x, y: X', Y' of :meth:`RowGram.rows`.
        vectors: (2n + 1, r) in the coordinates of X' and Y'.
    """
    for parts in ((np.zeros_like(x), y), (x, y)):
        z = np.concatenate(parts)
        c = np.linalg.lstsq(z.T, vectors, rcond=None)[0]
        if np.linalg.norm(z.T @ c - vectors) <= 1e-9 * np.linalg.norm(vectors):
            break
    c[:len(x)] *= bool(np.any(parts[0]))
    return c
