"""`lrh diff` on stored runs: what it finds where, what it says, and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console
from test_drift import NAN, hessian_of

from lrh_dask.drift.drift import compare
from lrh_dask.drift.drift_words import headline, with_error
from lrh_dask.errors import BadPairs, SettingsError
from lrh_dask.reports.comparison import StoredRun, compare_runs
from lrh_dask.reports.drift_screen import show_comparison
from lrh_dask.reports.screen import Screen


def stored(folder, hessian, *, rows=None, digests=(), store="pairs.zarr", fingerprint=None,
           settings=None):
    folder.mkdir(parents=True)
    replace(hessian, provenance={
        "created": "2026-11-01T03:00:00Z", "store": store, "fingerprint": fingerprint,
        "settings": settings or {}, "versions": {"lrh-dask": "1"}}).save(folder / "result.zarr")
    if rows is not None:
        (folder / "run.json").write_text(json.dumps({"store": store}))
        (folder / "ledger.json").write_text(json.dumps({"rows": rows, "digests": [
            {"start": start, "stop": stop, "digest": digest} for start, stop, digest in digests]}))
    return folder


def loaded(tmp_path, *runs):
    return [StoredRun.load(stored(tmp_path / f"night-{i}", **run)) for i, run in enumerate(runs)]


def shown(found, width=100):
    screen = Screen()
    screen.output = Console(width=width, highlight=False, record=True, quiet=False, file=None)
    with screen.output.capture() as capture:
        show_comparison(screen, found)
    return capture.get()


QUIET, MOVED = hessian_of([5.0, -2.0]), hessian_of([5.0, -2.9])


def test_a_run_folder_and_the_result_in_it_are_the_same_run(tmp_path):
    folder = stored(tmp_path / "night-1", QUIET, rows=[[0, 1000]])
    for path in (folder, folder / "result.zarr", str(folder)):
        run = StoredRun.load(path)
        assert (run.name, run.counted.spans) == ("night-1", ((0, 1000),))
    (tmp_path / "latest").symlink_to(folder)
    assert StoredRun.load(tmp_path / "latest").name == "night-1"
    QUIET.save(tmp_path / "other.zarr")
    assert StoredRun.load(tmp_path / "other.zarr").name == "other.zarr"


def test_a_folder_without_a_result_is_refused(tmp_path):
    with pytest.raises(BadPairs, match="a folder without either"):
        StoredRun.load(tmp_path)
    with pytest.raises(BadPairs, match="Check the path"):
        StoredRun.load(tmp_path / "nothing.zarr")


def test_shared_pairs_are_those_rows_that_both_run_folders_list(tmp_path):
    runs = loaded(tmp_path, {"hessian": QUIET, "rows": [[0, 600], [700, 1100], [2000, 2100]]},
                  {"hessian": QUIET, "rows": [[500, 1500]]})
    found = compare_runs(*runs)
    assert found.drift.shared_pairs == len(
        {*range(600), *range(700, 1100)} & {*range(500, 1500)}) == 500
    assert "500 pairs are in both" in found.about_shared
    assert compare_runs(*runs, shared_pairs=7).drift.shared_pairs == 7


def test_rows_that_were_rewritten_are_not_shared(tmp_path):
    runs = loaded(tmp_path, {"hessian": QUIET, "rows": [[0, 600]],
                             "digests": [(0, 250, "a"), (250, 500, "b"), (500, 600, "c")]},
                  {"hessian": QUIET, "rows": [[0, 800]],
                   "digests": [(0, 250, "a"), (250, 500, "other"), (500, 800, "d")]})
    assert compare_runs(*runs).drift.shared_pairs == 250


@pytest.mark.parametrize(("first", "second", "shared", "said"), [
    ({"store": "a"}, {"store": "b"}, 0, "not known"),
    ({"fingerprint": "f"}, {"fingerprint": "f"}, 1000, "same pairs"),
    ({"fingerprint": "f"}, {"fingerprint": "g"}, 0, "not known"),
    ({"rows": [[0, 1000]], "store": "a"}, {"rows": [[0, 1000]], "store": "b"}, 0, "not known"),
])
def test_shared_pairs_that_are_not_known_are_taken_for_none_and_that_is_said(
        tmp_path, first, second, shared, said):
    found = compare_runs(*loaded(tmp_path, {"hessian": QUIET, **first},
                                 {"hessian": QUIET, **second}))
    assert found.drift.shared_pairs == shared
    assert said in found.about_shared


def test_settings_that_differ_are_named_but_not_where_the_result_went(tmp_path):
    found = compare_runs(*loaded(
        tmp_path, {"hessian": QUIET, "settings": {"rank": 8, "out": "a", "cluster": {"kind": "x"}}},
        {"hessian": QUIET, "settings": {"rank": "auto", "out": "b", "cluster": {"kind": "x"}}}))
    assert found.settings == (("rank", "8", "auto"),)


def test_the_headline_says_drift_only_beyond_chance():
    assert headline(compare(QUIET, MOVED)).startswith("an eigenvalue drifted from -2 to -2.9, 12.7")
    still = headline(compare(QUIET, hessian_of([5.1, -2.0])))
    assert still.startswith("no eigenvalue drifted beyond chance: the largest change is 1.4")
    blind = compare(hessian_of([5.0], errors=NAN), MOVED)
    assert headline(blind).startswith("drift of eigenvalues cannot be judged")


@pytest.mark.parametrize(("value", "error", "text"), [
    (4.0123, 0.0213, "4.012 ± 0.021"), (-250.3, 12.0, "-250 ± 12"), (1.5, NAN, "1.5"),
    (NAN, NAN, "-"), (3.0, 0.0, "3"), (1.0, 2e-12, "1 ± 2.0e-12"), (0.0, 0.1, "0.00 ± 0.10")])
def test_a_value_has_the_digits_that_its_error_leaves(value, error, text):
    assert with_error(value, error) == text


def test_the_terminal_shows_what_drifted_what_is_missing_and_what_differs(tmp_path):
    found = compare_runs(*loaded(
        tmp_path, {"hessian": hessian_of([5.0, -2.0, 1.0]), "settings": {"rank": "[b]8"}},
        {"hessian": MOVED, "settings": {"rank": "auto"}}))
    text = " ".join(shown(found).split())
    for words in ("night-0", "1,000 pairs", "An eigenvalue drifted from -2 to -2.9",
                  "-2.000 ± 0.050", "-12.7", "1.450 ± 0.044", "not found by the other",
                  "noise leaves", "index 1 to 1", "verdict noisy to noisy", "rank [b]8 auto"):
        assert words in text
    assert max(map(len, shown(found, width=80).splitlines())) <= 80


def test_runs_without_eigenvalues_can_be_shown(tmp_path):
    found = compare_runs(*loaded(tmp_path, {"hessian": hessian_of([])}, {"hessian": QUIET}))
    assert "cannot be judged" in shown(found)
    found.document()


def test_the_command_prints_one_json_document(tmp_path):
    for name, hessian in (("a", QUIET), ("b", MOVED)):
        stored(tmp_path / name, hessian, rows=[[0, 1000]])
    done = subprocess.run(
        [sys.executable, "-c", "from lrh_dask.cli.app import main; main()", "diff",
         str(tmp_path / "a"), str(tmp_path / "b"), "--json", "--shared", "0"],
        capture_output=True, text=True, check=True, timeout=120)
    document = json.loads(done.stdout)
    moved = document["eigenvalues"][1]
    assert (moved["before"], moved["after"], moved["ratio"]) == (-2.0, -2.9, 1.45)
    assert moved["drift"] == pytest.approx(-12.7, abs=0.1)
    assert document["before"]["run"] == "a"
    assert document["verdict"] == {"before": "noisy", "after": "noisy"}
    assert document["overlaps"][0]["overlap"] == pytest.approx(1.0)


def test_more_shared_pairs_than_there_are_are_refused(tmp_path):
    runs = loaded(tmp_path, {"hessian": QUIET}, {"hessian": QUIET})
    with pytest.raises(SettingsError, match="0 to 1,000"):
        compare_runs(*runs, shared_pairs=2000)
