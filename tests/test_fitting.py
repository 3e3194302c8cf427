"""From buckets of pairs to a certified fit, against the pairs themselves."""

from __future__ import annotations

import numpy as np
import pytest
import reference

from lrh_dask.errors import BadPairs
from lrh_dask.linalg.gathering import reduce_to_triangle
from lrh_dask.linalg.moments import Moments
from lrh_dask.linalg.signs import curvature_sentence
from lrh_dask.linalg.solve import Rows
from lrh_dask.statistics.asked import Asked
from lrh_dask.statistics.fitting import fit_exact, fit_symmetric, rotating_folds
from lrh_dask.statistics.interpolation import asymmetry
from lrh_dask.statistics.sampling import jackknife_errors
from lrh_dask.statistics.selection import Choice
from lrh_dask.statistics.verdicts import Grounds, Verdict, decide_verdict

FIVE = [5.0, -4.0, 3.0, 2.5, -2.0]

POST_X = np.array([[-2.20796738, -0.30411266],
                   [-1.40391911, -0.54950598],
                   [-0.42806159, 0.83258512]])
POST_Y = np.array([[-2.90303289, -0.07347936],
                   [-3.29571902, -0.13532473],
                   [-2.85327694, 0.07932159]])
POST_H = np.array([[0.68753582, 0.77990032, 0.67761106],
                   [0.77990032, 0.90211256, 0.71772732],
                   [0.67761106, 0.71772732, 0.81647766]])


def fit(buckets, *, rank=None, center=False, n_blind=None, lossless=True, folds=None, tail=0.0):
    return fit_symmetric(buckets, rotating_folds(buckets) if folds is None else folds,
                         Asked(rank=rank, center=center), n_blind=n_blind, lossless=lossless,
                         tail=tail, dtype=np.dtype(np.float64))


def exact_fit(method, buckets, *, rank=None):
    return fit_exact(method, buckets, rotating_folds(buckets), rank=rank, dtype=np.dtype("float64"))


def hessian_of(fitted, basis=None):
    u = fitted.vectors if basis is None else basis @ fitted.vectors
    return (u * fitted.eigenvalues) @ u.T


def relative(got, wanted):
    return np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


def test_every_bucket_is_held_out_once_and_never_fitted_on(make_pairs, make_buckets):
    pairs = make_pairs(0, 44, 4, [1.0])
    buckets = make_buckets(pairs.x, pairs.y, 22)
    folds = rotating_folds(buckets)
    assert sorted(b for fold in folds for b in fold.test) == list(buckets)
    for fold in folds:
        assert sorted(fold.train + fold.test) == list(buckets)


def test_a_handful_of_pairs_leaves_none_to_hold_out(make_pairs, make_buckets):
    pairs = make_pairs(0, 9, 4, [1.0])
    assert rotating_folds(make_buckets(pairs.x, pairs.y, 9)) == []


@pytest.mark.parametrize("method", ["symmetric", "seed"])
def test_the_posts_worked_example_gives_its_hessian(make_buckets, method):
    buckets = make_buckets(POST_X.T, POST_Y.T, 1)
    fitted = (fit(buckets) if method == "symmetric" else
              fit_exact("seed", buckets, [], rank=None, dtype=np.dtype("float32")))
    assert fitted.eigenvalues == pytest.approx([2.25745730, 0.14866874], abs=2e-8)
    np.testing.assert_allclose(hessian_of(fitted), POST_H, atol=2e-8)


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_exact_pairs_give_the_hessian_and_its_offset(make_pairs, make_buckets, offset):
    pairs = make_pairs(1, 300, 20, FIVE, offset=offset)
    fitted = fit(make_buckets(pairs.x, pairs.y, 20), center=None)
    hessian = hessian_of(fitted)
    assert relative(hessian, pairs.hessian) < 1e-12
    assert fitted.eigenvalues == pytest.approx(FIVE, rel=1e-12)
    if fitted.certificates.centered:
        np.testing.assert_allclose(fitted.mean_y - hessian @ fitted.mean_x, pairs.offset,
                                   atol=1e-12 * (1.0 + np.abs(pairs.offset).max()))
    assert fitted.certificates.centered or offset == 0.0
    assert fitted.certificates.residual < 1e-12
    assert fitted.certificates.verdict is Verdict.converged


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("p", [20, 9], ids=["whole", "basis"])
def test_the_residual_is_that_of_the_truncated_hessian_over_every_pair(
        make_pairs, make_buckets, rotation, center, p):
    pairs = make_pairs(2, 110, 20, FIVE, noise=0.4, offset=1.0)
    basis = rotation(3, 20)[:, :p]
    buckets = make_buckets(pairs.x, pairs.y, 10, basis)
    fitted = fit(buckets, rank=3, center=center, n_blind=p if p < 20 else None, lossless=p == 20)
    hessian = hessian_of(fitted, basis)
    assert fitted.eigenvalues.shape == (3,)
    b = fitted.mean_y - hessian @ fitted.mean_x if center else np.zeros(20)
    if center:
        np.testing.assert_allclose(fitted.mean_x, pairs.x.mean(axis=0), atol=1e-13)
        np.testing.assert_allclose(fitted.mean_y, pairs.y.mean(axis=0), atol=1e-13)
    left = pairs.y - pairs.x @ hessian - b
    assert fitted.certificates.residual == pytest.approx(
        np.linalg.norm(left) / np.linalg.norm(pairs.y), rel=1e-10)
    for got, rows, y in zip(fitted.bucket_residuals, np.array_split(left, 10),
                            np.array_split(pairs.y, 10), strict=True):
        assert got == pytest.approx(np.linalg.norm(rows) / np.linalg.norm(y), rel=1e-9)


