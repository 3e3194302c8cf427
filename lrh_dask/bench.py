"""The same job by several programs in turn, on one store whose Hessian is known."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lrh_dask import rivals
from lrh_dask.pairs import open_pairs
from lrh_dask.pipeline import fit
from lrh_dask.synthetic import Known

__all__ = ["Measured", "compare", "drop_pages", "programs"]

FLOOR = "read floor"
OURS = "lrh"


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
                if name != FLOOR:
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


def rows_of(found: dict[str, Measured]) -> Sequence[tuple[str, ...]]:
    """A table: program, seconds (median, least, most), ratio to the read floor, error."""
    floor = found[FLOOR]
    rows = []
    for name, measured in found.items():
        ratio = measured.ratio_to(floor)
        rows.append((
            name, f"{measured.median:.2f}",
            f"{min(measured.seconds):.2f} – {max(measured.seconds):.2f}",
            f"{np.median(ratio):.2f}", f"{ratio.min():.2f} – {ratio.max():.2f}",
            "" if np.isnan(measured.error) else f"{measured.error:.2g}"))
    return rows
