"""From triangles to a fit: choose, solve once with all pairs, certify."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lrh_dask.certificates import (
    PAIRS_PER_COLUMN,
    Certificates,
    decide_verdict,
    jackknife_errors,
)
from lrh_dask.exact_pairs import (
    least_norm_eigenpairs,
    refuse_inconsistent,
    seed_eigenpairs,
    sorted_eigenpairs,
)
from lrh_dask.interpolation import (
    Interpolation,
    asymmetry,
    interpolation,
    n_borne_out,
    spanning_directions,
)
from lrh_dask.selection import Choice, Fold, choose
from lrh_dask.solve import (
    Rows,
    center_rows,
    leading_directions,
    own_of_moments,
    rounding_of,
    symmetric_fit,
)
from lrh_dask.triangle import Triangle, merge_all

__all__ = ["Fit", "fit_exact", "fit_symmetric", "rotating_folds"]

N_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Fit:
    """Eigenpairs in the coordinates of the basis, with their certificates.

    Attributes:
        eigenvalues (r,), standard_errors (r,): signed, the largest in magnitude first.
        vectors: (p, r) in the coordinates of the basis.
        mean_x, mean_y: (D,) weighted means where an offset b = mean_y - H mean_x was fitted.
        bucket_residuals: (n_buckets,) ‖Y - HX - b‖ / ‖Y‖ of each bucket.
        residual_by_rank, residual_by_rank_error: held out, for ranks 0..k.
    """

    eigenvalues: np.ndarray
    standard_errors: np.ndarray
    vectors: np.ndarray
    mean_x: np.ndarray | None
    mean_y: np.ndarray | None
    bucket_residuals: np.ndarray
    residual_by_rank: np.ndarray
    residual_by_rank_error: np.ndarray
    certificates: Certificates


def rotating_folds(buckets: dict[int, Triangle]) -> list[Fold]:
    """Five folds that hold every bucket out once; none for fewer than two pairs a fold."""
    if sum(t.n_pairs for t in buckets.values()) < 2 * N_FOLDS:
        return []
    names = list(buckets)
    parts = [tuple(names[f::N_FOLDS]) for f in range(N_FOLDS)]
    return [Fold(tuple(b for b in names if b not in part), part) for part in parts]


def fit_symmetric(buckets: dict[int, Triangle], folds: list[Fold], *, rank: int | None,
                  center: bool | None, lossless: bool, dtype: np.dtype,
                  n_blind: int | None = None, tail: float = 0.0) -> Fit:
    """Symmetric least squares with basis size, ridge and rank chosen on held-out pairs.

    Args:
        buckets: triangles of disjoint sets of pairs over one basis of p columns.
        folds: which buckets are judged by which; none where pairs are too few.
        rank: wanted rank, or None.
        center: fit an offset b, or not, or (None) decide.
        n_blind: columns that have not seen the held-out buckets, where the basis was fitted
            beforehand; further ones have, and serve the final fit only.
        lossless: the basis spans all of x and y, so no square lies outside of it.
        dtype: in which the pairs were stored: what lies within its rounding says nothing.
        tail: bound on the share of ‖Y‖² outside the basis, from the pairs it was found on.
    """
    total = merge_all(list(buckets.values()))
    rounding = rounding_of(dtype, total.n_pairs, total.sum_y.size)
    rows = Rows.of(total)
    exact = interpolation(rows, total.n_pairs, total.sum_y.size, center=center, dtype=dtype,
                          rounding=rounding) if lossless else None
    choice = _choose(buckets, folds, rank=rank, center=center, n_blind=n_blind,
                     rounding=rounding, exact=exact)
    means = rows.means() if choice.center else None
    centred = rows if means is None else center_rows(rows, means)
    if exact is not None:
        directions = spanning_directions(centred, exact.span, exact.n_basis, dtype, rounding)
    elif n_blind is not None and n_blind == rows.y.shape[1]:
        directions = np.eye(n_blind, choice.n_basis)
    else:
        directions = leading_directions(centred.y, choice.n_basis, rounding)
    choice = replace(choice, n_basis=directions.shape[1])
    projected = centred.project(directions)
    fitted = symmetric_fit(projected.x, projected.y, rounding,
                           own=None if exact else own_of_moments(directions.shape[1]))
    values, inner = sorted_eigenpairs(*np.linalg.eigh(fitted.solve(choice.ridge)))
    keep = choice.rank if rank is None else rank
    related = exact is not None and exact.span == "both"
    borne_out = related and n_borne_out(projected, values, inner, rounding)
    if related:  # each pair was made of others: leaving some out tells nothing
        choice = replace(choice, held_out_residual=np.nan)
        keep = min(borne_out, values.size) if rank is None and borne_out else keep
    if folds == [] and rank is None:  # nothing could be held out: keep what is above rounding
        keep = int(np.count_nonzero(np.abs(values) > 1e-12 * np.abs(values).max(initial=0.0)))
    values, inner = values[:keep], inner[:, :keep]
    seen = fitted.seen
    errors, note = _errors(buckets, means, directions, inner, choice, seen.size, rounding)
    return _certified(buckets, total, _Solution(
        values, directions @ inner, errors, note, choice, means,
        x_scales=seen, n_explored=seen.size, asymmetry=asymmetry(projected),
        captured=float(np.sum(projected.y**2)), lossless=lossless, tail=tail,
        rank_was_asked=rank is not None, borne_out=bool(borne_out and borne_out >= keep),
        # Projections are taken in the stored dtype, and what lies outside is a difference.
        floor=1e-6 if lossless else max(1e-6, float(np.finfo(dtype).eps) ** 0.5),
        basis_is_full=n_blind is not None and choice.n_basis == n_blind))


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
    return _certified(buckets, total, _Solution(
        values, vectors, np.full(values.size, np.nan),
        f"method '{method}' takes pairs as exact and has no error model", choice, None,
        x_scales=seen, n_explored=k, asymmetry=asymmetry(rows), captured=total.energy,
        lossless=True, tail=0.0, rank_was_asked=rank is not None, basis_is_full=False))


def _choose(buckets: dict[int, Triangle], folds: list[Fold], *, rank: int | None,
            center: bool | None, n_blind: int | None, rounding: float,
            exact: Interpolation | None) -> Choice:
    if folds:
        return choose(buckets, folds, rank=rank, center=center, n_blind=n_blind,
                      rounding=rounding, exact=exact)
    any_bucket = next(iter(buckets.values()))
    n_pairs = sum(t.n_pairs for t in buckets.values())
    nan = np.array([np.nan])
    return Choice(n_basis=min(any_bucket.n_basis, n_pairs), ridge=0.0,
                  rank=rank or 0, center=bool(center) if exact is None else exact.center,
                  held_out_residual=float("nan"), residual_by_rank=nan, residual_by_rank_error=nan)


def _errors(buckets: dict[int, Triangle], means: tuple[np.ndarray, np.ndarray] | None,
            directions: np.ndarray, inner: np.ndarray, choice: Choice, n_explored: int,
            rounding: float) -> tuple[np.ndarray, str]:
    n_pairs = [t.n_pairs for t in buckets.values() if t.n_pairs]
    missing = np.full(inner.shape[1], np.nan)
    if len(n_pairs) < N_FOLDS:
        return missing, f"fewer than {N_FOLDS} buckets of pairs: no error can be estimated"
    if sum(n_pairs) < PAIRS_PER_COLUMN * choice.n_basis:
        return missing, (f"{sum(n_pairs)} pairs for a basis of {choice.n_basis} columns: fewer "
                         f"than {PAIRS_PER_COLUMN} pairs a column leave no honest error")
    if n_explored < choice.n_basis:
        return missing, (f"x differs from zero along {n_explored} of the {choice.n_basis} columns "
                         "of the basis: what H does along the others is not known")
    rows = [Rows.of(t) for t in buckets.values() if t.n_pairs]
    if means is not None:
        rows = [center_rows(r, means) for r in rows]
    errors = jackknife_errors([r.project(directions) for r in rows], n_pairs, inner, choice.ridge,
                              center=means is not None, rounding=rounding)
    return errors, (f"jackknife over {len(n_pairs)} buckets, conditional on the basis; "
                    "intervals by Student's t")


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
            squares += _left_over(rows, values[:rank], vectors[:, :rank])
            energy += buckets[bucket].energy
    return _share(squares, energy)


def _left_over(rows: Rows, values: np.ndarray, vectors: np.ndarray) -> float:
    """‖Y - X H‖² of rows, inside the basis."""
    return float(np.sum((rows.y - (rows.x @ vectors * values) @ vectors.T) ** 2))


@dataclass(frozen=True, eq=False)
class _Solution:
    """A solved fit that is not certified yet, in the coordinates of the basis."""

    values: np.ndarray
    vectors: np.ndarray
    errors: np.ndarray
    error_note: str
    choice: Choice
    means: tuple[np.ndarray, np.ndarray] | None
    x_scales: np.ndarray
    n_explored: int
    asymmetry: float
    captured: float
    lossless: bool
    tail: float
    rank_was_asked: bool
    basis_is_full: bool
    floor: float = 1e-6
    borne_out: bool = False

    def squares(self, triangle: Triangle, mean_y: np.ndarray) -> tuple[float, float]:
        """‖Y - HX - b‖² of a triangle's pairs, and ‖Y - mean‖², over all D features."""
        rows, energy = Rows.of(triangle), triangle.energy
        if self.means is not None:
            weight = float(rows.one @ rows.one)
            energy += float(weight * (mean_y @ mean_y) - 2.0 * (mean_y @ triangle.sum_y))
            rows = center_rows(rows, self.means)
        outside = 0.0 if self.lossless else max(energy - float(np.sum(rows.y**2)), 0.0)
        return _left_over(rows, self.values, self.vectors) + outside, energy