@pytest.mark.parametrize("center", [False, True])
def test_captured_energy_is_the_share_of_y_inside_the_basis(make_pairs, make_buckets, rotation,
                                                            center):
    pairs = make_pairs(2, 110, 20, FIVE, noise=0.4, offset=1.0)
    basis = rotation(3, 20)[:, :9]
    fitted = fit(make_buckets(pairs.x, pairs.y, 10, basis), rank=9, center=center, n_blind=9,
                 lossless=False, tail=0.3)
    y = pairs.y - pairs.y.mean(axis=0) if center else pairs.y
    kept = basis[:, :fitted.certificates.n_basis]
    assert fitted.certificates.captured_energy == pytest.approx(
        np.sum((y @ kept) ** 2) / np.sum(y**2))
    assert fitted.certificates.tail == 0.3


def test_asymmetry_is_that_of_the_pairs_whatever_rows_stand_for_them(make_pairs):
    pairs = make_pairs(4, 60, 6, FIVE, noise=0.3)
    product = pairs.x @ pairs.y.T
    wanted = np.linalg.norm(product - product.T) / np.linalg.norm(product)
    assert asymmetry(Rows.of(reduce_to_triangle(pairs.x, pairs.y))) == pytest.approx(wanted)


@pytest.mark.parametrize("rank", [None, 2])
def test_few_pairs_are_fitted_whole_and_said_to_be_unchecked(make_pairs, make_buckets, rank):
    pairs = make_pairs(5, 4, 20, [3.0, -2.0])
    fitted = fit(make_buckets(pairs.x, pairs.y, 4), rank=rank)
    assert fitted.certificates.verdict is Verdict.underdetermined
    assert np.isnan(fitted.certificates.held_out_residual)
    assert np.all(np.isnan(fitted.standard_errors))
    assert "no error can be estimated" in fitted.certificates.standard_error_note
    assert relative(hessian_of(fitted), pairs.hessian) < 1e-10
    assert fitted.eigenvalues.size == 2  # above rounding, of the four columns fitted


def test_too_few_pairs_per_column_leave_no_standard_error(make_pairs, make_buckets):
    pairs = make_pairs(5, 40, 20, np.linspace(2.0, 1.0, 20), noise=0.01)
    fitted = fit(make_buckets(pairs.x, pairs.y, 10))
    assert np.all(np.isnan(fitted.standard_errors))
    assert "leave no honest error" in fitted.certificates.standard_error_note


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_jackknife_errors_are_those_of_leaving_each_bucket_out(make_pairs, center, ridge):
    pairs = make_pairs(6, 70, 5, [3.0, -2.0], noise=0.5, offset=1.0)
    cuts = [8, 20, 25, 40, 52]
    parts = list(zip(np.split(pairs.x, cuts), np.split(pairs.y, cuts), strict=True))
    vectors = np.linalg.eigh(pairs.hessian)[1][:, [0, -1]]
    buckets = [Moments.of(Rows.of(reduce_to_triangle(x, y))) for x, y in parts]
    got = jackknife_errors(buckets, [len(x) for x, _ in parts], vectors, ridge, center=center)
    wanted = reference.jackknife_errors(parts, vectors, ridge, center=center)
    np.testing.assert_allclose(got, wanted, rtol=1e-8)


@pytest.mark.parametrize("center", [False, True])
def test_standard_errors_cover_the_true_eigenvalues(make_pairs, make_buckets, center):
    scores = []
    for seed in range(60):
        pairs = make_pairs(seed, 400, 12, [5.0, -4.0, 3.0], noise=0.3, offset=2.0 * center)
        fitted = fit(make_buckets(pairs.x, pairs.y, 20), folds=[], rank=3, center=center)
        scores.append((fitted.eigenvalues - [5.0, -4.0, 3.0]) / fitted.standard_errors)
    spread = np.sqrt(np.mean(np.square(scores), axis=0))
    assert np.all((spread > 0.7) & (spread < 1.4)), spread
    assert 0.88 < np.mean(np.abs(scores) < 2.0) <= 1.0


