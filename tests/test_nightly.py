"""One call a night, on a cluster of separate processes: it decides its own work."""

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import icechunk
import numpy as np
import pytest
import zarr
from cluster_processes import cluster
from object_storage import make_bucket, moto, put

from lrh_dask import LowRankHessian, fit, open_pairs
from lrh_dask.clusters import running_cluster
from lrh_dask.errors import BadPairs, RunFailed, SettingsError
from lrh_dask.nights import every_night
from lrh_dask.nights.every_night import nightly
from lrh_dask.reports.screen import Screen
from lrh_dask.runs import budget
from lrh_dask.settings.config import NightlySettings, settings_from
from lrh_dask.stores import blocks, remote
from lrh_dask.stores.appending import append_pairs
from lrh_dask.stores.catalog import Catalog
from lrh_dask.stores.results import summary
from lrh_dask.stores.synthetic import Known, write_known

D = 12
EIGENVALUES = [3.0, -2.0, 1.0]
START = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def scheduler_file(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("cluster")) as path:
        yield path


class Nights:
    """A store that grows, and the runs over it."""

    def __init__(self, folder, scheduler_file, make_pairs, store="pairs.zarr"):
        self.store, self.runs = folder / store, folder / "runs"
        self.cluster = {"kind": "scheduler_file", "scheduler_file": str(scheduler_file)}
        self.made = make_pairs(1, 4000, D, EIGENVALUES, noise=0.1)
        self.end = 0

    def append(self, n, *, day=None, label=None, **kwargs):
        """The next n pairs."""
        rows = slice(self.end, self.end + n)
        append_pairs(self.store, self.made.x[rows], self.made.y[rows], label=label,
                     recorded=None if day is None else START + timedelta(day), **kwargs)
        self.end += n

    def settings(self, **values):
        return settings_from({"store": str(self.store), "runs": str(self.runs),
                              "cluster": self.cluster, **values}, "here", NightlySettings)

    def night(self, *, recompute=False, **values):
        return nightly(self.settings(**values), Screen(), recompute=recompute)

    def latest(self):
        return os.readlink(self.runs / "latest")

    def all_files(self):
        return {path: path.stat().st_mtime_ns for path in self.runs.rglob("*")
                if path.name != ".lock" and "jobs" not in path.parts}


@pytest.fixture
def nights(tmp_path, scheduler_file, make_pairs):
    return Nights(tmp_path, scheduler_file, make_pairs)


def n_read(outcome):
    return sum(outcome.document["bytes"].values()) / (2 * D * 8)


def test_a_first_night_publishes_what_a_run_of_the_store_gives(nights):
    nights.append(1000)
    found = nights.night()
    assert found.is_new
    assert nights.latest() == found.path.name == found.document["run"]
    assert {path.name for path in found.path.iterdir()} == {
        "result.zarr", "report.html", "settings.json", "ledger.json", "run.json",
        "dask-performance.html"}
    document = json.loads((found.path / "run.json").read_text())
    assert document == json.loads(json.dumps(found.document))
    whole = fit(open_pairs(nights.store))
    assert {*summary(whole, nights.store), "run", "new_pairs", "late_pairs", "alerts"} <= {
        *document}
    assert (document["new_pairs"], document["late_pairs"], document["alerts"]) == (1000, 0, [])
    np.testing.assert_array_equal(found.result().eigenvalues, whole.eigenvalues)
    np.testing.assert_array_equal(
        LowRankHessian.load(nights.runs / "latest" / "result.zarr").eigenvalues, whole.eigenvalues)


def test_a_second_call_finds_nothing_to_do_and_changes_nothing(nights):
    nights.append(500)
    first = nights.night()
    before = nights.all_files()
    second = nights.night()
    assert not second.is_new
    assert (second.path, second.document["run"]) == (first.path, first.document["run"])
    assert second.document["new_pairs"] == n_read(second) == 0
    assert nights.all_files() == before


def test_each_night_reads_its_own_pairs_and_tells_of_all(nights):
    nights.append(1000)
    nights.night()
    for n in (50, 3):
        nights.append(n)
        found = nights.night()
        assert found.document["new_pairs"] == n
        assert found.document["n_pairs"] == nights.end
        assert not found.document["read_all"]
        np.testing.assert_allclose(found.document["eigenvalues"][:3], EIGENVALUES, rtol=0.03)
    whole = fit(open_pairs(nights.store))
    assert found.document["residual"] == pytest.approx(whole.certificates.residual, rel=1e-6)
    assert [run.n_pairs for run in Catalog(nights.runs).runs()] == [1000, 1050, 1053]


