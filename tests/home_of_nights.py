"""A home from which wrappers make nights, and what is to be found after two of them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

import lrh_dask
from lrh_dask.nights.underway import State, statuses
from lrh_dask.stores.catalog import Catalog

ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / "workflows"
BIN = Path(sys.executable).parent


def at_home(home, settings="nightly.yaml", **more):
    """Make ~/lrh as the wrappers expect it, with configs/nightly.yaml; the folder of its runs.

    Args:
        settings: name of the file; ``more``: settings that go before its own.
    """
    folder = home / "lrh"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "lrh").symlink_to(BIN / "lrh")
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.standard_normal((12, 3)))[0]
    x = rng.standard_normal((400, 12))
    y = x @ (u * [3.0, -2.0, 1.0]) @ u.T + 0.01 * rng.standard_normal(x.shape)
    lrh_dask.write_pairs(folder / "pairs.zarr", x, y, chunk_rows=50)
    shipped = yaml.safe_load((ROOT / "configs" / "nightly.yaml").read_text())
    write(folder / settings, {**shipped, "cluster": {"workers": 1}, **more})
    return folder / "runs"


def waiting_for_a_person(home, settings="nightly.yaml"):
    """Have the next night raise an alert: the newest pair is older than half a second."""
    path = home / "lrh" / settings
    write(path, {**yaml.safe_load(path.read_text()), "alerts": {"stale_after": "0.008m"}})


def write(path, settings):
    path.write_text(yaml.safe_dump(settings))


def counted(runs, tries_first=False):
    """Nights were made, and one run was published: the second, and all later, found nothing new.

    Args:
        tries_first: whether others failed before; these are not counted.
    """
    told = [status for status in statuses(runs) if status.state.is_final]
    tries = sum(status.state is State.failed for status in told)
    assert (tries > 0) == tries_first, told
    nights = told[tries:]
    assert len(nights) > 1
    assert [s.state for s in nights] == [State.done] + [State.nothing_new] * (len(nights) - 1), told
    published = [run.run for run in Catalog(runs).runs()]
    assert len(published) == 1
    assert {status.result for status in nights} == set(published)


def n_ended(runs):
    """How many nights have come to an end."""
    return sum(status.state.is_final for status in statuses(runs))


def there(condition, seconds=120):
    """Wait until it is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def told(unavailable):
    """Skip a test of what this machine has not."""
    pytest.skip(" ".join(str(unavailable).split()))
