"""How fast a run is, beside merely reading and beside what one would write by hand.

    python tests/benchmarks/speed.py FOLDER [SECTION ...]

writes ``speed.md`` and ``speed.svg`` beside this file: all sections, in about an hour and 60 GB of
FOLDER on two cores, or those named (what was measured before is kept in FOLDER/measured.json).
Every figure is a ratio within one run: programs are run in turn.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import zarr
from dask.utils import key_split

from lrh_dask import fit, open_pairs
from lrh_dask.cli.bench import FLOOR, OURS, compare, drop_pages, programs
from lrh_dask.clusters.cluster import connect
from lrh_dask.linalg.gathering import Gathering, padded
from lrh_dask.reports import rivals
from lrh_dask.runs.leaves import hashes_of, streamed
from lrh_dask.runs.memory import CACHED_BYTES
from lrh_dask.runs.pipeline import price
from lrh_dask.runs.process import peak_bytes
from lrh_dask.runs.shards import Piece, RunOfShards
from lrh_dask.settings.cluster_settings import ClusterSettings
from lrh_dask.stores.blocks import Block
from lrh_dask.stores.pairs import Pairs
from lrh_dask.stores.synthetic import Known, write_known
from lrh_dask.stores.writing import pairs_group

PAGE = Path(__file__).with_suffix(".md")
PLOT = Path(__file__).with_suffix(".svg")
ROUNDS = 5
RANK = 16
MIB = 2**20


# What a section needs: a store, a cluster of two single-threaded workers, programs in turn.

def store(folder: Path, n: int, d: int, **settings: Any) -> str:
    """A store of n pairs over d features, written once."""
    name = "-".join(str(part) for part in (n, d, *(v for v in settings.values())))
    path = folder / f"{name.replace(' ', '')}.zarr"
    if not path.exists():
        print(f"  writing {path.name}", flush=True)
        write_known(path, n, Known.indefinite(d, RANK), **settings)
    return str(path)


@contextlib.contextmanager
def cluster() -> Iterator[Any]:
    with connect(ClusterSettings(workers=2, threads_per_worker=1)) as client:
        client.run(_imported)
        yield client


def _imported() -> None:
    import_module("lrh_dask.runs.tasks")


def in_turn(what: dict[str, Callable[[], Any]], d: int, rounds: int = ROUNDS,
            before: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    """Programs in turn; the first is what the others are measured by."""
    found = compare(what, Known.indefinite(d, RANK), rounds=rounds, before=before,
                    on_run=lambda name, seconds: print(f"    {name}: {seconds:.2f}", flush=True))
    first = next(iter(found.values()))
    return [{"program": name, "seconds": m.seconds, "ratio": m.ratio_to(first).tolist(),
             "error": m.error_or_none} for name, m in found.items()]


def floor_and_ours(path: str, client: Any, **settings: Any) -> dict[str, Callable[[], Any]]:
    return {FLOOR: lambda: rivals.read_floor(path, client),
            OURS: lambda: fit(open_pairs(path), **settings).eigenvalues}


STREAMED = "read as lrh does, and summed"


def streamed_floor(path: str, client: Any) -> float:
    """The lowest floor: slabs read as a run reads them, and nothing but a sum."""
    _, split = price(open_pairs(path), rank=None, method="symmetric")
    return float(sum(client.gather(client.map(_sum_slabs, split.runs, store=path, pure=False))))


def _sum_slabs(run: RunOfShards, store: str) -> float:
    return sum(float(x.sum()) + float(y.sum()) for x, y in slabs_read(open_pairs(store), run))


def slabs_read(pairs: Pairs, run: RunOfShards) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """x and y of a run slab by slab, with their checksums and no other check."""
    x_stream, y_stream = pairs.streams()
    with x_stream as x_rows, y_stream as y_rows:
        for block in run.blocks:
            for part in run.slabs(*block, CACHED_BYTES // pairs.row_bytes):
                yield x_rows.read(part.start, part.stop), y_rows.read(part.start, part.stop)


def started_from_the_shell(folder: Path) -> float:
    """Seconds of `lrh run` beside the fit: imports, cluster, writing the result and its page."""
    path, out = store(folder, 10_000, 1024), folder / "result.zarr"
    lrh = Path(sys.executable).parent / "lrh"
    begin = time.perf_counter()
    told = subprocess.run([lrh, "run", path, "--workers", "2", "--basis", "64", "--json",
                           "--out", out, "--overwrite"], check=True, capture_output=True)
    return time.perf_counter() - begin - json.loads(told.stdout)["seconds"]["total"]


# The sections.

def job(folder: Path) -> dict[str, Any]:
    """n = 1,000,000, D = 1,024, warm pages: all programs"""
    path = store(folder, 1_000_000, 1024)
    started = float(np.median([started_from_the_shell(folder) for _ in range(ROUNDS)]))
    with cluster() as client:
        what = programs(path, RANK, client)
        rows = in_turn({FLOOR: what.pop(FLOOR), STREAMED: lambda: streamed_floor(path, client),
                        **what}, 1024)
        last = fit(open_pairs(path)).provenance
    return {"rows": rows, "start_seconds": started, "stages": last["seconds"],
            "bytes": last["bytes"]}


def cold(folder: Path) -> dict[str, Any]:
    """n = 1,000,000, D = 1,024, pages dropped before every run"""
    path = store(folder, 1_000_000, 1024)
    with cluster() as client:
        what = floor_and_ours(path, client)
        what[STREAMED] = lambda: streamed_floor(path, client)
        return {"rows": in_turn(what, 1024, before=lambda: drop_pages(path))}


def other_data(folder: Path) -> dict[str, Any]:
    """n = 300,000, D = 1,024, warm pages: a spectrum 1/i that does not end; compressed chunks"""
    rows = []
    with cluster() as client:
        for title, path in (
                ("rank 16, as above", store(folder, 300_000, 1024)),
                ("eigenvalues ± 1/i, i = 1 ... 512", long_tail(folder, 300_000, 1024)),
                ("rank 16, zstd (Zarr's default)", compressed(store(folder, 300_000, 1024)))):
            found = in_turn(floor_and_ours(path, client), 1024)
            last = fit(open_pairs(path))
            rows += [{"store": title if one["program"] == FLOOR else "", **one,
                      "columns": "" if one["program"] == FLOOR else last.certificates.n_basis,
                      "error": None} for one in found]
    return {"rows": rows}


def long_tail(folder: Path, n: int, d: int) -> str:
    path = folder / f"{n}-{d}-tail.zarr"
    if not path.exists():
        vectors = np.linalg.qr(np.random.default_rng(0).standard_normal((d, 512)))[0]
        index = 1.0 + np.arange(512)
        write_known(path, n, Known((-1.0) ** index / index, vectors))
    return str(path)


def compressed(path: str) -> str:
    """The same pairs as Zarr writes them where nothing is said of codecs."""
    other = path.replace(".zarr", "-zstd.zarr")
    if not Path(other).exists():
        old, new = rivals.open_group(path), zarr.open_group(other, mode="w")
        for name in ("x", "y"):
            array = new.create_array(name, shape=old[name].shape, dtype=old[name].dtype,
                                     chunks=old[name].chunks)
            height = old[name].chunks[0]
            for row in range(0, old[name].shape[0], height):
                array[row:row + height] = old[name][row:row + height]
    return other


def small_d(folder: Path) -> dict[str, Any]:
    """n = 1,000,000, D = 256, warm pages: all of R^D, and a fitted basis"""
    path = store(folder, 1_000_000, 256)
    with cluster() as client:
        every = programs(path, RANK, client)
        what = {name: every[name] for name in (FLOOR, OURS)}
        what["lrh, basis=32"] = lambda: fit(open_pairs(path), basis=32).eigenvalues
        what["NumPy normal equations"] = every["NumPy normal equations"]
        return {"rows": in_turn(what, 256)}


def memory(folder: Path) -> dict[str, Any]:
    """Peak memory of a worker, idle before, and what the plan had said, in MiB

    The plan says two figures: what it takes where the spectrum of y ends within the columns that a
    basis looks for at first, as here, and at most, which is what a memory limit is held against.
    """
    rows = []
    for n, d, settings in ((100_000, 1024, {}), (1_000_000, 1024, {}), (1_000_000, 256, {}),
                           (1_000_000, 256, {"basis": 32}), (20_000, 4096, {}),
                           (40_000, 512, {"dtype": "float64"})):
        asked: dict[str, Any] = {"basis": settings["basis"]} if "basis" in settings else {}
        stored = {key: value for key, value in settings.items() if key not in asked}
        pairs = open_pairs(store(folder, n, d, **stored))
        with cluster() as client:
            idle = max(client.run(_idle).values())
            plan, _ = price(pairs, rank=None, method="symmetric", client=client, **asked)
            hessian = fit(pairs, **asked)
            peak = max(client.run(peak_bytes).values())
        rows.append({"n": n, "D": d, "dtype": str(pairs.dtype), **asked,
                     "route": hessian.provenance["route"], "idle": idle / MIB,
                     "above idle": (peak - idle) / MIB, "peak": peak / MIB,
                     "plan": plan.usual_worker_bytes / MIB,
                     "plan / peak": plan.usual_worker_bytes / peak,
                     "plan, at most": plan.peak_worker_bytes / MIB})
        print("   ", rows[-1], flush=True)
    return {"rows": rows}


def _idle() -> int:
    """Resident bytes now; the peak is counted from here."""
    import gc

    import psutil

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return int(psutil.Process().memory_info().rss)


def growth(folder: Path) -> dict[str, Any]:
    """Seconds against n (D = 256, all of R^D; D = 1,024, basis=64) and against D (n = 100,000)

    Seconds that workers spent in tasks, by stage: `basis` finds a basis from all pairs where
    there are few and from as many as it needs else (`budget.MANY_PAIRS`), `pass` goes over all
    pairs (leaves and their merges; where a bucket has fewer rows than the triangle has columns
    they are kept, and multiplied in the solve), `solve` is the last task, `tasks` all of them,
    `wall` the whole run, `ns a number` what all tasks come to by 2 n D stored numbers. To each
    a + b n^p is fitted, what is fixed and what grows, of least squared relative error; *p alone* is
    the slope of the logarithms, nothing being fixed. It is the pass that grows with n: the basis
    needs about D √n pairs at most (against D it grows twice, therefore, until it has all of them),
    and the solve depends on columns and buckets alone. `tasks` and `wall` mix the three.
    """
    found: dict[str, Any] = {}
    sizes = [10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000]
    with cluster() as client:
        client.get_task_stream()  # from its first call on tasks are kept
        for name, shapes, asked in (
                ("n, D = 256", [(n, 256) for n in sizes], {}),
                ("n, D = 1,024", [(n, 1024) for n in sizes], {"basis": 64}),
                ("D, n = 100,000", [(100_000, d) for d in (256, 512, 1024, 2048, 4096, 8192)],
                 {"basis": 64})):
            what = {(n, d): floor_and_ours(store(folder, n, d), client, **asked)
                    for n, d in shapes}
            measured: dict[tuple[int, int], list[dict[str, float]]] = {s: [] for s in shapes}
            for turn in range(ROUNDS + 1):  # all sizes in each: the machine's speed may change
                for shape in shapes:
                    begin = time.perf_counter()
                    what[shape][FLOOR]()
                    middle, started = time.perf_counter(), time.time()
                    what[shape][OURS]()
                    end = time.perf_counter()
                    if turn:
                        measured[shape].append({"floor": middle - begin, "wall": end - middle,
                                                **_task_seconds(client, started)})
            rows = [{"n": n, "D": d} | {stage: float(np.median([one[stage] for one in turns]))
                                        for stage in turns[0]}
                    for (n, d), turns in measured.items()]
            for row in rows:
                row["ns a number"] = 1e9 * row["tasks"] / (2 * row["n"] * row["D"])
            print(*rows, sep="\n", flush=True)
            sizes_of = np.array([row["D" if name.startswith("D") else "n"] for row in rows], float)
            found[name] = {"rows": rows, "grows": {
                what: growth_of(sizes_of, np.array([r[what] for r in rows]))
                for what in ("floor", "pass", "tasks", "wall")}}
    return found


def growth_of(sizes: np.ndarray, seconds: np.ndarray) -> dict[str, float]:
    """a, b and p of seconds ~ a + b (size / largest)^p with a, b >= 0, and p where a = 0."""
    from scipy.optimize import nnls  # here, as workers import this file: they are to be idle

    def fitted(p: float) -> tuple[float, np.ndarray]:
        columns = np.stack([np.ones_like(sizes), (sizes / sizes.max()) ** p], axis=1)
        parts, error = nnls(columns / seconds[:, None], np.ones_like(seconds))
        return error, parts

    p = min(np.arange(0.5, 1.501, 0.01), key=lambda p: fitted(p)[0])
    error, (fixed, growing) = fitted(p)
    alone = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    return {"fixed": fixed, "growing": growing, "exponent": float(p), "alone": alone,
            "error": error / np.sqrt(len(sizes))}


def _task_seconds(client: Any, begin: float) -> dict[str, float]:
    """What workers spent since a time of day, by stage: merges belong to the leaves before them.

    A basis that goes on after a first fit (which these stores do not need) would count as pass.
    """
    spent = {"basis": 0.0, "pass": 0.0, "solve": 0.0}
    stage = "basis"
    steps = sorted((step["start"], step["stop"], task["key"])
                   for task in client.get_task_stream(start=begin)
                   for step in task["startstops"] if step["action"] == "compute")
    for start, stop, key in steps:
        if key_split(key) == "lrh-fit":
            stage = "pass"
        if key_split(key).startswith("lrh-"):
            spent["solve" if key_split(key) == "lrh-solve" else stage] += stop - start
    return {**spent, "tasks": sum(spent.values())}


def small_chunks(folder: Path) -> dict[str, Any]:
    """100,000 chunks of 10 rows of x (as many of y) beside the same rows in chunks of 16 MiB"""
    rows = []
    n, d = 1_000_000, 64
    usual = store(folder, n, d)
    small = in_small_chunks(usual, 10)
    with cluster():
        for turn in range(ROUNDS + 1):
            seconds = {}
            for name, path in (("small", small), ("usual", usual)):
                begin = time.perf_counter()
                fit(open_pairs(path))
                seconds[name] = time.perf_counter() - begin
            print("   ", seconds, flush=True)
            if turn:
                rows.append({**seconds, "ms a chunk":
                             1000 * (seconds["small"] - seconds["usual"]) / 100_000})
    return {"rows": rows}


def in_small_chunks(path: str, height: int) -> str:
    """The same pairs in chunks of few rows; not brought to the disk file by file."""
    small = path.replace(".zarr", f"-{height}.zarr")
    if not Path(small).exists():
        old = rivals.open_group(path)
        n, d = old["x"].shape
        with patch("lrh_dask.stores.aside._sync_tree", lambda _: None), pairs_group(
                small, (n, d), old["x"].dtype, chunks=(height, d)) as group:
            for row in range(0, n, 1000 * height):
                for name in ("x", "y"):
                    group[name][row:row + 1000 * height] = old[name][row:row + 1000 * height]
    return small


def large(folder: Path) -> dict[str, Any]:
    """n = 10,000,000, D = 256 (20 GB), pages dropped before every run"""
    path = store(folder, 10_000_000, 256)
    with cluster() as client:
        what = floor_and_ours(path, client)
        what["lrh, basis=256 (all of R^D)"] = lambda: fit(open_pairs(path), basis=256).eigenvalues
        rows = in_turn(what, 256, before=lambda: drop_pages(path))
    shutil.rmtree(path)
    return {"rows": rows}


def wide(folder: Path) -> dict[str, Any]:
    """n = 200, D = 10,000,000, rank=32 asked (16 GB), pages dropped before every run"""
    path = store(folder, 200, 10_000_000, chunks=(100, 40_000))
    pairs = open_pairs(path)
    with cluster() as client:  # of its own, as the floor's arrays would count as ours
        idle = max(client.run(_idle).values())
        plan, _ = price(pairs, rank=32, method="symmetric", client=client)
        drop_pages(path)
        stages = fit(pairs, rank=32).provenance["seconds"]
        peak = max(client.run(peak_bytes).values())
    with cluster() as client:
        rows = in_turn({FLOOR: lambda: _floor_by_features(path, client),
                        OURS: lambda: fit(pairs, rank=32).eigenvalues}, 10_000_000,
                       before=lambda: drop_pages(path))
    shutil.rmtree(path)
    return {"rows": rows, "idle": idle / MIB, "peak": peak / MIB,
            "plan": plan.usual_worker_bytes / MIB, "stages": stages}


def _floor_by_features(path: str, client: Any) -> float:
    starts = range(0, 10_000_000, 200_000)
    return float(sum(client.gather([
        client.submit(_sum_columns, path, a, a + 200_000, pure=False) for a in starts])))


def _sum_columns(path: str, start: int, stop: int) -> float:
    group = rivals.open_group(path)
    return sum(float(group[name][:, a:a + 40_000].sum())
               for a in range(start, stop, 40_000) for name in ("x", "y"))


def parts(folder: Path) -> dict[str, Any]:
    """Where the time of a leaf goes: a block of 4,096 pairs (32 MiB), one thread, 30 columns

    Every line does what those above it do, and more, slab by slab; *more* is by how much.
    """
    pairs = open_pairs(store(folder, 1_000_000, 1024))
    q = padded(np.linalg.qr(np.random.default_rng(0).standard_normal((1024, 30)))[0].astype("f4"))
    run = RunOfShards(0, ((0, 4096),), (Piece(0, 4096, 0),))
    group, rows = rivals.open_group(pairs.name), CACHED_BYTES // pairs.row_bytes

    def checked(*more: Callable[[Block], Any]) -> None:
        for slab, _ in streamed(pairs, run, rows):
            for step in more:
                step(slab)

    def gathered() -> None:
        gathering = Gathering(q, 30)
        checked(hashed, lambda slab: gathering.add(
            slab.x, slab.y, None, (slab.x_squares, slab.y_squares)))
        gathering.state()

    def hashed(slab: Block) -> None:
        hashes_of(slab, 1_000_000)

    steps = {
        "Zarr reads x and y, and sums them (the floor)": lambda: [
            float(np.asarray(group[name][0:4096]).sum()) for name in ("x", "y")],
        f"slabs of {CACHED_BYTES // MIB} MiB are read, with checksums": lambda: [
            None for _ in slabs_read(pairs, run)],
        "- squared lengths, checks": checked,
        "- hashes of a sample of rows": lambda: checked(hashed),
        "- projections xQ and yQ": lambda: checked(
            hashed, lambda slab: (slab.x @ q, slab.y @ q)),
        "- sums of x and y, products in float64: all": gathered,
    }
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(15):
            for name, step in steps.items():
                begin = time.perf_counter()
                step()
                times[name].append(1000 * (time.perf_counter() - begin))
    ms = {name: float(np.median(found)) for name, found in times.items()}
    more = ["", "", *np.diff(list(ms.values()))[1:]]
    return {"rows": [{"step": name, "ms": ms[name], "more": extra}
                     for name, extra in zip(steps, more, strict=True)]}


SECTIONS = {f.__name__: f for f in (job, cold, small_d, other_data, memory, growth, small_chunks,
                                    large, wide, parts)}


# The page.

def table(rows: list[dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "| --- |" + " ---: |" * (len(names) - 1)]
    for row in rows:
        cells = [row.get(name, "") for name in names]
        lines.append("| " + " | ".join(
            f"{cell:,.3g}" if isinstance(cell, float) and cell < 100 else
            f"{cell:,.0f}" if isinstance(cell, (int, float)) else str(cell)
            for cell in cells) + " |")
    return lines


def in_turn_table(rows: list[dict[str, Any]]) -> list[str]:
    def spread(values: list[float]) -> str:
        return f"{np.median(values):.2f} ({min(values):.2f} – {max(values):.2f})"

    return table([{
        **({"store": row["store"], "columns": row["columns"]} if "store" in row else {}),
        "program": row["program"], "seconds": spread(row["seconds"]),
        "times the floor": spread(row["ratio"]),
        "error of eigenvalues": "" if row["error"] is None else f"{row['error']:.2g}",
    } for row in rows])


def page(found: dict[str, Any]) -> str:
    lines = [
        "# Speed", "",
        "Written by `tests/benchmarks/speed.py`. Two single-threaded workers on two cores, "
        "float32, rank 16, 5 % noise, chunks of 16 MiB with crc32c; the store is on the machine's "
        "disk. The *read floor* is the time in which the same workers read every chunk of x and y "
        "through Zarr and sum it. Medians of alternating rounds (least – most in brackets); the "
        "error is the root mean square relative error of the 16 "
        "eigenvalues.", ""]
    for name, section in SECTIONS.items():
        if name not in found:
            continue
        part = found[name]
        title, *more = (section.__doc__ or "").strip().split("\n\n")
        said = [" ".join(paragraph.split()) for paragraph in more]
        lines += [f"## {title}", "", f"*{part['about']}*", "",
                  *(line for one in said for line in (one, ""))]
        if name == "growth":
            for title, one in part.items():
                if title == "about":
                    continue
                lines += [f"Against {title}: " + "; ".join(
                    f"{what} {g['fixed']:.2g} s + {g['growing']:.3g} s × (size / largest) to the "
                    f"power of {g['exponent']:.2f} (± {100 * g['error']:.0f} %; p alone "
                    f"{g['alone']:.2f})"
                    for what, g in one["grows"].items()), "", *table(one["rows"]), ""]
            lines += ["![seconds against n](speed.svg)", ""]
        elif "ratio" in part["rows"][0]:
            lines += [*in_turn_table(part["rows"]), "",
                      f"{len(part['rows'][0]['seconds'])} rounds.", ""]
        else:
            lines += [*table(part["rows"]), ""]
        if "start_seconds" in part:
            lines += [f"`lrh run` beside the fit (imports, cluster, writing the result): "
                      f"{part['start_seconds']:.1f} s (not in the table).", ""]
        if "stages" in part:
            lines += ["Stages of a run, seconds: " + ", ".join(
                f"{k} {v:.2f}" for k, v in part["stages"].items())
                + " (`read` is the sum over workers).", ""]
        if "plan" in part:
            lines += [f"A worker: idle {part['idle']:.0f} MiB, peak {part['peak']:.0f} MiB, "
                      f"plan {part['plan']:.0f} MiB.", ""]
    return "\n".join(lines)


def draw(found: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "lrh"
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
    for panel, title in zip(panels, ("n, D = 256", "n, D = 1,024"), strict=True):
        rows = found["growth"][title]["rows"]
        n = [row["n"] for row in rows]
        for what, label, style in (("floor", "read floor", "--"), ("wall", "lrh", "-"),
                                   ("pass", "lrh, tasks of the pass", ":")):
            panel.loglog(n, [row[what] for row in rows], style, marker="o", label=label)
        panel.set_title(title.removeprefix("n, "))
        panel.set_xlabel("pairs n")
        panel.grid(visible=True, which="both", alpha=0.3)
    panels[0].set_ylabel("seconds")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    kept = folder / "measured.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], check=True, text=True,
                            cwd=PAGE.parent, capture_output=True).stdout.strip()
    for name in sys.argv[2:] or SECTIONS:
        print(name, flush=True)
        found[name] = SECTIONS[name](folder)
        packages = ", ".join(f"{p} {version(p)}" for p in ("numpy", "zarr", "dask", "distributed"))
        found[name]["about"] = (f"{datetime.now(UTC):%Y-%m-%d}, {commit}, {os.cpu_count()} cores, "
                                f"Python {platform.python_version()}, {packages}")
        kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    PAGE.write_text(page(found) + "\n", encoding="utf-8")
    if "growth" in found:
        draw(found)


if __name__ == "__main__":
    main()
