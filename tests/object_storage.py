"""A real S3-compatible server and a slow way to it, each in a process of its own."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

BUCKET = "steps"


def moto(log):
    """Moto's server; its port."""
    return server("-m", "moto.server", "-p", 0, log=log,
                  says=r"Running on http://127.0.0.1:(\d+)")


def proxy(port, seconds, log):
    """A proxy before the server at a port that holds back every request; its port."""
    return server(Path(__file__).with_name("slow_proxy.py"), port, seconds, log=log,
                  says=r"(\d+)\n")


@contextlib.contextmanager
def server(*command, says, log):
    """A server in a process of its own, once it says on which port it listens."""
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, *map(str, command)], stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(says, log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield int(found[1])
    finally:
        process.terminate()
        process.wait(30)


def ask(port, path, method="GET", body=None, **headers):
    address = f"http://127.0.0.1:{port}{path}"
    headers = {"content-type": "application/octet-stream"} | headers
    request = urllib.request.Request(address, body, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def make_bucket(port):
    ask(port, f"/{BUCKET}", "PUT")


def put(port, store):
    """Copy a local store into the bucket, for all to read; its address."""
    for path in filter(Path.is_file, store.rglob("*")):
        ask(port, f"/{BUCKET}/{store.name}/{path.relative_to(store)}", "PUT", path.read_bytes(),
            **{"x-amz-acl": "public-read"})
    return f"s3://{BUCKET}/{store.name}"


def remove(port, url, key):
    ask(port, f"/{url.removeprefix('s3://')}/{key}", "DELETE")
