"""The basis stage reads as many pairs as it needs, and never falls short in silence."""

from __future__ import annotations

import numpy as np
import pytest
from appenders import raw_group

from lrh_dask import Pairs, fit, open_pairs
from lrh_dask.runs import basis, budget
from lrh_dask.runs.pipeline import price
from lrh_dask.runs.shards import gathered, partition
from lrh_dask.runs.spec import HELD_OUT, group_of
from lrh_dask.stores import blocks

pytestmark = pytest.mark.usefixtures("one_blas_thread")

D, RANK = 48, 6


@pytest.fixture
def many(monkeypatch):
    """20,000 pairs count as many: rounds begin with 600 of them, in blocks of 100."""
    monkeypatch.setattr(budget, "FIRST_ROWS", 600)
    monkeypatch.setattr(budget, "MANY_PAIRS", 4800)
    monkeypatch.setattr(budget, "FIRST_COLUMNS", 12)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)


def noisy(n=20_000, values=(1.0, -0.9, 0.8, 0.7, -0.6, 0.5), noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.standard_normal((D, len(values))))[0]
    x = rng.standard_normal((n, D))
    y = x @ u * values @ u.T
    y += noise * np.linalg.norm(y) / np.sqrt(y.size) * rng.standard_normal(y.shape)
    return x.astype("f4"), y.astype("f4"), u


def stored(tmp_path, x, y):
    """In 200 chunks an array, none of which need be safe from a power cut."""
    return open_pairs(raw_group(tmp_path / "a.zarr", x, y, chunks=(100, D), compressors=()))


def test_a_sample_is_enough_for_a_basis(tmp_path, many):
    x, y, u = noisy()
    found = stored(tmp_path, x, y)
    hessian = fit(found, basis=20)
    read = hessian.provenance["bytes"]
    assert hessian.provenance["route"] == "fitted_basis"
    assert 600 * found.row_bytes <= read["basis"] <= 0.3 * read["fit"]
    assert read["fit"] == found.stored_bytes
    assert hessian.rank == RANK
    assert np.linalg.svd(hessian.eigenvectors.T @ u, compute_uv=False).min() > 0.999
    assert hessian.provenance["notices"] == []
    off = np.abs(hessian.eigenvalues - [1.0, -0.9, 0.8, 0.7, -0.6, 0.5])
    assert np.all(off < 4 * hessian.standard_errors)


def test_what_a_sample_misses_is_told_and_read_and_nothing_is_read_for_the_basis_twice(
        tmp_path, many):
    x, y, _ = noisy(values=(1.0,))
    found = stored(tmp_path, x, y)
    _, split = price(found, rank=None, method="symmetric")
    order = split.spread(lambda bucket: group_of(bucket) == HELD_OUT)
    (start, stop), = [run for run in order if group_of(run.pieces[0].bucket) != HELD_OUT][-1].blocks
    x[start:stop, 1:] = 0.0  # the block that is read last has a direction of its own
    x[start:stop, 0] *= 10.0
    y[start:stop] = 2.0 * x[start:stop]
    found = stored(tmp_path, x, y)
    hessian = fit(found, basis=8)
    read = hessian.provenance["bytes"]
    assert any("lay outside the basis of a sample" in said
               for said in hessian.provenance["notices"])
    assert read["basis"] == 2 * found.stored_bytes  # the basis once, and the fit that fell short
    assert read["fit"] == found.stored_bytes
    assert hessian.certificates.captured_energy > 0.97


def test_a_spectrum_that_does_not_end_within_the_first_columns_is_looked_at_again(tmp_path, many):
    x, y, _ = noisy(values=np.linspace(1.0, 0.5, 18))
    hessian = fit(stored(tmp_path, x, y), basis=40)
    assert hessian.rank == 18
    assert 18 < hessian.certificates.n_basis < 40


def test_samples_in_memory_are_those_of_the_store(tmp_path, many, monkeypatch):
    x, y, _ = noisy()
    monkeypatch.setattr(blocks, "CHUNK_BYTES", 100 * 2 * D * 4)
    here, there = (fit(p, basis=20) for p in (Pairs(x, y), stored(tmp_path, x, y)))
    apart = np.abs(here.eigenvalues - there.eigenvalues)  # their trees are not the same
    assert np.all(apart < 0.5 * there.standard_errors)
    assert here.provenance["bytes"]["basis"] < 0.3 * here.provenance["bytes"]["fit"]


def test_pairs_without_noise_end_the_basis_at_once(tmp_path, many):
    x, y, _ = noisy(noise=0.0)
    found = stored(tmp_path, x, y)
    hessian = fit(found, basis=20)
    assert hessian.certificates.residual < 1e-3
    assert hessian.provenance["bytes"]["basis"] <= 0.2 * found.stored_bytes


