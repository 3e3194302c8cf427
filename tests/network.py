"""The exact Hessian of a small trained network: 64 inputs, tanh, 10 classes, 2,410 weights."""

from __future__ import annotations

import numpy as np


def network_hessian(n_hidden=32, n_data=600, n_steps=400):
    """H (2410, 2410) of the mean cross-entropy on scans of digits, after training.

    The gradient is backpropagation written out; H v is its derivative along v, taken by a
    complex step, which has no truncation error.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, target = digits.data[:n_data] / 16.0, np.eye(10)[digits.target[:n_data]]
    shapes = [(64, n_hidden), (n_hidden,), (n_hidden, 10), (10,)]
    cuts = np.cumsum([int(np.prod(shape)) for shape in shapes])

    def gradient(weights):
        a, b, c, d = (part.reshape(shape) for part, shape in
                      zip(np.split(weights, cuts[:-1]), shapes, strict=True))
        hidden = np.tanh(x @ a + b)
        score = np.exp(hidden @ c + d)
        back = (score / score.sum(axis=1, keepdims=True) - target) / len(x)
        inner = (back @ c.T) * (1.0 - hidden**2)
        return np.concatenate([(x.T @ inner).ravel(), inner.sum(axis=0),
                               (hidden.T @ back).ravel(), back.sum(axis=0)])

    weights = 0.15 * np.random.default_rng(0).standard_normal(cuts[-1])
    velocity = np.zeros_like(weights)
    for _ in range(n_steps):
        velocity = 0.9 * velocity - 0.5 * gradient(weights)
        weights = weights + velocity
    hessian = np.stack([gradient(weights + 1e-20j * unit).imag / 1e-20
                        for unit in np.eye(cuts[-1])])
    return (hessian + hessian.T) / 2.0
