"""Settings are checked before anything starts, and say all that is wrong with them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lrh_dask import SettingsError
from lrh_dask.settings.cluster_settings import QUEUES
from lrh_dask.settings.config import (
    NightlySettings,
    RunSettings,
    settings_from,
    settings_of,
)
from lrh_dask.settings.yaml_file import read_yaml

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("name", "kind"), [
    ("config.schema.json", RunSettings), ("nightly.schema.json", NightlySettings)])
def test_the_shipped_schemas_are_those_of_the_settings(name, kind):
    shipped = json.loads((ROOT / "lrh_dask" / "settings" / name).read_text())
    assert shipped == kind.model_json_schema()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_example_loads(path):
    loaded, _ = read_yaml(path)
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
        read_yaml(tmp_path / "a.yaml")


def test_yaml_runs_no_code(tmp_path):
    (tmp_path / "a.yaml").write_text(f"store: !!python/object/apply:os.mkdir ['{tmp_path}/x']")
    with pytest.raises(SettingsError):
        read_yaml(tmp_path / "a.yaml")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("text", "said"), [
    ("store: a\nrank: 3\n\nrnak: 4\n", "rnak: unknown setting (line 4)"),
    ("store: a\ncluster:\n  kind: local\n  wrokers: 2\n",
     "cluster.wrokers: unknown setting (line 4)"),
    ("store: a\ncluster:\n  kind: address\n  address: tls://h:1\n  tls: {ca_file: a, cert: b,\n"
     "        kye: c}\n", "cluster.tls.kye: unknown setting (line 6)"),
    ("store: a\ncluster:\n  kind: address\n  address: tls://h:1\n  tls: {ca_file: a, cert: b}\n",
     "cluster.tls.key: missing (line 5)"),
    ("store: a\nrank: all\n", "got 'all' (line 2)"),
    ("store: a\ncluster: {kind: address}\n", "`address: tcp://host:8786` (line 2)")])
def test_what_is_wrong_in_a_file_is_told_with_its_line(tmp_path, text, said):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        settings_of(RunSettings, f"{tmp_path}/a.yaml", {}, {})
    assert f"settings in {tmp_path}/a.yaml" in str(caught.value)
    assert said in str(caught.value)


def test_what_the_command_line_has_said_has_no_line(tmp_path):
    (tmp_path / "a.yaml").write_text("store: a\nrank: 3\ncluster:\n  workers: 2\n")
    with pytest.raises(SettingsError) as caught:
        settings_of(RunSettings, f"{tmp_path}/a.yaml", {"rank": "all"}, {"workers": 0})
    assert "(line" not in str(caught.value)


@pytest.mark.parametrize(("text", "said"), [
    ("store: a\nrank: 3\nrank: 4\n", "`rank` twice, in lines 2 and 3"),
    ("store: a\ncluster: {workers: 1, 'workers': 2}\n", "`cluster.workers` twice"),
    ("store: a\n? [a, b]\n: c\n", "no name in line 2")])
def test_a_key_that_stands_twice_is_refused(tmp_path, text, said):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert said in str(caught.value)


BOMB = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30))


@pytest.mark.parametrize(("text", "said"), [
    (BOMB, "aliases"), (f"store: a\n<<: *x\n{BOMB}", "undefined alias"),
    ("store: &a {b: *a}\n", "aliases"), ("store: " + "[" * 100_000, ""),
    ("store: a\n#" + " " * 2**20, "more than 1 MiB"),
    ("store: &s {a: 1}\nm: &m {<<: [" + "*s, " * 150_000 + "]}\n", "aliases")])
def test_a_file_that_would_grow_beyond_measure_is_refused_in_little_memory(tmp_path, text, said):
    (tmp_path / "a.yaml").write_text(text)
    code = (f"import resource; from pathlib import Path\n"
            f"from lrh_dask.settings.yaml_file import read_yaml\n"
            f"at = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
            f"resource.setrlimit(resource.RLIMIT_AS, (at + 2**29,) * 2)\n"
            f"try: read_yaml(Path({str(tmp_path / 'a.yaml')!r}))\n"
            f"except ValueError as error: print(type(error).__name__, error)\n")
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60,
                          check=False)
    assert done.stdout.startswith("SettingsError read settings"), done.stderr
    assert said in done.stdout


def test_anchors_of_a_sensible_size_are_what_they_stand_for(tmp_path):
    (tmp_path / "a.yaml").write_text("store: a\nout: &o b\nx: *o\n")
    assert read_yaml(tmp_path / "a.yaml")[0] == {"store": "a", "out": "b", "x": "b"}


@pytest.mark.parametrize("name", ["options", "webhook"])
def test_a_wrong_value_that_may_be_a_password_is_not_shown(tmp_path, name):
    text = {"options": "store: a\ncluster: {kind: ssh, hosts: [a, b], options: s3cr3t}\n",
            "webhook": "store: a\nruns: b\nalerts: {webhook: [s3cr3t]}\n"}[name]
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(SettingsError, match=name) as caught:
        settings_of({"options": RunSettings, "webhook": NightlySettings}[name],
                    f"{tmp_path}/a.yaml", {}, {})
    assert "s3cr3t" not in str(caught.value)


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
