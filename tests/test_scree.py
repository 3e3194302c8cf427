"""The basis is cut where held-out gradients stop rewarding columns."""

import numpy as np
import pytest

from lrh_dask.linalg.reduced_pairs import reduce_pairs
from lrh_dask.statistics.scree import scree


def stage(spectrum, noise, kept=60, n=600, d=300, dtype="float64"):
    """Basis from half of the gradients, reduced pairs of the other half."""
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.standard_normal((d, len(spectrum))))[0]
    y = rng.standard_normal((n, len(spectrum))) * spectrum @ u.T
    y += noise * rng.standard_normal(y.shape) * np.linalg.norm(y) / np.sqrt(y.size)
    y = y.astype(dtype)
    train, held_out = (reduce_pairs(part, part, max_rank=kept) for part in np.split(y, 2))
    return train.basis()[0], held_out


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_a_noise_floor_ends_the_basis_a_little_above_the_rank(noise):
    q, held_out = stage(np.linspace(2, 1, 10), noise)
    assert 10 < scree(q, held_out, rank=None).n_columns <= 24


def test_a_long_tail_keeps_every_column():
    q, held_out = stage(1 / np.arange(1.0, 301.0), 0.0)
    assert scree(q, held_out, rank=None).n_columns == 60


@pytest.mark.parametrize(("dtype", "weakest"), [("float32", -5), ("float64", -13)])
def test_of_exact_pairs_all_that_stands_out_of_rounding_is_kept(dtype, weakest):
    q, held_out = stage(np.logspace(0, weakest, 40), 0.0, dtype=dtype)
    assert scree(q, held_out, rank=None).n_columns == min(q.shape[1], 60)  # half as many again


def test_the_asked_rank_fits_in():
    q, held_out = stage(np.linspace(2, 1, 10), 0.3)
    assert scree(q, held_out, rank=40).n_columns == 48
