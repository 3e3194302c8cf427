"""Settings are checked before anything starts, and say all that is wrong with them."""

import json
from pathlib import Path

import pytest

from lrh_dask import SettingsError
from lrh_dask.settings.cluster_settings import QUEUES
from lrh_dask.settings.config import (
    NightlySettings,
    RunSettings,
    load_config,
    settings_from,
    settings_of,
)

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("name", "kind"), [
    ("config.schema.json", RunSettings), ("nightly.schema.json", NightlySettings)])
def test_the_shipped_schemas_are_those_of_the_settings(name, kind):
    shipped = json.loads((ROOT / "lrh_dask" / "settings" / name).read_text())
    assert shipped == kind.model_json_schema()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_example_loads(path):
    loaded = load_config(path)
    kind = NightlySettings if "runs" in loaded else RunSettings
    settings_from(loaded, str(path), kind)


def test_unknown_settings_are_all_named():
    with pytest.raises(SettingsError, match=r"cluster.wrokers: unknown.*rnak: unknown"):
        settings_from({"store": "a", "rnak": 3, "cluster": {"wrokers": 2}}, "here", RunSettings)


@pytest.mark.parametrize(("values", "said"), [
    ({}, "store: missing"),
    ({"store": "a", "rank": 0}, "rank: expected 'auto' or a whole number >= 1, got 0"),
    ({"store": "a", "rank": "all"}, "rank: expected 'auto' or a whole number >= 1, got 'all'"),
    ({"store": "a", "center": "maybe"}, "center: expected auto, yes or no, got 'maybe'"),
    ({"store": "a", "method": "best"}, "method: Input should be 'symmetric'"),
    ({"store": "a", "cluster": {"memory_limit": "4gibb"}}, "expected a size such as 4GiB"),
    ({"store": "a", "cluster": {"kind": "address"}}, "needs `address` beside it, such as"),
    *(({"store": "a", "cluster": {"kind": kind}},
       f"`kind: {kind}` needs `workers` beside it, such as `workers: 8`")
      for kind in (*QUEUES, "kubernetes")),
    ({"store": "a", "cluster": {"kind": "address", "address": "tcp://h:1", "workers": 2}},
     "`workers` cannot be set"),
    ({"store": "a", "rank": True}, "rank: expected 'auto' or a whole number >= 1, got True"),
])
def test_a_wrong_value_is_said_once_with_what_is_allowed(values, said):
    with pytest.raises(SettingsError, match="Nothing was started") as caught:
        settings_from(values, "here", RunSettings)
    assert said in str(caught.value)


def test_a_scheduler_given_takes_the_place_of_the_files_cluster(tmp_path):
    (tmp_path / "a.yaml").write_text("store: a\ncluster: {workers: 2, memory_limit: 1GiB}\n")
    path, address = f"{tmp_path}/a.yaml", {"scheduler": "tcp://h:1"}
    assert settings_of(RunSettings, path, {}, address).cluster.address == "tcp://h:1"
    assert settings_of(RunSettings, path, {}, {"workers": 3}).cluster.memory_limit == "1GiB"


@pytest.mark.parametrize("text", ["store: [", "- a\n- b", "", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(SettingsError, match="read settings"):
        load_config(tmp_path / "a.yaml")


def test_yaml_runs_no_code(tmp_path):
    (tmp_path / "a.yaml").write_text(f"store: !!python/object/apply:os.mkdir ['{tmp_path}/x']")
    with pytest.raises(SettingsError):
        load_config(tmp_path / "a.yaml")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("out", ["d/pairs.zarr", "d", ".", "d/pairs.zarr/x"])
def test_a_result_never_takes_the_place_of_its_store(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="destroy its own input"):
        _ = RunSettings(store="d/pairs.zarr", out=out, overwrite=True).result_path


def test_the_result_lies_beside_the_store():
    assert RunSettings(store="d/pairs.zarr").result_path == Path("d/pairs-hessian.zarr")
    assert RunSettings(store="file:///d/p.zarr").result_path == Path("/d/p-hessian.zarr")
    assert "~" not in str(RunSettings(store="a", out="~/r.zarr").result_path)
    with pytest.raises(SettingsError, match="--out"):
        _ = RunSettings(store="s3://bucket/pairs.zarr").result_path
