"""Clusters of separate processes are reached, trusted and left as they were, or it is said why."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cluster_processes import address_in, cluster, fresh_environment, process, scheduler, worker
from distributed import Client, Security

import lrh_dask
from lrh_dask import RunFailed, SettingsError
from lrh_dask.clusters import running_cluster
from lrh_dask.clusters.cluster import connect
from lrh_dask.clusters.lost_workers import watch_workers
from lrh_dask.settings.cluster_settings import ClusterSettings, cluster_at

LRH = Path(sys.executable).with_name("lrh")


def at(path, **more):
    return ClusterSettings(kind="scheduler_file", scheduler_file=str(path), **more)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.standard_normal((12, 2)))[0]
    x = rng.standard_normal((400, 12))
    y = x @ (u * [2.0, -1.0]) @ u.T + 0.01 * rng.standard_normal(x.shape)
    return lrh_dask.write_pairs(tmp_path_factory.mktemp("store") / "pairs.zarr", x, y,
                                chunk_rows=20)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("two"), 2) as path:
        yield path


def run(store, *args, env=None):
    done = subprocess.run([LRH, "run", store, "--json", "--overwrite", *map(str, args)],
                          cwd=store.parent, capture_output=True, text=True, timeout=120,
                          check=False, env={**os.environ, **(env or {})})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_run_by_scheduler_file_address_or_environment_is_the_same(lrh, store, two_processes):
    address = address_in(two_processes)
    by_file, by_address = (lrh("run", store, "--overwrite", "--json", "--scheduler", named,
                               cwd=store.parent) for named in (two_processes, address))
    assert f"Cluster: {address}, 2 workers, 2 threads" in by_file.stderr
    by_environment, said = run(store, env={"DASK_SCHEDULER_ADDRESS": address})
    assert f"Cluster: {address} (named by DASK_SCHEDULER_ADDRESS" in said
    assert (json.loads(by_file.stdout)["eigenvalues"]
            == json.loads(by_address.stdout)["eigenvalues"] == by_environment["eigenvalues"])


@pytest.mark.long
def test_option_goes_before_file_before_environment_before_local(store, tmp_path, two_processes):
    nowhere = {"DASK_SCHEDULER_ADDRESS": "tcp://127.0.0.1:9"}
    (tmp_path / "run.yaml").write_text(f"store: {store}\nout: {tmp_path}/r.zarr\n"
                                       "cluster: {kind: local, workers: 1}\n")
    _, said = run(store, "--scheduler", two_processes, env=nowhere)
    assert f"Cluster: {address_in(two_processes)}," in said
    done = subprocess.run([LRH, "run", tmp_path / "run.yaml"], capture_output=True, text=True,
                          timeout=120, check=False, env={**os.environ, **nowhere})
    assert "Cluster: on this machine, 1 worker, 1 thread" in done.stderr
    _, said = run(store, "--workers", 1, env=nowhere)
    assert "Cluster: on this machine, 1 worker" in said


def test_the_cluster_outlives_its_runs(two_processes):
    for _ in range(2):
        with connect(at(two_processes)) as client:
            assert len(client.scheduler_info(n_workers=-1)["workers"]) == 2


def test_a_scheduler_file_may_be_written_a_little_later(tmp_path):
    path = tmp_path / "late.json"
    with process([sys.executable, "-c", "import time, sys; time.sleep(0.5); sys.argv = "
                  "['dask', 'scheduler', '--host', '127.0.0.1', '--port', '0', "
                  f"'--dashboard-address', '127.0.0.1:0', '--scheduler-file', '{path}']; "
                  "from dask.__main__ import main; main()"], tmp_path / "late.log"), \
            pytest.raises(RunFailed, match="at least one worker"), \
            connect(at(path, wait_seconds=1)):
        raise AssertionError


@pytest.mark.parametrize(("text", "said"), [
    (None, "got none within 1 seconds"), ("{}", "KeyError: 'address'"), ("[1", "JSONDecodeError")])
def test_a_scheduler_file_that_is_none_is_told(tmp_path, text, said, monkeypatch):
    monkeypatch.setattr(running_cluster, "CONNECT_SECONDS", 1)
    path = tmp_path / "s.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match="dask scheduler --scheduler-file") as caught, \
            connect(at(path)):
        raise AssertionError
    assert said in str(caught.value)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A scheduler without workers."""
    with scheduler(tmp_path_factory.mktemp("alone")) as path:
        yield path


