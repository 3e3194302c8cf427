"""Moments of buckets, against products of their rows."""

from __future__ import annotations

import numpy as np
import pytest

from lrh_dask.linalg.gathering import reduce_to_triangle
from lrh_dask.linalg.moments import Moments, moments_of, pooled
from lrh_dask.linalg.solve import Rows, center_rows
from lrh_dask.linalg.triangle import merge_all

K = 7


def buckets_of(n_rows, *, mean=0.0):
    """Buckets of unlike size and weight over K features, and their rows."""
    parts = {}
    for b, n in enumerate(n_rows):
        rng = np.random.default_rng(b)
        x, y = rng.standard_normal((2, n, K)) * np.geomspace(1.0, 1e-2, K) + mean + b
        parts[b] = (x, y, rng.uniform(0.1, 2.0, n))
    rows = Rows(*(np.concatenate(part) for part in zip(*(
        (np.sqrt(w), np.sqrt(w)[:, None] * x, np.sqrt(w)[:, None] * y)
        for x, y, w in parts.values()), strict=True)))
    return {b: reduce_to_triangle(x, y, None, w) for b, (x, y, w) in parts.items()}, rows


@pytest.mark.parametrize("n_rows", [(40, 200, 33), (3, 5, 1), (2, 90, 4)])
def test_pooled_moments_about_a_point_are_products_of_the_rows_about_it(n_rows):
    buckets, rows = buckets_of(n_rows)
    whole = pooled(list(moments_of(buckets).values()))
    for point, about in ((None, rows), (rows.means(), center_rows(rows, rows.means()))):
        found = whole.about(point)
        np.testing.assert_allclose(found.xx, about.x.T @ about.x, rtol=1e-11, atol=1e-10)
        np.testing.assert_allclose(found.xy, about.x.T @ about.y, rtol=1e-11, atol=1e-10)
        np.testing.assert_allclose(whole.yy_about(point), about.y.T @ about.y, rtol=1e-11,
                                   atol=1e-10)


def test_moments_about_a_far_mean_lose_nothing_by_it():
    (here, _), (there, _) = buckets_of((400, 300)), buckets_of((400, 300), mean=1e7)
    near, far = (pooled(list(moments_of(buckets).values())) for buckets in (here, there))
    np.testing.assert_allclose(far.xx, near.xx, atol=1e-6 * np.abs(near.xx).max())
    rows = Rows.of(merge_all(list(there.values())))
    plain = rows.x.T @ rows.x - np.outer(rows.one @ rows.x, rows.means()[0])
    assert np.abs(plain - near.xx).max() > 1e-2 * np.abs(near.xx).max()


def test_moments_are_the_same_from_a_gram_matrix_as_from_its_rows():
    buckets, rows = buckets_of((60, 200, 33), mean=2.0)
    bucket = buckets[1]
    assert bucket.gram is not None, "not the case to try"
    found = moments_of(buckets)
    for b, triangle in buckets.items():
        part = slice(*np.cumsum([0, 60, 200, 33])[b:b + 2])
        wanted = Moments.of(Rows(rows.one[part], rows.x[part], rows.y[part]))
        assert triangle.n_pairs == part.stop - part.start
        for one, other in ((found[b].xx, wanted.xx), (found[b].xy, wanted.xy),
                           (found[b].yy, wanted.yy), (found[b].mean, wanted.mean)):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(found[b].weight, wanted.weight, rtol=1e-12)
    stacked = np.concatenate([rows.one[:, None], rows.x, rows.y], axis=1)
    factor = merge_all(list(buckets.values())).factor
    np.testing.assert_allclose(factor.T @ factor, stacked.T @ stacked, rtol=1e-11, atol=1e-10)


def test_projecting_moments_is_projecting_pairs():
    buckets, _ = buckets_of((60,))
    directions = np.linalg.qr(np.random.default_rng(9).standard_normal((K, 3)))[0]
    rows = Rows.of(buckets[0])
    found, wanted = Moments.of(rows).project(directions), Moments.of(rows.project(directions))
    for point in (None, (np.ones(3), -np.ones(3))):
        np.testing.assert_allclose(found.about(point).xy, wanted.about(point).xy, atol=1e-10)
