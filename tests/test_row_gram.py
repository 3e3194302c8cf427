"""RowGram: few pairs of many features, known by their products alone."""

from __future__ import annotations

import numpy as np
import pytest

from lrh_dask.linalg.row_gram import RowGram, Summing, lifting_coefficients


def rows(seed, n=12, d=90, dtype="float64"):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(dtype)


def gathered(x, y, cuts, put=np.asarray):
    """Products over blocks of features, some in one state and some in another, merged."""
    states = []
    for parts in (cuts[:2], cuts[2:]):
        summing = Summing()
        for part in parts:
            summing.add(put(np.concatenate([x[:, part], y[:, part]])))
        states.append(summing.state())
    return states[0].merge(states[1])


CUTS = [slice(0, 10), slice(10, 41), slice(41, 42), slice(42, 90)]


@pytest.mark.parametrize(("dtype", "within"), [("float64", 1e-13), ("float32", 1e-5)])
def test_any_cut_of_the_features_gives_the_products_of_all(dtype, within, frozen):
    x, y = frozen(rows(0, dtype=dtype)), frozen(rows(1, dtype=dtype))
    z = np.concatenate([x, y]).astype(float)
    found = gathered(x, y, CUTS).products
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, z @ z.T, atol=within * np.abs(z @ z.T).max())


def test_rows_that_are_close_are_multiplied_in_float64():
    """y = H x of low rank: in float32 the products would lose what is beside it."""
    x = rows(0, dtype="float32")
    y = (x[:, :1] * np.ones(90, dtype="float32")).astype("float32")
    y[0] *= np.float32(1 + 1e-4)
    z = np.concatenate([x, y]).astype(float)
    np.testing.assert_allclose(gathered(x, y, CUTS).products, z @ z.T, rtol=0, atol=1e-11)


@pytest.mark.parametrize("apart", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("where", [0, 1, 2], ids=["first", "second", "last"])
def test_a_block_whose_rows_are_close_is_seen_wherever_it_comes(apart, where):
    """That the rows of other blocks are apart says nothing of it: here it holds all energy."""
    rng = np.random.default_rng(3)
    blocks = [1e-3 * rng.standard_normal((6, 40)) for _ in range(3)]
    blocks[where] = np.tile(rng.standard_normal((1, 40)), (6, 1)) \
        + apart * rng.standard_normal((6, 40))
    blocks = [block.astype("f4") for block in blocks]
    summing = Summing()
    for block in blocks:
        summing.add(block)
    z = np.concatenate(blocks, axis=1).astype(float)
    true = np.linalg.eigvalsh(z @ z.T)
    np.testing.assert_allclose(np.linalg.eigvalsh(summing.state().products), true, rtol=1e-2)


@pytest.mark.parametrize("scale", [1e-36, 1e-22, 1e20, 1e35])
def test_numbers_at_the_ends_of_float32_lose_nothing(scale):
    z = np.concatenate([rows(0), scale * rows(1)]).astype("f4")
    summing = Summing()
    summing.add(z)
    true = z.astype(float) @ z.T.astype(float)
    size = np.sqrt(np.diagonal(true))
    np.testing.assert_allclose(summing.state().products / np.outer(size, size),
                               true / np.outer(size, size), atol=1e-6)


def test_the_small_pairs_have_the_same_products_and_zeros_beyond():
    x, y = rows(0), rows(1)
    y[3] = x[2]
    small_x, small_y = gathered(x, y, CUTS).rows()
    assert small_x.shape == small_y.shape == (12, 25)
    for a, b, small_a, small_b in ((x, x, small_x, small_x), (x, y, small_x, small_y),
                                   (y, y, small_y, small_y)):
        np.testing.assert_allclose(small_a @ small_b.T, a @ b.T, atol=1e-11)
    assert not small_x[:, 24].any()
    assert not small_y[:, 23].any()  # 23 rows of 24 are independent


@pytest.mark.parametrize("with_x", [False, True])
def test_lifted_vectors_are_those_of_all_features(with_x):
    x, y = rows(0), rows(1)
    small_x, small_y = gathered(x, y, CUTS).rows()
    mix = np.random.default_rng(2).standard_normal((12, 3))
    wanted = y.T @ mix + (x.T @ mix if with_x else 0.0)
    small = small_y.T @ mix + (small_x.T @ mix if with_x else 0.0)
    c = lifting_coefficients(small_x, small_y, small)
    assert c[:12].any() == with_x
    np.testing.assert_allclose(np.concatenate([x, y]).T @ c, wanted, atol=1e-10)
    np.testing.assert_allclose(wanted.T @ wanted, small.T @ small, atol=1e-9)


def test_pairs_that_repeat_others_are_counted_and_rows_of_zeros_are_not():
    x, y = rows(0), rows(1)
    assert RowGram(np.concatenate([x, y]) @ np.concatenate([x, y]).T).n_repeated() == 0
    for a in (x, y):
        a[5] = a[1]
        a[7] = a[1]
        a[9:11] = 0.0
    x[4] = x[3]  # in x alone
    z = np.concatenate([x, y])
    assert RowGram(z @ z.T).n_repeated() == 2


def test_another_array_library_gives_the_same(other_device):
    x, y = rows(0), rows(1)
    here, there = gathered(x, y, CUTS), gathered(x, y, CUTS, other_device.put).to_host()
    np.testing.assert_allclose(there.products, here.products, atol=1e-11)
    assert here.__sizeof__() == pytest.approx(8 * 24 * 24, abs=300)
