"""How far an eigenvalue may be off: standard errors, and bias."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lrh_dask.linalg.low_rank import Estimate
from lrh_dask.linalg.moments import Moments
from lrh_dask.linalg.solve import Rows
from lrh_dask.linalg.triangle import Triangle
from lrh_dask.statistics.biases import basis_bias, noise_bias, ridge_bias
from lrh_dask.statistics.interpolation import Interpolation
from lrh_dask.statistics.sampling import sampling_errors

__all__ = ["Errors", "errors_of", "errors_of_cut"]

MIN_BUCKETS = 5
"""Fewer buckets than that leave no error to estimate."""
PAIRS_PER_COLUMN = 3
"""Below this many pairs per basis column a jackknife over buckets is not honest."""
GOES_ALONG = 0.5
"""Above this share of x beside a cut basis that x inside predicts, the cut may bias the fit; of
independent features 1/3 at most is predicted, by chance."""
WEAKLY, HALF = 0.25, 0.5
"""Of |u|² so much may lie where the ridge decides; errors may reach so much of H."""
DROWNED = 2.0
"""Noise that is drowned in a bias of so many of its standard errors says nothing."""
SPREAD = 0.6
"""Effective pairs a pair of normally spread points, at least: lengths differ even there."""


@dataclass(frozen=True, eq=False)
class Errors:
    """How far each eigenvalue may be off (r,): by chance, and by bias that no chance explains.

    Attributes:
        standard: root mean square errors by :func:`errors_of_cut`, NaN where none is honest;
            ``note`` says why, or how.
        bias: size of what the ridge shrinks and noise inflates, of what the cut to low rank has
            moved, and of what the cut of the basis leaves out, as far as halving it shows.
            Where no standard error is honest the part of noise is missing; where halving the
            basis takes an eigenvector away, that of the cut.
        outweigh: chance, ridge and noise may reach HALF of H, or half of it lies where the ridge
            decides and not the pairs.
    """

    standard: np.ndarray
    note: str
    bias: np.ndarray
    outweigh: bool

    def of(self, which: np.ndarray) -> Errors:
        """Those of some eigenvalues, in that order."""
        return replace(self, standard=self.standard[which], bias=self.bias[which])


def errors_of(buckets: dict[int, Triangle], moments: dict[int, Moments], total: Triangle,
              rows: Rows, found: Estimate, rank: int, rounding: float, *, center: bool,
              lossless: bool, exact: Interpolation | None) -> Errors:
    """Errors of the first ``rank`` eigenvalues: of uᵀMu by chance, then of the cut.

    There is none where pairs are too few, where the ridge decides and not the pairs, where errors
    outweigh H, and where a cut basis may have moved eigenvalues far (:func:`_drowned`).

    Args:
        moments: of each bucket.
        rows: all pairs, their means taken off where an offset was fitted (``center``).
        found: the fit; where H is taken to be semidefinite M is the one that is not.
        lossless: the rows hold all of x and y.
        exact: how the pairs were interpolated, if so.
    """
    directions, fit, m, ridge = found.directions, found.fit, found.free, found.ridge
    values, inner = found.values, found.vectors
    n_basis = directions.shape[1]
    kept = inner[:, :rank]
    shrunk = ridge_bias(fit, m, kept, ridge)
    moved = values[:rank] - np.sum(kept * (m @ kept), axis=0)
    by_noise, by_basis, of_m = np.zeros(rank), np.zeros(rank), np.full(rank, np.nan)
    if n_basis < total.sum_y.size and (exact is None or exact.rank is None):
        by_basis = basis_bias(found.rows, m, kept, ridge, rounding)
    note = _why_none(len(buckets), total, n_basis, fit.seen.size, rank, exact=exact is not None)
    if note is None:
        of_m, scatter = sampling_errors([moments[b] for b in buckets],
                                        [t.n_pairs for t in buckets.values()], found,
                                        center=center, rounding=rounding)
        of_m, by_noise = of_m[:rank], noise_bias(values, scatter)[:rank]
        note = (f"scatter of the residuals, and a jackknife over {len(buckets)} buckets for noise "
                "that is not alike in all pairs; what the ridge moves counts, and what the cut "
                "to low rank moves beyond chance; conditional on the basis; intervals by "
                "Student's t")
    decided = fit.sigma**2 <= ridge * fit.scale if ridge else np.zeros(n_basis, dtype=bool)
    by_ridge = np.sum((fit.axes.T @ kept)[decided] ** 2, axis=0) > WEAKLY
    if by_ridge.any():
        of_m = np.where(by_ridge, np.nan, of_m)
        note += "; none for eigenvectors that lie where the ridge decides and not the pairs"
    size, bias = values[:rank] ** 2, np.abs(shrunk + by_noise)  # the two often undo each other
    off = np.sum((2.0 * np.nan_to_num(of_m)) ** 2 + bias**2)
    outweigh = bool(max(off, np.sum(size[by_ridge])) >= HALF**2 * np.sum(size) > 0)
    if outweigh and np.isfinite(of_m).any():
        of_m = np.full(rank, np.nan)
        note = ("noise and bias may reach half of H, or half of it lies where the ridge decides: "
                "no standard error holds there")
    bias = bias + by_basis + (np.abs(moved) if exact is None else 0.0)
    if np.isnan(of_m).all():
        return Errors(of_m, note, bias, outweigh)
    standard = errors_of_cut(of_m, found.share_of_variance()[:rank], moved, shrunk)
    if lossless and n_basis < rows.x.shape[1]:
        drowned = _drowned(rows.x, directions, of_m, by_basis + np.abs(shrunk))
        standard = np.where(drowned, np.nan, standard)
        if drowned.any():
            note += ("; none where x beside the basis goes along with x inside, and basis and "
                     f"ridge move an eigenvalue over {DROWNED:g} times as far as noise does")
    return Errors(standard, note, bias, outweigh)


def errors_of_cut(of_m: np.ndarray, share: np.ndarray, moved: np.ndarray,
                  shrunk: np.ndarray) -> np.ndarray:
    """Root mean square errors of the eigenvalues of the cut (r,).

    If H has low rank the cut varies less, and s - uᵀMu by the difference of both variances. What
    it is beyond that is bias, for what was cut away is curvature; the ridge's comes on top.

    Args:
        of_m: standard errors of uᵀMu; ``share``: :meth:`Estimate.share_of_variance`.
        moved: s - uᵀMu; ``shrunk``: by the ridge.
    Source: Hausman 1978 (an efficient estimate against one that is right anyway).
    """
    own = np.minimum(share, 1.0) * of_m**2
    beyond = np.maximum(moved**2 - (of_m**2 - own), 0.0)
    return np.sqrt(own + beyond + shrunk**2)


def _drowned(x: np.ndarray, directions: np.ndarray, of_m: np.ndarray,
             bias: np.ndarray) -> np.ndarray:
    """Where a cut basis may have moved an eigenvalue far more than noise does (r,).

    If x inside predicts x beside, M takes up the curvature that the basis leaves out: eigenvalues
    then move as they do when it is halved, or further.

    Args:
        x: (q, p) rows, not projected; ``directions``: (p, k) the basis.
        of_m: standard errors of uᵀMu; ``bias``: by basis and ridge.
    """
    inside = x @ directions
    beside = x - inside @ directions.T
    predicted = np.linalg.qr(inside)[0].T @ beside
    if np.sum(predicted**2) <= GOES_ALONG * np.sum(beside**2):
        return np.zeros(of_m.shape, dtype=bool)
    return np.asarray(~(bias <= DROWNED * of_m) & np.isfinite(of_m))


def _why_none(n_buckets: int, total: Triangle, n_basis: int, n_explored: int, rank: int, *,
              exact: bool) -> str | None:
    """Why there can be no honest standard error, if so."""
    if rank == 0:
        return "rank 0: there is no eigenvalue to be in error"
    if n_buckets < MIN_BUCKETS:
        return f"fewer than {MIN_BUCKETS} buckets of pairs: no error can be estimated"
    if exact:
        return ("the pairs are free of noise and were interpolated: they have no scatter "
                "to estimate an error from, see `bias`")
    wanted = PAIRS_PER_COLUMN * n_basis
    if total.n_pairs < wanted or total.n_effective < SPREAD * wanted:
        return (f"{total.n_pairs} pairs (as good as {total.n_effective:.0f} of equal weight and "
                f"length) for a basis of {n_basis} columns: fewer than {PAIRS_PER_COLUMN} pairs a "
                "column leave no honest error")
    if n_explored < n_basis:
        return (f"x differs from zero along {n_explored} of the {n_basis} columns "
                "of the basis: what H does along the others is not known")
    return None
