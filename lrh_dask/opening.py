"""From the address of a store to its pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.request import url2pathname

from lrh_dask.errors import BadPairs, explain, public_name
from lrh_dask.pairs import Pairs

__all__ = ["open_pairs"]

IN_BUCKETS = ("s3", "gs")
"""Addresses that :mod:`lrh_dask.remote` opens."""


def open_pairs(store: Any, *, x: str = "x", y: str = "y", weight: str = "weight") -> Pairs:
    """Open a Zarr group of pairs.

    Args:
        store: path, URL (``s3://`` and ``gs://`` with the extra ``remote``, others as far as
            fsspec has them), or an open :class:`zarr.Group`.
        x, y: names of the arrays (n, D); ``weight``: name of the weights (n,), used where present.
    Raises:
        BadPairs: there is no such group, an array is missing, or the pairs are unusable.
        SettingsError: the extra ``remote`` is needed and not installed.
    """
    import zarr

    name = public_name(store)
    in_bucket = isinstance(store, str) and store.partition("://")[0] in IN_BUCKETS
    source = _in_a_bucket(store) if in_bucket else _seen_from_anywhere(store)
    try:
        group = source if isinstance(source, zarr.Group) else zarr.open_group(
            source, mode="r", use_consolidated=False)
        arrays = dict(group.arrays())
    except Exception as error:
        if in_bucket and (told := source.why_not(f"open {name}", error)):
            raise told from error
        raise BadPairs(explain(
            f"open {name}", expected="a Zarr group",
            got="nothing there" if isinstance(error, FileNotFoundError)
            else f"{type(error).__name__}: {error}",
            consequence="Nothing was read",
            fix="Check the path; a group is made by `lrh_dask.write_pairs` or by "
                "`zarr.open_group(path, mode='w')`")) from error
    absent = [key for key in (x, y) if key not in arrays]
    if absent:
        raise BadPairs(explain(
            f"open {name}", expected=f"arrays {x!r} and {y!r}",
            got=f"arrays {sorted(arrays)}" if arrays else "a group without arrays",
            consequence=f"{' and '.join(map(repr, absent))} cannot be read",
            fix="Name the arrays with --x and --y"))
    declared = group.attrs.asdict().get("lrh_fill_chunks", {})
    fill = {label: frozenset(str(key) for key in declared.get(array, ()))
            for label, array in (("x", x), ("y", y), ("weight", weight))
            } if isinstance(declared, dict) else {}
    return Pairs(arrays[x], arrays[y], arrays.get(weight), name, fill)


def _seen_from_anywhere(store: Any) -> Any:
    """A local path made absolute: workers have other working directories."""
    if isinstance(store, str) and store.startswith("file:///"):
        store = Path(url2pathname(store.removeprefix("file://")))
    if isinstance(store, Path) or (isinstance(store, str) and "://" not in store):
        return str(Path(store).absolute())
    return store


def _in_a_bucket(url: str) -> Any:
    from lrh_dask.remote import RemoteStore

    return RemoteStore(url)
