"""What errors leave of an eigenvalue: its interval, and what its sign proves."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit  # scipy.stats would take the best part of a second to import

__all__ = ["curvature_sentence", "half_widths", "noise_margins", "sign_margins"]

ABOVE = 3.0
"""An eigenpair that explains so many times what noise could is none of its making."""


def half_widths(errors: np.ndarray, n_buckets: int) -> np.ndarray:
    """Half widths of 95 % intervals: Student's t of ``n_buckets`` - 1 degrees of freedom."""
    if n_buckets < 2:
        return np.full_like(errors, np.nan)
    return errors * float(stdtrit(n_buckets - 1, 0.975))


def sign_margins(errors: np.ndarray, bias: np.ndarray, n_basis: int,
                 n_buckets: int) -> np.ndarray:
    """How far from zero an eigenvalue must lie for its sign to count (r,).

    An eigenvector is chosen among all directions of the basis, after looking: noise alone makes
    eigenvalues up to the edge √(2k) of its standard errors. Bias comes on top. NaN where no
    error is known.
    """
    edge = np.sqrt(2.0 * max(n_basis, 1))
    typical = np.maximum(errors, np.median(errors)) if errors.size else errors
    return np.maximum(half_widths(errors, n_buckets),
                      edge * typical) + np.nan_to_num(bias)


def noise_margins(noise: float, lengths: np.ndarray) -> np.ndarray:
    """The same (r,) where no standard error is known but the pairs are nearly exact.

    An eigenpair explains |s| ‖Xu‖ of Y; one that noise has made explains no more than the noise.

    Args:
        noise: what may be noise in Y, in its unit: what is left over, what breaks the symmetry
            of XᵀY, or rounding.
        lengths: ‖Xu‖ (r,).
    """
    return np.divide(ABOVE * noise, lengths, out=np.full(lengths.size, np.inf), where=lengths > 0)


def curvature_sentence(eigenvalues: np.ndarray, halves: np.ndarray, n_features: int, *,
                       certified: bool = True,
                       why: str = "the fit could not be checked or failed its check") -> str:
    """What the signs of the eigenvalues prove, and what they cannot.

    A sign counts only where zero lies beyond its margin; where none is known signs are taken as
    they are, and the sentence says so. "Minimum" is never certified.

    Args:
        halves: (r,) margins (:func:`sign_margins`), NaN where unknown, infinite where no x
            lies along the eigenvector.
        certified: the fit was checked, so that its signs can prove something; else ``why`` not.
    """
    known = ~np.isnan(halves)
    margin = np.where(known, halves, 0.0)
    negative = int(np.count_nonzero(eigenvalues + margin < 0))
    positive = int(np.count_nonzero(eigenvalues - margin > 0))
    unsure = eigenvalues.size - negative - positive
    notes = [f"{unsure:,} within their error of zero"] * bool(unsure)
    notes += ["signs without known errors"] * bool(eigenvalues.size and not known.all())
    if not certified:
        notes.insert(0, f"no sign is certified, because {why}")
    beside = n_features - eigenvalues.size
    notes += [f"nothing is claimed of the other {_count(beside)}"] * bool(beside)
    if not certified:
        said = f"{_count(negative)} of negative and {positive:,} of positive curvature in the fit"
    elif negative and positive:
        said = f"{_count(negative)} of negative and {positive:,} of positive curvature: a " \
               "saddle where the gradient is zero"
    elif negative:
        said = f"{_count(negative)} of negative curvature: not a minimum"
    else:
        said = f"no negative curvature among the {_count(eigenvalues.size)} seen"
    return "; ".join([said, *notes])


def _count(n: int) -> str:
    return f"{n:,} direction{'' if n == 1 else 's'}"
