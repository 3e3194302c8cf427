"""Triangle: everything the fit needs to know of the pairs, projected on a basis Q (D, k).

Notation: rows are pairs, x̃ = Qᵀx and ỹ = Qᵀy (k,), w the weight of a pair.

    rows [√w, √w x̃ᵀ, √w ỹᵀ] (n, 2k+1) = Z R,   Z orthonormal,   R (2k+1, 2k+1) upper triangular

Whatever a least-squares fit asks of the rows it can ask of R: RᵀR is their Gram matrix, but R
has its accuracy (cond, not cond²). The leading column carries counts and projected means, so
an offset b needs no other pass.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np

from lrh_dask.arrays import Array, device_of, namespace, to_host, triangular_factor
from lrh_dask.errors import BadPairs, explain

__all__ = ["Triangle", "merge_all", "reduce_to_triangle"]


@dataclass(frozen=True, eq=False)
class Triangle:
    """A frozen state of the fit stage.

    Laws: the empty state is the identity of :meth:`merge`; merge never writes its inputs; any
    tree over the same rows gives the same RᵀR to rounding.

    Attributes:
        factor: R (q, 2k+1) float64, q <= 2k+1; while there are fewer rows than columns they
            are kept as they are.
        sum_x, sum_y: (D,) float64, weighted sums of x and of y, for the offset.
        energy: ‖Y‖², weighted, over all D features.
        n_pairs: pairs counted.
        x_energy, x_length: sums of w‖x‖² and of √w‖x‖, for the effective number of pairs.
    """

    factor: Array
    sum_x: Array
    sum_y: Array
    energy: float = 0.0
    n_pairs: int = 0
    x_energy: float = 0.0
    x_length: float = 0.0

    @staticmethod
    def empty(n_features: int, n_basis: int) -> Triangle:
        """The identity of merge for D features and a basis of k columns, in host memory."""
        zeros = np.zeros(n_features)
        return Triangle(np.zeros((0, 2 * n_basis + 1)), zeros, zeros)

    @property
    def n_basis(self) -> int:
        """Columns k of the basis that the pairs are projected on."""
        return (int(self.factor.shape[1]) - 1) // 2

    @property
    def weight(self) -> float:
        """Sum of the weights."""
        return float(self.factor[:, 0] @ self.factor[:, 0])

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
        Cost: O(k³) flops, O(k² + D) bytes.
        Source: Demmel et al. 2012 (TSQR).
        """
        if self.factor.shape[1] != other.factor.shape[1]:
            raise BadPairs(explain(
                "merge triangles", expected=f"a basis of {self.n_basis} columns",
                got=f"one of {other.n_basis}", consequence="They cannot describe one fit.",
                fix="Project all pairs on the same basis"))
        if other.n_pairs == 0:
            return self
        if self.n_pairs == 0:
            return other
        return merge_all([self, other])

    def to_host(self) -> Triangle:
        """The same state in host memory, as it travels."""
        return replace(self, factor=to_host(self.factor), sum_x=to_host(self.sum_x),
                       sum_y=to_host(self.sum_y))

    def __sizeof__(self) -> int:
        """Bytes of the arrays, so that Dask places and spills states by their true size."""
        return 200 + sum(a.dtype.itemsize * int(np.prod(a.shape))
                         for a in (self.factor, self.sum_x, self.sum_y))


def merge_all(triangles: list[Triangle]) -> Triangle:
    """The triangle of the pairs of all: one factorisation of them stacked.

    Cost: O(rows k²) flops, once; merging one after another repeats it.
    """
    xp = namespace(*(t.factor for t in triangles))
    return Triangle(
        factor=_triangular(xp.concat([t.factor for t in triangles], axis=0)),
        sum_x=_total(t.sum_x for t in triangles), sum_y=_total(t.sum_y for t in triangles),
        energy=_total(t.energy for t in triangles), n_pairs=_total(t.n_pairs for t in triangles),
        x_energy=_total(t.x_energy for t in triangles),
        x_length=_total(t.x_length for t in triangles))


def _total(parts: Iterable[Any]) -> Any:
    return reduce(operator.add, parts)


def reduce_to_triangle(x: Array, y: Array, basis: Array | None = None,
                       weight: Array | None = None) -> Triangle:
    """The triangle of a block of pairs.

    Args:
        x, y: (m, D), finite, of one floating dtype. The projection is computed in this dtype,
            the factor in float64.
        basis: Q (D, k) with orthonormal columns; None is the identity (k = D).
        weight: (m,) non-negative.
    Cost: 4 m D k flops for the projection, O(m k²) for the factor.
    """
    xp = namespace(x, y)
    q = None if basis is None else xp.astype(basis, x.dtype)
    if weight is None:
        root = xp.ones(x.shape[0], dtype=xp.float64, device=device_of(x))
    else:
        root = xp.sqrt(xp.astype(weight, xp.float64))
    scale = root[:, None]
    projected = [xp.astype(a if q is None else a @ q, xp.float64) * scale for a in (x, y)]
    weighted_x, weighted_y = (xp.astype(a, xp.float64) * scale for a in (x, y))
    lengths = xp.sqrt(xp.sum(xp.square(weighted_x), axis=1))
    return Triangle(
        factor=_triangular(xp.concat([scale, *projected], axis=1)),
        sum_x=xp.sum(weighted_x * scale, axis=0),
        sum_y=xp.sum(weighted_y * scale, axis=0),
        energy=float(xp.sum(xp.square(weighted_y))),
        n_pairs=int(x.shape[0]),
        x_energy=float(xp.sum(xp.square(lengths))),
        x_length=float(xp.sum(lengths)))


def _triangular(rows: Array) -> Array:
    """R of the rows (m, 2k+1), or the rows themselves while there are few of them."""
    if rows.shape[0] <= rows.shape[1]:
        return rows
    return triangular_factor(rows)
