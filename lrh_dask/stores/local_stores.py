"""Appending to a Zarr group in a local folder, so that a kill at any moment loses nothing.

The order is the proof. (1) The manifest says how far the append will go. (2) Chunks are put in
place: a chunk that holds published rows keeps them, and none is ever half written. (3) The arrays
grow. (4) The manifest says that the rows are published. Who reads sees the rows of the manifest.
After a kill before (4) the next append finds what (1) said, and takes (2) and (3) back.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lrh_dask.errors import BadPairs, LrhError, RunFailed, explain
from lrh_dask.stores.chunks import read_rows
from lrh_dask.stores.incoming import Incoming
from lrh_dask.stores.inside import refuse_links
from lrh_dask.stores.layout import first_rows, stored_chunks
from lrh_dask.stores.locks import exclusive
from lrh_dask.stores.manifest import (
    NODE,
    Batch,
    Manifest,
    Stamp,
    group_file,
    manifest_of,
    node_of_chunks,
)
from lrh_dask.stores.stored_chunks import (
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
from lrh_dask.stores.targets import refuse_ragged, refuse_unpublished, target_arrays

__all__ = ["LOCK", "adopt", "append_locally", "fill_empty", "publish"]

LOCK = ".lrh-lock"
"""In the folder of x, where no Zarr reader looks for members of the group."""
ChunkDigests = dict[str, dict[str, str]]
"""By name of the array and key of the chunk."""


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
    name = str(folder)
    group = _opened(folder)  # before a lock is made
    manifest_of(group, name)
    refuse_links(folder / NODE, *map(folder_of, target_arrays(name, group, names).values()))
    with exclusive(folder / names["x"] / LOCK):
        arrays, before = _settled(folder, names)
        incoming.refuse_unlike(name, arrays)
        incoming.refuse_unfit()
        stamp.refuse_again(name, before, incoming.digest_in_memory(arrays))
        stop, batch = before.rows + incoming.n_rows, None
        try:
            with _said_clearly(name):
                publish(folder, arrays, replace(before, appending_to=stop))
                chunks, digest = _write(arrays, before.rows, incoming)
                stamp.refuse_again(name, before, digest)
                for array in arrays.values():
                    set_rows(array, stop)
                    sync_folders(folder_of(array), [])
                batch = stamp.batch(before.rows, stop, digest)
                publish(folder, arrays, before.with_batch(batch), chunks)
        except BaseException as error:
            published: tuple[Batch, ...] = ()
            with contextlib.suppress(OSError, LrhError):  # else the next append does it
                published = _settled(folder, names)[1].batches
            if batch not in published or not isinstance(error, Exception):
                raise
            # They are there, and would count twice if they were appended again.
            logging.getLogger(__name__).warning(
                "rows %d-%d of %s are published; a failure of the machine could still lose them: "
                "%s", before.rows, stop - 1, name, error)
    assert batch is not None
    return batch


def fill_empty(folder: Path, arrays: Mapping[str, Any], incoming: Incoming,
               stamp: Stamp) -> Batch:
    """The first rows of arrays of none, in a folder that nobody else sees yet."""
    chunks, digest = _write(arrays, 0, incoming)
    for array in arrays.values():
        set_rows(array, incoming.n_rows)
    batch = stamp.batch(0, incoming.n_rows, digest)
    publish(folder, arrays, Manifest.over(arrays).with_batch(batch), chunks)
    return batch


def publish(folder: Path, arrays: Mapping[str, Any], manifest: Manifest,
            chunks: ChunkDigests | None = None) -> None:
    """Put a manifest in place of the one before, at once.

    It is written aside in the folder of x: in that of the group Zarr readers wonder what it is.

    Args:
        chunks: that the last batch has written; None leaves what is there.
    """
    here = folder_of(arrays["x"])
    files = {} if chunks is None else {
        f"{node_of_chunks(len(manifest.batches) - 1)}/zarr.json": group_file(chunks)}
    files["zarr.json"] = manifest.file()
    is_there = (folder / NODE).is_dir()
    place = folder / NODE if is_there else here / f".{NODE}.new"
    for name, content in files.items():
        put(place / name, content, aside=here / f".{NODE}.tmp")
        sync_folders(place, [name])
    if not is_there:
        place.rename(folder / NODE)
    sync_folders(folder, [])


def _opened(folder: Path) -> Any:
    """The group in a folder.

    Raises:
        BadPairs: there is none.
    """
    import zarr

    try:
        return zarr.open_group(str(folder), mode="r", use_consolidated=False)
    except Exception as error:
        raise BadPairs(explain(
            f"append to {folder}", expected="a Zarr group, or nothing yet",
            got=f"{type(error).__name__}: {error}", consequence="Nothing was appended",
            fix="Check the path; a store is made where there is nothing")) from error


def _settled(folder: Path, names: Mapping[str, str]) -> tuple[dict[str, Any], Manifest]:
    """A store as its last whole append left it: its arrays, every row of them published.

    Raises:
        BadPairs: x, y and weight differ in length, or have rows that nobody published.
    """
    group = _opened(folder)
    manifest, arrays = manifest_of(group, str(folder)), target_arrays(str(folder), group, names)
    if manifest is None:
        refuse_ragged(str(folder), arrays)
        return arrays, adopt(folder, arrays)
    refuse_unpublished(str(folder), arrays, manifest)
    if manifest.appending_to is not None:
        with _said_clearly(str(folder)):
            _roll_back(folder, arrays, manifest)
        return _settled(folder, names)
    return arrays, manifest


def adopt(folder: Path, arrays: Mapping[str, Any]) -> Manifest:
    """Publish the rows that are there, of which nobody kept count, as a first batch."""
    n_rows = int(arrays["x"].shape[0])
    manifest, chunks = Manifest.over(arrays), None
    if n_rows:
        chunks = {array.basename: digests(array, 0, n_rows) for array in arrays.values()}
        digest = digest_of_texts(f"{name}/{key} {found}" for name in sorted(chunks)
                                 for key, found in sorted(chunks[name].items()))
        manifest = manifest.with_batch(Stamp().batch(0, n_rows, digest))
    publish(folder, arrays, manifest, chunks)
    return manifest


def _write(arrays: Mapping[str, Any], start: int,
           incoming: Incoming) -> tuple[ChunkDigests, str]:
    """Put the chunks in place that hold rows from ``start`` on; their digests, and the rows'."""
    chunks: ChunkDigests = {}
    digest, stop = RowsDigest(), start + incoming.n_rows
    for label, array in arrays.items():
        written = []
        for first, rows in incoming.by_chunks(label, array, start, digest):
            written += _put(array, first, rows)
        sync_folders(folder_of(array), written)
        chunks[array.basename] = digests(first_rows(array, stop), start, stop)
    return chunks, digest.hex()


