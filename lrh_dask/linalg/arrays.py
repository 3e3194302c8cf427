"""The one door to array libraries: NumPy, CuPy, and the strict namespace of the tests.

The mathematics asks an array for its own namespace and device (:func:`namespace`) and never
names a library. Blocks enter a device through :meth:`Device.put` and leave it through
:func:`to_host`; nothing else crosses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import array_api_compat
import numpy as np

from lrh_dask.errors import SettingsError, explain

__all__ = ["ALIGNED_COLUMNS", "CPU", "Array", "Device", "device_of", "in_range", "like",
           "lower_factor", "namespace", "no_rows", "pick_device", "row_squares", "to_host",
           "triangular_factor"]

ALIGNED_COLUMNS = 16
"""A product with a multiple of so many columns takes less time than with one or two fewer."""
Array = Any
"""An array of any library that follows the array API standard."""


@dataclass(frozen=True)
class Device:
    """An array namespace and a device of it."""

    name: str
    xp: Any
    handle: Any = None

    def put(self, block: np.ndarray) -> Array:
        """Copy a host block (m, ...) to this device, in its own dtype."""
        return self.xp.asarray(block, device=self.handle)


CPU = Device("cpu", array_api_compat.array_namespace(np.empty(0)), "cpu")


def namespace(*arrays: Array) -> Any:
    """The array API namespace that all the arrays share."""
    return array_api_compat.array_namespace(*arrays)


def device_of(array: Array) -> Any:
    """The device an array lives on, as its own library names it."""
    return array_api_compat.device(array)


def like(reference: Array, block: np.ndarray) -> Array:
    """A host array as an array of the library and on the device of ``reference``."""
    return namespace(reference).asarray(block, device=device_of(reference))


def no_rows(reference: Array) -> Array:
    """Rows (0, c) like those of ``reference`` (m, c); a slice of it would keep all its memory."""
    return namespace(reference).empty((0, reference.shape[1]), dtype=reference.dtype,
                                      device=device_of(reference))


def row_squares(rows: Array) -> Array:
    """‖row‖² of every row of (m, D), float64 (m,).

    The products are taken in the dtype of the rows; where they may have left its range they are
    taken again in float64, so that the result is not finite exactly where a row is not, and 0
    exactly where a row is (rows of float64 of a size beyond 1e154 or below 1e-154 excepted).
    """
    xp = namespace(rows)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = xp.astype(xp.vecdot(rows, rows), xp.float64)
        least = 2.0**30 * float(xp.finfo(rows.dtype).smallest_normal)
        doubtful = ~((squares >= least) & (squares < np.inf))
        if bool(xp.any(doubtful)):
            which = xp.nonzero(doubtful)[0]
            again = xp.astype(xp.take(rows, which, axis=0), xp.float64)
            squares[doubtful] = xp.vecdot(again, again)
    return squares


def in_range(gram: Array, n_terms: int) -> bool:
    """Whether sums of so many squares in the dtype of a Gram matrix lost nothing to its range.

    Its diagonal is neither infinite nor so small that terms which count were below the smallest
    normal number.
    """
    xp = namespace(gram)
    square, kind = xp.linalg.diagonal(gram), xp.finfo(gram.dtype)
    least = n_terms * float(kind.smallest_normal) / float(kind.eps)
    return bool(xp.all((square >= least) & (square < np.inf)))


def lower_factor(gram: Array, least: float) -> Array | None:
    """L with L Lᵀ = gram (c, c), or None where a relative pivot is below ``least``.

    A pivot is relative to its own diagonal entry: the share of a column's square that the
    columns before it do not explain. None, too, where squares have left the range of the dtype.
    """
    xp = namespace(gram)
    square = xp.linalg.diagonal(gram)
    if not in_range(gram, 1):
        return None
    try:
        factor = xp.linalg.cholesky(gram)
    except np.linalg.LinAlgError:
        return None
    enough = xp.linalg.diagonal(factor) ** 2 >= least * square
    return factor if bool(xp.all(enough)) else None  # CuPy gives NaN


def triangular_factor(rows: Array) -> Array:
    """R of a QR factorisation of rows (m, c), m >= c, without forming Q where the library can."""
    if isinstance(rows, np.ndarray):  # mode "r" is beyond the standard: array_api_compat refuses it
        return np.linalg.qr(rows, mode="r")
    if array_api_compat.is_cupy_array(rows):
        import cupy

        return cupy.linalg.qr(rows, mode="r")
    return namespace(rows).linalg.qr(rows, mode="reduced")[1]


def to_host(array: Array) -> np.ndarray:
    """An array of any library as a NumPy array (no copy where it is one already)."""
    if isinstance(array, np.ndarray):
        return array
    if array_api_compat.is_cupy_array(array):
        host: np.ndarray = array.get()
        return host
    if "array_api_strict" in type(array).__module__:
        import array_api_strict as strict

        return np.from_dlpack(array.to_device(strict.Device("CPU_DEVICE")))
    return np.asarray(array)


@cache
def _probe_gpu() -> tuple[Device | None, str]:
    """The GPU if it can allocate and multiply, else why not. An import proves nothing."""
    try:
        import cupy

        one = cupy.ones((8, 8), dtype=cupy.float64)
        if float((one @ one).sum()) != 512.0:
            return None, "the GPU multiplied 8 x 8 matrices wrongly"
        xp = array_api_compat.array_namespace(one)
        return Device("gpu", xp, array_api_compat.device(one)), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def pick_device(wanted: str, probe: Callable[[], tuple[Device | None, str]] = _probe_gpu) -> Device:
    """The device a worker computes on.

    Args:
        wanted: ``cpu``, ``gpu``, or ``auto`` (a GPU where the probe passes).
    Raises:
        SettingsError: ``gpu`` was asked for and the probe fails here.
    """
    if wanted == "cpu":
        return CPU
    gpu, reason = probe()
    if gpu is not None:
        return gpu
    if wanted == "auto":
        return CPU
    raise SettingsError(explain(
        "device 'gpu'",
        expected="a GPU on which CuPy can allocate and multiply",
        got=f"none on this worker ({reason})",
        consequence="Nothing was computed.",
        fix="Install CuPy for your CUDA (`pip install cupy-cuda12x`) or use `--device cpu`."))
