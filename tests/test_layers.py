"""Imports point up the list of packages only, and never in a circle."""

import ast
import importlib
import re
from graphlib import TopologicalSorter
from pathlib import Path

import lrh_dask

LAYERS = ["", "linalg", "statistics", "stores", "settings", "drift", "runs", "clusters", "reports",
          "nights", "cli"]
FORWARD = {("statistics.hessian", "stores.results")}  # `save` and `load` hand over when called
PACKAGE = Path(lrh_dask.__file__).parent
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts)
           for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}


def package_of(module):
    return module.rpartition(".")[0]


def imports(module):
    """Every name that is imported, also inside of functions; modules of this package by theirs."""
    path = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(module):
    """Modules of this package that one imports."""
    found = {name.removeprefix("lrh_dask.") for name in imports(module)}
    return {name for name in found & MODULES if (module, name) not in FORWARD}


def test_packages_are_told_in_the_order_of_their_layers():
    assert {package_of(module) for module in MODULES} == set(LAYERS)
    told = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \| (.+) \|$", told, re.MULTILINE) == [
        (name, importlib.import_module(f"lrh_dask.{name}").__doc__.strip()) for name in LAYERS[1:]]


def test_imports_point_up_only():
    depth = {name: i for i, name in enumerate(LAYERS)}
    wrong = [(module, other) for module in MODULES for other in ours(module)
             if depth[package_of(other)] > depth[package_of(module)]]
    assert wrong == []


def test_no_module_imports_what_imports_it():
    TopologicalSorter({module: ours(module) for module in MODULES}).prepare()


def test_the_mathematics_knows_neither_dask_nor_zarr():
    foreign = {"dask", "distributed", "zarr", "typer", "rich"}
    assert [(module, name) for module in MODULES for name in imports(module)
            if package_of(module) in {"linalg", "statistics", "drift"}
            and name.split(".")[0] in foreign] == []
