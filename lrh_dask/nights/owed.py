"""Alerts that were published and not told yet: a process may die between the two.

<runs>/alerts.json      the run whose alerts are owed, and the newest pair called stale last
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from lrh_dask.stores.aside import replace_file
from lrh_dask.stores.documents import MALFORMED, read_document

__all__ = ["Owed"]


class Owed:
    """What is to be told yet, of the runs in a folder.

    A folder that cannot be written is no reason to tell nothing.
    """

    def __init__(self, runs: Path) -> None:
        self._path = runs / "alerts.json"

    @property
    def run(self) -> str | None:
        """The run whose alerts may not have been told."""
        found = self._known().get("owed")
        return None if found is None else str(found)

    def note(self, run: str) -> None:
        """Alerts of a run that is going to be published are to be told."""
        self._write(owed=run)

    def settle(self) -> None:
        """They were told."""
        if self.run is not None:
            self._write(owed=None)

    def stale_again(self, newest: str) -> bool:
        """Whether it was told before that no pairs came after the newest; it is noted now."""
        if self._known().get("stale") == newest:
            return True
        self._write(stale=newest)
        return False

    def _known(self) -> dict[str, Any]:
        with suppress(OSError, *MALFORMED):
            return read_document(self._path)
        return {}

    def _write(self, **changed: str | None) -> None:
        with suppress(OSError):
            replace_file(self._path, json.dumps({**self._known(), **changed}))
