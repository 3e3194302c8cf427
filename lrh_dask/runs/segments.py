"""From rows that are to be counted to segments, and from segments to a partition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise

from lrh_dask.runs.shards import HELD_OUT_EVERY, N_BUCKETS, Partition, partition
from lrh_dask.stores.windows import STEPS_A_WINDOW, Segment, Window, ahead

__all__ = ["cut_into_segments", "lay_out", "with_buckets"]

def cut_into_segments(rows: Sequence[Segment], window: Window, now: str) -> list[Segment]:
    """Segments of rows to be counted, as fine as the window will ask for them.

    Those of which nobody knows when they were recorded are kept apart from others.
    """
    def kind(segment: Segment) -> object:
        return ahead(segment, now), (
            segment.first[:10] if window.days is not None else
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
    n = max(1, -(-segment.n_pairs * STEPS_A_WINDOW // window.n_pairs))
    cuts = [segment.start + segment.n_pairs * i // n for i in range(n + 1)]
    return [replace(segment, start=a, stop=b) for a, b in pairwise(cuts)]


def with_buckets(segments: Sequence[Segment], n_pairs: int, block_rows: int, *,
                 n_before: int = 0) -> list[Segment]:
    """Segments with the buckets that their rows are counted in, whenever they are read.

    A segment of all pairs goes to all buckets, as it would without segments; a smaller one to
    fewer, so that states do not outgrow the rows that they stand for, and to others than the one
    before it; to so many that some of its rows are held out of a fitted basis.

    Args:
        n_pairs: rows of the whole window; ``n_before``: segments that are stored already.
        block_rows: rows that are read at once.
    """
    laid = []
    for i, segment in enumerate(segments, n_before):
        share = 2 * N_BUCKETS * segment.n_pairs / max(n_pairs, 1)
        n = min(N_BUCKETS, HELD_OUT_EVERY * max(1, -(-int(share) // HELD_OUT_EVERY)))
        first = 0 if n == N_BUCKETS else HELD_OUT_EVERY * i
        laid.append(replace(segment, block_rows=block_rows, buckets=tuple(
            (first + j) % N_BUCKETS for j in range(n))))
    return laid


def lay_out(segments: Sequence[Segment], row_bytes: int) -> Partition:
    """The partition of segments that have their buckets."""
    parts: list[Partition] = []
    n_runs = 0
    for segment in segments:
        parts.append(partition(segment.stop, segment.block_rows, row_bytes, start=segment.start,
                               buckets=segment.buckets, first_run=n_runs))
        n_runs += len(parts[-1].runs)
    return Partition(tuple(run for part in parts for run in part.runs),
                     tuple(len(part.runs) for part in parts))
