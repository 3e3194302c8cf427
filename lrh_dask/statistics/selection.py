"""Choosing by held-out pairs: basis size k, ridge λ, rank r, and whether there is an offset.

Candidates are judged in :mod:`lrh_dask.statistics.held_out`, :mod:`lrh_dask.statistics.grid` has
which are tried; here is who wins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lrh_dask.linalg.moments import Moments
from lrh_dask.linalg.triangle import Triangle
from lrh_dask.statistics.asked import Asked
from lrh_dask.statistics.chance import is_chance
from lrh_dask.statistics.evidence import likely_ridge
from lrh_dask.statistics.grid import (
    LARGE,
    OfSize,
    best_of,
    cuts_of,
    least_of,
    n_training,
    sizes_of,
    try_finer,
    try_sizes,
    widest,
)
from lrh_dask.statistics.held_out import (
    Candidate,
    Cut,
    Fold,
    OnFold,
    Split,
    View,
    by_bucket,
    error_of_sum,
    score,
    view_of,
)
from lrh_dask.statistics.interpolation import Interpolation

__all__ = ["Choice", "choose"]

REGRESSED = 2 / 3
"""Above this share of columns to pairs what H does beside them is no noise to the likelihood."""
LARGE_FOLDS = 2
"""Beyond LARGE columns the first LARGE_FOLDS folds are the judges of all."""
LIKELY = 2.0
"""Standard errors by which one whose smaller ridge the likelihood prefers may be worse."""
LITTLE = 0.01
"""Terms below the edge of noise must explain more than that share of what is left; a candidate
that leaves so much more is as good."""
GIVEN_UP = 0.05
"""The largest share of what the best rank explains that a smaller one may leave."""
PAIRS_TO_CENTER = 8
"""With fewer pairs per basis column, only a clear verdict of the held-out pairs centres."""


@dataclass(frozen=True)
class Choice:
    """What the held-out pairs chose, and how they judged it.

    Attributes:
        n_basis, ridge, rank, center: the choice; ``ridge`` is relative to tr(XᵀX)/k.
        held_out_residual: ‖Y - HX - b‖ / ‖Y‖ over held-out pairs, NaN where there were none.
        residual_by_rank: (k+1,) the same for every rank 0..k: eigenpairs of the cut, then of M
            beside it. Where an offset is fitted, rank 0 is what the offset alone leaves.
        residual_by_rank_error: (k+1,) its standard error over buckets.
        chance: pairs without any Hessian could have made it gain as much.
        n_terms: the fit is cut to so many terms (:mod:`lrh_dask.linalg.low_rank`) before its
            ``rank`` largest eigenpairs are taken; None: not cut.
    """

    n_basis: int
    ridge: float
    rank: int
    center: bool
    held_out_residual: float
    residual_by_rank: np.ndarray
    residual_by_rank_error: np.ndarray
    chance: bool = False
    n_terms: int | None = None


def choose(buckets: dict[int, Triangle], moments: dict[int, Moments], folds: list[Fold],
           asked: Asked, *, n_blind: int | None = None, rounding: float = 0.0,
           exact: Interpolation | None = None, noisy: bool = True) -> Choice:
    """Pick basis size, ridge, rank and centring by held-out pairs.

    Args:
        buckets: triangles of disjoint sets of pairs, over one basis of p columns.
        moments: of each bucket, :func:`lrh_dask.linalg.moments.moments_of`.
        folds: who is fitted on whom.
        asked: rank, offset and semidefiniteness, or to choose them.
        n_blind: so many first columns of the basis are sorted by dominance and have not seen
            the pairs that are judged on (a fitted basis); None: each fold finds its own directions.
        rounding: :func:`lrh_dask.linalg.solve.rounding_of` the pairs.
        exact: how consistent pairs are interpolated: then only the rank is chosen.
        noisy: the pairs are not free of noise, and a fit is cut accordingly.
    Cost: O((folds x candidates) p³), no pass over pairs.
    """
    rank = asked.rank
    n_pairs, n_train = sum(t.n_pairs for t in buckets.values()), n_training(buckets, folds)
    if n_blind is None and min(widest(buckets), n_train) > LARGE:
        folds = folds[:LARGE_FOLDS]
    energy = sum(buckets[b].energy for fold in folds for b in fold.test)
    sizes = sizes_of(buckets, folds, rank, n_blind) if exact is None else [exact.n_basis]
    if energy == 0 or not sizes:
        return Choice(n_basis=sizes[0] if sizes else 0, ridge=0.0, rank=0, center=False,
                      held_out_residual=0.0 if energy == 0 else 1.0,
                      residual_by_rank=np.array([float(energy > 0)]),
                      residual_by_rank_error=np.zeros(1))

    splits = [Split.of(moments, fold) for fold in folds]

    def views_of(centered: bool) -> list[View]:
        return [view_of(buckets, split, centered, sizes[-1], rounding, nested=n_blind is not None,
                        exact=exact, psd=asked.psd, noisy=noisy) for split in splits]

    if exact is not None:
        views = views_of(exact.center)
        cuts = cuts_of(views, exact.n_basis)
        best = score(cuts, (0.0,))[0]
    else:
        cuts, best = _search(views_of, sizes, asked, n_pairs, n_train, energy)
    on_folds = [cut.solved(best.ridge) for cut in cuts]
    best = replace(best, squares=np.concatenate([fold.squares_by_bucket() for fold in on_folds]))
    chance = is_chance(best, on_folds, energy)
    n_terms = 0 if chance else _n_terms(best, on_folds, energy)
    chosen = n_terms if rank is None else best.best_rank(rank)
    n_terms = max(n_terms, chosen)
    squares = np.concatenate([fold.squares_of_cut(n_terms) for fold in on_folds])
    by_rank = squares.sum(axis=0)
    k = best.n_basis if exact is None else exact.n_basis
    if exact is None and n_blind is None and k > n_train // 4:
        # the size was limited by the pairs: let it grow with them
        k = min(round(k * n_pairs / n_train), widest(buckets), n_pairs)
    return Choice(
        n_basis=k, ridge=best.ridge, rank=chosen, n_terms=n_terms, center=best.center,
        held_out_residual=_ratio(by_rank[chosen], energy),
        residual_by_rank=np.sqrt(np.maximum(by_rank, 0.0) / energy),
        residual_by_rank_error=_root_error(squares, np.array(
            [buckets[b].energy for fold in folds for b in fold.test])), chance=chance)


def _search(views_of: Callable[[bool], list[View]], sizes: list[int], asked: Asked,
            n_pairs: int, n_train: int, energy: float) -> tuple[list[Cut], Candidate]:
    """Centring, then basis size, then ridge; and the folds in the directions of the winner.

    Args:
        views_of: folds, centred or not.
    """
    # An offset shows at any basis size: it is decided on small ones.
    small = [k for k in sizes if k <= max(64, sizes[0])]
    center = asked.center
    folds = {c: views_of(c) for c in ((False, True) if center is None else (center,))}
    least = np.inf if asked.rank is None else None  # where a rank is asked another may win
    tried = {c: try_sizes(views, small, least) for c, views in folds.items()}
    if center is None:
        without, with_b = (_best_in_buckets(tried[c]) for c in (False, True))
        center = _decide_center(without, with_b, n_pairs)
    by_size = tried[center]
    if least is not None:
        least = min(least_of(scored).loss() for _, scored in by_size.values())
    by_size |= try_sizes(folds[center], [k for k in sizes if k not in small], least)
    cuts, scored = best_of(by_size)
    best = least_of(scored)
    scored = scored + try_finer(cuts, best, None if least is None else best.loss())
    best = _least_shrunk(scored, asked.rank, cuts, energy)
    if 0 < best.n_basis <= REGRESSED * n_train:
        best = _likelier(best, cuts, energy)
    return cuts, best


def _best_in_buckets(by_size: dict[int, OfSize]) -> Candidate:
    cuts, scored = best_of(by_size)
    return by_bucket(cuts, least_of(scored))


def _ratio(squares: float, energy: float) -> float:
    return float(np.sqrt(max(squares, 0.0) / energy)) if energy > 0 else 0.0


def _root_error(squares: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """Standard errors of the residuals √R, R = Σ squares / Σ energies over n buckets.

    Squares and energies vary together, so that of a ratio of sums:

        Var R ≈ n/(n-1) Σ (squares_b - R energies_b)² / (Σ energies)²,    error = √(Var R) / 2√R

    Args:
        squares: (n, ranks) left of each bucket; ``energies``: (n,) its own.
    Source: Cochran 1977 (Sampling Techniques), section 6.5.
    """
    n, total = squares.shape[0], float(energies.sum())
    if n < 2:
        return np.full(squares.shape[1], np.nan)
    ratio = np.maximum(squares.sum(axis=0), np.finfo(float).tiny) / total
    scatter = squares - energies[:, None] * ratio
    return np.sqrt(n / (n - 1.0) * np.sum(scatter**2, axis=0)) / total / (2.0 * np.sqrt(ratio))


def _decide_center(without: Candidate, with_b: Candidate, n_pairs: int) -> bool:
    """Whether to fit an offset, from the best candidates without and with, bucket by bucket.

    One ignored costs much, a needless one little where points are spread about their mean, and
    what the mean would have said where they are not: centre where held-out pairs gain by it,
    and with few pairs only where the gain is clear. An offset is in all buckets alike, so each
    counts by the share of its own squares that it gains.
    """
    energies = without.at(0)
    gain = np.divide(without.at(None) - with_b.at(None), energies, out=np.zeros(energies.size),
                     where=energies > 0)
    error = error_of_sum(gain) or np.inf
    noise = 1e-12 * gain.size
    if n_pairs < PAIRS_TO_CENTER * max(with_b.n_basis, without.n_basis):
        return bool(gain.sum() > max(2.0 * error, noise))
    return bool(gain.sum() > noise)


def _least_shrunk(scored: list[Candidate], rank: int | None, cuts: list[Cut],
                  energy: float) -> Candidate:
    """The least held-out residual; where a rank is asked, what serves it better with less ridge.

    The ridge that is best for all of H may shrink its largest eigenvalues more than noise blurs
    them. A larger one never: a fit that is cut short is better off shrunk, its eigenvalues are not.
    A smaller one may cost a LITTLE only where it holds nothing back: where x hardly goes noise
    would come in, and be the largest eigenvalue.
    """
    best = least_of(scored)
    if rank is None:
        return best
    little = 0.0 if _holds_back(best, cuts) else LITTLE

    def in_buckets(v: Candidate) -> np.ndarray:
        own = v.best_rank(None)
        return by_bucket(cuts, v, own).at(own)

    def as_good(v: Candidate) -> bool:
        worse = v.loss() - best.loss()
        return worse <= max(little * best.loss(), 1e-14 * energy) or worse <= error_of_sum(
            in_buckets(v) - in_buckets(best))

    smaller = (v for v in scored if v.ridge <= best.ridge)
    return next(v for v in sorted(smaller, key=lambda v: v.loss(rank)) if as_good(v))


def _holds_back(candidate: Candidate, cuts: list[Cut]) -> bool:
    """Whether there are directions in which the ridge decides, and not the pairs."""
    return any(np.linalg.eigvalsh(cut.train.xx).min(initial=np.inf)
               <= candidate.ridge * np.trace(cut.train.xx) / candidate.n_basis for cut in cuts)


def _likelier(best: Candidate, cuts: list[Cut], energy: float) -> Candidate:
    """The ridge of largest likelihood, where it is smaller and hardly worse on held-out pairs.

    A ridge shrinks eigenvalues, and held-out pairs do not mind where x has settled in the
    strongest curvature: both must ask for it.
    """
    likely = _likely_ridge(cuts) if best.ridge else 0.0
    if likely >= best.ridge:
        return best
    by_rank = by_bucket(cuts, best)
    rank = _one_standard_error(by_rank.squares, energy)
    smaller = score(cuts, (likely,))[0]
    loss = by_bucket(cuts, smaller, rank).at(rank) - by_rank.at(rank)
    as_good = loss.sum() <= max(LIKELY * error_of_sum(loss), 1e-14 * energy)
    return smaller if as_good else best


def _likely_ridge(cuts: list[Cut]) -> float:
    """The ridge of largest likelihood, in the middle of those of the folds."""
    return float(np.median([likely_ridge(cut.train.xx, cut.train.xy, cut.y_energy, cut.view.n_train)
                            for cut in cuts]))


def _n_terms(best: Candidate, folds: list[OnFold], energy: float) -> int:
    """How many terms are kept: what held-out pairs ask for, and no more than what is not noise.

    Where x hardly goes, a few terms of noise may seem to help a little.
    """
    rank = _one_standard_error(best.squares, energy)
    beyond = int(np.median([fold.n_beyond_noise() for fold in folds]))
    slack = LITTLE * best.loss()
    return beyond if beyond < rank and best.loss(beyond) - best.loss() <= slack else rank


def _one_standard_error(squares: np.ndarray, energy: float) -> int:
    """The smallest rank whose held-out residual is within one standard error of the best.

    The error is that of the *difference* to the best rank, bucket by bucket. Where one bucket
    holds nearly all energy errors say nothing: no rank is given up that explains a noticeable
    part.
    """
    totals = squares.sum(axis=0)
    difference = squares - squares[:, [int(np.argmin(totals))]]
    n = squares.shape[0]
    error = np.sqrt(n) * difference.std(axis=0, ddof=1) if n > 1 else np.zeros_like(totals)
    loss = difference.sum(axis=0)
    good = loss <= np.maximum(np.minimum(error, GIVEN_UP * loss[0]), 1e-14 * energy)
    return int(np.argmax(good))
