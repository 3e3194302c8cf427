"""What the states of many nights are together: a night does not read those of all before it.

The total is of the first segments in row order, and is used where a window begins with all of
them. It is a cache: where it is missing, damaged or of other segments, their states are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import reduce

from lrh_dask.errors import SettingsError
from lrh_dask.linalg.ledger import Ledger
from lrh_dask.nights.states import Stored, StoredStates, checked_ledger
from lrh_dask.runs.packing import Packed, described, partial_of
from lrh_dask.runs.state_files import is_states, read_group, write_group
from lrh_dask.runs.tree import Partial
from lrh_dask.stores.aside import attributes_of, written_aside

__all__ = ["total_of"]

NAME = "total.zarr"
EVERY = 8
"""A total is made anew when so many segments have come since."""


def total_of(states: StoredStates, segments: Sequence[Stored], *, keep: bool) -> Partial:
    """The states of segments (one at least, in row order), merged.

    Args:
        keep: they may be the first ones of later calls, which are to be spared the merging.
    Raises:
        ValueError: some cannot be read.
    """
    n, before = _kept(states, segments)
    total = reduce(Partial.merge, [*([] if before is None else [before]),
                                   *states.load(segments[n:])])
    if keep and states.current is not None and len(segments) - n >= EVERY:
        arrays = Packed()
        attributes = {"parts": [described(total, arrays)], "segments": _names(segments)}
        with suppress(OSError, SettingsError), written_aside(
                states.current / NAME, overwrite=True, is_ours=is_states) as aside:
            write_group(aside, attributes, arrays)
    return total


def _kept(states: StoredStates, segments: Sequence[Stored]) -> tuple[int, Partial | None]:
    """Of how many first segments a total is kept, and the total."""
    if states.current is None:
        return 0, None
    names = attributes_of(states.current / NAME).get("segments", [])
    if not isinstance(names, list) or not names or _names(segments[:len(names)]) != names:
        return 0, None
    try:
        attributes, arrays = read_group(states.current / NAME)
        total = partial_of(attributes["parts"][0], arrays)
        rows = Ledger.of((s.segment.start, s.segment.stop) for s in segments[:len(names)])
        return len(names), checked_ledger(states.current / NAME, total, rows)
    except ValueError:
        return 0, None


def _names(segments: Sequence[Stored]) -> list[list[int]]:
    """What tells stored states from any others that ever were in their folder."""
    return [[s.sequence, s.index, s.segment.start, s.segment.stop] for s in segments]
