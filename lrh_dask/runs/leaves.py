"""Leaves of the tree: a task reads a run of shards and folds its rows into one state a bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Protocol, TypeVar

import numpy as np

from lrh_dask.errors import BadPairs
from lrh_dask.linalg.arrays import Array, Device, pick_device
from lrh_dask.linalg.duplicates import KEPT, RowHashes
from lrh_dask.linalg.gathering import Gathering, padded
from lrh_dask.linalg.ledger import Ledger
from lrh_dask.linalg.reduced_pairs import EXACT_ROWS, Reducing
from lrh_dask.runs import process, progress
from lrh_dask.runs.basis import Basis
from lrh_dask.runs.budget import Route
from lrh_dask.runs.looking import Looking
from lrh_dask.runs.memory import CACHED_BYTES, LEAST_ROWS, SLAB_BYTES, WAITING_BYTES
from lrh_dask.runs.metering import Reading
from lrh_dask.runs.shards import RunOfShards
from lrh_dask.runs.spec import Spec, group_of
from lrh_dask.runs.tree import Partial, ReadStats
from lrh_dask.stores.blocks import Block
from lrh_dask.stores.digests import Digesting
from lrh_dask.stores.pairs import Pairs

__all__ = ["basis_leaf", "device_of_run", "fit_leaf", "hashes_of", "merge_partials", "night_leaf",
           "read_ahead", "reduced_of", "triangles_of",
           "streamed", "weights_of"]


class Costing(Protocol):
    """What was read, and says how much that was."""

    @property
    def n_bytes(self) -> int:
        """Bytes as stored."""


Read = TypeVar("Read", bound=Costing)
Slabs = Callable[[Pairs, RunOfShards, int], Iterator[tuple[Block, int]]]
"""Reads a run in slabs of at most so many rows, each with its bucket."""
MERGED_AT_ONCE = 64
"""Samples of hashes of so many slabs."""


class Fold(Protocol):
    """What takes blocks of pairs one after another and ends as a mergeable state."""

    def add(self, x: Array, y: Array, weight: Array | None,
            squares: tuple[Array, Array]) -> None:
        """Count a block; ``squares`` are ‖x‖² and ‖y‖² of its rows."""

    def state(self) -> Any:
        """What was counted."""


@dataclass(frozen=True)
class Taker:
    """What is made of rows.

    Attributes:
        new: makes a fold; ``key_of``: which one takes the rows of a bucket.
        part: those rows of a slab that it takes, if any; all are the slab itself.
    """

    new: Callable[[], Fold]
    key_of: Callable[[int], int] = lambda bucket: bucket
    part: Callable[[Block], Block | None] = lambda slab: slab


def basis_leaf(pairs: Pairs, run: RunOfShards, spec: Spec) -> Partial:
    """Reduced pairs of a run: by group (a fitted basis), or by bucket and uncut (few pairs)."""
    device = device_of_run(spec)
    whole = spec.route is Route.whole_pairs
    max_rank = spec.n_pairs if whole else spec.max_basis
    at_once = min(WAITING_BYTES // pairs.row_bytes, EXACT_ROWS * max_rank)
    taker = Taker(lambda: Reducing(max_rank, at_once), (lambda b: b) if whole else group_of)
    return _fold(pairs, run, spec, max(4 * spec.max_basis, SLAB_BYTES // pairs.row_bytes), device,
                 _in_blocks, taker, every_row=whole)


def fit_leaf(pairs: Pairs, run: RunOfShards, spec: Spec, basis: Basis | None) -> Partial:
    """Triangles of a run by bucket, over the fitted basis or over all of R^D."""
    device = device_of_run(spec)
    q = k = None
    if basis is not None:
        q, k = _on(device, basis, pairs), basis.q.shape[1]
    in_cache = q is not None  # a slab is gone over six times
    return _fold(pairs, run, spec,
                 max(LEAST_ROWS, (CACHED_BYTES if in_cache else SLAB_BYTES) // pairs.row_bytes),
                 device, streamed if in_cache and pairs.can_stream else _in_blocks,
                 Taker(lambda: Gathering(q, k)), every_row=True)


def night_leaf(pairs: Pairs, run: RunOfShards, spec: Spec, basis: Basis, share: float) -> Partial:
    """Triangles of a run by bucket, and reduced pairs of a share of it under ~group."""
    device = device_of_run(spec)
    q, k = _on(device, basis, pairs), basis.q.shape[1]
    beginnings = run.beginnings(share)

    def begins(slab: Block) -> Block | None:
        """What of a slab, which lies in one piece, lies in its beginning."""
        start, stop = slab.start, slab.start + len(slab.x)
        end = max((min(p.stop, stop) for p in beginnings if p.start <= start), default=start)
        return slab.rows(start, end) if end > start else None

    return _fold(pairs, run, spec, max(LEAST_ROWS, CACHED_BYTES // pairs.row_bytes), device,
                 streamed if pairs.can_stream else _in_blocks, Taker(lambda: Gathering(q, k)),
                 Taker(lambda: Reducing(spec.max_basis, SLAB_BYTES // pairs.row_bytes),
                       lambda b: ~group_of(b), begins), every_row=True)


def triangles_of(night: Partial) -> Partial:
    """The triangles among the states of :func:`night_leaf`."""
    return Partial({key: state for key, state in night.states.items() if key >= 0}, night.stats)


def reduced_of(night: Partial) -> Partial:
    """The reduced pairs among the states of :func:`night_leaf`, by group."""
    states = {~key: state for key, state in night.states.items() if key < 0}
    return Partial(dict(sorted(states.items())),
                   ReadStats(n_pairs=sum(state.n_pairs for state in states.values())))


def _on(device: Device, basis: Basis, pairs: Pairs) -> Array:
    """The columns of a basis where they are computed with, in the dtype of the pairs."""
    return padded(device.put(basis.q.astype(pairs.dtype, copy=False)))


def merge_partials(*partials: Partial) -> Partial:
    """A node of the tree."""
    process.pin_blas_threads()
    return reduce(Partial.merge, partials)


def _fold(pairs: Pairs, run: RunOfShards, spec: Spec, slab_rows: int, device: Device, slabs: Slabs,
          *takers: Taker, every_row: bool) -> Partial:
    """Read a run and fold its rows, slab by slab, into one state for every key of the takers.

    Args:
        every_row: all rows of the store are read so, and their hashes tell repeated ones.
    """
    folds: dict[int, Fold] = {}
    seen: dict[int, list[tuple[int, int]]] = {}  # rows, by key
    hashes = [RowHashes()]
    digests = Digesting(run.blocks if every_row and spec.digested else ())
    looking = Looking(run.blocks)
    for slab, bucket in slabs(pairs, run, slab_rows):
        if every_row:
            hashes.append(hashes_of(slab, spec.n_pairs))
            if spec.digested:
                digests.add(slab)
        rows = _counted(slab, spec)
        looking.add(slab, len(rows.x))
        for taker in takers:
            part, key = taker.part(slab), taker.key_of(bucket)
            if part is not None:
                seen.setdefault(key, []).append((part.start, part.start + len(part.x)))
                counted = rows if part is slab else _counted(part, spec)
                folds.setdefault(key, taker.new()).add(
                    device.put(counted.x), device.put(counted.y),
                    None if counted.weight is None else device.put(counted.weight),
                    (device.put(counted.x_squares), device.put(counted.y_squares)))
                del counted
            del part
        del slab, rows  # before the next ones are waited for
        if len(hashes) > MERGED_AT_ONCE:
            hashes = [RowHashes().merge(*hashes)]
    stats = replace(looking.state(), peak_worker_bytes=process.peak_bytes(),
                    hashes=RowHashes().merge(*hashes), digests=digests.state())
    if spec.watched:
        progress.emit(spec.run_id, progress.Event(spec.stage, run.index, stats.n_pairs,
                                                  stats.n_bytes))
    return Partial({key: replace(folds[key].state().to_host(), ledger=Ledger.of(seen[key]))
                    for key in sorted(folds)}, stats)


def _in_blocks(pairs: Pairs, run: RunOfShards, slab_rows: int) -> Iterator[tuple[Block, int]]:
    """Slabs of a run, each with its bucket, from blocks that are read as a whole."""
    for block in read_ahead(pairs.read, run.blocks, pairs.blocks.n_ahead):
        for part in run.slabs(block.start, block.start + len(block.x), slab_rows):
            yield block.rows(part.start, part.stop), part.bucket
        del block  # before the next one is waited for


def streamed(pairs: Pairs, run: RunOfShards, slab_rows: int) -> Iterator[tuple[Block, int]]:
    """The same, each read into the memory of the one before, from pairs that can stream."""
    x_stream, y_stream = pairs.streams()
    reading, told = Reading(), 0.0
    with x_stream as x_rows, y_stream as y_rows:
        for start, stop in run.blocks:
            with reading:
                weights = pairs.read_weight(start, stop)
            for part in run.slabs(start, stop, slab_rows):
                with reading:
                    x, y = (rows.read(part.start, part.stop) for rows in (x_rows, y_rows))
                weight = None if weights is None else weights[part.start - start:part.stop - start]
                try:
                    slab = pairs.checked(part.start, x, y, weight, reading.seconds - told)
                except BadPairs:
                    x_rows.check()  # the numbers of a damaged chunk are not the user's
                    y_rows.check()
                    raise
                told = reading.seconds
                reading.n_bytes += slab.n_bytes
                yield slab, part.bucket
    reading.tell()


def read_ahead(read: Callable[..., Read], parts: Sequence[tuple[Any, ...]],
               n_ahead: int) -> Iterator[Read]:
    """Parts in turn, the next ``n_ahead`` being read while this one is computed on.

    Args:
        read: reads a part; ``parts``: what it is given for each.
    """
    reading = Reading()
    with ThreadPoolExecutor(n_ahead, thread_name_prefix="lrh-read") as pool:
        pending = [pool.submit(read, *part) for part in parts[:n_ahead]]
        for following in (*parts[n_ahead:], *[None] * len(pending)):
            with reading:
                found = pending.pop(0).result()
            reading.n_bytes += found.n_bytes
            if following is not None:
                pending.append(pool.submit(read, *following))
            yield found
            del found  # before the next one is waited for
    reading.tell()


def _counted(slab: Block, spec: Spec) -> Block:
    """The rows that count, with their weights.

    Rows of weight zero, and bad ones, are left out here, so that no number of pairs has them in it.
    """
    weight = weights_of(slab.weight, slab.x_squares, spec)
    if weight is None and slab.bad is None:
        return slab
    counts = np.ones(len(slab.x), bool) if weight is None else weight > 0
    if slab.bad is not None:
        counts &= ~slab.bad
    if counts.all():
        return replace(slab, weight=weight)
    return Block(slab.start, slab.x[counts], slab.y[counts], slab.x_squares[counts],
                 slab.y_squares[counts], None if weight is None else weight[counts])


def weights_of(stored: np.ndarray | None, x_squares: np.ndarray,
               spec: Spec) -> np.ndarray | None:
    """Weights (n,) of rows; for noise that grows with ‖x‖ they are divided by ‖x‖²."""
    if spec.weighting != "step":
        return stored
    by_step = np.divide(1.0, x_squares, out=np.zeros_like(x_squares), where=x_squares > 0)
    return by_step if stored is None else stored * by_step


def hashes_of(block: Block, n_pairs: int) -> RowHashes:
    """Hashes of rows that say something: padding, of no weight or with x = 0, repeats nothing."""
    told = block.x_squares > 0
    if block.weight is not None:
        told &= block.weight > 0
    return RowHashes.of(block.x, block.y, keys=(block.x_squares, block.y_squares),
                        share=KEPT / (2 * n_pairs), told=None if told.all() else told)


def device_of_run(spec: Spec) -> Device:
    """Where this worker computes, with BLAS threads pinned."""
    process.pin_blas_threads()
    return pick_device(spec.device)
