"""The price of a run, before anything is read: the route it takes, bytes, flops, tasks, memory.

Four routes lead to the same fit:

``all_features``  D is small: the basis is all of R^D, one pass, k is chosen afterwards;
``whole_pairs``   n is small: all pairs fit one worker, which finds their common basis itself;
``by_features``   n is small and no worker should hold all features: products of pairs are summed
                  over blocks of features, and eigenvectors written block by block;
``fitted_basis``  else: one pass finds the k dominant directions of y, a second one fits in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lrh_dask.errors import SettingsError, explain
from lrh_dask.shards import N_BUCKETS, Partition
from lrh_dask.tree import FAN_IN

__all__ = ["Plan", "Route", "plan_run"]

MIB = 2**20
IDLE_BYTES = 260 * MIB
"""A worker process with NumPy, Dask and Zarr imported."""
SLAB_BYTES = 32 * MIB
"""Rows are computed on in slabs of about this size, x and y together, whatever the block."""
CACHED_BYTES = 8 * MIB
"""The same where a slab is gone over more than once and had better stay in a processor's cache."""
ALWAYS_ALL_FEATURES, SMALL_FEATURES, MAX_FEATURES = 256, 768, 2560
MAX_WHOLE_PAIRS = 1024
MAX_WHOLE_BYTES = 2**30
"""More is not brought to one worker where the store lets features be read apart."""
SMALL_BASIS, USUAL_BASIS, LARGE_BASIS = 128, 256, 512
FEW_PAIRS = 20
"""Below so many pairs a column, a fitted basis takes the directions of the held-out buckets too."""
LARGE_BASIS_PAIRS = 8192
"""Up to so many pairs a basis of up to LARGE_BASIS columns costs seconds."""
MAX_FLOPS = 1e13
"""Above this the basis shrinks to SMALL_BASIS: some minutes of one core."""
MAX_FLOPS_OF_ALL = 2e11
"""Above this the products over all of R^D cost more than reading, and a fitted basis less."""


class Route(Enum):
    """How a run goes about it; the value says so to a person."""

    all_features = "all of R^D (small D), one pass"
    whole_pairs = "all pairs on one worker (few pairs), one pass"
    by_features = "products of pairs summed over blocks of features, two passes"
    fitted_basis = "a basis fitted to y, two passes"


@dataclass(frozen=True)
class Plan:
    """What a run will do and cost.

    Attributes:
        route: the way it goes.
        max_basis: columns of the basis at most.
        bytes_read: bytes of chunks read, over all passes.
        flops: floating-point operations, about.
        n_tasks: tasks the scheduler sees.
        peak_worker_bytes: memory of one worker process at its peak.
        notice: where the workers' memory, and not the pairs alone, decided route or basis.
    """

    route: Route
    max_basis: int
    bytes_read: int
    flops: float
    n_tasks: int
    peak_worker_bytes: int
    notice: str = ""


