"""How many columns of a fitted basis to keep, from what the basis stage has read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrh_dask.linalg.arrays import Array, like, namespace, to_host
from lrh_dask.linalg.reduced_pairs import ReducedPairs

__all__ = ["Scree", "scree"]

ABOVE_FLOOR = 1.5
WINDOW = 8
ROUNDING = 4.0
"""So many roundings of y may be all that a column captures, or by which sums of squares differ."""


@dataclass(frozen=True, eq=False)
class Scree:
    """What held-out gradients say of a basis.

    Attributes:
        n_columns: columns worth fitting.
        is_full: the signal does not end before the columns do.
        energy: (k,) what the kept columns capture of the held-out gradients, in squares of y.
        floor: what a random direction would.
        outside: what no kept column captures.
    """

    n_columns: int
    is_full: bool
    energy: np.ndarray
    floor: float
    outside: float


def scree(q: Array, held_out: ReducedPairs, *, rank: int | None) -> Scree:
    """Columns of Q (D, k) worth fitting.

    A column that captures more of the *held-out* gradients than ABOVE_FLOOR times what a random
    direction would is signal. Where the signal ends before the columns do there is a noise
    floor: half as many columns again (at least 8) suffice, more would only cost time. Where it
    does not end, the spectrum has a long tail and every column is kept. Of pairs without noise
    the floor is the rounding of y.

    Args:
        q: orthonormal columns, the most dominant first, from pairs not in ``held_out``.
        rank: the rank that must fit in, or None.
    """
    n_features, k = q.shape
    if held_out.n_pairs == 0 or k == 0:
        return Scree(int(k), True, np.zeros(int(k)), 0.0, held_out.energy)
    xp = namespace(q)
    seen = to_host(xp.astype(like(q, to_host(held_out.y)), q.dtype) @ q).astype(np.float64)
    rounding = ROUNDING * float(xp.finfo(held_out.y.dtype).eps)
    energy = np.sum(seen**2, axis=0)
    beside = held_out.energy - float(energy.sum())
    if beside > rounding * held_out.energy:
        energy += _of_the_cut(seen, held_out)
        beside = held_out.energy - float(energy.sum())
    else:  # a difference of sums that says nothing
        beside = 0.0
    floor = max(beside / max(n_features - k, 1), rounding**2 * held_out.energy)
    window = np.ones(min(WINDOW, k))
    smooth = np.convolve(energy, window, "same") / np.convolve(np.ones(k), window, "same")
    signal = np.flatnonzero(smooth > ABOVE_FLOOR * floor)
    last = int(signal[-1]) + 1 if signal.size else 0
    wanted = max(last + max(8, last // 2), 0 if rank is None else rank + 8)
    kept = energy[:min(int(k), wanted)]
    return Scree(kept.size, wanted > k, kept, floor,
                 max(held_out.energy - float(kept.sum()), 0.0))


def _of_the_cut(seen: np.ndarray, held_out: ReducedPairs) -> np.ndarray:
    """What each column would capture of the energy that the reduction has cut, were it isotropic.

    The cut lies beside the reduced rows, which are orthogonal then.

    Args:
        seen: (m, k) products of the reduced rows with the columns.
    """
    square = np.sum(to_host(held_out.y).astype(np.float64)**2, axis=1)
    along = np.sum(seen[square > 0]**2 / square[square > 0, None], axis=0)
    n_beside = held_out.y.shape[1] - np.count_nonzero(square)
    return held_out.tail * np.maximum(1.0 - along, 0.0) / max(n_beside, 1)
