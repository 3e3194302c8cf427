"""Pairs (x, y): where they are stored, whether they can be used, and how rows are read.

A store is a Zarr group with two arrays of shape (n, D), row i being pair i: ``x`` points or
steps, ``y`` gradients or gradient differences. An optional ``weight`` (n,) counts rows.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from lrh_dask.errors import BadPairs, SettingsError, explain
from lrh_dask.linalg.arrays import row_squares
from lrh_dask.stores.blocks import Block, Blocks, is_dask
from lrh_dask.stores.checks import (
    check_array,
    check_rows,
    check_squares,
    without_bad_rows,
    working_dtype,
)
from lrh_dask.stores.chunks import read_rows
from lrh_dask.stores.layout import first_rows, has_checksum, is_remote, is_zarr, stored_chunks
from lrh_dask.stores.manifest import Batch
from lrh_dask.stores.missing import missing_chunks
from lrh_dask.stores.streaming import Stream, can_stream

__all__ = ["Pairs", "slice_in_memory"]

@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs in NumPy, dask or Zarr arrays; nothing is read when it is made.

    Args:
        x, y: (n, D) arrays.
        weight: (n,) non-negative, or None.
        name: what messages call the pairs.
        fill_chunks: chunks by array ("x", "y") that the store declares to hold nothing but
            fill, so that their absence is no loss.
        batches: the rows as they were appended, in order; empty where nobody kept count.
        snapshot: the Icechunk snapshot that is read; None of other stores.
        n_unpublished: rows of the store that are none of these, as its manifest lacks them.
        bad_rows: whether rows that hold NaN or Inf are an error, or left out and counted.
    Raises:
        BadPairs: shapes, dtypes or the number of pairs cannot give a Hessian.
    """

    x: Any
    y: Any
    weight: Any = None
    name: str = "pairs"
    fill_chunks: dict[str, frozenset[str]] = field(default_factory=dict)
    batches: tuple[Batch, ...] = field(default=(), repr=False)
    snapshot: str | None = None
    n_unpublished: int = 0
    bad_rows: Literal["fail", "skip"] = "fail"

    def __post_init__(self) -> None:
        for label, array in (("x", self.x), ("y", self.y)):
            check_array(f"{self.name}/{label}", array, ndim=2)
        if tuple(self.x.shape) != tuple(self.y.shape):
            raise BadPairs(explain(
                f"{self.name}", expected="x and y of one shape (n, D)",
                got=f"x {tuple(self.x.shape)} and y {tuple(self.y.shape)}",
                consequence="Rows cannot be matched to pairs",
                fix="Write x and y row by row together; cut the longer one to the shorter if an "
                    "append was interrupted"))
        if self.weight is not None:
            check_array(f"{self.name}/weight", self.weight, ndim=1)
            if self.weight.shape[0] != self.x.shape[0]:
                raise BadPairs(explain(
                    f"{self.name}/weight", expected=f"{self.x.shape[0]} weights",
                    got=f"{self.weight.shape[0]}", consequence="Rows cannot be matched to weights",
                    fix="Write one weight a pair"))
        kinds = {_library(array) for array in self.arrays.values()}
        if len(kinds) > 1:
            raise SettingsError(explain(
                f"{self.name}", expected="x, y and weight of one kind",
                got=" and ".join(sorted(kinds)), consequence="They could not be read together",
                fix="Give all as NumPy arrays, all as dask arrays, or all as Zarr arrays"))
        if self.n_pairs < 2 or self.n_features < 1:
            raise BadPairs(explain(
                f"{self.name}", expected="at least 2 pairs over at least 1 feature",
                got=f"{self.n_pairs} pairs over {self.n_features} features",
                consequence="No Hessian can be fitted", fix="Record more pairs first"))

    @property
    def n_pairs(self) -> int:
        """n."""
        return int(self.x.shape[0])

    @property
    def n_features(self) -> int:
        """D."""
        return int(self.x.shape[1])

    @property
    def dtype(self) -> np.dtype:
        """The dtype in which pairs are computed: float32 or float64."""
        return np.result_type(working_dtype(self.x.dtype), working_dtype(self.y.dtype))

    @property
    def arrays(self) -> dict[str, Any]:
        """x, y and, where there is one, weight."""
        arrays = {"x": self.x, "y": self.y, "weight": self.weight}
        return {label: array for label, array in arrays.items() if array is not None}

    @property
    def stored_dtype(self) -> np.dtype:
        """The coarser floating dtype of x and y: its rounding is in the pairs."""
        floats = [np.dtype(a.dtype).newbyteorder("=") for a in (self.x, self.y)
                  if np.dtype(a.dtype).kind == "f"]
        return min(floats, key=lambda dtype: dtype.itemsize, default=np.dtype(np.float64))

    @property
    def blocks(self) -> Blocks:
        """How much of the pairs is read at once."""
        return Blocks(self.x, self.y, self.weight, self.dtype.itemsize)

    @property
    def in_memory(self) -> bool:
        """Whether the pairs are NumPy arrays, which travel with the tasks."""
        return not (is_dask(self.x) or is_zarr(self.x))

    @property
    def row_bytes(self) -> int:
        """Bytes of one pair in its working dtype."""
        return self.blocks.row_bytes

    @property
    def stored_bytes(self) -> int:
        """Bytes of all pairs, uncompressed, as stored."""
        per_row = self.n_features * (self.x.dtype.itemsize + self.y.dtype.itemsize)
        return self.n_pairs * per_row

    def notices(self) -> list[str]:
        """What a user should know although the pairs can be used."""
        said = [f"{label} is {a.dtype}: computed in {working_dtype(a.dtype)}"
                for label, a in (("x", self.x), ("y", self.y))
                if working_dtype(a.dtype) != a.dtype.newbyteorder("=")]
        if self.n_unpublished:
            said.append(f"{self.n_unpublished} rows beyond these {self.n_pairs} are not published, "
                        "and not read: an append is under way or was broken off, or another "
                        "program wrote them")
        if is_zarr(self.x):
            rows = sorted({int(stored_chunks(a)[0]) for a in (self.x, self.y)})
            if rows[-1] % rows[0]:
                said.append(f"x and y have row chunks of {rows[0]} and {rows[-1]}: some chunks "
                            "are read more than once")
            if self.blocks.repeats_weights:
                said.append(f"weight has chunks of {stored_chunks(self.weight)[0]} rows, each of "
                            f"which is read again for every {self.blocks.rows} pairs: store it in "
                            "row chunks like those of x")
        return said

    def missing(self, label: str) -> list[str]:
        """Chunks of array ``label`` (x, y, weight) that are neither stored nor declared fill."""
        array = getattr(self, label)
        if array is None or not is_zarr(array):
            return []
        return missing_chunks(array, self._fill(label))

    def has_checksums(self) -> bool:
        """Whether every stored array carries a checksum, so that a flipped bit cannot pass."""
        stored = [array for array in self.arrays.values() if is_zarr(array)]
        return bool(stored) and all(map(has_checksum, stored))

    def fingerprint(self) -> str:
        """Digest (hex) of what the arrays say of themselves: shape, dtype, chunks."""
        parts = [{"shape": list(a.shape), "dtype": str(a.dtype), "chunks": str(a.chunks)
                  if hasattr(a, "chunks") else ""} for a in self.arrays.values()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def first(self, n_pairs: int) -> Pairs:
        """The first pairs of a store; where it keeps count, those of its first batches."""
        arrays = {label: first_rows(array, n_pairs) for label, array in self.arrays.items()}
        batches = tuple(batch for batch in self.batches if batch.stop <= n_pairs)
        return replace(self, **arrays, batches=batches)

    def part(self, start: int, stop: int) -> Pairs:
        """What a task must be given to read rows ``start`` to ``stop``.

        Stored pairs travel as their address, without what only the driver looks at; pairs in
        memory as the slice.
        """
        if is_zarr(self.x):
            return replace(self, batches=())
        return slice_in_memory(self.name, start, self.x[start:stop], self.y[start:stop],
                               None if self.weight is None else self.weight[start:stop],
                               self.bad_rows)

    def read(self, start: int, stop: int, columns: tuple[int, int] | None = None,
             out: np.ndarray | None = None) -> Block:
        """Read rows ``start`` to ``stop`` and check them.

        Args:
            columns: the first feature and the one after the last; None is all.
            out: where to put the rows of x and below them those of y, in the working dtype.
        Raises:
            BadPairs: a chunk is missing or cannot be decoded, or a row is not finite.
        """
        begin = time.perf_counter()
        x, y, *weights = self._read_arrays(start, stop, columns, out)
        return self.checked(start, x, y, weights[0] if weights else None,
                            time.perf_counter() - begin, in_place=out is not None)

    @property
    def can_stream(self) -> bool:
        """Whether rows can be read a few at a time, at no more cost than all at once."""
        return can_stream(self.x) and can_stream(self.y)

    def streams(self) -> tuple[Stream, Stream]:
        """Readers of x and of y a few rows at a time."""
        return (Stream(f"{self.name}/x", self.x, self._fill("x")),
                Stream(f"{self.name}/y", self.y, self._fill("y")))

    def checked(self, start: int, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None,
                seconds: float, *, in_place: bool = False) -> Block:
        """Rows that were read in ``seconds``, the first of them row ``start`` of the store.

        Args:
            in_place: x and y may be written to.
        Raises:
            BadPairs: a row is not finite (and not to be left out), or beyond what can be squared.
        """
        n_bytes = x.size * self.x.dtype.itemsize + y.size * self.y.dtype.itemsize + (
            0 if weight is None else weight.nbytes)
        x, y = np.asarray(x, self.dtype), np.asarray(y, self.dtype)
        x_squares, y_squares = row_squares(x), row_squares(y)
        bad = None
        if self.bad_rows == "skip" and not np.isfinite(
                x_squares + y_squares + (0.0 if weight is None else weight)).all():
            x, y, weight, bad = without_bad_rows(x, y, weight, in_place=in_place)
            x_squares, y_squares = row_squares(x), row_squares(y)
        for label, rows, squares in (("x", x, x_squares), ("y", y, y_squares)):
            check_squares(f"{self.name}/{label}", start, rows, squares)
        return Block(start, x, y, x_squares, y_squares, weight, n_bytes, seconds, bad)

    def read_columns(self, label: str, columns: tuple[int, int],
                     out: np.ndarray | None = None) -> np.ndarray:
        """Some columns of all rows of x or y, which were checked before; zeros for NaN and Inf."""
        array = getattr(self, label)
        rows = np.asarray(self._rows(label, array, 0, self.n_pairs, columns, out), self.dtype)
        if self.bad_rows == "skip" and not np.isfinite(rows).all():
            return np.nan_to_num(rows, copy=out is None, nan=0.0, posinf=0.0, neginf=0.0)
        return rows

    def read_weight(self, start: int, stop: int) -> np.ndarray | None:
        """The weights of rows ``start`` to ``stop``, checked; None where the store has none.

        Those of rows that are to be left out may be NaN.

        Raises:
            BadPairs: a chunk is missing, or a weight is negative or not finite.
        """
        if self.weight is None:
            return None
        weight = self._rows("weight", self.weight, start, stop).astype(np.float64)
        check_rows(f"{self.name}/weight", start, weight if self.bad_rows == "fail" else np.where(
            np.isfinite(weight), weight, 0.0), least=0.0)
        return weight

    def _read_arrays(self, start: int, stop: int, columns: tuple[int, int] | None,
                     out: np.ndarray | None) -> list[np.ndarray]:
        """A part of x, of y and the weights (where there are any); at once through a network."""
        for_x, for_y = (None, None) if out is None else (out[:stop - start], out[stop - start:])
        reads: list[Callable[[], np.ndarray | None]] = [
            lambda: self._rows("x", self.x, start, stop, columns, for_x),
            lambda: self._rows("y", self.y, start, stop, columns, for_y),
            lambda: self.read_weight(start, stop)]
        if not is_remote(self.x):
            found = [read() for read in reads]
        else:
            with ThreadPoolExecutor(len(reads), thread_name_prefix="lrh-read") as pool:
                found = list(pool.map(lambda read: read(), reads))
        return [array for array in found if array is not None]

    def _rows(self, label: str, array: Any, start: int, stop: int,
              columns: tuple[int, int] | None = None,
              out: np.ndarray | None = None) -> np.ndarray:
        if is_zarr(array):
            return read_rows(f"{self.name}/{label}", array, start, stop, self._fill(label),
                             columns, out)
        return np.asarray(array[start:stop, slice(*columns)] if columns else array[start:stop])

    def _fill(self, label: str) -> frozenset[str]:
        return self.fill_chunks.get(label, frozenset())


@dataclass(frozen=True, eq=False)
class _Slice(Pairs):
    """Rows of pairs in memory that still go by their numbers in the whole."""

    offset: int = 0

    def __post_init__(self) -> None:
        """The whole was checked already."""

    def __sizeof__(self) -> int:
        """Bytes of the rows, so that Dask places them by their true size."""
        return 200 + sum(a.nbytes for a in (self.x, self.y, self.weight) if a is not None)

    def _rows(self, label: str, array: Any, start: int, stop: int,
              columns: tuple[int, int] | None = None,
              out: np.ndarray | None = None) -> np.ndarray:
        return super()._rows(label, array, start - self.offset, stop - self.offset, columns, out)


def slice_in_memory(name: str, start: int, x: np.ndarray, y: np.ndarray,
                    weight: np.ndarray | None = None,
                    bad_rows: Literal["fail", "skip"] = "fail") -> Pairs:
    """Rows ``start``, ``start + 1``, ... of checked pairs, as arrays in memory."""
    return _Slice(x, y, weight, name, offset=start, bad_rows=bad_rows)


def _library(array: Any) -> str:
    return "dask" if is_dask(array) else "Zarr" if is_zarr(array) else "NumPy"
