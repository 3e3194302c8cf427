"""The one door to array libraries."""

from __future__ import annotations

import numpy as np
import pytest

from lrh_dask.errors import SettingsError
from lrh_dask.linalg.arrays import CPU, Device, device_of, like, namespace, pick_device, to_host


def no_gpu():
    return None, "no driver"


def test_the_cpu_is_numpy_and_copies_nothing():
    block = np.arange(6.0).reshape(2, 3)
    assert CPU.put(block) is block
    assert to_host(block) is block
    assert namespace(block) is CPU.xp


@pytest.mark.parametrize("wanted", ["cpu", "auto"])
def test_without_a_gpu_the_work_is_done_on_the_cpu(wanted):
    assert pick_device(wanted, no_gpu) is CPU


def test_a_gpu_that_works_is_taken_unless_the_cpu_was_asked_for(strict_device):
    picked = {wanted: pick_device(wanted, lambda: (strict_device, ""))
              for wanted in ("cpu", "gpu", "auto")}
    assert picked == {"cpu": CPU, "gpu": strict_device, "auto": strict_device}


def test_a_gpu_asked_for_in_vain_is_an_error_that_says_why():
    with pytest.raises(SettingsError, match=r"none on this worker \(no driver\).*--device cpu"):
        pick_device("gpu", no_gpu)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_return_from_another_device_as_they_went(other_device, frozen, dtype):
    block = frozen(np.random.default_rng(0).standard_normal((3, 4)), dtype)
    there = other_device.put(block)
    assert device_of(there) == other_device.handle
    assert namespace(there) is namespace(other_device.put(block))
    back = to_host(there + there)
    assert type(back) is np.ndarray
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, 2 * block)


def test_like_follows_library_and_device(other_device):
    reference = other_device.put(np.zeros(2))
    array = like(reference, np.arange(3.0))
    assert device_of(array) == other_device.handle
    np.testing.assert_array_equal(to_host(array + other_device.put(np.ones(3))), [1.0, 2.0, 3.0])
    assert type(like(np.zeros(2), np.arange(3.0))) is np.ndarray


def test_strict_arrays_of_two_devices_do_not_mix(strict_device):
    """What makes the other strict tests worth their name."""
    elsewhere = Device("host", strict_device.xp, strict_device.xp.Device("CPU_DEVICE"))
    with pytest.raises(ValueError, match="device"):
        strict_device.put(np.ones(2)) + elsewhere.put(np.ones(2))
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        np.asarray(strict_device.put(np.ones(2)))
