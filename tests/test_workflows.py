"""The page workflows/what-it-means.md says what the package does."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lrh_dask

WORKFLOWS = Path(__file__).parents[1] / "workflows"
PAGE = (WORKFLOWS / "what-it-means.md").read_text(encoding="utf-8")
PLOTS = ("what-it-means-noise.svg", "what-it-means-span.svg")

X = np.array([[-2.20796738, -0.30411266], [-1.40391911, -0.54950598], [-0.42806159, 0.83258512]])
Y = np.array([[-2.90303289, -0.07347936], [-3.29571902, -0.13532473], [-2.85327694, 0.07932159]])
H = np.array([[0.68753582, 0.77990032, 0.67761106],
              [0.77990032, 0.90211256, 0.71772732],
              [0.67761106, 0.71772732, 0.81647766]])


def fit(x, y, **settings):
    return lrh_dask.fit(lrh_dask.Pairs(x, y), **settings)


def error(hessian, truth):
    return np.linalg.norm(hessian.to_dense() - truth) / np.linalg.norm(truth)


@pytest.fixture(scope="module")
def slow_spectrum():
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    return (vectors * np.r_[10, 8, 6.5, 5, 4, 3.2, 2.5, 2, 1.6, 1.2, 1 / np.arange(1, 51)]
            ) @ vectors.T


@pytest.mark.long
def test_the_script_writes_both_plots(tmp_path):
    script = WORKFLOWS / "what_it_means.py"
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True,
                          text=True, timeout=280, check=False,
                          env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})  # matrices are small
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(PLOTS)
    for name in PLOTS:
        drawn = (tmp_path / name).read_text(encoding="utf-8")
        assert drawn.startswith("<?xml")
        assert len(drawn) < 100_000
        assert "<dc:date>" not in drawn


def test_the_page_is_short():
    lines = PAGE.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 110


def test_every_relative_link_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert set(PLOTS) < set(links)
    for link in links:
        path, _, anchor = link.partition("#")
        target = WORKFLOWS / path
        assert target.is_file(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        assert not anchor or anchor in [h.lower().replace(" ", "-") for h in headings]


def test_every_verdict_has_a_line():
    for verdict in lrh_dask.Verdict:
        assert f"| `{verdict.name}` |" in PAGE


@pytest.mark.parametrize(("method", "quoted"), [
    ("symmetric", "eigenvalues {:.4f} and {:.4f}."), ("seed", "eigenvalues {:.4f} and {:.4f}."),
    ("least_norm", "gives {:.4f}, {:.4f} and {:.4f}:")])
def test_the_small_example_is_what_the_package_returns(method, quoted):
    hessian = fit(X.T, Y.T, method=method)
    assert quoted.format(*hessian.eigenvalues) in PAGE
    assert hessian.certificates.residual < 1e-7


def test_the_least_norm_example_is_smaller_than_the_truth_and_as_far_off_as_quoted():
    hessian = fit(X.T, Y.T, method="least_norm")
    size = np.linalg.norm(hessian.to_dense())
    assert f"its norm {size:.4f} is below the true {np.linalg.norm(H):.4f}" in PAGE
    assert f"it is {100 * error(hessian, H):.1f} % off" in PAGE
    assert np.linalg.eigvalsh(H)[0] > -1e-8


def test_held_out_residual_stays_at_the_noise(slow_spectrum):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3200, 60))
    y = x @ slow_spectrum
    hessian = fit(x, y + np.sqrt(np.mean(y**2)) * rng.standard_normal(y.shape))
    assert f"({100 * hessian.certificates.held_out_residual:.0f} %" in PAGE
    assert error(hessian, slow_spectrum) < 0.1


def test_repeated_pairs_lower_the_held_out_residual_and_raise_rank_and_error(slow_spectrum):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 60))
    y = x @ slow_spectrum
    y += np.sqrt(np.mean(y**2)) * rng.standard_normal(y.shape)
    rows = rng.permutation(np.arange(800) % 100)
    once, often = fit(x, y), fit(x[rows], y[rows])
    assert often.certificates.held_out_residual < 0.9 * once.certificates.held_out_residual
    assert often.certificates.n_duplicates == 700
    assert np.isnan(often.standard_errors).all()
    assert often.rank > 2 * once.rank
    assert error(often, slow_spectrum) > 1.2 * error(once, slow_spectrum)


@pytest.mark.parametrize("rate", [0.02, 0.05])
def test_gradients_of_different_batches_give_curvature_of_one_over_the_rate(slow_spectrum, rate):
    rng = np.random.default_rng(0)
    weights, noise = rng.standard_normal(60), 3 * rng.standard_normal((2001, 60))
    x, y = np.empty((2000, 60)), np.empty((2000, 60))
    gradient = slow_spectrum @ weights + noise[0]
    for i in range(2000):
        x[i] = -rate * gradient
        weights = weights + x[i]
        following = slow_spectrum @ weights + noise[i + 1]
        y[i], gradient = following - gradient, following
    hessian = fit(x, y)
    excess = hessian.eigenvalues[:3] - np.array([10, 8, 6.5])
    assert np.all(excess > 0.5 / rate)
    assert np.all(hessian.half_widths[:3] < 0.2 * excess)
