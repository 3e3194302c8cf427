"""Stores in Icechunk: a snapshot is pinned when a store is opened, and read whatever is appended.

The package is an extra, and of two kinds: 1.1 where Python is 3.11, 2.x above.
"""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path
from typing import Any

from zarr.storage import WrapperStore

from lrh_dask.errors import BadPairs, SettingsError, explain

__all__ = ["BRANCH", "PinnedStore", "changed_chunks", "first_line", "icechunk", "is_repository",
           "newest", "repository"]

BRANCH = "main"
ENDING = ".icechunk"
KEPT_OPEN = 8
"""Snapshots that a process keeps open: a worker of many nights reads one after another."""


class PinnedStore(WrapperStore[Any]):
    """One snapshot of a repository, read-only, which travels as its address and id.

    So a process opens it once, however many tasks read it, and keeps what it has looked up.
    """

    def __init__(self, folder: str, snapshot: str) -> None:
        """Open a snapshot.

        Raises:
            BadPairs: there is no such repository, or it has no such snapshot.
            SettingsError: icechunk is not installed.
        """
        library = icechunk(f"open {folder}")
        try:
            session = repository(folder).readonly_session(snapshot_id=snapshot)
        except library.IcechunkError as error:
            raise BadPairs(explain(
                f"open {folder}", expected=f"snapshot {snapshot}", got=first_line(error),
                consequence="Nothing was read",
                fix="Check the id; snapshots that were expired are gone")) from error
        super().__init__(session.store)
        self.folder, self.snapshot = folder, snapshot

    async def exists(self, key: str) -> bool:
        """Whether the snapshot has a key; Icechunk knows none of Zarr's older formats."""
        try:
            return await super().exists(key)
        except KeyError:
            return False

    def __reduce__(self) -> tuple[Any, ...]:
        return _pinned, (self.folder, self.snapshot)

    def __str__(self) -> str:
        return f"{self.folder}@{self.snapshot}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PinnedStore) and str(other) == str(self)

    __hash__ = None  # type: ignore[assignment]  # as of other stores


@lru_cache(maxsize=KEPT_OPEN)
def _pinned(folder: str, snapshot: str) -> PinnedStore:
    return PinnedStore(folder, snapshot)


def is_repository(store: Any) -> bool:
    """Whether an address is one of Icechunk: by its ending, or by what is in the folder."""
    if not isinstance(store, (str, Path)) or "://" in str(store):
        return False
    folder = Path(store)
    return folder.suffix == ENDING or (
        (folder / "snapshots").is_dir() and not (folder / "zarr.json").exists()
        and ((folder / "repo").is_file() or (folder / "refs").is_dir()))


def newest(folder: str) -> str:
    """The id of the newest snapshot.

    Raises:
        BadPairs: there is no repository, or nothing was ever appended to it.
        SettingsError: icechunk is not installed.
    """
    library = icechunk(f"open {folder}")
    try:
        return str(repository(folder).lookup_branch(BRANCH))
    except library.IcechunkError as error:
        raise BadPairs(explain(
            f"open {folder}", expected=f"an Icechunk repository with a branch {BRANCH}",
            got=first_line(error),
            consequence="Nothing was read",
            fix="Check the path, and that pairs were appended there")) from error


def repository(folder: str) -> Any:
    """The open repository of a local folder.

    Raises:
        BadPairs: there is no such folder.
        SettingsError: icechunk is not installed.
    """
    library = icechunk(f"open {folder}")
    if not Path(folder).is_dir():  # icechunk would make it
        raise BadPairs(explain(
            f"open {folder} on {platform.node()}", expected="an Icechunk repository",
            got="nothing there", consequence="Nothing was read",
            fix="Check the path, and that all workers see it; `lrh append` makes a repository "
                "where there is nothing"))
    return library.Repository.open(library.local_filesystem_storage(folder))


def changed_chunks(store: str | Path, from_snapshot: str, to_snapshot: str) -> set[str]:
    """Keys ("x/c/3/0") of the chunks written after one snapshot, up to another.

    Raises:
        BadPairs: the second does not come after the first, or one is not there.
        SettingsError: icechunk is not installed.
    """
    import zarr

    folder = str(Path(store).absolute())
    if from_snapshot == to_snapshot:
        return set()
    group = zarr.open_group(PinnedStore(folder, to_snapshot), mode="r", use_consolidated=False)
    try:
        found = repository(folder).diff(from_snapshot_id=from_snapshot,
                                        to_snapshot_id=to_snapshot).updated_chunks
    except icechunk(f"compare snapshots of {folder}").IcechunkError as error:
        raise BadPairs(explain(
            f"compare snapshots of {folder}",
            expected=f"{to_snapshot} to come after {from_snapshot}", got=first_line(error),
            consequence="Nobody can tell which chunks were written in between",
            fix="Read all of them, as if the store were new")) from error
    arrays = {name: array for name, array in group.arrays() if f"/{name}" in found}
    return {f"{name}/{array.metadata.encode_chunk_key(tuple(at))}"
            for name, array in arrays.items() for at in found[f"/{name}"]}


def icechunk(where: str) -> Any:
    """The package icechunk.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        import icechunk as library
    except ImportError as error:
        raise SettingsError(explain(
            where, expected="the package icechunk", got="none installed",
            consequence="Nothing was read or written",
            fix="`pip install 'lrh-dask[icechunk]'`, here and on the workers")) from error
    if "ICECHUNK_LOG" not in os.environ:  # its warning of concurrent commits: we hold a lock
        library.set_logs_filter("error")
    return library


def first_line(error: Exception) -> str:
    """What an error says, without the trace of the library's own calls."""
    lines = [line.strip(" x|") for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)