def test_no_workers_is_told_after_the_seconds_that_were_set(alone):
    begin = time.monotonic()
    with pytest.raises(RunFailed, match=r"none within 2 seconds.*dask worker tcp://"), \
            connect(at(alone, wait_seconds=2)):
        raise AssertionError
    assert time.monotonic() - begin < 8


def lose_all_workers(path, lost):
    with connect(at(path)) as client, watch_workers(client, 2.0, least=2.0):
        waiting = client.submit(time.sleep, 60)
        time.sleep(0.5)
        lost.send_signal(signal.SIGKILL)
        waiting.result(timeout=60)


def test_a_run_whose_workers_are_gone_for_good_ends(alone):
    """Dask would wait for ever."""
    with worker(alone, "--no-nanny") as lost, pytest.raises(RunFailed, match="none for 2 seconds"):
        lose_all_workers(alone, lost)


def fail_after(seconds, path):
    with connect(at(path)) as client, watch_workers(client, 1.0, least=0.5):
        time.sleep(seconds)
        client.submit(lambda: 1 / 0).result()


def test_a_failure_while_there_are_workers_stays_what_it_is(two_processes):
    with pytest.raises(ZeroDivisionError):
        fail_after(1.5, two_processes)


@pytest.mark.parametrize("scheduler_text", ["nonsense", "no/such/file"])
def test_what_names_no_scheduler_is_refused(scheduler_text):
    with pytest.raises(SettingsError, match="expected an address such as"):
        cluster_at(scheduler_text)


@pytest.mark.parametrize("scheduler_text", ["tcp://h:1", "tls://h:1", "h:8786", "[::1]:8786"])
def test_addresses_are_known_by_their_looks(scheduler_text):
    assert cluster_at(scheduler_text)["kind"] == "address"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Files of an authority of one's own, and what `dask` takes for them."""
    return made_certificates(tmp_path_factory.mktemp("tls"))


def made_certificates(folder):
    made = Security.temporary()
    paths = {"ca_file": folder / "ca.pem", "cert": folder / "cert.pem", "key": folder / "key.pem"}
    for name, text in (("ca_file", made.tls_ca_file), ("cert", made.tls_client_cert),
                       ("key", made.tls_client_key)):
        paths[name].write_text(text)
        paths[name].chmod(0o600)
    return {name: str(path) for name, path in paths.items()}


def for_dask(tls):
    return ["--protocol", "tls", "--tls-ca-file", tls["ca_file"], "--tls-cert", tls["cert"],
            "--tls-key", tls["key"]]


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory, certificates):
    folder = tmp_path_factory.mktemp("encrypted")
    with scheduler(folder, *for_dask(certificates)) as path, \
            worker(path, *for_dask(certificates)):
        yield path


