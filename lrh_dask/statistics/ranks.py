"""Which rank is kept: the one asked for, the pairs' own, or the one that held-out pairs chose."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lrh_dask.linalg.low_rank import Estimate
from lrh_dask.linalg.solve import gains
from lrh_dask.linalg.triangle import Triangle
from lrh_dask.statistics.asked import Asked
from lrh_dask.statistics.interpolation import Interpolation, n_borne_out
from lrh_dask.statistics.selection import Choice

__all__ = ["Kept", "kept_rank"]

NEGLIGIBLE = 1e-12
"""Eigenvalues below this share of the largest are rounding."""


@dataclass(frozen=True)
class Kept:
    """The rank of a fit, and what is known of it.

    Attributes:
        rank: eigenpairs kept.
        held_out_residual: at this rank, NaN where nothing could be held out.
        was_asked: not chosen by the fit.
        n_borne_out: so many first eigenpairs are shown by exact pairs along them.
        notices: what could not be done as asked.
    """

    rank: int
    held_out_residual: float
    was_asked: bool
    n_borne_out: int = 0
    notices: tuple[str, ...] = ()


def kept_rank(asked: Asked, found: Estimate, choice: Choice, exact: Interpolation | None,
              total: Triangle, rounding: float, *, judged: bool) -> Kept:
    """The rank of a fit, and what is known of it.

    Args:
        total: the triangle of all pairs.
        exact: how the pairs were interpolated, if so.
        judged: there were pairs to hold out.
    """
    if exact is not None:
        kept = _kept_of_exact(asked, found, choice, exact, rounding)
    else:
        rank = asked.rank or (choice.rank if judged else _n_beyond_rounding(found))
        kept = Kept(rank, choice.held_out_residual, was_asked=asked.rank is not None)
    if asked.rtol is not None:
        kept = _within(asked.rtol, kept, total, found, choice)
    most = _n_positive(found) if asked.psd else found.values.size
    if kept.rank <= most:
        return kept
    said = (f"rank {kept.rank} was asked for; the pairs show {most} "
            f"{'directions of positive curvature' if asked.psd else 'directions'}",)
    return replace(kept, rank=most, notices=kept.notices + said * (asked.rank is not None))


def _n_beyond_rounding(found: Estimate) -> int:
    size = np.abs(found.values)
    return int(np.count_nonzero(size > NEGLIGIBLE * size.max(initial=0.0)))


def _n_positive(found: Estimate) -> int:
    return int(np.count_nonzero(found.values > NEGLIGIBLE * found.values.max(initial=0.0)))


def _kept_of_exact(asked: Asked, found: Estimate, choice: Choice, exact: Interpolation,
                   rounding: float) -> Kept:
    """Pairs without noise need no others to vouch for an eigenpair where x probes it.

    Where H is semidefinite and M its Nyström approximation, H ⪰ M ⪰ every cut of M: no cut is
    nearer to H, in any unitarily invariant norm.
    Where each pair was made of others, leaving some out tells nothing.
    """
    if exact.span == "y":
        borne_out, rank = 0, exact.rank or _n_beyond_rounding(found)
    else:
        borne_out = n_borne_out(found.rows, found.values, found.vectors, rounding)
        rank = borne_out or choice.rank
    rank = asked.rank or rank
    curve = choice.residual_by_rank
    held_out = (float("nan") if exact.span == "both"
                else float(curve[min(rank, curve.size - 1)]))
    return Kept(rank, held_out, was_asked=asked.rank is not None, n_borne_out=borne_out)


def _within(rtol: float, kept: Kept, total: Triangle, found: Estimate, choice: Choice) -> Kept:
    """The smallest rank within a residual, over all pairs and over those held out.

    What an offset explains is no merit of H: residuals are shares of ‖Y - b‖.
    """
    unexplained = (total.energy_about(total.sum_y / total.weight) if choice.center
                   else total.energy)
    gained = gains(found.rows, found.values, found.vectors)
    squares = unexplained - np.concatenate([[0.0], np.cumsum(gained)])
    curve = np.sqrt(np.maximum(squares, 0.0) / unexplained) if unexplained > 0 else np.zeros(1)
    held_out = np.full(curve.size, np.inf)
    known = min(curve.size, choice.residual_by_rank.size)
    if known and choice.residual_by_rank[0] > 0:
        held_out[:known] = choice.residual_by_rank[:known] / choice.residual_by_rank[0]
    unjudged = bool(np.isnan(kept.held_out_residual))
    if unjudged:
        held_out[:] = 0.0
    within = np.flatnonzero(np.maximum(curve, held_out) <= rtol)
    if not within.size:
        least = float(np.min(np.maximum(curve, held_out)))
        return replace(kept, notices=(
            f"rtol {rtol:g} was not reached: the least residual of any rank, over all pairs and "
            f"held out, is {least:.3g}; what is left is noise, or curvature beyond the basis",))
    rank = int(within[0])
    return replace(
        kept, rank=rank, was_asked=True,
        held_out_residual=(kept.held_out_residual if unjudged
                           else float(choice.residual_by_rank[rank])),
        notices=(f"rtol {rtol:g} is met by the pairs that were fitted, and was not checked on "
                 "others: too few, or each made of the others",) * unjudged)
