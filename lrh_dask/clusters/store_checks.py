"""Whether a store can be read where tasks run, is whole, and would tell a flipped bit."""

from __future__ import annotations

from typing import Any

from lrh_dask.clusters.findings import Answers, Finding, fair, good, poor, who
from lrh_dask.clusters.probes import ends_of_store
from lrh_dask.errors import BadPairs, finding
from lrh_dask.stores.pairs import Pairs

__all__ = ["check_checksums", "check_chunks", "check_reach"]


def check_chunks(pairs: Pairs) -> Finding:
    """Chunks that are not stored: Zarr would read them as zeros."""
    try:
        missing = [f"{label}/{key}" for label in ("x", "y", "weight")
                   for key in pairs.missing(label)]
    except BadPairs as error:
        return poor("store chunks", finding(error), "Restore them from a copy")
    if missing:
        return poor("store chunks", f"{len(missing)} of {pairs.name} missing "
                    f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}): a run "
                    "refuses them", "Restore them, or name those that hold nothing but fill in "
                                    "the group attribute `lrh_fill_chunks`")
    return good("store chunks", f"all of {pairs.name} are there")


def check_checksums(pairs: Pairs) -> Finding:
    """Whether a flipped bit would be told."""
    if pairs.has_checksums():
        return good("store checksums", "every chunk has one")
    return fair("store checksums", f"none in {pairs.name}: a flipped bit reads as another number",
                "Write stores with `lrh_dask.write_pairs`, or with the codec crc32c")


def check_reach(pairs: Pairs, read: Answers) -> Finding:
    """Whether every worker reads the same first and last rows as this machine.

    Args:
        read: what each worker made of them (:func:`lrh_dask.clusters.probes.ends_of_store`).
    """
    here = _ends_here(pairs)
    if isinstance(here, Exception):
        return poor("store", f"cannot be read here: {here}", "As it says")
    blind = {address: error for address, error in read.items() if isinstance(error, Exception)}
    if blind:
        first = next(iter(blind.values()))
        return poor("store", f"{who(blind, read)} cannot read {pairs.name}: "
                    f"{type(first).__name__}: {first}",
                    "Put it where every worker sees it under the same name: a shared disk or a "
                    "bucket; for a bucket each worker needs the credentials")
    other = {address for address, digest in read.items() if digest != here}
    if other:
        return poor("store", f"{pairs.name} is another store for {who(other, read)}: its rows "
                    "are not those that are read here", "Put it on a shared disk or in a bucket")
    by_whom = f"read alike here and by {who(read, read)}" if read else "read here, by no worker"
    return good("store", f"{pairs.n_pairs:,} pairs over {pairs.n_features:,} features, {by_whom}")


def _ends_here(pairs: Pairs) -> Any:
    try:
        return ends_of_store(pairs)
    except Exception as error:
        return error
