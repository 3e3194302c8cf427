"""Whatever a file holds, what reads it works or says what is wrong: 10^5 files, none of them sane.

``pytest -m fuzz`` plays them all and writes ``tests/benchmarks/fuzz.md``; some run always. One
that fails prints the command that plays it again.
"""

from __future__ import annotations

import logging
import os
import pickle
import platform
import resource
import subprocess
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import pytest
from fuzz_inputs import KINDS, Defect, bench
from watched import Forbidden, watched

from lrh_dask.runs.process import peak_bytes

PAGE = Path(__file__).parent / "benchmarks" / "fuzz.md"
ALL, AT_ONCE, PROCESSES = 100_000, 500, 2
ALWAYS = 4
"""Inputs of a kind that always run, times its share."""
ADDRESS_SPACE = 12 * 2**30
SHARES = sum(kind.share for kind in KINDS.values())


@pytest.fixture(scope="module")
def here():
    with bench() as found:
        yield found


@pytest.fixture(autouse=True)
def _quiet():
    """Zarr logs what it did not wait for."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_nobody_would_write_are_read_or_refused_in_words(here, kind):
    outcomes = Counter(here.play(kind, number) for number in range(ALWAYS * KINDS[kind].share))
    assert sum(outcomes.values()) == ALWAYS * KINDS[kind].share


def test_a_valid_file_of_every_kind_is_read(here, monkeypatch):
    monkeypatch.setattr(here, "_changed", lambda _kind, _path, content, _rng: content)
    for name in KINDS:
        if name != "shapes":  # which are wrong by themselves
            assert here.play(name, 0) or name == "command", name


@pytest.mark.parametrize("doing", [
    lambda outside: outside.write_text("x"), lambda outside: outside.mkdir(),
    lambda outside: (outside.parent / "f" / "x").rename(outside),
    lambda outside: (outside.parent / "f" / "link").write_text("x"),
    lambda _: subprocess.run(["true"], check=False), lambda _: os.system("true"),
    lambda _: pickle.loads(b"cos\nmkdir\n."), lambda _: time.sleep(0.5),
    lambda _: bytearray(b"x") * (peak_bytes() + 2**27),  # more than it ever had
])
def test_what_is_forbidden_is_found_out(tmp_path, doing):
    """Else the tests above would tell nothing."""
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "x").write_text("x")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Forbidden), watched(folder, seconds=0.2, n_bytes=2**26):
        doing(tmp_path / "outside")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f"]


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_files_and_no_crash():
    began, tasks = time.monotonic(), []
    for name, kind in KINDS.items():
        n = round(ALL * kind.share / SHARES)
        tasks += [(name, first, min(first + AT_ONCE, n)) for first in range(0, n, AT_ONCE)]
    worked, refused, defects = Counter(), Counter(), []
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        for (name, *_), (n_worked, n_refused, found) in zip(
                tasks, pool.map(_play, tasks), strict=True):
            worked[name] += n_worked
            refused[name] += n_refused
            defects += found
    _write(worked, refused, defects, time.monotonic() - began)
    assert not defects, "\n\n".join(defects[:20])
    assert sum(worked.values()) + sum(refused.values()) >= ALL - len(KINDS)


def _play(task):
    """Inputs of a kind, by their numbers: how many worked and were refused, and what is wrong."""
    name, first, stop = task
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    outcomes, defects = Counter(), []
    with bench() as here:
        for number in range(first, stop):
            try:
                outcomes[here.play(name, number)] += 1
            except Defect as defect:
                defects.append(f"{defect}\n{type(defect.__cause__).__name__}: {defect.__cause__}")
    return outcomes[True], outcomes[False], defects


def _write(worked, refused, defects, seconds):
    lines = "\n".join(f"| {name} | {worked[name] + refused[name]:,} | {refused[name]:,} | "
                      f"{worked[name]:,} |" for name in KINDS)
    total = sum(worked.values()), sum(refused.values())
    PAGE.write_text(f"""\
# Files that nobody would write

`pytest -m fuzz` writes this page: {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, \
{platform.system()}, Python {platform.python_version()}, {seconds / 60:.0f} minutes in {PROCESSES} \
processes.

Each input is a valid file of one kind of which a seed has made another: by type, size, depth,
name, bit and byte, with pickles and lying headers ([mutations.py](../mutations.py)). All that reads
such files is called, in a process that is watched: no code of a file may run, nothing may be
written outside of the folder, an input may take 10 seconds, and half a gigabyte beyond four times
its size ([watched.py](../watched.py)). A reader works (what is stored of earlier runs and cannot be
read is read anew from the pairs: a night then still counts each pair once), or refuses with a
message.

| kind | inputs | refused with a message | worked |
| --- | ---: | ---: | ---: |
{lines}
| **all** | {sum(total):,} | {total[1]:,} | {total[0]:,} |

Crashes, hangs, code that ran, files elsewhere: {len(defects)}.
""", encoding="utf-8")
