"""From rows that are to be counted to segments, and from segments to a partition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise

from lrh_dask.shards import HELD_OUT_EVERY, N_BUCKETS, Partition, partition
from lrh_dask.windows import Segment, Window

__all__ = ["cut_into_segments", "lay_out", "uncovered"]

SEGMENTS_A_WINDOW = 10
"""A window of so many pairs slides in steps of about a tenth."""


def uncovered(batches: Iterable[Segment], stored: Iterable[Segment]) -> list[Segment]:
    """What lies of batches in no stored segment."""
    left = list(batches)
    for taken in stored:
        left = [part for segment in left for part in (
            replace(segment, stop=min(segment.stop, max(taken.start, segment.start))),
            replace(segment, start=max(segment.start, min(taken.stop, segment.stop))))
            if part.n_pairs > 0] if any(
                s.start < taken.stop and taken.start < s.stop for s in left) else left
    return sorted(left, key=lambda segment: segment.start)


def cut_into_segments(rows: Sequence[Segment], window: Window) -> list[Segment]:
    """Segments of rows to be counted, as fine as the window will ask for them."""
    def kind(segment: Segment) -> object:
        return (segment.first[:10] if window.days is not None else
                segment.labels if window.latest or window.label is not None else None)

    segments: list[Segment] = []
    for _, group in groupby(_numbered(rows), key=lambda item: (item[0], kind(item[1]))):
        parts = [segment for _, segment in group]
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.join(part)
        segments += _steps(whole, window)
    return segments


def _numbered(rows: Sequence[Segment]) -> Iterator[tuple[int, Segment]]:
    """Each with the number of the stretch of rows without a gap that it is in."""
    stretch, end = 0, None
    for segment in rows:
        stretch += end is not None and end != segment.start
        end = segment.stop
        yield stretch, segment


def _steps(segment: Segment, window: Window) -> list[Segment]:
    if window.n_pairs is None:
        return [segment]
    n = max(1, -(-segment.n_pairs * SEGMENTS_A_WINDOW // window.n_pairs))
    cuts = [segment.start + segment.n_pairs * i // n for i in range(n + 1)]
    return [replace(segment, start=a, stop=b) for a, b in pairwise(cuts)]


def lay_out(segments: Sequence[Segment], n_pairs: int, chunk_rows: int, row_bytes: int, *,
            n_before: int = 0) -> Partition:
    """The partition of segments, each into buckets of its own.

    A segment of all pairs goes to all buckets, as it would without segments; a smaller one to
    fewer, so that states do not outgrow the rows that they stand for, and to others than the one
    before it; to so many that some of its rows are held out of a fitted basis.

    Args:
        n_pairs: rows of the whole window; ``n_before``: segments that are stored already.
    """
    parts, n_runs = [], 0
    for i, segment in enumerate(segments, n_before):
        share = 2 * N_BUCKETS * segment.n_pairs / max(n_pairs, 1)
        n = min(N_BUCKETS, HELD_OUT_EVERY * max(1, -(-int(share) // HELD_OUT_EVERY)))
        first = 0 if n == N_BUCKETS else HELD_OUT_EVERY * i
        parts.append(partition(
            segment.stop, chunk_rows, row_bytes, start=segment.start, first_run=n_runs,
            buckets=[(first + j) % N_BUCKETS for j in range(n)]))
        n_runs += len(parts[-1].runs)
    return Partition(tuple(run for part in parts for run in part.runs),
                     tuple(len(part.runs) for part in parts))
