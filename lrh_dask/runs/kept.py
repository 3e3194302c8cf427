"""States of runs of shards, kept while a run goes: one that was broken off goes on from them.

    <folder>/here           what tells this folder from any other of that path
            /begun.json     the rows that the run began with: one that goes on is about the same
            /<key>.zip      the state of one run of shards

The key is a digest of all that a state depends on: what tells its chunks from others when the run
begins (:mod:`lrh_dask.stores.tokens`: a checksum, or else size, times and inode), which rows go to
which bucket, the settings that matter, the kind of device, the digest of Q, and the source of this
package. A worker looks for the state before it reads its rows, and keeps it afterwards if the
chunks are still the same. What cannot be read, or is of something else, is told and computed again;
a state that cannot be kept is told and counts all the same. Files appear by a rename; they are not
flushed: one that a power cut has torn cannot be read.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_128_hexdigest

from lrh_dask.errors import RunFailed, SettingsError, explain, finding
from lrh_dask.linalg.arrays import pick_device
from lrh_dask.linalg.ledger import Ledger
from lrh_dask.linalg.row_gram import RowGram
from lrh_dask.runs import progress
from lrh_dask.runs.basis import Basis
from lrh_dask.runs.packing import Packed, described, partial_of
from lrh_dask.runs.shards import RunOfShards
from lrh_dask.runs.spec import Spec
from lrh_dask.runs.state_files import FORMAT_VERSION, read_group, write_group
from lrh_dask.runs.tree import Partial, ReadStats
from lrh_dask.source import SOURCE
from lrh_dask.stores.aside import replace_file
from lrh_dask.stores.documents import MALFORMED
from lrh_dask.stores.inside import refuse_links
from lrh_dask.stores.layout import is_zarr
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.tokens import RowTokens, seen_now

__all__ = ["Keeping", "Kept", "kept_leaf", "remove_kept"]

MARK = "here"
A_MARK = re.compile(r"[0-9a-f]{32}")
ASIDE = re.compile(r"\.([0-9a-f]{32}\.zip|here|begun\.json)\.[0-9a-f]{12}\.tmp")
"""What killed workers and drivers have left."""
OURS = re.compile(rf"{ASIDE.pattern}|[0-9a-f]{{32}}\.zip|here|begun\.json")
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

    Attributes:
        tokens: of the chunks, as they were when this was made.

    Raises:
        SettingsError: it cannot be written or is a link, the pairs are not stored, or nothing
            tells whether their chunks have changed.
    """

    def __init__(self, folder: Path, pairs: Pairs) -> None:
        self.folder = folder.absolute()
        tokens = RowTokens(pairs) if is_zarr(pairs.x) else None
        if tokens is None or not tokens.tell:
            raise SettingsError(explain(
                f"keep states of {pairs.name}", expected="pairs in a store that tells when a chunk "
                "was written: on disk, in s3:// or gs://, or in Icechunk", got="others",
                consequence="A run that goes on could not tell whether its rows are still the "
                            "same, so nothing was started", fix="Run without --resume"))
        self.tokens, mark = tokens, self.folder / MARK
        refuse_links(self.folder, mark)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _remove(self.folder, ASIDE)
            self._mark = _mark_in(mark)
        except (OSError, ValueError) as error:
            raise SettingsError(explain(
                f"keep states in {folder}", expected="a folder that can be written",
                got=str(error), consequence="Nothing was started",
                fix="Choose another place for the result, or run without --resume")) from error

    def of(self, run: RunOfShards) -> Keeping:
        """Where the state of a run of shards is kept."""
        spans = _rows_of(run)
        return Keeping(str(self.folder), self._mark, self.tokens.lasting(spans),
                       self.tokens.seen(spans))


def remove_kept(folder: Path) -> None:
    """Remove what a run has kept, and the folder where it holds nothing else.

    What cannot be removed stays, as does what lies behind a link.
    """
    with suppress(OSError):  # what stays is of no use, and in nobody's way
        if not folder.is_symlink():
            _remove(folder, OURS)
            folder.rmdir()


def _remove(folder: Path, which: re.Pattern[str]) -> None:
    for path in folder.iterdir():
        if which.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _mark_in(path: Path) -> str:
    """What a folder's mark says; a new one where it has none.

    Raises:
        OSError: it can be neither read nor written.
        ValueError: it is none of ours.
    """
    with suppress(FileNotFoundError):
        found = path.read_text(encoding="utf-8")
        if A_MARK.fullmatch(found):
            return found
        if found:  # else a power cut has torn it
            message = f"{path} is somebody else's"
            raise ValueError(message)
    found = uuid.uuid4().hex
    replace_file(path, found)
    return found


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
        found, said = _read(path, wanted, run)
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


def _read(path: Path, wanted: dict[str, Any],
          run: RunOfShards) -> tuple[Partial | None, str | None]:
    """A state, or why it is none."""
    try:
        attributes, arrays = read_group(path)
        partial = partial_of(attributes["part"], arrays).known_before()
        rows, features = Ledger.of(_rows_of(run)), Ledger.of(run.blocks)
        if attributes["of"] != wanted or any(
                state.ledger.without(features if isinstance(state, RowGram) else rows).n_rows
                for state in partial.states.values()):
            return None, f"state {path} is of another run: it was computed again"
    except (*MALFORMED, RunFailed) as error:
        return None, f"{error}: it was computed again"
    return partial, None


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
