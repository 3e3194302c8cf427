"""Writing pairs as they are recorded, a few at a time."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Self

import numpy as np

from lrh_dask.errors import SettingsError, explain
from lrh_dask.stores.appending import append_pairs, refuse_unlike
from lrh_dask.stores.blocks import CHUNK_BYTES
from lrh_dask.stores.incoming import Incoming
from lrh_dask.stores.manifest import AppendedBefore, Stamp

__all__ = ["PairWriter"]


class PairWriter:
    """Collects pairs and appends them many at once, each time as one batch.

    >>> with PairWriter("pairs.zarr", label="run-17") as writer:
    ...     for step in training:
    ...         writer.add(step.displacement, step.gradient_change)

    What was appended stays, whatever happens later: a killed recorder loses the pairs that it
    had not appended yet, and after an exception so many are dropped.

    Args:
        store: see :func:`lrh_dask.append_pairs`.
        label: what records them, such as the name of a training run.
        rows_at_once: pairs of a batch; by default as many as make a chunk of 16 MiB.
    Raises:
        SettingsError: ``rows_at_once`` is no number of pairs, or ``label`` is none.
    """

    def __init__(self, store: str | Path, *, label: str | None = None,
                 rows_at_once: int | None = None) -> None:
        if rows_at_once is not None and rows_at_once < 1:
            raise SettingsError(explain(
                f"record to {store}", expected="rows_at_once of at least 1",
                got=str(rows_at_once), consequence="Nothing was recorded",
                fix="Leave it out, or give a number of pairs"))
        Stamp(label)
        self._store, self._label, self._rows_at_once = store, label, rows_at_once
        self._buffers: dict[str, np.ndarray] = {}
        self._n_waiting = self._n_tried = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.flush()

    def add(self, x: Any, y: Any, weight: Any = None) -> None:
        """Record one pair, x and y (D,), or several, (m, D) each.

        Args:
            weight: one number, or (m,); with every pair or with none.
        Raises:
            BadPairs: it is no pair, or not like those before and those in the store: this one is
                not recorded.
            RunFailed: the disk does not take a full batch.
        """
        rows = {"x": _rows(x), "y": _rows(y)}
        if weight is not None:
            rows["weight"] = np.broadcast_to(np.asarray(weight, np.float64), len(rows["x"]))
        incoming = Incoming(rows["x"], rows["y"], rows.get("weight"), "the pair")
        incoming.refuse_unfit()
        if not self._buffers:
            refuse_unlike(self._store, incoming)
            self._begin(rows)
        incoming.refuse_unlike("those before", self._buffers)
        start, n_rows, room = 0, len(rows["x"]), len(self._buffers["x"])
        while start < n_rows:
            stop = min(n_rows, start + room - self._n_waiting)
            waiting = self._n_waiting + stop - start
            for label, buffer in self._buffers.items():
                buffer[self._n_waiting:waiting] = rows[label][start:stop]
            start, self._n_waiting = stop, waiting
            if waiting == room:
                self.flush()

    def flush(self) -> None:
        """Append what waits, now.

        Raises:
            BadPairs: the store has pairs of another kind meanwhile.
            RunFailed: the disk does not take it; it waits still.
        """
        if self._n_tried:  # an append of these was interrupted: perhaps they are there
            with contextlib.suppress(AppendedBefore):
                self._append(self._n_tried, again=False)
            self._drop(self._n_tried)
        if self._n_waiting:
            self._n_tried = self._n_waiting
            self._append(self._n_waiting, again=True)
            self._drop(self._n_waiting)

    def _append(self, n_rows: int, *, again: bool) -> None:
        rows = {label: buffer[:n_rows] for label, buffer in self._buffers.items()}
        append_pairs(self._store, rows["x"], rows["y"], rows.get("weight"), label=self._label,
                     again=again)

    def _drop(self, n_rows: int) -> None:
        """Forget the first rows, which are in the store."""
        left = self._n_waiting - n_rows
        for buffer in self._buffers.values():
            buffer[:left] = buffer[n_rows:self._n_waiting].copy()
        self._n_waiting, self._n_tried = left, 0

    def _begin(self, rows: dict[str, np.ndarray]) -> None:
        """Room for a batch of pairs like these."""
        row_bytes = max(array[0].nbytes for array in rows.values())
        n_rows = self._rows_at_once or max(1, CHUNK_BYTES // row_bytes)
        self._buffers = {label: np.empty((n_rows, *array.shape[1:]), array.dtype)
                         for label, array in rows.items()}


def _rows(array: Any) -> np.ndarray:
    """One row, or several, of floats."""
    rows = np.atleast_2d(np.asarray(array))
    return rows.astype(np.float64) if rows.dtype.kind in "iub" else rows
