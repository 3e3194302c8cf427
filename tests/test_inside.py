"""No name and no symbolic link leads out of a folder of runs, of states, or of pairs."""

import json
import shutil

import numpy as np
import pytest
from home_of_nights import write

import lrh_dask
from lrh_dask import SettingsError
from lrh_dask.nights import underway
from lrh_dask.nights.journal import Journal
from lrh_dask.nights.states import StoredStates
from lrh_dask.nights.underway import State, Status, job_folder, jobs_folder, note, status_of
from lrh_dask.runs.kept import remove_kept
from lrh_dask.settings.config import NightlySettings, settings_from
from lrh_dask.stores.aside import put_in_order, written_aside
from lrh_dask.stores.catalog import Catalog
from lrh_dask.stores.inside import inside
from lrh_dask.stores.locks import exclusive
from lrh_dask.stores.synthetic import Known, write_known

AWAY = ["../elsewhere", "../../elsewhere", "..", ".", "", "a/../../elsewhere", "/etc", "a\0b",
        "a\nb", ".hidden", "a\\b", "x" * 300]


@pytest.fixture
def elsewhere(tmp_path):
    """What must stay as it is, and the look whether it has."""
    folder = tmp_path / "elsewhere"
    (folder / "deep").mkdir(parents=True)
    (folder / "precious").write_text("precious")
    (folder / ".x.0123456789ab.tmp").write_text("what put_in_order would remove")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    yield folder
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert (folder / "deep").is_dir()


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", AWAY)
def test_a_name_that_leads_elsewhere_is_refused(runs, name):
    with pytest.raises(SettingsError, match="may lead elsewhere"):
        inside(runs, name)
    for act in (lambda: status_of(runs, name), lambda: note(runs, Status(name, State.queued)),
                lambda: Journal(runs, name), lambda: Catalog(runs).document(name),
                lambda: Catalog(runs).publish(name, {}, lambda _: None)):
        with pytest.raises(SettingsError, match="may lead elsewhere"):
            act()


@pytest.mark.parametrize("name", ["20261127T165733-0123abcd", "a run", "ñ", "a.b", "a=b"])
def test_a_plain_name_is_taken(runs, name):
    assert inside(runs, name) == runs / name


@pytest.mark.parametrize("command", ["status", "wait", "logs", "cancel"])
def test_commands_take_no_run_from_elsewhere(lrh, elsewhere, runs, command):
    jobs_folder(runs).mkdir()
    (elsewhere / "status.json").write_text(json.dumps({"run": "x", "state": "queued"}))
    done = lrh(command, "../../elsewhere", "--runs", runs, cwd=runs)
    (elsewhere / "status.json").unlink()
    assert done.returncode == 2
    assert "may lead elsewhere" in done.stderr


def test_a_status_that_names_another_run_is_of_its_own(elsewhere, runs, monkeypatch):
    """Else old runs that are forgotten would take along what they name."""
    monkeypatch.setattr(underway, "KEPT", 1)
    note(runs, Status("later", State.done, began=2.0))
    job_folder(runs, "mine").mkdir(parents=True)
    (job_folder(runs, "mine") / "status.json").write_text(json.dumps(
        {"run": "../../elsewhere", "state": "done"}))
    assert status_of(runs, "mine").run == "mine"
    underway.forget_old(runs)
    assert not job_folder(runs, "mine").exists()


def test_a_run_that_is_a_link_is_neither_written_nor_removed(lrh, elsewhere, runs, monkeypatch):
    monkeypatch.setattr(underway, "KEPT", 1)
    note(runs, Status("later", State.done, began=2.0))
    (jobs_folder(runs) / "mine").symlink_to(elsewhere)
    for act in (lambda: note(runs, Status("mine", State.done)), lambda: Journal(runs, "mine")):
        with pytest.raises(SettingsError, match="symbolic link"):
            act()
    (elsewhere / "status.json").write_text(json.dumps({"run": "mine", "state": "queued"}))
    assert lrh("cancel", "mine", "--runs", runs, cwd=runs).returncode == 2
    (elsewhere / "status.json").unlink()
    underway.forget_old(runs)


def test_jobs_that_are_a_link_are_refused(elsewhere, runs):
    (runs / "jobs").symlink_to(elsewhere)
    with pytest.raises(SettingsError, match="symbolic link"):
        Journal(runs, "mine")


