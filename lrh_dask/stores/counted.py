"""Which rows a published run has counted, and how many two runs have both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lrh_dask.stores.digests import RowDigest
from lrh_dask.stores.documents import MALFORMED, known, read_document

__all__ = ["CountedRows"]


@dataclass(frozen=True)
class CountedRows:
    """Rows of a store.

    Attributes:
        store: its name.
        spans: first row and the one after the last of each; they are disjoint.
        digests: of blocks of these rows; none where they were read in no blocks.
    """

    store: str
    spans: tuple[tuple[int, int], ...]
    digests: frozenset[RowDigest] = frozenset()

    @staticmethod
    def of(folder: Path) -> CountedRows | None:
        """What the folder of a run says of them; None where it says nothing."""
        try:
            run, ledger = (read_document(folder / name) for name in ("run.json", "ledger.json"))
            return known(CountedRows, {"store": run["store"], "spans": ledger["rows"],
                                       "digests": ledger["digests"]})
        except (OSError, *MALFORMED):
            return None

    def n_shared(self, other: CountedRows) -> int:
        """Rows that both have counted, as the same numbers as far as digests of both can tell.

        Blocks that were cut otherwise are not counted: too few only make errors larger.
        """
        if self.store != other.store:
            return 0
        if self.digests and other.digests:
            return sum(d.stop - d.start for d in self.digests & other.digests)
        return _n_common(self.spans, other.spans)


def _n_common(ours: Sequence[tuple[int, int]], theirs: Sequence[tuple[int, int]]) -> int:
    return sum(max(0, min(b, d) - max(a, c)) for a, b in ours for c, d in theirs)