def _put(array: Any, first: int, rows: np.ndarray) -> list[str]:
    """Put a row of chunks in place; their keys."""
    keys = []
    for key, content in encoded(array, first, rows):
        _refuse_links(array, key)
        put(folder_of(array) / key, content)
        keys.append(key)
    return keys


def _refuse_links(array: Any, key: str) -> None:
    """Raise where the folder of a chunk is a symbolic link, by which rows would be put elsewhere.

    Raises:
        SettingsError: it is.
    """
    folder = folder_of(array)
    refuse_links(*(on_the_way for on_the_way in (folder / key).parents
                   if on_the_way.is_relative_to(folder)))


def _roll_back(folder: Path, arrays: Mapping[str, Any], manifest: Manifest) -> None:
    """Take back an append that did not come to its end, and say so in the manifest."""
    n_rows, stop = manifest.rows, max(manifest.rows, manifest.appending_to or 0)
    for array in arrays.values():
        set_rows(array, n_rows)
        kept, at_once = first_rows(array, n_rows), int(stored_chunks(array)[0])
        edge = n_rows // at_once * at_once
        if edge < n_rows:  # of its chunk the published rows stay, and nothing else
            rows = read_rows(f"the stored {array.path}", kept, edge, n_rows)
            sync_folders(folder_of(array), _put(array, edge, rows))
        for key in keys_of_rows(array, -(-n_rows // at_once) * at_once, stop):
            _refuse_links(array, key)
            remove(folder_of(array) / key)
        sync_folders(folder_of(array), [])
    shutil.rmtree(folder / NODE / node_of_chunks(len(manifest.batches)), ignore_errors=True)
    publish(folder, arrays, replace(manifest, appending_to=None))


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
