"""Appending to a Zarr group in a local folder, so that a kill at any moment loses nothing.

The order is the proof. (1) The manifest says how far the append will go. (2) Chunks are put in
place: a chunk that holds published rows keeps them, and none is ever half written. (3) The arrays
grow. (4) The manifest says that the rows are published. Who reads sees the rows of the manifest.
After a kill before (4) the next append finds what (1) said, and takes (2) and (3) back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lrh_dask.chunks import first_rows, read_rows, stored_chunks
from lrh_dask.errors import BadPairs, LrhError, RunFailed, explain
from lrh_dask.incoming import Incoming
from lrh_dask.locks import exclusive
from lrh_dask.manifest import NODE, Batch, Manifest, Stamp, manifest_of
from lrh_dask.stored_chunks import (
    RowsDigest,
    digest_of_texts,
    digests,
    encoded,
    folder_of,
    keys_of_rows,
    put,
    remove,
    set_rows,
    sync_folders,
)

__all__ = ["LOCK", "adopt", "append_locally", "fill_empty", "publish"]

LOCK = ".lrh-lock"
"""In the folder of x, where no Zarr reader looks for members of the group."""


@dataclass(frozen=True, eq=False)
class _Local:
    """A group of arrays in a local folder.

    Attributes:
        arrays: by label: x, y and, where there is one, weight; as long as they are stored.
        manifest: what is published of them.
    """

    folder: Path
    arrays: Mapping[str, Any]
    manifest: Manifest

    @property
    def name(self) -> str:
        return str(self.folder)


def append_locally(folder: Path, names: Mapping[str, str], incoming: Incoming,
                   stamp: Stamp) -> Batch:
    """Append rows as one batch.

    Args:
        names: of the arrays, by label.
    Raises:
        BadPairs: the rows are no pairs, or none of the kind that is stored; the store has rows
            that nobody published; it is damaged.
        SettingsError: the same rows were appended before; the store cannot be locked.
        RunFailed: it cannot be written.
    """
    _arrays_of(folder, names)  # before a lock is made
    with exclusive(folder / names["x"] / LOCK):
        store = _settled(folder, names)
        incoming.refuse_unlike(store.name, store.arrays)
        incoming.refuse_unfit()
        before, stop = store.manifest, store.manifest.rows + incoming.n_rows
        publish(folder, store.arrays, replace(before, appending_to=stop))
        try:
            with _said_clearly(store.name):
                chunks, digest = _write(store.arrays, before.rows, incoming)
                stamp.refuse_again(store.name, before, digest)
                for array in store.arrays.values():
                    set_rows(array, stop)
                    sync_folders(folder_of(array), [])
                batch = stamp.batch(before.rows, stop, digest)
                publish(folder, store.arrays, before.with_batch(batch, chunks))
        except BaseException:
            with contextlib.suppress(OSError, LrhError):  # else the next append does it
                _roll_back(folder, names)
            raise
    return batch


def fill_empty(folder: Path, arrays: Mapping[str, Any], incoming: Incoming,
               stamp: Stamp) -> Batch:
    """The first rows of arrays of none, in a folder that nobody else sees yet."""
    chunks, digest = _write(arrays, 0, incoming)
    for array in arrays.values():
        set_rows(array, incoming.n_rows)
    batch = stamp.batch(0, incoming.n_rows, digest)
    publish(folder, arrays, Manifest(0, ()).with_batch(batch, chunks))
    return batch


def publish(folder: Path, arrays: Mapping[str, Any], manifest: Manifest) -> None:
    """Put a manifest in place of the one before, at once.

    It is written aside in the folder of x: in that of the group Zarr readers wonder what it is.
    """
    aside = folder_of(arrays["x"]) / f".{NODE}.tmp"
    content = manifest.node().encode()
    if (folder / NODE).is_dir():
        put(folder / NODE / "zarr.json", content, aside=aside)
    else:
        new = aside.with_name(f".{NODE}.new")
        put(new / "zarr.json", content, aside=aside)
        new.rename(folder / NODE)
    sync_folders(folder, [f"{NODE}/zarr.json"])


def _arrays_of(folder: Path, names: Mapping[str, str]) -> tuple[Any, dict[str, Any]]:
    """An open group and its arrays by label.

    Raises:
        BadPairs: it lacks x or y, or is one that only Zarr itself can write.
    """
    import zarr

    try:
        group = zarr.open_group(str(folder), mode="r", use_consolidated=False)
        members = dict(group.arrays())
    except Exception as error:
        raise BadPairs(explain(
            f"append to {folder}", expected="a Zarr group, or nothing yet",
            got=f"{type(error).__name__}: {error}", consequence="Nothing was appended",
            fix="Check the path; a store is made where there is nothing")) from error
    arrays = {label: members[name] for label, name in names.items() if name in members}
    if absent := [names[label] for label in ("x", "y") if label not in arrays]:
        raise BadPairs(explain(
            f"append to {folder}", expected=f"arrays {names['x']!r} and {names['y']!r}",
            got=f"arrays {sorted(members)}",
            consequence=f"There is no {' nor '.join(absent)} to append to",
            fix="Name the arrays with --x and --y, or append to another store"))
    for label, array in arrays.items():
        metadata = array.metadata
        if metadata.zarr_format != 3 or metadata.chunk_grid.to_dict()["name"] != "regular":
            raise BadPairs(explain(
                f"append to {folder}/{names[label]}", expected="Zarr format 3 and equal chunks",
                got=f"Zarr format {metadata.zarr_format}", consequence="Nothing was appended",
                fix=f"Begin a new store of these pairs with `lrh append NEW.zarr {folder}`, and "
                    "append to that"))
    return group, arrays


def _settled(folder: Path, names: Mapping[str, str]) -> _Local:
    """A store as its last whole append left it, every row of it published.

    Raises:
        BadPairs: x, y and weight differ in length, or have rows that nobody published.
    """
    group, arrays = _arrays_of(folder, names)
    manifest = manifest_of(group, str(folder))
    rows = {label: int(array.shape[0]) for label, array in arrays.items()}
    if manifest is None:
        if len(set(rows.values())) > 1:
            raise BadPairs(explain(
                f"append to {folder}", expected="x, y and weight of one length",
                got=", ".join(f"{n} rows in {label}" for label, n in rows.items()),
                consequence="Rows cannot be matched to pairs, so nothing was appended",
                fix="Cut the longer ones (`zarr.open_group(path)['x'].resize(...)`) if an append "
                    "was interrupted"))
        return _Local(folder, arrays, adopt(folder, arrays))
    if manifest.appending_to is not None:
        beyond = max(manifest.appending_to, manifest.rows)
    else:
        beyond = manifest.rows
    if max(rows.values()) > beyond:
        raise BadPairs(explain(
            f"append to {folder}", expected=f"the {manifest.rows} rows that were published",
            got=", ".join(f"{n} in {label}" for label, n in rows.items()),
            consequence="Another program wrote rows there, which an append would write over, so "
                        "nothing was appended",
            fix=f"If they are not wanted, cut the arrays to {manifest.rows} rows "
                f"(`zarr.open_group(path)['x'].resize(...)`). If they are, remove the folder "
                f"{NODE}: the next append then takes all rows as one batch"))
    if min(rows.values()) < manifest.rows:
        raise BadPairs(explain(
            f"append to {folder}", expected=f"the {manifest.rows} rows that were published",
            got=", ".join(f"{n} in {label}" for label, n in rows.items()),
            consequence="Pairs were lost, so nothing was appended",
            fix="Restore the store from a copy"))
    if manifest.appending_to is not None:
        with _said_clearly(str(folder)):
            return _roll_back(folder, names)
    return _Local(folder, arrays, manifest)


def adopt(folder: Path, arrays: Mapping[str, Any]) -> Manifest:
    """Publish the rows that are there, of which nobody kept count, as a first batch."""
    n_rows = int(arrays["x"].shape[0])
    chunks = {key: digest for array in arrays.values()
              for key, digest in digests(array, 0, n_rows).items()}
    manifest = Manifest(0, ())
    if n_rows:
        digest = digest_of_texts(f"{key} {chunks[key]}" for key in sorted(chunks))
        manifest = manifest.with_batch(Stamp().batch(0, n_rows, digest), chunks)
    publish(folder, arrays, manifest)
    return manifest


def _write(arrays: Mapping[str, Any], start: int,
           incoming: Incoming) -> tuple[dict[str, str], str]:
    """Put the chunks in place that hold rows from ``start`` on; their digests, and the rows'."""
    chunks: dict[str, str] = {}
    digest, stop = RowsDigest(), start + incoming.n_rows
    for label, array in arrays.items():
        digest.begin()
        written = []
        at_once = int(stored_chunks(array)[0])
        stored, grown = first_rows(array, start), first_rows(array, stop)
        for first in range(start // at_once * at_once, stop, at_once):
            begin, end = max(first, start), min(first + at_once, stop)
            rows = incoming.read(label, begin - start, end - start, array.dtype)
            digest.add(rows)
            if first < start:  # published rows, in whose chunk there is room
                rows = np.concatenate([_published(label, stored, first, start), rows])
            for key, content in encoded(grown, first, rows):
                put(folder_of(array) / key, content)
                written.append(key)
        sync_folders(folder_of(array), written)
        chunks.update(digests(grown, start, stop))
    return chunks, digest.hex()


def _published(label: str, array: Any, start: int, stop: int) -> np.ndarray:
    return read_rows(f"{folder_of(array)} ({label})", array, start, stop)


def _roll_back(folder: Path, names: Mapping[str, str]) -> _Local:
    """Take back an append that did not come to its end, and say so in the manifest."""
    group, arrays = _arrays_of(folder, names)
    manifest = manifest_of(group, str(folder))
    if manifest is None or manifest.appending_to is None:
        return _Local(folder, arrays, manifest or Manifest(0, ()))
    rows, stop, chunks = manifest.rows, manifest.appending_to, dict(manifest.chunks)
    for array in arrays.values():
        set_rows(array, rows)
        at_once = int(stored_chunks(array)[0])
        edge, folder_ = rows // at_once * at_once, folder_of(array)
        beyond = first_rows(array, max(stop, rows))
        if edge < rows:  # of its chunk only published rows stay, as before
            restored = []
            for key, content in encoded(array, edge, _published("rolled back", first_rows(
                    array, rows), edge, rows)):
                put(folder_ / key, content)
                restored.append(key)
            sync_folders(folder_, restored)
            chunks.update(digests(first_rows(array, rows), edge, rows))
            edge += at_once
        for key in keys_of_rows(beyond, edge, max(stop, edge)):
            remove(folder_ / key)
        sync_folders(folder_, [])
    settled = Manifest(rows, manifest.batches, chunks)
    publish(folder, arrays, settled)
    return _Local(folder, _arrays_of(folder, names)[1], settled)


@contextlib.contextmanager
def _said_clearly(store: str) -> Iterator[None]:
    """What the disk refuses, as an error for a user."""
    try:
        yield
    except OSError as error:
        raise RunFailed(explain(
            f"append to {store}", expected="room and permission to write", got=str(error),
            consequence="Nothing was published: the rows from before are as they were",
            fix="Make room, or mend the disk, and append again")) from error
