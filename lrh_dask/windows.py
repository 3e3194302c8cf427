"""Segments and windows: which rows of a growing store are counted, and which are kept together.

A *batch* is what one append has brought: consecutive rows with the time at which they were recorded
and the label of the training run they are from. A *segment* is consecutive rows whose states are
stored together; it is counted as a whole or not at all. A *window* says which rows a run is about;
a store without batches counts as one batch a night, recorded when it was first seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

__all__ = ["Segment", "Window"]


@dataclass(frozen=True)
class Segment:
    """Rows ``start`` to ``stop``.

    Attributes:
        first, last: when the earliest and the latest of them were recorded (ISO 8601, UTC).
        labels: of the training runs that they are from, sorted.
    """

    start: int
    stop: int
    first: str
    last: str
    labels: tuple[str, ...] = ()

    @property
    def n_pairs(self) -> int:
        """Rows."""
        return self.stop - self.start

    @staticmethod
    def of(batches: Iterable[Any]) -> list[Segment]:
        """Those of batches with ``start``, ``stop``, ``recorded`` and ``label``."""
        return [Segment(b.start, b.stop, b.recorded, b.recorded,
                        () if b.label is None else (b.label,)) for b in batches]

    def join(self, other: Segment) -> Segment:
        """This one and the one that begins where it ends."""
        return Segment(self.start, other.stop, min(self.first, other.first),
                       max(self.last, other.last), tuple(sorted({*self.labels, *other.labels})))


@dataclass(frozen=True)
class Window:
    """Which rows a run is about; all where nothing is set.

    Attributes:
        days: those of so many days up to the newest one that was recorded.
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

    def choose(self, stored: Sequence[Segment],
               fresh: Sequence[Segment]) -> tuple[list[Segment], list[Segment]]:
        """Those of stored segments, and of rows that are in none, that the window is about.

        Args:
            stored: disjoint segments whose states are there, each taken whole or not at all.
            fresh: rows in none of them, batch by batch. (There must be some rows.)
        """
        if self.n_pairs is not None:
            return self._newest(stored, fresh)
        newest = max([*stored, *fresh], key=_age)
        label = newest.labels[-1:] if self.latest else () if self.label is None else (self.label,)

        def inside(segment: Segment) -> bool:
            if self.days is not None:
                oldest = date.fromisoformat(newest.last[:10]) - timedelta(self.days - 1)
                return segment.first[:10] >= oldest.isoformat()
            return not (self.latest or self.label) or segment.labels == label

        return list(filter(inside, stored)), list(filter(inside, fresh))

    def _newest(self, stored: Sequence[Segment],
                fresh: Sequence[Segment]) -> tuple[list[Segment], list[Segment]]:
        left = self.n_pairs or 0
        taken: tuple[list[Segment], list[Segment]] = [], []
        kept = set(stored)
        for segment in sorted([*stored, *fresh], key=_age, reverse=True):
            if segment in kept and segment.n_pairs > left:
                break
            part = replace(segment, start=max(segment.start, segment.stop - left))
            taken[segment not in kept].append(part)
            left -= part.n_pairs
            if not left or part != segment:
                break
        return sorted(taken[0], key=_start), sorted(taken[1], key=_start)


def _start(segment: Segment) -> int:
    return segment.start


def _age(segment: Segment) -> tuple[str, int]:
    return segment.last, segment.stop
