"""The grid: which basis sizes and ridges are tried, and which leaves least of held-out pairs.

Sizes go from large to small, each with a few ridges; more ridges follow at the size chosen. What is
certain to lose is left out (:func:`lrh_dask.statistics.held_out.score`), and ridges that change
nothing.
"""

from __future__ import annotations

import numpy as np

from lrh_dask.linalg.triangle import Triangle
from lrh_dask.statistics.held_out import Candidate, Cut, Fold, View, score

__all__ = ["LARGE", "OfSize", "best_of", "cuts_of", "least_of", "n_training", "sizes_of",
           "try_finer", "try_sizes", "widest"]

COARSE_RIDGES = (0.0, 1e-5, 1e-3, 1e-2, 1e-1)
FINE_RIDGES = (1e-10, 1e-7, 1e-6, 1e-4, 1.0, *(10.0 ** (e / 2) for e in range(-13, 0, 2)))
"""Tried at every basis size; and beside those at the chosen one (near the best, if LARGE)."""
SHARES = (1 / 3, 1 / 2, 2 / 3, 4 / 5, 9 / 10)
"""Basis sizes, as shares of the pairs, where pairs are few."""
LARGE = 384
"""Beyond so many columns only ridges near the best coarse one follow."""

OfSize = tuple[list[Cut], list[Candidate]]
"""The folds in k directions, and what was tried there."""


def sizes_of(buckets: dict[int, Triangle], folds: list[Fold], rank: int | None,
             n_blind: int | None = None) -> list[int]:
    """Basis sizes worth a try: a ladder, and shares of the number of pairs."""
    p = widest(buckets) if n_blind is None else n_blind
    n_train = n_training(buckets, folds)
    top = min(p, n_train)
    low = min(top, max(8, 0 if rank is None else rank))
    ladder = [k for k in (round(low * 2 ** (i / 2)) for i in range(40)) if k < min(top, 128)]
    ladder += [k for k in (128 * 4**i for i in range(20)) if k < top]
    shares = [round(n_train * share) for share in SHARES] if top == n_train else [2 * p // 3]
    return sorted({k for k in (*ladder, *shares, top) if low <= k <= top and k >= 1})


def try_sizes(views: list[View], sizes: list[int], least: float | None) -> dict[int, OfSize]:
    """The coarse ridges in k directions, by k where one of them may win.

    Sizes beyond what the pairs span are cut to it; the largest come first, since it is they that
    show others to be too small.

    Args:
        least: see :func:`lrh_dask.statistics.held_out.score`.
    """
    found: dict[int, OfSize] = {}
    for k in reversed(sizes):
        cuts = cuts_of(views, k)
        if cuts[0].n_basis not in found and (scored := score(
                cuts, _telling(COARSE_RIDGES, cuts), least)):
            found[cuts[0].n_basis] = cuts, scored
            least = None if least is None else min(least, least_of(scored).loss())
    return dict(reversed(found.items()))


def best_of(by_size: dict[int, OfSize]) -> OfSize:
    """The size at which a candidate leaves least."""
    return min(by_size.values(), key=lambda of_size: least_of(of_size[1]).loss())


def try_finer(cuts: list[Cut], best: Candidate, least: float | None) -> list[Candidate]:
    """Ridges beside the coarse ones, of which ``best`` has the best."""
    low, high = 0.0, np.inf
    if best.n_basis > LARGE:
        least_tried = next(r for r in (*_telling(COARSE_RIDGES, cuts), np.inf) if r)
        low, high = (best.ridge / 32.0, best.ridge * 32.0) if best.ridge else (0.0, least_tried)
    return score(cuts, _telling(tuple(r for r in FINE_RIDGES if low <= r < high), cuts), least)


def cuts_of(views: list[View], k: int) -> list[Cut]:
    """Each fold in its first k directions, or as many as all have."""
    k = min(k, *(view.directions.shape[1] for view in views))
    return [view.cut(k) for view in views]


def least_of(scored: list[Candidate]) -> Candidate:
    """The candidate that leaves least."""
    return min(scored, key=Candidate.loss)


def widest(buckets: dict[int, Triangle]) -> int:
    """Columns p of the triangles."""
    return next(iter(buckets.values())).n_basis


def n_training(buckets: dict[int, Triangle], folds: list[Fold]) -> int:
    """Pairs that the smallest fold is fitted on."""
    return min(sum(buckets[b].n_pairs for b in fold.train) for fold in folds)


def _telling(ridges: tuple[float, ...], cuts: list[Cut]) -> tuple[float, ...]:
    """Those that are zero, or more than next to nothing."""
    return tuple(ridge for ridge in ridges if not all(cut.is_none(ridge) for cut in cuts))
