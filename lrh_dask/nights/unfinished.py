"""A night that was broken off: what it was about, and the states that it has kept by then.

    states/<lineage>/kept/    of the night under way (:mod:`lrh_dask.runs.kept`), gone with its end

The next call finishes it first, about the pairs that it had begun with: of these states are there,
however much was appended since.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrh_dask.errors import SettingsError, finding
from lrh_dask.runs.begun import Begun
from lrh_dask.runs.kept import Kept, remove_kept
from lrh_dask.settings.config import NightlySettings
from lrh_dask.stores.inside import refuse_links
from lrh_dask.stores.opening import open_pairs
from lrh_dask.stores.pairs import Pairs

__all__ = ["GoesOn", "Unfinished"]

OF_THE_CALL = {"cluster", "alerts", "runs"}


@dataclass(frozen=True, eq=False)
class GoesOn:
    """What a night that was broken off was about.

    Attributes:
        run: its name; ``now``: as of when it told days.
        pairs: that there were; ``n_more``: pairs that came since.
        recompute: whether all were to be read again.
    """

    run: str
    now: str
    pairs: Pairs
    n_more: int
    recompute: bool


class Unfinished:
    """What is kept of a night until it is done.

    Args:
        lineage: folder of the states of its lineage.

    Raises:
        SettingsError: somebody has put a link there.
    """

    def __init__(self, lineage: Path, settings: NightlySettings) -> None:
        self._folder, self._settings = lineage / "kept", settings
        refuse_links(self._folder)

    def goes_on(self, pairs: Pairs, *, recompute: bool) -> GoesOn | None:
        """What was broken off of the run that is asked for now; None where nothing was.

        Args:
            pairs: as they are now.
            recompute: all are to be read again: what an ordinary night has kept is removed.
        """
        begun = Begun.noted(self._folder)
        known = None if begun is None else begun.settings
        if begun is None or known not in (self._known(True), self._known(recompute)):
            if recompute:
                self.remove()
            return None
        found = begun.pairs_of(pairs, lambda snapshot: open_pairs(
            self._settings.store, x=self._settings.x, y=self._settings.y, snapshot=snapshot))
        return None if found is None else GoesOn(
            begun.run, begun.now, replace(found, bad_rows=pairs.bad_rows),
            pairs.n_pairs - found.n_pairs, known == self._known(True))

    def begin(self, pairs: Pairs, run: str, now: str, *,
              recompute: bool) -> tuple[Kept | None, str | None]:
        """Where a run keeps states from now on; or why it cannot."""
        try:
            kept = Kept(self._folder, pairs)
            Begun.of(pairs, kept.tokens, run=run, now=now,
                     settings=self._known(recompute)).note(self._folder)
        except (SettingsError, OSError) as error:
            return None, f"{finding(error)}: a run that is broken off begins anew"
        return kept, None

    def remove(self) -> None:
        """What was counted is stored with the states of all nights by now."""
        remove_kept(self._folder)

    def _known(self, recompute: bool) -> dict[str, Any]:
        """What a run's result depends on beside its pairs, as JSON has it."""
        known = self._settings.model_dump(mode="json", exclude=OF_THE_CALL)
        return {**known, "recompute": recompute}
