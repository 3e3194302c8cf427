"""Inputs for everything that reads a file, and what each reader may come to.

An input is a kind and a number, which choose a file of a valid folder and what becomes of it. Its
reader works, or says what is wrong (:class:`LrhError`). Anything else is a defect: another error,
code that is run, a file outside of the folder, ten seconds, half a gigabyte.

``PYTHONPATH=tests python tests/fuzz_inputs.py KIND NUMBER`` plays one again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
import zarr
from mutations import changed_bytes, changed_json, changed_npz, changed_text, changed_yaml
from watched import Forbidden, watched

import lrh_dask
from lrh_dask.cli.app import main
from lrh_dask.drift.alerts import AlertsRaised
from lrh_dask.errors import LrhError
from lrh_dask.nights import every_night, publishing, totals
from lrh_dask.nights.owed import Owed
from lrh_dask.nights.publishing import changed_settings
from lrh_dask.nights.states import StoredStates
from lrh_dask.nights.totals import total_of
from lrh_dask.nights.underway import forget_old, statuses
from lrh_dask.reports.comparison import StoredRun, compare_runs
from lrh_dask.runs.begun import Begun
from lrh_dask.runs.packing import partial_of
from lrh_dask.runs.pipeline import price
from lrh_dask.runs.state_files import _digest as digest_of_attributes
from lrh_dask.runs.state_files import read_group
from lrh_dask.settings.config import NightlySettings, RunSettings, settings_of
from lrh_dask.stores.appending import append
from lrh_dask.stores.catalog import Catalog
from lrh_dask.stores.counted import CountedRows
from lrh_dask.stores.documents import MALFORMED
from lrh_dask.stores.incoming import incoming_from
from lrh_dask.stores.inspection import inspect_pairs
from lrh_dask.stores.manifest import Stamp
from lrh_dask.stores.opening import open_pairs
from lrh_dask.stores.results import load_result, summary
from lrh_dask.stores.tokens import RowTokens

D, N = 8, 60
BEYOND = (10**5, 10**7, 10**9, 10**12, 10**15, 2**62, 2**63 - 1, 2**63, 10**30)
MEMORY = 2**29
"""Bytes that an input may take beyond four times its own: as such, as text and as what it says."""
LONGEST = 4000
"""Characters of a message: more is no message."""
IN_MEMORY = Path("/dev/shm")
CONFIGS = Path(__file__).parent.parent / "configs"


def pairs(n, seed=0):
    """x, y (n, D) of a Hessian that is the same each time."""
    symmetric = np.random.default_rng(0).standard_normal((D, D))
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, D))
    return x, x @ (symmetric + symmetric.T) + 0.1 * rng.standard_normal((n, D))


def make_home(home):
    """A folder with a valid file of every kind."""
    x, y = pairs(N)
    for i in range(2):
        lrh_dask.append_pairs(home / "plain.zarr", *pairs(N, i), np.ones(N), label=f"r{i}")
    for name, zarr_format, how in (
            ("v2", 2, {}), ("packed", 3, {}), ("sharded", 3, {"shards": (20, D)}),
            ("bare", 3, {"compressors": None})):
        group = zarr.open_group(home / f"{name}.zarr", mode="w", zarr_format=zarr_format)
        for label, rows in (("x", x), ("y", y)):
            group.create_array(label, data=rows, chunks=(10, D), **how)
        group.create_array("weight", data=np.ones(N), chunks=(10,))
    np.savez(home / "new.npz", x=x[:5], y=y[:5], weight=np.ones(5))
    for route, basis in (("all", "auto"), ("fitted", 4)):
        night = home / f"{route}.yaml"
        night.write_text(f"store: {home}/{route}.zarr\nruns: {home}/{route}\nbasis: {basis}\n"
                         "alerts: {stale_after: 900d}\n", encoding="utf-8")
        for i in range(3 if route == "all" else 2):  # as many as make a total
            lrh_dask.append_pairs(home / f"{route}.zarr", *pairs(20 if i else N, i), label=f"r{i}")
            every_night.nightly(night)
        Owed(home / route).stale_again("2026-01-01T00:00:00Z")
        if route == "all":
            assert list((home / route).glob("states/*/*/total.zarr"))
    shutil.copytree(next((home / "all").glob("2*/result.zarr")), home / "result.zarr")
    states = home / "kept.states"
    found = open_pairs(home / "plain.zarr")
    with contextlib.suppress(KeyboardInterrupt):
        lrh_dask.fit(found, states=states, on_event=_interrupt)
    Begun.of(found, RowTokens(found)).note(states)
    assert list(states.glob("*.zip"))
    for path in CONFIGS.glob("*.yaml"):
        text = yaml.safe_dump(yaml.safe_load(path.read_text(encoding="utf-8")))
        (home / path.name).write_text(text, encoding="utf-8")  # without comments: they cost time


def _interrupt(event):
    if event.stage == "solve":
        raise KeyboardInterrupt


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        files: patterns of those that may be changed.
        read: everything that reads them, given the folder, the file and what draws lots.
        change: of a file's content.
        share: of all inputs, in relation to others.
        whole: folders in which the reader may change other files, which are restored, too.
    """

    files: tuple[str, ...]
    read: Callable[[Path, Path, random.Random], object]
    change: Callable[[random.Random, bytes], bytes] = changed_json
    share: int = 10
    whole: str = ""


