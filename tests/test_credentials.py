"""What an address holds beside its place is written nowhere and said nowhere."""

import base64
import gzip
import io
import json
import os
import re
import zipfile
import zlib

import pytest
from object_storage import make_bucket, moto, put

import lrh_dask
from lrh_dask.errors import explain, public_name, public_text

CANARY = "c4n4ry-t0k3n"
CANARIES = [CANARY.encode(), CANARY.encode("utf-16-le"),
            *(base64.b64encode(b"x" * i + CANARY.encode())[2 * i:-4] for i in range(3))]


def parts(content):
    """Bytes, and what they hold packed: zip and gzip files, and what is inline in base64."""
    yield content
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            for name in packed.namelist():
                yield name.encode()
                yield from parts(packed.read(name))
    if content[:2] == b"\x1f\x8b":
        yield from parts(gzip.decompress(content))
    for found in re.finditer(rb"[A-Za-z0-9+/]{200,}={0,2}", content):
        text = found[0][:len(found[0]) // 4 * 4]
        try:
            inner = base64.b64decode(text)
        except ValueError:
            continue
        yield inner
        if inner[:2] in {b"\x1f\x8b", b"PK"}:
            yield from parts(inner)
        elif inner[:1] == b"\x78":
            try:
                yield zlib.decompress(inner)
            except zlib.error:
                continue


def spilled(folder, *texts):
    """Where the canary is: in names and bytes of files, and in what was printed."""
    content = [("printed", text.encode()) for text in texts]
    for path in folder.rglob("*"):
        content.append((str(path), str(path.relative_to(folder)).encode()))
        if path.is_file():
            content.append((str(path), path.read_bytes()))
    return sorted({name for name, whole in content for part in parts(whole)
                   if any(canary in part for canary in CANARIES)})


@pytest.mark.parametrize("packed", [
    lambda b: b, gzip.compress, lambda b: b"<p>" + base64.b64encode(b * 20) + b"</p>",
    lambda b: base64.b64encode(gzip.compress(b + bytes(os.urandom(300))))])
def test_the_search_finds_what_is_packed(tmp_path, packed):
    (tmp_path / "a").write_bytes(packed(b"before " + CANARY.encode() + b" after"))
    assert spilled(tmp_path) == [str(tmp_path / "a")]


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with moto(tmp_path_factory.mktemp("moto") / "log") as found, \
            pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_"))]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{found}")
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
        make_bucket(found)
        yield found


@pytest.fixture(scope="module")
def address(port, tmp_path_factory, make_pairs):
    pairs = make_pairs(0, 300, 8, [3.0, -1.0], noise=0.01)
    store = lrh_dask.write_pairs(tmp_path_factory.mktemp("s") / "p.zarr", pairs.x, pairs.y,
                                 chunk_rows=50)
    place = put(port, store).removeprefix("s3://")
    return f"s3://KEY:{CANARY}@{place}?X-Amz-Signature={CANARY}"


@pytest.fixture
def told(lrh, tmp_path):
    """Calls a command that ends with a code; all that it printed."""
    def call(*args, code=0, env=None):
        done = lrh(*args, cwd=tmp_path, env=env)
        assert code is None or done.returncode == code, done.stderr
        assert done.stdout + done.stderr
        return done.stdout + done.stderr

    return call


def test_runs_and_their_reports_do_not_tell_the_credentials_of_a_store(told, tmp_path, address):
    few = ("--workers", "1", "--memory-limit", "1GiB")
    said = [told("inspect", address, "--all"), told("plan", address),
            told("run", address, "--out", "r.zarr", "--resume", *few,
                "--performance-report", "p.html"),
            told("run", address, "--out", "r2.zarr", *few, "--json"),
            told("report", "r.zarr"), told("diff", "r.zarr", "r2.zarr")]
    assert (tmp_path / "p.html").stat().st_size > 100_000
    assert "s3://steps/p.zarr" in (tmp_path / "r.html").read_text()
    assert spilled(tmp_path, *said) == []


