"""What a night costs that brings 1 % of new pairs, beside the run of all; writes nightly.md.

    python tests/benchmarks/nightly.py FOLDER

Each figure is of `lrh nightly --json` as a process of its own, its pages warm; a ratio is of two
calls of one round, and every round has a store of its own.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lrh_dask.stores.appending import append_pairs
from lrh_dask.stores.opening import open_pairs
from lrh_dask.stores.synthetic import Known, write_known

N_FEATURES, RANK = 1024, 16
SIZES = {1_000_000: 0.05, 150_000: 0.25}
"""Pairs, and the share of the first run's cost that 1 % of new pairs may take."""
ROUNDS = 3
STAGES = ("read", "basis", "fit")


def main(folder: Path) -> None:
    known = Known.indefinite(N_FEATURES, RANK)
    lines = []
    for n_pairs, most in SIZES.items():
        rounds = []
        for i in range(ROUNDS):
            store, runs, new = (folder / f"{name}" for name in ("pairs.zarr", "runs", "new.zarr"))
            write_known(store, n_pairs, known, seed=10 * i + 1)
            write_known(new, n_pairs // 100, known, seed=10 * i + 2)
            (folder / "night.yaml").write_text(f"store: {store}\nruns: {runs}\n")
            warm(store)
            first, took_first = call(folder)
            more = open_pairs(str(new))
            append_pairs(store, more.x, more.y)
            second, took_second = call(folder)
            again, took_again = call(folder)
            assert second["new_pairs"] == n_pairs // 100, second["new_pairs"]
            assert not second["read_all"]
            assert (again["run"], again["new_pairs"]) == (second["run"], 0)
            rounds.append((first, took_first, second, took_second, took_again))
            for path in (store, runs, new):
                shutil.rmtree(path)
            print(n_pairs, i, cost(first), cost(second), n_bytes(second) / n_bytes(first),
                  took_first, took_second, took_again, flush=True)
        lines.append(row(n_pairs, rounds, most))
    page(lines)


def call(folder: Path) -> tuple[dict[str, Any], float]:
    begin = time.time()
    done = subprocess.run([sys.executable, "-m", "lrh_dask", "nightly", folder / "night.yaml",
                           "--json"], capture_output=True, text=True, check=True,
                          stdin=subprocess.DEVNULL)
    return json.loads(done.stdout), time.time() - begin


def warm(store: Path) -> None:
    for path in store.glob("*/c/**/*"):
        if path.is_file():
            path.read_bytes()


def cost(document: dict[str, Any], *more: str) -> float:
    return sum(document["seconds"][stage] for stage in (*STAGES, *more))


def n_bytes(document: dict[str, Any]) -> int:
    return sum(document["bytes"].values())


def row(n_pairs: int, rounds: list[Any], most: float) -> str:
    seconds = [cost(second) / cost(first) for first, _, second, _, _ in rounds]
    looked = [cost(second, "verify") / cost(first) for first, _, second, _, _ in rounds]
    read = [n_bytes(second) / n_bytes(first) for first, _, second, _, _ in rounds]
    fixed = [took - cost(second, "verify", "solve")
             for _, _, second, took, _ in rounds]

    def spread(values: list[float], form: str) -> str:
        return (f"{statistics.median(values):{form}} "
                f"({min(values):{form}} to {max(values):{form}})")

    return (f"| {n_pairs:,} | {spread([took for _, took, *_ in rounds], '.1f')} | "
            f"{spread([took for _, _, _, took, _ in rounds], '.1f')} | "
            f"{spread([took for *_, took in rounds], '.1f')} | {spread(fixed, '.1f')} | "
            f"{spread(read, '.1%')} | {spread(seconds, '.1%')} | {spread(looked, '.1%')} | "
            f"{most:.0%} |")


def page(lines: list[str]) -> None:
    versions = ", ".join(f"{name} {version(name)}" for name in
                         ("lrh-dask", "numpy", "zarr", "dask"))
    Path(__file__).with_suffix(".md").write_text("\n".join([
        "# Nightly: 1 % of new pairs", "",
        f"Written by `python tests/benchmarks/nightly.py FOLDER` on {datetime.now(UTC):%Y-%m-%d}, "
        f"Python {platform.python_version()}, {versions}, {os.cpu_count()} cores.", "",
        f"D = {N_FEATURES}, float32, rank {RANK}, noise 5 %; a local cluster a call. Medians of "
        f"{ROUNDS} rounds, their range in brackets. `lrh nightly` is called three times: for all "
        "pairs, after 1 % more were appended, and with nothing new.", "",
        "| pairs | all (s) | 1 % more (s) | nothing new (s) | fixed (s) | bytes of 1 % / all | "
        "seconds of 1 % / all | with the look | wanted |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |", *lines, "",
        "Seconds are those that the stages read (of all workers together), basis and fit have "
        "spent; with the look at counted rows of a chunk that was filled up. Fixed is the rest of "
        "the second call but for the solve: start-up of Python and of the cluster, report, "
        "publishing.", ""]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
