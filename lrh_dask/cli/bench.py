"""The same job by several programs in turn, on one store whose Hessian is known."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lrh_dask.clusters.cluster import connect
from lrh_dask.errors import SettingsError, explain
from lrh_dask.reports import rivals
from lrh_dask.runs.pipeline import fit
from lrh_dask.settings.cluster_settings import ClusterSettings
from lrh_dask.stores.opening import open_pairs
from lrh_dask.stores.synthetic import Known, write_known

__all__ = ["FLOOR", "OURS", "Measured", "bench_job", "compare", "drop_pages", "programs"]

FLOOR = "read floor"
OURS = "lrh"
RANK = 16


@dataclass
class Measured:
    """What a program took, round by round, and how far its eigenvalues are off.

    Attributes:
        seconds: of every round.
        error: root mean square of the eigenvalues' relative errors, NaN for the read floor.
    """

    seconds: list[float] = field(default_factory=list)
    error: float = float("nan")

    @property
    def median(self) -> float:
        """Seconds of the round in the middle."""
        return float(np.median(self.seconds))

    @property
    def error_or_none(self) -> float | None:
        """The error as JSON knows it."""
        return None if np.isnan(self.error) else self.error

    def ratio_to(self, other: Measured) -> np.ndarray:
        """Ratios (rounds,) to another program's seconds of the same round."""
        return np.array(self.seconds) / np.array(other.seconds)


def programs(store: str, n_wanted: int, client: Any) -> dict[str, Callable[[], Any]]:
    """By name: the read floor, the product, and what one would write by hand."""
    return {
        FLOOR: lambda: rivals.read_floor(store, client),
        OURS: lambda: fit(open_pairs(store)).eigenvalues,
        "NumPy normal equations": lambda: rivals.numpy_normal_equations(store, n_wanted),
        "dask normal equations": lambda: rivals.dask_normal_equations(store, n_wanted),
        "dask svd_compressed": lambda: rivals.svd_compressed(store, n_wanted),
    }


def compare(programs: dict[str, Callable[[], Any]], known: Known, *, rounds: int,
            before: Callable[[], None] = lambda: None,
            on_run: Callable[[str, float], None] = lambda _name, _seconds: None,
            ) -> dict[str, Measured]:
    """Run all programs in turn, ``rounds`` times, so that a slow minute is in the ratios of all.

    A first round that is not counted imports modules and fills the page cache.

    Args:
        before: called before every run (to drop pages, for example).
        on_run: told each program's name and seconds.
    """
    found = {name: Measured() for name in programs}
    for turn in range(rounds + 1):
        for name, program in programs.items():
            before()
            begin = time.perf_counter()
            result = program()
            seconds = time.perf_counter() - begin
            on_run(name, seconds)
            if turn:
                found[name].seconds.append(seconds)
                if isinstance(result, np.ndarray):  # a floor has no eigenvalues
                    found[name].error = _error(result, known)
    return found


def _error(values: np.ndarray, known: Known) -> float:
    """Root mean square relative error; an eigenvalue that is not there counts as zero."""
    padded = np.zeros(known.eigenvalues.size)
    padded[:min(values.size, padded.size)] = values[:padded.size]
    return float(np.sqrt(np.mean((padded / known.eigenvalues - 1.0) ** 2)))


def drop_pages(store: str | Path) -> None:
    """Have the system forget the pages of a local store, so that it is read from the disk again."""
    for folder, _, names in os.walk(store):
        for name in names:
            descriptor = os.open(Path(folder) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def bench_job(n_pairs: int, n_features: int, *, rounds: int, folder: Path | None,
              workers: int | None, say: Callable[[str], None]) -> dict[str, Measured]:
    """Write a store, compare all programs on a local cluster, remove the store.

    Raises:
        SettingsError: the folder cannot be written or has no room for the store.
    """
    known = Known.indefinite(n_features, min(RANK, n_features))
    n_bytes = 8 * n_pairs * n_features
    with tempfile.TemporaryDirectory(prefix="lrh-bench-", dir=_with_room(folder, n_bytes)) as place:
        say(f"Writing {n_pairs:,} pairs over {n_features:,} features ({n_bytes / 2**20:,.0f} MiB), "
            f"rank {known.eigenvalues.size}, 5 % noise ...")
        store = str(write_known(Path(place) / "pairs.zarr", n_pairs, known))
        begin = time.perf_counter()
        with connect(ClusterSettings(workers=workers)) as client:
            n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
            say(f"Started {n_workers} workers in {time.perf_counter() - begin:.1f} s. The first "
                "round is not counted; it imports modules and fills the page cache.")
            return compare(programs(store, known.eigenvalues.size, client), known, rounds=rounds,
                           on_run=lambda name, seconds: say(f"  {name}: {seconds:.2f} s"))


def _with_room(folder: Path | None, n_bytes: int) -> Path:
    place = Path(tempfile.gettempdir()) if folder is None else folder
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise SettingsError(explain(
            f"folder {place}", expected="a folder that can be written", got=str(error),
            consequence="Nothing was started", fix="Make it first, or name another")) from error
    if free < 1.1 * n_bytes:
        raise SettingsError(explain(
            f"folder {place}", expected=f"{1.1 * n_bytes / 2**20:,.0f} MiB for the store",
            got=f"{free / 2**20:,.0f} MiB free", consequence="Nothing was started",
            fix="Name another with --folder, or ask for fewer --pairs or --features"))
    return place