def test_nights_do_not_tell_the_credentials_of_store_and_webhook(told, tmp_path, address, receiver):
    receiver.answer = 500
    (tmp_path / "night.yaml").write_text(json.dumps({
        "store": "STORE", "runs": "runs", "cluster": {"workers": 1},
        "alerts": {"sharpness_above": 0.1, "webhook": "HOOK"}}))
    text = (tmp_path / "night.yaml").read_text()
    hooks = {"HOOK": f"http://someone:{CANARY}@{receiver.url.split('//')[1]}/{CANARY}"}
    (tmp_path / "night.yaml").write_text(text.replace("STORE", address))
    said = [told("nightly", "night.yaml", code=5, env=hooks),
            told("nightly", "night.yaml", "--json", env=hooks, code=None),
            told("runs", "--json"), told("status", "--json")]
    for job in (tmp_path / "runs" / "jobs").iterdir():
        said += [told("logs", job.name), told("status", job.name)]
    assert "alerts were not sent" in said[0]
    assert len(list((tmp_path / "runs").glob("2*/dask-performance.html"))) == 1
    (tmp_path / "night.yaml").unlink()
    assert spilled(tmp_path, *said) == []


@pytest.mark.parametrize("store", [
    f"s3://KEY:{CANARY}@nowhere/p.zarr?token={CANARY}", f"s3://KEY:a/{CANARY}@steps/p.zarr",
    f"ftp://someone:{CANARY}@127.0.0.1:9/p.zarr", f"https://u:{CANARY}@127.0.0.1:9/p?t={CANARY}",
    f"no-such-scheme://u:{CANARY}@h/p.zarr", f"simplecache::ftp://u:{CANARY}@127.0.0.1:9/p.zarr"])
@pytest.mark.parametrize("debug", [{}, {"LRH_DEBUG": "1"}])
def test_errors_do_not_tell_the_credentials_of_a_store(told, port, tmp_path, store, debug):
    (tmp_path / "night.yaml").write_text(f"store: {json.dumps(store)}\nruns: runs\n")
    (tmp_path / "wrong.yaml").write_text(f"store: a\nruns: {json.dumps(store)}\n")
    said = [told("run", store, "--out", "r.zarr", "--json", code=3, env=debug),
            told("run", store, code=2, env=debug),
            told("nightly", "night.yaml", code=3, env=debug),
            told("nightly", "wrong.yaml", code=2, env=debug)]
    for name in ("night.yaml", "wrong.yaml"):
        (tmp_path / name).unlink()
    assert spilled(tmp_path, *said) == []


def test_an_error_that_nobody_foresaw_does_not_tell_them_either(lrh, tmp_path, monkeypatch):
    from lrh_dask.stores import opening

    def fail(*_, **__):
        raise RuntimeError(f"GET https://u:{CANARY}@h/p?token={CANARY} (403)")

    monkeypatch.setattr(opening, "public_name", fail)
    for debug in ({}, {"LRH_DEBUG": "1"}):
        done = lrh("inspect", "p.zarr", "--json", cwd=tmp_path, env=debug)
        assert done.returncode == 4
        assert "https://h/p" in done.stderr
        assert CANARY not in done.stdout + done.stderr
        assert ("Traceback" in done.stderr) == bool(debug)


@pytest.mark.parametrize(("address", "shown"), [
    ("s3://key:secret@bucket/p.zarr", "s3://bucket/p.zarr"),
    ("s3://key:se/cr+et@bucket/p.zarr", "s3://bucket/p.zarr"),
    ("https://h/p?token=secret", "https://h/p"), ("https://h/p#secret", "https://h/p"),
    ("https://u:secr?et@h/p", "https://..."), ("https://h/p?token=sec@ret", "https://..."),
    ("https://u:s@cret@h/p", "https://h/p"), ("https://u:se'cret@h/p", "https://h/p"),
    ("tcp://127.0.0.1:8786", "tcp://127.0.0.1:8786"), ("plain/path@here", "plain/path@here")])
def test_an_address_is_shown_without_what_may_be_secret(address, shown):
    assert public_name(address) == shown
    assert public_text(f"read '{address}' twice") == f"read '{shown}' twice"
    told = explain(address, expected="a", got=f"URL({address!r})", consequence="b", fix=address)
    assert "cret" not in told


def test_an_array_of_any_store_is_named_without_them():
    class Store:
        store_path = f"<FsspecStore(HTTPFileSystem, https://u:{CANARY}@h/p.zarr)>/x"

    assert CANARY not in public_name(Store())