@pytest.mark.parametrize("n_blocks", [2, 5, 41, 400, 1000])
def test_every_beginning_of_the_order_is_spread_and_has_both_groups(n_blocks):
    split = partition(n_blocks * 10, 10, 10_000_000)
    order = split.spread(lambda bucket: group_of(bucket) == HELD_OUT)
    spans = sorted(block for run in order for block in run.blocks)
    assert spans == sorted(block for run in split.runs for block in run.blocks)
    assert sorted((p.start, p.stop) for run in order for p in run.pieces)[0][0] == 0
    assert sum(run.n_pairs for run in order) == n_blocks * 10
    for n in (2, 10, 100, n_blocks):
        first = order[:n]
        groups = [group_of(p.bucket) for run in first for p in run.pieces]
        assert len(set(groups)) == 2
        if 40 <= n_blocks and n >= 10:
            assert 0.1 <= np.mean(np.array(groups) == HELD_OUT) <= 0.35
            starts = np.array([run.blocks[0][0] for run in first]) / (n_blocks * 10)
            assert np.abs(np.sort(starts) - np.linspace(0, 1, len(first))).max() < 0.25


def test_joined_runs_hold_the_same_blocks_and_rows():
    split = partition(4000, 10, 100)
    order = split.spread(lambda bucket: group_of(bucket) == HELD_OUT)
    joined = gathered(order, 100, run_bytes=5000)
    assert [b for run in joined for b in run.blocks] == [b for run in order for b in run.blocks]
    assert [p for run in joined for p in run.pieces] == [p for run in order for p in run.pieces]
    assert max(run.n_pairs for run in joined) * 100 <= 5000
    assert len({run.index for run in joined}) == len(joined)


def test_a_basis_that_does_not_end_is_told_with_what_would_hold_it(tmp_path, many):
    x, y, _ = noisy(values=np.linspace(1.0, 0.5, 30))
    hessian = fit(stored(tmp_path, x, y), basis=16)
    assert any(f"--basis {D}" in said for said in hessian.provenance["notices"])
    assert hessian.certificates.n_basis == 16


def test_a_strong_direction_that_few_pairs_explore_is_told_although_noise_hides_it(tmp_path, many):
    """It is 2 % of y² and less than the noise, but stands out in the bucket that explores it."""
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.standard_normal((D, 2)))[0]
    x = rng.standard_normal((20_000, D))
    x -= np.outer(x @ u[:, 1], u[:, 1])
    plain = x @ u[:, :1] @ u[:, :1].T + 1.0 / np.sqrt(D) * rng.standard_normal(x.shape)
    hessian = fit(stored(tmp_path, x.astype("f4"), plain.astype("f4")), basis=8)
    assert not any("outside the basis" in said for said in hessian.provenance["notices"])
    late = np.zeros((20_000, 1))
    late[-1000:, 0] = 0.5 * rng.standard_normal(1000)
    x += late * u[:, 1]
    y = plain + 2.0 * late * u[:, 1]
    found = stored(tmp_path / "later", x.astype("f4"), y.astype("f4"))
    hessian = fit(found, basis=8)
    said, = (s for s in hessian.provenance["notices"] if "outside the basis" in s)
    assert "in bucket" in said


@pytest.mark.parametrize(("noise", "least", "most"), [
    (1.0, 0.05, 0.15), (3.0, 0.2, 0.5), (6.0, 1.0, 1.0), (8.0, 1.0, 1.0)])
def test_the_more_noise_the_more_pairs_are_read_for_the_basis(tmp_path, many, noise, least, most):
    """A quarter where up to half are called for; all beyond, or where noise hides everything."""
    x, y, _ = noisy(values=(1.0, 0.9, 0.8), noise=noise)
    found = stored(tmp_path, x, y)
    share = fit(found, basis=20).provenance["bytes"]["basis"] / found.stored_bytes
    assert least <= share <= most


def test_of_very_many_pairs_a_sample_says_whether_all_features_are_worth_their_price(
        tmp_path, many, monkeypatch):
    monkeypatch.setattr(budget, "MAX_FLOPS_OF_SMALL", 0.0)
    monkeypatch.setattr(budget, "FIRST_COLUMNS", 20)
    x, y, u = noisy()
    hessian = fit(stored(tmp_path / "short", x, y))
    assert hessian.certificates.n_basis < D // 2
    assert np.linalg.svd(hessian.eigenvectors.T @ u, compute_uv=False).min() > 0.999
    x, y, _ = noisy(values=np.linspace(1.0, 0.5, 30))
    found = stored(tmp_path / "long", x, y)
    hessian = fit(found)
    everything = fit(found, basis=D)
    assert "all of R^D" in hessian.provenance["notices"][0]
    np.testing.assert_array_equal(hessian.eigenvalues, everything.eigenvalues)
    assert 0 < hessian.provenance["bytes"]["basis"] < 0.1 * found.stored_bytes


