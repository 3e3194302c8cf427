"""How well a run explains pairs it has not seen: exactly as a pass over them would say."""

from __future__ import annotations

import numpy as np
import pytest

import lrh_dask
from lrh_dask.drift.explained import explained
from lrh_dask.errors import SettingsError
from lrh_dask.linalg.gathering import reduce_to_triangle

SPECTRUM = (4.0, -2.5, 2.0, 1.5)


def literal(hessian, x, y):
    """‖Y - XH - b‖ / ‖Y - b‖, row by row."""
    h = hessian.to_dense()
    b = np.zeros(len(h)) if hessian.offset is None else hessian.offset
    left = sum(np.sum((yi - h @ xi - b) ** 2) for xi, yi in zip(x, y, strict=True))
    return np.sqrt(left / sum(np.sum((yi - b) ** 2) for yi in y))


def basis_around(hessian, n_columns, rotation):
    """Orthonormal columns that span the eigenvectors and more, in no special order."""
    beside = np.random.default_rng(0).standard_normal((hessian.n_features, n_columns))
    q = np.linalg.qr(np.hstack([hessian.eigenvectors, beside]))[0][:, :n_columns]
    return q @ rotation(3, n_columns)


@pytest.mark.parametrize("offset", [0.0, 0.7])
@pytest.mark.parametrize("n_columns", [8, None])
def test_the_residual_is_that_of_a_pass_over_the_pairs(make_pairs, rotation, offset, n_columns):
    p = make_pairs(1, 900, 20, SPECTRUM, noise=0.4, offset=offset)
    hessian = lrh_dask.fit(lrh_dask.Pairs(p.x[:600], p.y[:600]), rank=4)
    assert (hessian.offset is not None) == bool(offset)
    q = None if n_columns is None else basis_around(hessian, n_columns, rotation)
    x, y = p.x[600:], p.y[600:]
    found = explained(hessian, {0: reduce_to_triangle(x, y, q)}, q)
    assert found.residual == pytest.approx(literal(hessian, x, y), rel=1e-12)


def test_new_pairs_of_the_same_hessian_are_explained_as_was_promised(make_pairs, make_buckets):
    excess = []
    for seed in range(12):
        p = make_pairs(seed, 1600, 20, SPECTRUM, noise=0.5)
        hessian = lrh_dask.fit(lrh_dask.Pairs(p.x[:1200], p.y[:1200]))
        found = explained(hessian, make_buckets(p.x[1200:], p.y[1200:], 8), None)
        assert found.residual == pytest.approx(literal(hessian, p.x[1200:], p.y[1200:]))
        assert (found.n_pairs, found.n_buckets) == (400, 8)
        excess.append(found.excess)
    assert np.abs(excess).max() < 3
    assert np.std(excess) > 0.3


def test_what_was_promised_is_beside_the_offset_too(make_pairs, make_buckets):
    """An offset explains most of these y; of what it leaves, H explains as much as ever."""
    p = make_pairs(3, 1600, 20, SPECTRUM, noise=0.5, offset=3.0)
    hessian = lrh_dask.fit(lrh_dask.Pairs(p.x[:1200], p.y[:1200]))
    found = explained(hessian, make_buckets(p.x[1200:], p.y[1200:], 8), None)
    assert hessian.certificates.held_out_residual < 0.2 < found.held_out
    assert abs(found.excess) < 3


def test_new_pairs_of_another_hessian_are_explained_far_worse(make_pairs, make_buckets):
    p = make_pairs(2, 1200, 20, SPECTRUM, noise=0.2)
    moved = make_pairs(2, 400, 20, (4.0, -2.5, 2.0, 2.2), noise=0.2)
    hessian = lrh_dask.fit(lrh_dask.Pairs(p.x, p.y))
    found = explained(hessian, make_buckets(moved.x, moved.y, 8), None)
    assert found.excess > 5


def test_the_error_is_as_large_as_the_scatter_of_many_nights(make_pairs, make_buckets):
    p = make_pairs(4, 13_200, 16, SPECTRUM, noise=0.5)
    hessian = lrh_dask.fit(lrh_dask.Pairs(p.x[:1200], p.y[:1200]))
    nights = [explained(hessian, make_buckets(x, y, 10), None) for x, y in zip(
        np.split(p.x[1200:], 40), np.split(p.y[1200:], 40), strict=True)]
    scatter = np.std([night.residual for night in nights], ddof=1)
    assert np.mean([night.error for night in nights]) == pytest.approx(scatter, rel=0.35)


def test_one_bucket_has_no_error_and_empty_ones_do_not_count(make_pairs):
    p = make_pairs(5, 700, 12, SPECTRUM, noise=0.3)
    hessian = lrh_dask.fit(lrh_dask.Pairs(p.x[:600], p.y[:600]))
    one = reduce_to_triangle(p.x[600:], p.y[600:], None)
    none = reduce_to_triangle(p.x[:0], p.y[:0], None)
    found = explained(hessian, {0: one, 3: none}, None)
    assert (found.n_buckets, list(found.by_bucket)) == (1, [0])
    assert np.isnan([found.error, found.excess]).all()
    assert np.isnan(explained(hessian, {0: none}, None).residual)


def test_a_basis_that_lacks_an_eigenvector_is_refused(make_pairs, rotation):
    p = make_pairs(6, 600, 12, SPECTRUM, noise=0.3)
    hessian = lrh_dask.fit(lrh_dask.Pairs(p.x, p.y))
    q = rotation(9, 12)[:, :8]
    with pytest.raises(SettingsError, match="leaves out"):
        explained(hessian, {0: reduce_to_triangle(p.x, p.y, q)}, q)
    with pytest.raises(SettingsError, match="not projected on this basis"):
        explained(hessian, {0: reduce_to_triangle(p.x, p.y, q)}, None)