def test_a_part_filled_chunk_that_is_filled_up_is_no_change(nights):
    nights.append(150, chunk_rows=100)
    nights.night()
    nights.append(30)
    found = nights.night()
    assert found.document["n_pairs"] == 180
    assert found.document["bytes"]["verify"] == 50 * 2 * D * 8  # rows 100 to 149 again


def test_late_pairs_are_just_more_pairs_and_are_counted_apart(nights):
    nights.append(300, day=10)
    nights.night()
    nights.append(40, day=9)
    nights.append(20, day=11)
    found = nights.night()
    assert (found.document["new_pairs"], found.document["late_pairs"]) == (60, 40)
    assert found.document["n_pairs"] == 360


def rewrite(store, label="y", row=130):
    """Other numbers in a row, with a checksum that fits."""
    zarr.open_group(store, mode="r+")[label][row] += 1.0


def test_counted_rows_that_have_changed_are_an_error_unless_all_are_to_be_read_again(nights):
    nights.append(300, chunk_rows=100)
    first = nights.night()
    rewrite(nights.store)
    with pytest.raises(BadPairs, match=r"other numbers in 1 blocks \(rows 100-199\).*--recompute"):
        nights.night()
    nights.append(10)
    with pytest.raises(BadPairs, match="nothing was added"):
        nights.night()
    assert nights.latest() == first.path.name
    found = nights.night(recompute=True)
    assert found.document["n_pairs"] == 310
    assert nights.latest() == found.path.name
    whole = fit(open_pairs(nights.store))
    np.testing.assert_allclose(found.document["eigenvalues"], whole.eigenvalues)
    [drift] = found.document["drift"].values()
    assert drift["shared_pairs"] == 200  # the other blocks
    assert not nights.night().is_new


def test_rows_that_have_changed_are_found_where_the_stored_states_are_gone(nights):
    nights.append(300, chunk_rows=100)
    nights.night()
    shutil.rmtree(nights.runs / "states")
    rewrite(nights.store)
    nights.append(50)
    with pytest.raises(BadPairs, match=r"other numbers in 1 blocks"):
        nights.night()
    assert nights.night(recompute=True).document["n_pairs"] == 350


def test_states_that_are_gone_are_told_and_made_anew(nights):
    nights.append(300)
    nights.night()
    shutil.rmtree(nights.runs / "states")
    nights.append(50)
    found = nights.night()
    assert (found.document["n_pairs"], found.document["new_pairs"]) == (350, 50)
    assert any("is gone or damaged: all pairs are read again" in said
               for said in found.document["notices"])


def test_a_result_that_is_gone_is_published_again_from_what_is_stored(nights):
    nights.append(300)
    first = nights.night()
    shutil.rmtree(first.path / "result.zarr")
    found = nights.night()
    assert found.is_new
    assert found.document["bytes"]["fit"] == 0
    np.testing.assert_array_equal(found.document["eigenvalues"], first.document["eigenvalues"])
    assert any("published again" in said for said in found.document["notices"])
    assert not nights.night().is_new


def test_what_another_setting_has_changed_is_no_drift(nights):
    alerts = {"overlap_below": 0.9, "drift_beyond": 3}
    nights.append(600)
    nights.night(alerts=alerts)
    found = nights.night(alerts=alerts, psd=True)  # one eigenvalue is negative
    assert found.document["rank"] < 3
    assert found.alerts == ()
    assert any("psd from False to True changed since run" in said
               for said in found.document["notices"])


def test_a_store_that_was_copied_is_no_change(nights):
    nights.append(300)
    first = nights.night()
    shutil.copytree(nights.store, nights.store.with_name("copy"))
    shutil.rmtree(nights.store)
    nights.store.with_name("copy").rename(nights.store)
    assert nights.night().path == first.path


