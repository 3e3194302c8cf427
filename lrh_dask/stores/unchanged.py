"""Whether rows stayed as they are while a run read them.

A chunk that is written anew in mid-run is read by some tasks as it was and by others as it is:
the result would be that of no store. So chunks are looked at before and after, and where one was
written the rows in it are compared with the digests in the store's manifest: an append may fill up
the last chunk, whose rows stay the same.
"""

from __future__ import annotations

from lrh_dask.errors import BadPairs, explain
from lrh_dask.linalg.ledger import Ledger
from lrh_dask.stores.layout import stored_chunks
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.stored_chunks import keys_of_rows
from lrh_dask.stores.tokens import as_appended, written

__all__ = ["Unchanged"]

N_LISTED = 5


class Unchanged:
    """Looks at the chunks of pairs, now and when a run has read them.

    Pairs in memory and those of a snapshot cannot change; of stores that tell nothing of their
    chunks nobody knows.

    Args:
        rows: that are read; others may change.
    """

    def __init__(self, pairs: Pairs, rows: Ledger) -> None:
        self._pairs, self._rows = pairs, rows
        self._before = written(pairs, rows.spans.tolist())

    def refuse_changed(self) -> None:
        """Raise where rows were written since.

        Raises:
            BadPairs: naming them.
        """
        now = written(self._pairs, self._rows.spans.tolist())
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

    def _rows_in(self, changed: set[str]) -> list[tuple[int, int]]:
        """The rows of row chunks of which some chunk is among those changed."""
        n, spans = self._pairs.n_pairs, set()
        for label, array in self._pairs.arrays.items() if changed else ():
            rows = stored_chunks(array)[0]
            spans |= {(start, min(start + rows, n)) for start in range(0, n, rows)
                      if not changed.isdisjoint(f"{label}/{key}" for key in keys_of_rows(
                          array, start, start + rows))}
        return sorted(spans)