def _certified(buckets: dict[int, Triangle], total: Triangle, found: _Solution) -> Fit:
    """Attach the exact residual of the *truncated* H, over all pairs and by bucket."""
    one = Rows.of(total).one
    mean_x, mean_y = total.sum_x / (one @ one), total.sum_y / (one @ one)
    left, centred_energy = found.squares(total, mean_y)
    by_bucket = [_share(found.squares(t, mean_y)[0], t.energy) for t in buckets.values()]
    choice, seen, centered = found.choice, found.x_scales, found.means is not None
    return Fit(
        eigenvalues=found.values, standard_errors=found.errors, vectors=found.vectors,
        mean_x=mean_x if centered else None, mean_y=mean_y if centered else None,
        bucket_residuals=np.array(by_bucket), residual_by_rank=choice.residual_by_rank,
        residual_by_rank_error=choice.residual_by_rank_error,
        certificates=Certificates(
            residual=_share(left, total.energy), held_out_residual=choice.held_out_residual,
            asymmetry=found.asymmetry,
            captured_energy=min(found.captured / centred_energy, 1.0) if centred_energy > 0
            else 1.0,
            tail=found.tail,
            condition=float(seen[0] / seen[-1]) if seen.size else float("nan"),
            ridge=choice.ridge, n_basis=choice.n_basis, n_buckets=len(buckets),
            centered=centered, standard_error_note=found.error_note,
            verdict=decide_verdict(
                _share(left, centred_energy), choice, found.values.size,
                n_explored=found.n_explored, basis_is_full=found.basis_is_full,
                rank_was_asked=found.rank_was_asked, borne_out=found.borne_out,
                floor=found.floor)))


def _share(squares: float, energy: float) -> float:
    """sqrt(squares / energy), 0 where there is no energy."""
    return float(np.sqrt(squares / energy)) if energy > 0 else 0.0
