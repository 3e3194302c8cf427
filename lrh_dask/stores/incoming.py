"""Rows that are to be appended: whether they are pairs, and pairs like those that are there."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lrh_dask.errors import BadPairs, explain, public_name
from lrh_dask.linalg.arrays import row_squares
from lrh_dask.stores.checks import beyond_squares, check_array, working_dtype
from lrh_dask.stores.chunks import read_rows
from lrh_dask.stores.layout import first_rows, is_zarr, stored_chunks
from lrh_dask.stores.opening import open_arrays
from lrh_dask.stores.stored_chunks import RowsDigest

__all__ = ["IN_MEMORY", "Incoming", "incoming_from"]

IN_MEMORY = "the new pairs"
"""What pairs are called that come from no file."""
SHOWN = 5
UNPACKED_BYTES, UNPACKED_TIMES = 2**28, 100
"""Files that unpack to more bytes, and to so many times more than they hold, are no pairs."""
LOOKED_AT_BYTES = 2**20
"""So much at once is looked at: it stays in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Incoming:
    """Rows of x, y (n, D) and of weight (n,), or None, in NumPy or Zarr arrays.

    Args:
        name: what messages call them.
        fill: chunks by array that their store declares to hold nothing but fill.
    Raises:
        BadPairs: their shapes or dtypes are not those of pairs, or there are none.
    """

    x: Any
    y: Any
    weight: Any = None
    name: str = IN_MEMORY
    fill: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for label, array in self.arrays.items():
            check_array(f"{self.name}/{label}", array, ndim=1 if label == "weight" else 2)
        shapes = {label: tuple(array.shape) for label, array in self.arrays.items()}
        if shapes["x"] != shapes["y"] or shapes.get("weight", shapes["x"])[0] != shapes["x"][0]:
            raise BadPairs(explain(
                f"append {self.name}", expected="x and y of one shape (n, D), a weight a pair",
                got=", ".join(f"{label} {shape}" for label, shape in shapes.items()),
                consequence="Rows cannot be matched to pairs, so nothing was appended",
                fix="Give x and y row by row together"))
        if 0 in shapes["x"]:
            raise BadPairs(explain(
                f"append {self.name}", expected="at least one pair over at least one feature",
                got=f"x {shapes['x']}", consequence="There is nothing to append",
                fix="Check what recorded them"))

    @property
    def arrays(self) -> dict[str, Any]:
        """The arrays that there are, by label: x, y, weight."""
        found = {"x": self.x, "y": self.y, "weight": self.weight}
        return {label: array for label, array in found.items() if array is not None}

    @property
    def n_rows(self) -> int:
        """How many pairs are to be appended."""
        return int(self.x.shape[0])

    def refuse_unlike(self, store: str, arrays: Mapping[str, Any]) -> None:
        """Raise unless these rows can stand below those of the arrays of a store.

        Raises:
            BadPairs: other features or weights, or numbers that would be rounded.
        """
        n_features = int(arrays["x"].shape[1])
        if self.x.shape[1] != n_features:
            raise self._unlike(store, f"{n_features} features, as its pairs have",
                               f"{self.x.shape[1]}", "Pairs over other features are of another "
                               "Hessian: append them to a store of their own")
        if ("weight" in arrays) != (self.weight is not None):
            here, there = ("weights", "none") if "weight" in arrays else ("no weights", "some")
            raise self._unlike(store, f"{here}, as its pairs have", there,
                               "Give `weight`, ones where all count alike" if here == "weights"
                               else "Leave `weight` out, or begin a store that has weights")
        for label, array in arrays.items():
            given, kept = np.dtype(self.arrays[label].dtype), np.dtype(array.dtype)
            if not np.can_cast(given, kept, "safe"):
                raise self._unlike(
                    store, f"{label} that {kept} holds without rounding", str(given),
                    f"Convert it yourself (`{label}.astype('{kept}')`), or begin a store of "
                    f"{given}")

    def _unlike(self, store: str, expected: str, got: str, fix: str) -> BadPairs:
        return BadPairs(explain(f"append {self.name} to {store}", expected=expected, got=got,
                                consequence="Nothing was appended", fix=fix))

    def refuse_unfit(self) -> None:
        """Look at all rows where they are in memory; others are looked at as they are read.

        Raises:
            BadPairs: naming rows that are not finite, or saying that they cannot be squared.
        """
        for label, array in self.arrays.items():
            if isinstance(array, np.ndarray):
                self._refuse_unfit(label, 0, array)

    def read(self, label: str, start: int, stop: int, dtype: Any) -> np.ndarray:
        """Rows ``start`` to ``stop`` of an array, checked, in a dtype that holds them.

        Raises:
            BadPairs: they cannot be read, or are no rows of pairs.
        """
        array, name = self.arrays[label], f"{self.name}/{label}"
        rows = read_rows(name, array, start, stop, self.fill.get(label, frozenset())) \
            if is_zarr(array) else np.asarray(array[start:stop])
        self._refuse_unfit(label, start, rows)
        return np.ascontiguousarray(rows, dtype)

    def by_chunks(self, label: str, array: Any, start: int,
                  digest: RowsDigest) -> Iterator[tuple[int, np.ndarray]]:
        """What a stored array holds, chunk by chunk of rows, when these follow on its first ones.

        Args:
            start: rows that it has; those in a chunk that is not full come first in it.
            digest: is given the new rows.
        Yields:
            The number of the first row, and the rows, as far as there are any, of a chunk.
        Raises:
            BadPairs: rows cannot be read, here or there, or are no rows of pairs.
        """
        at_once, stop = int(stored_chunks(array)[0]), start + self.n_rows
        digest.begin()
        for first in range(start // at_once * at_once, stop, at_once):
            begin = max(first, start)
            rows = self.read(label, begin - start, min(first + at_once, stop) - start, array.dtype)
            digest.add(rows)
            if first < start:
                before = read_rows(f"the stored {label}", first_rows(array, start), first, start)
                rows = np.concatenate([before, rows])
            yield first, rows

    def digest_in_memory(self, arrays: Mapping[str, Any]) -> str | None:
        """Digest (hex) of the rows as these arrays are going to hold them.

        None where they are not in memory: to read them for that would cost as much as to append.
        """
        digest = RowsDigest()
        for label, array in arrays.items():
            given = self.arrays[label]
            if not isinstance(given, np.ndarray):
                return None
            digest.begin()
            at_once = max(1, LOOKED_AT_BYTES * len(given) // max(given.nbytes, 1))
            for first in range(0, len(given), at_once):
                digest.add(given[first:first + at_once].astype(array.dtype, copy=False))
        return digest.hex()

    def _refuse_unfit(self, label: str, start: int, rows: np.ndarray) -> None:
        least = 0.0 if label == "weight" else -np.inf
        good = np.ones(len(rows), bool)
        at_once = max(1, LOOKED_AT_BYTES * len(rows) // max(rows.nbytes, 1))
        for first in range(0, len(rows), at_once):
            part = rows[first:first + at_once]
            good[first:first + at_once] = (np.isfinite(part) & (part >= least)).reshape(
                len(part), -1).all(axis=1)
            if label != "weight" and good.all() and not np.isfinite(
                    row_squares(part.astype(working_dtype(part.dtype), copy=False))).all():
                raise beyond_squares(f"append {self.name}/{label}")
        bad = np.flatnonzero(~good) + start
        if bad.size:
            bounded = label == "weight"
            raise BadPairs(explain(
                f"append {self.name}/{label}",
                expected="finite weights, none below zero" if bounded else "finite values",
                got=f"NaN, Inf{' or less' if bounded else ''} in {bad.size} rows "
                    f"({', '.join(map(str, bad[:SHOWN]))}{', ...' if bad.size > SHOWN else ''})",
                consequence="They would make the whole Hessian NaN, so nothing was appended",
                fix="Leave these rows out, in x and y alike, and append the others"))


def _refuse_bombs(source: str | Path) -> None:
    """Raise where a file would unpack to far more than pairs of its size can be.

    Raises:
        ValueError: it would.
    """
    with zipfile.ZipFile(source) as found:
        packed = sum(item.compress_size for item in found.infolist())
        unpacked = sum(item.file_size for item in found.infolist())
    if unpacked > max(UNPACKED_BYTES, UNPACKED_TIMES * packed):
        message = f"{packed:,} bytes that unpack to {unpacked:,}"
        raise ValueError(message)


def incoming_from(source: str | Path, *, x: str = "x", y: str = "y",
                  weight: str = "weight") -> Incoming:
    """Rows of a file ``.npz``, or of a Zarr store, which are read as they are appended.

    Args:
        x, y, weight: names of the arrays.
    Raises:
        BadPairs: there are no such arrays, or the file would run code when it is read.
    """
    name = public_name(source)
    if not name.endswith(".npz"):
        opened = open_arrays(source, x=x, y=y, weight=weight)
        return Incoming(opened.x, opened.y, opened.weight, name, opened.fill)
    try:
        _refuse_bombs(source)
        with np.load(source, allow_pickle=False) as found:
            arrays = {key: found[key] for key in (x, y, weight) if key in found.files}
            present = sorted(found.files)
    except Exception as error:
        raise BadPairs(explain(
            f"read {name}", expected="an .npz file of numbers",
            got="nothing there" if isinstance(error, FileNotFoundError) else str(error),
            consequence="Nothing was appended",
            fix="Write it with `numpy.savez(path, x=x, y=y)`; Python objects are never loaded, "
                "as loading them can run code")) from error
    if absent := [key for key in (x, y) if key not in arrays]:
        raise BadPairs(explain(
            f"read {name}", expected=f"arrays {x!r} and {y!r}", got=f"arrays {present}",
            consequence=f"{' and '.join(map(repr, absent))} cannot be appended",
            fix="Name the arrays with --x and --y"))
    return Incoming(arrays[x], arrays[y], arrays.get(weight), name)