def test_nothing_is_written_through_links_in_the_folder_of_a_run(lrh, elsewhere, runs):
    folder = job_folder(runs, "mine")
    folder.mkdir(parents=True)
    note(runs, Status("mine", State.queued))
    for name in ("log.txt", "cancel", "new"):
        (folder / name).symlink_to(elsewhere / ("precious" if name == "log.txt" else name))
    journal = Journal(runs, "mine")
    with journal.kept():
        journal._note("a line")
    note(runs, Status("mine", State.queued))
    assert lrh("cancel", "mine", "--runs", runs, cwd=runs).returncode == 0
    assert not (elsewhere / "cancel").exists()


def test_a_lock_is_not_made_through_a_link(elsewhere, runs):
    (runs / ".lock").symlink_to(elsewhere / "made")
    with pytest.raises(SettingsError, match="lock"), exclusive(runs / ".lock"):
        raise AssertionError
    assert not (elsewhere / "made").exists()


def test_states_that_are_links_are_refused_and_a_pointer_elsewhere_is_none(elsewhere, runs):
    states = StoredStates(runs / "states", {"a": 1})
    states.folder.mkdir(parents=True)
    for current in ("../../../elsewhere", "/etc", ".."):
        (states.folder / "current").write_text(current)
        assert StoredStates(runs / "states", {"a": 1}).current is None
    (states.folder / "current").write_text("000001-all")
    (states.folder / "000001-all").symlink_to(elsewhere)
    with pytest.raises(SettingsError, match="symbolic link"):
        StoredStates(runs / "states", {"a": 1})
    (states.folder / "current").unlink()
    shutil.rmtree(states.folder)
    states.folder.symlink_to(elsewhere)
    with pytest.raises(SettingsError, match="symbolic link"):
        StoredStates(runs / "states", {"a": 1})


def test_states_of_a_run_are_neither_kept_nor_removed_through_a_link(tmp_path, elsewhere):
    for name in ("here", "0" * 32 + ".zip", "begun.json"):
        (elsewhere / name).write_text("")
    pairs = lrh_dask.open_pairs(write_known(tmp_path / "a.zarr", 40, Known.indefinite(6, 2)))
    states = tmp_path / "a-hessian.states"
    states.symlink_to(elsewhere)
    with pytest.raises(SettingsError, match="symbolic link"):
        lrh_dask.fit(pairs, states=states)
    remove_kept(states)
    assert {path.name for path in elsewhere.iterdir()} >= {"here", "0" * 32 + ".zip", "begun.json"}
    for name in ("here", "0" * 32 + ".zip", "begun.json"):
        (elsewhere / name).unlink()


def test_a_folder_of_somebody_else_is_not_taken_for_states(tmp_path, elsewhere):
    pairs = lrh_dask.open_pairs(write_known(tmp_path / "a.zarr", 40, Known.indefinite(6, 2)))
    lrh_dask.fit(pairs, states=elsewhere)  # which leaves alone what is there
    remove_kept(elsewhere)
    (elsewhere / "here").write_text("I am here")
    with pytest.raises(SettingsError, match="somebody else's"):
        lrh_dask.fit(pairs, states=elsewhere)
    (elsewhere / "here").unlink()


def test_folders_beside_states_that_have_other_names_stay(runs):
    states = StoredStates(runs, {"store": "x"})
    for name in ("000001-all", "000002-none", "2026-11-backup"):
        (states.folder / name).mkdir(parents=True)
    (states.folder / "2026-11-backup" / "1-old.zarr").mkdir()
    (states.folder / "current").write_text("000001-all")
    states = StoredStates(runs, {"store": "x"})
    states.put_in_order()
    assert {path.name for path in states.folder.iterdir()} == {
        "000001-all", "2026-11-backup", "current"}
    states.add([], None, afresh=False)


def test_states_that_are_tidied_up_are_not_followed(elsewhere, runs):
    states = StoredStates(runs / "states", {"a": 1})
    (states.folder / "000002-all").mkdir(parents=True)
    (states.folder / "current").write_text("000002-all")
    (states.folder / "000001-all").symlink_to(elsewhere)
    (states.folder / "000002-all" / ".x.0123456789ab.tmp").symlink_to(elsewhere)
    (states.folder / ".y.0123456789ab.tmp").symlink_to(elsewhere)
    StoredStates(runs / "states", {"a": 1}).put_in_order()
    assert not (states.folder / ".y.0123456789ab.tmp").exists()


@pytest.fixture
def night(lrh, tmp_path):
    """Calls a night."""
    write_known(tmp_path / "p.zarr", 400, Known.indefinite(8, 2))
    write(tmp_path / "night.yaml", {"store": "p.zarr", "runs": "runs", "cluster": {"workers": 1}})
    return lambda *more: lrh("nightly", "night.yaml", *more, cwd=tmp_path)


