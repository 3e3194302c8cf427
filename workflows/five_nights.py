"""Five nights of one store on a real cluster, as typed, and what was said.

Written by `python workflows/five_nights.py [folder]` in two minutes on two cores; with a folder,
the page goes there, and the reports of the nights. The pairs are of a Hessian that is known; on
the fourth night its largest eigenvalue has grown by a fifth.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

D, GROWN = 100, 1.2
EIGENVALUES = np.array([4.0, 2.5, -1.5, 1.0, 0.6])
SETTINGS = """\
store: pairs.zarr
runs: runs
alerts:
  drift_beyond: 5
  residual_above: 0.5
"""
NIGHTS = (
    ("Night 1: everything is new", [(20_000, "2026-11-02", 1.0)]),
    ("Night 2: 1,000 more", [(1_000, "2026-11-03", 1.0)]),
    ("Night 3: 1,000 more, and 500 that were late", [(1_000, "2026-11-04", 1.0),
                                                     (500, "2026-11-02", 1.0)]),
    ("Night 4: the model has changed", [(1_000, "2026-11-05", GROWN)]),
    ("Night 5: nothing is new", []))


def main(folder: Path | None) -> None:
    """Play the nights and write the page."""
    with tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        typed = Typed(Path(work))
        (typed.folder / "night.yaml").write_text(SETTINGS, encoding="utf-8")
        stack.enter_context(started(typed.folder, "dask", "scheduler", "--host", "127.0.0.1",
                                    "--scheduler-file", "cluster.json"))
        while not (typed.folder / "cluster.json").exists():
            time.sleep(0.1)
        stack.enter_context(started(typed.folder, "dask", "worker", "--scheduler-file",
                                    "cluster.json", "--nworkers", "2", "--nthreads", "1"))
        typed.say("A scheduler and two workers run, each a process of its own, and `night.yaml` "
                  f"is\n\n```yaml\n{SETTINGS}```")
        for i, (title, batches) in enumerate(NIGHTS):
            typed.say(f"## {title}")
            for j, (n, day, grown) in enumerate(batches):
                name = f"new-{i + 1}{'ab'[j] * (len(batches) > 1)}.npz"
                np.savez(typed.folder / name, **pairs(n, seed=10 * i + j, grown=grown))
                typed.run("lrh", "append", "pairs.zarr", name, "--recorded", f"{day}T22:00:00Z")
            typed.run("lrh", "nightly", "night.yaml", "--scheduler", "cluster.json")
        typed.say("## What there is now")
        typed.run("lrh", "runs")
        *_, before, after = sorted(path.name for path in (typed.folder / "runs").glob("2*"))
        typed.run("lrh", "diff", f"runs/{before}", f"runs/{after}")
        target = folder or Path(__file__).parent
        (target / "five-nights.md").write_text(typed.page(), encoding="utf-8")
        for run in (typed.folder / "runs").glob("2*") if folder else ():
            shutil.copy(run / "report.html", target / f"{run.name}.html")


def pairs(n: int, *, seed: int, grown: float) -> dict[str, np.ndarray]:
    """n pairs with 20 % noise; the largest eigenvalue is ``grown`` times what it was."""
    u = np.linalg.qr(np.random.default_rng(1).standard_normal((D, EIGENVALUES.size)))[0]
    rng = np.random.default_rng(100 + seed)
    x = rng.standard_normal((n, D))
    y = (x @ u * EIGENVALUES * np.r_[grown, np.ones(EIGENVALUES.size - 1)]) @ u.T
    noise = 0.2 * np.linalg.norm(EIGENVALUES) / np.sqrt(D) * rng.standard_normal((n, D))
    return {"x": x.astype(np.float32), "y": (y + noise).astype(np.float32)}


class Typed:
    """What was typed and what it said, as a page."""

    def __init__(self, folder: Path) -> None:
        self._is_first = True
        self.folder, self._parts = folder, ["# Five nights", __doc__.strip()]

    def say(self, text: str) -> None:
        """What stands between the commands."""
        self._parts.append(text)

    def run(self, *command: str) -> None:
        """Run a command of this environment, and note what it says."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name(command[0])), *command[1:]], cwd=self.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "COLUMNS": "96"}, check=False)
        said = done.stdout.replace(f"{self.folder}/", "")
        lines = [line.rstrip() for line in said.splitlines() if line.strip()]
        if command[1] == "nightly" and "pairs n" in said:  # what a night repeats is told once
            first, last = (next(i for i, line in enumerate(lines) if line.startswith(word))
                           for word in ("pairs n", "run "))
            lines[first + 6 * self._is_first:last] = ["..."]
            self._is_first = False
        ended = f"\n$ echo $?\n{done.returncode}" if command[1] == "nightly" else ""
        self.say(f"```\n$ {' '.join(command)}\n" + "\n".join(lines) + ended + "\n```")

    def page(self) -> str:
        """All of it."""
        return "\n\n".join(self._parts) + "\n"


@contextmanager
def started(folder: Path, *command: str) -> Iterator[None]:
    """A process that ends with the block."""
    with (folder / f"{command[1]}.log").open("wb") as log, subprocess.Popen(
            [str(Path(sys.executable).with_name(command[0])), *command[1:]], cwd=folder,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
        try:
            yield
        finally:
            process.terminate()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
