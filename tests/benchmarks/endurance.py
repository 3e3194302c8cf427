"""What 2,000 jobs leave behind on a cluster that stays; writes endurance.md and .svg beside it.

    PYTHONPATH=tests python tests/benchmarks/endurance.py [JOBS]

A scheduler, two workers and this client are separate processes that live through all jobs. It ends
with exit code 1 where anything is left, or memory grows beside Dask's own notes of jobs.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from many_jobs import ALLOWED_BYTES, MIB, Sample, Slope, endure, leaks, slopes

PAGE = Path(__file__).with_suffix(".md")
PLOT = PAGE.with_suffix(".svg")
JOBS, SAMPLES = 2000, 100


def main() -> int:
    """Carry it out; 1 where something grows."""
    n_jobs = int(sys.argv[1]) if len(sys.argv) > 1 else JOBS
    samples = endure(n_jobs, every=max(1, n_jobs // SAMPLES), say=_say)
    found = leaks(samples)
    if n_jobs == JOBS:
        PAGE.write_text(_page(samples, found), encoding="utf-8")
        _plot(samples)
    sys.stderr.write("\n".join(found) + "\n")
    return 1 if found else 0


def _say(sample: Sample) -> None:
    sys.stdout.write(json.dumps(asdict(sample)) + "\n")
    sys.stdout.flush()


def _page(samples: Sequence[Sample], found: Sequence[str]) -> str:
    first, last = samples[len(samples) // 2], samples[-1]
    notes = {name: Slope.of([s.jobs for s in samples], [s.notes[name] for s in samples])
             for name in last.notes}
    lines = "\n".join(
        f"| {name} | {first.memory[name] / MIB:.1f} | {last.memory[name] / MIB:.1f} | "
        f"{slope.by_job / 1024:.2f} ± {slope.error / 1024:.2f} | {first.files[name]} → "
        f"{last.files[name]} | {first.threads[name]} → {last.threads[name]} |"
        for name, slope in slopes(samples).items())
    versions = ", ".join(f"{name} {version(name)}" for name in ("lrh-dask", "distributed", "zarr"))
    return f"""\
# Endurance: {last.jobs:,} jobs, one after another, on one cluster

Written by `PYTHONPATH=tests python tests/benchmarks/endurance.py` on {datetime.now(UTC):%Y-%m-%d}:
{platform.machine()}, {platform.system()}, Python {platform.python_version()}, {versions}, \
{last.seconds / 60:.0f} minutes.

Fits by all routes in turn, with weights, with states that are kept, and every twentieth a night of
a store that grows. Memory is resident bytes, looked at after every {samples[0].jobs} jobs; slopes
and their standard errors are of the second half.

What Dask keeps beside jobs is told apart. Without end, as long as a process lives: notes of each
span (a run is one, and so is each of its stages: they are on the dashboard), {notes["scheduler"]
.by_job / 1024:.1f} KiB a job on the scheduler and {notes["worker 0"].by_job / 1024:.1f} on a
worker, which are taken off. Up to an end, so that they are full or empty here: the tasks of its
dashboard (100,000 of 2 KiB; 1,000 here), names of tasks (100,000; none here), profiles of workers
(1,000 seconds, 100 to 190 MiB; 100 here, as on workers that `lrh` starts), and the pages of
performance reports until Python looks for cycles (66 MiB of the scheduler after 120 nights).

| process | at {first.jobs:,}, MiB | at {last.jobs:,}, MiB | KiB a job | open files | threads |
| --- | ---: | ---: | ---: | ---: | ---: |
{lines}

| left after | processes | temporary files | tasks | keys on workers | clients | Dask's notes, MiB |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
""" + "".join(
        f"| {s.jobs:,} jobs | {s.children} | {s.leftovers} | {s.tasks} | {s.keys} | {s.clients} | "
        f"{sum(s.notes.values()) / MIB:.2f} |\n" for s in (samples[0], first, last)) + f"""
![memory by job](endurance.svg)

{"Grew: " + "; ".join(found) if found else
f"Nothing else grew, by {ALLOWED_BYTES // 1024} KiB a job beyond three standard errors."}
"""


def _plot(samples: Sequence[Sample]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "lrh"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    jobs = [s.jobs for s in samples]
    half = jobs[len(jobs) // 2]
    for name, slope in slopes(samples).items():
        values = [s.memory[name] / MIB for s in samples]
        line, = axes.plot(jobs, values, lw=1.2, label=name)
        _line(axes, jobs, values, slope, line.get_color())
    axes.axvline(half, color="0.7", lw=0.8, ls=":")
    axes.set(xlabel="jobs done", ylabel="resident memory, MiB", ylim=(0, None), xlim=(0, jobs[-1]),
             title="Memory of each process; dashed: the slope of the second half")
    axes.legend(ncols=3, frameon=False, fontsize="small", loc="lower right")
    figure.savefig(PLOT, metadata={"Date": None})


def _line(axes: Any, jobs: Sequence[int], values: Sequence[float], slope: Slope,
          color: Any) -> None:
    half = len(jobs) // 2
    middle = sum(jobs[half:]) / len(jobs[half:])
    level = sum(values[half:]) / len(values[half:])
    ends = [jobs[half], jobs[-1]]
    axes.plot(ends, [level + slope.by_job / MIB * (x - middle) for x in ends], color=color,
              ls="--", lw=1)


if __name__ == "__main__":
    sys.exit(main())
