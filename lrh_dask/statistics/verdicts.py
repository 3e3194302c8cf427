"""The outcome of a fit in one word, whose value says in full what it means and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from lrh_dask.statistics.selection import Choice

__all__ = ["Grounds", "Verdict", "decide_verdict"]

CONVERGED = 0.02
"""What is left over is little."""
FEWEST_JUDGED = 20
"""Fewer pairs with noise cannot tell it from curvature."""
TWICE, LESS = 2.0, 1.2
"""Residuals that differ by a factor of two say different things; a rank that leaves so much more
than the best one leaves out curvature."""


class Verdict(Enum):
    """The outcome of a fit; each value says what it means and what to do."""

    converged = (
        "The rank-r Hessian explains pairs it has not seen about as well as those it was "
        "fitted on (or exact pairs along its own eigenvectors bear it out), and little is left "
        "over. Use it.")
    noisy = (
        "The rank-r Hessian explains pairs it has not seen as well as those it was fitted on, "
        "but what is left over is noise (or curvature spread over many directions) of "
        "noticeable size. Trust an eigenvalue only beyond its standard error; more pairs, or "
        "larger batches behind each gradient, lower it.")
    rank_limited = (
        "The asked rank or basis size leaves out curvature that the pairs do show. "
        "Raise `rank` (or use `rank: auto`), or give the workers more memory.")
    underdetermined = (
        "There are too few pairs to check the fit on pairs it has not seen, it fails that check, "
        "or x explores directions of the basis not at all, or so little that errors and bias "
        "reach half of H. It reproduces the given pairs, and may be far off "
        "elsewhere. Record more pairs, with x in more directions.")
    inconsistent = (
        "Nothing recoverable: no low-rank symmetric H predicts held-out gradients better than "
        "H = 0, or than chance or an antisymmetric matrix would. Check that y are gradient "
        "differences (or Hessian products) of the very x in the same row, "
        "taken on the same batch; for gradients at points, leave `center` at auto.")


@dataclass(frozen=True)
class Grounds:
    """What a verdict rests on beside the residuals.

    Attributes:
        n_pairs: effective pairs.
        n_explored: directions of the basis along which x differs from zero.
        basis_is_full: more columns could have been used, had the workers' memory allowed it.
        rank_was_asked: not chosen by the fit.
        undetermined: y has as many directions as x explores, and x does not explore all of R^D;
            or errors and bias reach half of H.
        consistent: the pairs are those of one H to rounding, so too few at worst.
        borne_out: exact pairs show every eigenpair, see :mod:`lrh_dask.statistics.interpolation`.
        floor: residuals below this are rounding.
    """

    n_pairs: float
    n_explored: int
    basis_is_full: bool = False
    rank_was_asked: bool = False
    undetermined: bool = False
    consistent: bool = False
    borne_out: bool = False
    floor: float = 1e-6


def decide_verdict(residual: float, choice: Choice, rank: int, grounds: Grounds) -> Verdict:
    """The outcome of a fit of a rank, from its residuals.

    What an offset explains is no merit of H: residuals are judged against the one of rank 0,
    which is ‖Y - b‖ / ‖Y‖.

    Args:
        residual: ‖Y - HX - b‖ / ‖Y - b‖ over all pairs.
    """
    floor, asked = grounds.floor, grounds.rank_was_asked
    if grounds.borne_out and (residual <= CONVERGED or asked):
        return Verdict.converged if residual <= CONVERGED else Verdict.rank_limited
    if np.isnan(choice.held_out_residual):
        return Verdict.underdetermined
    unexplained = float(choice.residual_by_rank[0]) if choice.residual_by_rank.size else 1.0
    if unexplained == 0:
        return Verdict.converged
    held_out = choice.held_out_residual / unexplained
    curve = choice.residual_by_rank / unexplained
    few = grounds.n_pairs < FEWEST_JUDGED and not grounds.consistent
    if rank == 0 or choice.chance or held_out >= 1.0:
        return Verdict.underdetermined if grounds.consistent or few else Verdict.inconsistent
    if not residual / TWICE - floor <= held_out <= TWICE * residual + floor:
        return Verdict.underdetermined
    if few or grounds.n_explored < choice.n_basis or grounds.undetermined:
        return Verdict.underdetermined
    if asked and curve.size and held_out > LESS * float(curve.min()) + floor:
        return Verdict.rank_limited
    if grounds.basis_is_full and rank >= choice.n_basis and held_out > floor:
        return Verdict.rank_limited
    return Verdict.converged if held_out <= CONVERGED else Verdict.noisy