def test_tls_from_a_settings_file(lrh, store, tmp_path, encrypted, certificates):
    (tmp_path / "run.yaml").write_text(json.dumps({
        "store": str(store), "cluster": {"kind": "address", "address": address_in(encrypted),
                                         "tls": certificates}}))
    done = lrh("run", "run.yaml", "--json", "--overwrite", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Cluster: tls://127.0.0.1" in done.stderr
    here = lrh_dask.fit(lrh_dask.open_pairs(store))
    np.testing.assert_array_equal(json.loads(done.stdout)["eigenvalues"], here.eigenvalues)


def test_tls_from_dasks_own_settings(store, encrypted, certificates):
    env = {"DASK_DISTRIBUTED__COMM__TLS__CA_FILE": certificates["ca_file"],
           "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT": certificates["cert"],
           "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY": certificates["key"]}
    _, said = run(store, "--scheduler", address_in(encrypted), env=env)
    assert "Cluster: tls://" in said


def test_a_client_without_certificates_is_told_where_to_name_them(encrypted):
    with pytest.raises(SettingsError, match=r"tls: \{ca_file, cert, key\}"), connect(at(encrypted)):
        raise AssertionError


def test_certificates_of_another_authority_are_refused(tmp_path, encrypted):
    with pytest.raises(RunFailed, match="CERTIFICATE_VERIFY_FAILED"), \
            connect(at(encrypted, tls=made_certificates(tmp_path))):
        raise AssertionError


def test_a_plain_client_of_a_tls_scheduler_is_told_of_tls(encrypted):
    plain = address_in(encrypted).replace("tls://", "tcp://")
    with pytest.raises(RunFailed, match="whether it speaks TLS"), \
            connect(ClusterSettings(kind="address", address=plain)):
        raise AssertionError


def clients():
    return [thing for thing in gc.get_objects() if type(thing) is Client]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "tls://127.0.0.1:9", "nonsense://h:1"])
def test_a_client_that_could_not_start_is_closed_and_the_others_are_not(
        two_processes, address, monkeypatch):
    """One that the garbage collector closes has stopped a client that was just starting."""
    with connect(at(two_processes)) as mine:
        before = clients()
        monkeypatch.setattr(running_cluster, "CONNECT_SECONDS", 1)
        with pytest.raises((RunFailed, SettingsError)) as caught, \
                connect(ClusterSettings(kind="address", address=address)):
            raise AssertionError
        (failed,) = (client for client in clients() if client not in before)
        assert failed.status == "closed", caught.value  # which keeps it
        assert mine.status == "running"
        assert Client.current() is mine


@pytest.mark.parametrize(("change", "said"), [
    ({"key": "/nowhere.pem"}, r"cluster\.tls\.key"), ({"cert": "ca"}, "a key that is the"),
    ({"ca_file": "key"}, "PEM files")])
def test_files_of_tls_are_looked_at_before_anything_starts(certificates, tmp_path, change, said):
    other = made_certificates(tmp_path)
    wrong = {name: {"ca": other["cert"], "key": other["key"]}.get(value, value)
             for name, value in change.items()}
    settings = ClusterSettings(kind="address", address="tls://127.0.0.1:9",
                               tls={**certificates, **wrong})
    begin = time.monotonic()
    with pytest.raises(SettingsError, match=said), connect(settings):
        raise AssertionError
    assert time.monotonic() - begin < 5


def test_workers_are_fast_where_another_cluster_of_this_process_has_left_its_settings():
    """Nannies write them into the environment of the process they are in."""
    code = ("from distributed import LocalCluster\n"
            "from lrh_dask.clusters.cluster import connect\n"
            "from lrh_dask.settings.cluster_settings import ClusterSettings\n"
            "if __name__ == '__main__':\n"
            "    with LocalCluster(n_workers=1, dashboard_address='127.0.0.1:0'): pass\n"
            "    with connect(ClusterSettings(workers=1)) as client:\n"
            "        print(client.run(lambda: dict(__import__('os').environ)))\n"
            "        print(client.run(lambda dask_worker: dask_worker.profile_history.maxlen))\n")
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, text=True,
                          capture_output=True, env=fresh_environment())
    assert "'MALLOC_TRIM_THRESHOLD_': '268435456'" in done.stdout
    assert re.search(r"{'tcp://[^']*': 100}", done.stdout)  # seconds of profile; not 100 MiB of it


def test_one_process_can_connect_again_and_again(two_processes):
    """Also where nothing else has imported distributed: its settings stay."""
    code = ("from lrh_dask.clusters.cluster import connect\n"
            "from lrh_dask.settings.cluster_settings import ClusterSettings\n"
            f"s = ClusterSettings(kind='scheduler_file', scheduler_file='{two_processes}')\n"
            "for _ in range(2):\n    with connect(s): pass\n")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


