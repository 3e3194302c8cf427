"""Pairs in a bucket: a real S3-compatible server, real workers, a real proxy that is slow."""

import json
import os
import pickle
import sys

import numpy as np
import pytest
import zarr
from object_storage import ask, make_bucket, moto, proxy, put, remove

from lrh_dask import BadPairs, SettingsError, fit, open_pairs, write_pairs
from lrh_dask.runs.leaves import read_ahead
from lrh_dask.stores.inspection import inspect_pairs

SECRET = "not-to-be-repeated"
RNG = np.random.default_rng(0)
U = np.linalg.qr(RNG.standard_normal((12, 2)))[0]
X = RNG.standard_normal((500, 12))
Y = X @ (U * [2.0, -1.0]) @ U.T + 0.01 * RNG.standard_normal((500, 12))
N_CHUNKS = 50


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """Of the server; the environment, which workers inherit, leads there."""
    with moto(tmp_path_factory.mktemp("moto") / "log") as found, \
            pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_"))]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{found}")
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        make_bucket(found)
        yield found


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("local") / "pairs.zarr", X, Y, chunk_rows=10)


@pytest.fixture(scope="module")
def url(port, local):
    return put(port, local)


@pytest.fixture(scope="module")
def cluster(port):
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, silence_logs=50,
                      dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


@pytest.fixture
def workers(cluster):
    """Two worker processes that have the environment of ``port``; their client is current."""
    from distributed import Client

    with Client(cluster) as client:
        yield client


@pytest.fixture
def counted(request, port, tmp_path, monkeypatch):
    """Port of a proxy that holds back every request and counts them; the way to the server."""
    with proxy(port, request.param, tmp_path / "log") as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{found}")
        yield found


def requests(counted):
    """What was asked since the last call, and how much of it at once."""
    counts = json.loads(ask(counted, "/_requests"))
    return counts["lines"], counts["at_once"]


def compressed(path, **kwargs):
    group = zarr.open_group(path, mode="w")
    for name, array in (("x", X), ("y", Y)):
        group.create_array(name, data=array, **kwargs)
    return path


def test_a_run_gives_the_same_bits_as_from_the_local_copy(workers, url, local):
    far, near = fit(open_pairs(url)), fit(open_pairs(local))
    for name in ("eigenvalues", "eigenvectors", "standard_errors"):
        np.testing.assert_array_equal(getattr(far, name), getattr(near, name))
    assert far.n_pairs == 500


def test_the_command_line_takes_an_address(lrh, url, tmp_path):
    for command in (["inspect"], ["plan"],
                    ["run", "--out", "result.zarr", "--workers", "1", "--memory-limit", "1GiB"]):
        done = lrh(command[0], url, *command[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "result.zarr").is_dir()


def test_another_address_of_the_same_kind_of_server(port, url, monkeypatch):
    """Google's storage answers as S3 does where it is read, so the same server stands in."""
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps({
        "gcs_base_url": f"http://127.0.0.1:{port}", "disable_oauth": True, "client_email": "",
        "private_key": "", "private_key_id": ""}))
    block = open_pairs(url.replace("s3://", "gs://")).read(15, 45)
    np.testing.assert_array_equal(block.y, Y[15:45])


def test_memory_is_an_address_within_a_process():
    compressed("memory://pairs.zarr", chunks=(100, 12))
    np.testing.assert_array_equal(open_pairs("memory://pairs.zarr").read(0, 500).x, X)
    assert fit(open_pairs("memory://pairs.zarr")).rank == 2


@pytest.mark.parametrize("layout", [
    {"chunks": (100, 12), "compressors": None}, {"chunks": (100, 12)},
    {"chunks": (50, 12), "shards": (100, 12)}], ids=["plain", "compressed", "sharded"])
def test_a_missing_chunk_is_never_read_as_zeros(port, tmp_path, layout):
    url = put(port, compressed(tmp_path / f"{layout}.zarr".replace(" ", ""), **layout))
    assert inspect_pairs(open_pairs(url))["pairs"] == 500
    remove(port, url, "y/c/2/0")
    pairs = open_pairs(url)
    pairs.read(0, 200)
    with pytest.raises(BadPairs, match=r"rows 100-299 of s3://.*/y: .* 1 missing \(c/2/0\)"):
        pairs.read(100, 300)
    with pytest.raises(BadPairs, match=r"y: 1 missing \(c/2/0\)"):
        inspect_pairs(pairs)


