"""Whether rows stayed as they are while a run read them.

A chunk that is written anew in mid-run is read by some tasks as it was and by others as it is:
the result would be that of no store. So files are looked at before and after (size, time, inode; of
objects their tags), and where one has changed the rows in it are compared with the digests in the
store's manifest: an append may fill up the last chunk, whose rows stay the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrh_dask.errors import BadPairs, explain
from lrh_dask.linalg.ledger import Ledger
from lrh_dask.stores.chunks import is_zarr, read_rows, stored_chunks
from lrh_dask.stores.manifest import chunk_digests
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.stored_chunks import digest_of, encoded, folder_of, keys_of_rows

__all__ = ["Unchanged", "as_appended"]

N_LISTED = 5
LEVELS = 3
"""Folders within that of an array, at most: c/0/0 is a chunk."""


class Unchanged:
    """Looks at the chunks of pairs, now and when a run has read them.

    Pairs in memory and those of a snapshot cannot change; of stores that tell nothing of their
    chunks nobody knows.

    Args:
        rows: that are read; others may change.
    """

    def __init__(self, pairs: Pairs, rows: Ledger) -> None:
        self._pairs, self._rows = pairs, rows
        self._before = self._stamps()

    def refuse_changed(self) -> None:
        """Raise where rows were written since.

        Raises:
            BadPairs: naming them.
        """
        now = self._stamps()
        changed = {name for name in {*self._before, *now}
                   if self._before.get(name) != now.get(name)}
        rows = [span for span in self._rows_in(changed)
                if self._rows.overlaps(*span) and not as_appended(self._pairs, *span)]
        if rows:
            listed = ", ".join(f"{start}-{stop - 1}" for start, stop in rows[:N_LISTED])
            raise BadPairs(explain(
                f"read {self._pairs.name}", expected="rows that stay as they are meanwhile",
                got=f"chunks that were written or removed (rows {listed}"
                    f"{', ...' if len(rows) > N_LISTED else ''})",
                consequence="Some rows were read before and some after it, so no result was "
                            "written", fix="Run again when nobody writes there: what is appended "
                "by `lrh append` or `lrh_dask.append_pairs` is no such change"))

    def _stamps(self) -> dict[tuple[str, str], Any]:
        """What changes with a chunk, by label of its array and key."""
        from zarr.storage import LocalStore

        found: dict[tuple[str, str], Any] = {}
        if not is_zarr(self._pairs.x) or self._pairs.snapshot is not None:
            return found
        for label, array in self._pairs.arrays.items():
            listed = getattr(array.store, "tokens", None)  # of object storage
            if isinstance(array.store, LocalStore):
                folder = folder_of(array)
                found |= {(label, key): stamp for key, stamp in _files(folder, folder)}
            elif listed is not None:
                prefix = f"{array.path}/"
                found |= {(label, key.removeprefix(prefix)): stamp
                          for key, stamp in listed(prefix).items() if "json" not in key}
        return found

    def _rows_in(self, changed: set[tuple[str, str]]) -> list[tuple[int, int]]:
        """The rows of row chunks of which some chunk is among those changed."""
        n, spans = self._pairs.n_pairs, set()
        for label, array in self._pairs.arrays.items():
            keys = {key for of, key in changed if of == label}
            rows = stored_chunks(array)[0] if keys else n
            spans |= {(start, min(start + rows, n)) for start in range(0, n if keys else 0, rows)
                      if not keys.isdisjoint(keys_of_rows(array, start, start + rows))}
        return sorted(spans)


def as_appended(pairs: Pairs, start: int, stop: int) -> bool:
    """Whether rows of a row of chunks are those that the store's manifest has digests of.

    They are put into chunks again, with nothing after them, as when they were appended.

    Raises:
        BadPairs: they cannot be read.
    """
    for label, array in pairs.arrays.items():
        published = chunk_digests(array, len(pairs.batches))
        first = start // stored_chunks(array)[0] * stored_chunks(array)[0]
        rows = read_rows(f"{pairs.name}/{label}", array, first, stop)
        if any(published.get(key) != digest_of(array, stored)
               for key, stored in encoded(array, first, rows)):
            return False
    return True


def _files(folder: Path, root: Path,
           levels: int = LEVELS) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Key and stamp of every chunk under a folder, but for what is being written aside."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if levels and entry.is_dir():  # a link to one, too, be it to where it is
                    yield from _files(Path(entry.path), root, levels - 1)
                elif not entry.name.startswith(".") and not entry.name.endswith("json"):
                    told = entry.stat()
                    yield (os.path.relpath(entry.path, root),
                           (told.st_size, told.st_mtime_ns, told.st_ino))
    except FileNotFoundError:  # it was moved away: whatever was in it is gone
        return
