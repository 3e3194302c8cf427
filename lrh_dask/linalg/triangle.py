"""Triangle: everything the fit needs to know of the pairs, projected on a basis Q (D, k).

Notation: rows are pairs, x̃ = Qᵀx and ỹ = Qᵀy (k,), w the weight of a pair.

    rows [√w, √w x̃ᵀ, √w ỹᵀ] (n, 2k+1) = Z R,   Z orthonormal,   R (2k+1, 2k+1) upper triangular

Whatever a least-squares fit asks of the rows it can ask of R: RᵀR is their Gram matrix, but R
does without squares (its accuracy goes with cond, not cond²). The leading column carries counts and
projected means, so an offset b needs no other pass.

Where every column stands out enough from those before it, R is the Cholesky factor of the Gram
matrix of the rows (three to four times as fast as a Householder QR, which is taken else). That is
taken only when R is asked for: such states are merged by adding their Gram matrices, and the sum
is as well conditioned as the worse of the two.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np

from lrh_dask.errors import BadPairs, explain
from lrh_dask.linalg.arrays import (
    Array,
    lower_factor,
    namespace,
    no_rows,
    to_host,
    triangular_factor,
)
from lrh_dask.linalg.ledger import Ledger

__all__ = ["WELL_CONDITIONED", "Triangle", "merge_all", "summed", "triangular", "united",
           "well_conditioned"]

WELL_CONDITIONED = {"float64": 1e-6, "float32": 1e-4}
"""The least relative pivot of a Gram matrix whose products were taken in that dtype: what its
rounding changes there is below 1e-8 and 1e-2 of a pivot, the latter at random from slab to slab."""
AT_ONCE = 5
"""So many rows a column are factored together."""
SPAN = 1e-200
"""Squares of columns as far apart as that would leave the range of float64 in other units."""


@dataclass(frozen=True, eq=False)
class Triangle:
    """A frozen state of the fit stage.

    Laws: the empty state is the identity of :meth:`merge`; merge never writes its inputs; any
    tree over the same rows gives the same RᵀR to rounding.

    Attributes:
        rows: (q, 2k+1) float64, q <= 2k+1: R, or while there are fewer rows than columns these as
            they are; none (q = 0) where ``gram`` holds all.
        sum_x, sum_y: (D,) float64, weighted sums of x and of y, for the offset.
        energy: ‖Y‖², weighted, over all D features.
        n_pairs: pairs counted.
        x_energy, x_length: sums of w‖x‖² and of √w‖x‖, for the effective number of pairs.
        gram: RᵀR (2k+1, 2k+1) float64 where it is well conditioned, else None.
        ledger: the rows of the store that it has seen, whether or not they count.
    """

    rows: Array
    sum_x: Array
    sum_y: Array
    energy: float = 0.0
    n_pairs: int = 0
    x_energy: float = 0.0
    x_length: float = 0.0
    gram: Array | None = None
    ledger: Ledger = field(default_factory=lambda: Ledger.of(()))

    @staticmethod
    def empty(n_features: int, n_basis: int) -> Triangle:
        """The identity of merge for D features and a basis of k columns, in host memory."""
        zeros = np.zeros(n_features)
        return Triangle(np.zeros((0, 2 * n_basis + 1)), zeros, zeros)

    @property
    def n_basis(self) -> int:
        """Columns k of the basis that the pairs are projected on."""
        return (int(self.rows.shape[1]) - 1) // 2

    @property
    def factor(self) -> Array:
        """R (q, 2k+1) of all pairs, q <= 2k+1. Cost: O(k³) where there is a Gram matrix."""
        return self.rows if self.gram is None else namespace(self.gram).linalg.cholesky(self.gram).T

    @property
    def squares(self) -> Array:
        """Sums of the squares of each column of R (2k+1,): weight, ‖x̃‖² and ‖ỹ‖² by column."""
        xp = namespace(self.rows)
        return xp.sum(self.rows**2, axis=0) if self.gram is None else xp.linalg.diagonal(self.gram)

    @property
    def weight(self) -> float:
        """Sum of the weights."""
        return float(self.rows[:, 0] @ self.rows[:, 0] if self.gram is None else self.gram[0, 0])

    def energy_about(self, mean_y: np.ndarray) -> float:
        """Σ w ‖y - mean‖² over all D features."""
        return float(self.energy - 2.0 * (mean_y @ self.sum_y) + self.weight * (mean_y @ mean_y))

    @property
    def n_effective(self) -> float:
        """Pairs by Kish's formula with √w‖x‖ for weights (as many as there are if all are alike).

        Source: Kish 1965 (Survey Sampling).
        """
        return min(self.x_length**2 / self.x_energy, self.n_pairs) if self.x_energy > 0 else 0.0

    def merge(self, other: Triangle) -> Triangle:
        """The triangle of the pairs of both: R of the two stacked.

        Raises:
            BadPairs: the two were projected on bases of different size.
            RunFailed: some rows are in both.
        Cost: O(k³) flops, O(k² + D) bytes.
        Source: Demmel et al. 2012 (TSQR).
        """
        if self.n_basis != other.n_basis:
            raise BadPairs(explain(
                "merge triangles", expected=f"a basis of {self.n_basis} columns",
                got=f"one of {other.n_basis}", consequence="They cannot describe one fit.",
                fix="Project all pairs on the same basis"))
        one, none = (self, other) if other.n_pairs == 0 else (other, self)
        if none.n_pairs == 0:
            ledger = one.ledger.merge(none.ledger)
            return one if ledger is one.ledger else replace(one, ledger=ledger)
        return merge_all([self, other])

    def to_host(self) -> Triangle:
        """The same state in host memory, as it travels."""
        return replace(self, rows=to_host(self.rows), sum_x=to_host(self.sum_x),
                       sum_y=to_host(self.sum_y),
                       gram=None if self.gram is None else to_host(self.gram))

    def __sizeof__(self) -> int:
        """Bytes of the arrays, so that Dask places and spills states by their true size."""
        return 200 + self.ledger.__sizeof__() + sum(
            a.dtype.itemsize * int(np.prod(a.shape))
            for a in (self.rows, self.sum_x, self.sum_y, self.gram) if a is not None)


def merge_all(triangles: list[Triangle]) -> Triangle:
    """The triangle of the pairs of all.

    Cost: one addition of (2k+1, 2k+1) each where Gram matrices will do; else O(rows k²) flops to
    factor the rows of a few at a time.
    """
    grams = [t.gram for t in triangles if t.gram is not None]
    return summed(triangles, *united(_total(grams) if grams else None,
                                     [t.rows for t in triangles if t.gram is None]))


def united(gram: Array | None, stacked: list[Array]) -> tuple[Array, Array | None]:
    """``rows`` and ``gram`` of a triangle of well-conditioned pairs, if any, and of other rows."""
    if gram is None:
        return _one_factor(stacked), None
    if not any(part.shape[0] for part in stacked):
        return no_rows(gram), gram
    rows = _one_factor(stacked)
    together = gram + rows.T @ rows
    if well_conditioned(together, WELL_CONDITIONED["float64"]):
        return no_rows(rows), together
    return _one_factor([rows, namespace(gram).linalg.cholesky(gram).T]), None


def _one_factor(parts: list[Array]) -> Array:
    """R of the rows of all parts, some at a time: all of them put together were held twice."""
    waiting, n_rows = parts[:1], parts[0].shape[0]
    for part in parts[1:]:
        if n_rows + part.shape[0] > AT_ONCE * part.shape[1]:
            waiting = [_together(waiting)]
            n_rows = waiting[0].shape[0]
        waiting.append(part)
        n_rows += part.shape[0]
    return _together(waiting)


def _together(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else triangular(namespace(*parts).concat(parts, axis=0))


def well_conditioned(gram: Array, least: float) -> bool:
    """Whether relative pivots reach ``least``, in any units of x and of y as well."""
    xp = namespace(gram)
    square = xp.linalg.diagonal(gram)
    return lower_factor(gram, least) is not None and bool(
        xp.min(square) >= SPAN * xp.max(square))


def summed(triangles: list[Triangle], rows: Array, gram: Array | None = None) -> Triangle:
    """The triangle of these rows whose other parts are the sums of those of all."""
    return Triangle(
        rows, gram=gram,
        sum_x=_total(t.sum_x for t in triangles), sum_y=_total(t.sum_y for t in triangles),
        energy=_total(t.energy for t in triangles), n_pairs=_total(t.n_pairs for t in triangles),
        x_energy=_total(t.x_energy for t in triangles),
        x_length=_total(t.x_length for t in triangles),
        ledger=Ledger.union(t.ledger for t in triangles))


def _total(parts: Iterable[Any]) -> Any:
    return reduce(operator.add, parts)


def triangular(rows: Array) -> Array:
    """R of rows (m, c) float64, or the rows themselves while there are few of them."""
    if rows.shape[0] <= rows.shape[1]:
        return rows
    lower = lower_factor(rows.T @ rows, WELL_CONDITIONED["float64"])
    return triangular_factor(rows) if lower is None else lower.T
