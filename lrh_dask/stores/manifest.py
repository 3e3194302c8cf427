"""What is published of a store that is appended to: its rows, batch by batch, and its chunks.

The manifest is a Zarr group ``lrh_manifest`` beside the arrays, its content the attributes of that
group. So any Zarr reader knows what it is, a copy of the store takes it along, and in Icechunk it
is part of the commit. In a local folder it is replaced by a rename: readers see the one before or
the one after.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from lrh_dask.errors import BadPairs, SettingsError, explain

__all__ = ["NODE", "Batch", "Manifest", "Stamp", "manifest_of"]

NODE = "lrh_manifest"
VERSION = 1


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
        chunks: digest (hex) of the stored bytes of every chunk, by its key ("x/c/0/0"); none
            in Icechunk, which has snapshots for that.
        appending_to: rows that there will be after an append that has begun; None without one.
    """

    rows: int
    batches: tuple[Batch, ...]
    chunks: Mapping[str, str] = field(default_factory=dict, repr=False)
    appending_to: int | None = None

    def attributes(self) -> dict[str, Any]:
        """As attributes of a Zarr group."""
        return {NODE: VERSION, "rows": self.rows, "appending_to": self.appending_to,
                "batches": [asdict(batch) for batch in self.batches], "chunks": dict(self.chunks)}

    def node(self) -> str:
        """As the metadata file of a Zarr group."""
        return json.dumps({"zarr_format": 3, "node_type": "group",
                           "attributes": self.attributes()}, indent=1)

    def with_batch(self, batch: Batch, chunks: Mapping[str, str]) -> Manifest:
        """With one more batch, its chunks taking the place of those of the same keys."""
        return Manifest(batch.stop, (*self.batches, batch), {**self.chunks, **chunks})

    def covers(self, array: str) -> bool:
        """Whether an array of the group is one whose rows are counted here."""
        return not self.chunks or any(key.startswith(f"{array}/") for key in self.chunks)


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

    def refuse_again(self, store: str, manifest: Manifest, digest: str) -> None:
        """Raise where rows of that digest are a batch already, as when a job runs twice.

        Raises:
            SettingsError: they are, and are not meant to count again.
        """
        same = [batch for batch in manifest.batches if batch.digest == digest]
        if same and not self.again:
            raise SettingsError(explain(
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
        return recorded.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def manifest_of(group: Any, name: str) -> Manifest | None:
    """The manifest of an open Zarr group; None where it has none.

    Args:
        name: what messages call the store.
    Raises:
        BadPairs: it is damaged.
    """
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    stored = sync((group.store_path / NODE / "zarr.json").get(default_buffer_prototype()))
    if stored is None:
        return None
    try:
        return _parsed(json.loads(stored.to_bytes())["attributes"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadPairs(explain(
            f"read {NODE} of {name}", expected="the rows and batches that were published",
            got=f"{type(error).__name__}: {error}",
            consequence="Nobody can tell which rows are whole, so none were read",
            fix=f"Restore {NODE}/zarr.json from a copy. Without one, remove the folder {NODE}: "
                "all rows count then, so look at them first (`lrh inspect --all`)")) from error


def _parsed(found: dict[str, Any]) -> Manifest:
    """A manifest from attributes.

    Raises:
        ValueError: they contradict each other.
    """
    if found[NODE] != VERSION:
        message = f"version {found[NODE]}, where this lrh_dask knows {VERSION}"
        raise ValueError(message)
    batches = tuple(Batch(**batch) for batch in found["batches"])
    edges = [0, *(int(batch.stop) for batch in batches)]
    if [batch.start for batch in batches] != edges[:-1] or sorted(edges) != edges \
            or edges[-1] != found["rows"]:
        message = f"batches that do not make up {found['rows']} rows"
        raise ValueError(message)
    return Manifest(found["rows"], batches, dict(found["chunks"]), found["appending_to"])
