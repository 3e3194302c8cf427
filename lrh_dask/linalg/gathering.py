"""Gathering: from blocks of pairs, one after another, to their triangle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lrh_dask.linalg.arrays import (
    ALIGNED_COLUMNS,
    Array,
    device_of,
    in_range,
    namespace,
    no_rows,
    row_squares,
)
from lrh_dask.linalg.triangle import (
    WELL_CONDITIONED,
    Triangle,
    summed,
    triangular,
    united,
    well_conditioned,
)

__all__ = ["CAST_ROWS", "GATHERED_ROWS", "Gathering", "fewest_rows", "padded", "reduce_to_triangle"]

GATHERED_ROWS, CAST_ROWS = 2048, 4096
"""So many rows are waited for, and so many are multiplied or made float64 at once (rounding of
float32 adds up along a mean) ..."""


def fewest_rows(n_columns: int) -> int:
    """... or, where that is more, a quarter more than columns: they stand well on their own."""
    return n_columns + n_columns // 4 + 1


def padded(basis: Array) -> Array:
    """A basis (D, k) with columns of zeros up to a multiple of ALIGNED_COLUMNS."""
    xp, spare = namespace(basis), -basis.shape[1] % ALIGNED_COLUMNS
    zeros = xp.zeros((basis.shape[0], spare), dtype=basis.dtype, device=device_of(basis))
    return xp.concat([basis, zeros], axis=1) if spare else basis


def reduce_to_triangle(x: Array, y: Array, basis: Array | None = None,
                       weight: Array | None = None) -> Triangle:
    """The triangle of a block of pairs: :class:`Gathering` of that block alone."""
    gathering = Gathering(basis)
    gathering.add(x, y, weight)
    return gathering.state()


class Gathering:
    """Gathers blocks of pairs, one after another, and ends as their triangle.

    Args:
        basis: Q (D, k) with orthonormal columns; None is the identity (k = D).
        n_basis: k, where the basis is :func:`padded`.

    The projection is computed in the dtype of the pairs, products of projected rows in float64.
    Without a basis these products are the whole cost: they are taken in the dtype of the pairs,
    block by block, and summed in float64, as long as conditioning allows.
    """

    def __init__(self, basis: Array | None = None, n_basis: int | None = None) -> None:
        self._basis, self._n_basis = basis, n_basis
        self._gram: Array | None = None      # of rows that are well conditioned together
        self._least = 0.0                    # which its pivots must not fall below
        self._stacked: list[Array] = []      # rows or factors of all others
        self._waiting: list[tuple[Array, Array, Array]] = []  # (root, x̃, ỹ), not multiplied yet
        self._by_products, self._in_dtype = True, basis is None
        self._sums: Triangle | None = None   # all that is a plain sum

    def add(self, x: Array, y: Array, weight: Array | None = None,
            squares: tuple[Array, Array] | None = None) -> None:
        """Count a block.

        Args:
            x, y: (m, D), finite, of one floating dtype.
            weight: (m,) non-negative.
            squares: ‖x‖² and ‖y‖² of the rows (m,) float64, where they are known.
        Cost: 4 m D k flops for the projection, O(m k²) for the products.
        """
        xp = namespace(x, y)
        x_squares, y_squares = squares or (row_squares(x), row_squares(y))
        root = xp.ones(x.shape[0], dtype=x.dtype, device=device_of(x))
        if weight is not None:
            root = xp.astype(xp.sqrt(weight), x.dtype)
            x, y = x * root[:, None], y * root[:, None]
            x_squares, y_squares = x_squares * weight, y_squares * weight
        added = Triangle(
            no_rows(x), xp.astype(root @ x, xp.float64), xp.astype(root @ y, xp.float64),
            energy=float(xp.sum(y_squares)), n_pairs=int(x.shape[0]),
            x_energy=float(xp.sum(x_squares)), x_length=float(xp.sum(xp.sqrt(x_squares))))
        self._sums = added if self._sums is None else summed([self._sums, added], added.rows)
        n_waiting = sum(part[0].shape[0] for part in self._waiting) + x.shape[0]
        enough = n_waiting >= max(GATHERED_ROWS, fewest_rows(self._n_columns(x)))
        if self._basis is not None:
            q = xp.astype(self._basis, x.dtype, copy=False)
            x, y = (x @ q)[:, :self._n_basis], (y @ q)[:, :self._n_basis]
        elif not enough:  # the block may go meanwhile
            x, y = xp.asarray(x, copy=True), xp.asarray(y, copy=True)
        self._waiting.append((root, x, y))
        if enough:
            self._multiply()

    def _n_columns(self, x: Array) -> int:
        return 1 + 2 * int(self._n_basis or (x if self._basis is None else self._basis).shape[1])

    def state(self) -> Triangle:
        """The triangle of all pairs so far (there must be some)."""
        if self._sums is None:
            raise ValueError("no block was added")
        self._multiply()
        rows, gram = united(self._gram, self._stacked)
        return replace(self._sums, rows=rows, gram=gram)

    def _multiply(self) -> None:
        """Bring the rows that wait into the Gram matrix, or where that loses too much a factor."""
        if not self._waiting:
            return
        root, x, y = (parts[0] if len(parts) == 1 else namespace(*parts).concat(parts, axis=0)
                      for parts in (list(part) for part in zip(*self._waiting, strict=True)))
        self._waiting = []
        xp = namespace(x)
        overdetermined = self._gram is not None or x.shape[0] > 2 * x.shape[1] + 1
        at_once = max(CAST_ROWS, fewest_rows(2 * x.shape[1] + 1))
        parts = [slice(start, min(start + at_once, x.shape[0]))
                 for start in range(0, max(int(x.shape[0]), 1), at_once)]
        if self._in_dtype and overdetermined and x.dtype == xp.float32:
            gram = _gram_in_dtype(root, x, y, parts)
            self._in_dtype = gram is not None and self._take(gram, WELL_CONDITIONED["float32"])
            if self._in_dtype:
                return
        for part in parts:
            rows = xp.concat([xp.astype(a, xp.float64)
                              for a in (root[part, None], x[part, :], y[part, :])], axis=1)
            if self._by_products and (self._gram is not None or rows.shape[0] > rows.shape[1]):
                self._by_products = self._take(rows.T @ rows, WELL_CONDITIONED["float64"])
                if self._by_products:
                    continue
            self._stacked = [triangular(xp.concat([*self._stacked, rows], axis=0))]

    def _take(self, gram: Array, least: float) -> bool:
        """Add a Gram matrix to the sum, unless pivots fall below ``least``.

        A sum that is well conditioned without it is set aside as a factor.
        """
        if self._gram is not None:
            together, floor = self._gram + gram, max(least, self._least)
            if well_conditioned(together, floor):
                self._gram, self._least = together, floor
                return True
        if not well_conditioned(gram, least):
            return False
        if self._gram is not None:
            self._stacked.append(namespace(gram).linalg.cholesky(self._gram).T)
        self._gram, self._least = gram, least
        return True


def _gram_in_dtype(root: Array, x: Array, y: Array, parts: list[slice]) -> Array | None:
    """Gram matrix (float64) of rows [root, x, y], each part multiplied in their dtype.

    None where squares leave its range.
    """
    xp, total = namespace(x, y), None
    for part in parts:
        one, a, b = root[part], x[part, :], y[part, :]
        with np.errstate(over="ignore", invalid="ignore"):
            xy = a.T @ b
            edge = xp.concat([one @ a, one @ b], axis=0)[:, None]
            inner = xp.concat([xp.concat([a.T @ a, xy], axis=1),
                               xp.concat([xy.T, b.T @ b], axis=1)], axis=0)
            gram = xp.concat([xp.concat([(one @ one)[None, None], edge.T], axis=1),
                              xp.concat([edge, inner], axis=1)], axis=0)
        if not in_range(gram, a.shape[0]):
            return None
        gram = xp.astype(gram, xp.float64)
        total = gram if total is None else total + gram
    return total
