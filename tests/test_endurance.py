"""Jobs leave nothing behind on a cluster that stays: no key, no file, no thread, no memory."""

import gc
import time

import pytest
from many_jobs import MIB, Slope, endure, leaks

from lrh_dask import fit, open_pairs
from lrh_dask.stores.synthetic import Known, write_known

GROWN = 24 * MIB
"""What a process may have grown by over the last half of so few jobs: pools are still filling."""


@pytest.mark.parametrize("asked", [{}, {"basis": 8}, {"basis": 8, "weighting": "step"}])
def test_what_a_fit_has_put_on_the_cluster_goes_with_it(tmp_path, client, asked):
    """At once, not when Python looks for cycles in this process, which may take hours."""
    pairs = open_pairs(write_known(tmp_path / "a.zarr", 2000, Known.indefinite(48, 4),
                                   chunks=(200, 48)))
    gc.collect()
    gc.disable()
    try:
        fit(pairs, **asked)
        end = time.monotonic() + 10
        while client.run_on_scheduler(n_tasks) and time.monotonic() < end:
            time.sleep(0.05)
        assert client.run_on_scheduler(n_tasks) == 0
    finally:
        gc.enable()


def n_tasks(dask_scheduler):
    return len(dask_scheduler.tasks)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_cluster_is_after_many_jobs_what_it_was():
    samples = endure(150, every=10, say=print)
    found = [said for said in leaks(samples) if not said.startswith("memory")]
    assert not found, found
    half, last = samples[len(samples) // 2], samples[-1]
    grown = {name: last.memory[name] - half.memory[name] for name in last.memory}
    assert max(grown.values()) < GROWN, grown


def test_a_slope_is_told_from_noise():
    """Else the table of slopes would tell nothing."""
    noise = [3.0, -1.0, 2.0, -4.0, 1.0, 0.0, -2.0, 4.0, -3.0, 1.0] * 4
    jobs = list(range(0, 400, 10))
    flat, rising = (Slope.of(jobs, [100 + by_job * n + e for n, e in zip(jobs, noise, strict=True)])
                    for by_job in (0.0, 0.5))
    assert abs(flat.by_job) < 3 * flat.error
    assert rising.by_job > 10 * rising.error
    assert abs(rising.by_job - 0.5) < 3 * rising.error
