"""The price of a run, before anything is read: the route it takes, bytes, flops, tasks, memory.

Four routes lead to the same fit:

``all_features``  D is small: the basis is all of R^D, one pass, k is chosen afterwards (above
                  SMALL_FEATURES, and with many pairs, only where no basis of few columns does);
``whole_pairs``   n is small: all pairs fit one worker, which finds their common basis itself;
``by_features``   n is small and no worker should hold all features: products of pairs are summed
                  over blocks of features, and eigenvectors written block by block;
``fitted_basis``  else: one pass finds the k dominant directions of y, a second one fits in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lrh_dask.errors import SettingsError, explain
from lrh_dask.runs.memory import MIB, Shape
from lrh_dask.runs.shards import Partition
from lrh_dask.runs.tree import FAN_IN

__all__ = ["FEW_PAIRS", "FIRST_ROWS", "LARGE_BASIS_PAIRS", "MANY_PAIRS", "Plan", "Route",
           "all_features_pay", "first_columns", "plan_run"]

ALWAYS_ALL_FEATURES, SMALL_FEATURES, MAX_FEATURES = 256, 768, 2560
MAX_WHOLE_PAIRS = 1024
MAX_WHOLE_BYTES = 2**30
"""More is not brought to one worker where the store lets features be read apart."""
SMALL_BASIS, USUAL_BASIS, LARGE_BASIS = 128, 256, 512
LEAST_BASIS = 8
"""No memory shrinks a basis below so many columns, or the rank that was asked for."""
PAUSED = 0.8
"""Dask pauses a worker above this share of its memory limit; so much of it may a run cost."""
FIRST_COLUMNS, FIRST_ROWS = 64, 8192
"""Columns that a basis looks for at first, and pairs that it looks for them in ..."""
MANY_PAIRS = 8 * FIRST_ROWS
"""... where there are so many pairs that a sample of them may do."""
FEW_PAIRS = 20
"""Below so many pairs a column, a fitted basis takes the directions of the held-out buckets too."""
LARGE_BASIS_PAIRS = 8192
"""Up to so many pairs a basis of up to LARGE_BASIS columns costs seconds."""
MAX_FLOPS = 1e13
"""Above this the basis shrinks to SMALL_BASIS: some minutes of one core."""
MAX_FLOPS_OF_ALL, MAX_FLOPS_OF_SMALL = 2e11, 1e12
"""Above this the products over all of R^D cost more than reading, and a fitted basis less. Up to
ALWAYS_ALL_FEATURES the minutes of a core that they cost may be more, as they are more accurate."""


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
        peak_worker_bytes: memory of one worker process at its peak, at most.
        usual_worker_bytes: the same where the spectrum of y ends within the columns that a basis
            looks for at first.
        notice: where the workers' memory, and not the pairs alone, decided route or basis.
        all_features_too: whether all of R^D is affordable, should a fitted basis not do.
    """

    route: Route
    max_basis: int
    bytes_read: int
    flops: float
    n_tasks: int
    peak_worker_bytes: int
    usual_worker_bytes: int
    notice: str = ""
    all_features_too: bool = False