def of_metadata(rng, content):
    """Of a group of states the digest is mended half of the time, else nothing more is read."""
    content = changed_json(rng, content)
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        document = json.loads(content)
        known = {k: v for k, v in document["attributes"].items() if k != "digest"}
        if "lrh_dask_states" in known and rng.random() < 0.7:
            document["attributes"]["digest"] = digest_of_attributes(known)
            return json.dumps(document).encode()
    return content


def of_kept(rng, content):
    """A kept state whose metadata are others, packed again half of the time."""
    if rng.random() < 0.5:
        return changed_bytes(rng, content)
    found = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(found, "w") as after:
        names = before.namelist()
        chosen = rng.choice([name for name in names if name.endswith("zarr.json")])
        for name in dict.fromkeys(names):
            part = before.read(name)
            after.writestr(name, of_metadata(rng, part) if name == chosen else part)
    return found.getvalue()


def _settings(home, path, rng):
    of_nights = path.stem in {"nightly", *FOLDERS}
    kind = NightlySettings if of_nights != (rng.random() < 0.1) else RunSettings
    settings = settings_of(kind, str(path), {}, {})
    settings.model_dump()
    if kind is RunSettings:
        return settings.states_path
    return Path(settings.runs).resolve()


def _shapes(home, path, rng):
    """x, y and weight all say that there are more rows than anybody has, and agree."""
    rows, chunk = rng.choice(BEYOND), rng.choice((None, 1, 10, *BEYOND))
    columns = rng.choice((D, D, D, 1, 10**6))
    for label in ("x", "y", "weight"):
        file = next(path.parent.glob(f"{label}/*z*arr*"))
        known = json.loads(file.read_bytes())
        known["shape"][0] = rows
        grid = known.get("chunk_grid", {}).get("configuration", known)
        chunks = grid["chunks" if "chunks" in grid else "chunk_shape"]
        chunks[0] = chunk or chunks[0]
        if label != "weight":
            known["shape"][1] = columns
            chunks[1] = rng.choice((chunks[1], columns))
        file.write_text(json.dumps(known))
    _store(home, path, rng)


def _store(home, path, rng):
    store = home / path.relative_to(home).parts[0]
    found = open_pairs(store)
    found.notices(), found.fingerprint(), found.has_checksums()
    if rng.random() < 0.5:
        inspect_pairs(found, every_row=rng.random() < 0.5)
    if rng.random() < 0.5:
        price(found, rank=None, method="symmetric")
    if rng.random() < 0.2:
        RowTokens(found).lasting([(0, found.n_pairs)])
        incoming = incoming_from(str(store))
        incoming.refuse_unfit()
    if rng.random() < 0.02:
        lrh_dask.fit(found)


