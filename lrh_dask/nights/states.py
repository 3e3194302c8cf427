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
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lrh_dask.errors import finding
from lrh_dask.linalg.ledger import Ledger
from lrh_dask.runs.basis import Basis, Outlook, StoredBasis
from lrh_dask.runs.packing import Packed, described, partial_of
from lrh_dask.runs.tree import Partial, ReadStats
from lrh_dask.stores.aside import attributes_of, put_in_order, replace_file, written_aside
from lrh_dask.stores.digests import RowDigest
from lrh_dask.stores.windows import Segment

__all__ = ["FORMAT_VERSION", "Stored", "StoredStates", "checked_ledger", "digest_of_basis",
           "is_states", "read_group", "write_group"]

FORMAT_VERSION = 2
ALL, NONE = "all", "none"
CHUNK_NUMBERS = 2**21


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
    """

    def __init__(self, folder: Path, lineage: dict[str, Any]) -> None:
        name = hashlib.sha256(json.dumps(lineage, sort_keys=True).encode()).hexdigest()[:12]
        self.folder, self.lineage = folder / name, lineage
        try:
            current = (self.folder / "current").read_text(encoding="utf-8").strip()
        except OSError:
            current = ""
        self._current = self.folder / current if current else None

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
                if group != self._current:  # it was to be, or had been
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
        for group in sorted(self._current.glob("[0-9]*.zarr")) if self._current else ():
            try:
                found += _listed(group)
            except (KeyError, TypeError, ValueError) as error:
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
        attributes, arrays = read_group(self._current / "basis.zarr")
        known = dict(attributes["basis"])
        reduced, unjudged = (partial_of(part, arrays) for part in attributes["parts"])
        outlook = Outlook(False, bool(known.pop("is_full")), int(known.pop("n_pairs_wanted")),
                          int(known["n_blind"]), ReadStats(n_pairs=int(known.pop("n_read"))))
        basis = Basis(q=arrays["q"], stats=ReadStats(), outlook=outlook, finished=0.0, **known)
        if not self._current.name.endswith(digest_of_basis(basis)[:12]):
            message = f"states {self._current} are over another basis than the one that is there"
            raise ValueError(message)
        return StoredBasis(basis, reduced, unjudged)

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
        sequence = 1 + max((int(path.stem[:6]) for path in self.folder.glob("*/[0-9]*.zarr")),
                           default=0)
        if current is None or afresh:
            digest = (NONE if not has_states else
                      ALL if basis is None else digest_of_basis(basis.basis)[:12])
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
        """What was last seen of each chunk (see :mod:`lrh_dask.nights.tokens`)."""
        try:
            return dict(json.loads((self.folder / "tokens.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
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


def digest_of_basis(basis: Basis) -> str:
    """Digest (hex) of Q: triangles over one basis are not to be merged with those of another."""
    return hashlib.sha256(np.ascontiguousarray(basis.q).tobytes()).hexdigest()


def _listed(group: Path) -> list[Stored]:
    attributes = _checked(attributes_of(group))
    return [Stored(Segment.known(part["segment"]),
                   tuple(RowDigest(*d) for d in part["digests"]), int(attributes["sequence"]),
                   group, i) for i, part in enumerate(attributes["parts"])]


def _checked(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a group of states, if they are those that were written.

    Raises:
        ValueError: they are not.
    """
    known = {name: value for name, value in attributes.items() if name != "digest"}
    if known.get("lrh_dask_states") != FORMAT_VERSION or attributes["digest"] != _digest(known):
        message = "its attributes are not those that were written"
        raise ValueError(message)
    return known


def _digest(attributes: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()


def is_states(path: Path) -> bool:
    """Whether a group of states lies at a path."""
    return "lrh_dask_states" in attributes_of(path)


def _write_basis(path: Path, stored: StoredBasis) -> None:
    arrays, basis = Packed(), stored.basis
    parts = [described(partial, arrays) for partial in (stored.reduced, stored.unjudged)]
    known = {"n_blind": basis.n_blind, "tail": basis.tail, "outside": basis.outside,
             "complete": basis.complete, "is_full": basis.outlook.is_full,
             "n_pairs_wanted": basis.outlook.n_pairs, "n_read": basis.outlook.stats.n_pairs}
    with written_aside(path, overwrite=True, is_ours=is_states) as aside:
        write_group(aside, {"parts": parts, "basis": known}, arrays, q=basis.q)


def write_group(aside: Path, attributes: dict[str, Any], arrays: Packed,
                **more: np.ndarray) -> None:
    """Attributes and arrays of a group, with checksums."""
    import zarr
    from zarr.codecs import Crc32cCodec

    group = zarr.open_group(str(aside), mode="w", zarr_format=3)
    for name, array in {**{name: np.concatenate(parts) for name, parts in arrays.parts.items()},
                        **more}.items():
        rows = max(1, min(len(array), CHUNK_NUMBERS // max(1, array[:1].size)))
        group.create_array(name, data=array, chunks=(rows, *array.shape[1:]),
                           compressors=(Crc32cCodec(),), config={"write_empty_chunks": True})
    known = json.loads(json.dumps({"lrh_dask_states": FORMAT_VERSION, **attributes}))
    group.attrs.put({**known, "digest": _digest(known)})


def read_group(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Attributes and arrays of a group.

    Raises:
        ValueError: it is not whole.
    """
    import zarr

    from lrh_dask.stores.chunks import read_rows

    try:
        group = zarr.open_group(str(path), mode="r", use_consolidated=False)
        arrays = {name: read_rows(f"{path}/{name}", array, 0, array.shape[0])
                  for name, array in group.arrays()}
        attributes = _checked(dict(group.attrs.asdict()))
    except Exception as error:
        message = f"states {path} cannot be read ({finding(error)})"
        raise ValueError(message) from error
    return attributes, arrays