def plan_run(shape: Shape, split: Partition, *, method: str = "symmetric", rank: int | None = None,
             basis: int | None = None, worker_bytes: int | None = None) -> Plan:
    """Choose the route of a run and price it.

    Args:
        shape: of the pairs, as workers read them.
        basis: columns that were asked for, D being all of R^D.
        worker_bytes: memory limit of a worker; None is no limit.
    Raises:
        SettingsError: the rank is out of reach, or the workers are too small for the run.
    """
    n_pairs, n_features = shape.n_pairs, shape.n_features
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
    limit = float("inf") if worker_bytes is None else PAUSED * worker_bytes
    exact = method != "symmetric"
    route, columns = _route(n_pairs, n_features, rank, basis, exact=exact)
    if route is Route.whole_pairs and shape.block_columns < n_features and (
            shape.whole > MAX_WHOLE_BYTES or _peak(shape, route, columns, rank) > limit):
        route = Route.by_features
    wanted = route, columns
    if not exact and basis is None and route is not Route.by_features:
        if _peak(shape, route, columns, rank) > limit:
            route, columns = Route.fitted_basis, _fitted_basis(n_pairs, n_features, rank)
        lowest = max(rank or 0, LEAST_BASIS)
        while route is Route.fitted_basis and columns > lowest \
                and _peak(shape, route, columns, rank) > limit:
            columns = max(lowest, columns * 3 // 4)
    notice = "" if (route, columns) == wanted else (
        f"the workers' memory of {(worker_bytes or 0) / MIB:.0f} MiB decided: {route.value}, up to "
        f"{columns} columns")
    peak = _peak(shape, route, columns, rank)
    if peak > limit:
        smaller = 0 if exact else _largest_basis_within(shape, limit, rank)
        enough = f"`--memory-limit {_limit(peak)}MiB`" + (
            "" if (route, columns) == wanted else f" for at most {columns} eigenvalues, "
            f"`--memory-limit {_limit(_peak(shape, *wanted, rank))}MiB` for as many as there are")
        raise SettingsError(explain(
            f"method '{method}' over {n_pairs} pairs of {n_features} features",
            expected=f"at most {limit / MIB:.0f} MiB a worker ({PAUSED:.0%} of its limit of "
                     f"{(worker_bytes or 0) / MIB:.0f} MiB, where Dask pauses it)",
            got=f"a price of {_mib(peak)} MiB",
            consequence="A worker would run out of memory, so nothing was started",
            fix=f"Use {enough}" + (
                ", or `--method symmetric`, which needs no worker to hold all pairs" if exact else
                f", or `--basis {smaller}`" if smaller else "")))
    all_features_too = (
        route is Route.fitted_basis and basis is None and 2 * n_features < n_pairs
        and n_features <= MAX_FEATURES
        and _flops(Route.all_features, n_pairs, n_features, n_features) <= MAX_FLOPS
        and _peak(shape, Route.all_features, n_features, rank) <= limit)
    if all_features_too:
        peak = max(peak, _peak(shape, Route.all_features, n_features, rank))
    twice = Route.by_features if method == "least_norm" else Route.fitted_basis
    passes = 2.0 if route is twice else 1.5 if route is Route.by_features else 1.0
    merges = -(-len(split.runs) // (FAN_IN - 1))
    sampled = n_pairs > LARGE_BASIS_PAIRS or route is Route.by_features
    first = first_columns(rank, columns) if sampled else columns
    return Plan(route, columns, bytes_read=round(passes * shape.whole),
                flops=_flops(route, n_pairs, n_features, columns),
                n_tasks=round(passes) * (len(split.runs) + merges + 1), notice=notice,
                all_features_too=all_features_too,
                peak_worker_bytes=peak, usual_worker_bytes=_peak(shape, route, first, rank))


def all_features_pay(n_pairs: int, n_features: int) -> bool:
    """Whether all of R^D is worth its products where the spectrum of y does not end early."""
    return 4.0 * n_pairs * n_features**2 <= (
        MAX_FLOPS_OF_SMALL if n_features <= ALWAYS_ALL_FEATURES else MAX_FLOPS_OF_ALL)


def first_columns(rank: int | None, most: int) -> int:
    """Columns that a basis looks for at first."""
    return min(max(FIRST_COLUMNS, 2 * (rank or 0) + 16), most)


def _route(n_pairs: int, n_features: int, rank: int | None, asked: int | None, *,
           exact: bool) -> tuple[Route, int]:
    """The way that loses least of those that cost no more than they may."""
    def fits(route: Route, basis: int) -> bool:
        return _flops(route, n_pairs, n_features, basis) <= MAX_FLOPS and (
            route is Route.whole_pairs or all_features_pay(n_pairs, n_features))

    if exact:
        return Route.whole_pairs, min(n_features, 2 * n_pairs)
    if asked is not None:
        return (Route.all_features, n_features) if asked >= n_features else (
            Route.fitted_basis, asked)
    if n_features <= SMALL_FEATURES and fits(Route.all_features, n_features):
        return Route.all_features, n_features
    whole = min(n_pairs + n_pairs // 2, n_features)  # Krylov: x adds up to half as many
    if n_pairs <= min(MAX_WHOLE_PAIRS, n_features) and fits(Route.whole_pairs, whole):
        return Route.whole_pairs, whole
    a_basis_may_do = n_pairs > max(LARGE_BASIS_PAIRS, 2 * n_features)
    if (n_features <= MAX_FEATURES and fits(Route.all_features, n_features)
            and not a_basis_may_do):
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
    if route is Route.fitted_basis:
        flops += (4.0 * n_pairs + 14.0 * min(n_pairs, MANY_PAIRS)) * n_features * basis
    return flops


def _peak(shape: Shape, route: Route, basis: int, rank: int | None) -> int:
    """Memory of a worker on a route; held-out directions are appended where pairs are few."""
    if route is Route.all_features:
        return shape.over_all_features()
    if route is Route.whole_pairs:
        return shape.on_one_worker(basis)
    if route is Route.by_features:
        return shape.by_features(rank or basis)
    few = shape.n_pairs < FEW_PAIRS * basis
    return shape.in_basis(basis, min(2 * basis, shape.n_features) if few else basis)


def _largest_basis_within(shape: Shape, limit: float, rank: int | None) -> int:
    """Columns of the largest fitted basis that workers have room for; 0 where none is."""
    sizes = (LARGE_BASIS >> halved for halved in range(LARGE_BASIS.bit_length()))
    return next((k for k in sizes if max(rank or 0, LEAST_BASIS) <= k < shape.n_features
                 and _peak(shape, Route.fitted_basis, k, rank) <= limit), 0)


def _limit(n_bytes: int) -> int:
    """The memory limit in MiB of a worker that can use so much."""
    return -(-n_bytes // round(PAUSED * MIB))


def _mib(n_bytes: int) -> int:
    return -(-n_bytes // MIB)
