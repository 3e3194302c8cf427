"""Appending pairs to a store: the one door for the command line, recorders and notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

from lrh_dask.errors import SettingsError, explain, public_name
from lrh_dask.stores.aside import written_aside
from lrh_dask.stores.blocks import CHUNK_BYTES
from lrh_dask.stores.commits import commit_first, commit_rows
from lrh_dask.stores.incoming import IN_MEMORY, Incoming
from lrh_dask.stores.local_stores import append_locally, fill_empty
from lrh_dask.stores.manifest import Batch, Stamp
from lrh_dask.stores.opening import open_arrays
from lrh_dask.stores.snapshots import is_repository
from lrh_dask.stores.writing import empty_group, is_pairs

__all__ = ["NAMES", "append", "append_pairs", "refuse_unlike"]

NAMES = {"x": "x", "y": "y", "weight": "weight"}
"""What the arrays are called in stores that we make."""
LEAST_CHUNK_BYTES = 2 * 2**20
"""The chunks of a store that begins with few pairs: more are to come."""


def append_pairs(store: str | Path, x: Any, y: Any, weight: Any = None, *,
                 label: str | None = None, recorded: datetime | str | None = None,
                 chunk_rows: int | None = None, again: bool = False) -> Batch:
    """Append pairs to a store as one batch: all of them are published, or none.

    The store is made where there is none. Whoever reads it meanwhile sees the rows from before;
    who appends meanwhile waits. A writer that is killed leaves the store as it was.

    Args:
        store: path of a Zarr group on a local file system, with or without a manifest, or of an
            Icechunk repository: such is made where the name ends in ``.icechunk``.
        x, y: (n, D) NumPy or Zarr arrays; ``weight``: (n,), if and only if the store has weights.
        label: what recorded them, such as the name of a training run.
        recorded: when, if not now: late pairs are welcome.
        chunk_rows: pairs a chunk of a store that is made; by default those of this batch, as
            far as they take 2 to 16 MiB.
        again: count them once more where the same rows are a batch already.
    Returns:
        The batch as it was published.
    Raises:
        BadPairs: they are no pairs, or not like those that are there (the message says why).
        SettingsError: the place is none that can be appended to; the same rows are there already.
        RunFailed: the disk does not take them.
    """
    return append(store, Incoming(x, y, weight), Stamp(label, recorded, again),
                  chunk_rows=chunk_rows)


def append(store: str | Path, incoming: Incoming, stamp: Stamp, *,
           names: Mapping[str, str] = NAMES, chunk_rows: int | None = None) -> Batch:
    """The same for rows from anywhere.

    Args:
        names: of the arrays of a store that is there, by label; x, y and weight where it has
            none of these.
    """
    folder = _folder(store)
    if incoming.name != IN_MEMORY and Path(incoming.name).resolve() == folder.resolve():
        raise SettingsError(explain(
            f"append to {folder}", expected="pairs from elsewhere", got="the store itself",
            consequence="Its pairs would count twice, so nothing was appended",
            fix="Name another store or file"))
    while True:
        if folder.exists() or folder.is_symlink():
            folder = folder.resolve()
            if is_repository(folder):
                return commit_rows(folder, names, incoming, stamp)
            there = names if (folder / names["x"]).is_dir() else NAMES
            return append_locally(folder, there, incoming, stamp)
        try:
            return _made(folder, incoming, stamp, chunk_rows)
        except SettingsError:
            if not folder.exists():
                raise  # else another has made it meanwhile


def refuse_unlike(store: str | Path, incoming: Incoming) -> None:
    """Raise where these rows could not be appended to the store that is there, if there is one.

    Raises:
        BadPairs: they are unlike its own.
        SettingsError: the place is none that can be appended to.
    """
    folder = _folder(store)
    if folder.exists():
        found = open_arrays(folder)
        arrays = {"x": found.x, "y": found.y, "weight": found.weight}
        incoming.refuse_unlike(str(folder), {label: array for label, array in arrays.items()
                                             if array is not None})


def _made(folder: Path, incoming: Incoming, stamp: Stamp, chunk_rows: int | None) -> Batch:
    """A new store of these rows."""
    incoming.refuse_unfit()
    rows = chunk_rows or _chunk_rows(incoming)
    if is_repository(folder):  # by its name
        return commit_first(folder, incoming, stamp, rows)
    with written_aside(folder, overwrite=False, is_ours=is_pairs) as aside:
        dtypes = {label: array.dtype for label, array in incoming.arrays.items()}
        arrays = empty_group(aside, int(incoming.x.shape[1]), dtypes, rows)
        return fill_empty(aside, arrays, incoming, stamp)


def _chunk_rows(incoming: Incoming) -> int:
    """Pairs a chunk: those of a batch, if that is neither little nor much."""
    row_bytes = int(incoming.x.shape[1]) * max(
        incoming.x.dtype.itemsize, incoming.y.dtype.itemsize)
    least, most = (max(1, n_bytes // row_bytes) for n_bytes in (LEAST_CHUNK_BYTES, CHUNK_BYTES))
    return min(max(incoming.n_rows, least), most)


def _folder(store: str | Path) -> Path:
    """The folder that a path or a local address names.

    Raises:
        SettingsError: it is an address elsewhere.
    """
    if isinstance(store, str) and store.startswith("file:///"):
        store = url2pathname(store.removeprefix("file://"))
    if isinstance(store, str) and "://" in store:
        raise SettingsError(explain(
            f"append to {public_name(store)}", expected="a local path", got="an address",
            consequence="Nothing could keep two writers apart there, so nothing was appended",
            fix="Append to a store on a file system"))
    return Path(store).absolute()
