"""Processes that append numbered pairs, and die at it: ``python appenders.py COMMAND STORE ...``.

A process that has used Zarr has threads, and cannot be forked. So those that are to die are
children of a parent that only forks and waits: they start at once, as all is imported.
"""

import contextlib
import itertools
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import zarr

from lrh_dask import BadPairs, append_pairs, open_pairs
from lrh_dask.stores.manifest import chunk_digests
from lrh_dask.stores.stored_chunks import digests

D = 4
BEFORE, AFTER, MORE = 57, 78, 5
"""Rows before an append that is killed, and after; and how many follow: fewer, so that they cover
nothing up that the killed one left."""
CHUNK_ROWS = 10
APART = (".lrh-lock", ".lrh_manifest.tmp")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def numbered(start, stop):
    """Pairs whose numbers say which rows they are."""
    x = np.arange(start, stop)[:, None] + np.arange(D) / 8
    return x, 2 * x


def check_numbered(pairs):
    """The rows of a store are numbered pairs, each in its place."""
    block = pairs.read(0, pairs.n_pairs)
    x, y = numbered(0, pairs.n_pairs)
    np.testing.assert_array_equal(block.x, x)
    np.testing.assert_array_equal(block.y, y)


def n_published(store):
    return open_pairs(store).n_pairs if Path(store).exists() else 0


def append_for_ever(store):
    """Batches of 2 to 24 pairs, each told on standard output when it is published."""
    while True:
        n = n_published(store)
        append_pairs(store, *numbered(n, n + 2 + 7 * n % 23), chunk_rows=CHUNK_ROWS)
        print(n_published(store), flush=True)


def append_tagged(store, tag, n_batches):
    for i in range(int(n_batches)):
        x = np.full((3, D), [float(tag), i, 0, 0])
        append_pairs(store, x, -x, chunk_rows=CHUNK_ROWS)


def in_child(function, *args):
    """Carry out in a child of its own; its exit status, negative where a signal ended it."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            function(*args)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def live_and_die(store, n_lives):
    """Append for ever, killed again and again at random moments, later ones where all is slow."""
    rng, longest, all_told = random.Random(0), 0.5, set()
    for life in itertools.count():
        if life >= int(n_lives) and len(all_told) > int(n_lives):
            return
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.dup2(writing, sys.stdout.fileno())
            try:
                append_for_ever(store)
            finally:  # it has failed: nothing else ends it
                traceback.print_exc()
                os._exit(1)
        os.close(writing)
        time.sleep(rng.uniform(0.05, longest))
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        with open(reading, "rb") as said:
            *told, _ = said.read().split(b"\n")  # the last one may be cut
        all_told.update(told)
        longest *= 1.0 if told else 1.3
        if told:
            print(told[-1].decode(), flush=True)


def weighted(start, stop):
    return (*numbered(start, stop), np.arange(start, stop) + 1.0)


def die_at_every_step(folder, manifest, by):
    """Append to copies of a store, killed before change 0, ``by``, 2 ``by``, ... of a file.

    manifest: "kept", or "none": then the first append adopts the rows that are there.
    """
    folder = Path(folder)
    wholes = {f"{n}.whole": n for n in (BEFORE, AFTER, BEFORE + MORE, AFTER + MORE)}
    assert not in_child(lambda: [append_pairs(folder / name, *weighted(0, n), chunk_rows=CHUNK_ROWS)
                                 for name, n in {"base.zarr": BEFORE, **wholes}.items()])
    if manifest == "none":
        shutil.rmtree(folder / "base.zarr" / "lrh_manifest")
        (folder / "base.zarr" / "x" / ".lrh-lock").unlink(missing_ok=True)
    for step in itertools.count(0, int(by)):
        store = folder / f"{step}.zarr"
        shutil.copytree(folder / "base.zarr", store)
        status = in_child(_append_until, store, step)
        assert status in (0, -signal.SIGKILL)
        assert not in_child(_check_then_append, folder, store)
        shutil.rmtree(store)
        if not status:
            print(step, flush=True)
            return


def _append_until(store, step):
    open_pairs(store)  # what is done once in a process is no step
    changes = itertools.count()

    def kill(event, args):
        changing = event in ("os.rename", "os.remove", "os.mkdir") or (
            event == "open" and args[2] & WRITES)
        if changing and str(store) in str(args[0]) and next(changes) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)
    append_pairs(store, *weighted(BEFORE, AFTER))


def _check_then_append(folder, store):
    pairs = open_pairs(store)
    n = pairs.n_pairs
    assert n in (BEFORE, AFTER)
    assert len(pairs.batches) in ((0, 1) if n == BEFORE else (2,))
    check_numbered(pairs)
    with contextlib.suppress(BadPairs):  # an append that is refused, after all was put in order
        append_pairs(store, np.ones((2, D + 1)), np.ones((2, D + 1)), np.ones(2))
    _check_files(store, folder / f"{n}.whole")
    append_pairs(store, *weighted(n, n + MORE))
    check_numbered(open_pairs(store))
    _check_files(store, folder / f"{n + MORE}.whole")


def _check_files(store, whole):
    """A store has the very files of one that was written at once, and says so in its manifest."""
    pairs = open_pairs(store)
    assert not pairs.notices()
    n_batches = len(pairs.batches)
    for label in ("x", "y", "weight"):
        here, there = files_of(store / label), files_of(whole / label)
        assert here == there, (label, sorted(here.keys() ^ there.keys()))
        array = getattr(pairs, label)
        assert chunk_digests(array, n_batches) == digests(array, 0, pairs.n_pairs)
    assert {path.name for path in (store / "lrh_manifest").iterdir()} == {
        "zarr.json", *(f"{i:06d}" for i in range(n_batches))}


def files_of(folder):
    """Content of every file under a folder, but for the lock and the next manifest."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*") if path.is_file() and path.name not in APART}


def by_another_program(store, do):
    """Let another program change a store, and commit where it is a repository."""
    if store.suffix == ".zarr":
        do(zarr.open_group(store, mode="r+", use_consolidated=False))
        return
    import icechunk

    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(store)))
    session = repository.writable_session("main")
    do(zarr.open_group(session.store, mode="r+", use_consolidated=False))
    session.commit("another program")


def raw_group(path, x, y, **kwargs):
    """A group as anybody writes it."""
    group = zarr.open_group(path, mode="w")
    for name, array in (("x", x), ("y", y)):
        group.create_array(name, data=array, **{"chunks": (10, array.shape[1]), **kwargs},
                           config={"write_empty_chunks": True})
    return path


def holds(store, x, y):
    """Whether a store, opened again, has these rows and no others."""
    pairs = open_pairs(store)
    block = pairs.read(0, pairs.n_pairs)
    return np.array_equal(block.x, x) and np.array_equal(block.y, y)


COMMANDS = {"lives": live_and_die, "tagged": append_tagged,
            "steps": die_at_every_step}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