def _result(home, path, rng):
    found = load_result(home / "result.zarr")
    json.dumps(summary(found, path))
    found @ np.ones(found.n_features)
    if rng.random() < 0.3:
        before = StoredRun.load(next((home / "all").glob("2*")))
        json.dumps(compare_runs(before, StoredRun.load(home / "result.zarr")).document())


def _catalog(home, path, rng):
    runs = home / path.relative_to(home).parts[0]
    catalog = Catalog(runs)
    order = [catalog.damaged, catalog.runs]
    rng.shuffle(order)
    for read in order:
        read()
    settings = settings_of(NightlySettings, str(runs.with_suffix(".yaml")), {}, {})
    counted = []
    for run in catalog.runs():
        assert (runs / run.run / "run.json").is_file(), run
        changed_settings(runs / run.run, settings)
        counted.append(CountedRows.of(runs / run.run))
    known = [one for one in counted if one is not None]
    for one, other in zip(known, known[1:], strict=False):
        one.n_shared(other)
    Owed(runs).stale_again("2026-01-01")
    Owed(runs).settle()


def _status(home, path, rng):
    runs = home / path.relative_to(home).parts[0]
    for one in statuses(runs):
        assert (runs / "jobs" / one.run / "status.json").is_file(), one
    forget_old(runs)


def _states(home, path, rng):
    runs = home / path.relative_to(home).parts[0]
    settings = settings_of(NightlySettings, str(runs.with_suffix(".yaml")), {}, {})
    states = StoredStates(runs / "states", every_night.lineage_of(
        settings, open_pairs(settings.store)))
    states.put_in_order()
    stored, _ = states.segments()
    states.tokens()
    assert states.n_bytes >= 0
    if stored:
        with contextlib.suppress(ValueError):  # as the night that reads them does
            total_of(states, stored, keep=True)
    with contextlib.suppress(ValueError):
        states.basis()


def _kept(home, path, rng):
    if path.suffix == ".zip":
        with contextlib.suppress(*MALFORMED):
            attributes, arrays = read_group(path)
            partial_of(attributes["part"], arrays)
    found = open_pairs(home / "plain.zarr")
    begun = Begun.noted(home / "kept.states")
    if begun is not None:
        before = begun.pairs_of(found, lambda _: found)
        assert before is None or before.n_pairs == begun.n_pairs <= found.n_pairs
    if rng.random() < 0.05:
        hessian = lrh_dask.fit(found, states=home / "kept.states")
        assert hessian.n_pairs == found.n_pairs


def _append(home, path, rng):
    incoming = incoming_from(str(path))
    append(home / "plain.zarr", incoming, Stamp(again=True))


def _night(home, path, rng):
    route = path.relative_to(home).parts[0].partition(".")[0]
    outcome = every_night.nightly(home / f"{route}.yaml")
    n_pairs = open_pairs(home / f"{route}.zarr").n_pairs
    assert outcome.document["n_pairs"] == n_pairs, outcome.document
    assert outcome.result().n_pairs == n_pairs


def _command(home, path, rng):
    top = path.relative_to(home).parts[0]
    here = {"yaml": [("plan", path), ("runs", "--runs", path)],
            "zarr": [("inspect", home / top), ("plan", home / top),
                     ("inspect", "--all", home / top), ("append", home / "b.zarr", home / top),
                     ("diff", home / top, home / "result.zarr")],
            "npz": [("append", home / "plain.zarr", path)]}.get(
                top.rpartition(".")[2], [("runs", "--runs", home / top),
                                         ("status", "--runs", home / top),
                                         ("diff", *sorted((home / top).glob("2*"))[:2])])
    args = [*map(str, rng.choice(here)), *rng.choice(([], ["--json"]))]
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["lrh", *args]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = before
    said = err.getvalue()
    assert code in {0, 2, 3, 4, AlertsRaised.exit_code, os.EX_TEMPFAIL}, (args, code, said)
    assert "error: unexpected " not in said, (args, said)
    if "--json" in args:
        json.loads(out.getvalue())
    if code:
        raise LrhError(said)


