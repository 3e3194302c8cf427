"""Certificates let in who holds them: other authorities and plain clients are refused and told."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest
import yaml
from cluster_processes import address_in, scheduler, worker

import lrh_dask
from lrh_dask import SettingsError
from lrh_dask.clusters import running_cluster
from lrh_dask.clusters.certificates import make_certificates
from lrh_dask.clusters.cluster import connect
from lrh_dask.clusters.port_checks import check_certificates
from lrh_dask.settings.cluster_settings import ClusterSettings


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("made") / "certificates", 30)


@pytest.fixture(scope="module")
def store(tmp_path_factory, make_pairs):
    pairs = make_pairs(0, 300, 8, [3.0, -1.0], noise=0.01)
    return lrh_dask.write_pairs(tmp_path_factory.mktemp("store") / "p.zarr", pairs.x, pairs.y)


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory, made):
    """Scheduler and worker, started by the lines that `lrh certs` prints."""
    files = ["--protocol", "tls", "--tls-ca-file", made.ca_file, "--tls-cert", made.cert,
             "--tls-key", made.key]
    with scheduler(tmp_path_factory.mktemp("encrypted"), *files) as path, worker(path, *files):
        yield address_in(path)


def test_what_is_made_is_for_its_owner_alone(lrh, tmp_path):
    before = os.umask(0)
    try:
        done = lrh("certs", "mine/new", cwd=tmp_path)
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "mine" / "new"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "ca.pem": 0o600, "cert.pem": 0o600, "key.pem": 0o600}


def test_what_is_printed_are_settings_that_work(lrh, store, tmp_path):
    printed = lrh("certs", "new", "--days", 3, cwd=tmp_path).stdout
    settings = yaml.safe_load(printed)
    assert set(settings["cluster"]["tls"]) == {"ca_file", "cert", "key"}
    settings["cluster"]["workers"] = 1
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(
        {"store": str(store), "out": "r.zarr", **settings}))
    done = lrh("run", "run.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "dask scheduler --protocol tls --tls-ca-file /" in printed


def test_certificates_in_use_are_never_written_over(lrh, made, tmp_path):
    folder = Path(made.key).parent
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = lrh("certs", folder, cwd=tmp_path)
    assert done.returncode == 2
    assert "one that exists" in done.stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_extra_is_named_where_it_is_missing(lrh, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    done = lrh("certs", "new", cwd=tmp_path)
    assert done.returncode == 2
    assert 'pip install "lrh-dask[tls]"' in done.stderr
    assert not (tmp_path / "new").exists()


def test_they_end_when_they_were_to_end(tmp_path):
    long, short = (dict(make_certificates(tmp_path / str(days), days)) for days in (20, 3))
    assert check_certificates(long, encrypted=True).health.name == "good"
    assert check_certificates(short, encrypted=True).health.name == "fair"


def run(lrh, store, tmp_path, address, tls=None):
    cluster = {"kind": "address", "address": address}
    if tls is not None:
        cluster["tls"] = dict(tls)
    (tmp_path / "run.yaml").write_text(json.dumps(
        {"store": str(store), "out": "r.zarr", "cluster": cluster}))
    return lrh("run", "run.yaml", "--json", cwd=tmp_path)


def test_who_holds_them_is_let_in(lrh, store, tmp_path, encrypted, made):
    done = run(lrh, store, tmp_path, encrypted, made)
    assert done.returncode == 0, done.stderr
    assert "Cluster: tls://127.0.0.1" in done.stderr


def test_another_authority_is_refused(lrh, store, tmp_path, encrypted):
    done = run(lrh, store, tmp_path, encrypted, make_certificates(tmp_path / "other", 3))
    assert done.returncode == 4
    assert "expected certificates that both sides trust" in done.stderr
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr


def test_a_plain_client_is_refused(lrh, store, tmp_path, encrypted, monkeypatch):
    monkeypatch.setattr(running_cluster, "CONNECT_SECONDS", 2)
    done = run(lrh, store, tmp_path, encrypted.replace("tls://", "tcp://"))
    assert done.returncode == 4
    assert "whether it speaks TLS" in done.stderr


def test_a_local_cluster_with_certificates_lets_nobody_else_in(made, tmp_path, monkeypatch):
    monkeypatch.setattr(running_cluster, "CONNECT_SECONDS", 2)
    other = make_certificates(tmp_path / "other", 3)
    with connect(ClusterSettings(workers=1, tls=made)) as client:
        address = client.scheduler.address
        addresses = [address, *client.scheduler_info(n_workers=-1)["workers"]]
        assert all(one.startswith("tls://127.0.0.1") for one in addresses)
        with pytest.raises(lrh_dask.RunFailed, match="that both sides trust"), \
                connect(ClusterSettings(kind="address", address=address, tls=other)):
            raise AssertionError
        plain = address.replace("tls", "tcp")
        with pytest.raises(lrh_dask.RunFailed, match="speaks TLS"), \
                connect(ClusterSettings(kind="address", address=plain)):
            raise AssertionError
        assert client.submit(sum, [1, 2]).result() == 3


def test_certificates_that_are_not_there_are_told_before_a_cluster_is_started(made, tmp_path):
    gone = made.model_copy(update={"key": str(tmp_path / "gone.pem")})
    with pytest.raises(SettingsError, match=r"cluster\.tls\.key"), \
            connect(ClusterSettings(workers=1, tls=gone)):
        raise AssertionError