def test_a_store_that_has_shrunk_is_an_error_unless_all_are_to_be_read_again(nights):
    nights.append(300)
    first = nights.night()
    shutil.rmtree(nights.store)
    nights.end = 0
    nights.append(200)
    with pytest.raises(BadPairs, match=r"the 300 rows that were counted.*got 200.*--recompute"):
        nights.night()
    assert nights.latest() == first.path.name
    assert nights.night(recompute=True).document["n_pairs"] == 200


@pytest.mark.parametrize(("window", "rows"), [
    ("last 2 days", slice(400, 800)), ("label b", slice(200, 400)), ("last label", slice(600, 800)),
    ("last 250 pairs", slice(550, 800))])
def test_a_window_is_the_sum_of_the_states_of_its_pairs(nights, window, rows):
    for day, label in enumerate("abcd"):
        nights.append(200, day=day, label=label)
    found = nights.night(window=window)
    assert found.document["ledger"]["rows"] == [[rows.start, rows.stop]]
    assert found.document["new_pairs"] == n_read(found) == rows.stop - rows.start
    whole = fit(type(open_pairs(nights.store))(nights.made.x[rows], nights.made.y[rows]))
    assert found.document["residual"] == pytest.approx(whole.certificates.residual, rel=0.02)
    assert found.document["n_pairs"] == whole.n_pairs


def test_a_window_slides_without_reading_what_was_read(nights):
    for day in range(4):
        nights.append(200, day=day)
    nights.night(window="last 3 days")
    nights.append(200, day=4)
    found = nights.night(window="last 3 days")
    assert found.document["ledger"]["rows"] == [[400, 1000]]
    assert found.document["new_pairs"] == 200
    assert found.document["bytes"]["fit"] == 200 * 2 * D * 8
    assert not nights.night(window="last 3 days").is_new
    wider = nights.night(window="last 4 days")  # those that had left it are still stored
    assert wider.document["ledger"]["rows"] == [[200, 1000]]
    assert n_read(wider) == 0
    assert wider.document["n_pairs"] == 800


@pytest.mark.parametrize(("window", "n", "first_row"), [
    ("last 500 pairs", 500, 550), *(pytest.param(*which, marks=pytest.mark.long) for which in (
        ("last 3 days", 650, 400), ("label b", 200, 200), ("last label", 50, 1000)))])
def test_a_window_over_pairs_that_were_counted_as_a_whole_counts_all_of_its_own(
        nights, window, n, first_row):
    for day, label in enumerate("abcde"):
        nights.append(200, day=day, label=label)
    nights.night()
    nights.append(50, day=4, label="f")
    found = nights.night(window=window)
    assert found.document["n_pairs"] == n
    assert found.document["ledger"]["rows"][0][0] == first_row
    assert nights.night().document["n_pairs"] == 1050  # and of all again, each once


def test_latest_is_the_run_of_the_settings_that_were_called_with(nights):
    nights.append(300)
    first = nights.night()
    nights.night(weighting="step")
    again = nights.night()
    assert not again.is_new
    assert nights.latest() == again.path.name == first.path.name


@pytest.mark.long
def test_a_store_by_another_name_is_the_same_store(nights, monkeypatch, tmp_path):
    nights.append(300)
    nights.night()
    monkeypatch.chdir(tmp_path)
    nights.append(40)
    found = nights.night(store="pairs.zarr")
    assert found.document["new_pairs"] == 40
    assert list(found.document["drift"])[0].startswith("the last run")
    assert found.document["explained"]["excess"] < 4


@pytest.mark.long
def test_reading_everything_again_explains_no_pairs_that_the_last_run_has_seen(nights):
    nights.append(300)
    nights.night()
    assert nights.night(recompute=True).document["explained"] is None
    assert nights.night(weighting="step").document["explained"] is None


@pytest.mark.long
def test_a_window_that_moves_on_keeps_what_was_counted(nights):
    for day, label in enumerate("abc"):
        nights.append(200, day=day, label=label)
        found = nights.night(window="last label")
        assert (found.document["n_pairs"], n_read(found)) == (200, 200)
    assert n_read(nights.night(window="label a")) == 0
    assert n_read(nights.night()) == 0


