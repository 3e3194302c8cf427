"""What a night has to do: which rows it is about, and which of these are to be read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrh_dask.errors import BadPairs, SettingsError, explain, public_name
from lrh_dask.nights.states import Stored
from lrh_dask.runs.segments import cut_into_segments
from lrh_dask.runs.state_files import FORMAT_VERSION
from lrh_dask.settings.config import NightlySettings
from lrh_dask.stores.digests import RowDigest
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.windows import Segment, Window, ahead, uncovered

__all__ = ["RECOMPUTE", "Agenda", "agenda_of", "key_of", "lineage_of",
           "refuse_shrunk"]

N_LISTED = 3
RECOMPUTE = "If it was meant, pass --recompute: all pairs are read again, and states made anew"


@dataclass(frozen=True, eq=False)
class Agenda:
    """What is to be done.

    Attributes:
        stored: segments in the window whose states are there; ``new``: those to be counted.
        new_pairs: in the window, that no run has counted; ``late_pairs``: of these, how many were
            appended after rows that were recorded later and that a run has counted.
        notices: what is odd about them.
    """

    stored: Sequence[Stored]
    new: Sequence[Segment]
    new_pairs: int
    late_pairs: int
    notices: tuple[str, ...] = ()

    @property
    def rows(self) -> list[Segment]:
        """All segments in the window."""
        return sorted([*(item.segment for item in self.stored), *self.new], key=lambda s: s.start)

    @property
    def digests(self) -> list[RowDigest]:
        """Of the rows that were counted."""
        return [d for item in self.stored for d in item.digests]


def agenda_of(settings: NightlySettings, pairs: Pairs, stored: Sequence[Stored],
              before: Sequence[Segment], now: str) -> Agenda:
    """Which rows the window is about, and which of them are to be read.

    Args:
        stored: all segments whose states are there; ``before``: those that runs were about.
        now: when rows were recorded of which nobody kept count (ISO 8601, UTC).
    Raises:
        BadPairs: the store has fewer rows than were counted.
        SettingsError: there is nothing in the window.
    """
    end = max((item.segment.stop for item in stored), default=0)
    refuse_shrunk(pairs, end)
    window, by_segment = Window.parse(settings.window), {item.segment: item for item in stored}
    batches = Segment.of(pairs.batches) or [
        *by_segment, *uncovered([Segment(0, pairs.n_pairs, now, now)], by_segment)]
    kept, fresh = window.choose(list(by_segment), batches, now)
    if not kept and not fresh:
        raise SettingsError(explain(
            f"window {settings.window!r} of {pairs.name}", expected="some pairs in it",
            got="none", consequence="There is nothing to count",
            fix="Check the label; `lrh inspect` lists those of the store"))
    newest = max((segment.last for segment in before if not ahead(segment, now)), default="")
    seen_to = max((segment.stop for segment in before), default=0)
    unseen = uncovered([*kept, *fresh], before)
    return Agenda([by_segment[segment] for segment in kept], cut_into_segments(fresh, window, now),
                  new_pairs=sum(part.n_pairs for part in unseen),
                  late_pairs=sum(part.n_pairs for part in unseen
                                 if part.start >= seen_to and part.last < newest),
                  notices=_to_come(batches, now))


def _to_come(batches: Sequence[Segment], now: str) -> tuple[str, ...]:
    """What a user should know of pairs that were recorded later than now."""
    wrong = [batch for batch in batches if ahead(batch, now)]
    if not wrong:
        return ()
    rows = ", ".join(f"{batch.start}-{batch.stop - 1}" for batch in wrong[:N_LISTED])
    return (f"rows {rows}{', ...' if len(wrong) > N_LISTED else ''} say that they were recorded "
            f"after today ({now[:10]}): a clock was wrong. They count in any window of days; "
            "in others they are taken to be as new as the rows before them",)


def refuse_shrunk(pairs: Pairs, end: int) -> None:
    """Raise where rows up to ``end`` were counted, and are not there any more.

    Raises:
        BadPairs: they are not.
    """
    if end > pairs.n_pairs:
        raise BadPairs(explain(
            pairs.name, expected=f"the {end:,} rows that were counted, and more",
            got=f"{pairs.n_pairs:,}: the store has shrunk",
            consequence="Pairs that are gone are in the stored states, so nothing was added",
            fix=RECOMPUTE))


def lineage_of(settings: NightlySettings, pairs: Pairs) -> dict[str, Any]:
    """All that stored states depend on: what else is set may change from night to night."""
    store = settings.store if "://" in settings.store else str(Path(settings.store).resolve())
    return {"store": public_name(store), "x": settings.x, "y": settings.y,
            "features": pairs.n_features, "dtype": str(pairs.stored_dtype),
            "weight": pairs.weight is not None, "basis": settings.basis,
            "weighting": settings.weighting, "format": FORMAT_VERSION}


def key_of(lineage: str, settings: NightlySettings, segments: Sequence[Segment],
           digests: Sequence[RowDigest]) -> str:
    """Digest (hex) of all that a result depends on: its lineage, other settings, and its rows."""
    s = settings
    known = {"lineage": lineage, "window": s.window, "rank": s.rank, "center": s.center,
             "rtol": s.rtol, "psd": s.psd, "device": s.device,
             "rows": sorted([segment.start, segment.stop] for segment in segments),
             "digests": sorted([d.start, d.stop, d.digest] for d in digests)}
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()
