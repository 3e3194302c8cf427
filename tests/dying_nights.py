"""A night that dies at some steps: ``python dying_nights.py FOLDER SCHEDULER_FILE BASIS FIRST BY``.

Steps are changes of files under the folder of runs. They are counted in children of a parent that
only forks and waits: they start at once, as all is imported.
"""

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
from appenders import WRITES, in_child

from lrh_dask import append_pairs, nightly
from lrh_dask.nights.underway import State, statuses
from lrh_dask.settings.config import NightlySettings, settings_from
from lrh_dask.stores.catalog import Catalog

D, EIGENVALUES = 12, np.array([3.0, -2.0, 1.0])
FIRST, SECOND = 400, 120


def append(store, seed, n):
    u = np.linalg.qr(np.random.default_rng(0).standard_normal((D, 3)))[0]
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, D))
    append_pairs(store, x, x @ (u * EIGENVALUES) @ u.T + 0.05 * rng.standard_normal(x.shape))


def settings(folder, runs, scheduler_file, basis):
    return settings_from({
        "store": f"{folder}/pairs.zarr", "runs": str(runs), "basis": basis,
        "alerts": {"sharpness_above": 0.1},
        "cluster": {"kind": "scheduler_file", "scheduler_file": scheduler_file}},
        "here", NightlySettings)


def die_at_every_step(folder, scheduler_file, basis, first, by):
    """The second of two nights, killed before change ``first``, ``first + by``, ... of a file.

    After each, the last run is whole, and the next night gives what one that lives gives.
    """
    folder, basis = Path(folder), "auto" if basis == "auto" else int(basis)

    def night(runs):
        return nightly(settings(folder, runs, scheduler_file, basis))

    def at_first():
        append(folder / "pairs.zarr", 1, FIRST)
        night(folder / "base")
        append(folder / "pairs.zarr", 2, SECOND)
        shutil.copytree(folder / "base", folder / "whole", symlinks=True)
        night(folder / "whole")

    def killed_at(runs, step):
        changes = itertools.count()

        def kill(event, args):
            changing = event in ("os.rename", "os.remove", "os.mkdir", "os.symlink") or (
                event == "open" and isinstance(args[2], int) and args[2] & WRITES)
            if changing and str(runs) in str(args[0]) + str(args[1]) and next(changes) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)
        night(runs)

    def check(runs):
        whole, before = Catalog(folder / "whole").runs()[-1], Catalog(folder / "base").runs()[-1]
        seen = Catalog(runs).runs()
        assert [row.run for row in seen][0] == before.run
        assert os.readlink(runs / "latest") in {row.run for row in seen}
        was_told = [s.state for s in statuses(runs)].count(State.done) > 1
        was_counted = list(runs.glob("states/*/0*/000002.zarr"))
        found = night(runs)
        if was_counted:  # it is not read again
            assert found.document["bytes"]["basis"] == found.document["bytes"]["fit"] == 0
        [_, after] = Catalog(runs).runs()
        assert os.readlink(runs / "latest") == after.run == found.document["run"]
        assert after.key == whole.key  # the same rows, with the same digests
        assert (after.n_pairs, after.new_pairs) == (FIRST + SECOND, SECOND)
        assert (after.eigenvalues, after.standard_errors, after.residual) == (
            whole.eigenvalues, whole.standard_errors, whole.residual)
        assert found.alerts or was_told  # also of a night that died before it could tell
        again = night(runs)
        assert not again.is_new
        assert not again.alerts
        left = [path for path in runs.rglob(".*") if path.name != ".lock"
                and "jobs" not in path.parts]
        assert left == []
        assert len(list(runs.glob("states/*/0*"))) == 1

    assert not in_child(at_first)
    for step in itertools.count(int(first), int(by)):
        runs = folder / str(step)
        shutil.copytree(folder / "base", runs, symlinks=True)
        status = in_child(killed_at, runs, step)
        assert status in (0, -signal.SIGKILL)
        assert not in_child(check, runs)
        shutil.rmtree(runs)
        if not status:
            print(step, flush=True)
            return


if __name__ == "__main__":
    die_at_every_step(*sys.argv[1:])
