"""The last task of a run: from merged states to the outcome.

Pure functions of their arguments; leaves and merges are in :mod:`lrh_dask.runs.leaves`.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace

import numpy as np

from lrh_dask.errors import RunFailed, explain
from lrh_dask.linalg.ledger import Ledger
from lrh_dask.linalg.reduced_pairs import ReducedPairs
from lrh_dask.linalg.solve import rank_of, rounding_of
from lrh_dask.linalg.triangle import Triangle
from lrh_dask.runs import process, progress
from lrh_dask.runs.basis import SHORT_OF, Basis, Outlook, captured, worth_reading
from lrh_dask.runs.refusals import refuse_empty, refuse_useless
from lrh_dask.runs.spec import HELD_OUT, Spec, group_of
from lrh_dask.runs.tree import Partial, ReadStats
from lrh_dask.statistics.exact_pairs import common_basis
from lrh_dask.statistics.fitting import Fit, fit_exact, fit_symmetric, rotating_folds
from lrh_dask.statistics.held_out import Fold
from lrh_dask.statistics.units import in_units

__all__ = ["Short", "Solved", "solve_buckets", "solve_stored", "solve_whole",
           "unjudged", "unless_short"]

SURPRISE = 1.1
"""The energy beside a basis may be so many times what its sample had promised ..."""
LEAST_JUDGED = 50
"""Fewer new held-out pairs do not judge a stored basis: they wait for more."""
BUCKET_STANDS_OUT, NEGLIGIBLE = (5.0, 4.0), 1e-4
"""... and that of one bucket exceed the others' by so many times the spread of normal noise and the
spread that they have, unless that is a negligible share of what the basis captures."""


@dataclass(frozen=True)
class Missed:
    """What a basis captures less of than it should, of all pairs or of a bucket.

    Attributes:
        outside: share of their ‖Y‖² beside the basis; ``expected``: what was to be expected.
        bucket: whose; None is all pairs.
    """

    outside: float
    expected: float
    bucket: int | None


@dataclass(frozen=True)
class Short:
    """The basis of a sample does not do for all pairs.

    Attributes:
        missed: what it misses; None where it was found in too few pairs, which ``outlook`` tells.
        stats: what it cost to find out.
    """

    missed: Missed | None
    stats: ReadStats
    outlook: Outlook | None = None


@dataclass(frozen=True, eq=False)
class Solved:
    """What comes back to the driver.

    Attributes:
        eigenvectors: (D, r); ``offset``: b (D,), or None.
        ledger: the rows that were seen, whether or not they count.
        times: times of day at which stages ended.
        missed: what even the basis of all pairs leaves out of a bucket.
        outlook: of a stored basis: what it was found in, and what is called for by now.
    """

    fit: Fit
    eigenvectors: np.ndarray
    offset: np.ndarray | None
    basis_stats: ReadStats
    fit_stats: ReadStats
    n_pairs: int
    ledger: Ledger
    content: str
    times: dict[str, float]
    notices: tuple[str, ...] = ()
    missed: Missed | None = None
    outlook: Outlook | None = None

    def __sizeof__(self) -> int:
        return 200 + self.eigenvectors.nbytes + self.fit.vectors.nbytes


def solve_buckets(partial: Partial, basis: Basis | None, spec: Spec) -> Solved | Short:
    """Choose, solve and certify from the buckets' triangles."""
    begin = time.time()
    process.pin_blas_threads()
    _tell_begin(spec)
    refuse_empty(partial.stats)
    buckets: dict[int, Triangle] = {b: t for b, t in partial.states.items() if t.n_pairs}
    refuse_useless(buckets)
    missed = None
    if basis is not None:
        missed = _missed(buckets, basis, spec)
        if missed is not None and not basis.complete:
            return Short(missed, partial.stats)
    q = None if basis is None else basis.q
    if q is None:
        folds = rotating_folds(buckets)
    else:  # the basis has seen the noise of its own pairs: judge on the others only
        held_out = tuple(b for b in buckets if group_of(b) == HELD_OUT)
        train = tuple(b for b in buckets if b not in held_out)
        folds = [Fold(train, held_out)] if train and held_out else []
    outcome = in_units(buckets, lambda scaled: fit_symmetric(
        scaled, folds, spec.asked, lossless=q is None, dtype=np.dtype(spec.dtype),
        n_blind=None if basis is None else basis.n_blind,
        tail=0.0 if basis is None else basis.tail))
    lifted = outcome.vectors if q is None else q @ outcome.vectors
    return replace(_done(outcome, lifted, buckets, partial.ledger,
                         ReadStats() if basis is None else basis.stats, partial.stats,
                         {"basis": begin if basis is None else basis.finished,
                          "fit": begin, "solve": time.time()}), missed=missed)


