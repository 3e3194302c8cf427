"""What a run was about when it began: one that goes on is about the same pairs.

A store may have grown since. Whoever finishes what was broken off counts the pairs that there were:
of these states are kept, and the result is the one that it would have been.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lrh_dask.errors import BadPairs, public_text
from lrh_dask.stores.aside import replace_file
from lrh_dask.stores.documents import known, read_document
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.tokens import RowTokens

__all__ = ["BEGUN", "Begun"]

BEGUN = "begun.json"


@dataclass(frozen=True)
class Begun:
    """What a run that keeps states in a folder was about when it began.

    Attributes:
        store: where its pairs lie; ``n_pairs``, ``snapshot``: which of them there were.
        rows: digest of what is known of their chunks (:meth:`.tokens.RowTokens.lasting`).
        run: its name; ``now``: when that was (ISO 8601, UTC).
        settings: that its result depends on.
    """

    store: str
    n_pairs: int
    rows: str
    snapshot: str | None = None
    run: str = ""
    now: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(pairs: Pairs, rows: RowTokens, **more: Any) -> Begun:
        """A run that begins now."""
        return Begun(_address(pairs), pairs.n_pairs, rows.lasting([(0, pairs.n_pairs)]),
                     pairs.snapshot, **more)

    @staticmethod
    def noted(folder: Path) -> Begun | None:
        """That which was broken off, if any was, and has kept something."""
        try:
            if not any(folder.glob("*.zip")):
                return None
            return known(Begun, read_document(folder / BEGUN))
        except (OSError, ValueError, TypeError):
            return None

    def note(self, folder: Path) -> None:
        """Write it down, before anything is read.

        Raises:
            OSError: there is no room, or no leave to write.
        """
        replace_file(folder / BEGUN, json.dumps(asdict(self), indent=1))

    def pairs_of(self, pairs: Pairs, reopened: Callable[[str], Pairs]) -> Pairs | None:
        """Of a store as it is now the pairs that there were; None where they are gone or others.

        Args:
            reopened: opens them at another snapshot.
        """
        if self.store != _address(pairs) or (self.snapshot is None) != (pairs.snapshot is None):
            return None
        if not 2 <= self.n_pairs <= pairs.n_pairs:
            return None
        with suppress(BadPairs):  # the snapshot has expired
            found = reopened(self.snapshot) if self.snapshot else pairs.first(self.n_pairs)
            if RowTokens(found).lasting([(0, self.n_pairs)]) == self.rows:
                return found
        return None


def _address(pairs: Pairs) -> str:
    return public_text(str(getattr(pairs.x.store, "folder", pairs.x.store_path)))
