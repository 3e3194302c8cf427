"""Cells of the regime table: pairs of a known Hessian, and the best fit that truth can pick.

The oracle is written from the formulas with plain NumPy and shares no code with the package. It
sees the truth: of all basis sizes and ridges it takes those with the least error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RANK = 10
LARGEST = 1000
"""The oracle tries no larger basis: it would take minutes, and noise forbids it anyway."""
RIDGES = (0.0, 1e-12, 1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 0.3, 1.0)


@dataclass(frozen=True)
class Cell:
    """One line of the table. Sizes of noise and offset are relative to the signal's rms length.

    Weights: stored by ``rows``; noise that grows with the length of x, which the fit is told of
    (``step``) or not (``ignored``).
    """

    spectrum: str = "exact"
    n_pairs: int = 1000
    n_features: int = 100
    noise: float = 0.1
    x: str = "isotropic"
    dtype: str = "float64"
    offset: float = 0.0
    weights: str = "none"
    seed: int = 0

    def __str__(self) -> str:
        parts = [self.spectrum, f"n{self.n_pairs}", f"D{self.n_features}", f"noise{self.noise:g}",
                 self.x, self.dtype]
        parts += [f"offset{self.offset:g}"] * bool(self.offset)
        parts += [f"weights-{self.weights}"] * (self.weights != "none")
        return "-".join(parts)

    @property
    def allowed(self) -> float:
        """How much worse than the oracle the product may be."""
        return 3.0 if self.condition > 1 else 1.5

    @property
    def condition(self) -> float:
        """Of the scales of x, where they are set."""
        return {"ill-conditioned": 1e6, "condition 1e3": 1e3, "condition 100": 100.0}.get(
            self.x, 1.0)

    @property
    def floor(self) -> float:
        """What the oracle's error counts as at least."""
        return 0.01 if self.spectrum.startswith("slow") else 1e-6


@dataclass(frozen=True)
class Data:
    """Pairs (n, D), what they are weighted with, and the rank-r part of the truth."""

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None
    truth: np.ndarray


def spectrum_of(name: str, n_features: int) -> np.ndarray:
    """Eigenvalues (D,): ``exact`` rank, ``fast`` 0.7^i, ``slow`` 1/i, maybe every third < 0."""
    i = np.arange(n_features)
    shape = name.removesuffix("-indefinite")
    values = {"exact": np.where(i < RANK, 1.0 - 0.08 * i, 0.0), "fast": 0.7**i,
              "slow": 1.0 / (1.0 + i)}[shape]
    return np.where(i % 3 == 2, -values, values) if name.endswith("-indefinite") else values


def make(cell: Cell) -> Data:
    """Pairs of the cell."""
    rng = np.random.default_rng([cell.seed, cell.n_pairs, cell.n_features])
    d, n = cell.n_features, cell.n_pairs
    values = spectrum_of(cell.spectrum, d)
    rank = np.count_nonzero(values)
    vectors = np.linalg.qr(rng.standard_normal((d, d))[:, :rank])[0]
    values = values[:rank]
    hessian = (vectors * values) @ vectors.T
    x = _points(cell, rng, hessian)
    lengths = np.ones(n)
    if cell.weights in {"step", "ignored"}:
        lengths = 10.0 ** rng.uniform(-1.0, 1.0, n)
        x *= lengths[:, None]
    signal = x @ vectors * values @ vectors.T
    rms = np.sqrt(np.sum(signal**2) / n)
    scale, weight = np.ones(n), None
    if cell.weights == "rows":
        weight = 10.0 ** rng.uniform(-1.5, 1.5, n)
        scale = 1.0 / np.sqrt(weight)
        scale /= np.sqrt(np.mean(scale**2))
    elif cell.weights in {"step", "ignored"}:
        scale = lengths / np.sqrt(np.mean(lengths**2))
    y = signal
    y += rng.standard_normal((n, d)) * (cell.noise * rms / np.sqrt(d) * scale)[:, None]
    if cell.offset:
        b = rng.standard_normal(d)
        y += cell.offset * rms * b / np.linalg.norm(b)
    top = vectors[:, :RANK] * values[:RANK] @ vectors[:, :RANK].T
    return Data(x.astype(cell.dtype), y.astype(cell.dtype), weight, top)


def _points(cell: Cell, rng: np.random.Generator, hessian: np.ndarray) -> np.ndarray:
    n, d = cell.n_pairs, cell.n_features
    if cell.x == "trajectory":
        return _trajectory(rng, hessian, n, n_steps=500, rate=0.5, drive=0.1 / np.sqrt(d))
    if cell.x == "descents":
        return _trajectory(rng, hessian, n, n_steps=50, rate=0.1, drive=1e-3)
    x = rng.standard_normal((n, d))
    if cell.condition > 1:
        axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
        x = x * np.logspace(0.0, -np.log10(cell.condition), d) @ axes
    return x


def _trajectory(rng: np.random.Generator, hessian: np.ndarray, n: int, *, n_steps: int,
                rate: float, drive: float) -> np.ndarray:
    """Points of gradient descent with momentum, restarted every ``n_steps`` steps.

    Descent is on |H|, which has no direction to escape along; the noise that drives it is that
    of other mini-batches than the noise of the recorded gradients. Little of it (descents) leaves
    x without length wherever the descent has settled.
    """
    values, vectors = np.linalg.eigh(hessian)
    size = np.abs(values)
    n_runs = -(-n // n_steps)
    place = rng.standard_normal((n_runs, values.size)) / np.sqrt(values.size)
    velocity = np.zeros_like(place)
    out = np.empty((n_runs, n_steps, values.size))
    for step in range(n_steps):
        out[:, step] = place
        noise = rng.standard_normal(place.shape) * drive * size.max() / np.sqrt(values.size)
        velocity = 0.9 * velocity - rate / size.max() * (place * size + noise)
        place = place + velocity
    return out.reshape(-1, values.size)[:n] @ vectors.T


def best_with_truth(cell: Cell, data: Data) -> float:
    """The least relative error (Frobenius, rank-r part) over basis sizes and ridges."""
    x, y = data.x.astype(np.float64), data.y.astype(np.float64)
    if cell.weights == "step":
        weight = 1.0 / np.sum(x**2, axis=1)
    else:
        weight = np.ones(len(x)) if data.weight is None else data.weight
    root = np.sqrt(weight)[:, None]
    best = np.inf
    for centred in (False, True) if cell.offset else (False,):
        mean_x, mean_y = ((weight @ x, weight @ y) if centred else (0.0 * x[0], 0.0 * y[0]))
        total = weight.sum()
        wx, wy = (x - mean_x / total) * root, (y - mean_y / total) * root
        if len(x) > 2 * x.shape[1]:
            factor = np.linalg.qr(np.concatenate([wx, wy], axis=1), mode="r")
            wx, wy = factor[:, :x.shape[1]], factor[:, x.shape[1]:]
        directions = np.linalg.svd(wy, full_matrices=len(wy) >= x.shape[1])[2]
        for k in _sizes(len(x), directions.shape[0]):
            q = directions[:k].T
            best = min(best, *_errors(wx @ q, wy @ q, q, data.truth))
    return best


def _sizes(n: int, widest: int) -> list[int]:
    ladder = {RANK, 12, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000,
              n // 3, n // 2, 2 * n // 3, widest}
    return sorted(k for k in ladder if min(RANK, widest) <= k <= min(widest, LARGEST))


def _errors(x: np.ndarray, y: np.ndarray, q: np.ndarray, truth: np.ndarray) -> list[float]:
    """Error for every ridge: M̂_ij = (C_ij σ_j + C_ji σ_i) / (σ_i² + σ_j² + 2λ), C = Pᵀ (Yᵀ Z)."""
    z, sigma, p = np.linalg.svd(x, full_matrices=False)
    c = p @ y.T @ z
    numerator = c * sigma + (c * sigma).T
    if len(sigma) < x.shape[1]:  # P does not span: the parts of M beside it come from C alone
        rest = np.linalg.svd(x, full_matrices=True)[2]
        full = rest @ y.T @ z
        padded = np.zeros((len(rest), len(rest)))
        padded[:, :len(sigma)] = full * sigma
        p, numerator = rest, padded + padded.T
        sigma = np.concatenate([sigma, np.zeros(len(rest) - len(sigma))])
    square = sigma[:, None] ** 2 + sigma[None, :] ** 2
    inside = q.T @ truth @ q
    outside = max(np.sum(truth**2) - np.sum(inside**2), 0.0)
    errors = []
    for ridge in RIDGES:
        with np.errstate(divide="ignore", invalid="ignore"):
            m = numerator / (square + 2.0 * ridge * np.mean(sigma**2))
        m[~np.isfinite(m)] = 0.0
        values, vectors = np.linalg.eigh(p.T @ m @ p)
        kept = np.argsort(-np.abs(values))[:RANK]
        low_rank = (vectors[:, kept] * values[kept]) @ vectors[:, kept].T
        errors.append(float(np.sqrt(
            (np.sum((low_rank - inside) ** 2) + outside) / np.sum(truth**2))))
    return errors


def error_of(eigenvalues: np.ndarray, eigenvectors: np.ndarray, truth: np.ndarray) -> float:
    """Relative Frobenius error of the RANK leading eigenpairs."""
    top, u = eigenvalues[:RANK], eigenvectors[:, :RANK]
    return float(np.linalg.norm((u * top) @ u.T - truth) / np.linalg.norm(truth))
