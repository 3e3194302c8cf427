"""What has changed between two runs: no drift is seen where there is none, and true drift is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

import lrh_dask
from lrh_dask.drift.drift import compare, correlation, false_alarms
from lrh_dask.errors import SettingsError
from lrh_dask.statistics.certificates import Certificates
from lrh_dask.statistics.hessian import LowRankHessian
from lrh_dask.statistics.verdicts import Verdict

NAN = float("nan")
SPECTRUM = (4.0, -2.5, 2.0, 1.5, 1.0, -0.6)
WINDOWS = {  # nights of the same stream: (first, last) pair of each
    "independent": lambda night, n: (night * n, (night + 1) * n),
    "nested": lambda night, n: (0, 3 * n + night * n // 2),
    "sliding": lambda night, n: (night * n // 2, night * n // 2 + 2 * n),
}


def hessian_of(values, vectors=None, *, errors=0.05, n_pairs=1000, margins=0.2, bias=0.0,
               n_features=12, verdict=Verdict.noisy, **certificates):
    values = np.asarray(values, dtype=float)
    vectors = np.eye(n_features)[:, :values.size] if vectors is None else vectors
    return LowRankHessian(
        eigenvalues=values, standard_errors=np.broadcast_to(errors, values.shape).astype(float),
        eigenvectors=vectors, n_pairs=n_pairs, certificates=Certificates(**{
            "residual": 0.1, "held_out_residual": 0.12, "asymmetry": 0.0, "captured_energy": 1.0,
            "tail": 0.0, "condition": 3.0, "ridge": 0.0, "n_basis": 8, "n_buckets": 20,
            "centered": False, "standard_error_note": "", "verdict": verdict, **certificates}),
        curves={"sign_margins": np.broadcast_to(margins, values.shape),
                "bias": np.broadcast_to(bias, values.shape)})


def turned(angle, i=0, j=1, n_features=12):
    """The identity with its axes i and j turned."""
    q = np.eye(n_features)
    q[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return q


def pairs_of(drift):
    return [(e.match.before, e.match.after) for e in drift.eigenvalues]


@pytest.fixture(scope="module")
def nights(make_pairs):
    """Runs on windows of streams of noisy pairs of one Hessian each, and what they hold."""
    found = {}
    for name, window in WINDOWS.items():
        for seed in range(4):
            stream = make_pairs(seed, 4000, 24, SPECTRUM, noise=0.5)
            found[name, seed] = [
                (window(night, 400), lrh_dask.fit(lrh_dask.Pairs(
                    *(a[slice(*window(night, 400))] for a in (stream.x, stream.y)))))
                for night in range(6)]
    return found


def drifts_of(nights, name):
    for (which, _), runs in nights.items():
        for ((a, b), before), ((c, d), after) in itertools.pairwise(runs):
            if which == name:
                yield compare(before, after, shared_pairs=max(0, min(b, d) - max(a, c)))


@pytest.mark.parametrize("name", WINDOWS)
def test_without_drift_changes_are_as_large_as_their_errors_say(nights, name):
    seen = np.array([e.drift for drift in drifts_of(nights, name) for e in drift.eigenvalues])
    assert seen.size == 4 * 5 * 6
    assert np.mean(np.abs(seen) > 3) < 0.02
    assert 0.7 < np.sqrt(np.mean(seen**2)) < 1.3
    assert np.abs(seen).max() < 5


def test_errors_that_ignore_shared_pairs_are_too_large(nights):
    """By a factor of two and more where a night adds a tenth: a drift would be missed."""
    for _, runs in (item for item in nights.items() if item[0][0] == "nested"):
        (_, before), (_, after) = runs[-2:]
        knowing, ignorant = (compare(before, after, shared_pairs=n) for n in (before.n_pairs, 0))
        ratio = [a.error / b.error for a, b in zip(
            knowing.eigenvalues, ignorant.eigenvalues, strict=True)]
        assert np.median(ratio) < 0.5
        assert max(ratio) < 0.9


@pytest.mark.parametrize("name", WINDOWS)
def test_without_drift_the_leading_subspaces_agree_as_far_as_noise_lets_them(nights, name):
    cuts = [cut for drift in drifts_of(nights, name) for cut in drift.cuts if cut.apart]
    lost = np.array([1 - cut.overlap for cut in cuts])
    noise = np.array([1 - cut.by_noise for cut in cuts])
    assert len(cuts) > 60
    assert np.quantile(lost / noise, 0.95) < 2
    assert np.median(lost / noise) > 0.2


def test_a_true_drift_is_found_and_the_others_stay(make_pairs):
    moved = (4.0, -2.5, 2.0, 1.8, 1.0, -0.6)
    first, second = (make_pairs(5, 3000, 24, s, noise=0.5) for s in (SPECTRUM, moved))
    drift = compare(*(lrh_dask.fit(lrh_dask.Pairs(*pair)) for pair in (
        (first.x[:1500], first.y[:1500]), (second.x[1500:], second.y[1500:]))))
    far = [e for e in drift.eigenvalues if abs(e.drift) > 5]
    assert [round(e.before, 1) for e in far] == [1.5]
    assert drift.worst is far[0]
    assert far[0].ratio == pytest.approx(1.2, abs=3 * far[0].ratio_error)
    assert drift.chance < 1e-3


def test_nested_errors_are_the_difference_of_the_variances():
    before, after = (hessian_of([2.0], errors=e, n_pairs=n) for e, n in ((0.2, 100), (0.1, 400)))
    assert compare(before, after, shared_pairs=100).eigenvalues[0].error == pytest.approx(
        np.sqrt(0.2**2 - 0.1**2))
    assert compare(before, after).eigenvalues[0].error == pytest.approx(np.hypot(0.2, 0.1))


def test_correlation_is_that_of_means_over_shared_samples():
    draws = np.random.default_rng(0).standard_normal((20000, 70))
    literal = np.corrcoef(draws[:, :50].mean(axis=1), draws[:, 20:].mean(axis=1))[0, 1]
    assert correlation(50, 50, 30) == pytest.approx(0.6)
    assert literal == pytest.approx(0.6, abs=0.02)


def test_no_change_is_certain_however_many_pairs_are_shared():
    """What a ridge chosen anew moves is no drift: errors keep a floor, larger for another ridge."""
    before, after = hessian_of([2.0]), hessian_of([2.01])
    assert compare(before, after, shared_pairs=1000).eigenvalues[0].error == pytest.approx(0.005)
    other = hessian_of([2.01], ridge=0.1)
    assert compare(before, other, shared_pairs=1000).eigenvalues[0].error == pytest.approx(0.025)
    biased = hessian_of([2.01], bias=0.3)
    assert compare(before, biased, shared_pairs=1000).eigenvalues[0].error == pytest.approx(0.3)


def test_the_error_of_a_ratio_is_that_of_many_draws():
    rng, rho = np.random.default_rng(1), 0.8
    first, own = rng.standard_normal((2, 400_000))
    a, b = 3 + 0.06 * first, 4 + 0.05 * (rho * first + np.sqrt(1 - rho**2) * own)
    found = compare(hessian_of([3.0], errors=0.06), hessian_of([4.0], errors=0.05),
                    shared_pairs=800).eigenvalues[0]
    assert found.ratio == pytest.approx(4 / 3)
    assert found.ratio_error == pytest.approx(np.std(b / a), rel=0.02)


def test_eigenvalues_that_change_places_are_followed_by_direction():
    drift = compare(hessian_of([5.0, 3.0, -1.0]),
                    hessian_of([5.1, 2.9, -1.0], np.eye(12)[:, [1, 0, 2]]))
    assert pairs_of(drift) == [(0, 1), (1, 0), (2, 2)]
    assert all(e.match.followed and e.match.overlap == 1 for e in drift.eigenvalues)
    assert drift.eigenvalues[0].difference == pytest.approx(-2.1)


def test_inside_a_cluster_values_are_paired_in_order_whatever_the_vectors():
    """Its vectors may be turned in any way: by direction, a turn of 80° would be a drift."""
    drift = compare(hessian_of([2.05, 1.95]), hessian_of([2.06, 1.94], turned(1.4)[:, :2]))
    assert pairs_of(drift) == [(0, 0), (1, 1)]
    assert not any(e.match.followed for e in drift.eigenvalues)
    assert max(abs(e.drift) for e in drift.eigenvalues) < 1


def test_signs_are_kept_where_magnitudes_change_places():
    drift = compare(hessian_of([2.0, -1.9]), hessian_of([-2.0, 1.9], np.eye(12)[:, 5:7]))
    assert pairs_of(drift) == [(0, 1), (1, 0)]
    assert all(e.ratio > 0.9 for e in drift.eigenvalues)


def test_a_sign_that_changes_along_its_direction_is_a_negative_ratio_and_changes_the_index():
    drift = compare(hessian_of([3.0, 1.0]), hessian_of([3.0, -1.0]))
    assert drift.eigenvalues[1].ratio == -1.0
    assert drift.index.found == (0, 1)
    assert drift.index.is_certain


@pytest.mark.parametrize(("before", "after"), [
    (hessian_of([3.0, 0.1]), hessian_of([3.0, -0.1])),
    (hessian_of([3.0, 1.0]), hessian_of([3.0, -1.0], margins=NAN)),
    (hessian_of([3.0, 1.0]), hessian_of([3.0, -1.0], verdict=Verdict.underdetermined)),
    (hessian_of([3.0]), hessian_of([3.0, -1.0])),   # it may have been there, too weak to be found
])
def test_an_index_within_its_errors_is_not_certain_to_have_changed(before, after):
    index = compare(before, after).index
    assert index.found == (0, 1)
    assert not index.is_certain


def test_what_only_one_run_found_has_no_drift_and_no_ratio():
    drift = compare(hessian_of([3.0, 1.0]), hessian_of([3.0, 2.0, 1.0], np.eye(12)[:, [0, 2, 1]]))
    assert pairs_of(drift) == [(0, 0), (1, 2), (None, 1)]
    new = drift.eigenvalues[2]
    assert np.isnan([new.before, new.drift, new.ratio, new.ratio_error, new.error]).all()
    lost = compare(hessian_of([3.0, 1.0]), hessian_of([3.0])).eigenvalues[1]
    assert (lost.match.after, np.isnan(lost.drift)) == (None, True)


def test_missing_errors_give_no_drift_and_no_chance():
    drift = compare(hessian_of([3.0, 1.0], errors=NAN), hessian_of([9.0, 1.0]))
    assert np.isnan([e.drift for e in drift.eigenvalues]).all()
    assert drift.worst is None
    assert np.isnan(drift.chance)
    assert all(np.isnan(cut.by_noise) for cut in drift.cuts)
    assert drift.eigenvalues[0].ratio == 3.0


def test_errors_of_zero_are_not_taken_for_certainty():
    drift = compare(hessian_of([3.0], errors=0.0), hessian_of([3.1], errors=0.0))
    assert np.isnan(drift.eigenvalues[0].drift)


def test_overlaps_are_cos2_of_principal_angles_at_gaps_only():
    before = hessian_of([5.0, 3.0, 2.99, 1.0])
    after = hessian_of([5.0, 3.0, 2.99, 1.0], turned(0.3, 0, 3)[:, :4])
    whole, *smaller = compare(before, after).cuts
    assert [cut.size for cut in smaller] == [1, 3]          # none between 3 and 2.99
    assert smaller[0].overlap == pytest.approx(np.cos(0.3) ** 2)
    assert smaller[0].angles == pytest.approx((0.3,))
    assert smaller[1].overlap == pytest.approx((2 + np.cos(0.3) ** 2) / 3)
    assert (whole.size, whole.overlap) == (4, pytest.approx(1.0))
    assert compare(before, after).least_cut == smaller[0]


def test_a_smaller_rank_is_compared_with_all_that_the_larger_one_holds():
    whole = compare(hessian_of([3.0]), hessian_of([5.0, 3.0], turned(0.0)[:, [1, 0]])).cuts[0]
    assert (whole.size, whole.overlap, whole.apart) == (1, 1.0, False)


def test_a_run_of_rank_zero_can_be_compared():
    for pair in ((hessian_of([]), hessian_of([2.0])), (hessian_of([2.0]), hessian_of([])),
                 (hessian_of([]), hessian_of([]))):
        drift = compare(*pair)
        assert drift.cuts == ()
        assert drift.worst is None


def test_runs_over_other_features_are_refused():
    with pytest.raises(SettingsError, match="expected the 12 features"):
        compare(hessian_of([1.0]), hessian_of([1.0], n_features=13))


@pytest.mark.parametrize("shared", [-1, 1001, NAN])
def test_more_shared_pairs_than_there_are_are_refused(shared):
    with pytest.raises(SettingsError, match="0 to 1,000"):
        compare(hessian_of([1.0]), hessian_of([1.0], n_pairs=2000), shared_pairs=shared)


def test_false_alarms_are_counted_by_students_t_and_as_the_documents_say():
    assert false_alarms(3.0, 10, 20, 30) == pytest.approx(300 * 2 * stats.t.sf(3.0, 19))
    assert false_alarms(3.0, 10, 20, 30) == pytest.approx(2, abs=0.5)        # twice a month
    assert false_alarms(5.0, 10, 20, 3 * 365) == pytest.approx(1, abs=0.2)   # once in three years
    assert np.isnan(false_alarms(3.0, 10, 1))
