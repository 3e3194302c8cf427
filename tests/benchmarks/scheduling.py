"""What the scheduler, the network and the workers' memory pay for a run, on simulated clusters.

    PYTHONPATH=tests python tests/benchmarks/scheduling.py

writes ``scheduling.md`` beside this file, in about three minutes and 2 GB of memory. The formulas
of what is predicted stand in ``tests/fit_graph.py``.
"""

from __future__ import annotations

import gc
import logging
import platform
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from dask.utils import key_split
from fit_graph import BASIS, FitGraph, Predicted, Seconds
from simulated_cluster import Measured, simulate

PAGE = Path(__file__).with_suffix(".md")
SATURATION = 1.1
SECONDS = Seconds()


@dataclass(frozen=True)
class Case:
    """One column of the table."""

    n_workers: int
    n_leaves: int
    saturation: float | str = SATURATION
    seconds: Seconds = SECONDS
    note: str = ""

    def __str__(self) -> str:
        return f"{self.n_workers:,} × {self.n_leaves:,}{self.note}"


CASES = [
    Case(10, 10_000), Case(100, 10_000), Case(1_000, 10_000), Case(10, 100_000),
    Case(1_000, 100_000), Case(1_000, 100_000, "inf", note=", no queue"),
    Case(1_000, 25_000, seconds=Seconds(leaf=4 * SECONDS.leaf), note=" four times as long"),
]


def main() -> None:
    logging.getLogger("distributed").setLevel(logging.ERROR)
    gc.set_threshold(*(3 * n for n in gc.get_threshold()))  # as `dask scheduler` does
    found = []
    graphs: dict[int, FitGraph] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            graph = graphs.setdefault(case.n_leaves, FitGraph(Path(folder), case.n_leaves))
            predicted = Predicted.of(graph, case.n_workers, SATURATION, case.seconds)
            measured = simulate(graph, case.n_workers, saturation=case.saturation,
                                seconds=case.seconds)
            gc.collect()
            print(case, predicted, measured, sep="\n", flush=True)
            found.append((case, graph, predicted, measured))
    PAGE.write_text(page(found), encoding="utf-8")


def page(found: list[tuple[Case, FitGraph, Predicted, Measured]]) -> str:
    """The report."""
    rows = [_row(*column) for column in found]
    table = ["| " + " | ".join(["workers × leaves", *(str(case) for case, *_ in found)]) + " |",
             "| --- |" + " ---: |" * len(found)]
    table += ["| " + " | ".join([label, *(row[label] for row in rows)]) + " |"
              for label in rows[0]]
    graph = found[0][1]
    leaf = next(key for key in graph.tasks if key_split(key) == "lrh-fit")
    versions = ", ".join(f"{name} {version(name)}" for name in ("dask", "distributed"))
    return f"""# The scheduler's share: a simulated cluster

Written by `tests/benchmarks/scheduling.py` on {datetime.now(UTC):%Y-%m-%d}, Python \
{platform.python_version()}, {versions}.

The graph is that of the fit stage over a fitted basis, as a run hands it to its client; the \
scheduler is Dask's own, with work stealing, active memory manager and worker-saturation \
{SATURATION} (its defaults); the workers, of one thread each, and the clock are simulated, and \
nothing is computed ([simulated_cluster.py](../simulated_cluster.py); the formulas of what is \
predicted stand in [fit_graph.py](../fit_graph.py)). A cell reads *predicted → counted*. A result \
is what a task returns; one of a \
leaf holds one triangle, k = {graph.n_basis}, D = {graph.n_features:,}: \
{graph.prices[leaf].n_bytes:,} bytes; the root holds {graph.prices[graph.root].n_triangles}, \
{graph.prices[graph.root].n_bytes:,} bytes; the basis has {graph.prices[BASIS].n_bytes:,}. Leaves \
take {SECONDS.leaf} s ± {100 * SECONDS.spread:.0f} %, merges {SECONDS.merge} s, a message \
{SECONDS.message} s, a transfer {SECONDS.transfer} s and its bytes at \
{SECONDS.bandwidth / 1e6:.0f} MB/s.

{chr(10).join(table)}

Where counted and predicted differ: a merge that work stealing takes from a worker fetches inputs \
which the first worker held or had fetched already, so that on many workers a few results are \
moved twice. On few workers chance lets neighbours in the tree lie together, and fewer are moved. \
On one worker ten results lie at times, the inputs of two merges, what one returned, and one more: \
a worker on which a merge waits looks less busy than one with two leaves, and so gets the next \
merge, too. The bounds on live results are no guarantees: in two of some eighty runs of 8 to 50 \
workers they were passed, by up to a fifth. The clock does not count in its prediction that merges \
wait for the leaf that runs where they are to run.

The queue keeps leaves from flooding the workers and thereby hands neighbours to different \
workers: nearly every result is moved, once. Without it (worker-saturation `inf`) each worker gets \
consecutive leaves, and few results are moved, but several times as many are live.

CPU is of one core of the machine that wrote this, and other work ran beside it: good to a factor \
of two. The scheduler's CPU has three parts: its answers to workers, pickling these, and work \
stealing with the memory manager; reading from sockets comes on top. "Busy" is their sum over the \
virtual time. Workers are idle, beside what the table says, while the graph is submitted. \
`tests/test_scheduling.py` plays a small case on a real cluster, too, and finds the same.
"""


def _row(case: Case, graph: FitGraph, predicted: Predicted,
         measured: Measured) -> dict[str, str]:
    fewest, most = (len(graph.tasks) - len(graph.merges) + n for n in predicted.n_merges)
    queued = case.saturation == SATURATION
    cpu = measured.cpu_seconds + measured.packing_seconds + measured.housekeeping_seconds
    n = measured.n_tasks

    def live(bound: int, counted: int) -> str:
        return f"≤ {bound:,} → {counted:,}" if queued else f"{counted:,}"

    return {
        "tasks": f"{fewest:,} to {most:,} → {n:,}",
        "tree depth": f"{predicted.depth} → {graph.depth}",
        "results moved": f"{predicted.moved[0]:,} to {predicted.moved[1]:,} → {measured.moved:,}",
        "triangles moved": f"≤ {predicted.moved_triangles:,} → {measured.moved_triangles:,}",
        "GB moved, basis too":
            f"≤ {predicted.moved_bytes / 1e9:.2f} → {measured.moved_bytes / 1e9:.2f}",
        "most leaves out": f"{measured.leaves_out:,}",
        "live results, one worker": live(predicted.live_on_one, measured.live_on_one),
        "live MB, one worker": f"{measured.bytes_on_one / 1e6:.1f}",
        "live results, cluster": live(predicted.live, measured.live),
        "the same with copies": live(predicted.live_with_copies, measured.live_with_copies),
        "virtual seconds": f"{predicted.seconds:,.0f} → {measured.seconds:,.0f}",
        "workers idle": f"{100 * measured.idle:.1f} %",
        "tasks stolen": f"{measured.n_steals:,}",
        "client CPU to submit, s": f"{measured.client_seconds:.1f}",
        "scheduler CPU to submit, s": f"{measured.submit_seconds:.1f}",
        "scheduler CPU a task, ms": " + ".join(
            f"{1e3 * s / n:.2f}" for s in (measured.cpu_seconds, measured.packing_seconds,
                                           measured.housekeeping_seconds)),
        "scheduler busy": f"{100 * cpu / measured.seconds:.0f} %",
    }


if __name__ == "__main__":
    main()
