"""Whether rows that were counted are still what they were.

Tokens of chunks tell cheaply which rows may have changed; of those the digests say so.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lrh_dask.errors import BadPairs, explain
from lrh_dask.runs import progress
from lrh_dask.runs.graph import Stages
from lrh_dask.runs.metering import Reading
from lrh_dask.runs.shards import SAMPLE_BYTES, Piece, RunOfShards, gathered
from lrh_dask.runs.tree import ReadStats
from lrh_dask.stores.digests import Digesting, RowDigest
from lrh_dask.stores.layout import stored_chunks
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.stored_chunks import keys_of_rows
from lrh_dask.stores.tokens import SNAPSHOT

__all__ = ["Checked", "digest_leaf", "refuse_changed", "suspects"]

N_LISTED = 5


@dataclass(frozen=True)
class Checked:
    """What looking again at rows cost."""

    n_pairs: int = 0
    n_bytes: int = 0
    seconds: float = 0.0


def refuse_changed(stages: Stages, pairs: Pairs, digests: Sequence[RowDigest], run_id: str,
                   fix: str) -> Checked:
    """Read blocks of rows and compare them with their digests.

    Raises:
        BadPairs: some are not what they were.
    """
    begin = time.time()
    runs = gathered([RunOfShards(i, ((d.start, d.stop),), (Piece(d.start, d.stop, 0),))
                     for i, d in enumerate(digests)], pairs.row_bytes, run_bytes=SAMPLE_BYTES)
    known = set(digests)
    n_bytes, changed = 0, []
    for _, (found, stats) in stages.each("verify", digest_leaf, runs, run_id):
        n_bytes += stats.n_bytes
        changed += [d for d in found if d not in known]
    if changed:
        listed = ", ".join(f"{d.start}-{d.stop - 1}" for d in sorted(changed)[:N_LISTED])
        raise BadPairs(explain(
            f"rows of {pairs.name}", expected="those that were counted to be as they were",
            got=f"other numbers in {len(changed)} blocks (rows {listed}"
                f"{', ...' if len(changed) > N_LISTED else ''})",
            consequence="They are in the stored states as they were before, so nothing was added",
            fix=fix))
    return Checked(sum(run.n_pairs for run in runs), n_bytes, time.time() - begin)


def digest_leaf(pairs: Pairs, run: RunOfShards,
                run_id: str) -> tuple[tuple[RowDigest, ...], ReadStats]:
    """Digests of the blocks of a run, as they are now."""
    stats, reading = ReadStats(), Reading()
    found: list[RowDigest] = []
    for block in run.blocks:
        with reading:
            rows = pairs.read(*block)
        reading.n_bytes += rows.n_bytes
        digesting = Digesting((block,))
        digesting.add(rows)
        found += digesting.state()
        stats = stats.merge(ReadStats(len(rows.x), rows.n_bytes, rows.seconds))
        del rows  # before the next one is read
    reading.tell()
    progress.emit(run_id, progress.Event("verify", run.index, stats.n_pairs, stats.n_bytes))
    return tuple(found), stats


def suspects(pairs: Pairs, tokens: dict[str, str], before: dict[str, str],
             digests: Sequence[RowDigest]) -> list[RowDigest]:
    """The blocks of rows that lie in a chunk which may have changed."""
    may_have_changed = _since(pairs, tokens, before)
    spans: list[tuple[int, int]] = []
    for label, array in pairs.arrays.items():
        rows = stored_chunks(array)[0]
        spans += [(i * rows, (i + 1) * rows) for i in range(-(-array.shape[0] // rows))
                  if any(may_have_changed(label, key)
                         for key in keys_of_rows(array, i * rows, (i + 1) * rows))]
    joined: list[list[int]] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], stop)
        else:
            joined.append([start, stop])
    ends = [stop for _, stop in joined]
    return [d for d in digests if (i := bisect_right(ends, d.start)) < len(ends)
            and joined[i][0] < d.stop]


def _since(pairs: Pairs, tokens: dict[str, str],
           before: dict[str, str]) -> Callable[[str, str], bool]:
    """Whether a chunk (label of its array, key) may have changed since it was last looked at."""
    if any(tokens[label] != before.get(label) for label in pairs.arrays):
        return lambda *_: True
    if pairs.snapshot is None:
        return lambda label, key: not tokens.get(f"{label}/{key}", "absent") or (
            tokens.get(f"{label}/{key}") != before.get(f"{label}/{key}"))
    from lrh_dask.stores.snapshots import changed_chunks

    try:
        changed = changed_chunks(pairs.x.store.folder, before[SNAPSHOT], pairs.snapshot)
    except (KeyError, BadPairs):  # none was looked at, or history was written anew
        return lambda *_: True
    names = {label: array.path for label, array in pairs.arrays.items()}
    return lambda label, key: f"{names[label]}/{key}" in changed