METADATA = ("*.zarr/zarr.json", "*.zarr/[xyw]*/zarr.json", "*.zarr/lrh_manifest/zarr.json",
            "*.zarr/lrh_manifest/*/zarr.json")
IN_RUNS = ("2*/run.json", "2*/ledger.json", "2*/settings.json", "index.json", "alerts.json")
IN_STATES = ("states/*/*/*/zarr.json", "states/*/*/*/*/zarr.json")
OWN = "."
FOLDERS = ("all", "fitted")
STORES = ("plain", "v2", "packed", "sharded", "bare")
KINDS = {
    "settings": Kind(("*.yaml",), _settings, changed_yaml, share=24),
    "metadata": Kind(METADATA, _store, share=22),
    "metadata of v2": Kind(("v2.zarr/.z*", "v2.zarr/*/.z*"), _store, share=10),
    "shapes": Kind(tuple(f"{name}.zarr/{file}" for name in STORES for file in (
        "zarr.json", ".zgroup")), _shapes, lambda _, content: content, share=4,
                   whole=" ".join(f"{name}.zarr" for name in STORES)),
    "chunks": Kind(("[psbv]*.zarr/[xyw]*/c/*/*", "v2.zarr/[xy]/[0-9]*"), _store, changed_bytes,
                   share=6),
    "result": Kind(("result.zarr/zarr.json", "result.zarr/*/zarr.json"), _result, share=12),
    "chunks of a result": Kind(("result.zarr/*/c/*", "result.zarr/*/c/*/*"), _result,
                               changed_bytes, share=4),
    "runs": Kind(tuple(f"{top}/{name}" for top in FOLDERS for name in IN_RUNS), _catalog,
                 share=10, whole=OWN),
    "status": Kind(tuple(f"{top}/jobs/*/status.json" for top in FOLDERS), _status, share=16),
    "states": Kind(tuple(f"{top}/{name}" for top in FOLDERS for name in IN_STATES), _states,
                   of_metadata, share=6),
    "chunks of states": Kind(("*/states/*/*/*/*/c/*",), _states, changed_bytes, share=2),
    "names in states": Kind(("*/states/*/current",), _states, changed_text, share=2, whole="all"),
    "notes in states": Kind(("*/states/*/tokens.json", "*/states/*/lineage.json"), _states,
                            share=2),
    "kept states": Kind(("kept.states/*.zip",), _kept, of_kept, share=2, whole="kept.states"),
    "kept marks": Kind(("kept.states/here",), _kept, changed_bytes, share=1, whole="kept.states"),
    "kept notes": Kind(("kept.states/begun.json",), _kept, share=1, whole="kept.states"),
    "append": Kind(("new.npz",), _append, share=12, whole="plain.zarr"),
    "night": Kind((*(f"{top}/{name}" for top in FOLDERS for name in (
        *IN_RUNS, *IN_STATES, "jobs/*/status.json", "states/*/current", "states/*/tokens.json",
        "2*/result.zarr/zarr.json")), *(f"{top}.zarr/{name}" for top in FOLDERS for name in (
            "zarr.json", "[xy]/zarr.json", "lrh_manifest/zarr.json"))), _night, of_metadata,
                  share=1, whole="fitted all"),
    "command": Kind((*METADATA, "*.yaml", "new.npz", "result.zarr/zarr.json", *(
        f"{top}/{name}" for top in FOLDERS for name in (*IN_RUNS, "jobs/*/status.json"))),
        _command, share=1, whole="all fitted plain.zarr"),
}


class Defect(AssertionError):
    """Neither done nor said what is wrong."""