def test_metadata_of_states_that_was_changed_is_not_believed(nights):
    nights.append(300)
    nights.night()
    [group] = nights.runs.glob("states/*/0*/000001.zarr")
    metadata = json.loads((group / "zarr.json").read_text())
    next(iter(metadata["attributes"]["parts"][0]["states"].values()))["energy"] *= 10
    (group / "zarr.json").write_text(json.dumps(metadata))
    nights.append(20)
    found = nights.night()
    assert any("cannot be read" in said for said in found.document["notices"])
    assert found.document["residual"] == pytest.approx(
        fit(open_pairs(nights.store)).certificates.residual, rel=1e-6)


def test_no_secret_of_a_stores_address_is_told(nights):
    settings = nights.settings(store="https://me:hunter2@host/p.zarr?X-Signature=hunter2")
    assert "hunter2" not in json.dumps(settings.model_dump())
    assert "hunter2" in settings.store


def test_a_window_without_pairs_is_an_error(nights):
    nights.append(100, label="a")
    with pytest.raises(SettingsError, match="window 'label b'.*some pairs in it, got none"):
        nights.night(window="label b")


def test_another_rank_is_another_run_that_reads_nothing(nights):
    nights.append(500)
    nights.night()
    found = nights.night(rank=2)
    assert found.is_new
    assert found.document["rank"] == 2
    assert n_read(found) == found.document["new_pairs"] == 0
    assert not nights.night(rank=2).is_new


def test_a_setting_that_starts_a_new_lineage_is_named(nights):
    nights.append(500)
    first = nights.night()
    found = nights.night(weighting="step")
    assert any("weighting from 'stored' to 'step' changed" in said and "new lineage" in said
               for said in found.document["notices"])
    assert n_read(found) == 500
    assert found.document["lineage"] != first.document["lineage"]


def test_what_was_counted_but_not_published_is_not_read_again(nights, monkeypatch):
    nights.append(500)
    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "publish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            nights.night()
    assert not (nights.runs / "latest").exists()
    found = nights.night()
    assert found.is_new
    assert n_read(found) == 0
    assert (found.document["n_pairs"], found.document["new_pairs"]) == (500, 500)


def test_states_that_are_damaged_are_made_anew(nights):
    nights.append(500)
    nights.night()
    [chunk] = [p for p in nights.runs.glob("states/*/0*/000001.zarr/float64/c/*") if p.is_file()]
    chunk.write_bytes(chunk.read_bytes()[:-100])
    nights.append(20)
    found = nights.night()
    assert any("cannot be read" in said for said in found.document["notices"])
    assert found.document["n_pairs"] == n_read(found) - found.document["bytes"]["verify"] / (
        16 * D) == 520


def test_a_store_without_a_manifest_counts_as_a_batch_a_night(nights):
    group = zarr.open_group(nights.store, mode="w")
    for label in ("x", "y"):
        group.create_array(label, data=getattr(nights.made, label)[:300], chunks=(128, D))
    nights.night()
    for label in ("x", "y"):
        group[label].append(getattr(nights.made, label)[300:420])
    found = nights.night()
    assert (found.document["new_pairs"], found.document["n_pairs"]) == (120, 420)
    assert not nights.night().is_new


def test_an_icechunk_store_is_read_at_the_snapshot_that_is_recorded(
        tmp_path, scheduler_file, make_pairs):
    nights = Nights(tmp_path, scheduler_file, make_pairs, "pairs.icechunk")
    nights.append(300, chunk_rows=100)
    first = nights.night()
    assert first.document["snapshot"] == open_pairs(nights.store).snapshot
    assert not nights.night().is_new
    nights.append(150)
    found = nights.night()
    assert found.document["snapshot"] != first.document["snapshot"]
    assert (found.document["new_pairs"], found.document["n_pairs"]) == (150, 450)
    assert found.document["bytes"]["verify"] == 0  # the chunks before were full


def test_a_snapshot_that_changed_rows_outside_of_the_window_is_found(
        tmp_path, scheduler_file, make_pairs):
    nights = Nights(tmp_path, scheduler_file, make_pairs, "pairs.icechunk")
    for day in range(4):
        nights.append(100, day=day, chunk_rows=100)
    nights.night(window="last 4 days")
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(nights.store)))
    session = repository.writable_session("main")
    zarr.open_group(session.store)["y"][20:30] += 1.0
    session.commit("other numbers")
    for window in ("last 2 days", "last 4 days"):
        with pytest.raises(BadPairs, match="other numbers"):
            nights.night(window=window)


