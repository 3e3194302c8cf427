"""From triangles to a fit: choose, solve once with all pairs, certify."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lrh_dask.linalg.low_rank import Estimate, noise_variance, terms_of
from lrh_dask.linalg.moments import moments_of
from lrh_dask.linalg.psd import semidefinite_solve
from lrh_dask.linalg.solve import (
    Rows,
    center_rows,
    leading_directions,
    own_of_moments,
    rank_of,
    rounding_of,
    symmetric_fit,
)
from lrh_dask.linalg.triangle import Triangle, merge_all
from lrh_dask.statistics.asked import Asked
from lrh_dask.statistics.certificates import Fit, Solution, certified, left_over, share
from lrh_dask.statistics.exact_pairs import (
    least_norm_eigenpairs,
    refuse_inconsistent,
    seed_eigenpairs,
)
from lrh_dask.statistics.held_out import Fold
from lrh_dask.statistics.interpolation import (
    Interpolation,
    asymmetry,
    interpolation,
    spanning_directions,
)
from lrh_dask.statistics.ranks import kept_rank
from lrh_dask.statistics.selection import Choice, choose
from lrh_dask.statistics.uncertainty import Errors, errors_of
from lrh_dask.statistics.verdicts import Grounds

__all__ = ["Fit", "fit_exact", "fit_symmetric", "rotating_folds"]

N_FOLDS = 5
CONTRADICTED = 2.0
SPARE = 1
"""So many axes of x more than terms must be visible to show that there are no further terms."""
UNSETTLED = ("the semidefinite fit has not settled, because x is ill-conditioned: its residual is "
             "right, weakly explored directions of it may not be")


def rotating_folds(buckets: dict[int, Triangle]) -> list[Fold]:
    """Five folds that hold every bucket out once; none for fewer than two pairs a fold."""
    if sum(t.n_pairs for t in buckets.values()) < 2 * N_FOLDS or len(buckets) < N_FOLDS:
        return []
    names = list(buckets)
    parts = [tuple(names[f::N_FOLDS]) for f in range(N_FOLDS)]
    return [Fold(tuple(b for b in names if b not in part), part) for part in parts]


def fit_symmetric(buckets: dict[int, Triangle], folds: list[Fold], asked: Asked, *,
                  lossless: bool, dtype: np.dtype, n_blind: int | None = None, tail: float = 0.0,
                  n_explored: int | None = None) -> Fit:
    """Symmetric least squares with basis size, ridge and rank chosen on held-out pairs.

    Args:
        buckets: triangles of disjoint sets of pairs over one basis of p columns.
        folds: which buckets are judged by which; none where pairs are too few.
        asked: rank or residual, offset, semidefiniteness; or to choose.
        n_blind: columns that have not seen the held-out buckets, where the basis was fitted
            beforehand; further ones have, and serve the final fit only.
        lossless: the basis spans all of x and y, so no square lies outside of it.
        dtype: in which the pairs were stored: what lies within its rounding says nothing.
        tail: bound on the share of ‖Y‖² outside the basis, from the pairs it was found on.
        n_explored: rank of x, where the basis does not hold all of it.
    """
    moments = moments_of(buckets)
    total = merge_all(list(buckets.values()))
    rounding = rounding_of(dtype, total.n_pairs, total.sum_y.size)
    rows = Rows.of(total)
    consistent = interpolation(rows, total.n_pairs, total.sum_y.size, center=asked.center,
                               dtype=dtype, rounding=rounding) if lossless else None
    exact = None if consistent is None or consistent.span == "open" else consistent
    if consistent is not None:
        asked = replace(asked, center=consistent.center)
    if exact is not None and exact.span == "all" and not _determined(folds, buckets):
        folds = []
    choice = (choose(buckets, moments, folds, asked, n_blind=n_blind, rounding=rounding,
                     exact=exact, noisy=consistent is None)
              if folds else _unjudged(buckets, asked))
    means = rows.means() if choice.center else None
    centred = rows if means is None else center_rows(rows, means)
    directions = _directions(centred, choice.n_basis, exact, n_blind, rounding)
    n_basis = directions.shape[1]
    projected = centred.project(directions)
    fitted = symmetric_fit(projected.x, projected.y, rounding,
                           own=None if exact else own_of_moments(n_basis))
    free = fitted.solve(choice.ridge)
    m, settled = semidefinite_solve(fitted, choice.ridge) if asked.psd else (free, True)
    terms = terms_of(fitted, fitted.axes.T @ m @ fitted.axes, choice.ridge,
                     noisy=consistent is None, psd=asked.psd)
    n_terms = n_basis if choice.n_terms is None else min(choice.n_terms, n_basis)
    found = Estimate(directions, projected, fitted, choice.ridge, free,
                     terms, n_terms, *terms.eigenpairs(n_terms))
    notices = _about_psd(asked, projected, free, m, settled)
    kept = kept_rank(asked, found, choice, exact, total, rounding, judged=bool(folds))
    errors = errors_of(buckets, moments, total, centred, found, kept.rank, rounding,
                       center=choice.center, lossless=lossless, exact=exact)
    by_size = np.argsort(-np.abs(found.values[:kept.rank]), kind="stable")  # some beside the cut
    choice = replace(choice, n_basis=n_basis, held_out_residual=kept.held_out_residual)
    if n_explored is None:
        n_explored = rank_of(rows.x, rounding)
    # As many directions as x explores, and more to explore: H may do anything beyond.
    open_ended = lossless and ((exact and exact.rank) or n_basis) >= n_explored < total.sum_y.size
    if consistent is None and n_terms:
        open_ended |= n_terms + SPARE >= _n_visible(found, total.n_pairs) < n_basis
    grounds = Grounds(
        total.n_effective, fitted.seen.size, rank_was_asked=kept.was_asked,
        basis_is_full=n_blind is not None and n_basis == n_blind,
        undetermined=errors.outweigh or open_ended, consistent=consistent is not None,
        borne_out=0 < kept.rank <= kept.n_borne_out,
        floor=_floor_of(dtype))
    return certified(buckets, total, Solution(
        found.values[by_size], directions @ found.vectors[:, by_size], errors.of(by_size), choice,
        means, grounds, x_scales=fitted.seen, n_explored=n_explored, asymmetry=asymmetry(projected),
        captured=float(np.sum(projected.y**2)), lossless=lossless, tail=tail,
        n_buckets=len(buckets), rounding=float(np.finfo(dtype).eps),
        notices=kept.notices + notices))


def fit_exact(method: str, buckets: dict[int, Triangle], folds: list[Fold], *, rank: int | None,
              dtype: np.dtype) -> Fit:
    """`seed` or `least_norm` on pairs that are held whole (a lossless basis, no offset).

    Raises:
        BadPairs: `seed` on pairs that no symmetric H can explain.
    """
    solver: Callable[[Rows, float], tuple[np.ndarray, np.ndarray]]
    total = merge_all(list(buckets.values()))
    rounding = rounding_of(dtype, total.n_pairs, total.sum_y.size)
    rows = Rows.of(total)
    if method == "seed":
        refuse_inconsistent(rows, dtype)
        solver = seed_eigenpairs
    else:
        solver = least_norm_eigenpairs
    values, vectors = solver(rows, rounding)
    values, vectors = values[:rank], vectors[:, :rank]
    held_out = _held_out_exact(solver, buckets, folds, rank, rounding)
    k = rows.y.shape[1]
    choice = Choice(n_basis=k, ridge=0.0, rank=values.size, center=False,
                    held_out_residual=held_out, residual_by_rank=np.array([]),
                    residual_by_rank_error=np.array([]))
    sigma = np.linalg.svd(rows.x, compute_uv=False)
    seen = sigma[sigma > np.finfo(float).eps * sigma.size * sigma.max(initial=0.0)]
    unknown = np.full(values.size, np.nan)
    errors = Errors(unknown, f"method '{method}' takes pairs as exact and has no error model",
                    unknown, outweigh=False)
    grounds = Grounds(total.n_effective, k, rank_was_asked=rank is not None,
                      consistent=method == "seed", floor=_floor_of(dtype),
                      undetermined=values.size >= seen.size < total.sum_y.size)
    return certified(buckets, total, Solution(
        values, vectors, errors, choice, None, grounds, x_scales=seen, n_explored=seen.size,
        asymmetry=asymmetry(rows), captured=total.energy, lossless=True, tail=0.0,
        n_buckets=len(buckets), rounding=float(np.finfo(dtype).eps)))


def _floor_of(dtype: np.dtype) -> float:
    """What is left of pairs held out, or lies outside of a basis, is a difference of squares.

    Their products are taken in the stored dtype where there are many.
    """
    return max(1e-6, float(np.finfo(dtype).eps) ** 0.5)


def _n_visible(found: Estimate, n_pairs: int) -> int:
    """Along how many axes of x curvature as large as was found would be told from noise."""
    left = float(np.sum((found.rows.y - found.rows.x @ found.free) ** 2))
    noise = noise_variance(left, n_pairs, found.values.size)
    return found.terms.n_visible(float(np.median(np.abs(found.values[:found.n_terms]))), noise)


def _directions(centred: Rows, n_basis: int, exact: Interpolation | None, n_blind: int | None,
                rounding: float) -> np.ndarray:
    """Where all pairs are fitted: orthonormal directions (p, about n_basis)."""
    if exact is not None:
        return spanning_directions(centred, exact, rounding)
    if n_blind is not None and n_blind == centred.y.shape[1]:  # sorted by dominance already
        return np.eye(n_blind, n_basis)
    return leading_directions(centred.y, n_basis, rounding)


def _about_psd(asked: Asked, rows: Rows, free: np.ndarray, m: np.ndarray,
               settled: bool) -> tuple[str, ...]:
    """What a user should know of a semidefinite fit: pairs may contradict it."""
    if not asked.psd:
        return ()
    without, left = (float(np.linalg.norm(rows.y - rows.x @ h)) for h in (free, m))
    against = (f"with `psd` {left / np.linalg.norm(rows.y):.3g} of y is left, without it "
               f"{without / np.linalg.norm(rows.y):.3g}: the pairs show negative curvature, or are "
               "too few to tell")
    return (against,) * (left > CONTRADICTED * without) + (UNSETTLED,) * (not settled)


def _determined(folds: list[Fold], buckets: dict[int, Triangle]) -> bool:
    """Whether the pairs of every fold alone could span R^D, as all do."""
    return all(sum(buckets[b].n_pairs for b in fold.train) >= buckets[fold.train[0]].sum_y.size
               for fold in folds)


def _unjudged(buckets: dict[int, Triangle], asked: Asked) -> Choice:
    """All that the pairs span, where they are too few to hold any out."""
    n_pairs = sum(t.n_pairs for t in buckets.values())
    nan = np.array([np.nan])
    return Choice(n_basis=min(next(iter(buckets.values())).n_basis, n_pairs), ridge=0.0,
                  rank=asked.rank or 0, center=bool(asked.center), held_out_residual=float("nan"),
                  residual_by_rank=nan, residual_by_rank_error=nan)


def _held_out_exact(solver: Callable[[Rows, float], tuple[np.ndarray, np.ndarray]],
                    buckets: dict[int, Triangle], folds: list[Fold], rank: int | None,
                    rounding: float) -> float:
    if not folds:
        return float("nan")
    squares = energy = 0.0
    for fold in folds:
        values, vectors = solver(Rows.stack([Rows.of(buckets[b]) for b in fold.train]), rounding)
        for bucket in fold.test:
            rows = Rows.of(buckets[bucket])
            squares += left_over(rows, values[:rank], vectors[:, :rank])
            energy += buckets[bucket].energy
    return share(squares, energy)