class Bench:
    """A folder of valid files, one of which is another at a time."""

    def __init__(self, folder):
        self.home, self.copy = folder / "home" / "a" / "b" / "c", folder / "copy"
        self.home.mkdir(parents=True)
        with contextlib.chdir(self.home):
            make_home(self.home)
        shutil.copytree(self.home, self.copy, symlinks=True)
        self.stamps = {top.name: _stamps(top) for top in self.home.iterdir()}
        self.files = {name: sorted({path for pattern in kind.files
                                    for path in self.home.glob(pattern) if path.is_file()})
                      for name, kind in KINDS.items()}
        assert all(self.files.values()), self.files

    def play(self, name, number):
        """Read one input; whether the reader worked (True), or said what is wrong.

        Raises:
            Defect: it did neither.
        """
        kind, rng = KINDS[name], random.Random(f"{name} {number}")
        path = rng.choice(self.files[name])
        content = path.read_bytes()
        changed = self._changed(kind, path, content, rng)
        path.unlink()
        path.write_bytes(changed)
        try:
            with watched(self.home, n_bytes=MEMORY + 4 * len(changed)), \
                    warnings.catch_warnings(), contextlib.chdir(self.home):
                warnings.simplefilter("ignore")
                kind.read(self.home, path, rng)
        except LrhError as error:
            said = str(error)
            if "expected" not in said or len(said) > LONGEST:
                raise Defect(self._about(name, number, path, changed)) from error
            return False
        except (Exception, Forbidden) as error:
            raise Defect(self._about(name, number, path, changed)) from error
        finally:
            self._restore(kind, path, content)
        return True

    def _changed(self, kind, path, content, rng):
        canary = self.home.parent / "executed"
        if path.suffix == ".npz":
            return changed_npz(rng, canary)
        if path.suffix == ".yaml":
            return changed_yaml(rng, content)
        if path.name == "current":
            return changed_text(rng, content)
        return kind.change(rng, content)

    def _restore(self, kind, path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        top = path.relative_to(self.home).parts[0]
        if str(path) in self.stamps[top]:
            self.stamps[top][str(path)] = _stamp(path)
        for name in {*(kind.whole if kind.whole != OWN else "").split(), top
                     } if kind.whole else ():
            self._restore_all(name)
        shutil.rmtree(self.home / "b.zarr", ignore_errors=True)

    def _restore_all(self, top):
        known, found = self.stamps[top], _stamps(self.home / top)
        for place in found.keys() - known.keys():
            os.unlink(place)
        for place, stamp in known.items():
            if found.get(place) != stamp:
                Path(place).unlink(missing_ok=True)
                Path(place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.copy / os.path.relpath(place, self.home), place,
                            follow_symlinks=False)
                known[place] = _stamp(Path(place))
        for folder, folders, files in os.walk(self.home / top, topdown=False):
            if not files and not folders and not (
                    self.copy / os.path.relpath(folder, self.home)).exists():
                os.rmdir(folder)

    def _about(self, name, number, path, changed):
        return (f"{name!r} {number}: {path.relative_to(self.home)} = {changed[:400]!r}"
                f"{'...' * (len(changed) > 400)}\n"
                f"PYTHONPATH=tests python tests/fuzz_inputs.py {name!r} {number}")


def _stamp(path):
    found = os.lstat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino


def _stamps(top):
    """What tells each file, and each link, from any other that ever was in its place."""
    if not top.is_dir():
        return {str(top): _stamp(top)}
    return {place: _stamp(place) for folder, folders, files in os.walk(top)
            for place in (os.path.join(folder, name) for name in (*files, *folders))
            if os.path.islink(place) or not os.path.isdir(place)}


@contextlib.contextmanager
def bench():
    """A bench; nights on it are made in this process, without a cluster and without pages."""
    def nothing(*_, **__):
        return contextlib.nullcontext()

    def no_page(_, path, __):
        path.write_text("", encoding="utf-8")

    kept = [(module, name, getattr(module, name)) for module, name in (
        (every_night, "connect"), (every_night, "dashboard_of"),
        (every_night, "performance_report"), (every_night, "run_span"),
        (publishing, "write_night_report"), (totals, "EVERY"))]
    try:
        for (module, name, _), other in zip(kept, (
                nothing, lambda _: "", nothing, nothing, no_page, 2), strict=True):
            setattr(module, name, other)
        with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
            yield Bench(Path(folder))
    finally:
        for module, name, before in kept:
            setattr(module, name, before)


if __name__ == "__main__":
    with bench() as here:
        print("worked" if here.play(sys.argv[1], int(sys.argv[2])) else "refused")
