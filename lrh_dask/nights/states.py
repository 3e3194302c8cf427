"""States on disk: what a lineage of runs has counted, so that the next one adds only what is new.

    <folder>/lineage.json           the settings that all of its states were made with
            /<sequence>-<digest of Q>/basis.zarr        Q, and the reduced pairs it was found in
                                     /<sequence>.zarr   triangles by segment and bucket: one run's
                                     /total.zarr        many of these together (:mod:`.totals`)
            /current                the name of the second folder (``all`` is all of R^D)
            /tokens.json            what was last seen of each chunk

Every group is written aside and renamed, with checksums, and says itself which rows it holds: what
cannot be read is as if it were not there, and its rows are read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lrh_dask.linalg.ledger import Ledger
from lrh_dask.runs.basis import Basis, Outlook, StoredBasis
from lrh_dask.runs.packing import Packed, described, digests_of, partial_of
from lrh_dask.runs.state_files import (
    FORMAT_VERSION,
    checked_attributes,
    is_states,
    read_group,
    write_group,
)
from lrh_dask.runs.tree import Partial, ReadStats
from lrh_dask.stores.aside import attributes_of, put_in_order, replace_file, written_aside
from lrh_dask.stores.digests import RowDigest
from lrh_dask.stores.documents import MALFORMED, read_document
from lrh_dask.stores.inside import inside, refuse_links
from lrh_dask.stores.windows import Segment

__all__ = ["Stored", "StoredStates", "checked_ledger"]

ALL, NONE = "all", "none"
NAME = re.compile(rf"[0-9]{{6,}}-([0-9a-f]{{12}}|{ALL}|{NONE})")
"""Of a folder of states that belong together; another one is not ours to clear."""
OF_A_RUN = re.compile(r"[0-9]{6,12}\.zarr")
"""Of the triangles that a run has added."""


@dataclass(frozen=True)
class Stored:
    """A segment whose states are on disk.

    Attributes:
        digests: of its rows.
        sequence: the call that added it was the first, second, ... that added some.
        group: where; ``index``: which of the segments there.
    """

    segment: Segment
    digests: tuple[RowDigest, ...]
    sequence: int
    group: Path
    index: int


class StoredStates:
    """The states of a lineage in a folder.

    Args:
        folder: need not exist.
        lineage: the settings that its states depend on.

    Raises:
        SettingsError: somebody has put a link there, or has it lead elsewhere.
    """

    def __init__(self, folder: Path, lineage: dict[str, Any]) -> None:
        name = hashlib.sha256(json.dumps(lineage, sort_keys=True).encode()).hexdigest()[:12]
        self.folder, self.lineage = folder / name, lineage
        refuse_links(folder, self.folder)
        try:
            current = (self.folder / "current").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            current = ""
        self._current = inside(self.folder, current) if NAME.fullmatch(current) else None

    @property
    def name(self) -> str:
        """Of the lineage."""
        return self.folder.name

    def put_in_order(self) -> None:
        """Remove what killed runs have left, where no other run is at it."""
        put_in_order(self.folder)
        if self._current is not None and self._current.is_dir():
            put_in_order(self._current)
            for group in self.folder.glob("[0-9]*-*"):
                if NAME.fullmatch(group.name) and group != self._current:  # it was to be, or was
                    shutil.rmtree(group, ignore_errors=True)

    @property
    def current(self) -> Path | None:
        """Where those are that belong together; None where there are none yet."""
        return self._current

    @property
    def exist(self) -> bool:
        """Whether there may be some."""
        return self._current is not None

    @property
    def has_states(self) -> bool:
        """Whether there are states, and not only notes of what was counted."""
        return self._current is not None and not self._current.name.endswith(f"-{NONE}")

    def segments(self) -> tuple[list[Stored], list[str]]:
        """All that are stored and disjoint, in row order; and why some are left out."""
        found: list[Stored] = []
        said: list[str] = []
        for group in sorted(self._current.glob("*.zarr")) if self._current else ():
            if not OF_A_RUN.fullmatch(group.name):
                continue
            try:
                found += _listed(group)
            except MALFORMED as error:
                said.append(f"states in {group} cannot be read ({type(error).__name__}: {error}): "
                            "their pairs are read again")
        chosen: list[Stored] = []
        for item in sorted(found, key=lambda s: (-s.sequence, s.segment.start)):
            if all(item.segment.stop <= other.segment.start or item.segment.start
                   >= other.segment.stop for other in chosen):
                chosen.append(item)
        return sorted(chosen, key=lambda s: s.segment.start), said

    def basis(self) -> StoredBasis | None:
        """The basis of the triangles; None is all of R^D.

        Raises:
            ValueError: they cannot be read.
        """
        if self._current is None or self._current.name.endswith(f"-{ALL}"):
            return None
        try:
            stored = _read_basis(self._current / "basis.zarr")
        except MALFORMED as error:
            message = f"states {self._current} have no basis ({type(error).__name__}: {error})"
            raise ValueError(message) from error
        if not self._current.name.endswith(stored.basis.digest[:12]):
            message = f"states {self._current} are over another basis than the one that is there"
            raise ValueError(message)
        return stored

    def load(self, segments: Sequence[Stored]) -> Iterator[Partial]:
        """The triangles of segments, one after another.

        Raises:
            ValueError: some cannot be read.
        """
        for group in dict.fromkeys(item.group for item in segments):
            attributes, arrays = read_group(group)
            for item in segments:
                if item.group == group:
                    segment = item.segment
                    yield checked_ledger(group, partial_of(attributes["parts"][item.index], arrays),
                                         Ledger.of([(segment.start, segment.stop)]))

    def add(self, states: Sequence[tuple[Segment, Partial]],
            basis: StoredBasis | None, *, afresh: bool,
            has_states: bool = True) -> None:
        """Publish the states of more segments, with the basis that they are over.

        Args:
            afresh: all that was stored before is dropped.
            has_states: False notes the segments alone: few pairs are read again every time.
        """
        current = self._current
        sequence = 1 + max((int(path.stem) for path in self.folder.glob("*/*.zarr")
                            if OF_A_RUN.fullmatch(path.name)), default=0)
        if current is None or afresh:
            digest = (NONE if not has_states else
                      ALL if basis is None else basis.basis.digest[:12])
            current = self.folder / f"{sequence:06d}-{digest}"
        parts, arrays = [], Packed()
        for segment, partial in states:
            parts.append({"segment": asdict(segment), **described(partial, arrays)})
        if states:
            with written_aside(current / f"{sequence:06d}.zarr", overwrite=True,
                               is_ours=is_states) as aside:
                write_group(aside, {"parts": parts, "sequence": sequence}, arrays)
        if basis is not None:  # after them: pairs that are in no segment are read again
            _write_basis(current / "basis.zarr", basis)
        replace_file(self.folder / "lineage.json",
                     json.dumps({"format": FORMAT_VERSION, **self.lineage}, indent=1))
        replace_file(self.folder / "current", current.name)
        before, self._current = self._current, current
        if before is not None and before != current:
            shutil.rmtree(before, ignore_errors=True)

    def tokens(self) -> dict[str, str]:
        """What was last seen of each chunk (see :mod:`lrh_dask.stores.tokens`)."""
        try:
            return read_document(self.folder / "tokens.json")
        except (OSError, *MALFORMED):
            return {}

    def keep_tokens(self, tokens: dict[str, str]) -> None:
        """Note what was seen of each chunk, now that its rows are known to be those counted."""
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self.folder / "tokens.json", json.dumps(tokens))

    @property
    def n_bytes(self) -> int:
        """Bytes on disk."""
        return sum(os.path.getsize(Path(root) / name)
                   for root, _, files in os.walk(self.folder) for name in files)


def checked_ledger(group: Path, partial: Partial, wanted: Ledger) -> Partial:
    """A partial state that was read, if it holds the rows that it should.

    Raises:
        ValueError: it holds others.
    """
    if partial.ledger != wanted:
        message = f"states {group} hold rows {partial.ledger}, where {wanted} are due"
        raise ValueError(message)
    return partial


def _listed(group: Path) -> list[Stored]:
    attributes = checked_attributes(attributes_of(group))
    return [Stored(Segment.known(part["segment"]), digests_of(part), int(attributes["sequence"]),
                   group, i) for i, part in enumerate(attributes["parts"])]


def _read_basis(path: Path) -> StoredBasis:
    attributes, arrays = read_group(path)
    known = dict(attributes["basis"])
    reduced, unjudged = (partial_of(part, arrays) for part in attributes["parts"])
    outlook = Outlook(False, bool(known.pop("is_full")), int(known.pop("n_pairs_wanted")),
                      int(known["n_blind"]), ReadStats(n_pairs=int(known.pop("n_read"))))
    return StoredBasis(Basis(q=arrays["q"], stats=ReadStats(), outlook=outlook, finished=0.0,
                             **known), reduced, unjudged)


def _write_basis(path: Path, stored: StoredBasis) -> None:
    arrays, basis = Packed(), stored.basis
    parts = [described(partial, arrays) for partial in (stored.reduced, stored.unjudged)]
    known = {"n_blind": basis.n_blind, "tail": basis.tail, "outside": basis.outside,
             "complete": basis.complete, "is_full": basis.outlook.is_full,
             "n_pairs_wanted": basis.outlook.n_pairs, "n_read": basis.outlook.stats.n_pairs}
    with written_aside(path, overwrite=True, is_ours=is_states) as aside:
        write_group(aside, {"parts": parts, "basis": known}, arrays, q=basis.q)
