"""What a run refuses once its pairs were read: rows left out, or such as leave no fit."""

from __future__ import annotations

import numpy as np

from lrh_dask.errors import BadPairs, RunFailed, explain
from lrh_dask.linalg.ledger import Ledger
from lrh_dask.linalg.triangle import Triangle
from lrh_dask.runs.tree import ReadStats
from lrh_dask.stores.checks import beyond_squares

__all__ = ["refuse_empty", "refuse_incomplete", "refuse_useless"]


def refuse_incomplete(what: str, seen: Ledger, wanted: Ledger) -> None:
    """Raise unless exactly the rows (or features: ``what``) that were wanted were seen.

    Raises:
        RunFailed: naming those that are missing, or that nobody asked for.
    """
    if seen == wanted:
        return
    missing, foreign = wanted.without(seen), seen.without(wanted)
    got = [f"{rows.n_rows:,} {said} ({rows})" for rows, said in (
        (missing, "left out"), (foreign, "of others")) if rows.n_rows]
    raise RunFailed(explain(
        "run", expected=f"{wanted.n_rows:,} {what}, each seen once", got=" and ".join(got),
        consequence="The result would be wrong and was dropped", fix="Please report this"))


def refuse_useless(buckets: dict[int, Triangle]) -> None:
    """Raise where rows without weight, or numbers beyond what can be squared, leave no fit.

    Raises:
        BadPairs: naming which.
    """
    seen = any(t.n_basis for t in buckets.values())  # y = 0 has no direction to see x in
    if seen and not any(_any(t, slice(1, t.n_basis + 1)) for t in buckets.values()):
        raise BadPairs(explain(
            "all pairs", expected="points or steps x that differ from zero",
            got="x = 0 in every row with weight", consequence="y = H 0 says nothing about H",
            fix="Check `weight`, and that x was written"))
    with np.errstate(over="ignore", under="ignore"):
        squares = [float(np.sum(t.squares[1:t.n_basis + 1])) for t in buckets.values()]
        weights = 1e4 * sum(t.weight for t in buckets.values())
    energies = [t.energy for t in buckets.values()]
    lost = ((seen and sum(squares) == 0) or (sum(energies) == 0 and any(
        _any(t, slice(t.n_basis + 1, None)) for t in buckets.values())))
    if lost or not np.isfinite(sum(squares) + sum(energies) + weights):
        raise beyond_squares("all pairs")


def _any(triangle: Triangle, columns: slice) -> bool:
    """Whether columns of R differ from zero."""
    return bool(np.any(triangle.rows[:, columns] if triangle.gram is None
                       else np.diag(triangle.gram)[columns]))


def refuse_empty(stats: ReadStats) -> None:
    """Raise where every x, or every weight, is zero.

    Raises:
        BadPairs: naming which.
    """
    n_good = stats.n_pairs - stats.n_skipped
    if stats.n_pairs and n_good < 2:
        raise BadPairs(explain(
            "all pairs", expected="rows without NaN and Inf",
            got=f"{stats.n_skipped:,} bad ones of {stats.n_pairs:,}",
            consequence="Nothing is left to fit", fix="Check how x and y were recorded"))
    if n_good and stats.zero_x_rows == n_good:
        raise BadPairs(explain(
            "all pairs", expected="points or steps x that differ from zero",
            got=f"x = 0 in all {n_good} rows",
            consequence="y = H 0 says nothing about H",
            fix="Check that x was written; for secant pairs it is the step, not its direction"))
    if n_good and stats.zero_weight_rows == n_good:
        raise BadPairs(explain(
            "all pairs", expected="weights that are not all zero", got="a sum of weights of 0",
            consequence="No pair counts", fix="Check the array `weight`, or leave it out"))
