"""Segments and windows: which rows of a growing store are counted, and which are kept together.

A *batch* is what one append has brought: consecutive rows with the time at which they were recorded
and the label of the training run they are from. A *segment* is consecutive rows whose states are
stored together; it is counted as a whole or not at all. A *window* says which rows a run is about;
a store without batches counts as one batch a night, recorded when it was first seen.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import accumulate
from typing import Any

from lrh_dask.stores.documents import known

__all__ = ["A_DAY", "STEPS_A_WINDOW", "Segment", "Window", "ahead", "uncovered"]

A_DAY = timedelta(days=1)
"""Clocks may differ by so much."""
MOST_ROWS = 2**62
STEPS_A_WINDOW = 10
"""A window of so many pairs slides in steps of about a tenth."""


@dataclass(frozen=True)
class Segment:
    """Rows ``start`` to ``stop``.

    Attributes:
        first, last: when the earliest and the latest of them were recorded (ISO 8601, UTC).
        labels: of the training runs that they are from, sorted.
        buckets: that its rows are counted in, by turns; none as long as they are not laid out.
        block_rows: rows that are read at once, which the edges of buckets follow.
    """

    start: int
    stop: int
    first: str
    last: str
    labels: tuple[str, ...] = ()
    buckets: tuple[int, ...] = ()
    block_rows: int = 0

    @property
    def n_pairs(self) -> int:
        """Rows."""
        return self.stop - self.start

    @staticmethod
    def of(batches: Iterable[Any]) -> list[Segment]:
        """Those of batches with ``start``, ``stop``, ``recorded`` and ``label``."""
        return [Segment(b.start, b.stop, b.recorded, b.recorded,
                        () if b.label is None else (b.label,)) for b in batches]

    @staticmethod
    def known(fields: Mapping[str, Any]) -> Segment:
        """From its fields as JSON has them.

        Raises:
            ValueError: they are those of no segment.
        """
        found = known(Segment, fields)
        for time in {found.first, found.last} - {""}:
            datetime.fromisoformat(time)
        if not 0 <= found.start < found.stop < MOST_ROWS:
            message = f"rows {found.start}-{found.stop - 1}, which are none"
            raise ValueError(message)
        return found

    def join(self, other: Segment) -> Segment:
        """This one and the one that begins where it ends."""
        return Segment(self.start, other.stop, min(self.first, other.first),
                       max(self.last, other.last), tuple(sorted({*self.labels, *other.labels})))


Age = Callable[[Segment], tuple[str, int]]


@dataclass(frozen=True)
class Window:
    """Which rows a run is about; all where nothing is set.

    Attributes:
        days: those of so many days up to the newest one that was recorded, and those that are
            :func:`ahead`, which move no window.
        n_pairs: the newest so many, or as many as whole segments make up.
        label: those of one training run; ``latest`` that of the newest rows.
    """

    days: int | None = None
    n_pairs: int | None = None
    label: str | None = None
    latest: bool = False

    @staticmethod
    def parse(text: str) -> Window:
        """From words such as ``last 30 days``, ``last 1,000,000 pairs``, ``label NAME``.

        Raises:
            ValueError: they say nothing of the kind.
        """
        if found := re.fullmatch(r"\s*last\s+([\d,_]+)\s+(days?|pairs?)\s*", text):
            number = int(re.sub("[,_]", "", found[1]) or 0)
            if number >= 1:
                return Window(days=number) if found[2].startswith("day") else Window(n_pairs=number)
        elif text.split() == ["last", "label"]:
            return Window(latest=True)
        elif found := re.fullmatch(r"\s*label\s+(\S.*?)\s*", text):
            return Window(label=found[1])
        elif text.strip() == "all":
            return Window()
        message = ("expected 'all', 'last N days', 'last N pairs', 'label NAME' or 'last label', "
                   f"got {text!r}")
        raise ValueError(message)

    def choose(self, stored: Sequence[Segment], batches: Sequence[Segment],
               now: str) -> tuple[list[Segment], list[Segment]]:
        """Those of stored segments that lie in the window, and all other rows that do.

        A stored segment that lies in it in part only is not used: its rows in the window are to be
        read again. (Of a window of so many pairs the last tenth may be left out instead.)

        Args:
            stored: disjoint segments whose states are there; ``batches``: all rows, some at least.
            now: time of day (ISO 8601, UTC).
        """
        age = _ages(batches, now)
        if self.n_pairs is not None:
            return self._newest(stored, batches, age)
        newest = max(batches, key=age)
        label = newest.labels if self.latest else () if self.label is None else (self.label,)

        def inside(segment: Segment) -> bool:
            if self.days is not None:
                end, _ = age(newest)
                oldest = date.fromisoformat(end[:10] or now[:10]) - timedelta(self.days - 1)
                return segment.first[:10] >= oldest.isoformat()
            return not (self.latest or self.label) or segment.labels == label

        kept = [segment for segment in stored if inside(segment)]
        return kept, [rows for rows in uncovered(batches, kept) if inside(rows)]

    def _newest(self, stored: Sequence[Segment], batches: Sequence[Segment],
                age: Age) -> tuple[list[Segment], list[Segment]]:
        """The newest rows, whatever is stored, but for steps."""
        wanted = left = self.n_pairs or 0
        inside: list[Segment] = []
        for batch in sorted(batches, key=age, reverse=True):
            part = replace(batch, start=max(batch.start, batch.stop - left))
            inside.append(part)
            left -= part.n_pairs
            if not left:
                break
        kept = [segment for segment in stored if not uncovered([segment], inside)]
        fresh = uncovered(inside, kept)
        spare = -(-wanted // STEPS_A_WINDOW)
        for segment in sorted(set(stored) - set(kept), key=age):  # the window's edge cuts them
            rest = uncovered(fresh, [segment])
            n_cut = sum(rows.n_pairs for rows in fresh) - sum(rows.n_pairs for rows in rest)
            if n_cut <= spare:  # a step: they are left out rather than read again
                fresh, spare = rest, spare - n_cut
        return sorted(kept, key=_start), fresh


def ahead(segment: Segment, now: str) -> bool:
    """Whether a clock was wrong: some rows were recorded more than a day later than now."""
    return segment.last > f"{datetime.fromisoformat(now) + A_DAY:%Y-%m-%dT%H:%M:%SZ}"


def uncovered(batches: Iterable[Segment], stored: Iterable[Segment]) -> list[Segment]:
    """What lies of batches in no stored segment; in O(n log n)."""
    taken = sorted(stored, key=_start)
    ends = list(accumulate((segment.stop for segment in taken), max))
    left = []
    for segment in sorted(batches, key=_start):
        start, i = segment.start, bisect_right(ends, segment.start)
        while i < len(taken) and taken[i].start < segment.stop:
            if taken[i].start > start:
                left.append(replace(segment, start=start, stop=taken[i].start))
            start, i = max(start, taken[i].stop), i + 1
        if start < segment.stop:
            left.append(segment if start == segment.start else replace(segment, start=start))
    return left


def _start(segment: Segment) -> int:
    return segment.start


def _ages(batches: Sequence[Segment], now: str) -> Age:
    """What rows are put in order by: when they were recorded, and their place.

    Of those that are :func:`ahead` nobody knows when: they were appended after what lies before.
    """
    def age(segment: Segment) -> tuple[str, int]:
        if not ahead(segment, now):
            return segment.last, segment.stop
        return max((batch.last for batch in batches
                    if batch.start < segment.stop and not ahead(batch, now)),
                   default=""), segment.stop

    return age
