"""Imports point up the list of layers only."""

import ast
import re
from pathlib import Path

import lrh_dask

LAYERS = [
    {"errors", "source"}, {"remote", "locks"},
    {"asked", "arrays", "process", "progress", "metering", "signs"},
    {"reduced_pairs", "triangle", "duplicates", "row_gram"}, {"solve", "gathering"}, {"moments"},
    {"evidence", "interpolation", "psd", "low_rank", "biases"}, {"held_out", "scree", "sampling"},
    {"chance", "uncertainty", "grid"}, {"selection"}, {"verdicts"},
    {"certificates", "exact_pairs", "ranks"}, {"fitting", "units"}, {"hessian"},
    {"matching", "explained"}, {"overlaps"}, {"drift"}, {"drift_words"},
    {"alert_settings", "windows"}, {"alerts"}, {"chunks", "checks", "manifest"},
    {"blocks", "streaming", "stored_chunks", "snapshots", "targets", "cluster_settings"},
    {"pairs", "config"}, {"opening"}, {"incoming"}, {"local_stores"}, {"writing"}, {"commits"},
    {"appending"}, {"pair_writer"}, {"results", "inspection", "digests", "catalog", "underway"},
    {"webhook"}, {"shards", "tree"}, {"memory", "segments", "packing"}, {"budget"},
    {"refusals", "spec", "probes", "findings"}, {"basis"}, {"leaves", "states"}, {"tasks"},
    {"graph"}, {"rounds", "by_features", "ledger"},
    {"dashboard", "versions", "lost_workers", "cluster_kinds", "running_cluster"},
    {"worker_checks", "port_checks", "store_checks"}, {"pipeline", "cluster", "figures", "rivals"},
    {"report", "screen", "demo", "synthetic", "doctor"}, {"comparison", "night_page"},
    {"night_figure"}, {"drift_screen", "night_report"}, {"nights", "submitting", "runs_screen"},
    {"agenda"}, {"publishing"}, {"every_night"}, {"jobs", "bench", "options"},
    {"cli_pairs", "cli_diff", "cli_runs", "cli_doctor"}, {"cli"}, {"__main__"},
]
MATHEMATICS = {"asked", "reduced_pairs", "triangle", "solve", "evidence", "interpolation", "psd",
               "held_out", "grid", "selection", "scree", "uncertainty", "certificates",
               "exact_pairs", "ranks", "signs", "units", "fitting", "hessian", "duplicates",
               "verdicts", "chance", "low_rank", "moments", "biases", "sampling", "row_gram",
               "gathering", "matching", "overlaps", "drift", "drift_words",
               "explained"}
FORWARD = {("hessian", "results")}  # `save` and `load` hand over when they are called
PACKAGE = Path(lrh_dask.__file__).parent


def imports(module):
    """(layer name, imported name) of every import, those inside functions included."""
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "lrh_dask":
                yield from (f"lrh_dask.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_every_module_has_a_layer():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == set().union(*LAYERS)
    listed = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = [line for line in listed.splitlines() if line.startswith("| ")]
    assert sorted(re.findall(r"`(\w+)`", "".join(table))) == sorted(modules)


def test_imports_point_up_only():
    depth = {module: i for i, layer in enumerate(LAYERS) for module in layer}
    wrong = []
    for module in depth:
        for name in imports(module):
            other = name.removeprefix("lrh_dask.")
            if (name.startswith("lrh_dask.") and other in depth and depth[other] >= depth[module]
                    and (module, other) not in FORWARD):
                wrong.append((module, other))
    assert wrong == []


def test_the_mathematics_knows_neither_dask_nor_zarr():
    foreign = {"dask", "distributed", "zarr", "typer", "rich"}
    assert [(m, n) for m in MATHEMATICS for n in imports(m) if n.split(".")[0] in foreign] == []
