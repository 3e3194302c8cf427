"""Each thing that can be wrong is provoked on real processes, and found, with its fix."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import zarr
from cluster_processes import HOST, address_in, other_software, scheduler, worker
from test_cluster import certificates, encrypted  # noqa: F401 - fixtures

import lrh_dask
from lrh_dask.clusters import running_cluster
from lrh_dask.clusters.cluster import worker_environment
from lrh_dask.clusters.doctor import examine
from lrh_dask.clusters.findings import Health
from lrh_dask.clusters.port_checks import check_certificates
from lrh_dask.clusters.worker_checks import check_disk, check_gpus, check_memory
from lrh_dask.settings.config import RunSettings, settings_from

LRH = Path(sys.executable).with_name("lrh")
X = np.random.default_rng(0).standard_normal((100, 5))
FAST = {name.rpartition(".")[2]: str(value) for name, value in worker_environment(1).items()}


def looked_at(path=None, store=None, cluster=None, **more):
    """Findings by name."""
    named = cluster or {"kind": "scheduler_file", "scheduler_file": str(path)}
    settings = settings_from({"store": str(store or "none"), "cluster": named, **more}, "test",
                             RunSettings)
    found = examine(settings, with_store=store is not None)
    assert all(finding.fix for finding in found if finding.health is not Health.good)
    return {finding.name: finding for finding in found}


@pytest.fixture(scope="module")
def good_store(tmp_path_factory):
    return lrh_dask.write_pairs(tmp_path_factory.mktemp("good") / "p.zarr", X, 2 * X, chunk_rows=20)


@pytest.fixture(scope="module")
def bad_store(tmp_path_factory):
    """Neither checksums nor all of its chunks."""
    path = tmp_path_factory.mktemp("bad") / "p.zarr"
    group = zarr.open_group(path, mode="w")
    for name in ("x", "y"):
        group.create_array(name, data=X, chunks=(20, 5), config={"write_empty_chunks": True})
    (path / "x" / "c" / "2" / "0").unlink()
    return path


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("healthy")
    with scheduler(folder) as path, worker(path, "--memory-limit", "1GiB", "--local-directory",
                                           folder, env=FAST):
        yield path


@pytest.fixture(scope="module")
def ill(tmp_path_factory):
    """A cluster on which everything is as people start it who know no better."""
    folder = tmp_path_factory.mktemp("ill")
    other = other_software(folder / "other", numpy="2.99.0")
    careless = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "inf"}
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(scheduler(folder, host="0.0.0.0", env=careless))
        stack.enter_context(worker(
            path, "--no-nanny", "--nthreads", "99", "--memory-limit", "0",
            env={**other, "OPENBLAS_NUM_THREADS": "2", "MALLOC_ARENA_MAX": "4"}))
        yield path


def test_nothing_is_wrong_with_a_healthy_cluster_and_store(healthy, good_store):
    found = looked_at(healthy, good_store)
    assert {finding.health for finding in found.values()} == {Health.good}, found
    assert set(found) == {
        "cluster", "versions", "threads", "nannies", "BLAS threads", "allocator", "memory limits",
        "free disk", "GPU", "queue", "open ports", "TLS", "store", "store chunks",
        "store checksums"}


@pytest.fixture(scope="module")
def found_ill(ill, bad_store):
    return looked_at(ill, bad_store)


@pytest.mark.parametrize(("name", "health", "said", "fix"), [
    ("versions", Health.fair, "numpy", "lock file"),
    ("threads", Health.fair, "99 threads", "--nthreads"),
    ("nannies", Health.fair, "none for the worker", "--no-nanny"),
    ("BLAS threads", Health.fair, "2 a thread", "OPENBLAS_NUM_THREADS=1"),
    ("allocator", Health.fair, "(MALLOC_ARENA_MAX=4)", "MALLOC_TRIM_THRESHOLD_=268435456"),
    ("memory limits", Health.fair, "none for the worker", "--memory-limit"),
    ("queue", Health.fair, "all sent at once", "SATURATION"),
    ("open ports", Health.poor, "runs any code", "127.0.0.1"),
    ("store chunks", Health.poor, "x/c/2/0", "Restore"),
    ("store checksums", Health.fair, "none in", "crc32c"),
])
def test_what_is_wrong_is_found(found_ill, name, health, said, fix):
    assert found_ill[name].health is health
    assert said in found_ill[name].said
    assert fix in found_ill[name].fix


@pytest.fixture(scope="module")
def scheduler_file(tmp_path_factory):
    """Of a scheduler that workers come to and leave."""
    with scheduler(tmp_path_factory.mktemp("scheduler")) as path:
        yield path


def test_a_worker_without_lrh_dask_is_examined_as_far_as_it_goes(
        scheduler_file, tmp_path, good_store):
    gone = other_software(tmp_path / "other", "raise ModuleNotFoundError('lrh_dask')")
    with worker(scheduler_file, env={**FAST, **gone}):
        found = looked_at(scheduler_file, good_store)
    assert found["versions"].health is Health.poor
    assert "pip install lrh-dask==" in found["versions"].fix
    assert found["allocator"].health is found["BLAS threads"].health is Health.good
    assert "by no worker" in found["store"].said


def test_a_dashboard_for_all_is_told_although_tasks_are_safe(tmp_path):
    with scheduler(tmp_path, "--dashboard-address", "0.0.0.0:0") as path, worker(path):
        found = looked_at(path)["open ports"]
    assert found.health is Health.fair
    assert "dashboard of the scheduler (0.0.0.0:" in found.said


def test_a_store_that_only_this_machine_has_is_told(scheduler_file, tmp_path):
    """The worker sees another one under the same name: a folder of its own, in place of ours."""
    store = lrh_dask.write_pairs(tmp_path / "p.zarr", X, X, chunk_rows=20)
    hidden = tmp_path / "empty"
    hidden.mkdir()
    prefix = ("unshare", "--mount", "sh", "-c",
              f'mount --bind "{hidden}" "{store}" && exec "$0" "$@"')
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a folder for one process alone")
    with worker(scheduler_file, "--no-nanny", prefix=prefix):
        found = looked_at(scheduler_file, store)["store"]
    assert found.health is Health.poor
    assert "the worker cannot read" in found.said
    assert "shared disk" in found.fix


def test_another_store_of_the_same_name_is_told(scheduler_file, tmp_path):
    store = lrh_dask.write_pairs(tmp_path / "p.zarr", X, X, chunk_rows=20)
    other = lrh_dask.write_pairs(tmp_path / "other.zarr", X, 3 * X, chunk_rows=20)
    prefix = ("unshare", "--mount", "sh", "-c",
              f'mount --bind "{other}" "{store}" && exec "$0" "$@"')
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a folder for one process alone")
    with worker(scheduler_file, "--no-nanny", prefix=prefix):
        found = looked_at(scheduler_file, store)["store"]
    assert found.health is Health.poor
    assert "is another store for the worker" in found.said


@pytest.mark.long
def test_more_memory_than_the_machine_has_is_told(scheduler_file):
    """Dask cuts a worker's limit at the machine's memory, but not the sum of two."""
    half = ("--no-nanny", "--memory-limit", f"{int(0.8 * psutil.virtual_memory().total)}")
    with worker(scheduler_file, *half), worker(scheduler_file, *half):
        found = looked_at(scheduler_file)["memory limits"]
    assert found.health is Health.poor
    assert "2 workers" in found.said


def test_tls_is_good_until_its_key_is_for_all(encrypted, certificates):  # noqa: F811
    cluster = {"kind": "address", "address": address_in(encrypted), "tls": certificates}
    found = looked_at(cluster=cluster)["TLS"]
    assert found.health is Health.good
    assert "valid until" in found.said
    key = Path(certificates["key"])
    key.chmod(0o644)
    try:
        assert looked_at(cluster=cluster)["TLS"].health is Health.poor
    finally:
        key.chmod(0o600)


def certificate_for(folder, days):
    """A certificate that ends in so many days."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    end = datetime.now(UTC) + timedelta(days=days)
    made = (x509.CertificateBuilder().subject_name(name).issuer_name(name)
            .public_key(key.public_key()).serial_number(1)
            .not_valid_before(end - timedelta(days=90)).not_valid_after(end)
            .sign(key, hashes.SHA256()))
    path = folder / "cert.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return str(path)


