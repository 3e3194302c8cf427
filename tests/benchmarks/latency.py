"""What 50 ms on every request cost a run from object storage; writes latency.md beside it.

    python tests/benchmarks/latency.py

Moto's server, a proxy without and one with the delay, and two clusters of two workers run all
the time; runs alternate, and a ratio is of the two runs of one round.
"""

from __future__ import annotations

import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

from object_storage import make_bucket, moto, proxy, put

from lrh_dask import fit, open_pairs
from lrh_dask.runs.leaves import read_ahead
from lrh_dask.stores.blocks import Blocks
from lrh_dask.stores.synthetic import Known, write_known

SECONDS = 0.05
ROUNDS = 5
KNOWN = Known.indefinite(128, 8)
STORES = {"1 MiB": (48, 2048), "4 MiB": (32, 8192)}
"""By size of a chunk: how many an array has, and their rows; 512 bytes a row."""


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(patch.dict(os.environ, {
            "AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret"}))
        server = stack.enter_context(moto(folder / "moto.log"))
        make_bucket(server)
        ways = [f"http://127.0.0.1:{stack.enter_context(proxy(server, s, folder / f'{s}.log'))}"
                for s in (0.0, SECONDS)]
        urls = {name: put(server, write_known(folder / f"{rows}.zarr", n * rows, KNOWN,
                                              chunks=(rows, 128)))
                for name, (n, rows) in STORES.items()}
        clusters = [stack.enter_context(cluster(way)) for way in ways]
        lines = []
        for name, (n, _) in STORES.items():
            rounds = alternate(ways, lambda i, url=urls[name]: run(url, clusters[i]))
            for part, what in enumerate(("", ": opening", ": pass over the pairs")):
                lines.append(row(f"run, {2 * n} chunks of {name}{what}", rounds, part,
                                 n_bytes=0 if what == ": opening" else 2 * n * int(name[0])))
        for name, url in urls.items():
            with patch.dict(os.environ, {"AWS_ENDPOINT_URL": ways[0]}):
                usual = open_pairs(url).blocks.n_ahead
            for n_ahead in sorted({1, 4, usual}):
                with patch.object(Blocks, "n_ahead", n_ahead):
                    rounds = alternate(ways, lambda _, url=url: read(url))
                lines.append(row(f"one long task reads, chunks of {name}, blocks ahead: {n_ahead}"
                                 + " (as in a run)" * (n_ahead == usual), rounds,
                                 n_bytes=2 * STORES[name][0] * int(name[0])))
    versions = ", ".join(f"{name} {version(name)}" for name in
                         ("lrh-dask", "zarr", "obstore", "moto", "dask"))
    Path(__file__).with_suffix(".md").write_text("\n".join([
        "# Latency: 50 ms on every request to object storage", "",
        f"Written by `python tests/benchmarks/latency.py` on {datetime.now(UTC):%Y-%m-%d}, Python "
        f"{platform.python_version()}, {versions}, {os.cpu_count()} cores that server, proxy and "
        "two workers share.", "",
        f"Medians of {ROUNDS} rounds of one run each, without and with the delay, both through the "
        "proxy; the ratio is the median of the rounds', its range in brackets.", "",
        "What is left in a run: opening asks three times, each time for what the answer before "
        "told of, and every task waits once for its first block. A pass is eight tasks, or tasks "
        "of about 64 MiB; over 2 to 10 GiB in small blocks forty, and beyond tasks of 256 MiB.", "",
        "The server is a program in Python on the same cores: at its rate (the first column), and "
        "not a bucket's, 50 ms are hidden here. A run is what a user waits for; the pass over the "
        "pairs is what reading ahead can do.", "",
        "| what | MiB/s without | without, s | with 50 ms, s | ratio |",
        "| --- | ---: | ---: | ---: | ---: |",
        *lines, ""]), encoding="utf-8")


def cluster(way):
    from distributed import LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with patch.dict(os.environ, {"AWS_ENDPOINT_URL": way}):
        return LocalCluster(n_workers=2, threads_per_worker=1, processes=True, silence_logs=50,
                            dashboard_address="127.0.0.1:0")


def alternate(ways, timed):
    """What every round took by way, after one round that does not count."""
    seconds: list[list[tuple[float, ...]]] = []
    for _ in range(ROUNDS + 1):
        seconds.append([])
        for i, way in enumerate(ways):
            with patch.dict(os.environ, {"AWS_ENDPOINT_URL": way}):
                seconds[-1].append(timed(i))
    return seconds[1:]


def run(url, workers):
    from distributed import Client

    with Client(workers):
        begin = time.perf_counter()
        pairs = open_pairs(url)
        opened = time.perf_counter()
        hessian = fit(pairs, rank=8)
        return (time.perf_counter() - begin, opened - begin,
                hessian.provenance["seconds"]["fit"])


def read(url):
    pairs = open_pairs(url)
    rows = pairs.blocks.rows
    blocks = tuple((i, i + rows) for i in range(0, pairs.n_pairs, rows))
    begin = time.perf_counter()
    for _ in read_ahead(pairs.read, blocks, pairs.blocks.n_ahead):
        pass
    return (time.perf_counter() - begin,)


def row(what, rounds, part=0, n_bytes=0):
    """A line of the table; bytes in MiB, for the rate without the delay."""
    seconds = [[way[part] for way in ways] for ways in rounds]
    ratios = [slow / fast for fast, slow in seconds]
    fast, slow = (statistics.median(way) for way in zip(*seconds, strict=True))
    rate = f"{n_bytes / fast:.0f}" if n_bytes else ""
    return (f"| {what} | {rate} | {fast:.2f} | {slow:.2f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f}) |")


if __name__ == "__main__":
    main()
