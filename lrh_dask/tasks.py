"""The last task of a run: from merged states to the outcome.

Pure functions of their arguments; leaves and merges are in :mod:`lrh_dask.leaves`.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import numpy as np

from lrh_dask import process, progress
from lrh_dask.basis import Basis
from lrh_dask.errors import RunFailed, explain
from lrh_dask.exact_pairs import common_basis
from lrh_dask.fitting import Fit, fit_exact, fit_symmetric, rotating_folds
from lrh_dask.held_out import Fold
from lrh_dask.reduced_pairs import ReducedPairs
from lrh_dask.refusals import refuse_empty, refuse_useless
from lrh_dask.solve import rank_of, rounding_of
from lrh_dask.spec import HELD_OUT, Spec, group_of
from lrh_dask.tree import Partial, ReadStats
from lrh_dask.triangle import Triangle
from lrh_dask.units import in_units

__all__ = ["Short", "Solved", "solve_buckets", "solve_whole"]

SURPRISE = 1.1
"""The energy beside a basis may be so many times what its sample had promised."""


@dataclass(frozen=True, eq=False)
class Solved:
    """What comes back to the driver.

    Attributes:
        eigenvectors: (D, r); ``offset``: b (D,), or None.
        times: times of day at which stages ended.
    """

    fit: Fit
    eigenvectors: np.ndarray
    offset: np.ndarray | None
    basis_stats: ReadStats
    fit_stats: ReadStats
    n_pairs: int
    content: str
    times: dict[str, float]
    notices: tuple[str, ...] = ()

    def __sizeof__(self) -> int:
        return 200 + self.eigenvectors.nbytes + self.fit.vectors.nbytes


@dataclass(frozen=True)
class Short:
    """A basis of a sample captures less of all pairs than it had promised.

    Attributes:
        outside: share of ‖Y‖² of all pairs beside the basis; ``promised``: what was expected.
        stats: what the pass cost that found it out.
    """

    outside: float
    promised: float
    stats: ReadStats


def solve_buckets(partial: Partial, basis: Basis | None, spec: Spec) -> Solved | Short:
    """Choose, solve and certify from the buckets' triangles."""
    begin = time.time()
    process.pin_blas_threads()
    _tell_begin(spec)
    refuse_empty(partial.stats)
    buckets: dict[int, Triangle] = {b: t for b, t in partial.states.items() if t.n_pairs}
    refuse_useless(buckets)
    if basis is not None and not basis.complete:
        outside = _outside(buckets)
        if outside > SURPRISE * basis.outside + 10.0 * float(np.finfo(spec.dtype).eps):
            return Short(outside, basis.outside, partial.stats)
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
    return _done(outcome, lifted, buckets,
                 ReadStats() if basis is None else basis.stats, partial.stats,
                 {"basis": begin if basis is None else basis.finished,
                  "fit": begin, "solve": time.time()})


def solve_whole(partial: Partial, spec: Spec) -> Solved:
    """Few pairs: their own Gram-Schmidt basis loses nothing; the rest is the same."""
    begin = time.time()
    process.pin_blas_threads()
    _tell_begin(spec)
    refuse_empty(partial.stats)
    held: dict[int, ReducedPairs] = {b: s for b, s in partial.states.items() if s.n_pairs}
    x = np.concatenate([s.x for s in held.values()]).astype(np.float64)
    counted = spec.n_pairs - partial.stats.zero_weight_rows
    if len(x) != counted:
        raise RunFailed(explain(
            "solve", expected=f"{counted} pairs, uncut", got=f"{len(x)}",
            consequence="The result would be wrong and was dropped", fix="Please report this"))
    y = np.concatenate([s.y for s in held.values()]).astype(np.float64)
    g = common_basis(x, y, spec.method, np.dtype(spec.dtype))
    buckets = {b: _triangle_of(s, g) for b, s in held.items()}
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
    return _done(outcome, g @ outcome.vectors, buckets, partial.stats, ReadStats(),
                 {"basis": begin, "fit": begin, "solve": time.time()})


def _triangle_of(held: ReducedPairs, g: np.ndarray) -> Triangle:
    """Pairs that were only scaled by their root weights, in the coordinates of G."""
    one = held.one.astype(np.float64)
    x, y = held.x.astype(np.float64), held.y.astype(np.float64)
    rows = np.concatenate([one[:, None], x @ g, y @ g], axis=1)
    lengths = np.linalg.norm(x, axis=1)
    return Triangle(rows, one @ x, one @ y, float(np.sum(y**2)), held.n_pairs,
                    float(np.sum(lengths**2)), float(np.sum(lengths)))


def _done(outcome: Fit, eigenvectors: np.ndarray, buckets: dict[int, Triangle],
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
                  sum(t.n_pairs for t in buckets.values()), digest.hexdigest(), times)


def _outside(buckets: dict[int, Triangle]) -> float:
    """Share of ‖Y‖² that lies outside the basis."""
    energy = sum(t.energy for t in buckets.values())
    inside = sum(float(np.sum(t.factor[:, t.n_basis + 1:] ** 2)) for t in buckets.values())
    return max(1.0 - inside / energy, 0.0) if energy else 0.0


def _tell_begin(spec: Spec) -> None:
    if spec.watched:
        progress.emit(spec.run_id, progress.Event("solve", 0, 0, 0))