@pytest.mark.parametrize("link", ["states", "jobs"])
def test_a_night_in_a_folder_with_links_is_refused(night, elsewhere, runs, link):
    (runs / link).symlink_to(elsewhere)
    done = night()
    assert done.returncode == 2
    assert "symbolic link" in done.stderr
    assert [path for path in runs.glob("2*")] == []


def test_a_night_is_given_no_name_that_leads_elsewhere(night, elsewhere, runs):
    assert night("--run-id", "../elsewhere/deep").returncode == 2


def test_a_published_run_of_another_name_is_the_one_of_its_folder(night, elsewhere, runs):
    assert night().returncode == 0
    (published,) = runs.glob("2*/run.json")
    document = json.loads(published.read_text())
    published.write_text(json.dumps({**document, "run": "../elsewhere"}))
    (listed,) = Catalog(runs).runs()
    assert listed.run == published.parent.name
    (runs / "linked").symlink_to(published.parent)
    assert len(Catalog(runs).runs()) == 1


def test_alerts_owed_of_a_run_elsewhere_are_none(night, elsewhere, runs):
    (runs / "alerts.json").write_text(json.dumps({"owed": "../elsewhere"}))
    assert night().returncode == 0


@pytest.mark.parametrize("inner", ["x", "x/c", "x/c/0", "lrh_manifest"])
def test_rows_are_not_appended_through_links(lrh, tmp_path, inner):
    rows = np.arange(8.0).reshape(4, 2)
    store = tmp_path / "p.zarr"
    lrh_dask.append_pairs(store, rows, rows)  # into a chunk that has room for more
    away = tmp_path / "away"
    shutil.move(store / inner, away)
    (store / inner).symlink_to(away)
    before = {path: path.read_bytes() for path in away.rglob("*") if path.is_file()}
    np.savez(tmp_path / "new.npz", x=rows + 9, y=rows + 9)
    done = lrh("append", store, "new.npz", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "symbolic link" in done.stderr
    assert {path: path.read_bytes() for path in away.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["../../elsewhere", "../away.zarr/x", "a/../../away.zarr/x", "/x"])
@pytest.mark.parametrize("command", ["run", "inspect", "append"])
def test_no_name_of_an_array_leads_out_of_its_store(lrh, tmp_path, name, command):
    rows = np.random.default_rng(0).standard_normal((40, 2))
    for store in ("p.zarr", "away.zarr"):
        lrh_dask.write_pairs(tmp_path / store, rows, rows)
    to = ["new.zarr"] if command == "append" else []
    done = lrh(command, *to, "p.zarr", "--x", name, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "expected arrays" in done.stderr


def test_a_label_is_no_path(lrh, tmp_path, elsewhere):
    rows = np.arange(8.0).reshape(4, 2)
    np.savez(tmp_path / "new.npz", x=rows, y=rows)
    done = lrh("append", "p.zarr", "new.npz", "--label", "../elsewhere/made", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    settings_from({"store": "p.zarr", "runs": "r", "window": "label ../elsewhere/made"}, "here",
                  NightlySettings)
    assert not (elsewhere / "made").exists()


def test_a_result_with_links_in_it_is_replaced_and_they_are_not_followed(tmp_path, elsewhere):
    result = tmp_path / "r.zarr"
    result.mkdir()
    (result / "eigenvalues").symlink_to(elsewhere)
    with written_aside(result, overwrite=True, is_ours=lambda _: True) as aside:
        (aside / "zarr.json").write_text("{}")
    assert sorted(path.name for path in result.iterdir()) == ["zarr.json"]
    put_in_order(tmp_path)


@pytest.mark.parametrize("separator", ["/../../../", "../", "//"])
def test_keys_of_chunks_in_foreign_metadata_lead_nowhere_else(lrh, tmp_path, separator, elsewhere):
    rows = np.random.default_rng(0).standard_normal((40, 2))
    path = lrh_dask.write_pairs(tmp_path / "p.zarr", rows, rows) / "x" / "zarr.json"
    metadata = json.loads(path.read_text())
    metadata["chunk_key_encoding"] = {"name": "default", "configuration": {"separator": separator}}
    path.write_text(json.dumps(metadata))
    np.savez(tmp_path / "new.npz", x=rows + 9, y=rows + 9)
    before = sorted(tmp_path.rglob("*"))
    for command in (["inspect", "p.zarr", "--all"], ["append", "p.zarr", "new.npz"]):
        done = lrh(*command, cwd=tmp_path)
        assert done.returncode == 3, done.stderr
        assert "separator" in done.stderr.lower()
    assert sorted(tmp_path.rglob("*")) == before