@pytest.mark.long
def test_a_store_in_a_bucket_tells_of_changed_chunks_by_their_tags(tmp_path, make_pairs):
    nights = Nights(tmp_path, None, make_pairs)
    nights.append(300, chunk_rows=100)
    with moto(tmp_path / "moto.log") as server, pytest.MonkeyPatch.context() as patch:
        for name, value in (("AWS_ACCESS_KEY_ID", "someone"), ("AWS_SECRET_ACCESS_KEY", "secret"),
                            ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server}")):
            patch.setenv(name, value)
        make_bucket(server)
        url = put(server, nights.store)
        nights.cluster = {"kind": "local", "workers": 1}
        nights.night(store=url)
        assert not nights.night(store=url).is_new
        nights.append(40)
        put(server, nights.store)
        found = nights.night(store=url)
        assert (found.document["new_pairs"], found.document["n_pairs"]) == (40, 340)
        assert found.document["bytes"]["verify"] == 0
        rewrite(nights.store)
        put(server, nights.store)
        with pytest.raises(BadPairs, match=r"other numbers in 1 blocks \(rows 100-199\)"):
            nights.night(store=url)
    remote._opened.cache_clear()  # of a server that is gone


@pytest.mark.long
def test_few_pairs_are_read_every_night_that_brings_more(tmp_path, scheduler_file, make_pairs):
    made = make_pairs(1, 60, 900, EIGENVALUES, noise=0.01)
    nights = Nights(tmp_path, scheduler_file, make_pairs)
    nights.made = made
    nights.append(50)
    nights.night()
    assert not nights.night().is_new
    nights.append(10)
    found = nights.night()
    assert (found.document["new_pairs"], found.document["n_pairs"]) == (10, 60)
    np.testing.assert_array_equal(found.result().eigenvalues,
                                  fit(open_pairs(nights.store)).eigenvalues)
    rewrite(nights.store, row=20)
    with pytest.raises(BadPairs, match="other numbers"):
        nights.night()


@pytest.mark.long
def test_pairs_that_are_read_feature_by_feature_are_read_again_where_a_chunk_has_changed(
        nights, monkeypatch):
    monkeypatch.setattr(budget, "MAX_WHOLE_BYTES", 0)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    write_known(nights.store, 40, Known.indefinite(800, 2), noise=0.0, chunks=(40, 100))
    first = nights.night()
    assert first.result().provenance["route"] == "by_features"
    assert not nights.night().is_new
    rewrite(nights.store, row=20)  # no digest of whole rows is known that it could be held against
    second = nights.night()
    assert second.is_new
    assert any("cannot be told" in said for said in second.document["notices"])
    assert second.document["residual"] > 10 * first.document["residual"]
    assert not nights.night().is_new


def test_runs_in_the_store_are_refused(nights):
    with pytest.raises(SettingsError, match="lies in the store"):
        nights.settings(runs=f"{nights.store}/runs")


@pytest.mark.long
def test_runs_keep_their_order_when_the_clock_goes_backwards(nights):
    nights.append(100)
    first = nights.night()
    document = json.loads((first.path / "run.json").read_text())
    (first.path / "run.json").write_text(json.dumps({**document, "created":
                                                     "2100-01-01T00:00:00Z"}))
    (nights.runs / "index.json").unlink()
    nights.append(20)
    found = nights.night()
    assert [run.run for run in Catalog(nights.runs).runs()] == [first.path.name, found.path.name]
    assert any("gone backwards" in said for said in found.document["notices"])