def solve_stored(partial: Partial, basis: Basis, spec: Spec) -> Solved:
    """Solve over a basis that was found in earlier pairs, whether or not it still does."""
    solved = solve_buckets(partial, replace(basis, complete=True), spec)
    assert isinstance(solved, Solved)
    return solved


def unless_short(solved: Solved, basis: Basis, found: Basis, newest: Partial,
                 n_pairs: int) -> Solved | Short:
    """What was solved over a basis of earlier pairs, where that still does for all.

    It does not where a direction of the newest pairs stands out of it, or where it was found in
    so few pairs that one of all reduced pairs by now, which are twice as many, is called for.

    Args:
        found: the basis that all reduced pairs call for; ``newest``: those since the stored basis
            was last judged.
        n_pairs: pairs of the fit.
    """
    judged = newest.states.get(HELD_OUT)
    if judged is not None and judged.n_pairs >= LEAST_JUDGED and not found.outlook.enough:
        outside = 1.0 - captured(basis.q, judged) / judged.energy
        return Short(Missed(outside, basis.outside, None), solved.fit_stats)
    n_read, n_by_now = basis.outlook.stats.n_pairs, found.outlook.stats.n_pairs
    wanted = replace(found.outlook, stats=basis.outlook.stats)
    if SHORT_OF * n_read < min(worth_reading(found.outlook, n_pairs), n_by_now + 1):
        return Short(None, solved.fit_stats, wanted)
    return replace(solved, outlook=wanted)


def unjudged(newest: Partial) -> Partial:
    """Of reduced pairs since a stored basis was last judged, held-out ones too few to judge it."""
    states = {group: state for group, state in newest.states.items()
              if group == HELD_OUT and state.n_pairs < LEAST_JUDGED}
    return Partial(states, ReadStats())


def solve_whole(partial: Partial, spec: Spec) -> Solved:
    """Few pairs: their own Gram-Schmidt basis loses nothing; the rest is the same."""
    begin = time.time()
    process.pin_blas_threads()
    _tell_begin(spec)
    refuse_empty(partial.stats)
    held: dict[int, ReducedPairs] = {b: s for b, s in partial.states.items() if s.n_pairs}
    x = np.concatenate([s.x for s in held.values()]).astype(np.float64)
    counted = spec.n_pairs - partial.stats.zero_weight_rows - partial.stats.n_skipped
    if len(x) != counted:
        raise RunFailed(explain(
            "solve", expected=f"{counted} pairs, uncut", got=f"{len(x)}",
            consequence="The result would be wrong and was dropped", fix="Please report this"))
    y = np.concatenate([s.y for s in held.values()]).astype(np.float64)
    g = common_basis(x, y, spec.method, np.dtype(spec.dtype))
    buckets = _triangles(held, x, y, g)
    refuse_useless(buckets)
    folds = rotating_folds(buckets)
    dtype = np.dtype(spec.dtype)
    if spec.method == "symmetric":
        outcome = in_units(buckets, lambda scaled: fit_symmetric(
            scaled, folds, spec.asked, lossless=True, dtype=dtype,
            n_explored=rank_of(x, rounding_of(dtype, *x.shape))))
    else:
        outcome = in_units(buckets, lambda scaled: fit_exact(
            spec.method, scaled, folds, rank=spec.asked.rank, dtype=dtype))
    return _done(outcome, g @ outcome.vectors, buckets, partial.ledger, partial.stats, ReadStats(),
                 {"basis": begin, "fit": begin, "solve": time.time()})


