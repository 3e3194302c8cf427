"""Whether a state that was read from a file is one: its arrays fit together, its numbers count."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np

from lrh_dask.linalg.duplicates import RowHashes
from lrh_dask.linalg.ledger import Ledger
from lrh_dask.linalg.reduced_pairs import ReducedPairs
from lrh_dask.linalg.row_gram import RowGram
from lrh_dask.linalg.triangle import Triangle
from lrh_dask.runs.tree import Partial

__all__ = ["refuse_misshapen"]

COUNTS = ("n_pairs", "zero_x_rows", "zero_y_rows", "zero_weight_rows")
MAY_LACK = {"gram", "bad"}
KINDS = {"hashes": "u", "counts": "u", "keys": "u", "bad": "b"}
MOST = 2**64


def refuse_misshapen(partial: Partial) -> None:
    """Raise unless each field of its states is such as their own methods take.

    Raises:
        ValueError: one is not.
    """
    for state in (*partial.states.values(), partial.stats.hashes):
        wanted = _shapes(state)
        wrong = [field.name for field in fields(state) if not _fits(
            getattr(state, field.name), field.name, str(field.type), wanted.get(field.name))]
        if wrong:
            message = f"{type(state).__name__} of which {', '.join(wrong)} cannot be"
            raise ValueError(message)
    if not all(_is_count(getattr(partial.stats, name)) for name in COUNTS):
        message = "counts of rows that are none"
        raise ValueError(message)


def _shapes(state: Any) -> dict[str, tuple[int, ...]]:
    """Of each array of a state, the shape that goes with the others."""
    if isinstance(state, Triangle):
        (q, c), d = state.rows.shape, state.sum_x.size
        return {"rows": (min(q, c), c | 1), "gram": (c, c), "sum_x": (d,), "sum_y": (d,)}
    if isinstance(state, ReducedPairs):
        m, d = state.x.shape
        return {"x": (m, d), "y": (m, d), "one": (m,)}
    if isinstance(state, RowGram):
        m = len(state.products)
        return {"products": (m, m), "bad": (m // 2,)}
    assert isinstance(state, RowHashes)
    return dict.fromkeys(("hashes", "counts", "keys"), (state.hashes.size,))


def _fits(value: Any, name: str, kind: str, shape: tuple[int, ...] | None) -> bool:
    if shape is not None:
        return (value is None and name in MAY_LACK) or (
            isinstance(value, np.ndarray) and value.shape == shape
            and value.dtype.kind == KINDS.get(name, "f"))
    if kind == "Ledger":
        return isinstance(value, Ledger)
    return _is_count(value) if kind == "int" else (
        isinstance(value, (int, float)) and math.isfinite(value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST
