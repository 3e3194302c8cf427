"""The two plots of what-it-means.md: pairs of Hessians that are known, fitted and compared.

Run ``python workflows/what_it_means.py [folder]``. It takes less than a minute on one core.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import lrh_dask

TOP = np.array([10.0, -8.0, 6.5, 5.0, -4.0, 3.2, 2.5, -2.0, 1.6, 1.2])
METHODS = {"least_norm": ("0.6", "^", 5), "seed": ("0.4", "o", 8), "symmetric": ("0.0", "s", 4)}
WARNINGS = (lrh_dask.Verdict.underdetermined, lrh_dask.Verdict.inconsistent)


def hessian_of(eigenvalues: np.ndarray) -> np.ndarray:
    """A symmetric matrix with these eigenvalues along random directions."""
    n = eigenvalues.size
    vectors = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    return (vectors * eigenvalues) @ vectors.T


def pairs_of(h: np.ndarray, n: int, noise: float, seed: int) -> lrh_dask.Pairs:
    """n pairs with y = H x + noise; ``noise`` is in units of the rms of H x."""
    rng = np.random.default_rng(seed)
    x, error = rng.standard_normal((n, len(h))), rng.standard_normal((n, len(h)))
    return lrh_dask.Pairs(x, x @ h + noise * np.sqrt(np.mean((x @ h) ** 2)) * error)


def relative_error(hessian: lrh_dask.LowRankHessian, h: np.ndarray, rank: int) -> float:
    """‖H found, cut to a rank, - H‖ / ‖H‖ in %."""
    u = hessian.eigenvectors[:, :rank]
    found = (u * hessian.eigenvalues[:rank]) @ u.T
    return 100.0 * float(np.linalg.norm(found - h) / np.linalg.norm(h))


def top_three(h: np.ndarray, n: int, noise: float) -> tuple[float, float, bool]:
    """Of the largest three eigenvalues: rms error, rms half width (%), and whether λ is large."""
    fits = [lrh_dask.fit(pairs_of(h, n, noise, seed), center=False) for seed in range(3)]
    if min(f.rank for f in fits) < 3:
        return np.nan, np.nan, False
    wrong = np.array([f.eigenvalues[:3] / TOP[:3] - 1.0 for f in fits])
    said = np.array([f.half_widths[:3] / TOP[:3] for f in fits])
    ridge = float(np.median([f.certificates.ridge for f in fits]))
    return 100 * np.sqrt(np.mean(wrong**2)), 100 * np.sqrt(np.mean(said**2)), ridge > 0.01


def line_with_marks(axes: Axes, counts: Sequence[int], errors: Sequence[float],
                    hollow: Sequence[bool], color: str, marker: str, size: float) -> None:
    """A line over the numbers of pairs, its marks hollow where a reader should take care."""
    axes.plot(counts, errors, "-", color=color, lw=1.2, zorder=1)
    for face in (color, "white"):
        kept = np.array(hollow) == (face == "white")
        axes.plot(np.array(counts)[kept], np.array(errors)[kept], marker, color=color, ms=size,
                  mfc=face)


def draw_eigenvalues(axes: Axes, h: np.ndarray) -> None:
    """True error and reported interval over the number of pairs, at three noise levels."""
    counts = [50 * 2**i for i in range(8)]
    for noise, color, marker in zip((3.0, 0.3, 0.03), ("0.0", "0.35", "0.6"), "os^", strict=True):
        wrong, said, shrunk = zip(*(top_three(h, n, noise) for n in counts), strict=True)
        axes.loglog(counts, said, "--_", color=color, lw=1.2)
        line_with_marks(axes, counts, wrong, shrunk, color, marker, 6)
        axes.text(counts[-1] * 1.2, wrong[-1], f"noise\n{100 * noise:.0f} %", va="center",
                  color=color)
    axes.text(0.97, 0.97, "solid: true error\ndashed: reported 95 % half width\n"
              "hollow: a ridge above 0.01 was chosen",
              transform=axes.transAxes, ha="right", va="top")
    axes.set(xlabel="number of pairs n", xlim=(40, 18000), ylim=(0.003, 900),
             ylabel="error of the largest three eigenvalues (%)",
             title="Where an interval is given it covers the error")


def draw_ranks(axes: Axes, h: np.ndarray) -> None:
    """True error and held-out residual over the rank at 100 % noise."""
    for n, color in zip((200, 800, 3200), ("0.6", "0.35", "0.0"), strict=True):
        pairs = pairs_of(h, n, 1.0, seed=0)
        chosen, full = lrh_dask.fit(pairs).rank, lrh_dask.fit(pairs, rank=30)
        errors = [relative_error(full, h, rank) for rank in range(full.rank + 1)]
        axes.plot(errors, "-", color=color, lw=1.4)
        axes.plot(100 * full.curves["residual_by_rank"][:len(errors)], "--", color=color, lw=1.2)
        axes.plot(chosen, errors[chosen], "o", color=color, ms=7)
        axes.text(len(errors) - 0.4, errors[-1], f"n = {n:,}", va="center", color=color)
    axes.text(14, 85, "dashed: held-out residual (%),\nnever below the noise, 71 % of y")
    axes.text(0.5, 2, "too few:\ncurvature\nomitted")
    axes.text(21, 46, "too many: noise fitted", ha="center")
    axes.set(xlabel="rank r (dots: chosen on held-out pairs)", xlim=(0, 37), ylim=(0, 105),
             ylabel="solid: true error of H (%)",
             title="Held-out pairs choose the rank near the best")


def draw_methods(axes: Axes, h: np.ndarray, noise: float) -> None:
    """Error of each method over the number of pairs; hollow where the verdict warns."""
    counts = (4, 6, 8, 9, 10, 11, 12, 13, 14, 16, 20, 24, 30, 36, 42, 48, 54, 60)
    for method, (color, marker, size) in METHODS.items():
        solved, errors, warned, refused = [], [], [], []
        for n in counts:
            try:
                hessian = lrh_dask.fit(pairs_of(h, n, noise, seed=1), method=method)
            except lrh_dask.BadPairs:
                refused.append(n)
                continue
            solved.append(n)
            errors.append(relative_error(hessian, h, hessian.rank))
            warned.append(hessian.certificates.verdict in WARNINGS)
        line_with_marks(axes, solved, errors, warned, color, marker, size)
        axes.plot(refused, [1000.0] * len(refused), "x", color=color)
    axes.set_yscale("log")
    axes.axvline(10, color="0.8", lw=1, zorder=0)
    axes.set(xlabel="number of pairs n", ylabel="error of H against the truth (%)")


def main(folder: Path) -> None:
    """Write both plots."""
    slow = hessian_of(np.concatenate([TOP, 1.0 / np.arange(1, 51)]))
    low = hessian_of(np.concatenate([TOP, np.zeros(290)]))
    noise = Figure((10, 4.4), layout="constrained")
    left, right = noise.subplots(1, 2)
    draw_eigenvalues(left, slow)
    draw_ranks(right, slow)
    span = Figure((10, 4.4), layout="constrained")
    left, right = span.subplots(1, 2)
    draw_methods(left, low, 0.0)
    left.text(36, 1e-11, "seed (circles)\nand symmetric (squares)", ha="center")
    left.text(36, 1e-5, "hollow: verdict underdetermined\nor inconsistent", ha="center")
    left.set(title="Exact pairs: seed is exact from n = rank on", ylim=(1e-15, 1e6))
    draw_methods(right, low, 0.01)
    right.text(36, 1300, "seed refuses (BadPairs)", color="0.3", ha="center")
    right.text(36, 1.5, "symmetric", ha="center")
    right.set(title="1 % noise: symmetric goes on where seed refuses", ylim=(0.3, 4000))
    for axes, height in ((left, 1e3), (right, 130)):
        axes.text(36, height, "least_norm", color="0.45", ha="center")
        axes.text(10.4, axes.get_ylim()[0] * 1.5, "n = rank", color="0.4")
    matplotlib.rcParams["svg.hashsalt"] = "lrh_dask"
    for axes in (*noise.axes, *span.axes):
        axes.minorticks_off()
    for name, figure in (("noise", noise), ("span", span)):
        figure.savefig(folder / f"what-it-means-{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
