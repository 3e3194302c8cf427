"""Real pairs without a download: softmax regression on scikit-learn's digits.

The 1,797 scans of handwritten digits (8 x 8 pixels) ship with scikit-learn. The model has
D = 10 classes x (64 pixels + 1 bias) = 650 weights, and its exact Hessian has a closed form,
so what the pairs say can be checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrh_dask.errors import SettingsError, explain
from lrh_dask.stores.writing import write_pairs

__all__ = ["DigitsModel", "DemoStores", "record_digits"]

N_WARM_UP = 1000
"""Steps before recording starts: at first the Hessian changes too fast to be one Hessian."""
N_STEPS = 2000
N_PRODUCTS = 1500
BATCH = 64
LEARNING_RATE = 0.5
CHUNK_ROWS = 100


@dataclass(frozen=True, eq=False)
class DigitsModel:
    """Softmax regression: mean cross-entropy of scans (N, 65) with labels (N,).

    Weights are a vector w (650,), class by class.
    """

    scans: np.ndarray
    labels: np.ndarray
    n_classes: int = 10

    @staticmethod
    def load() -> DigitsModel:
        """The digits as they ship with scikit-learn, pixels scaled to [0, 1], with a bias column.

        Raises:
            SettingsError: scikit-learn is not installed.
        """
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise SettingsError(explain(
                "lrh demo", expected="scikit-learn, whose digits it trains on",
                got="no such package", consequence="Nothing was recorded",
                fix="`pip install 'lrh-dask[demo]'`")) from error
        digits = load_digits()
        scans = np.hstack([digits.data / 16.0, np.ones((len(digits.data), 1))])
        return DigitsModel(scans, digits.target)

    @property
    def n_weights(self) -> int:
        """D."""
        return self.n_classes * int(self.scans.shape[1])

    def probabilities(self, w: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Class probabilities p (m, 10) of the given scans."""
        logits = self.scans[rows] @ w.reshape(self.n_classes, -1).T
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def accuracy(self, w: np.ndarray) -> float:
        """Share of scans that are classified right."""
        return float(np.mean(self.probabilities(w).argmax(axis=1) == self.labels))

    def gradient(self, w: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Gradient (650,) of the mean loss over the given scans: mean of (p - onehot) ⊗ scan."""
        p = self.probabilities(w, rows)
        labels = self.labels[rows]
        p[np.arange(len(labels)), labels] -= 1.0
        return (p.T @ self.scans[rows] / len(labels)).ravel()

    def hessian_products(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Rows H v (m, 650) for rows v (m, 650): mean of (diag(p) - p pᵀ) V scan ⊗ scan."""
        p = self.probabilities(w)[:, :, None]                                      # (N, 10, 1)
        out = np.empty_like(v)
        for i in range(0, len(v), CHUNK_ROWS):
            part = v[i:i + CHUNK_ROWS].reshape(-1, self.n_classes, self.scans.shape[1])
            z = np.tensordot(self.scans, part, axes=(1, 2)).transpose(0, 2, 1)     # (N, 10, m)
            z = p * (z - np.sum(p * z, axis=1, keepdims=True))
            products = np.tensordot(z, self.scans, axes=(0, 0)) / len(p)           # (10, m, 65)
            out[i:i + CHUNK_ROWS] = products.transpose(1, 0, 2).reshape(len(part), -1)
        return out

    def exact_hessian(self, w: np.ndarray) -> np.ndarray:
        """H (650, 650) in closed form."""
        p = self.probabilities(w)
        size = self.scans.shape[1]
        h = np.zeros((self.n_weights, self.n_weights))
        for a in range(self.n_classes):
            for b in range(self.n_classes):
                curvature = (p[:, a] * (a == b) - p[:, a] * p[:, b]) / len(p)
                h[a * size:(a + 1) * size, b * size:(b + 1) * size] = (
                    self.scans.T * curvature) @ self.scans
        return h


@dataclass(frozen=True, eq=False)
class DemoStores:
    """What was recorded, and the truth to compare with.

    Attributes:
        steps: store of (weight step, change of the full gradient) of the training.
        products: store of (random direction v, H v) at the end point.
        accuracy: of the trained model, on the scans it was trained on.
        exact_steps: eigenvalues (650,) of the exact Hessian averaged along the recorded steps.
        exact_products: eigenvalues (650,) of the exact Hessian at the end point.
    """

    steps: Path
    products: Path
    accuracy: float
    exact_steps: np.ndarray
    exact_products: np.ndarray


def record_digits(folder: Path, *, overwrite: bool = False, seed: int = 0) -> DemoStores:
    """Train on the digits by mini-batch steps and record both stores into ``folder``.

    Raises:
        SettingsError: a store exists there and ``overwrite`` is False, or no scikit-learn.
    """
    model = DigitsModel.load()
    rng = np.random.default_rng(seed)
    w = np.zeros(model.n_weights)
    steps, changes = np.empty((2, N_STEPS, model.n_weights))
    average = np.zeros((model.n_weights, model.n_weights))
    for t in range(-N_WARM_UP, N_STEPS):
        batch = rng.choice(len(model.labels), BATCH, replace=False)
        step = -LEARNING_RATE * model.gradient(w, batch)
        if t >= 0:
            # The gradient's change is taken over all scans. Over the step's own batch it would
            # be that batch's Hessian, along a step which that batch has chosen: biased upwards.
            steps[t], changes[t] = step, model.gradient(w + step) - model.gradient(w)
            if t % (N_STEPS // 20) == 0:
                average += model.exact_hessian(w) / 20
        w = w + step
    v = rng.standard_normal((N_PRODUCTS, model.n_weights))
    return DemoStores(
        steps=write_pairs(folder / "steps.zarr", steps, changes, chunk_rows=CHUNK_ROWS,
                          overwrite=overwrite),
        products=write_pairs(folder / "products.zarr", v, model.hessian_products(w, v),
                             chunk_rows=CHUNK_ROWS, overwrite=overwrite),
        accuracy=model.accuracy(w),
        exact_steps=np.linalg.eigvalsh(average)[::-1],
        exact_products=np.linalg.eigvalsh(model.exact_hessian(w))[::-1])
