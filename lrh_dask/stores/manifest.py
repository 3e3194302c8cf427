"""What is published of a store that is appended to: its rows, batch by batch, and its chunks.

The manifest is a Zarr group ``lrh_manifest`` beside the arrays, its content the attributes of that
group. So any Zarr reader knows what it is, a copy of the store takes it along, and in Icechunk it
is part of the commit. In a local folder it is replaced by a rename: readers see the one before or
the one after.

Digests of chunks are in groups under it, one a batch: they are many, and an append writes its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from lrh_dask.errors import BadPairs, SettingsError, explain
from lrh_dask.stores.documents import MALFORMED, known, parsed
from lrh_dask.stores.windows import A_DAY

__all__ = ["NODE", "AppendedBefore", "Batch", "Manifest", "Stamp", "chunk_digests", "group_file",
           "manifest_of", "node_of_chunks"]

NODE = "lrh_manifest"
VERSION = 1


class AppendedBefore(SettingsError):
    """The same rows are a batch already."""


@dataclass(frozen=True)
class Batch:
    """Rows ``start`` to ``stop`` of a store, which were appended at once.

    Attributes:
        label: what they were recorded by, such as the name of a training run.
        recorded: when, as an ISO 8601 time in UTC.
        digest: of the rows (hex), whatever chunks they lie in; of rows that were there before
            the first append, of their chunks.
    """

    start: int
    stop: int
    label: str | None
    recorded: str
    digest: str


@dataclass(frozen=True)
class Manifest:
    """The published rows of a store.

    Attributes:
        rows: how many they are: those of all batches.
        arrays: names of the arrays that they are rows of.
        appending_to: rows that there will be after an append that has begun; None without one.
    """

    rows: int
    batches: tuple[Batch, ...]
    arrays: tuple[str, ...] = ()
    appending_to: int | None = None

    @classmethod
    def over(cls, arrays: Mapping[str, Any]) -> Manifest:
        """That of arrays of which no row is published yet."""
        return cls(0, (), tuple(array.basename for array in arrays.values()))

    def file(self) -> bytes:
        """As the metadata file of a Zarr group."""
        return group_file({
            NODE: VERSION, "rows": self.rows, "appending_to": self.appending_to,
            "arrays": list(self.arrays), "batches": [asdict(batch) for batch in self.batches]})

    def with_batch(self, batch: Batch) -> Manifest:
        """With one more batch."""
        return Manifest(batch.stop, (*self.batches, batch), self.arrays)


@dataclass(frozen=True)
class Stamp:
    """What a batch says of itself.

    Args:
        label: one line; None says nothing.
        recorded: a time, or its ISO 8601 text (UTC where it names no zone); None is now.
        again: whether rows that were appended before are meant to count once more.
    Raises:
        SettingsError: no such label, no such time.
    """

    label: str | None = None
    recorded: datetime | str | None = None
    again: bool = False

    def __post_init__(self) -> None:
        if self.label is not None and not (self.label.isprintable() and self.label.strip()):
            raise SettingsError(explain(
                "append", expected="a label of one line", got=repr(self.label),
                consequence="Nothing was appended", fix="Name the training run, or leave it out"))
        self._utc()

    def batch(self, start: int, stop: int, digest: str) -> Batch:
        """The batch of rows ``start`` to ``stop``, which have that digest."""
        return Batch(start, stop, self.label, self._utc(), digest)

    def refuse_again(self, store: str, manifest: Manifest, digest: str | None) -> None:
        """Raise where rows of that digest are a batch already, as when a job runs twice.

        None is not known yet.

        Raises:
            AppendedBefore: they are, and are not meant to count again.
        """
        same = [batch for batch in manifest.batches if batch.digest == digest]
        if same and not self.again:
            raise AppendedBefore(explain(
                f"append to {store}", expected="rows that are not there yet",
                got=f"those of rows {same[0].start}-{same[0].stop - 1}, bit for bit, "
                    f"recorded {same[0].recorded}",
                consequence="They would count twice, so nothing was appended",
                fix="Nothing is to be done if this append ran before; if they are to count "
                    "again, pass --again (again=True)"))

    def _utc(self) -> str:
        recorded = self.recorded if self.recorded is not None else datetime.now(UTC)
        try:
            recorded = datetime.fromisoformat(recorded) if isinstance(recorded, str) else recorded
        except ValueError as error:
            raise SettingsError(explain(
                "append", expected="a time such as 2026-11-02T03:00:00Z", got=str(recorded),
                consequence="Nothing was appended",
                fix="Give the time at which the pairs were recorded, or leave it out")) from error
        if recorded.tzinfo is None:
            recorded = recorded.replace(tzinfo=UTC)
        if recorded - datetime.now(UTC) > A_DAY:
            raise SettingsError(explain(
                "append", expected="a time that has been", got=f"{recorded.isoformat()}",
                consequence="Windows of the last days would go by it, so nothing was appended",
                fix="Give the time at which the pairs were recorded, or leave it out"))
        return recorded.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def group_file(attributes: Mapping[str, Any]) -> bytes:
    """The metadata file of a Zarr group that has these attributes and nothing else."""
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes},
                      indent=1).encode()


def node_of_chunks(batch: int) -> str:
    """Name of the group, in that of the manifest, with the chunks of the first, ... batch (0)."""
    return f"{batch:06d}"


def manifest_of(group: Any, name: str) -> Manifest | None:
    """The manifest of an open Zarr group; None where it has none.

    Args:
        name: what messages call the store.
    Raises:
        BadPairs: it is damaged.
    """
    try:
        found = _attributes(group.store_path / NODE)
        return None if found is None else _parsed(found)
    except MALFORMED as error:
        raise BadPairs(explain(
            f"read {NODE} of {name}", expected="the rows and batches that were published",
            got=f"{type(error).__name__}: {error}",
            consequence="Nobody can tell which rows are whole, so none were read",
            fix=f"Restore {NODE}/zarr.json from a copy. Without one, remove the folder {NODE}: "
                "all rows count then, so look at them first (`lrh inspect --all`)")) from error


def chunk_digests(array: Any, n_batches: int) -> dict[str, str]:
    """Digests (hex) of the stored bytes of the chunks of an array, by key ("c/0/0").

    Those of a later batch take the place of earlier ones: it may have filled up a chunk.

    Raises:
        BadPairs: they are damaged.
    """
    from zarr.storage import StorePath

    parent, _, name = array.path.rpartition("/")
    found: dict[str, str] = {}
    for batch in range(n_batches):
        node = StorePath(array.store, parent) / NODE / node_of_chunks(batch)
        try:
            found |= {key: str(digest) for key, digest in (
                _attributes(node) or {}).get(name, {}).items()}
        except MALFORMED as error:
            raise BadPairs(explain(
                f"read {node}", expected="digests of the chunks that a batch has written",
                got=f"{type(error).__name__}: {error}",
                consequence="Nobody can tell whether they are what was appended; runs do not need "
                            "to know", fix="Restore it from a copy, or remove it")) from error
    return found


def _attributes(path: Any) -> dict[str, Any] | None:
    """Of a group in a store; None where there is none."""
    from lrh_dask.stores.zarr_core import get

    stored = get(path / "zarr.json")
    return None if stored is None else dict(parsed(stored)["attributes"])


def _parsed(found: dict[str, Any]) -> Manifest:
    """A manifest from attributes.

    Raises:
        ValueError: they contradict each other.
    """
    if found[NODE] != VERSION:
        message = f"version {found[NODE]}, where this lrh_dask knows {VERSION}"
        raise ValueError(message)
    manifest = known(Manifest, found)
    edges = [0, *(batch.stop for batch in manifest.batches)]
    if [batch.start for batch in manifest.batches] != edges[:-1] or sorted(edges) != edges \
            or edges[-1] != manifest.rows:
        message = f"batches that do not make up {manifest.rows} rows"
        raise ValueError(message)
    for batch in manifest.batches:
        datetime.fromisoformat(batch.recorded)
    return manifest
