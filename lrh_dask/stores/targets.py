"""The arrays of a store that is to be appended to: which they are, and what holds them up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrh_dask.errors import BadPairs, explain
from lrh_dask.stores.manifest import NODE, Manifest

__all__ = ["refuse_ragged", "refuse_unpublished", "target_arrays"]


def target_arrays(store: str, group: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """Arrays of a group by label: x, y and, where there is one, weight.

    Args:
        store: what messages call it; ``names``: of the arrays, by label.
    Raises:
        BadPairs: it lacks x or y, or has arrays of a kind that only grows by being rewritten.
    """
    try:
        members = dict(group.arrays())
    except (ValueError, KeyError, TypeError) as error:
        raise BadPairs(explain(
            f"append to {store}", expected="arrays that Zarr knows how to read",
            got=f"{type(error).__name__}: {error}", consequence="Nothing was appended",
            fix="Restore the metadata of its arrays from a copy")) from error
    arrays = {label: members[name] for label, name in names.items() if name in members}
    if absent := [names[label] for label in ("x", "y") if label not in arrays]:
        raise BadPairs(explain(
            f"append to {store}", expected=f"arrays {names['x']!r} and {names['y']!r}",
            got=f"arrays {sorted(members)}",
            consequence=f"There is no {' nor '.join(absent)} to append to",
            fix="Name the arrays with --x and --y, or append to another store"))
    for label, array in arrays.items():
        metadata = array.metadata
        if metadata.zarr_format != 3 or metadata.chunk_grid.to_dict()["name"] != "regular":
            raise BadPairs(explain(
                f"append to {store}/{names[label]}", expected="Zarr format 3 and equal chunks",
                got=f"Zarr format {metadata.zarr_format}"
                    f"{' and chunks of several sizes' * (metadata.zarr_format == 3)}",
                consequence="Nothing was appended",
                fix=f"Begin a new store of these pairs with `lrh append NEW.zarr {store}`, and "
                    "append to that"))
    return arrays


def refuse_ragged(store: str, arrays: Mapping[str, Any]) -> None:
    """Raise unless arrays without a manifest have the same rows.

    Raises:
        BadPairs: they do not.
    """
    if len({int(array.shape[0]) for array in arrays.values()}) > 1:
        raise BadPairs(explain(
            f"append to {store}", expected="x, y and weight of one length", got=_rows_of(arrays),
            consequence="Rows cannot be matched to pairs, so nothing was appended",
            fix="Cut the longer ones (`zarr.open_group(path)['x'].resize(...)`) if an append "
                "was interrupted"))


def refuse_unpublished(store: str, arrays: Mapping[str, Any], manifest: Manifest) -> None:
    """Raise unless arrays have the rows of a manifest, and none but those of a broken append.

    Raises:
        BadPairs: they have fewer, or more.
    """
    rows = [int(array.shape[0]) for array in arrays.values()]
    expected = f"the {manifest.rows} rows that were published"
    if min(rows) < manifest.rows:
        raise BadPairs(explain(
            f"append to {store}", expected=expected, got=_rows_of(arrays),
            consequence="Pairs were lost, so nothing was appended",
            fix="Restore the store from a copy"))
    if max(rows) > max(manifest.rows, manifest.appending_to or 0):
        raise BadPairs(explain(
            f"append to {store}", expected=expected, got=_rows_of(arrays),
            consequence="Another program wrote rows there, which an append would write over, so "
                        "nothing was appended",
            fix=f"If they are not wanted, cut the arrays to {manifest.rows} rows "
                f"(`zarr.open_group(path)['x'].resize(...)`). If they are, remove the group "
                f"{NODE}: the next append then takes all rows as one batch"))


def _rows_of(arrays: Mapping[str, Any]) -> str:
    return ", ".join(f"{array.shape[0]} rows in {label}" for label, array in arrays.items())
