"""What may be asked of a fit beside a rank, and what every result tells of its pairs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import lrh_dask
from lrh_dask.cli.app import app
from lrh_dask.errors import SettingsError

pytestmark = pytest.mark.usefixtures("one_blas_thread")

SIX = [5.0, -4.0, 3.0, 2.0, -1.0, 0.5]


def fit(pairs, weight=None, **asked):
    return lrh_dask.fit(lrh_dask.Pairs(pairs.x, pairs.y, weight), **asked)


def relative(found, wanted):
    return np.linalg.norm(found.to_dense() - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize(("n_features", "rtol"), [
    (20, 0.4), (20, 0.2), (20, 0.08), (800, 0.2),
    *(pytest.param(800, rtol, marks=pytest.mark.long) for rtol in (0.4, 0.08))])
def test_rtol_gives_the_smallest_rank_whose_residual_is_within_it(make_pairs, rtol, n_features):
    pairs = make_pairs(0, 400, n_features, SIX, noise=0.03)
    hessian = fit(pairs, rtol=rtol)
    assert hessian.certificates.residual <= rtol
    curve = hessian.curves["residual_by_rank"]
    assert curve[hessian.rank] <= rtol
    one_less = fit(pairs, rank=hessian.rank - 1)
    assert max(one_less.certificates.residual, curve[hessian.rank - 1]) > rtol
    exact = np.sqrt(np.cumsum(np.square(SIX)[::-1])[::-1] / np.sum(np.square(SIX)))
    assert hessian.rank == int(np.argmax(np.append(exact, 0.0) <= rtol))


def test_an_rtol_below_the_noise_is_said_not_to_be_reached(make_pairs):
    hessian = fit(make_pairs(0, 400, 20, SIX, noise=0.3), rtol=0.1)
    assert any("rtol 0.1 was not reached" in notice for notice in hessian.provenance["notices"])
    assert hessian.certificates.verdict is lrh_dask.Verdict.noisy
    assert hessian.certificates.residual > 0.2


def test_rtol_does_not_count_what_an_offset_explains(make_pairs):
    pairs = make_pairs(0, 400, 20, SIX, noise=0.03, offset=100.0)
    plain = make_pairs(0, 400, 20, SIX, noise=0.03)
    assert fit(pairs, rtol=0.2).rank == fit(plain, rtol=0.2).rank == 4


@pytest.mark.parametrize("seed", range(3))
def test_energy_in_one_bucket_hides_no_rank(make_pairs, seed):
    """A descent that has settled, or one long step: the error over buckets says nothing then."""
    pairs = make_pairs(seed, 300, 20, SIX, noise=0.05)
    row = np.arange(300)[:, None]
    x = pairs.x * np.where(row < 5, 100.0, 1.0) * np.exp(-row / 40)
    noise = pairs.y - pairs.x @ pairs.hessian
    hessian = lrh_dask.fit(lrh_dask.Pairs(x, x @ pairs.hessian + 0.05 * noise))
    assert hessian.rank >= 3
    assert relative(hessian, pairs.hessian) < 0.3
    assert hessian.certificates.verdict is not lrh_dask.Verdict.inconsistent


def test_noise_that_grows_with_the_step_is_weighted_down(make_pairs):
    better = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        clean = make_pairs(seed, 1000, 20, SIX)
        length = 10.0 ** rng.uniform(-1.5, 1.5, (1000, 1))
        noise = rng.standard_normal(clean.y.shape)
        scale = np.sqrt(np.mean(clean.y**2))
        pairs = lrh_dask.Pairs(clean.x * length, (clean.y + 0.3 * scale * noise) * length)
        stored, step = (relative(lrh_dask.fit(pairs, rank=6, weighting=weighting), clean.hessian)
                        for weighting in ("stored", "step"))
        better.append(step / stored)
    assert np.mean(better) < 0.8


def test_step_weighting_is_weights_over_the_squared_length_of_x(make_pairs):
    pairs = make_pairs(1, 300, 12, SIX, noise=0.2, offset=1.0)
    weight = np.random.default_rng(0).uniform(0.5, 2.0, 300)
    by_hand = weight / np.sum(pairs.x**2, axis=1)
    one, other = fit(pairs, weight, weighting="step"), fit(pairs, by_hand)
    np.testing.assert_allclose(one.to_dense(), other.to_dense(), rtol=1e-8, atol=1e-10)


def test_a_pair_of_no_length_has_no_weight_by_step(make_pairs):
    pairs = make_pairs(1, 300, 12, SIX, noise=0.2)
    x, y = (np.concatenate([a, np.zeros((5, 12))]) for a in (pairs.x, pairs.y))
    hessian = lrh_dask.fit(lrh_dask.Pairs(x, y + 0.0), weighting="step", rank=6)
    assert hessian.certificates.n_zero_x == 5
    assert relative(hessian, pairs.hessian) < 0.1


def test_few_heavy_rows_leave_no_standard_error(make_pairs):
    """A thousand rows of which ten carry the weight are as good as about ten."""
    pairs = make_pairs(0, 1000, 20, SIX, noise=0.1)
    weight = np.where(np.arange(1000) % 100 == 0, 1e8, 1e-8)
    hessian = fit(pairs, weight, rank=2)
    assert hessian.certificates.n_effective < 15
    assert np.isnan(hessian.standard_errors).all()
    assert "equal weight" in hessian.certificates.standard_error_note


def test_repeated_rows_are_counted_told_and_leave_no_error(make_pairs):
    pairs = make_pairs(0, 300, 12, SIX, noise=0.3)
    x, y = (np.concatenate([a, a[:60]]) for a in (pairs.x, pairs.y))
    hessian = lrh_dask.fit(lrh_dask.Pairs(x, y))
    assert hessian.certificates.n_duplicates == 60
    assert np.isnan(hessian.standard_errors).all()
    assert hessian.certificates.verdict is lrh_dask.Verdict.underdetermined
    assert any("60 of 360 rows repeat" in notice for notice in hessian.provenance["notices"])
    assert fit(pairs).certificates.n_duplicates == 0


@pytest.mark.parametrize("padding", ["zeros", "weightless zeros", "weightless copies"])
def test_padding_repeats_nothing(make_pairs, padding):
    pairs = make_pairs(0, 600, 12, SIX, noise=0.1)
    x, y, weight = pairs.x.copy(), pairs.y.copy(), np.ones(600)
    x[::10], y[::10] = (x[1], y[1]) if padding == "weightless copies" else (0.0, 0.0)
    if padding != "zeros":
        weight[::10] = 0.0
    found = lrh_dask.fit(lrh_dask.Pairs(x, y, weight))
    assert found.certificates.n_duplicates == 0
    assert found.certificates.verdict is lrh_dask.Verdict.noisy
    assert np.isfinite(found.standard_errors).all()


def test_repeated_rows_do_not_hide_that_there_is_no_hessian(make_pairs):
    x = make_pairs(0, 600, 12, SIX).x.copy()
    y = np.random.default_rng(1).standard_normal(x.shape)
    x[:60], y[:60] = x[100:160], y[100:160]
    assert lrh_dask.fit(lrh_dask.Pairs(x, y)).certificates.verdict is lrh_dask.Verdict.inconsistent


def test_psd_says_where_the_pairs_contradict_it(make_pairs):
    for spectrum, contradicted in (([3.0, -2.0, 1.0], True), ([3.0, 2.0, 1.0], False)):
        pairs = make_pairs(0, 400, 12, spectrum, noise=0.1)
        said = lrh_dask.fit(lrh_dask.Pairs(pairs.x, pairs.y), psd=True).provenance["notices"]
        assert any("the pairs show negative curvature" in s for s in said) is contradicted


@pytest.mark.parametrize("weighting", ["stored", "step"])
def test_a_few_short_steps_do_not_hide_an_offset(make_pairs, weighting):
    """With `step` they weigh a thousand times the others."""
    for seed in range(3):
        pairs = make_pairs(seed, 300, 40, SIX)
        x = pairs.x.copy()
        x[:10] *= 0.03
        length = np.linalg.norm(x, axis=1)[:, None] / np.sqrt(40)
        y = x @ pairs.hessian + 1.0
        y += 0.1 * length * np.random.default_rng(seed).standard_normal(x.shape)
        found = lrh_dask.fit(lrh_dask.Pairs(x, y), weighting=weighting)
        assert found.certificates.centered
        error = np.linalg.norm(found.to_dense() - pairs.hessian)
        assert error < 0.1 * np.linalg.norm(pairs.hessian)


@pytest.mark.parametrize(("n_pairs", "n_features"), [(300, 30), (60, 900), (1500, 2600)])
def test_directions_that_x_explores_are_counted(make_pairs, rotation, n_pairs, n_features):
    """x in a subspace of 25 dimensions, on each route."""
    inside = np.random.default_rng(0).standard_normal((25, n_features))
    x = make_pairs(0, n_pairs, 25, [1.0]).x @ inside
    h = inside[:3].T @ np.diag([1.0, -0.5, 0.3]) @ inside[:3] / n_features
    hessian = lrh_dask.fit(lrh_dask.Pairs(x, x @ h), rank=3)
    explored = hessian.certificates.n_explored
    assert explored == (min(25, hessian.certificates.n_basis) if n_features == 2600 else 25)


def test_an_outlying_bucket_is_named(make_pairs):
    pairs = make_pairs(0, 800, 12, SIX, noise=0.1)
    y = pairs.y.copy()
    y[40:60] += 3.0 * np.random.default_rng(0).standard_normal((20, 12))  # a piece of bucket 2
    hessian = lrh_dask.fit(lrh_dask.Pairs(pairs.x, y))
    assert hessian.certificates.outlier_buckets == (2,)
    assert any("bucket 2 (rows 40-59, 440-459)" in said for said in hessian.provenance["notices"])
    assert fit(pairs).certificates.outlier_buckets == ()


@pytest.mark.parametrize("n_pairs", [
    30, 2000, *(pytest.param(n, marks=pytest.mark.long) for n in (60, 200))])
def test_no_bucket_of_a_clean_store_is_named(make_pairs, n_pairs):
    named = 0
    for seed in range(25):
        pairs = make_pairs(seed, n_pairs, 20, [3.0, -2.0, 1.0], noise=0.3)
        named += bool(fit(pairs, rank=3).certificates.outlier_buckets)
    assert named <= 1


def test_a_row_that_drowns_all_others_is_named(make_pairs):
    pairs = make_pairs(0, 800, 12, SIX, noise=0.1)
    y = pairs.y.copy()
    y[45] *= 1e4
    hessian = lrh_dask.fit(lrh_dask.Pairs(pairs.x, y))
    assert hessian.certificates.outlier_buckets == (2,)
    assert any("rows 40-59" in said for said in hessian.provenance["notices"])


def test_the_bias_of_a_cut_basis_is_told_and_all_of_the_space_has_none(make_pairs):
    """A slow spectrum beside few columns: what the basis leaves out moves the eigenvalues."""
    spectrum = 1.0 / np.arange(1, 121)
    many = fit(make_pairs(0, 2000, 120, spectrum, noise=0.05), rank=5)
    assert np.all(many.bias < 0.1 * many.standard_errors)  # no cut, no ridge, little noise
    few = fit(make_pairs(0, 60, 120, spectrum, noise=0.05), rank=5)
    truth = np.linalg.norm(few.eigenvalues - spectrum[:5])
    assert 0.3 * truth < np.linalg.norm(few.bias) < 10.0 * truth


def test_what_x_does_not_explore_is_not_certified(rotation):
    """x in 5 of 60 dimensions, without noise: the pairs are explained, and H is not known."""
    u = rotation(4, 60)
    h = (u * np.where(np.arange(60) % 2, -1.0, 1.0) / np.arange(1, 61)) @ u.T
    x = np.random.default_rng(0).standard_normal((2000, 5)) @ rotation(3, 60)[:5]
    hessian = lrh_dask.fit(lrh_dask.Pairs(x, x @ h))
    assert hessian.certificates.residual < 1e-7  # a difference of squares: √eps of it may be left
    assert relative(hessian, h) > 0.1
    assert hessian.certificates.verdict is lrh_dask.Verdict.underdetermined
    assert "no sign is certified" in hessian.curvature
    assert "saddle" not in hessian.curvature


@pytest.mark.parametrize("n_pairs", [11, 12, 15])
def test_an_exact_rank_is_kept_whole_from_one_pair_more(make_pairs, n_pairs):
    pairs = make_pairs(0, n_pairs, 300, np.linspace(3.0, 0.5, 10) * (-1.0) ** np.arange(10))
    hessian = fit(pairs)
    assert hessian.rank == 10
    assert relative(hessian, pairs.hessian) < 1e-10
    assert hessian.certificates.verdict in {lrh_dask.Verdict.underdetermined,
                                            lrh_dask.Verdict.converged}


def test_what_a_ridge_shrinks_is_told_as_bias(make_pairs):
    """Much noise and few pairs: the interval alone would miss the truth."""
    told, missed = [], []
    for seed in range(6):
        pairs = make_pairs(seed, 400, 60, [10.0, -8.0, 6.0, *(1.0 / np.arange(1, 58))], noise=6.0)
        hessian = fit(pairs, rank=1)
        missed.append(abs(hessian.eigenvalues[0]) - 10.0)
        told.append(hessian.bias[0])
    assert np.mean(missed) < -0.5
    assert 0.5 < np.mean(told) / -np.mean(missed) < 2.0


@pytest.mark.parametrize(("asked", "said"), [
    ({"rtol": 1e-8}, r"between 1e-07 .* and 1"), ({"rtol": 1.5}, "between 1e-07"),
    ({"rtol": True}, "between 1e-07"), ({"rtol": 0.1, "rank": 3}, "both, rank 3"),
    ({"psd": 1}, "True or False"), ({"weighting": "row"}, "stored or step"),
    ({"method": "seed", "psd": True}, "no offset, rtol, psd or weighting"),
    ({"method": "least_norm", "weighting": "step"}, "weighting")])
def test_what_cannot_be_asked_is_refused_before_anything_is_read(make_pairs, asked, said):
    with pytest.raises(SettingsError, match=said):
        fit(make_pairs(0, 40, 6, SIX), **asked)


def test_the_command_line_takes_them_and_its_json_has_every_certificate(make_pairs, tmp_path):
    pairs = make_pairs(0, 200, 12, np.abs(SIX), noise=0.1)
    store = tmp_path / "pairs.zarr"
    lrh_dask.write_pairs(store, pairs.x, pairs.y)
    ran = CliRunner().invoke(app, ["run", str(store), "--rtol", "0.3", "--psd", "--weighting",
                                   "step", "--workers", "1", "--json"])
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert told["residual"] <= 0.3
    assert min(told["eigenvalues"]) >= 0
    assert told.keys() >= {
        "residual", "held_out_residual", "captured_energy", "tail", "asymmetry", "condition",
        "n_explored", "n_features", "n_duplicates", "n_zero_x", "n_zero_y", "bucket_residuals",
        "outlier_buckets", "bias", "n_effective", "verdict"}
    np.testing.assert_allclose(np.array(told["half_widths"]) / told["standard_errors"], 2.093,
                               rtol=1e-3)  # Student's t, 20 buckets
    assert told["standard_error_note"].startswith("scatter of the residuals")
    assert lrh_dask.LowRankHessian.load(told["result"]).provenance["settings"]["rtol"] == 0.3
