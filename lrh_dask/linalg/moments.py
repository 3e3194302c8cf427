"""Moments of pairs: what judging and errors ask of the rows of triangles, in (p, p) matrices.

Products of rows lose accuracy with cond(X)², so the fit that is reported comes from the rows
themselves; candidates are compared, and buckets left out, by moments. Each bucket's are about its
own mean, so that moments about any other point follow without cancellation:

    Σ w (x - c)(x - c)ᵀ = Σ w (x - x̄)(x - x̄)ᵀ + (Σ w) (x̄ - c)(x̄ - c)ᵀ
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrh_dask.linalg.solve import Rows, center_rows, up_to_last
from lrh_dask.linalg.triangle import Triangle

__all__ = ["Moments", "Products", "moments_of", "pooled"]

Point = tuple[np.ndarray, np.ndarray]
"""Of x and of y (p,)."""


@dataclass(frozen=True, eq=False)
class Products:
    """XᵀX and XᵀY (p, p) of pairs."""

    xx: np.ndarray
    xy: np.ndarray

    def project(self, directions: np.ndarray) -> Products:
        """Those in the coordinates of ``directions`` (p, k)."""
        return Products(directions.T @ self.xx @ directions, directions.T @ self.xy @ directions)


@dataclass(frozen=True, eq=False)
class Moments:
    """Weight, means and products about the means of some pairs.

    Attributes:
        weight: sum of the weights.
        mean: of x and y (p,), zero where no pair counts.
        xx, xy, yy: (p, p) products about the mean.
    """

    weight: float
    mean: Point
    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray

    @staticmethod
    def of(rows: Rows) -> Moments:
        """Those of rows (q, p); the lower half of a triangle's, where x is zero, is left out."""
        mean = rows.means()
        rows = center_rows(rows, mean)
        q = up_to_last(rows.x)
        x, y, rest = rows.x[:q], rows.y[:q], rows.y[q:]
        return Moments(float(rows.one @ rows.one), mean, x.T @ x, x.T @ y,
                       y.T @ y + rest.T @ rest)

    def project(self, directions: np.ndarray) -> Moments:
        """The same pairs in the coordinates of ``directions`` (p, k)."""
        x, y = self.mean
        return Moments(self.weight, (x @ directions, y @ directions),
                       *(directions.T @ square @ directions
                         for square in (self.xx, self.xy, self.yy)))

    def about(self, point: Point | None) -> Products:
        """Products about any point, zero where None."""
        x, y = self._mean_from(point)
        return Products(self.xx + np.outer(self.weight * x, x),
                        self.xy + np.outer(self.weight * x, y))

    def yy_about(self, point: Point | None) -> np.ndarray:
        """YᵀY (p, p) about any point, zero where None."""
        _, y = self._mean_from(point)
        return np.asarray(self.yy + np.outer(self.weight * y, y))

    def _mean_from(self, point: Point | None) -> Point:
        x, y = self.mean
        return (x, y) if point is None else (x - point[0], y - point[1])


def moments_of(buckets: dict[int, Triangle]) -> dict[int, Moments]:
    """Those of each bucket. Cost: 5 p³ flops a bucket of rows, O(p²) one of products."""
    return {b: Moments.of(Rows.of(triangle)) if triangle.gram is None else _of_gram(triangle.gram)
            for b, triangle in buckets.items()}


def _of_gram(gram: np.ndarray) -> Moments:
    """From RᵀR (2p+1, 2p+1) of rows [1, x, y] that are well conditioned."""
    p, weight = gram.shape[0] // 2, float(gram[0, 0])
    mean = gram[0, 1:] / weight
    about = gram[1:, 1:] - np.outer(gram[0, 1:], mean)
    return Moments(weight, (mean[:p], mean[p:]), about[:p, :p], about[:p, p:], about[p:, p:])


def pooled(parts: list[Moments]) -> Moments:
    """The moments of the pairs of all parts."""
    root = np.sqrt([part.weight for part in parts])
    weight = float(root @ root)
    means = [np.array([part.mean[i] for part in parts]) for i in (0, 1)]
    mean = tuple(root**2 @ of_parts / (weight or 1.0) for of_parts in means)
    x, y = (root[:, None] * (of_parts - of_all)
            for of_parts, of_all in zip(means, mean, strict=True))
    xx, xy, yy = x.T @ x, x.T @ y, y.T @ y
    for part in parts:
        xx += part.xx
        xy += part.xy
        yy += part.yy
    return Moments(weight, (mean[0], mean[1]), xx, xy, yy)
