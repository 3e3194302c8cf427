"""Candidates judged by held-out pairs: squared residuals by bucket and rank, from small matrices.

A candidate (center, k, λ) is fitted on some buckets of pairs and judged on others that it has
not seen. For H = Σ λ_i u_i u_iᵀ with orthonormal u_i, direction i lowers the squared residual
of a set of pairs by

    gain_i = Σ 2 λ_i (u_iᵀx)(u_iᵀy) - λ_i² (u_iᵀx)²,     ‖Y - H X‖² = ‖Y‖² - Σ gain_i

so one eigendecomposition judges every rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from lrh_dask.interpolation import Interpolation, spanning_directions
from lrh_dask.psd import semidefinite_solve
from lrh_dask.solve import (
    Rows,
    SymmetricFit,
    center_rows,
    fit_from_moments,
    gains,
    leading_directions,
    sorted_eigenpairs,
)
from lrh_dask.triangle import Triangle

__all__ = ["Candidate", "Fold", "View", "eigenpairs_of", "error_of_sum", "score", "semidefinite",
           "view_of"]


@dataclass(frozen=True)
class Fold:
    """Buckets to fit on and buckets to judge on."""

    train: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Candidate:
    """Squared residual by bucket and rank (n_buckets, k+1) of one candidate."""

    center: bool
    n_basis: int
    ridge: float
    squares: np.ndarray

    def best_rank(self, rank: int | None) -> int:
        """The rank asked for, or the one of least held-out residual."""
        totals = self.squares.sum(axis=0)
        return int(np.argmin(totals)) if rank is None else min(rank, totals.size - 1)

    def at(self, rank: int | None) -> np.ndarray:
        """Squared residual by bucket, at a rank (or the last there is), or the best one."""
        return self.squares[:, self.best_rank(rank)]

    def loss(self, rank: int | None = None) -> float:
        """Squared residual over all buckets."""
        return float(self.at(rank).sum())


@dataclass(frozen=True, eq=False)
class View:
    """One fold in coordinates that its training pairs alone have chosen."""

    center: bool
    s_xx: np.ndarray  # XᵀX and XᵀY (k, k) of the training rows
    s_xy: np.ndarray
    y_squares: np.ndarray  # (k,) squares of each column of Y
    n_train: int
    n_test: int
    rounding: float
    psd: bool
    tests: list[Rows]
    energies: np.ndarray  # (n_tests,) squares of the (centred) test gradients, all features


def view_of(buckets: dict[int, Triangle], fold: Fold, center: bool, k: int, rounding: float, *,
            nested: bool, exact: Interpolation | None, psd: bool) -> View:
    """A fold in at most k directions: those that come first, or that its training pairs show.

    Args:
        nested: the columns of the basis are taken as they come.
        exact: how consistent pairs span the basis.
        psd: negative eigenvalues of a candidate count as zero.
    """
    rows = {b: Rows.of(buckets[b]) for b in (*fold.train, *fold.test)}
    train = Rows.stack([rows[b] for b in fold.train])
    weight = sum(buckets[b].weight for b in fold.train)
    mean_y = sum(buckets[b].sum_y for b in fold.train) / (weight or 1.0)
    energies = np.array([buckets[b].energy_about(mean_y) if center else buckets[b].energy
                         for b in fold.test])
    if center:
        means = train.means()
        train = center_rows(train, means)
        rows = {b: center_rows(rows[b], means) for b in fold.test}
    if exact is not None:
        directions = spanning_directions(train, exact, rounding)
    elif nested:
        directions = np.eye(train.y.shape[1], k)
    else:
        directions = leading_directions(train.y, k, rounding)
    train = train.project(directions)
    n_train = sum(buckets[b].n_pairs for b in fold.train)
    return View(center, train.x.T @ train.x, train.x.T @ train.y,
                np.sum(train.y**2, axis=0), n_train,
                sum(buckets[b].n_pairs for b in fold.test), rounding, psd,
                [rows[b].project(directions) for b in fold.test], energies)


def score(views: list[View], sizes: list[int], ridges: tuple[float, ...]) -> list[Candidate]:
    """Judge every (k, λ) on every fold: squared residuals by bucket and rank.

    Sizes beyond what the pairs span are cut to it.
    """
    widest = min(view.s_xx.shape[0] for view in views)
    sizes = sorted({min(k, widest) for k in sizes})
    return [Candidate(views[0].center, k, ridge, squares)
            for k in sizes for ridge, squares in _score_size(views, k, ridges)]


def _score_size(views: list[View], k: int,
                ridges: tuple[float, ...]) -> Iterator[tuple[float, np.ndarray]]:
    fits = [fit_from_moments(view.s_xx[:k, :k], view.s_xy[:k, :k], view.rounding) for view in views]
    for ridge in ridges:
        yield ridge, np.concatenate([_squares(view, *eigenpairs_of(view, fit, ridge), k)
                                     for view, fit in zip(views, fits, strict=True)])


def semidefinite(views: list[View], candidate: Candidate) -> Candidate:
    """A candidate as it will be solved where H has no negative curvature, not merely cut."""
    k, squares = candidate.n_basis, []
    for view in views:
        fit = fit_from_moments(view.s_xx[:k, :k], view.s_xy[:k, :k], view.rounding)
        values, vectors = np.linalg.eigh(semidefinite_solve(fit, candidate.ridge)[0])
        squares.append(_squares(view, *sorted_eigenpairs(np.maximum(values, 0.0), vectors), k))
    return replace(candidate, squares=np.concatenate(squares))


def _squares(view: View, values: np.ndarray, directions: np.ndarray, k: int) -> np.ndarray:
    """Squared residual of every test, for the first 0..k eigenpairs."""
    out = np.empty((len(view.tests), k + 1))
    for i, test in enumerate(view.tests):
        gained = gains(Rows(test.one, test.x[:, :k], test.y[:, :k]), values, directions)
        out[i] = view.energies[i] - np.concatenate([[0.0], np.cumsum(gained)])
    return out


def eigenpairs_of(view: View, fit: SymmetricFit, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Eigenpairs (k,), (k, k) of a fold's fit, the largest in magnitude first."""
    values, vectors = np.linalg.eigh(fit.solve_in_axes(ridge))
    values, vectors = sorted_eigenpairs(np.maximum(values, 0.0) if view.psd else values, vectors)
    return values, fit.axes @ vectors


def error_of_sum(squares: np.ndarray) -> float:
    """Standard error of the sum of what each bucket adds (n_buckets,)."""
    return float(np.sqrt(squares.size) * squares.std(ddof=1)) if squares.size > 1 else 0.0
