"""Candidates judged by held-out pairs: squared residuals by bucket and rank, from small matrices.

A candidate (center, k, λ) is fitted on some buckets of pairs and judged on others that it has
not seen. One eigendecomposition gives its cuts to every rank (:mod:`lrh_dask.low_rank`), and two
products of matrices what each of them leaves of the pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lrh_dask.interpolation import Interpolation, spanning_directions
from lrh_dask.low_rank import Terms, gained_by_terms, noise_variance, terms_of
from lrh_dask.psd import semidefinite_solve
from lrh_dask.solve import (
    Rows,
    SymmetricFit,
    center_rows,
    fit_from_moments,
    leading_directions,
)
from lrh_dask.triangle import Triangle

__all__ = ["Candidate", "Fold", "OnFold", "View", "error_of_sum", "score", "solved", "view_of"]


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
    noisy: bool
    tests: list[Rows]
    energies: np.ndarray  # (n_tests,) squares of the (centred) test gradients, all features


def view_of(buckets: dict[int, Triangle], fold: Fold, center: bool, k: int, rounding: float, *,
            nested: bool, exact: Interpolation | None, psd: bool, noisy: bool = True) -> View:
    """A fold in at most k directions: those that come first, or that its training pairs show.

    Args:
        nested: the columns of the basis are taken as they come.
        exact: how consistent pairs span the basis.
        psd: H has no negative curvature.
        noisy: the pairs are not free of noise, and a fit is cut accordingly.
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
                sum(buckets[b].n_pairs for b in fold.test), rounding, psd, noisy,
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
    fits = [_fit_in(view, k) for view in views]
    for ridge in ridges:
        squares = []
        for view, fit in zip(views, fits, strict=True):
            # Where H is semidefinite a candidate is merely cut: to solve all would take too long.
            terms = terms_of(fit, fit.solve_in_axes(ridge), ridge, noisy=view.noisy, psd=view.psd)
            squares.append(_squares(view, terms.weights, terms.directions))
        yield ridge, np.concatenate(squares)


@dataclass(frozen=True, eq=False)
class OnFold:
    """One candidate on one fold, solved as the whole will be.

    Attributes:
        fit, m, terms: its factors, M̂ (k, k) in the axes of X, and the terms of that.
    """

    view: View
    fit: SymmetricFit
    m: np.ndarray
    terms: Terms

    def squares(self, n_terms: int | None = None) -> np.ndarray:
        """Squared residual of every test (n_tests, k+1), for the first 0..k terms.

        Args:
            n_terms: or for the eigenpairs of the cut to so many terms, the largest first.
        """
        if n_terms is None:
            return _squares(self.view, self.terms.weights, self.terms.directions)
        return _squares(self.view, *self.terms.eigenpairs(min(n_terms, self.m.shape[0])))

    def n_beyond_noise(self) -> int:
        """How many terms are more than noise."""
        k, view = self.m.shape[0], self.view
        m = self.fit.axes @ self.m @ self.fit.axes.T
        left = np.sum(view.y_squares[:k]) + np.sum(m * (m @ view.s_xx[:k, :k]
                                                       - 2.0 * view.s_xy[:k, :k]))
        return self.terms.n_beyond(noise_variance(float(left), view.n_train, k))


def solved(views: list[View], candidate: Candidate) -> list[OnFold]:
    """A candidate on every fold."""
    found = []
    for view in views:
        fit = _fit_in(view, candidate.n_basis)
        if view.psd:
            m = fit.axes.T @ semidefinite_solve(fit, candidate.ridge)[0] @ fit.axes
        else:
            m = fit.solve_in_axes(candidate.ridge)
        found.append(OnFold(view, fit, m, terms_of(fit, m, candidate.ridge, noisy=view.noisy,
                                                   psd=view.psd)))
    return found


def _fit_in(view: View, k: int) -> SymmetricFit:
    return fit_from_moments(view.s_xx[:k, :k], view.s_xy[:k, :k], view.rounding)


def _squares(view: View, weights: np.ndarray, directions: np.ndarray) -> np.ndarray:
    k = weights.size
    return view.energies[:, None] - gained_by_terms(
        weights, directions, [(test.x[:, :k], test.y[:, :k]) for test in view.tests])


def error_of_sum(squares: np.ndarray) -> float:
    """Standard error of the sum of what each bucket adds (n_buckets,)."""
    return float(np.sqrt(squares.size) * squares.std(ddof=1)) if squares.size > 1 else 0.0
