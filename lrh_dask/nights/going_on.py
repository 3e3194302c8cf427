"""A fit that goes on from states that are stored: only new pairs are read.

A night is one more round of the basis stage. The reduced pairs of the new rows join those that the
basis was found in; where the basis that they make together captures no more of new gradients, held
out, than the stored one does, the stored one stays, and the triangles of the new rows are added to
those that are stored. Else all pairs are read again, over the new basis, and the outcome says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from threadpoolctl import threadpool_limits

from lrh_dask.errors import SettingsError, explain
from lrh_dask.runs import progress
from lrh_dask.runs.basis import StoredBasis
from lrh_dask.runs.budget import MANY_PAIRS, Plan, Route
from lrh_dask.runs.dashboard import run_span
from lrh_dask.runs.graph import Stages
from lrh_dask.runs.kept import Kept
from lrh_dask.runs.pipeline import assemble, carry_out, current_client, guarded, price
from lrh_dask.runs.rounds import share_missed, shortcomings, still_missed
from lrh_dask.runs.segments import lay_out, with_buckets
from lrh_dask.runs.shards import Partition
from lrh_dask.runs.spec import Spec
from lrh_dask.runs.tasks import Short, Solved
from lrh_dask.runs.tree import Partial, ReadStats
from lrh_dask.statistics.asked import Asked
from lrh_dask.statistics.hessian import LowRankHessian
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.unchanged import Unchanged
from lrh_dask.stores.windows import Segment

__all__ = ["Counted", "Night", "fit_night"]

NO_STATES = {Route.whole_pairs, Route.by_features}
"""Routes for few pairs, which are all read every night."""
LOOKED_AT = 2048
"""So many new pairs tell whether the stored basis still captures what new gradients do."""


@dataclass(frozen=True, eq=False)
class Counted:
    """What is stored of the pairs in a window.

    Attributes:
        segments: in the order of their states.
        states: of each; ``basis``: that they are over (None: all of R^D).
    """

    segments: Sequence[Segment]
    states: Iterable[Partial]
    basis: StoredBasis | None


@dataclass(frozen=True, eq=False)
class Night:
    """What a fit leaves behind.

    Attributes:
        added: states to be stored: of new segments, or of all where all were read.
        basis: that they are over; None is all of R^D.
        has_states: whether there are any: few pairs are read as a whole every night.
        read_all: stored states, if any, are of no use any more.
    """

    hessian: LowRankHessian
    added: Sequence[tuple[Segment, Partial]]
    basis: StoredBasis | None
    has_states: bool
    read_all: bool


def fit_night(pairs: Pairs, new: Sequence[Segment], known: Counted | None, *, run_id: str,
              asked: Asked, basis: int | None, weighting: str, device: str,
              settings: dict[str, Any], unchanged: Unchanged, n_before: int = 0,
              kept: Kept | None = None,
              on_event: Callable[[progress.Event], None] | None = None) -> Night:
    """The Hessian of pairs of which some were counted before.

    Args:
        new: segments to be counted; ``known``: those that were.
        asked, basis, weighting, device: see :func:`lrh_dask.fit`.
        unchanged: looked at all of their rows before anybody knew what is stored of them.
        n_before: segments of this store that were ever counted, which new ones follow.
        kept: where states of runs of shards are kept until this is done.
    Raises:
        LrhError: see :func:`lrh_dask.fit`.
    """
    started = time.time()
    client = current_client()
    before = () if known is None else known.segments
    n_pairs = sum(segment.n_pairs for segment in (*before, *new))
    new = with_buckets(new, n_pairs, pairs.blocks.rows, n_before=n_before)
    everything = sorted([*before, *new], key=lambda s: s.start)
    whole = lay_out(everything, pairs.row_bytes)
    plan, whole = price(pairs, rank=asked.rank, basis=basis, method="symmetric", client=client,
                        split=whole)
    if known is not None:
        route = Route.all_features if known.basis is None else Route.fitted_basis
        columns = pairs.n_features if known.basis is None else _columns(known.basis.reduced)
        plan = replace(plan, route=route, max_basis=max(plan.max_basis, columns))
    if plan.route is Route.by_features and n_pairs < pairs.n_pairs:
        raise SettingsError(explain(
            "window", expected="all pairs, where they are few and of very many features",
            got=f"{n_pairs} of {pairs.n_pairs} pairs", consequence="Nothing was started",
            fix="Leave the window out, or record more pairs first"))
    spec = Spec(run_id, "symmetric", asked, plan.route, plan.max_basis, device,
                str(pairs.stored_dtype), n_pairs, watched=on_event is not None,
                weighting=weighting, digested=True)
    stages = Stages(pairs, client, run_id, kept)
    with progress.watch(client, run_id, on_event), run_span(run_id), guarded():
        if known is None:
            solved, again = carry_out(stages, pairs, whole, spec, plan), True
        else:
            solved, again = _go_on(
                stages, lay_out(new, pairs.row_bytes), spec, known, started,
                lambda: _over_again(stages, pairs, whole, spec, plan))
        states = [stages.fetch(key) for key in stages.states]
        found = _basis_of(stages, known, again=again)
        unchanged.refuse_changed()
    plan = replace(plan, n_tasks=stages.n_tasks)
    read = solved.fit_stats if solved.fit_stats.n_pairs else solved.basis_stats
    has_states, added = plan.route not in NO_STATES, everything if again else new
    if not has_states:
        states = [Partial({}, ReadStats(digests=tuple(
            d for d in read.digests if segment.start <= d.start < segment.stop)))
            for segment in added]
    return Night(assemble(pairs, plan, whole, spec, solved, started, settings),
                 list(zip(added, states, strict=True)), found, has_states=has_states,
                 read_all=again)


def _go_on(stages: Stages, new: Partition, spec: Spec, known: Counted, started: float,
           over_again: Callable[[], Solved]) -> tuple[Solved, bool]:
    """Add new pairs to what is known; whether all were read again for it."""
    stored = None
    if known.segments:
        with threadpool_limits(1, user_api="blas"):
            stored = stages.put("stored", reduce(Partial.merge, known.states).known_before())
    if known.basis is None:
        solved = stages.solve(new, spec, None, stored)
        assert isinstance(solved, Solved)
        return solved, False
    basis, reduced = known.basis.basis, known.basis.reduced
    orth = stages.put("orth", replace(basis, complete=True))
    if not new.runs:
        solved = stages.solve(new, spec, orth, stored)
        assert isinstance(solved, Solved)
        found, outlook = solved, basis.outlook
    else:
        more = replace(spec, max_basis=_columns(reduced))
        either = stages.solve_more(new, more, min(1.0, LOOKED_AT / new.n_pairs), stored, orth,
                                   stages.put("reduced", reduced.known_before()),
                                   stages.put("unjudged", known.basis.unjudged))
        if isinstance(either, Short):
            solved = over_again()
            spent = solved.basis_stats.merge(either.stats.to_no_avail())
            return replace(_from(started, solved), basis_stats=spent,
                           notices=(_why_again(either), *solved.notices)), True
        assert either.outlook is not None
        found, outlook = either, either.outlook
    notices = (*found.notices, *still_missed(found),
               *shortcomings(outlook, basis.q.shape[0], spec.n_pairs))
    return replace(_from(started, found), notices=notices), False


def _over_again(stages: Stages, pairs: Pairs, whole: Partition, spec: Spec,
                plan: Plan) -> Solved:
    """Read all pairs again, over a basis that does.

    That of all reduced pairs by now, where a sample may do, or else as a run that knows nothing.
    """
    if spec.n_pairs < MANY_PAIRS:
        return carry_out(stages, pairs, whole, spec, plan)
    assert stages.basis is not None
    spent = ReadStats()
    solved = stages.solve(whole, spec, stages.basis[1])
    if isinstance(solved, Short):
        spent = solved.stats.to_no_avail()
        keys, _ = stages.find_basis(whole.runs, spec, None, complete=True, spent=ReadStats())
        solved = stages.solve(whole, spec, keys[1])
    assert isinstance(solved, Solved)
    return replace(solved, basis_stats=solved.basis_stats.merge(spent))


def _why_again(short: Short) -> str:
    if short.missed is not None:
        return (f"{share_missed(short.missed)} of earlier pairs, and a direction of new ones "
                "stands out of it: all pairs were read again, over a new basis")
    assert short.outlook is not None
    return (f"the basis was found in {short.outlook.stats.n_pairs:,} pairs, and more are called "
            "for by now: all pairs were read again, over a new one")


def _from(started: float, solved: Solved) -> Solved:
    """With times of tonight: a stored basis was found on another day."""
    return replace(solved, times={**solved.times, "basis": max(solved.times["basis"], started)})


def _basis_of(stages: Stages, known: Counted | None, *, again: bool) -> StoredBasis | None:
    """The basis that the states are over, with the reduced pairs of all rounds."""
    if stages.fitted_over is None:
        return None
    before = None if known is None else known.basis
    if stages.basis is None:  # nothing was new
        return before
    reduced = stages.fetch(stages.basis[0])
    if again or before is None or stages.unjudged is None:
        return StoredBasis(stages.fetch(stages.fitted_over), reduced, Partial({}, ReadStats()))
    return StoredBasis(before.basis, reduced, stages.fetch(stages.unjudged))


def _columns(reduced: Partial) -> int:
    return max(state.max_rank for state in reduced.states.values())