@pytest.mark.parametrize("method", ["seed", "least_norm"])
def test_exact_methods_take_pairs_whole_and_claim_no_errors(make_pairs, make_buckets, method):
    pairs = make_pairs(7, 40, 30, FIVE)
    fitted = exact_fit(method, make_buckets(pairs.x, pairs.y, 10))
    assert relative(hessian_of(fitted), pairs.hessian) < 1e-11
    assert fitted.certificates.residual < 1e-11
    assert np.all(np.isnan(fitted.standard_errors))
    assert method in fitted.certificates.standard_error_note


def test_exact_methods_are_judged_on_pairs_left_out_of_their_fit(make_pairs, make_buckets):
    pairs = make_pairs(7, 20, 30, FIVE)
    buckets = make_buckets(pairs.x, pairs.y, 10)
    left = 0.0
    for fold in rotating_folds(buckets):
        tested = np.isin(np.repeat(np.arange(10), 2), fold.test)
        hessian = reference.don_closed_form(pairs.x[~tested], pairs.y[~tested])
        left += np.sum((pairs.y[tested] - pairs.x[tested] @ hessian) ** 2)
    by_norm = exact_fit("least_norm", buckets).certificates
    assert by_norm.held_out_residual == pytest.approx(np.sqrt(left / np.sum(pairs.y**2)))
    assert by_norm.verdict is Verdict.underdetermined
    by_seed = exact_fit("seed", buckets).certificates
    assert by_seed.held_out_residual < 1e-11
    assert by_seed.verdict is Verdict.converged


def test_seed_refuses_noisy_buckets(make_pairs, make_buckets):
    pairs = make_pairs(7, 20, 30, FIVE, noise=0.1)
    with pytest.raises(BadPairs, match="symmetric"):
        exact_fit("seed", make_buckets(pairs.x, pairs.y, 10))


def test_an_exact_method_can_be_asked_for_a_rank(make_pairs, make_buckets):
    pairs = make_pairs(7, 40, 30, FIVE)
    fitted = exact_fit("seed", make_buckets(pairs.x, pairs.y, 10), rank=5)
    assert fitted.eigenvalues == pytest.approx(FIVE)
    assert fitted.certificates.verdict is Verdict.converged


@pytest.mark.parametrize(("spectrum", "noise", "rank", "verdict"), [
    (FIVE, 0.0, None, Verdict.converged),
    (FIVE, 0.3, None, Verdict.noisy),
    (FIVE, 0.0, 3, Verdict.rank_limited),
    ([1e-9], 1e9, None, Verdict.inconsistent),
])
def test_the_verdict_names_what_was_done_to_the_pairs(make_pairs, make_buckets, spectrum, noise,
                                                      rank, verdict):
    pairs = make_pairs(8, 300, 20, spectrum, noise=noise)
    fitted = fit(make_buckets(pairs.x, pairs.y, 10), rank=rank, center=None)
    assert fitted.certificates.verdict is verdict


def test_a_fit_that_fails_on_held_out_pairs_is_underdetermined():
    curve = np.array([1.0, 0.5])
    choice = Choice(5, 0.0, 1, False, 0.5, curve, 0.0 * curve)
    assert decide_verdict(0.2, choice, 1, Grounds(100, 5)) is Verdict.underdetermined


@pytest.mark.parametrize(("eigenvalues", "halves", "words"), [
    ([2.0, -1.0], [0.1, 0.1], "1 direction of negative and 1 of positive curvature: a saddle"),
    ([-2.0, -1.0], [0.1, 0.1], "2 directions of negative curvature: not a minimum; nothing is"),
    ([-2.0, 1.0], [0.1, 1.5], "1 direction of negative curvature: not a minimum; 1 within"),
    ([2.0, -1.0], [0.1, 1.5], "no negative curvature among the 2 directions seen; 1 within"),
    ([2.0, -1.0], [0.1, np.inf], "no negative curvature among the 2 directions seen; 1 within"),
    ([2.0, 1.0], [np.nan, np.nan], "no negative curvature among the 2 directions seen; signs "
                                   "without known errors; nothing is"),
])
def test_a_sign_counts_only_beyond_its_interval(eigenvalues, halves, words):
    said = curvature_sentence(np.array(eigenvalues), np.array(halves), 10)
    assert said.startswith(words)
    assert "nothing is claimed of the other 8 directions" in said
    assert "a minimum" not in said.replace("not a minimum", "")