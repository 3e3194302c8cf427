"""A drift in words and figures, as a terminal and a page show it."""

from __future__ import annotations

import math

import numpy as np

from lrh_dask.drift.drift import Drift, EigenvalueChange, IndexChange

__all__ = ["FAR", "headline", "index_words", "legend", "place_of", "with_error"]

FAR = 3.0
"""Changes beyond so many standard errors are set off."""
UNLIKELY, NEVER = 0.01, 1e-5
"""What chance does in a smaller share of comparisons is called a drift; needs no number."""


def headline(drift: Drift) -> str:
    """The outcome in a sentence: whether any leading eigenvalue moved beyond what chance does."""
    worst = drift.worst
    if worst is None:
        return "drift of eigenvalues cannot be judged: none has a standard error in both runs"
    far = f"{abs(worst.drift):.1f} standard errors of the change"
    often = (f"in {100 * drift.chance:.2g} % of such comparisons" if drift.chance >= NEVER
             else "next to never")
    if drift.chance >= UNLIKELY:
        return (f"no eigenvalue drifted beyond chance: the largest change is {far}, and chance "
                f"alone goes as far {often if drift.chance < 1 else 'any time'}")
    return (f"an eigenvalue drifted from {worst.before:.4g} to {worst.after:.4g}, {far}: chance "
            f"does that {often}")


def legend(drift: Drift) -> str:
    """What the table of eigenvalues does not say itself."""
    said = ["± one standard error. Drift: the change, in its own standard errors"]
    if any(e.match.before is not None and e.match.after is not None and not e.match.followed
           for e in drift.eigenvalues):
        said.append("* paired in order: the eigenvector has turned, or cannot be told from others")
    if any(None in (e.match.before, e.match.after) for e in drift.eigenvalues):
        said.append("- in one run only: not found by the other, not zero there")
    return ". ".join(said) + "."


def place_of(change: EigenvalueChange) -> str:
    """Its number in both runs, from 1; with a star where it was paired in order."""
    ours, theirs = (None if p is None else p + 1 for p in (change.match.before, change.match.after))
    both = str(ours or theirs) if ours == theirs or not (ours and theirs) else f"{ours} → {theirs}"
    by_order = ours is not None and theirs is not None and not change.match.followed
    return both + "*" * by_order


def index_words(index: IndexChange) -> str:
    """How many negative eigenvalues are certain, before and after."""
    ranges = [str(low) if low == high else f"{low} to {high}"
              for low, high in zip(index.least, index.most, strict=True)]
    return f"certain: {ranges[0]}, then {ranges[1]}"


def with_error(value: float, error: float) -> str:
    """A value to the digits that its error leaves."""
    if not np.isfinite(value):
        return "-"
    if not (np.isfinite(error) and error > 0):
        return f"{value:.4g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return (f"{value:.{digits}f} ± {error:.{digits}f}" if digits < 7
            else f"{value:.6g} ± {error:.1e}")
