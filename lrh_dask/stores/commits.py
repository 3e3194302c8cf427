"""Appending to an Icechunk repository: one transaction, seen as a whole or not at all.

On a local file system two commits at once could lose one of them, so each holds a lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lrh_dask.errors import RunFailed, explain
from lrh_dask.stores.aside import written_aside
from lrh_dask.stores.incoming import Incoming
from lrh_dask.stores.locks import exclusive
from lrh_dask.stores.manifest import NODE, Batch, Manifest, Stamp, manifest_of
from lrh_dask.stores.snapshots import BRANCH, first_line, icechunk, newest, repository
from lrh_dask.stores.stored_chunks import RowsDigest
from lrh_dask.stores.targets import refuse_ragged, refuse_unpublished, target_arrays
from lrh_dask.stores.writing import empty_group, is_pairs

__all__ = ["commit_first", "commit_rows"]

LOCK = ".lrh-lock"


def commit_rows(folder: Path, names: Mapping[str, str], incoming: Incoming, stamp: Stamp) -> Batch:
    """Append rows as one batch, which one commit publishes.

    Args:
        names: of the arrays, by label.
    Raises:
        BadPairs: the rows are no pairs, or none of the kind that is stored; the repository has
            rows that nobody published.
        SettingsError: the same rows were appended before; the repository cannot be locked.
        RunFailed: another program committed meanwhile, or the disk does not take them.
    """
    import zarr

    name = str(folder)
    newest(name)  # before a lock is made
    with exclusive(folder / LOCK):
        session = repository(name).writable_session(BRANCH)
        group = zarr.open_group(session.store, mode="r+", use_consolidated=False)
        before, arrays = manifest_of(group, name), target_arrays(name, group, names)
        if before is None:
            refuse_ragged(name, arrays)
            before = _adopted(arrays, session.snapshot_id)
        refuse_unpublished(name, arrays, before)
        incoming.refuse_unlike(name, arrays)
        incoming.refuse_unfit()
        # Before they are written: chunks of a commit that is refused would stay.
        stamp.refuse_again(name, before, incoming.digest_in_memory(arrays))
        return _commit(name, session, arrays, before, incoming, stamp)


def commit_first(folder: Path, incoming: Incoming, stamp: Stamp, chunk_rows: int) -> Batch:
    """A new repository of these rows, made aside and renamed.

    Raises:
        SettingsError: ``folder`` exists, or cannot be written; icechunk is not installed.
    """
    library = icechunk(f"append to {folder}")
    with written_aside(folder, overwrite=False, is_ours=is_pairs) as aside:
        made = library.Repository.create(library.local_filesystem_storage(str(aside)))
        session = made.writable_session(BRANCH)
        dtypes = {label: array.dtype for label, array in incoming.arrays.items()}
        arrays = empty_group(session.store, int(incoming.x.shape[1]), dtypes, chunk_rows)
        return _commit(str(folder), session, arrays, Manifest.over(arrays), incoming, stamp)


def _adopted(arrays: Mapping[str, Any], snapshot: str) -> Manifest:
    """A manifest of rows of which nobody kept count: the snapshot says what they are."""
    n_rows, nothing = int(arrays["x"].shape[0]), Manifest.over(arrays)
    return nothing.with_batch(Stamp().batch(0, n_rows, snapshot)) if n_rows else nothing


def _commit(name: str, session: Any, arrays: Mapping[str, Any], before: Manifest,
            incoming: Incoming, stamp: Stamp) -> Batch:
    """Write rows behind those of the manifest, and commit both."""
    from zarr.storage import StorePath

    from lrh_dask.stores.zarr_core import made_like, put

    digest, stop = RowsDigest(), before.rows + incoming.n_rows
    with _said_clearly(name):
        for label, array in arrays.items():
            grown = made_like(array, storing_fill=True)
            grown.resize((stop, *array.shape[1:]))
            for first, rows in incoming.by_chunks(label, array, before.rows, digest):
                grown[first:first + len(rows)] = rows
        stamp.refuse_again(name, before, digest.hex())
        batch = stamp.batch(before.rows, stop, digest.hex())
        put(StorePath(session.store) / NODE / "zarr.json", before.with_batch(batch).file())
        session.commit(f"append rows {batch.start}-{batch.stop - 1}"
                       + (f" ({batch.label})" if batch.label else ""))
    return batch


@contextlib.contextmanager
def _said_clearly(store: str) -> Iterator[None]:
    """What Icechunk or the disk refuses, as an error for a user."""
    library = icechunk(f"append to {store}")
    try:
        yield
    except library.ConflictError as error:
        raise RunFailed(explain(
            f"append to {store}", expected=f"nobody else to commit to {BRANCH}",
            got=first_line(error), consequence="Nothing was appended; the other commit stands",
            fix="Append again; let other programs write to another branch")) from error
    except (library.IcechunkError, OSError) as error:
        raise RunFailed(explain(
            f"append to {store}", expected="room and permission to write", got=first_line(error),
            consequence="Nothing was published: the rows from before are as they were",
            fix="Make room, or mend the disk, and append again")) from error
