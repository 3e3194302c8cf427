"""Leaves of the tree: a task reads a run of shards and folds its rows into one state a bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import Any, Protocol, TypeVar

import numpy as np

from lrh_dask import process, progress
from lrh_dask.arrays import CPU, Array, Device, pick_device
from lrh_dask.basis import Basis
from lrh_dask.blocks import Block
from lrh_dask.budget import Route
from lrh_dask.duplicates import KEPT, RowHashes
from lrh_dask.gathering import Gathering
from lrh_dask.memory import CACHED_BYTES, SLAB_BYTES, WAITING_BYTES
from lrh_dask.pairs import Pairs
from lrh_dask.reduced_pairs import EXACT_ROWS, Reducing
from lrh_dask.shards import Run
from lrh_dask.spec import Spec, group_of
from lrh_dask.tree import Partial, ReadStats

__all__ = ["basis_leaf", "device_of_run", "fit_leaf", "hashes_of", "merge_partials", "read_ahead",
           "weights_of"]


Read = TypeVar("Read")


class Fold(Protocol):
    """What takes blocks of pairs one after another and ends as a mergeable state."""

    def add(self, x: Array, y: Array, weight: Array | None,
            squares: tuple[Array, Array]) -> None:
        """Count a block; ``squares`` are ‖x‖² and ‖y‖² of its rows."""

    def state(self) -> Any:
        """What was counted."""


def basis_leaf(pairs: Pairs, run: Run, spec: Spec) -> Partial:
    """Reduced pairs of a run: by group (a fitted basis), or by bucket and uncut (few pairs)."""
    device = device_of_run(spec)
    whole = spec.route is Route.whole_pairs
    max_rank = spec.n_pairs if whole else spec.max_basis
    at_once = min(WAITING_BYTES // pairs.row_bytes, EXACT_ROWS * max_rank)
    return _fold(pairs, run, spec, "basis", max(4 * spec.max_basis, SLAB_BYTES // pairs.row_bytes),
                 lambda: Reducing(max_rank, at_once),
                 (lambda b: b) if whole else group_of, device)


def fit_leaf(pairs: Pairs, run: Run, spec: Spec, basis: Basis | None) -> Partial:
    """Triangles of a run by bucket, over the fitted basis or over all of R^D."""
    device = device_of_run(spec)
    q = None if basis is None else device.put(basis.q.astype(pairs.dtype, copy=False))
    in_cache = q is not None and device is CPU  # a slab is gone over five times
    return _fold(pairs, run, spec, "fit again" if spec.again else "fit",
                 max(64, (CACHED_BYTES if in_cache else SLAB_BYTES) // pairs.row_bytes),
                 lambda: Gathering(q), lambda b: b, device)


def merge_partials(*partials: Partial) -> Partial:
    """A node of the tree."""
    process.pin_blas_threads()
    return reduce(Partial.merge, partials)


def _fold(pairs: Pairs, run: Run, spec: Spec, stage: str, slab_rows: int,
          new: Callable[[], Fold], bucket_of: Callable[[int], int], device: Device) -> Partial:
    """Read a run block by block and fold its rows, slab by slab, into one state a bucket."""
    folds: dict[int, Fold] = {}
    stats = ReadStats()
    hashed = stage != "basis" or spec.route is Route.whole_pairs

    def add(block: Block) -> int:
        """Count a block, slab by slab; how many of its rows have no weight."""
        no_weight = 0
        for start, stop, bucket in _slabs(block, run, slab_rows):
            rows = _counted(block.rows(start, stop), spec)
            no_weight += stop - start - len(rows.x)
            if bucket_of(bucket) not in folds:
                folds[bucket_of(bucket)] = new()
            folds[bucket_of(bucket)].add(
                device.put(rows.x), device.put(rows.y),
                None if rows.weight is None else device.put(rows.weight),
                (device.put(rows.x_squares), device.put(rows.y_squares)))
        return no_weight

    for block in read_ahead(pairs.read, run.blocks, pairs.blocks.n_ahead):
        stats = stats.merge(ReadStats(
            len(block.x), block.n_bytes, block.seconds,
            _zero_rows(block.x, block.x_squares), _zero_rows(block.y, block.y_squares),
            add(block), process.peak_bytes(),
            hashes_of(block, spec.n_pairs) if hashed else RowHashes()))
        del block  # before the next one is waited for
    if spec.watched:
        progress.emit(spec.run_id, progress.Event(stage, run.index, stats.n_pairs, stats.n_bytes))
    return Partial({bucket: folds[bucket].state().to_host() for bucket in sorted(folds)}, stats)


def _slabs(block: Block, run: Run, slab_rows: int) -> Iterator[tuple[int, int, int]]:
    """First row, the one after the last, and bucket of the slabs of a block."""
    for piece in run.pieces:
        first, last = max(piece.start, block.start), min(piece.stop, block.start + len(block.x))
        for start in range(first, last, slab_rows):
            yield start, min(start + slab_rows, last), piece.bucket


def read_ahead(read: Callable[..., Read], parts: Sequence[tuple[Any, ...]],
               n_ahead: int) -> Iterator[Read]:
    """Parts in turn, the next ``n_ahead`` being read while this one is computed on.

    Args:
        read: reads a part; ``parts``: what it is given for each.
    """
    with ThreadPoolExecutor(n_ahead, thread_name_prefix="lrh-read") as pool:
        pending = [pool.submit(read, *part) for part in parts[:n_ahead]]
        for following in (*parts[n_ahead:], *[None] * len(pending)):
            found = pending.pop(0).result()
            if following is not None:
                pending.append(pool.submit(read, *following))
            yield found
            del found  # before the next one is waited for


def _counted(slab: Block, spec: Spec) -> Block:
    """The rows that count, with their weights.

    Rows of weight zero are left out here, so that no number of pairs has them in it.
    """
    weight = weights_of(slab.weight, slab.x_squares, spec)
    if weight is None:
        return slab
    counts = weight > 0
    return Block(slab.start, slab.x[counts], slab.y[counts], slab.x_squares[counts],
                 slab.y_squares[counts], weight[counts])


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
    arrays = (block.x, block.y, block.x_squares, block.y_squares)
    x, y, *keys = arrays if told.all() else (a[told] for a in arrays)
    return RowHashes.of(x, y, keys=tuple(keys), share=KEPT / (2 * n_pairs))


def _zero_rows(rows: np.ndarray, squares: np.ndarray) -> int:
    """How many rows are zero; squares of very small numbers are zero, too."""
    suspects = np.flatnonzero(squares == 0)
    return int(np.count_nonzero(~rows[suspects].any(axis=1)))


def device_of_run(spec: Spec) -> Device:
    """Where this worker computes, with BLAS threads pinned."""
    process.pin_blas_threads()
    return pick_device(spec.device)
