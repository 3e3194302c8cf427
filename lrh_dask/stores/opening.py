"""From the address of a store to its pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

from lrh_dask.errors import BadPairs, SettingsError, explain, public_name
from lrh_dask.stores.layout import first_rows
from lrh_dask.stores.manifest import Manifest, manifest_of
from lrh_dask.stores.missing import refuse_boundless
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.pickles import refuse_pickles
from lrh_dask.stores.shard_index import refuse_unknown_shards

__all__ = ["Opened", "open_arrays", "open_pairs"]

IN_BUCKETS = ("s3", "gs")
"""Addresses that :mod:`lrh_dask.stores.remote` opens."""


@dataclass(frozen=True, eq=False)
class Opened:
    """The arrays of a store, cut to the rows that are published.

    Attributes:
        weight: None where the store has none; ``fill``: chunks by label that hold but fill.
        manifest: what is published; None where the store has no manifest and all rows count.
        snapshot: the Icechunk snapshot that is read, whatever is appended meanwhile.
        n_unpublished: rows beyond those of the manifest.
    """

    name: str
    x: Any
    y: Any
    weight: Any
    fill: dict[str, frozenset[str]]
    manifest: Manifest | None = None
    snapshot: str | None = None
    n_unpublished: int = 0


def open_pairs(store: Any, *, x: str = "x", y: str = "y", weight: str = "weight",
               snapshot: str | None = None) -> Pairs:
    """Open a Zarr group of pairs.

    Of a store that is appended to, the rows published by now are seen, and no others.

    Args:
        store: path, URL (``s3://`` and ``gs://`` with the extra ``remote``, others as far as
            fsspec has them), or an open :class:`zarr.Group`; a folder that is an Icechunk
            repository with the extra ``icechunk``.
        x, y: names of the arrays (n, D); ``weight``: name of the weights (n,), used where present.
        snapshot: which one of a repository to read, if not the newest.
    Raises:
        BadPairs: there is no such group, an array is missing, or the pairs are unusable.
        SettingsError: an extra is needed and not installed.
    """
    found = open_arrays(store, x=x, y=y, weight=weight, snapshot=snapshot)
    manifest = found.manifest or Manifest(0, ())
    return Pairs(found.x, found.y, found.weight, found.name, found.fill, manifest.batches,
                 found.snapshot, found.n_unpublished)


def open_arrays(store: Any, *, x: str = "x", y: str = "y", weight: str = "weight",
                snapshot: str | None = None) -> Opened:
    """The published rows of a Zarr group, be they pairs or not.

    Raises:
        BadPairs: there is no such group, an array is missing, or rows that were published are.
        SettingsError: an extra is needed and not installed.
    """
    import zarr

    from lrh_dask.stores.snapshots import PinnedStore, is_repository, newest

    name = public_name(store)
    in_bucket = isinstance(store, str) and store.partition("://")[0] in IN_BUCKETS
    source: Any = _in_a_bucket(store) if in_bucket else _seen_from_anywhere(store)
    if is_repository(source):
        snapshot = snapshot or newest(source)
        source = PinnedStore(source, snapshot)
    elif snapshot is not None:
        raise SettingsError(explain(
            f"open {name}", expected="an Icechunk repository", got=f"snapshot {snapshot!r} of none",
            consequence="Nothing was read", fix="Leave `snapshot` out"))
    try:
        group = source if isinstance(source, zarr.Group) else zarr.open_group(
            source, mode="r", use_consolidated=False)
        if group.store.read_only:  # of whoever opened a session of Icechunk himself
            snapshot = snapshot or getattr(
                getattr(group.store, "session", None), "snapshot_id", None)
        manifest = manifest_of(group, name)  # first: arrays only grow beyond what it says
        refuse_pickles(group, (x, y, weight), name)
        arrays = dict(group.arrays())
    except BadPairs:
        raise
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
    fill = _declared_fill(group, {"x": x, "y": y, "weight": weight})
    opened = Opened(name, arrays[x], arrays[y], arrays.get(weight), fill, snapshot=snapshot)
    if manifest is not None and x in manifest.arrays:
        opened = _published(opened, manifest)
    for label in ("x", "y", "weight"):
        array = getattr(opened, label)
        if array is not None:
            refuse_unknown_shards(f"{name}/{label}", array)
            refuse_boundless(f"{name}/{label}", array, fill[label])
    return opened


def _declared_fill(group: Any, names: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Keys by label of the chunks that a group declares to hold nothing but fill."""
    declared = group.attrs.asdict().get("lrh_fill_chunks", {})
    if not isinstance(declared, dict):
        return {}
    keys = {label: declared.get(name, ()) for label, name in names.items()}
    return {label: frozenset(map(str, found if isinstance(found, (list, tuple)) else ()))
            for label, found in keys.items()}


def _published(opened: Opened, manifest: Manifest) -> Opened:
    """The same, cut to the rows of the manifest.

    Raises:
        BadPairs: there are fewer.
    """
    arrays = {label: array for label, array in (
        ("x", opened.x), ("y", opened.y), ("weight", opened.weight)) if array is not None}
    lengths = {label: int(array.shape[0]) for label, array in arrays.items() if array.ndim}
    if short := {label: n for label, n in lengths.items() if n < manifest.rows}:
        raise BadPairs(explain(
            f"open {opened.name}", expected=f"the {manifest.rows} rows that were published",
            got=", ".join(f"{n} in {label}" for label, n in short.items()),
            consequence="Pairs were lost, or another program cut the arrays, so none were read",
            fix="Restore the store from a copy"))
    return replace(opened, **{label: first_rows(array, manifest.rows)
                              for label, array in arrays.items()},
                   manifest=manifest, n_unpublished=max(lengths.values()) - manifest.rows)


def _seen_from_anywhere(store: Any) -> Any:
    """A local path made absolute: workers have other working directories."""
    if isinstance(store, str) and store.startswith("file:///"):
        store = Path(url2pathname(store.removeprefix("file://")))
    if isinstance(store, Path) or (isinstance(store, str) and "://" not in store):
        return str(Path(store).absolute())
    return store


def _in_a_bucket(url: str) -> Any:
    from lrh_dask.stores.remote import RemoteStore

    return RemoteStore(url)
