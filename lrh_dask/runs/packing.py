"""Partial states as JSON and a few long arrays, bit for bit.

Arrays are put one after another into one array a dtype; of symmetric and of triangular matrices
half is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from lrh_dask.errors import LrhError
from lrh_dask.linalg.duplicates import RowHashes
from lrh_dask.linalg.ledger import Ledger
from lrh_dask.linalg.reduced_pairs import ReducedPairs
from lrh_dask.linalg.row_gram import RowGram
from lrh_dask.linalg.triangle import Triangle
from lrh_dask.runs.state_checks import refuse_misshapen
from lrh_dask.runs.tree import Partial, ReadStats
from lrh_dask.statistics.sizes import Sizes
from lrh_dask.stores.digests import RowDigest
from lrh_dask.stores.documents import MALFORMED, known

__all__ = ["Packed", "described", "digests_of", "partial_of"]

KINDS = {"triangle": Triangle, "reduced": ReducedPairs, "products": RowGram}


class Packed:
    """Where arrays are put.

    Attributes:
        parts: by dtype, flat arrays that are to be put together.
    """

    def __init__(self) -> None:
        self.parts: dict[str, list[np.ndarray]] = {}
        self._ends: dict[str, int] = {}

    def add(self, array: np.ndarray) -> list[Any]:
        """Where it is now: dtype, first number, shape, and what half is left out."""
        half = ""
        if array.ndim == 2 and array.shape[0] == array.shape[1] > 1:
            if np.array_equal(array, array.T):
                half = "symmetric"
            elif not np.tril(array, -1).any():
                half = "upper"
        flat = array[_upper(len(array))] if half else array.ravel()
        dtype = array.dtype.name
        start = self._ends.get(dtype, 0)
        self.parts.setdefault(dtype, []).append(flat)
        self._ends[dtype] = start + flat.size
        return [dtype, start, list(array.shape), half]


def _unpacked(place: Sequence[Any], arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    dtype, start, shape, half = place
    n = shape[0] * (shape[0] + 1) // 2 if half else math.prod(shape)
    flat = arrays[dtype][start:start + n]
    if flat.shape != (n,):
        message = f"{flat.size} numbers of an array of {n}"
        raise ValueError(message)
    if not half:
        return flat.reshape(shape)
    square = np.zeros(shape, flat.dtype)
    square[_upper(shape[0])] = flat
    if half == "symmetric":
        square.T[_upper(shape[0])] = flat
    return square


def _upper(n: int) -> np.ndarray:
    """Which numbers of a square matrix are on its diagonal or above; a byte each."""
    return np.tri(n, dtype=bool).T


def described(partial: Partial, arrays: Packed) -> dict[str, Any]:
    """A partial state as JSON, its arrays being put into others."""
    def packed(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return {"at": arrays.add(value)}
        if isinstance(value, Ledger):
            return {"spans": value.spans.tolist()}
        return value.item() if isinstance(value, np.generic) else value

    states = {}
    for bucket, state in partial.states.items():
        kind = next(name for name, cls in KINDS.items() if isinstance(state, cls))
        states[str(bucket)] = {"kind": kind, **{
            field.name: packed(getattr(state, field.name)) for field in fields(state)}}
    s = partial.stats
    return {"states": states, "digests": [list(asdict(d).values()) for d in s.digests],
            "stats": {name: getattr(s, name) for name in (
                "n_pairs", "zero_x_rows", "zero_y_rows", "zero_weight_rows")},
            "sizes": [[[e, n] for e, n in sizes.counts.items()]
                      for sizes in (s.x_sizes, s.y_sizes)],
            "skipped": [list(shard) for shard in s.skipped],
            "hashes": {field.name: packed(getattr(s.hashes, field.name))
                       for field in fields(s.hashes)}}


def partial_of(part: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Partial:
    """The partial state that was described so, from these arrays by dtype.

    Raises:
        ValueError: nothing of the kind was described.
    """
    try:
        partial = _partial_of(part, arrays)
        refuse_misshapen(partial)
    except (*MALFORMED, LrhError) as error:
        message = f"no states: {type(error).__name__}: {error}"
        raise ValueError(message) from error
    return partial


def _partial_of(part: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Partial:
    def unpacked(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value if not isinstance(value, dict) else
                _unpacked(value["at"], arrays) if "at" in value else Ledger.of(value["spans"])
                for name, value in values.items() if name != "kind"}

    states = {int(bucket): KINDS[state["kind"]](**unpacked(state))
              for bucket, state in part["states"].items()}
    x_sizes, y_sizes = (Sizes({int(e): int(n) for e, n in counts}) for counts in part["sizes"])
    return Partial(states, ReadStats(
        **part["stats"], x_sizes=x_sizes, y_sizes=y_sizes,
        skipped=tuple((int(a), int(b), int(n)) for a, b, n in part["skipped"]),
        hashes=RowHashes(**unpacked(part["hashes"])),
        digests=digests_of(part)))


def digests_of(part: Mapping[str, Any]) -> tuple[RowDigest, ...]:
    """Those of the rows of a partial state that was described so."""
    return tuple(known(RowDigest, dict(zip(("start", "stop", "digest"), digest, strict=True)))
                 for digest in part["digests"])
