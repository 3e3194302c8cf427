"""What a store of pairs holds and whether it can be used, from its metadata and a few rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from lrh_dask.errors import BadPairs, explain
from lrh_dask.pairs import Pairs

__all__ = ["inspect_pairs"]


def inspect_pairs(pairs: Pairs) -> dict[str, Any]:
    """Facts about stored pairs; every chunk is looked for, three blocks are read.

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
                          f"{', ...' if len(keys) > 5 else ''})"  # noqa: PLR2004
                          for label, keys in missing.items()),
            consequence="Zarr would read them as fill values, so a run refuses them",
            fix="Restore the chunks, or name those that hold nothing but fill in the group "
                "attribute `lrh_fill_chunks`"))
    rows = min(pairs.chunk_rows, pairs.n_pairs)
    starts = sorted({0, (pairs.n_pairs // 2) // rows * rows, (pairs.n_pairs - 1) // rows * rows})
    blocks = [pairs.read(start, min(start + rows, pairs.n_pairs)) for start in starts]
    x, y = np.concatenate([b.x for b in blocks]), np.concatenate([b.y for b in blocks])
    zero = {label: int(np.count_nonzero(~a.any(axis=1))) for label, a in (("x", x), ("y", y))}
    return {
        "store": pairs.name,
        "pairs": pairs.n_pairs, "features": pairs.n_features,
        "weights": pairs.weight is not None,
        "dtype": f"x {pairs.x.dtype}, y {pairs.y.dtype}; computed in {pairs.dtype}",
        "bytes": pairs.stored_bytes,
        "row_chunk": pairs.chunk_rows,
        "checksums": pairs.has_checksums(),
        "rows_sampled": len(x),
        "zero_rows_sampled": f"x {zero['x']}, y {zero['y']}",
        "row_size": f"x {_median_norm(x):.3g}, y {_median_norm(y):.3g} (median norm)",
        "notices": "; ".join(pairs.notices()) or "none",
        "usable": "yes, as far as metadata, chunk names and the sampled rows tell",
    }


def _median_norm(rows: np.ndarray) -> float:
    return float(np.median(np.linalg.norm(rows.astype(np.float64), axis=1)))
