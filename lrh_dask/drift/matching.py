"""Which eigenvalue of one run is which of another.

Two eigenvectors with cos² > 1/2 are the same one: the squares of a row or column of UᵀV add up to
1 at most (Bessel), so no other can be. That says nothing where eigenvalues cannot be told apart,
for the vectors of a cluster may be turned in any way: those, and all that were not followed, are
paired in order within their sign, the largest in magnitude first. By order is how eigenvalues
move least (Hoffman & Wielandt 1953), so it makes no drift that is not there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrh_dask.statistics.hessian import LowRankHessian

__all__ = ["APART", "Match", "match", "neighbours_apart"]

SAME = 0.5
"""Eigenvectors of a larger cos² are the same one."""
APART = 3.0
"""Eigenvalues that differ by so many joint standard errors are told apart."""
ROUNDING = 1e-8
"""Share of the largest eigenvalue that is rounding, where errors are missing."""


@dataclass(frozen=True)
class Match:
    """One eigenvalue in two runs.

    Attributes:
        before, after: places in the two runs, None where it was not found.
        overlap: cos² of the two eigenvectors; NaN where there is only one.
        followed: paired by direction, not by order.
    """

    before: int | None
    after: int | None
    overlap: float
    followed: bool


def match(before: LowRankHessian, after: LowRankHessian) -> tuple[Match, ...]:
    """Every eigenvalue of both runs once, in the order of ``before``, then those that are new.

    Cost: O(D r²) flops.
    """
    cos2 = (before.eigenvectors.T @ after.eigenvectors) ** 2
    alone = np.outer(neighbours_apart(before), neighbours_apart(after))
    partner = {int(i): int(j) for i, j in np.argwhere((cos2 > SAME) & alone)}
    followed = set(partner)
    for sign in (1.0, -1.0):
        rest_before = _in_order(before.eigenvalues, sign, set(partner))
        rest_after = _in_order(after.eigenvalues, sign, set(partner.values()))
        partner |= dict(zip(rest_before, rest_after, strict=False))
    here = [Match(i, partner.get(i), float(cos2[i, partner[i]]) if i in partner else np.nan,
                  i in followed) for i in range(before.rank)]
    new = sorted(set(range(after.rank)) - set(partner.values()))
    return (*here, *(Match(None, j, np.nan, followed=False) for j in new))


def neighbours_apart(hessian: LowRankHessian) -> np.ndarray:
    """Which eigenvalues are told apart from all others of the same run (r,)."""
    values, errors = hessian.eigenvalues, np.nan_to_num(hessian.standard_errors)
    joint = np.maximum(APART * np.hypot(errors[:, None], errors[None, :]),
                       ROUNDING * np.abs(values).max(initial=0.0))
    gaps = np.abs(values[:, None] - values[None, :])
    np.fill_diagonal(gaps, np.inf)
    return np.asarray((gaps > joint).all(axis=1))


def _in_order(values: np.ndarray, sign: float, taken: set[int]) -> list[int]:
    """Places of the eigenvalues of a sign that are not taken, the largest in magnitude first."""
    mine = [i for i in range(values.size) if i not in taken and np.copysign(1.0, values[i]) == sign]
    return sorted(mine, key=lambda i: -abs(values[i]))
