"""Units of x and y in which their squares, and products of squares, can be held.

A fit multiplies four numbers of the size of the pairs: at 1e100 that overflows, at 1e-100 it
vanishes. So it is made of x/a and y/b, a and b powers of two (nothing is rounded), and its
result is put back: H = b/a H'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lrh_dask.linalg.triangle import Triangle
from lrh_dask.statistics.certificates import Fit

__all__ = ["Units", "in_units"]


@dataclass(frozen=True)
class Units:
    """The units of x and of y: powers of two near their largest size."""

    x: float
    y: float

    @staticmethod
    def of(buckets: dict[int, Triangle]) -> Units:
        """Units in which the pairs of all buckets have a size of about one."""
        weight = sum(t.weight for t in buckets.values())
        k = next(iter(buckets.values())).n_basis
        x, y = (max(_largest(t, columns) for t in buckets.values())
                for columns in (slice(1, k + 1), slice(k + 1, None)))
        return Units(_power_of_two(x / np.sqrt(weight)), _power_of_two(y / np.sqrt(weight)))

    def apply(self, triangle: Triangle) -> Triangle:
        """The triangle of the pairs (x/a, y/b)."""
        k = triangle.n_basis
        scale = np.concatenate([[1.0], np.full(k, 1.0 / self.x), np.full(k, 1.0 / self.y)])
        return replace(
            triangle, rows=triangle.rows * scale,
            gram=None if triangle.gram is None else triangle.gram * scale[:, None] * scale,
            sum_x=triangle.sum_x / self.x,
            sum_y=triangle.sum_y / self.y, energy=triangle.energy / self.y / self.y,
            x_energy=triangle.x_energy / self.x / self.x, x_length=triangle.x_length / self.x)

    def restore(self, fit: Fit) -> Fit:
        """The fit of the pairs (x, y) from that of (x/a, y/b)."""
        curvature = self.y / self.x
        return replace(
            fit, eigenvalues=fit.eigenvalues * curvature, bias=fit.bias * curvature,
            margins=fit.margins * curvature,
            standard_errors=fit.standard_errors * curvature,
            mean_x=None if fit.mean_x is None else fit.mean_x * self.x,
            mean_y=None if fit.mean_y is None else fit.mean_y * self.y)


def in_units(buckets: dict[int, Triangle], solver: Callable[[dict[int, Triangle]], Fit]) -> Fit:
    """What a solver makes of the buckets, solved in their own units."""
    units = Units.of(buckets)
    return units.restore(solver({b: units.apply(t) for b, t in buckets.items()}))


def _largest(triangle: Triangle, columns: slice) -> float:
    """The largest entry of its rows, or length of a column, where only these are known."""
    if triangle.gram is None:
        return float(np.max(np.abs(triangle.rows[:, columns]), initial=0.0))
    return float(np.max(np.diag(triangle.gram)[columns], initial=0.0) ** 0.5)


def _power_of_two(size: float) -> float:
    return float(2.0 ** np.round(np.log2(size))) if np.isfinite(size) and size > 0 else 1.0