@pytest.mark.parametrize(("days", "health"), [
    (-1, Health.poor), (5, Health.fair), (80, Health.good)])
def test_a_certificate_that_ends_is_told_before_it_does(tmp_path, days, health):
    files = {"ca_file": certificate_for(tmp_path, days), "cert": None, "key": None}
    assert check_certificates(files, encrypted=True).health is health


WORKER = {"host": "h", "kernel": "k", "group": "g", "memory_limit": 4 * 2**30,
          "memory_ceiling": 2.0 * 2**30, "memory_total": 64 * 2**30, "free": 2**40,
          "filesystem": "ext4", "folder": "/scratch"}


def test_a_limit_beyond_that_of_the_container_is_poor():
    found = check_memory({"tcp://a:1": WORKER})
    assert found.health is Health.poor
    assert "2.0 GiB" in found.said
    assert "--memory-limit 1.8GiB" in found.fix


def test_workers_of_other_hosts_do_not_share_memory():
    hosts = {f"tcp://{name}:1": {**WORKER, "host": name, "memory_ceiling": 5.0 * 2**30}
             for name in "abc"}
    assert check_memory(hosts).health is Health.good
    same = {address: {**told, "host": "h"} for address, told in hosts.items()}
    assert check_memory(same).health is Health.poor


