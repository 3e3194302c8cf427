"""Refuses arrays whose chunks are programs: Zarr format 2 knows a codec that unpickles them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from lrh_dask.errors import BadPairs, explain

__all__ = ["refuse_pickles"]


def refuse_pickles(group: Any, names: Iterable[str], store: str) -> None:
    """Raise where decoding a chunk of one of these arrays would run code, before Zarr opens any.

    Format 3 has no such codec.

    Args:
        names: of arrays that may be there; ``store``: what messages call the store.
    Raises:
        BadPairs: it would.
    """
    from lrh_dask.stores.zarr_core import get

    if group.metadata.zarr_format != 2:
        return
    for name in names:
        stored = None if "/" in name else get(group.store_path / name / ".zarray")
        if stored is None:
            continue
        metadata = json.loads(stored)
        codecs = [metadata.get("compressor"), *(metadata.get("filters") or ())]
        found = [str(codec.get("id")) for codec in codecs if isinstance(codec, dict)]
        if any("pickle" in codec.lower() for codec in found) or "O" in str(metadata.get("dtype")):
            raise BadPairs(explain(
                f"open {store}/{name}", expected="numbers, in codecs that do nothing but decode",
                got=f"dtype {metadata.get('dtype')!r} in {', '.join(found) or 'no codec'}",
                consequence="Reading Python objects runs whatever code their writer chose, so "
                            "nothing was read",
                fix="Take the pairs from whom you trust, as float32 or float64"))
