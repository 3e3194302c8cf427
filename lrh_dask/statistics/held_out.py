"""Candidates judged by held-out pairs: squared residuals by fold and rank, from small matrices.

A candidate (center, k, λ) is fitted on some buckets of pairs and judged on others that it has
not seen. One eigendecomposition gives its cuts to every rank (:mod:`lrh_dask.linalg.low_rank`), and
a few products of (k, k) matrices what each of them leaves of the pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import solve_triangular

from lrh_dask.linalg.arrays import lower_factor
from lrh_dask.linalg.low_rank import (
    Terms,
    gained_by_eigenpairs,
    gained_by_terms,
    noise_variance,
    terms_of,
)
from lrh_dask.linalg.moments import Moments, Point, Products, pooled
from lrh_dask.linalg.psd import semidefinite_solve
from lrh_dask.linalg.solve import (
    MANY,
    Rows,
    SymmetricFit,
    center_rows,
    directions_of_square,
    fit_from_moments,
    leading_directions,
)
from lrh_dask.linalg.triangle import Triangle
from lrh_dask.statistics.interpolation import Interpolation, spanning_directions

__all__ = ["Candidate", "Cut", "Fold", "OnFold", "Split", "View", "by_bucket", "error_of_sum",
           "score", "view_of"]

LEAST_PIVOT, ROUNDING = 1e-6, 1e-9
"""The least relative pivot of test pairs whose best fit is known to that share of their squares."""
NO_RIDGE = 5e-3
"""A ridge that changes no entry of M by twice that share of it spares as little of the noise."""


@dataclass(frozen=True)
class Fold:
    """Buckets to fit on and buckets to judge on."""

    train: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Candidate:
    """Squared residual of one candidate by rank (n_parts, k+1): of each fold, or each bucket."""

    center: bool
    n_basis: int
    ridge: float
    squares: np.ndarray

    def best_rank(self, rank: int | None) -> int:
        """The rank asked for, or the one of least held-out residual."""
        totals = self.squares.sum(axis=0)
        return int(np.argmin(totals)) if rank is None else min(rank, totals.size - 1)

    def at(self, rank: int | None) -> np.ndarray:
        """Squared residual by part, at a rank (or the last there is), or the best one."""
        return self.squares[:, self.best_rank(rank)]

    def loss(self, rank: int | None = None) -> float:
        """Squared residual over all parts."""
        return float(self.at(rank).sum())


@dataclass(frozen=True, eq=False)
class Split:
    """The pairs of a fold: moments of those it is fitted on, and of those that judge."""

    fold: Fold
    train: Moments
    test: Moments
    tests: list[Moments]

    @staticmethod
    def of(moments: dict[int, Moments], fold: Fold) -> Split:
        """From the moments of each bucket."""
        tests = [moments[b] for b in fold.test]
        return Split(fold, pooled([moments[b] for b in fold.train]), pooled(tests), tests)


@dataclass(frozen=True, eq=False)
class View:
    """One fold, about a point and in directions that its training pairs alone have chosen.

    Attributes:
        point: means of x and y that are taken off, None without an offset.
        directions: (p, K), of which a candidate takes the first k.
        train, test: products about the point.
        energies: (n_tests,) squares of test gradients about the point, all features.
    """

    split: Split
    point: Point | None
    directions: np.ndarray
    train: Products
    test: Products
    energies: np.ndarray
    n_train: int
    n_test: int
    rounding: float
    psd: bool
    noisy: bool

    def cut(self, k: int) -> Cut:
        """The fold in its first k directions."""
        directions = self.directions[:, :k]
        train = self.train.project(directions)
        fit = fit_from_moments(train.xx, train.xy, self.rounding)
        return Cut(self, directions, train, fit, self.test.project(directions @ fit.axes))


@dataclass(frozen=True, eq=False)
class Cut:
    """A fold in k directions.

    Attributes:
        directions: (p, k).
        train: products of the training pairs, ``fit``: their factors.
        test: products of the test pairs in the axes of X.
    """

    view: View
    directions: np.ndarray
    train: Products
    fit: SymmetricFit
    test: Products

    @property
    def n_basis(self) -> int:
        """Columns k."""
        return int(self.directions.shape[1])

    @cached_property
    def floor(self) -> float:
        """What the matrix that suits the test pairs best leaves of them; 0 where x hardly goes."""
        root = lower_factor(self.test.xx, LEAST_PIVOT)
        if root is None:
            return 0.0
        explained = solve_triangular(root, self.test.xy, lower=True, check_finite=False)
        return float(self.view.energies.sum() - np.sum(explained**2))

    def is_none(self, ridge: float) -> bool:
        """Whether a ridge changes next to nothing, whatever the pairs say."""
        least = float(self.fit.seen.min(initial=np.inf))
        return 0 < ridge * self.fit.scale < NO_RIDGE * least**2

    @property
    def y_energy(self) -> float:
        """‖Y‖² of the training pairs in these directions."""
        yy = self.view.split.train.yy_about(self.view.point)
        return float(np.sum(self.directions * (yy @ self.directions)))

    def merely_cut(self, ridge: float) -> OnFold:
        """A candidate, of which a semidefinite H is merely cut: to solve all takes too long."""
        return self._on_fold(self.fit.solve_in_axes(ridge), ridge)

    def solved(self, ridge: float) -> OnFold:
        """A candidate as the whole will be solved."""
        if not self.view.psd:
            return self.merely_cut(ridge)
        axes = self.fit.axes
        return self._on_fold(axes.T @ semidefinite_solve(self.fit, ridge)[0] @ axes, ridge)

    def _on_fold(self, m: np.ndarray, ridge: float) -> OnFold:
        return OnFold(self, m, terms_of(self.fit, m, ridge, noisy=self.view.noisy,
                                        psd=self.view.psd))


@dataclass(frozen=True, eq=False)
class OnFold:
    """One candidate on one fold: M̂ (k, k) in the axes of X, and its terms."""

    cut: Cut
    m: np.ndarray
    terms: Terms

    def squares(self) -> np.ndarray:
        """Squared residual of all tests for the first 0..k terms (k+1,)."""
        return self.cut.view.energies.sum() - gained_by_terms(
            self.terms.weights, self.terms.in_axes, self.cut.test)

    def squares_by_bucket(self, most: int | None = None) -> np.ndarray:
        """The same of each test (n_tests, m+1), for at most so many terms."""
        return self._by_bucket(gained_by_terms, self.terms.weights[:most],
                               self.terms.directions[:, :most])

    def squares_of_cut(self, n_terms: int) -> np.ndarray:
        """For the eigenpairs of the cut to so many terms, the largest first (n_tests, k+1)."""
        return self._by_bucket(gained_by_eigenpairs,
                               *self.terms.eigenpairs(min(n_terms, self.m.shape[0])))

    def n_beyond_noise(self) -> int:
        """How many terms are more than noise."""
        cut, axes = self.cut, self.cut.fit.axes
        m = axes @ self.m @ axes.T
        left = cut.y_energy + np.sum(m * (m @ cut.train.xx - 2.0 * cut.train.xy))
        return self.terms.n_beyond(noise_variance(float(left), cut.view.n_train, m.shape[0]))

    def _by_bucket(self, gained: Callable[[np.ndarray, np.ndarray, Products], np.ndarray],
                   weights: np.ndarray, directions: np.ndarray) -> np.ndarray:
        view, directions = self.cut.view, self.cut.directions @ directions
        return view.energies[:, None] - [gained(weights, directions, test.about(view.point))
                                         for test in view.split.tests]


def view_of(buckets: dict[int, Triangle], split: Split, center: bool, k: int, rounding: float, *,
            nested: bool, exact: Interpolation | None, psd: bool, noisy: bool = True) -> View:
    """A fold in at most k directions: those that come first, or that its training pairs show.

    Args:
        nested: the columns of the basis are taken as they come.
        exact: how consistent pairs span the basis.
        psd: H has no negative curvature.
        noisy: the pairs are not free of noise, and a fit is cut accordingly.
    """
    fold = split.fold
    weight = sum(buckets[b].weight for b in fold.train)
    mean_y = sum(buckets[b].sum_y for b in fold.train) / (weight or 1.0)
    energies = np.array([buckets[b].energy_about(mean_y) if center else buckets[b].energy
                         for b in fold.test])
    point = split.train.mean if center else None
    n_train, n_test = (sum(buckets[b].n_pairs for b in part) for part in (fold.train, fold.test))
    p = split.train.yy.shape[0]
    if nested and exact is None:
        directions = np.eye(p, k)
    elif exact is None and n_train > MANY * p:
        directions = directions_of_square(split.train.yy_about(point), k, rounding)
    else:
        rows = Rows.stack([Rows.of(buckets[b]) for b in fold.train])
        rows = rows if point is None else center_rows(rows, point)
        directions = (leading_directions(rows.y, k, rounding) if exact is None
                      else spanning_directions(rows, exact, rounding))
    return View(split, point, directions, split.train.about(point), split.test.about(point),
                energies, n_train, n_test, rounding, psd, noisy)


def score(cuts: list[Cut], ridges: tuple[float, ...],
          least: float | None = np.inf) -> list[Candidate]:
    """Judge every λ on every fold: squared residuals by fold and rank.

    Args:
        least: those that are certain to leave more than this, or than one before them, are left
            out; None: none is.
    """
    center, k = cuts[0].view.point is not None, cuts[0].n_basis
    rounding = ROUNDING * sum(float(cut.view.energies.sum()) for cut in cuts)
    scored: list[Candidate] = []
    for ridge in ridges:
        squares: list[np.ndarray] = []
        for i, cut in enumerate(cuts):
            if least is not None and rounding + least < sum(
                    float(of_fold.min()) for of_fold in squares) + sum(
                    rest.floor for rest in cuts[i:]):
                break
            squares.append(cut.merely_cut(ridge).squares())
        else:
            scored.append(Candidate(center, k, ridge, np.array(squares)))
            least = None if least is None else min(least, scored[-1].loss())
    return scored


def by_bucket(cuts: list[Cut], candidate: Candidate, most: int | None = None) -> Candidate:
    """A candidate as it was scored, bucket by bucket; for ranks up to ``most``."""
    return replace(candidate, squares=np.concatenate([
        cut.merely_cut(candidate.ridge).squares_by_bucket(most) for cut in cuts]))


def error_of_sum(squares: np.ndarray) -> float:
    """Standard error of the sum of what each bucket adds (n_buckets,)."""
    return float(np.sqrt(squares.size) * squares.std(ddof=1)) if squares.size > 1 else 0.0