def test_all_pairs_say_whether_few_columns_do_or_all_features_are_worth_their_solve(
        tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "SMALL_FEATURES", 1)
    monkeypatch.setattr(budget, "LARGE_BASIS_PAIRS", 100)
    monkeypatch.setattr(budget, "FIRST_COLUMNS", 24)
    x, y, u = noisy(n=3000)
    hessian = fit(stored(tmp_path / "short", x, y))
    assert hessian.provenance["route"] == "fitted_basis"
    assert hessian.certificates.n_basis <= 24
    assert hessian.provenance["notices"] == []
    assert np.linalg.svd(hessian.eigenvectors.T @ u, compute_uv=False).min() > 0.999
    for of, values, noise, said in (("long", np.linspace(1.0, 0.5, 30), 0.1, "does not end within"),
                                    ("noise", (1.0, 0.9, 0.8), 6.0, "noise would tilt")):
        x, y, _ = noisy(n=3000, values=values, noise=noise)
        found = stored(tmp_path / of, x, y)
        hessian, everything = fit(found), fit(found, basis=D)
        assert said in hessian.provenance["notices"][0]
        np.testing.assert_array_equal(hessian.eigenvalues, everything.eigenvalues)
        assert hessian.provenance["bytes"]["basis"] == found.stored_bytes
    # Where they are not affordable the basis goes on with more columns.
    monkeypatch.setattr(budget, "MAX_FEATURES", 1)
    x, y, _ = noisy(n=3000, values=np.linspace(1.0, 0.5, 30))
    found = stored(tmp_path / "more", x, y)
    hessian = fit(found)
    assert hessian.certificates.n_basis > 30
    assert hessian.provenance["bytes"]["basis"] == 2 * found.stored_bytes


def test_where_noise_would_tilt_a_basis_the_fit_is_in_all_features(tmp_path, many, monkeypatch):
    """All pairs of a basis would not do; a few of them say so."""
    monkeypatch.setattr(budget, "MAX_FLOPS_OF_SMALL", 0.0)
    x, y, _ = noisy(values=(1.0, 0.9, 0.8), noise=6.0)
    found = stored(tmp_path, x, y)
    hessian, everything = fit(found), fit(found, basis=D)
    assert "noise would tilt a basis" in hessian.provenance["notices"][0]
    np.testing.assert_array_equal(hessian.eigenvalues, everything.eigenvalues)
    assert hessian.provenance["bytes"]["basis"] < 0.5 * found.stored_bytes


@pytest.mark.parametrize("many_pairs", [4800, 10**9])
def test_the_second_look_may_say_so_and_counts_what_both_have_read(
        tmp_path, many, monkeypatch, many_pairs):
    """Sixteen strong directions fill the first columns; four beside them are near the noise."""
    monkeypatch.setattr(budget, "MAX_FLOPS_OF_SMALL", 0.0)
    monkeypatch.setattr(budget, "MANY_PAIRS", many_pairs)
    monkeypatch.setattr(budget, "LARGE_BASIS_PAIRS", 100)
    monkeypatch.setattr(budget, "LARGE_BASIS", D - 1)
    monkeypatch.setattr(budget, "USUAL_BASIS", D - 1)
    monkeypatch.setattr(basis, "WELL_BELOW", 15.0)
    x, y, _ = noisy(values=(1.0,) * 16 + (0.1,) * 4, noise=0.2)
    found = stored(tmp_path, x, y)
    hessian = fit(found)
    assert "noise would tilt a basis" in hessian.provenance["notices"][0]
    read = hessian.provenance["bytes"]["basis"]
    assert read == 2 * (found.stored_bytes if many_pairs > len(x) else 600 * found.row_bytes)


def test_a_basis_that_noise_tilts_is_told_where_there_is_no_better(tmp_path, many):
    x, y, _ = noisy(n=1000, values=(1.0, 0.9, 0.8), noise=5.0)
    hessian = fit(stored(tmp_path, x, y), basis=20)
    assert any("short by" in said for said in hessian.provenance["notices"])


def test_a_bucket_of_zeros_does_not_hide_what_another_shows(tmp_path, many):
    x, y, _ = noisy(values=(1.0,))
    y[:500] = 0.0  # the first run, and with it all there is of ...
    y[10_000:10_500] = 0.0  # ... the first bucket
    y[-500:] = 2.0 * x[-500:] * (np.arange(D) < 1)
    hessian = fit(stored(tmp_path, x, y), basis=8)
    assert any("outside the basis" in said for said in hessian.provenance["notices"])
