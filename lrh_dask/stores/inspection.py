"""What a store of pairs holds and whether it can be used, from its metadata and a few rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from lrh_dask.errors import BadPairs, explain
from lrh_dask.stores.layout import stored_chunks
from lrh_dask.stores.manifest import chunk_digests
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.stored_chunks import digests, keys_of_rows

__all__ = ["inspect_pairs"]

N_LISTED = 5


def inspect_pairs(pairs: Pairs, *, every_row: bool = False) -> dict[str, Any]:
    """Facts about stored pairs; every chunk is looked for, three blocks are read.

    Args:
        every_row: read all blocks, so that all bad rows are named.
    Returns:
        Names and values that JSON knows, in reading order.
    Raises:
        BadPairs: the store cannot be used as it is (the message says why).
    """
    missing = {label: keys for label in ("x", "y", "weight") if (keys := pairs.missing(label))}
    if missing:
        raise BadPairs(explain(
            f"inspect {pairs.name}", expected="every chunk to be stored",
            got="; ".join(f"{label}: {len(keys)} missing ({', '.join(keys[:5])}"
                          f"{', ...' if len(keys) > 5 else ''})"
                          for label, keys in missing.items()),
            consequence="Zarr would read them as fill values, so a run refuses them",
            fix="Restore the chunks, or name those that hold nothing but fill in the group "
                "attribute `lrh_fill_chunks`"))
    rows = min(pairs.blocks.chunk_rows, pairs.n_pairs)
    starts = sorted({0, (pairs.n_pairs // 2) // rows * rows, (pairs.n_pairs - 1) // rows * rows})
    if every_row:
        starts = list(range(0, pairs.n_pairs, rows))
    sample = _Sample()
    for start in starts:
        sample.read(pairs, start, min(start + rows, pairs.n_pairs))
    if every_row and not sample.faults and sample.zeros["x"] == sample.n_rows:
        sample.faults.append(explain(
            f"inspect {pairs.name}/x", expected="points or steps that differ from zero",
            got=f"x = 0 in all {sample.n_rows} rows", consequence="A run refuses them",
            fix="Check that x was written"))
    if sample.faults:
        raise BadPairs("\n".join(sample.faults))
    return {
        "store": pairs.name,
        "pairs": pairs.n_pairs, "features": pairs.n_features,
        "weights": pairs.weight is not None,
        "dtype": f"x {pairs.x.dtype}, y {pairs.y.dtype}; computed in {pairs.dtype}",
        "bytes": pairs.stored_bytes,
        "row_chunk": pairs.blocks.chunk_rows,
        "checksums": pairs.has_checksums(),
        "rows_read": sample.n_rows,
        "zero_rows": f"x {sample.zeros['x']}, y {sample.zeros['y']} of the rows read",
        "row_size": ", ".join(f"{label} {np.median(norms):.3g}" for label, norms
                              in sample.norms.items()) + " (median norm of the first rows)",
        **_published(pairs),
        **(_as_appended(pairs) if every_row else {}),
        "notices": "; ".join([*pairs.notices(), *_unprotected(pairs)]) or "none",
        "usable": "yes" if every_row else
        "yes, as far as metadata, chunk names and the rows read tell (--all reads every row)",
    }


def _unprotected(pairs: Pairs) -> list[str]:
    """What a store without checksums cannot tell."""
    return [] if pairs.has_checksums() else [
        "no checksums: a bit that flips on the disk reads as another number, and nobody can tell. "
        "What `lrh append` and `lrh_dask.write_pairs` write has them"]


def _published(pairs: Pairs) -> dict[str, Any]:
    """What a manifest says, where there is one."""
    if not pairs.batches:
        return {}
    last = pairs.batches[-1]
    told: dict[str, Any] = {
        "batches": len(pairs.batches),
        "newest_batch": f"rows {last.start}-{last.stop - 1}, recorded {last.recorded}"
                        + (f" by {last.label}" if last.label else ""),
        "unpublished_rows": pairs.n_unpublished}
    return told if pairs.snapshot is None else {**told, "snapshot": pairs.snapshot}


def _as_appended(pairs: Pairs) -> dict[str, str]:
    """Whether local chunks have the digests of the manifest, where it has them.

    Raises:
        BadPairs: these are damaged.
    """
    from zarr.storage import LocalStore

    n_chunks, changed = 0, []
    for label, array in pairs.arrays.items():
        if not isinstance(array.store, LocalStore) or not pairs.batches:
            return {}
        published = chunk_digests(array, len(pairs.batches))
        found, rows = digests(array, 0, pairs.n_pairs), stored_chunks(array)[0]
        n_chunks += len(found)
        spans = [(start, min(start + rows, pairs.n_pairs)) for start in range(
            0, pairs.n_pairs, rows) if any(found.get(key) != published.get(key) for key in
                                           keys_of_rows(array, start, start + rows))]
        if spans:
            listed = ", ".join(f"{start}-{stop - 1}" for start, stop in spans[:N_LISTED])
            changed.append(f"{label} (rows {listed}{', ...' if len(spans) > N_LISTED else ''})")
    return {"as_appended": f"no: other bytes in {'; '.join(changed)}" if changed else
            f"yes, all {n_chunks} chunks"}


class _Sample:
    """What the rows read so far tell."""

    def __init__(self) -> None:
        self.n_rows = 0
        self.zeros = {"x": 0, "y": 0}
        self.norms: dict[str, np.ndarray] = {}
        self.faults: list[str] = []

    def read(self, pairs: Pairs, start: int, stop: int) -> None:
        """Read rows; a fault is noted, so that all of them can be told at once."""
        try:
            block = pairs.read(start, stop)
        except BadPairs as error:
            self.faults.append(str(error))
            return
        self.n_rows += len(block.x)
        for label, rows in (("x", block.x), ("y", block.y)):
            norms = np.linalg.norm(rows.astype(np.float64), axis=1)
            self.zeros[label] += int(np.count_nonzero(norms == 0))
            self.norms.setdefault(label, norms)