def test_a_run_refuses_a_missing_chunk_by_name(workers, port, local, tmp_path):
    copy = tmp_path / "holes.zarr"
    copy.symlink_to(local)
    url = put(port, copy)
    remove(port, url, "x/c/33/0")
    with pytest.raises(BadPairs, match=r"s3://steps/holes.zarr/x: .* 1 missing \(c/33/0\)"):
        fit(open_pairs(url))


@pytest.mark.parametrize(("address", "environment", "said"), [
    ("s3://steps/nowhere.zarr", {}, "expected a Zarr group, got nothing there"),
    ("s3://stairs/pairs.zarr", {}, "expected a bucket of that name, got none .*NoSuchBucket"),
    ("s3://", {}, "open s3://"),
    ("s3://steps/pairs.zarr", {
        "AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None,
        "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9"},
     "expected credentials, got none .* Set AWS_ACCESS_KEY_ID"),
    ("s3://steps/pairs.zarr", {"AWS_ENDPOINT_URL": f"http://someone:{SECRET}@127.0.0.1:9"},
     "expected an answer, got none from AWS_ENDPOINT_URL=http://127.0.0.1:9"),
], ids=["no store", "no bucket", "no address", "no credentials", "no answer"])
def test_what_cannot_be_opened_is_told_clearly(url, monkeypatch, address, environment, said):
    for name, value in environment.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(BadPairs, match=said) as caught:
        open_pairs(address)
    assert SECRET not in str(caught.value)


def test_refused_credentials_are_told_and_not_repeated(workers, port, url):
    opened = open_pairs(url)
    ask(port, "/moto-api/reset-auth", "POST", b"0")  # from now on, who asks must be known
    try:
        for refused in (lambda: open_pairs(url), lambda: opened.read(0, 10),
                        lambda: opened.missing("x"), lambda: fit(opened)):
            with pytest.raises(BadPairs, match=r"expected access, got a refusal \(\w+\)") as caught:
                refused()
            assert SECRET not in str(caught.value)
            assert "someone" not in str(caught.value)
    finally:
        ask(port, "/moto-api/reset-auth", "POST", b"inf")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(SettingsError, match=r"pip install 'lrh-dask\[remote\]'"):
        open_pairs("s3://steps/pairs.zarr")


def test_a_store_travels_as_its_address_and_is_opened_once_a_process(url):
    sent = pickle.dumps(open_pairs(url))
    assert SECRET.encode() not in sent
    first, second = pickle.loads(sent), pickle.loads(sent)
    assert first.x.store is first.y.store is second.x.store
    np.testing.assert_array_equal(second.read(20, 30).x, X[20:30])


@pytest.mark.parametrize("counted", [0.0], indirect=True)
def test_a_run_that_goes_on_asks_for_no_chunk_again(counted, url, tmp_path):
    first = fit(open_pairs(url), states=tmp_path / "s")
    n_asked = len(requests(counted)[0])
    again = fit(open_pairs(url), states=tmp_path / "s")
    assert not [line for line in requests(counted)[0][n_asked:] if "/c/" in line]
    assert again.eigenvectors.tobytes() == first.eigenvectors.tobytes()


@pytest.mark.parametrize("counted", [0.0], indirect=True)
def test_a_run_asks_once_for_every_chunk(counted, url):
    fit(open_pairs(url))
    asked, _ = requests(counted)
    chunks = [line for line in asked if "/c/" in line]
    assert sorted(chunks) == sorted(
        f"GET /steps/pairs.zarr/{name}/c/{i}/0" for name in "xy" for i in range(N_CHUNKS))
    # The group, a listing, two arrays, in two formats; what each array holds, before and after.
    assert len(asked) - len(chunks) <= 12 + 2 * 2


@pytest.mark.parametrize("counted", [0.3], indirect=True)
def test_all_blocks_ahead_are_asked_for_at_once(counted, url):
    pairs = open_pairs(url)
    blocks = tuple((row, row + 10) for row in range(0, 500, 10))
    requests(counted)
    read = read_ahead(pairs.read, blocks, pairs.blocks.n_ahead)
    assert sum(len(block.x) for block in read) == 500
    assert pairs.blocks.n_ahead == 16
    assert requests(counted)[1] >= 2 * pairs.blocks.n_ahead


@pytest.mark.parametrize("counted", [0.0], indirect=True)
def test_looking_for_all_chunks_is_one_listing(counted, url):
    pairs = open_pairs(url)
    requests(counted)
    assert pairs.missing("x") == []
    assert len(requests(counted)[0]) == 1