def plan_run(n_pairs: int, n_features: int, itemsize: int, chunk_rows: int, split: Partition, *,
             method: str = "symmetric", rank: int | None = None, basis: int | None = None,
             threads: int = 1, worker_bytes: int | None = None, held_bytes: int = 0,
             block_columns: int | None = None) -> Plan:
    """Choose the route of a run and price it.

    Args:
        itemsize: bytes of a number as computed; ``chunk_rows``: pairs read at once.
        basis: columns that were asked for, D being all of R^D.
        threads: threads of a worker, each of which runs a task.
        worker_bytes: memory limit of a worker; None is no limit.
        held_bytes: what a worker may be holding besides (pairs sent from memory).
        block_columns: features that are read at once where the store has them apart.
    Raises:
        SettingsError: the rank is out of reach, or the workers are too small for the run.
    """
    if rank is not None and not 1 <= rank <= min(n_pairs, n_features):
        raise SettingsError(explain(
            f"rank {rank}", expected=f"1 to {min(n_pairs, n_features)}",
            got=f"{n_pairs} pairs over {n_features} features",
            consequence="No more eigenvalues than pairs or features can be found",
            fix="Lower --rank or use `--rank auto`"))
    if basis is not None and basis < (rank or 1):
        raise SettingsError(explain(
            f"basis of {basis} columns", expected=f"at least the rank, {rank}", got=f"{basis}",
            consequence="That many eigenvalues do not fit in", fix="Raise --basis"))
    exact = method != "symmetric"
    route, columns = _route(n_pairs, n_features, rank, basis, exact=exact)
    sizes = _Sizes(n_pairs, n_features, itemsize, chunk_rows, threads, held_bytes,
                   block_columns or n_features)
    whole_bytes = 2 * n_pairs * n_features * itemsize
    if route is Route.whole_pairs and sizes.block_columns < n_features and (
            whole_bytes > MAX_WHOLE_BYTES
            or (worker_bytes is not None and sizes.peak(route, columns, split) > worker_bytes)):
        route = Route.by_features
    wanted = route, columns
    if worker_bytes is not None and not exact and basis is None and route in {
            Route.all_features, Route.whole_pairs, Route.fitted_basis}:
        if n_features > ALWAYS_ALL_FEATURES and sizes.peak(route, columns, split) > worker_bytes:
            route, columns = Route.fitted_basis, _fitted_basis(n_pairs, n_features, rank)
        lowest = max(rank or 0, 8)
        while route is Route.fitted_basis and columns > lowest \
                and sizes.peak(route, columns, split) > worker_bytes:
            columns = max(lowest, columns * 3 // 4)
    notice = "" if (route, columns) == wanted else (
        f"the workers' memory of {worker_bytes // MIB if worker_bytes else 0} MiB decided: "
        f"{route.value}, up to {columns} columns")
    peak = sizes.peak(route, columns, split)
    if worker_bytes is not None and peak > worker_bytes:
        raise SettingsError(explain(
            f"method '{method}' over {n_pairs} pairs of {n_features} features",
            expected=f"workers of at least {_mib(peak)} MiB", got=f"{worker_bytes // MIB} MiB",
            consequence="A worker would run out of memory, so nothing was started",
            fix=("Use `--method symmetric`, which needs no worker to hold all pairs, or `"
                 if exact else "Leave --basis out, or use `" if basis is not None else "Use `")
            + f"--memory-limit {_mib(peak)}MiB`"))
    passes = 2.0 if route is Route.fitted_basis else 1.5 if route is Route.by_features else 1.0
    merges = -(-len(split.runs) // (FAN_IN - 1))
    n_tasks = round(passes) * (len(split.runs) + merges + 1)
    return Plan(route, columns, bytes_read=round(passes * whole_bytes),
                flops=_flops(route, n_pairs, n_features, columns),
                n_tasks=n_tasks, notice=notice, peak_worker_bytes=peak)


def _route(n_pairs: int, n_features: int, rank: int | None, asked: int | None, *,
           exact: bool) -> tuple[Route, int]:
    """The way that loses least of those that cost no more than they may."""
    def fits(route: Route, basis: int) -> bool:
        return _flops(route, n_pairs, n_features, basis) <= MAX_FLOPS and (
            route is Route.whole_pairs or 4.0 * n_pairs * n_features**2 <= MAX_FLOPS_OF_ALL)

    if exact:
        return Route.whole_pairs, min(n_features, 2 * n_pairs)
    if asked is not None:
        return (Route.all_features, n_features) if asked >= n_features else (
            Route.fitted_basis, asked)
    if n_features <= ALWAYS_ALL_FEATURES or (
            n_features <= SMALL_FEATURES and fits(Route.all_features, n_features)):
        return Route.all_features, n_features
    whole = min(n_pairs + n_pairs // 2, n_features)  # Krylov: x adds up to half as many
    if n_pairs <= min(MAX_WHOLE_PAIRS, n_features) and fits(Route.whole_pairs, whole):
        return Route.whole_pairs, whole
    if n_features <= MAX_FEATURES and fits(Route.all_features, n_features):
        return Route.all_features, n_features
    return Route.fitted_basis, _fitted_basis(n_pairs, n_features, rank)


def _fitted_basis(n_pairs: int, n_features: int, rank: int | None) -> int:
    """Columns to look for: two thirds of the pairs, while that costs no more than it may."""
    largest = LARGE_BASIS if n_pairs <= LARGE_BASIS_PAIRS else USUAL_BASIS
    if _flops(Route.fitted_basis, n_pairs, n_features, largest) > MAX_FLOPS:
        largest = SMALL_BASIS
    return max(min(largest, 2 * n_pairs // 3, n_features), rank or 0)


def _flops(route: Route, n_pairs: int, n_features: int, basis: int) -> float:
    """Operations of a run, about: products, choice and solve, and where needed the basis."""
    columns = 2 * basis + 1
    flops = 1.0 * n_pairs * columns**2 + 60.0 * columns**3
    return flops + 14.0 * n_pairs * n_features * basis * (route is Route.fitted_basis)


@dataclass(frozen=True)
class _Sizes:
    n_pairs: int
    n_features: int
    itemsize: int
    chunk_rows: int
    threads: int
    held_bytes: int
    block_columns: int

    def peak(self, route: Route, basis: int, split: Partition) -> int:
        """Bytes of a worker process at the dearest moment of the run."""
        row_bytes = 2 * self.n_features * self.itemsize
        block = 3 * min(self.chunk_rows, self.n_pairs) * row_bytes  # current, ahead, decoded
        whole = self.n_pairs * row_bytes
        width = basis  # of the fit; held-out directions are appended where pairs are few
        if route is Route.fitted_basis and self.n_pairs < FEW_PAIRS * basis:
            width = min(2 * basis, self.n_features)
        columns = 2 * width + 1
        if route is Route.by_features:
            block = 2 * self.n_pairs * self.block_columns
            small = (2 * self.n_pairs + 1) ** 2 * 8
            leaf = 3 * block * self.itemsize + block * (8 + self.itemsize) + 3 * small
            lift = self.block_columns * basis * (8 + self.itemsize)
            return IDLE_BYTES + self.threads * (leaf + lift) + 12 * small
        held = sum(min(columns, self.n_pairs // max(len(split.buckets), 1) + 1)
                   for _ in split.buckets) * columns * 8
        if route is Route.whole_pairs:
            rank = min(self.n_pairs, basis)
            solve = 3 * whole + 4 * 8 * self.n_features * columns + 6 * held \
                + 10 * self.n_pairs * rank * 8
            return IDLE_BYTES + self.held_bytes + max(
                self.threads * (block + 5 * whole), solve + whole)
        triangle = columns**2 * 8
        slab = 6 * SLAB_BYTES + 4 * triangle
        state = triangle * (N_BUCKETS if len(split.runs) < 2 * N_BUCKETS else 2)
        solve = 6 * held + 8 * triangle
        if route is Route.all_features:
            leaf = block + slab + state
            merge = (FAN_IN + 1) * min(held, FAN_IN * state)
            return IDLE_BYTES + self.held_bytes + max(self.threads * max(leaf, merge), solve + leaf)
        reduced = 2 * basis * self.n_features * self.itemsize       # one state, x and y
        q = self.n_features * width * (8 + self.itemsize)
        find = block + 4 * reduced + 6 * basis * self.n_features * 8 // 2 + slab
        merge = 2 * (FAN_IN + 2) * reduced + 4 * basis * self.n_features * 8
        leaf = block + q + slab + state
        return IDLE_BYTES + self.held_bytes + max(self.threads * max(find, merge, leaf), solve + q)


def _mib(n_bytes: int) -> int:
    return -(-n_bytes // MIB)