def test_alerts_of_a_night_that_died_before_it_told_them_are_told_by_the_next(
        nights, receiver, monkeypatch):
    alerts = {"sharpness_above": 0.1, "webhook": receiver.url}
    nights.append(300)
    with monkeypatch.context() as patch:
        patch.setattr(every_night._Call, "_ended", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            nights.night(alerts=alerts)
    assert receiver.got == []
    found = nights.night(alerts=alerts)
    assert not found.is_new
    assert [alert.name for alert in found.alerts] == ["sharpness_above"]
    assert [json.loads(body)["run"]["run"] for *_, body in receiver.got] == [found.document["run"]]
    assert nights.night(alerts=alerts).alerts == ()
    assert len(receiver.got) == 1


def test_old_pairs_are_an_alert_of_every_call_and_sent_once(nights, receiver):
    alerts = {"stale_after": "1h", "webhook": receiver.url}
    nights.append(300, day=1)
    assert [len(nights.night(alerts=alerts).alerts) for _ in range(3)] == [1, 1, 1]
    assert len(receiver.got) == 1
    nights.append(10, day=2)
    nights.night(alerts=alerts)
    assert len(receiver.got) == 2


@pytest.mark.long
def test_what_looking_again_has_cost_is_told_where_nothing_is_new(nights):
    group = zarr.open_group(nights.store, mode="w")
    for label in ("x", "y"):  # compressed: of a chunk the time of writing tells
        group.create_array(label, data=getattr(nights.made, label)[:300], chunks=(128, D))
    nights.night()
    for path in nights.store.rglob("c/*/*"):
        os.utime(path)
    found = nights.night()
    assert not found.is_new
    assert found.document["bytes"]["verify"] == 300 * 2 * D * 8
    assert found.document["seconds"]["verify"] > 0


def test_runs_whose_documents_are_damaged_are_left_out_and_named(lrh, nights):
    """One of the size and the time that the index knows, and the last one, which is cut off."""
    documents = []
    for _ in range(3):
        nights.append(200)
        documents.append(nights.night().path / "run.json")
    rotten, whole, cut = documents
    seen = rotten.stat()
    rotten.write_bytes(bytes(seen.st_size))
    os.utime(rotten, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    cut.write_text(cut.read_text()[:100])
    listed = lrh("runs", "--runs", nights.runs, cwd="/")
    assert listed.returncode == 0
    assert [path.parent.name in listed.stdout for path in documents] == [False, True, False]
    nights.append(200)
    found = nights.night()
    assert found.document["n_pairs"] == 800
    assert found.document["bytes"]["fit"] == 200 * 2 * D * 8
    for path in (rotten, cut):
        assert f"Notice: read {path}" in listed.stderr
        assert any(f"read {path}" in said for said in found.document["notices"])
    assert not nights.night().is_new


def test_a_result_that_cannot_be_compared_with_is_told_without_advice_to_who_stops(nights):
    nights.append(200)
    first = nights.night().path
    shutil.rmtree(first / "result.zarr")
    nights.append(200)
    told, = (said for said in nights.night().document["notices"] if first.name in said)
    assert told == (f"run {first.name} could not be compared with: read result "
                    f"{first / 'result.zarr'}: expected a result of `lrh run`, got nothing there")


@pytest.mark.long
def test_pairs_recorded_in_days_to_come_count_and_are_told(nights):
    nights.append(300, day=1)
    nights.night(window="last 30 days")
    nights.append(100, day=2)
    manifest = nights.store / "lrh_manifest" / "zarr.json"
    manifest.write_text(manifest.read_text().replace("2026-11-03", "2091-11-03"))  # a wrong clock
    nights.append(50, day=3)
    asked = {"window": "last 30 days", "alerts": {"stale_after": "1 min"}}
    found = nights.night(**asked)
    assert (found.document["n_pairs"], found.document["late_pairs"]) == (450, 0)
    assert any("rows 300-399 say that they were recorded after today" in said
               for said in found.document["notices"])
    for night in (found, nights.night(**asked)):
        alert, = night.alerts
        newest = datetime.now(UTC) - START - timedelta(3)
        assert alert.measured == pytest.approx(newest.total_seconds(), abs=60)


def test_the_index_can_be_deleted_damaged_or_stale(nights):
    nights.append(100)
    first = nights.night()
    nights.append(50)
    nights.night()
    index = nights.runs / "index.json"
    listed = Catalog(nights.runs).runs()
    for content in (None, "{", json.dumps({"runs": []})):
        index.unlink()
        if content is not None:
            index.write_text(content)
        assert Catalog(nights.runs).runs() == listed
        assert len(json.loads(index.read_text())["runs"]) == 2
    shutil.rmtree(first.path)
    assert [run.sequence for run in Catalog(nights.runs).runs()] == [2]
    nights.append(10)
    assert nights.night().document["n_pairs"] == 160


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_read(nights, tmp_path):
    nights.append(100)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"expected a folder that can be written.*`runs:`"):
        nights.night(runs=str(tmp_path / "file" / "runs"))


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", disk],
                             capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk could be mounted: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_publishes_nothing_and_the_next_run_goes_on(nights, small_disk, tmp_path):
    nights.append(600)
    with pytest.raises(RunFailed, match=r"No space left.*[Nn]othing|not published"):
        nights.night(runs=str(small_disk / "runs"))
    assert not (small_disk / "runs" / "latest").exists()
    assert Catalog(small_disk / "runs").runs() == []
    assert not list((small_disk / "runs").glob(".2*"))  # nothing half written is left
    nights.runs = tmp_path / "roomy"
    shutil.copytree(small_disk / "runs", nights.runs)
    assert nights.night().document["n_pairs"] == 600


def test_a_run_can_be_cancelled_while_its_cluster_starts(tmp_path):
    write_known(tmp_path / "pairs.zarr", 4000, Known.indefinite(16, 4))
    (tmp_path / "night.yaml").write_text("store: pairs.zarr\nruns: runs\n")
    started = subprocess.Popen([sys.executable, "-m", "lrh_dask", "nightly", "night.yaml"],
                               cwd=tmp_path, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not (found := list(tmp_path.glob("runs/jobs/*/log.txt"))):  # the line before it
        assert started.poll() is None
        time.sleep(0.01)
    (found[0].parent / "cancel").touch()
    started.communicate(timeout=60)
    assert started.returncode == 130
    assert json.loads(found[0].with_name("status.json").read_text())["state"] == "cancelled"
    assert not list(tmp_path.glob("runs/2*"))


@pytest.fixture
def config(nights, tmp_path):
    """A file of settings as small as can be; the cluster is Dask's own setting."""
    path = tmp_path / "night.yaml"
    path.write_text(f"store: {nights.store}\nruns: {nights.runs}\n")
    return path


def test_the_command_needs_a_store_and_a_folder_and_prints_what_a_run_prints(
        lrh, nights, config, scheduler_file):
    nights.append(400)
    done = lrh("nightly", config, "--scheduler", scheduler_file, "--json", cwd="/")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["new_pairs"] == 400
    again = lrh("nightly", config, "--scheduler", scheduler_file, "--json", cwd="/")
    assert again.returncode == 0
    assert json.loads(again.stdout)["new_pairs"] == 0
    assert json.loads(again.stdout)["run"] == document["run"]
    listed = lrh("runs", "--runs", config, cwd="/")
    assert document["run"] in listed.stdout
    assert len(json.loads(lrh("runs", "--runs", nights.runs, "--json", cwd="/").stdout)) == 1


def test_alerts_end_the_command_with_5_and_the_result_is_written(
        lrh, nights, config, scheduler_file):
    nights.append(400, day=0)
    config.write_text(config.read_text() + "alerts:\n  sharpness_above: 2.5\n  stale_after: 1d\n")
    done = lrh("nightly", config, "--scheduler", scheduler_file, "--json", cwd="/")
    assert done.returncode == 5
    assert [alert["name"] for alert in json.loads(done.stdout)["alerts"]] == [
        "sharpness_above", "stale_after"]
    assert "2 alerts" in done.stderr
    again = lrh("nightly", config, "--scheduler", scheduler_file, "--json", cwd="/")
    assert again.returncode == 5  # nothing is new, and that is what is wrong
    assert [alert["name"] for alert in json.loads(again.stdout)["alerts"]] == ["stale_after"]


def test_of_two_at_once_one_is_told_to_come_again_or_waits(lrh, nights, config, scheduler_file):
    nights.append(400)
    with Catalog(nights.runs).held(wait=False, say=print):
        busy = lrh("nightly", config, "--scheduler", scheduler_file, cwd="/")
        assert busy.returncode == 75
        assert "no other run in this folder" in busy.stderr
        waiting = subprocess.Popen(
            [sys.executable, "-m", "lrh_dask", "nightly", config, "--scheduler", scheduler_file,
             "--wait", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            stdin=subprocess.DEVNULL)
        assert any("waiting for its end" in line for line in waiting.stderr)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
    out, err = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, err
    assert json.loads(out)["new_pairs"] == 400


def test_two_at_once_for_real_count_each_pair_once(nights, config, scheduler_file):
    nights.append(400)
    both = [subprocess.Popen(
        [sys.executable, "-m", "lrh_dask", "nightly", config, "--scheduler", scheduler_file,
         "--wait", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        stdin=subprocess.DEVNULL) for _ in range(2)]
    documents = [json.loads(one.communicate(timeout=120)[0]) for one in both]
    assert sorted(d["new_pairs"] for d in documents) == [0, 400]
    assert len(Catalog(nights.runs).runs()) == 1


def test_a_dead_scheduler_is_told(lrh, nights, config, monkeypatch):
    monkeypatch.setattr(running_cluster, "CONNECT_SECONDS", 1)
    nights.append(100)
    done = lrh("nightly", config, "--scheduler", "tcp://127.0.0.1:1", cwd="/")
    assert done.returncode == 4
    assert "Check that `dask scheduler` runs there" in done.stderr


def broken_off(nights, monkeypatch, **values):
    """A night that ends when all is counted, and before any of it is stored."""
    with monkeypatch.context() as patch:
        patch.setattr(every_night._Call, "_keep_states", lambda *_: (_ for _ in ()).throw(
            KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            nights.night(**values)


def kept_states(nights):
    return list(nights.runs.glob("states/*/kept/*.zip"))


@pytest.mark.parametrize("basis", ["auto", pytest.param(4, marks=pytest.mark.long)])
def test_a_night_that_was_broken_off_is_finished_first_without_reading_again(
        nights, monkeypatch, basis):
    nights.append(400)
    broken_off(nights, monkeypatch, basis=basis)
    assert kept_states(nights)
    nights.append(130)
    found = nights.night(basis=basis)
    first, second = Catalog(nights.runs).runs()
    assert (first.n_pairs, second.n_pairs) == (400, 530)
    assert found.document["run"] == second.run == nights.latest()
    read = Catalog(nights.runs).document(first.run)["bytes"]
    assert read["basis"] == read["fit"] == 0
    assert not kept_states(nights)
    free = fit(open_pairs(nights.store).first(400), basis=basis)
    result = LowRankHessian.load(nights.runs / first.run / "result.zarr")
    assert result.eigenvalues.tobytes() == free.eigenvalues.tobytes()
    assert not nights.night(basis=basis).is_new


def test_a_night_of_other_settings_is_not_the_one_that_was_broken_off(nights, monkeypatch):
    nights.append(400)
    broken_off(nights, monkeypatch)
    nights.append(130)
    nights.night(rank=2)
    [run] = Catalog(nights.runs).runs()
    assert run.n_pairs == 530


@pytest.mark.long
def test_what_was_recomputed_and_broken_off_is_finished_by_an_ordinary_night(nights, monkeypatch):
    nights.append(400)
    nights.night()
    group = zarr.open_group(nights.store)
    group["y"][:] = 2 * group["y"][:]
    with pytest.raises(BadPairs, match="--recompute"):
        nights.night()
    broken_off(nights, monkeypatch, recompute=True)
    found = nights.night()
    assert found.is_new
    assert found.document["read_all"]
    assert found.document["bytes"]["fit"] == 0  # all was read when it was broken off


def test_recompute_reads_everything_whatever_a_night_has_kept(nights, monkeypatch):
    nights.append(400)
    broken_off(nights, monkeypatch)
    found = nights.night(recompute=True)
    assert n_read(found) >= 400


def test_a_run_whose_process_died_when_it_was_published_is_not_published_again(nights):
    nights.append(400)
    first = nights.night()
    nights.append(130)  # meanwhile
    again = nightly(nights.settings(), Screen(), run_id=first.document["run"])
    assert again.document["run"] == first.document["run"]
    assert nights.night().document["n_pairs"] == 530


def test_rows_that_are_written_while_a_night_reads_them_leave_no_run(nights, monkeypatch):
    from lrh_dask.runs.graph import Stages

    nights.append(400)
    solve = Stages.solve

    def solving(self, *args, **kwargs):
        found = solve(self, *args, **kwargs)
        group = zarr.open_group(nights.store)
        group["y"][:10] = 2 * group["y"][:10]
        return found

    monkeypatch.setattr(Stages, "solve", solving)
    with pytest.raises(BadPairs, match="written or removed"):
        nights.night()
    assert not list(nights.runs.glob("[!.]*/run.json"))
