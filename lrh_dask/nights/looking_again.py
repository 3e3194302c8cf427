"""Whether rows that were counted are still what they were: their digests say so."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from lrh_dask.errors import BadPairs, explain
from lrh_dask.runs import progress
from lrh_dask.runs.graph import Stages
from lrh_dask.runs.metering import Reading
from lrh_dask.runs.shards import SAMPLE_BYTES, Piece, RunOfShards, gathered
from lrh_dask.runs.tree import ReadStats
from lrh_dask.stores.digests import Digesting, RowDigest
from lrh_dask.stores.pairs import Pairs

__all__ = ["Checked", "digest_leaf", "refuse_changed"]

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
