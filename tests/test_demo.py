"""The demo: its formulas against differences, and the whole command against the exact Hessian."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lrh_dask import LowRankHessian
from lrh_dask.reports.demo import DigitsModel


@pytest.fixture(scope="module")
def model():
    return DigitsModel.load()


def test_the_closed_forms_agree_with_each_other_and_with_differences(model):
    rng = np.random.default_rng(0)
    w, v = rng.standard_normal((2, model.n_weights)) * 0.3
    product = model.hessian_products(w, np.stack([v, w]))[0]
    step = 1e-5
    difference = (model.gradient(w + step * v) - model.gradient(w - step * v)) / (2 * step)
    np.testing.assert_allclose(product, difference, atol=1e-8)
    np.testing.assert_allclose(product, model.exact_hessian(w) @ v, atol=1e-12)


def test_the_demo_finds_the_exact_eigenvalues(tmp_path, model):
    done = subprocess.run([Path(sys.executable).with_name("lrh"), "demo", "--workers", "2"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "off by" in done.stdout
    products = LowRankHessian.load(tmp_path / "lrh-demo" / "products-hessian.zarr")
    steps = LowRankHessian.load(tmp_path / "lrh-demo" / "steps-hessian.zarr")
    assert products.certificates.held_out_residual < 1e-5
    assert steps.certificates.held_out_residual < 0.2
    rows = [line.split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    off = [float(cells[5].replace("%", "")) for cells in rows]
    assert len(off) == 20
    assert np.abs(off[10:15]).max() < 0.01   # Hessian-vector products, top five, per cent
    assert np.abs(off[:5]).max() < 5.0       # training steps
    for name in ("steps", "products"):
        assert "<svg" in (tmp_path / "lrh-demo" / f"{name}-hessian.html").read_text()
