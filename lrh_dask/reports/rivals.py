"""What one would write by hand instead: the programs that a run is compared with.

Each takes a store of pairs and returns the eigenvalues of its Hessian that are largest in
magnitude, or for the read floor a sum. They are written as a careful user would write them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["dask_normal_equations", "numpy_normal_equations", "open_group", "read_floor",
           "svd_compressed"]

TASK_BYTES = 256 * 2**20
OVERSAMPLING = 16


def read_floor(store: str, client: Any) -> float:
    """Merely read every chunk of x and y on the workers, and sum it."""
    group = open_group(store)
    n_pairs, n_features = group["x"].shape
    height = group["x"].chunks[0]
    size = max(1, TASK_BYTES // (2 * n_features * group["x"].dtype.itemsize * height)) * height
    starts = list(range(0, n_pairs, size))
    stops = [min(start + size, n_pairs) for start in starts]
    futures = client.map(_read_and_sum, [store] * len(starts), starts, stops, pure=False,
                         key="read-floor")
    return float(sum(client.gather(futures)))


def _read_and_sum(store: str, start: int, stop: int) -> float:
    return sum(float(x.sum()) + float(y.sum()) for x, y in _blocks(store, start, stop))


def numpy_normal_equations(store: str, n_wanted: int) -> np.ndarray:
    """XᵀX and YᵀX block by block in one process, on all its BLAS threads, and one D x D solve."""
    group = open_group(store)
    n_pairs, n_features = group["x"].shape
    xx = np.zeros((n_features, n_features), dtype=group["x"].dtype)
    yx = np.zeros_like(xx)
    for x, y in _blocks(store, 0, n_pairs):
        xx += x.T @ x
        yx += y.T @ x
    return _eigenvalues(xx, yx, n_wanted)


def dask_normal_equations(store: str, n_wanted: int) -> np.ndarray:
    """The same products by dask.array, on the current client."""
    import dask.array as da
    from dask.base import compute

    x, y = (da.from_zarr(store, component=name) for name in ("x", "y"))
    xx, yx = compute(x.T @ x, y.T @ x)
    return _eigenvalues(xx, yx, n_wanted)


def svd_compressed(store: str, n_wanted: int) -> np.ndarray:
    """A basis by ``da.linalg.svd_compressed`` of y, then the products within it."""
    import dask.array as da
    from dask.base import compute

    x, y = (da.from_zarr(store, component=name) for name in ("x", "y"))
    _, _, vt = da.linalg.svd_compressed(y, n_wanted + OVERSAMPLING, n_power_iter=1)
    q = vt.T.compute()
    x, y = x @ q, y @ q
    xx, yx = compute(x.T @ x, y.T @ x)
    return _eigenvalues(xx, yx, n_wanted)


def _eigenvalues(xx: np.ndarray, yx: np.ndarray, n_wanted: int) -> np.ndarray:
    h = np.linalg.solve(xx.astype(np.float64), yx.astype(np.float64).T)
    values = np.linalg.eigvalsh((h + h.T) / 2)
    return values[np.argsort(-np.abs(values))][:n_wanted]


def _blocks(store: str, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    group = open_group(store)
    height = group["x"].chunks[0]
    for first in range(start, stop, height):
        last = min(first + height, stop)
        yield np.asarray(group["x"][first:last]), np.asarray(group["y"][first:last])


def open_group(store: str) -> Any:
    """The Zarr group of a store."""
    import zarr

    return zarr.open_group(store, mode="r")
