"""States of runs of shards, kept while a run goes: one that was broken off goes on from them.

    <folder>/here           what tells this folder from any other of that path
            /begun.json     the rows that the run began with: one that goes on is about the same
            /<key>.zip      the state of one run of shards

The key is a digest of all that a state depends on: what its chunks were when the run began, which
rows go to which bucket, the settings that matter, the kind of device, the digest of Q, and the
source of this package. A worker looks for the state before it reads its rows, and keeps it
afterwards if the chunks are still the same. What cannot be read, or is of something else, is told
and computed again; a state that cannot be kept is told and counts all the same. Files appear by a
rename; they are not flushed: one that a power cut has torn cannot be read.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_128_hexdigest

from lrh_dask.errors import SettingsError, explain, finding
from lrh_dask.linalg.arrays import pick_device
from lrh_dask.runs import progress
from lrh_dask.runs.basis import Basis
from lrh_dask.runs.begun import BEGUN
from lrh_dask.runs.packing import Packed, described, partial_of
from lrh_dask.runs.shards import RunOfShards
from lrh_dask.runs.spec import Spec
from lrh_dask.runs.state_files import FORMAT_VERSION, read_group, write_group
from lrh_dask.runs.tree import Partial, ReadStats
from lrh_dask.source import SOURCE
from lrh_dask.stores.aside import put_in_order, replace_file
from lrh_dask.stores.chunks import is_zarr
from lrh_dask.stores.documents import MALFORMED
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.tokens import RowTokens, seen_now

__all__ = ["Keeping", "Kept", "kept_leaf", "remove_kept"]

MARK = "here"
ANY_SPEC = {"run_id", "watched", "stage", "asked", "method", "device"}
"""Of these no state of a run of shards depends; on the device by its kind."""
NOT_SEEN = "a worker does not see {}: its states are not kept"


@dataclass(frozen=True)
class Keeping:
    """Where a worker keeps the state of a run of shards.

    Attributes:
        folder: absolute; ``mark``: what its file ``here`` says.
        rows: digest of what is known of the run's rows without reading them; ``seen``: of their
            chunks, when the run began.
    """

    folder: str
    mark: str
    rows: str
    seen: str

    @property
    def is_seen(self) -> bool:
        """Whether this process sees the folder, and not another one of that name."""
        try:
            return (Path(self.folder) / MARK).read_text(encoding="utf-8") == self.mark
        except (OSError, UnicodeDecodeError):
            return False


class Kept:
    """The states that are kept of a run of one store.

    Args:
        folder: need not exist.

    Raises:
        SettingsError: it cannot be written, the pairs are not stored, or nothing tells whether
            their chunks have changed.
    """

    def __init__(self, folder: Path, pairs: Pairs) -> None:
        self.folder = folder.absolute()
        self._tokens = RowTokens(pairs) if is_zarr(pairs.x) else None
        if self._tokens is None or not self._tokens.tell:
            raise SettingsError(explain(
                f"keep states of {pairs.name}", expected="pairs in a store that tells when a chunk "
                "was written: on disk, in s3:// or gs://, or in Icechunk", got="others",
                consequence="A run that goes on could not tell whether its rows are still the "
                            "same, so nothing was started", fix="Run without --resume"))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            put_in_order(self.folder)
            mark = self.folder / MARK
            self._mark = ""
            with suppress(FileNotFoundError, UnicodeDecodeError):
                self._mark = mark.read_text(encoding="utf-8")
            if not self._mark:
                self._mark = uuid.uuid4().hex
                replace_file(mark, self._mark)
        except OSError as error:
            raise SettingsError(explain(
                f"keep states in {folder}", expected="a folder that can be written",
                got=str(error), consequence="Nothing was started",
                fix="Choose another place for the result, or run without --resume")) from error

    def of(self, run: RunOfShards) -> Keeping:
        """Where the state of a run of shards is kept."""
        assert self._tokens is not None
        spans = _rows_of(run)
        return Keeping(str(self.folder), self._mark, self._tokens.lasting(spans),
                       self._tokens.seen(spans))

    def rows(self, n_pairs: int) -> str:
        """Digest of what is known of the chunks of so many rows."""
        assert self._tokens is not None
        return self._tokens.lasting([(0, n_pairs)])


def remove_kept(folder: Path) -> None:
    """Remove what a run has kept, and the folder where it holds nothing else."""
    with suppress(OSError):  # what stays is of no use, and in nobody's way
        for path in (*folder.glob(f"{'[0-9a-f]' * 32}.zip"), folder / MARK, folder / BEGUN):
            path.unlink(missing_ok=True)
        put_in_order(folder)
        folder.rmdir()


def kept_leaf(keeping: Keeping, leaf: Callable[..., Partial], pairs: Pairs, run: RunOfShards,
              *extra: Any) -> Partial:
    """What a leaf over a run makes, from the folder where it is there, else it is put there."""
    if not keeping.is_seen:
        return _told(leaf(pairs, run, *extra), NOT_SEEN.format(keeping.folder))
    spec = next(item for item in extra if isinstance(item, Spec))
    wanted = _dependences(keeping.rows, leaf, run, (*extra, pairs.bad_rows))
    path = Path(keeping.folder) / (
        xxh3_128_hexdigest(json.dumps(wanted, sort_keys=True).encode()) + ".zip")
    said = None
    if path.exists():
        found, said = _read(path, wanted)
        if found is not None:
            if spec.watched:
                progress.emit(spec.run_id, progress.Event(
                    spec.stage, run.index, found.stats.n_pairs, 0))
            return found
    partial = leaf(pairs, run, *extra)
    if seen_now(pairs, _rows_of(run)) != keeping.seen:  # what was read is of other chunks
        return _told(partial, said)
    return _told(partial, said, _write(path, wanted, partial))


def _rows_of(run: RunOfShards) -> list[tuple[int, int]]:
    return [(piece.start, piece.stop) for piece in run.pieces]


def _dependences(rows: str, leaf: Callable[..., Partial], run: RunOfShards,
                 extra: Iterable[Any]) -> dict[str, Any]:
    """All that a state depends on, as JSON."""
    known: list[Any] = []
    for item in extra:
        if isinstance(item, Spec):
            known.append({name: value for name, value in asdict(item).items()
                          if name not in ANY_SPEC} | {"route": item.route.name,
                                                      "device": pick_device(item.device).name})
        else:
            known.append(item.digest if isinstance(item, Basis) else item)
    found: dict[str, Any] = json.loads(json.dumps({
        "format": FORMAT_VERSION, "source": SOURCE, "numpy": np.__version__,
        "leaf": leaf.__name__, "rows": rows, "blocks": run.blocks,
        "pieces": [list(asdict(piece).values()) for piece in run.pieces], "extra": known}))
    return found


def _read(path: Path, wanted: dict[str, Any]) -> tuple[Partial | None, str | None]:
    """A state, or why it is none."""
    try:
        attributes, arrays = read_group(path)
        if attributes["of"] != wanted:
            return None, f"state {path} is of another run: it was computed again"
        return partial_of(attributes["part"], arrays).known_before(), None
    except MALFORMED as error:
        return None, f"{error}: it was computed again"


def _write(path: Path, wanted: dict[str, Any], partial: Partial) -> str | None:
    """Keep a state; why that was not possible, if it was not."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        arrays = Packed()
        write_group(aside, {"of": wanted, "part": described(partial, arrays)}, arrays)
        os.replace(aside, path)
    except OSError as error:
        return f"states could not be kept ({finding(error)}): a run broken off reads them again"
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    return None


def _told(partial: Partial, *said: str | None) -> Partial:
    told: Sequence[str] = [text for text in said if text is not None]
    return replace(partial, stats=partial.stats.merge(ReadStats(said=tuple(told))))
