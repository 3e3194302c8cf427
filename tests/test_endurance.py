"""Jobs leave nothing behind on a cluster that stays: no key, no file, no thread, no memory."""

import pytest
from many_jobs import MIB, Slope, endure, leaks

GROWN = 24 * MIB
"""What a process may have grown by over the last half of so few jobs: pools are still filling."""


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