def _triangles(held: dict[int, ReducedPairs], x: np.ndarray, y: np.ndarray,
               g: np.ndarray) -> dict[int, Triangle]:
    """Pairs that were only scaled by their root weights, in the coordinates of G, by bucket.

    Args:
        x, y: all of them (n, D); ``g``: (D, p), which is read once for all buckets.
    """
    lengths = np.linalg.norm(x, axis=1)
    inside = np.concatenate([x @ g, y @ g], axis=1)
    triangles: dict[int, Triangle] = {}
    end = 0
    for bucket, state in held.items():
        begin, end = end, end + len(state.x)
        rows, one = slice(begin, end), state.one.astype(np.float64)
        triangles[bucket] = Triangle(
            np.concatenate([one[:, None], inside[rows]], axis=1), one @ x[rows], one @ y[rows],
            float(np.sum(y[rows]**2)), state.n_pairs, float(np.sum(lengths[rows]**2)),
            float(np.sum(lengths[rows])))
    return triangles


def _done(outcome: Fit, eigenvectors: np.ndarray, buckets: dict[int, Triangle], ledger: Ledger,
          basis_stats: ReadStats, fit_stats: ReadStats, times: dict[str, float]) -> Solved:
    solved = ReadStats(peak_worker_bytes=process.peak_bytes())
    offset = None
    if outcome.mean_x is not None and outcome.mean_y is not None:
        u, s = eigenvectors, outcome.eigenvalues
        offset = outcome.mean_y - u @ (s * (u.T @ outcome.mean_x))   # b = ȳ - H x̄
    digest = hashlib.sha256()
    for bucket in buckets.values():
        digest.update(np.float64(bucket.energy).tobytes())
        digest.update(np.ascontiguousarray(bucket.sum_x).tobytes())
        digest.update(np.ascontiguousarray(bucket.sum_y).tobytes())
    return Solved(outcome, eigenvectors, offset, basis_stats.merge(solved), fit_stats,
                  sum(t.n_pairs for t in buckets.values()), ledger, digest.hexdigest(), times)


def _missed(buckets: dict[int, Triangle], basis: Basis,
            spec: Spec) -> Missed | None:
    """What a basis misses that it should not, as far as a sample has promised or buckets tell.

    A direction that few pairs explore may be little beside the noise of all of them; in the
    bucket where it is explored it stands out, be it from what the others have beside the basis
    or from their shares of it.
    """
    buckets = {b: t for b, t in buckets.items() if t.energy > 0}  # zeros lie in any basis
    if not buckets:
        return None
    energy = np.array([t.energy for t in buckets.values()])
    inside = np.array([float(np.sum(t.squares[t.n_basis + 1:])) for t in buckets.values()])
    beside = np.maximum(energy - inside, 0.0)
    rounding = 10.0 * float(np.finfo(np.result_type(spec.dtype, np.float32)).eps)
    outside = float(beside.sum() / energy.sum())
    if not basis.complete and outside > SURPRISE * basis.outside + rounding:
        return Missed(outside, basis.outside, None)
    n_features, k = basis.q.shape
    n_pairs = np.array([t.n_pairs for t in buckets.values()])
    of_noise = np.sqrt(2.0 / (n_pairs * max(n_features - k, 1)))
    worst, expected = None, 0.0
    for unit in (np.array([t.weight for t in buckets.values()]), energy):
        shares = beside / unit
        usual = float(np.median(shares))
        spread = np.maximum(BUCKET_STANDS_OUT[0] * of_noise * usual,
                            BUCKET_STANDS_OUT[1] * 1.4826 * np.median(np.abs(shares - usual)))
        excess = np.where(shares - usual > spread, (shares - usual) * unit, 0.0)
        if excess.max() > NEGLIGIBLE * inside.sum() + rounding * energy.sum():
            worst = int(np.argmax(excess))
            expected = float((beside[worst] - excess[worst]) / energy[worst])
    if worst is None:
        return None
    return Missed(float(beside[worst] / energy[worst]), expected, list(buckets)[worst])


def _tell_begin(spec: Spec) -> None:
    if spec.watched:
        progress.emit(spec.run_id, progress.Event("solve", 0, 0, 0))
