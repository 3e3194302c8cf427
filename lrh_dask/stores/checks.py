"""What arrays of pairs must be like, and what their rows must hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from lrh_dask.errors import BadPairs, explain

__all__ = ["beyond_squares", "check_array", "check_rows", "check_squares",
           "without_bad_rows", "working_dtype"]

SHOWN = 5


def check_array(where: str, array: Any, ndim: int) -> None:
    """Look at shape and dtype of an array, not at its rows.

    Raises:
        BadPairs: it is not 2-D (1-D for weights), is masked, of unknown length, or not of real
            numbers.
    """
    dtype = getattr(array, "dtype", None)
    shape = tuple(getattr(array, "shape", ()))
    if dtype is None or len(shape) != ndim:
        raise BadPairs(explain(
            where, expected="a 2-D array (n, D)" if ndim == 2 else "a 1-D array (n,)",
            got=f"shape {shape}" if dtype is not None else type(array).__name__,
            consequence="Rows are pairs and columns are features",
            fix="Flatten each point and gradient to one row"))
    if isinstance(array, np.ma.MaskedArray):
        raise BadPairs(explain(
            where, expected="an array without a mask", got="a masked array",
            consequence="Masked numbers would be counted", fix="Leave out the rows they are in"))
    if any(n != n for n in shape):  # not a number: dask does not know it
        raise BadPairs(explain(
            where, expected="a known number of rows", got=f"shape {shape}",
            consequence="Rows cannot be shared out to tasks",
            fix="Call `compute_chunk_sizes()` on the array first"))
    dtype = np.dtype(dtype)
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise BadPairs(explain(
            where, expected="float32 or float64 (float16 and integers are upcast)",
            got=str(dtype), consequence="Gradients of this type give no real Hessian",
            fix="Store real floating-point numbers"))


def working_dtype(dtype: Any) -> np.dtype:
    """float16 -> float32, integers -> float64, byte order -> native."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return np.dtype(np.float64) if dtype.itemsize == 8 else np.dtype(np.float32)
    return np.dtype(np.float64)


def check_squares(name: str, start: int, rows: np.ndarray, squares: np.ndarray) -> None:
    """Look at rows in memory by the squares (m,) of their lengths.

    Raises:
        BadPairs: naming rows that are not finite, or saying that they cannot be squared.
    """
    if np.isfinite(squares).all():
        return
    check_rows(name, start, rows)
    raise beyond_squares(f"read rows {start}-{start + len(rows) - 1} of {name}")


def without_bad_rows(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None, *,
                     in_place: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None,
                                              np.ndarray]:
    """x, y, weight with zeros for rows that hold NaN or Inf, and which rows (m,) these are.

    Args:
        in_place: x and y may be written to.
    """
    bad = ~(np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1))
    if weight is not None:
        bad |= ~np.isfinite(weight)
        weight = np.where(bad, 0.0, weight)
    if not in_place:
        return np.where(bad[:, None], 0, x), np.where(bad[:, None], 0, y), weight, bad
    x[bad] = y[bad] = 0
    return x, y, weight, bad


def beyond_squares(where: str) -> BadPairs:
    """The error for numbers whose squares leave the range of float64."""
    return BadPairs(explain(
        where, expected="numbers whose squares a float64 can hold (1e-150 to 1e150)",
        got="x or y beyond that", consequence="No residual could be told from zero or infinity",
        fix="Scale x and y (by one factor each) before they are stored"))


def check_rows(name: str, start: int, rows: np.ndarray, least: float = -np.inf) -> None:
    """Look at rows in memory, the first of which is row ``start`` of the store.

    Args:
        name: what messages call the array.
        least: the smallest value that is allowed.
    Raises:
        BadPairs: naming the rows that are not finite, or below ``least``.
    """
    good = (np.isfinite(rows) & (rows >= least)).reshape(len(rows), -1).all(axis=1)
    bad = np.flatnonzero(~good) + start
    if bad.size:
        shown = ", ".join(map(str, bad[:SHOWN])) + (", ..." if bad.size > SHOWN else "")
        bounded = least > -np.inf
        raise BadPairs(explain(
            f"read rows {start}-{start + len(rows) - 1} of {name}",
            expected=f"finite values >= {least:g}" if bounded else "finite values",
            got=f"NaN{', ' if bounded else ' or '}Inf{' or less' * bounded} in {bad.size} rows "
                f"({shown})",
            consequence="They would make the whole Hessian NaN",
            fix="Remove these rows from the store, or have NaN and Inf left out and counted with "
                "`--bad-rows skip` (`bad_rows: skip`); `lrh inspect --all` looks at every row"))
