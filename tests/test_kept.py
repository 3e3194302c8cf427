"""A run that was broken off goes on from the states it has kept, and ends in the same bits."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import zarr

from lrh_dask import BadPairs, Pairs, SettingsError, append_pairs, fit, open_pairs, write_pairs
from lrh_dask.linalg.ledger import Ledger
from lrh_dask.runs import begun, budget, by_features, graph, kept, leaves, state_files
from lrh_dask.runs.packing import partial_of
from lrh_dask.settings.config import RunSettings
from lrh_dask.stores import blocks
from lrh_dask.stores.tokens import RowTokens
from lrh_dask.stores.unchanged import Unchanged

pytestmark = pytest.mark.usefixtures("one_blas_thread")

ROUTES = {"all of R^D": (400, 6, {}), "a fitted basis": (400, 30, {"basis": 4}),
          "a sampled basis": (6000, 40, {"basis": 4}), "whole pairs": (40, 1100, {}),
          "by features": (60, 900, {})}
TAKEN = {"all of R^D": "all_features", "a fitted basis": "fitted_basis",
         "a sampled basis": "fitted_basis", "whole pairs": "whole_pairs",
         "by features": "by_features"}
ROWS_A_CHUNK = 20


@pytest.fixture(params=ROUTES)
def route(request, monkeypatch):
    if request.param == "by features":
        monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
        monkeypatch.setattr(budget, "MAX_WHOLE_BYTES", 0)
        monkeypatch.setattr(by_features, "RUN_BYTES", 1)
    if request.param == "a sampled basis":
        monkeypatch.setattr(budget, "MANY_PAIRS", 1000)
        monkeypatch.setattr(budget, "FIRST_ROWS", 200)
    return request.param


def stored(folder, make_pairs, route):
    n, d, asked = ROUTES[route]
    made = make_pairs(0, n, d, [3.0, -1.0], noise=0.05)
    path = folder / "pairs.zarr"
    if route == "by features":
        group = zarr.open_group(path, mode="w")
        for name, rows in (("x", made.x), ("y", made.y)):
            group.create_array(name, data=rows, chunks=(40, 100), compressors=None)
    else:
        write_pairs(path, made.x, made.y, chunk_rows=n // ROWS_A_CHUNK)
    return open_pairs(path), asked


def assert_same_bits(one, other):
    assert one.eigenvalues.tobytes() == other.eigenvalues.tobytes()
    assert one.eigenvectors.tobytes() == other.eigenvectors.tobytes()
    assert one.standard_errors.tobytes() == other.standard_errors.tobytes()
    assert one.certificates == other.certificates
    assert one.provenance["fingerprint"] == other.provenance["fingerprint"]
    assert one.n_pairs == other.n_pairs


def states_of(folder):
    return sorted(folder.glob("*.zip"))


def test_what_was_read_is_not_read_again_and_gives_the_same_bits(tmp_path, make_pairs, route):
    pairs, asked = stored(tmp_path, make_pairs, route)
    free = fit(pairs, **asked)
    assert free.provenance["route"] == TAKEN[route]
    first = fit(pairs, states=tmp_path / "s", **asked)
    assert states_of(tmp_path / "s")
    again = fit(pairs, states=tmp_path / "s", **asked)
    assert_same_bits(free, first)
    assert_same_bits(free, again)
    assert first.provenance["bytes_read"] == free.provenance["bytes_read"]
    # products are kept, what lifts the vectors is read anew
    only = pairs.stored_bytes // 2 if route == "by features" else 0
    assert again.provenance["bytes_read"] == only
    assert again.provenance["notices"] == free.provenance["notices"]


def test_a_run_that_died_half_way_reads_the_other_half(tmp_path, make_pairs, route, monkeypatch):
    pairs, asked = stored(tmp_path, make_pairs, route)
    free = fit(pairs, states=tmp_path / "s", **asked)
    n_before = len(states_of(tmp_path / "s"))
    for path in states_of(tmp_path / "s")[::2]:
        path.unlink()
    again = fit(pairs, states=tmp_path / "s", **asked)
    assert_same_bits(free, again)
    assert 0 < again.provenance["bytes_read"] <= free.provenance["bytes_read"]
    assert len(states_of(tmp_path / "s")) == n_before
    if n_before > 3:
        assert again.provenance["bytes_read"] < free.provenance["bytes_read"]


def flipped(path, at):
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 4
    path.write_bytes(content)


DAMAGES = {
    **{f"a bit at {at}": (lambda path, at=at: flipped(path, at)) for at in np.linspace(0, 1, 9)},
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "no zip": lambda path: path.write_bytes(b"cos\nsystem\n(S'touch here'\ntR."),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "of another run": lambda path: shutil.copy(
        next(other for other in states_of(path.parent) if other != path), path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_state_that_is_damaged_or_foreign_is_told_and_computed_again(tmp_path, make_pairs,
                                                                       damage):
    pairs, asked = stored(tmp_path, make_pairs, "a fitted basis")
    free = fit(pairs, states=tmp_path / "s", **asked)
    victim = states_of(tmp_path / "s")[2]
    DAMAGES[damage](victim)
    again = fit(pairs, states=tmp_path / "s", **asked)
    assert_same_bits(free, again)
    told = [said for said in again.provenance["notices"]
            if victim.name in said and "computed again" in said]
    if not damage.startswith("a bit"):
        assert len(told) == 1
    assert bool(told) == (again.provenance["bytes_read"] > 0)  # used as it was written, or told


def rewrite_a_chunk(store, first, stop):
    """Other numbers with checksums that are right, as of another program."""
    array = zarr.open_group(store)["y"]
    array[first:stop] = array[first:stop] + 1.0


def test_rows_that_were_written_anew_are_read_again_and_no_others(tmp_path, make_pairs):
    pairs, asked = stored(tmp_path, make_pairs, "all of R^D")
    fit(pairs, states=tmp_path / "s", **asked)
    rewrite_a_chunk(tmp_path / "pairs.zarr", 100, 120)
    pairs = open_pairs(tmp_path / "pairs.zarr")
    again, free = fit(pairs, states=tmp_path / "s", **asked), fit(pairs, **asked)
    assert_same_bits(free, again)
    assert 0 < again.provenance["bytes_read"] < free.provenance["bytes_read"]


@pytest.mark.parametrize("setting", [{"weighting": "step"}, {"basis": 5}])
def test_states_of_other_settings_are_not_taken(tmp_path, make_pairs, setting):
    pairs, asked = stored(tmp_path, make_pairs, "a fitted basis")
    fit(pairs, states=tmp_path / "s", **asked)
    again = fit(pairs, states=tmp_path / "s", **{**asked, **setting})
    assert_same_bits(fit(pairs, **{**asked, **setting}), again)


def test_another_rank_is_solved_from_the_same_states(tmp_path, make_pairs):
    pairs, _ = stored(tmp_path, make_pairs, "all of R^D")
    fit(pairs, states=tmp_path / "s")
    again = fit(pairs, rank=1, states=tmp_path / "s")
    assert_same_bits(fit(pairs, rank=1), again)
    assert again.provenance["bytes_read"] == 0


def test_another_source_or_device_reads_everything_again(tmp_path, make_pairs, monkeypatch):
    pairs, _ = stored(tmp_path, make_pairs, "all of R^D")
    free = fit(pairs, states=tmp_path / "s")
    monkeypatch.setattr(kept, "SOURCE", "another")
    again = fit(pairs, states=tmp_path / "s")
    assert again.provenance["bytes_read"] == free.provenance["bytes_read"]
    monkeypatch.setattr(kept, "pick_device", lambda _: type("Gpu", (), {"name": "gpu"}))
    again = fit(pairs, states=tmp_path / "s")
    assert again.provenance["bytes_read"] == free.provenance["bytes_read"]


def test_a_state_that_cannot_be_kept_is_told_once_and_counts(tmp_path, make_pairs, monkeypatch):
    pairs, _ = stored(tmp_path, make_pairs, "all of R^D")
    free = fit(pairs)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(kept, "write_group", full)
    found = fit(pairs, states=tmp_path / "s")
    assert_same_bits(free, found)
    [told] = [said for said in found.provenance["notices"] if "No space left" in said]
    assert "could not be kept" in told
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["here"]


def test_a_worker_that_sees_another_folder_keeps_nothing_there(tmp_path, make_pairs, monkeypatch):
    pairs, _ = stored(tmp_path, make_pairs, "all of R^D")
    first = kept.Kept(tmp_path / "s", pairs)
    (tmp_path / "s" / "here").write_text("of another machine", encoding="utf-8")
    monkeypatch.setattr(graph.Stages, "__init__", _with(first, graph.Stages.__init__))
    found = fit(pairs)
    assert_same_bits(fit(pairs), found)
    assert any("does not see" in said for said in found.provenance["notices"])
    assert states_of(tmp_path / "s") == []


def _with(states, made):
    return lambda self, pairs, client, run_id, _=None: made(self, pairs, client, run_id, states)


def test_pairs_in_memory_are_refused_before_anything_runs(tmp_path, make_pairs):
    made = make_pairs(0, 400, 6, [3.0, -1.0])
    with pytest.raises(SettingsError, match="keep states of pairs: expected pairs in a store"):
        fit(Pairs(made.x, made.y), states=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_no_state_is_executed_or_pickled(tmp_path, make_pairs):
    pairs, _ = stored(tmp_path, make_pairs, "all of R^D")
    fit(pairs, states=tmp_path / "s")
    for path in states_of(tmp_path / "s"):
        attributes, arrays = state_files.read_group(path)
        json.dumps(attributes)
        assert {array.dtype.kind for array in arrays.values()} <= set("fiu")


def test_what_others_put_into_the_folder_stays(tmp_path, make_pairs):
    pairs, _ = stored(tmp_path, make_pairs, "all of R^D")
    fit(pairs, states=tmp_path / "s")
    (tmp_path / "s" / "mine.zip").write_text("mine", encoding="utf-8")
    kept.remove_kept(tmp_path / "s")
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["mine.zip"]


def during_the_fit(monkeypatch, do):
    """Have something done when the first leaf has read its rows."""
    leaf, done = leaves.fit_leaf, []

    def doing(*args):
        found = leaf(*args)
        if not done:
            done.append(do())
        return found

    monkeypatch.setattr(graph, "fit_leaf", doing)


def test_rows_that_are_written_while_they_are_read_leave_no_result(tmp_path, make_pairs,
                                                                   monkeypatch):
    pairs, _ = stored(tmp_path, make_pairs, "all of R^D")
    during_the_fit(monkeypatch, lambda: rewrite_a_chunk(tmp_path / "pairs.zarr", 380, 400))
    with pytest.raises(BadPairs, match=r"written or removed \(rows 380-399\)"):
        fit(pairs)


@pytest.mark.parametrize("adopted", [False, True])
def test_an_append_that_fills_up_the_last_chunk_meanwhile_changes_nothing(
        tmp_path, make_pairs, monkeypatch, adopted):
    made, store = make_pairs(0, 430, 6, [3.0, -1.0], noise=0.05), tmp_path / "pairs.zarr"
    if adopted:
        group = zarr.open_group(store, mode="w")
        for name, rows in (("x", made.x), ("y", made.y)):
            group.create_array(name, data=rows[:390], chunks=(20, 6))
    else:
        write_pairs(store, made.x[:390], made.y[:390], chunk_rows=20)
    append_pairs(store, made.x[390:410], made.y[390:410])
    pairs = open_pairs(store)
    free = fit(pairs)
    during_the_fit(monkeypatch, lambda: append_pairs(store, made.x[410:], made.y[410:]))
    assert_same_bits(free, fit(pairs))
    assert open_pairs(store).n_pairs == 430


def test_an_append_of_another_program_into_the_last_chunk_leaves_no_result(tmp_path, make_pairs,
                                                                           monkeypatch):
    made, store = make_pairs(0, 430, 6, [3.0, -1.0], noise=0.05), tmp_path / "pairs.zarr"
    group = zarr.open_group(store, mode="w")
    for name, rows in (("x", made.x), ("y", made.y)):
        group.create_array(name, data=rows[:410], chunks=(20, 6))
    pairs = open_pairs(store)

    def append():
        for name, rows in (("x", made.x), ("y", made.y)):
            zarr.open_group(store)[name].append(rows[410:])

    during_the_fit(monkeypatch, append)
    with pytest.raises(BadPairs, match="rows 400-409"):
        fit(pairs)


def run(lrh, folder, *args):
    return lrh("run", "pairs.zarr", "--workers", "1", "--json", *args, cwd=folder)


def test_the_command_goes_on_with_the_pairs_it_had_begun_with_and_clears_away(
        tmp_path, make_pairs, lrh):
    made, store = make_pairs(0, 530, 6, [3.0, -1.0], noise=0.05), tmp_path / "pairs.zarr"
    write_pairs(store, made.x[:400], made.y[:400], chunk_rows=30)
    pairs, states = open_pairs(store), tmp_path / "pairs-hessian.states"
    free = fit(pairs, states=states)  # as one that was killed has left it
    begun.Begun.of(pairs, RowTokens(pairs),
                   settings=RunSettings(store=str(store)).of_result).note(states)
    append_pairs(store, made.x[400:], made.y[400:])
    done = run(lrh, tmp_path, "--resume")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["n_pairs"] == 400
    assert document["bytes"]["fit"] == 0
    assert any("130 pairs were appended since this run began" in said
               for said in document["notices"])
    assert document["eigenvalues"] == free.eigenvalues.tolist()
    assert not states.exists()


def test_a_result_that_is_there_is_not_computed_again(tmp_path, make_pairs, lrh):
    stored(tmp_path, make_pairs, "all of R^D")
    first = run(lrh, tmp_path, "--resume")
    assert first.returncode == 0, first.stderr
    result = tmp_path / "pairs-hessian.zarr"
    before = result.stat().st_mtime_ns
    again = run(lrh, tmp_path, "--resume")
    assert again.stdout == first.stdout
    assert "nothing is left to do" in again.stderr
    assert result.stat().st_mtime_ns == before
    for other in (["--rank", "1"], ["--weighting", "step"]):  # that is another result
        refused = run(lrh, tmp_path, "--resume", *other)
        assert refused.returncode == 2
        assert "one that exists" in refused.stderr
        assert not (tmp_path / "pairs-hessian.states").exists()
    rewrite_a_chunk(tmp_path / "pairs.zarr", 100, 120)
    assert run(lrh, tmp_path, "--resume").returncode == 2
    assert run(lrh, tmp_path, "--resume", "--overwrite").returncode == 0


@pytest.mark.parametrize("other", ["settings", "rows"])
def test_a_run_of_other_settings_or_rows_is_not_bound_by_one_that_was_broken_off(
        tmp_path, make_pairs, lrh, other):
    made, store = make_pairs(0, 530, 6, [3.0, -1.0], noise=0.05), tmp_path / "pairs.zarr"
    write_pairs(store, made.x[:400], made.y[:400], chunk_rows=30)
    pairs, states = open_pairs(store), tmp_path / "pairs-hessian.states"
    fit(pairs, states=states)
    begun.Begun.of(pairs, RowTokens(pairs),
                   settings=RunSettings(store=str(store)).of_result).note(states)
    if other == "rows":
        write_pairs(store, made.x[::-1], made.y[::-1], chunk_rows=30, overwrite=True)
    else:
        append_pairs(store, made.x[400:], made.y[400:])
    done = run(lrh, tmp_path, "--resume", *(["--rank", "1"] if other == "settings" else []))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["n_pairs"] == 530
    assert any("of other pairs or settings" in said for said in document["notices"])


def with_old_times(store):
    """Times of files as an archive leaves them, to the second and alike."""
    for path in store.rglob("*"):
        os.utime(path, (1e9, 1e9))


def test_a_state_of_another_array_of_the_same_store_is_not_taken(tmp_path, make_pairs):
    made = make_pairs(0, 400, 6, [3.0, -1.0], noise=0.05)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for name, rows in (("x", made.x), ("y", made.y), ("y2", -2 * made.y)):
        group.create_array(name, data=rows, chunks=(20, 6), compressors=None)
    with_old_times(tmp_path / "a.zarr")
    one = fit(open_pairs(tmp_path / "a.zarr"), states=tmp_path / "s")
    other = fit(open_pairs(tmp_path / "a.zarr", y="y2"), states=tmp_path / "s")
    np.testing.assert_allclose(other.eigenvalues, -2 * one.eigenvalues)
    assert other.provenance["bytes"]["fit"] > 0


def test_a_state_of_chunks_that_are_decoded_otherwise_is_not_taken(tmp_path, make_pairs):
    made = make_pairs(0, 400, 6, [3.0, -1.0], noise=0.05)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for name, rows in (("x", made.x), ("y", made.y)):
        group.create_array(name, data=rows, chunks=(20, 6), compressors=None)
    free = fit(open_pairs(tmp_path / "a.zarr"), states=tmp_path / "s")
    told = tmp_path / "a.zarr" / "y" / "zarr.json"
    assert '"float64"' in told.read_text()
    told.write_text(told.read_text().replace('"float64"', '"int64"').replace("0.0", "0"))
    other = fit(open_pairs(tmp_path / "a.zarr"), states=tmp_path / "s")
    assert other.provenance["bytes"]["fit"] > 0
    assert other.eigenvalues.tobytes() != free.eigenvalues.tobytes()


def test_a_state_with_rows_of_others_is_computed_again(tmp_path, make_pairs, monkeypatch):
    pairs, _ = stored(tmp_path, make_pairs, "all of R^D")
    free = fit(pairs, states=tmp_path / "s")
    monkeypatch.setattr(kept, "partial_of", lambda *_: replaced(partial_of(*_)))

    def replaced(partial):
        return replace(partial, states={bucket: replace(state, ledger=Ledger.of([(0, 400)]))
                                        for bucket, state in partial.states.items()})

    again = fit(pairs, states=tmp_path / "s")
    assert_same_bits(again, replace(free, certificates=again.certificates))
    assert any("of another run" in said for said in again.provenance["notices"])


def test_rows_that_change_while_it_is_told_what_is_stored_of_them_end_the_run(
        tmp_path, make_pairs, monkeypatch):
    pairs, _ = stored(tmp_path, make_pairs, "all of R^D")
    fit(pairs, states=tmp_path / "s")
    states_of(tmp_path / "s")[0].unlink()
    telling = kept.RowTokens.__init__

    def changed_meanwhile(self, pairs):
        telling(self, pairs)
        rewrite_a_chunk(tmp_path / "pairs.zarr", 0, 20)

    monkeypatch.setattr(kept.RowTokens, "__init__", changed_meanwhile)
    with pytest.raises(BadPairs, match="rows that stay as they are"):
        fit(pairs, states=tmp_path / "s")


def test_what_is_written_behind_a_link_is_told_and_one_in_a_circle_is_gone_through(
        tmp_path, make_pairs):
    pairs, _ = stored(tmp_path, make_pairs, "all of R^D")
    chunks = tmp_path / "pairs.zarr" / "y" / "c"
    chunks.rename(tmp_path / "away")
    chunks.symlink_to(tmp_path / "away")
    (tmp_path / "away" / "round").symlink_to(tmp_path / "away")
    unchanged = Unchanged(pairs, Ledger.of([(0, 400)]))
    unchanged.refuse_changed()
    rewrite_a_chunk(tmp_path / "pairs.zarr", 100, 120)
    with pytest.raises(BadPairs, match="rows 100-119"):
        unchanged.refuse_changed()


def test_a_run_that_kept_nothing_binds_nobody(tmp_path, make_pairs):
    pairs, _ = stored(tmp_path, make_pairs, "all of R^D")
    begun.Begun.of(pairs, RowTokens(pairs)).note(tmp_path / "s")
    assert begun.Begun.noted(tmp_path / "s") is None


def test_a_state_of_rows_that_were_others_for_a_while_is_not_kept(tmp_path, make_pairs,
                                                                  monkeypatch):
    pairs, _ = stored(tmp_path, make_pairs, "all of R^D")
    free = fit(pairs)
    chunk = tmp_path / "pairs.zarr" / "y" / "c" / "19" / "0"
    before = chunk.read_bytes()
    during_the_fit(monkeypatch, lambda: rewrite_a_chunk(tmp_path / "pairs.zarr", 380, 400))
    with pytest.raises(BadPairs, match="written or removed"):
        fit(pairs, states=tmp_path / "s")
    chunk.write_bytes(before)  # as restored from a copy
    assert_same_bits(free, fit(pairs, states=tmp_path / "s"))
