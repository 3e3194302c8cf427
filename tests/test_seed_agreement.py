"""`seed`, `symmetric` and `least_norm` through the public fit: where they agree, and must not."""

from __future__ import annotations

import numpy as np
import pytest
from reference import kronecker_fit, least_norm_fit

from lrh_dask import BadPairs, Pairs, fit

pytestmark = pytest.mark.usefixtures("one_blas_thread")

SHAPES = [(6, 30), (30, 60), (20, 800)]
"""Pairs n <= D/2: `symmetric` takes all of R^D on the first two, the pairs whole on the last."""


def slow(n_features):
    return 1.0 / np.arange(1.0, n_features + 1.0)


def indefinite(values):
    return np.where(np.arange(values.size) % 3 == 2, -values, values)


def apart(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def both(pairs, rank):
    """By `seed` and by `symmetric`, dense, after a look at the rank that `seed` found."""
    seed = fit(Pairs(pairs.x, pairs.y), method="seed")
    assert seed.rank == rank
    return seed.to_dense(), fit(Pairs(pairs.x, pairs.y), rank=rank).to_dense()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
def test_on_a_slow_positive_spectrum_seed_is_symmetric_with_a_column_a_pair(
        make_pairs, shape, seed):
    by_seed, by_symmetric = both(make_pairs(seed, *shape, slow(shape[1])), rank=shape[0])
    assert apart(by_seed, by_symmetric) < 1e-10


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sign", [np.abs, indefinite], ids=["definite", "indefinite"])
def test_on_an_exact_rank_up_to_half_the_pairs_seed_and_symmetric_are_the_truth(
        make_pairs, sign, shape, seed):
    for rank in (1, shape[0] // 2):
        pairs = make_pairs(seed, *shape, sign(np.linspace(1.0, 0.3, rank)))
        by_seed, by_symmetric = both(pairs, rank)
        assert apart(by_seed, by_symmetric) < 1e-10
        assert apart(by_seed, pairs.hessian) < 1e-10
        assert fit(Pairs(pairs.x, pairs.y)).rank == rank


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(30, 60), (20, 800)])
def test_on_a_slow_indefinite_spectrum_symmetric_is_another_and_no_worse(make_pairs, shape, seed):
    """Y(XᵀY)⁺Yᵀ with every direction of Y blows up there; both fit what they were given."""
    pairs = make_pairs(seed, *shape, indefinite(slow(shape[1])))
    by_seed = fit(Pairs(pairs.x, pairs.y), method="seed").to_dense()
    by_symmetric = fit(Pairs(pairs.x, pairs.y)).to_dense()
    assert apart(pairs.x @ by_seed, pairs.y) < 1e-8
    assert apart(by_seed, by_symmetric) > 0.1
    assert apart(by_symmetric, pairs.hessian) < apart(by_seed, pairs.hessian)


def asymmetry(x, y):
    product = x.astype(float) @ y.astype(float).T
    return np.linalg.norm(product - product.T) / np.linalg.norm(product)


def pairs_of_asymmetry(make_pairs, seed, wanted, dtype, scale=1.0):
    """Twenty pairs in R^50 with noise of a size that gives the wanted asymmetry."""
    pairs = make_pairs(seed, 20, 50, [3.0, -2.0, 1.0])
    noise = np.random.default_rng([seed, 1]).standard_normal(pairs.y.shape)
    per_unit = asymmetry(pairs.x, pairs.y + 1e-3 * noise) / 1e-3
    return [(scale * a).astype(dtype) for a in (pairs.x, pairs.y + wanted / per_unit * noise)]


LIMITS = {"float32": 1e-4, "float64": 1e-8}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", LIMITS)
def test_seed_refuses_just_above_its_limit_and_says_what_it_measured(make_pairs, dtype, seed):
    x, y = pairs_of_asymmetry(make_pairs, seed, 1.2 * LIMITS[dtype], dtype)
    with pytest.raises(BadPairs, match=r"--method symmetric") as caught:
        fit(Pairs(x, y), method="seed")
    assert f"= {asymmetry(x, y):.3g}." in str(caught.value)
    assert 1.1 * LIMITS[dtype] < asymmetry(x, y) < 1.3 * LIMITS[dtype]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", LIMITS)
def test_seed_accepts_well_below_its_limit(make_pairs, dtype, seed):
    x, y = pairs_of_asymmetry(make_pairs, seed, 0.3 * LIMITS[dtype], dtype)
    hessian = fit(Pairs(x, y), method="seed")
    assert hessian.certificates.asymmetry == pytest.approx(0.3 * LIMITS[dtype], rel=0.05)
    np.testing.assert_allclose(hessian.eigenvalues[:3], [3.0, -2.0, 1.0],
                               rtol=100 * LIMITS[dtype])


@pytest.mark.parametrize("scale", [1e100, 1e-100])
def test_seed_refuses_noise_of_any_scale(make_pairs, scale):
    x, y = pairs_of_asymmetry(make_pairs, 0, 0.1, "float64", scale)
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(BadPairs, match="asymmetry"):
        fit(Pairs(x, y), method="seed")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("n_pairs", [2, 4, 8, 20])
@pytest.mark.parametrize("noise", [0.0, 0.5], ids=["consistent", "inconsistent"])
def test_least_norm_is_the_dense_least_norm_solution(make_pairs, noise, n_pairs, seed):
    pairs = make_pairs(seed, n_pairs, 8, [3.0, -2.0, 1.5, 1.0, -0.5], noise=noise, offset=noise)
    got = fit(Pairs(pairs.x, pairs.y), method="least_norm").to_dense()
    assert apart(got, least_norm_fit(pairs.x, pairs.y)) < 1e-9
    assert apart(got, kronecker_fit(pairs.x, pairs.y, 0.0)) < 1e-8
    if not noise:
        assert apart(pairs.x @ got, pairs.y) < 1e-12
