"""Whether pairs without any Hessian could have looked as good: two null models.

Shuffled rows: no row of y belongs to the x beside it. It needs rows that do not depend on each
other. An antisymmetric matrix in the place of H: what makes any matrix predict held-out pairs
(rows like their neighbours, a few rows of great length) lets it do so too. It needs x in several
directions of about equal length.
"""

from __future__ import annotations

import numpy as np

from lrh_dask.statistics.held_out import Candidate, OnFold, error_of_sum

__all__ = ["antisymmetric_share", "beyond_shuffled", "is_chance"]

NULL_ERRORS = 3.5
"""Without any Hessian in the pairs, the best of a hundred candidates gains by three too often."""
MOST, NOTICEABLE, SHUFFLED = 0.5, 0.1, 5.0
"""Explaining MOST of the squares is no chance, nor a NOTICEABLE part where x and y agree beyond
SHUFFLED standard deviations of what shuffled rows give and an antisymmetric matrix falls short:
the further, the less is explained."""
UNSYMMETRIC, LOPSIDED = 0.3, 0.95
"""Pairs of no H are told by an antisymmetric matrix that explains so much of the way from what is
expected to all; where x makes it explain nearly all of any H, symmetry cannot be seen."""


def is_chance(best: Candidate, folds: list[OnFold], energy: float) -> bool:
    """Whether pairs without any Hessian could have made the best candidate gain as much.

    They could where an antisymmetric matrix explains about as much, though little of that is due to
    the lengths of x. They could not where it gains by NULL_ERRORS standard errors, or explains
    MOST of the squares.
    Where one bucket holds nearly all energy (the first steps of a descent) errors over buckets
    say nothing; there a noticeable part must be explained, the other buckets must gain by one
    standard error, x and y agree beyond what they would in shuffled rows (which rules out chance
    in rows that do not depend on each other) and an antisymmetric matrix explain less than that
    share of what is expected of it (which rules it out in rows that do).
    NULL_ERRORS allows for the choice among many candidates.
    """
    gain = best.at(0) - best.at(None)
    gained, total = float(gain.sum()), best.loss(0)
    if gained <= 1e-14 * energy:
        return True
    found, expected = antisymmetric_share(folds, best)
    if expected < LOPSIDED and found > expected + UNSYMMETRIC * (1.0 - expected):
        return True
    if gained > NULL_ERRORS * error_of_sum(gain) or gained >= MOST * total:
        return False
    others = np.delete(gain, int(np.argmax(best.at(0))))
    return (gained < NOTICEABLE * total or float(others.sum()) < error_of_sum(others)
            or beyond_shuffled(folds, best.best_rank(None)) < SHUFFLED
            or found * MOST * total > expected * gained)


def beyond_shuffled(folds: list[OnFold], rank: int) -> float:
    """By how many standard deviations held-out x and y agree beyond those of shuffled rows.

    Were the rows of y in another order, Σ xᵀH y would have mean zero (means aside) and about the
    variance tr(H XᵀX H YᵀY) / n. Rows whose lengths go together, or that depend on their
    neighbours, agree beyond that without any H: no test by itself.

    Source: Mantel 1967 (permutation of one of two sets of rows).
    """
    agreement = variance = 0.0
    for fold in folds:
        view, weights = fold.cut.view, fold.terms.weights[:rank]
        directions = fold.cut.directions @ fold.terms.directions[:, :rank]
        test = view.test.project(directions)
        yy = directions.T @ view.split.test.yy_about(view.point) @ directions
        agreement += float(weights @ np.diag(test.xy))
        variance += float(weights @ (test.xx * yy) @ weights) / view.n_test
    return agreement / variance**0.5 if variance > 0 else 0.0


def antisymmetric_share(folds: list[OnFold], candidate: Candidate) -> tuple[float, float]:
    """What the best antisymmetric matrix explains of held-out pairs, over what M explains at best.

    Pairs of a symmetric H are explained by A = -Aᵀ only as far as x is longer along one of two
    directions than along the other: A_ij = H_ij r_ij, r_ij = (σ_i² - σ_j²) / (σ_i² + σ_j²). Where x
    and y are of no H, A explains as much as M does, however strongly rows depend on each other.

    Returns:
        (found, expected): the share, and what it would be for H = M without noise.
    """
    gained = 0.0
    expected = np.zeros(2)
    for fold in folds:
        cut, fit, m = fold.cut, fold.cut.fit, fold.m
        square = fit.sigma**2
        both = square[:, None] + square[None, :]
        cross = fit.axes.T @ cut.train.xy @ fit.axes
        a = np.divide(cross - cross.T, both + 2.0 * candidate.ridge * fit.scale,
                      out=np.zeros_like(cross), where=both > 0)
        gained += float(np.sum(a * (2.0 * cut.test.xy - cut.test.xx @ a)))
        r = np.divide(square[:, None] - square[None, :], both, out=np.zeros_like(both),
                      where=both > 0)
        expected += [np.sum(m**2 * both * r**2), np.sum(m**2 * both)]
    by_m = candidate.loss(0) - candidate.loss()
    return (gained / by_m if by_m > 0 else 1.0,
            float(expected[0] / expected[1]) if expected[1] > 0 else 1.0)