@pytest.mark.parametrize(("change", "health"), [
    ({}, Health.good), ({"free": 2**20}, Health.poor), ({"free": 2**31}, Health.fair),
    ({"filesystem": "tmpfs"}, Health.fair), ({"filesystem": "nfs4"}, Health.fair)])
def test_the_disk_of_a_worker_is_local_and_has_room(change, health):
    assert check_disk({"tcp://a:1": {**WORKER, **change}}).health is health


GPU, NONE = {"there": True, "works": True, "said": ""}, {"there": False, "works": False,
                                                        "said": "no CuPy"}


@pytest.mark.parametrize(("told", "wanted", "health"), [
    ([GPU, GPU], "auto", Health.good), ([NONE, NONE], "auto", Health.good),
    ([GPU, NONE], "auto", Health.fair), ([NONE, {**NONE, "there": True}], "auto", Health.fair),
    ([GPU, NONE], "gpu", Health.poor), ([GPU, GPU], "gpu", Health.good),
    ([NONE], "cpu", Health.good)])
def test_gpus_are_judged_by_what_is_asked_for(told, wanted, health):
    found = check_gpus({f"tcp://h:{i}": answer for i, answer in enumerate(told)}, wanted)
    assert found.health is health


def test_a_gpu_that_is_asked_for_and_not_there_is_poor(healthy):
    from lrh_dask import SettingsError
    from lrh_dask.linalg.arrays import pick_device

    with contextlib.suppress(SettingsError):
        pick_device("gpu")
        pytest.skip("a GPU works here")
    found = looked_at(healthy, device="gpu")["GPU"]
    assert found.health is Health.poor
    assert "--device cpu" in found.fix


def test_the_local_cluster_of_a_run_is_healthy(good_store):
    done = subprocess.run([LRH, "doctor", good_store, "--workers", "1", "--memory-limit", "1GiB",
                           "--json"], capture_output=True, text=True, timeout=120, check=False)
    found = json.loads(done.stdout)
    assert {f["health"] for f in found if f["name"] not in {"GPU", "free disk"}} == {"good"}
    assert done.returncode == 0
    assert "Cluster: on this machine, 1 worker, 1 thread" in done.stderr


def test_what_is_poor_is_exit_code_1_with_the_fix_below(lrh, ill):
    done = lrh("doctor", "--scheduler", ill, cwd="/")
    assert done.returncode == 1
    assert "poor  open ports" in done.stdout
    assert "→ Bind them to 127.0.0.1" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 poor, ")


def test_without_a_cluster_the_store_is_looked_at_still(lrh, good_store, monkeypatch):
    monkeypatch.setattr(running_cluster, "CONNECT_SECONDS", 1)
    done = lrh("doctor", good_store, "--scheduler", f"tcp://{HOST}:9", "--json", cwd="/")
    found = {f["name"]: f for f in json.loads(done.stdout)}
    assert done.returncode == 1
    assert found["cluster"]["health"] == "poor"
    assert found["store"]["health"] == found["store checksums"]["health"] == "good"


def test_a_store_that_is_none_is_a_finding(healthy, tmp_path):
    assert looked_at(healthy, tmp_path / "nothing")["store"].health is Health.poor


@pytest.mark.long
def test_a_settings_file_names_cluster_and_store(lrh, healthy, good_store, tmp_path):
    (tmp_path / "run.yaml").write_text(json.dumps({
        "store": str(good_store), "cluster": {"kind": "scheduler_file",
                                              "scheduler_file": str(healthy)}}))
    assert "store chunks" in lrh("doctor", "run.yaml", cwd=tmp_path).stdout
