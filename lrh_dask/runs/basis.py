"""The fitted basis: what a task makes of reduced pairs, and whether enough of them were read.

A basis needs far fewer pairs than a fit. It is found from a first round of blocks that are spread
over the store. Two things decide on further rounds:

* they follow until the basis had captured as much of the gradients last read, held out of it, as
  the basis after them does: the energy it left was larger by no more than MISSED;
* each reads so many that what the basis still misses should move eigenvalues by less than noise
  does in the fit of all n pairs, as far as the round before it tells (a quarter of
  all, where up to all are called for, and a notice; all, where more than there are).
  With noise of variance f in each direction of y and a signal of variance g_i along direction i,
  N pairs leave an angle θ_i² = (D - k) f / (N g_i) and an eigenvalue short by λ_i θ_i², while the
  fit knows it to λ_i √(f / (g_i n)): so N >= 1.5 (D - k) √(n f / g_i).

The fit then measures what the basis captures of *all* pairs; where that is less than the held-out
pairs of the sample had promised, the basis goes on with the blocks it has not seen.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from xxhash import xxh3_128_hexdigest

from lrh_dask.linalg.reduced_pairs import ReducedPairs
from lrh_dask.runs import process
from lrh_dask.runs.budget import FEW_PAIRS
from lrh_dask.runs.refusals import refuse_empty
from lrh_dask.runs.spec import HELD_OUT, TRAIN, Spec
from lrh_dask.runs.tree import Partial, ReadStats
from lrh_dask.statistics.interpolation import beside
from lrh_dask.statistics.scree import Scree, scree

__all__ = ["SHORT_OF", "WELL_BELOW", "Basis", "Outlook", "StoredBasis", "captured", "find_basis",
           "outlook", "worth_reading"]

MISSED = 0.01
"""Share of the energy beside the basis by which the one before it may be worse."""
WEAKEST = 0.05
"""Eigenvalues below that share of the largest may be moved by more than noise moves them."""
WELL_BELOW = 1.5
"""What the basis misses moves eigenvalues by that many times less than noise does."""
LARGEST_SAMPLE = 4
"""The LARGEST_SAMPLE-th part of the pairs is all that is read where more are called for; where more
are called for than there are, all pairs are read, or all of R^D is taken."""
SHORT_OF = 2.0
"""So many times fewer pairs than called for are worth another round, or a notice."""
STANDS_OUT = 4.0
"""A signal is what exceeds the noise of held-out pairs by so many standard deviations."""


@dataclass(frozen=True, eq=False)
class Basis:
    """What the basis stage hands to the fit stage.

    Attributes:
        q: (D, p) orthonormal columns.
        n_blind: so many first columns have not seen the held-out buckets.
        tail: share of ‖Y‖² of the training pairs read that may lie outside Q.
        outside: share of ‖Y‖² of the held-out pairs read that lies outside Q, about.
        complete: every pair was read.
        stats: what reading cost, in all rounds.
        outlook: whether to go on.
        finished: time of day.
    """

    q: np.ndarray
    n_blind: int
    tail: float
    outside: float
    complete: bool
    stats: ReadStats
    outlook: Outlook
    finished: float

    @cached_property
    def digest(self) -> str:
        """Digest (hex) of Q: triangles over one basis are not to be merged with those of others."""
        return xxh3_128_hexdigest(np.ascontiguousarray(self.q).data)

    def __sizeof__(self) -> int:
        return 200 + self.q.nbytes


@dataclass(frozen=True)
class Outlook:
    """What the driver must know of a basis to decide how to go on.

    Attributes:
        enough: neither more pairs nor more columns are called for.
        is_full: the spectrum does not end within the columns that were looked for.
        n_pairs: so many pairs are called for, as far as those read tell.
        n_columns: columns worth fitting.
        stats: what reading cost so far.
    """

    enough: bool
    is_full: bool
    n_pairs: int
    n_columns: int
    stats: ReadStats


@dataclass(frozen=True, eq=False)
class StoredBasis:
    """A basis that later runs go on with.

    Attributes:
        reduced: the reduced pairs of all pairs that were looked at for it.
        unjudged: those held-out pairs among them that came since it was last judged.
    """

    basis: Basis
    reduced: Partial
    unjudged: Partial


def worth_reading(known: Outlook, n_pairs: int) -> int:
    """So many of ``n_pairs`` pairs are worth reading for a basis."""
    return n_pairs if known.n_pairs > n_pairs else min(known.n_pairs, n_pairs // LARGEST_SAMPLE)


def outlook(basis: Basis) -> Outlook:
    """The small part of a basis that travels to the driver."""
    return basis.outlook


def find_basis(partial: Partial, newest: Partial, before: Basis | None, spec: Spec, *,
               complete: bool, spent: ReadStats) -> Basis:
    """Q from the training group, cut to the size that held-out gradients reward.

    Where pairs are few, the final fit should use them all: the directions that all pairs
    together would choose are appended, for it alone.

    Args:
        partial: reduced pairs of all rounds; ``newest``: those of the last one.
        before: the basis of the rounds before it.
        complete: there is no pair that was not read.
        spent: what reading cost that led to no state.
    """
    process.pin_blas_threads()
    if complete:
        refuse_empty(partial.stats)
    train = partial.states.get(TRAIN) or _none_of(partial, spec)
    q, scales = train.basis()
    held_out = partial.states.get(HELD_OUT) or _none_of(partial, spec)
    found = scree(q, held_out, rank=spec.asked.rank)
    k = found.n_columns
    cut = train.tail + float(np.sum(scales[k:] ** 2))
    q = q[:, :k]
    judged, stats = newest.states.get(HELD_OUT), partial.stats.merge(spent)
    next_step = Outlook(
        enough=complete or (before is not None and judged is not None
                            and _captured_before(q, before, judged)),
        is_full=found.is_full and k == train.max_rank,
        n_pairs=_pairs_for(found, spec.n_pairs, train.x.shape[1], held_out.n_pairs),
        n_columns=k, stats=stats)
    n_read = train.n_pairs + held_out.n_pairs
    if complete and held_out.n_pairs and n_read < FEW_PAIRS * k:
        everyone = train.merge(held_out).basis()[0][:, :k]
        q = np.concatenate([q, beside(everyone.T, q, np.dtype(np.float64))], axis=1)
    return Basis(np.ascontiguousarray(q), k, cut / train.energy if train.energy else 0.0,
                 found.outside / held_out.energy if held_out.energy else 0.0, complete,
                 stats, next_step, time.time())


def _none_of(partial: Partial, spec: Spec) -> ReducedPairs:
    like = next(iter(partial.states.values()))
    return ReducedPairs.empty(like.x, spec.max_basis)


def _captured_before(q: np.ndarray, before: Basis, judged: ReducedPairs) -> bool:
    """Whether the basis before had captured as much of held-out pairs as Q (D, k) does."""
    now, earlier = (captured(basis, judged) for basis in (q, before.q))
    rounding = 10.0 * float(np.finfo(judged.y.dtype).eps)
    return now - earlier <= MISSED * max(judged.energy - now, 0.0) + rounding * judged.energy


def captured(q: np.ndarray, pairs: ReducedPairs) -> float:
    """The part of ‖Y‖² of some pairs that lies in the span of Q (D, k)."""
    return float(np.sum((pairs.y @ q.astype(pairs.y.dtype)) ** 2, dtype=np.float64))


def _pairs_for(found: Scree, n_pairs: int, n_features: int, n_judged: int) -> int:
    """Pairs by which eigenvalues lose well less to the basis than to noise.

    Where noise hides them all, that is more pairs than there are.

    Args:
        n_judged: held-out pairs, whose noise must not be taken for a weak signal.
    """
    signal = found.energy - found.floor
    least = max(WEAKEST**2 * signal.max(initial=0.0),
                STANDS_OUT * found.floor * np.sqrt(2.0 / max(n_judged, 1)))
    signal = signal[signal > least]
    if found.floor <= 0:
        return 0
    if not signal.size:
        return 2 * n_pairs
    ratio = float(np.sqrt(n_pairs * found.floor / signal.min()))
    return round(WELL_BELOW * (n_features - found.n_columns) * ratio)
