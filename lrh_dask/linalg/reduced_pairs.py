"""Reduced pairs: at most k pairs that stand for many.

Notation: a block holds m pairs over D features, row i is pair i.

    x (m, D)   points or steps      y (m, D)   gradients or their differences, y_i ~ H x_i + b
    one (m,)   what multiplies b    V (m, k)   orthonormal columns

Multiplying pairs by any matrix from the left keeps the equation: Y = X H + 1 bᵀ gives
VᵀY = (VᵀX) H + (Vᵀ1) bᵀ. With V the k leading left singular vectors of Y, VᵀY keeps the k
dominant directions of Y, and the result is pairs again: it can be stored, merged, solved.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from lrh_dask.errors import BadPairs, explain
from lrh_dask.linalg.arrays import (
    ALIGNED_COLUMNS,
    Array,
    device_of,
    like,
    namespace,
    no_rows,
    row_squares,
    to_host,
)
from lrh_dask.linalg.ledger import Ledger

__all__ = ["EXACT_ROWS", "ReducedPairs", "Reducing", "reduce_pairs"]

EXACT_ROWS = 4
"""Blocks of up to EXACT_ROWS * max_rank rows are cut exactly, taller ones after a sketch ..."""
CAPTURED = 0.9
"""... which takes a second power step where the first captures less than this of y²."""


@dataclass(frozen=True, eq=False)
class ReducedPairs:
    """A frozen state of the basis stage.

    Laws: the empty state is the identity of :meth:`merge`; merge never writes its inputs;
    pairs that satisfy Y = X H satisfy it after any tree of merges; and for the basis Q of the
    result ``‖Y - Y Q Qᵀ‖² <= tail``.

    Attributes:
        x: reduced points (m, D), m <= max_rank, in the data's dtype.
        y: reduced gradients (m, D); where a cut was made its rows are orthogonal and sorted.
        one: (m,) the reduced column of ones (of root weights), for an offset b.
        max_rank: how many pairs are kept at most.
        n_pairs: how many pairs this stands for.
        tail: sum of the squares cut so far, in the unit of y squared.
        energy: ‖Y‖² of the pairs it stands for.
        ledger: the rows of the store that it has seen, whether or not they count.
    """

    x: Array
    y: Array
    one: Array
    max_rank: int
    n_pairs: int = 0
    tail: float = 0.0
    energy: float = 0.0
    ledger: Ledger = field(default_factory=lambda: Ledger.of(()))

    @staticmethod
    def empty(x: Array, max_rank: int) -> ReducedPairs:
        """The identity of merge, with the library, dtype and features of ``x`` (m, D)."""
        none = no_rows(x)
        return ReducedPairs(none, none, none[:, 0], max_rank)

    def merge(self, other: ReducedPairs) -> ReducedPairs:
        """Reduced pairs that stand for the pairs of both.

        The rows of both, one under the other, are cut to the larger ``max_rank`` again.

        Raises:
            BadPairs: the two have different D.
            RunFailed: some rows are in both.
        Cost: O(D k²) flops, O(D k) bytes; no pass over pairs.
        Source: Iwen & Ong 2016, Alg. 1; Himpe, Leibner & Rave 2018 for the tail.
        """
        if self.x.shape[1] != other.x.shape[1]:
            raise BadPairs(explain(
                "merge reduced pairs", expected=f"{self.x.shape[1]} features",
                got=f"{other.x.shape[1]}", consequence="They belong to different Hessians.",
                fix="Merge states of one store only"))
        ledger = self.ledger.merge(other.ledger)
        if other.n_pairs == 0:
            return replace(self, ledger=ledger)
        if self.n_pairs == 0:
            return replace(other, max_rank=max(self.max_rank, other.max_rank), ledger=ledger)
        xp = namespace(self.x, other.x)
        return _cut(ReducedPairs(
            x=xp.concat([self.x, other.x], axis=0),
            y=xp.concat([self.y, other.y], axis=0),
            one=xp.concat([self.one, other.one], axis=0),
            max_rank=max(self.max_rank, other.max_rank),
            n_pairs=self.n_pairs + other.n_pairs,
            tail=self.tail + other.tail,
            energy=self.energy + other.energy,
            ledger=ledger))

    def basis(self) -> tuple[Array, np.ndarray]:
        """Gram-Schmidt basis of the directions of y, the most dominant first.

        Returns:
            Q (D, k) float64 with orthonormal columns, and their scales (k,): the singular
            values of the reduced y, in the unit of y. Null directions are left out.
        Cost: O(D k²) flops.
        """
        xp = namespace(self.y)
        y = xp.astype(self.y, xp.float64)
        if 0 in y.shape:
            return xp.zeros((y.shape[1], 0), dtype=xp.float64, device=device_of(y)), np.zeros(0)
        top = xp.max(xp.abs(y))
        peak = float(top) or 1.0
        q, r = xp.linalg.qr((y / peak).T)           # Y = Rᵀ Qᵀ: one exact Gram-Schmidt ...
        u, scales, _ = xp.linalg.svd(r, full_matrices=False)   # ... turned to dominance order
        host = to_host(scales) * peak
        floor = np.finfo(np.float64).eps * max(y.shape) * (host[0] if host.size else 0.0)
        rank = int(np.count_nonzero(host > floor))
        return (q @ u)[:, :rank], host[:rank]

    def to_host(self) -> ReducedPairs:
        """The same state in host memory, as it travels."""
        return replace(self, x=to_host(self.x), y=to_host(self.y), one=to_host(self.one))

    def __sizeof__(self) -> int:
        """Bytes of the arrays, so that Dask places and spills states by their true size."""
        return 200 + self.ledger.__sizeof__() + sum(
            a.dtype.itemsize * int(np.prod(a.shape))
            for a in (self.x, self.y, self.one))


def reduce_pairs(x: Array, y: Array, weight: Array | None = None, *, max_rank: int,
                 y_squares: Array | None = None) -> ReducedPairs:
    """Reduce a block of pairs to at most ``max_rank`` of them.

    Args:
        x, y: (m, D), finite, of one floating dtype.
        weight: (m,) non-negative; row i counts as ``weight[i]`` rows.
        max_rank: how many pairs are kept.
        y_squares: (m,) ‖y‖² of the rows, where they are known.
    Cost: O(m D k) flops (a sketch with one power step or two) where m > 4 k, else O(m² D).
    """
    xp = namespace(x, y)
    squares = row_squares(y) if y_squares is None else y_squares
    if weight is None:
        one = xp.ones(x.shape[0], dtype=x.dtype, device=device_of(x))
    else:
        one = xp.astype(xp.sqrt(weight), x.dtype)
        x, y, squares = x * one[:, None], y * one[:, None], squares * weight
    return _cut(ReducedPairs(x, y, one, max_rank, n_pairs=int(x.shape[0]),
                             energy=float(xp.sum(squares))))


class Reducing:
    """Reduces blocks of pairs, one after another, and ends as the state that stands for all.

    Args:
        max_rank: how many pairs are kept.
        at_once: blocks of fewer rows wait for others, and are reduced together: a cut of few rows
            is an eigendecomposition of its own.
    """

    def __init__(self, max_rank: int, at_once: int = 0) -> None:
        self._max_rank, self._at_once = max_rank, at_once
        self._state: ReducedPairs | None = None
        self._waiting: list[tuple[Array, Array, Array | None, Array]] = []

    def add(self, x: Array, y: Array, weight: Array | None = None,
            squares: tuple[Array, Array] | None = None) -> None:
        """Count a block: see :func:`reduce_pairs`."""
        y_squares = row_squares(y) if squares is None else squares[1]
        enough = x.shape[0] >= self._at_once
        if not enough or x.shape[0] <= self._max_rank:  # kept as they are: the block may go
            xp = namespace(x, y)
            x, y = xp.asarray(x, copy=True), xp.asarray(y, copy=True)
        if enough:
            self._reduce([(x, y, weight, y_squares)])
            return
        self._waiting.append((x, y, weight, y_squares))
        if sum(int(part[0].shape[0]) for part in self._waiting) >= self._at_once:
            self._reduce(self._waiting)
            self._waiting = []

    def state(self) -> ReducedPairs:
        """Reduced pairs of all blocks so far (there must be one)."""
        if self._waiting:
            self._reduce(self._waiting)
            self._waiting = []
        if self._state is None:
            raise ValueError("no block was added")
        return self._state

    def _reduce(self, blocks: list[tuple[Array, Array, Array | None, Array]]) -> None:
        x, y, weight, squares = (_joined(list(parts)) for parts in zip(*blocks, strict=True))
        state = reduce_pairs(x, y, weight, max_rank=self._max_rank, y_squares=squares)
        self._state = state if self._state is None else self._state.merge(state)


def _joined(parts: list[Array | None]) -> Array | None:
    """Arrays one under the other; None where they are."""
    if len(parts) == 1 or parts[0] is None:
        return parts[0]
    return namespace(*parts).concat(parts, axis=0)


def _squares(a: Array) -> float:
    return float(namespace(a).sum(row_squares(a)))


def _cut(state: ReducedPairs) -> ReducedPairs:
    """Keep the ``max_rank`` dominant directions of y; the squares cut go into ``tail``."""
    rows, k = state.y.shape[0], state.max_rank
    if rows <= k:
        return state
    v, y = _leading(state.y, k)
    cut = max(_squares(state.y) - _squares(y), 0.0)
    return replace(state, x=v.T @ state.x, y=y, one=v.T @ state.one, tail=state.tail + cut)


def _leading(y: Array, k: int) -> tuple[Array, Array]:
    """The k leading left singular vectors V (m, k) of y (m, D), and Vᵀy, in the dtype of y.

    Up to 4 k rows: eigenvectors of Y Yᵀ. Above, the row space is first found by a sketch with
    one power step, Z = Y orth(Yᵀ Ω) (Halko, Martinsson & Tropp 2011, Alg. 4.4), whose Ω mixes
    *rows*: turning the features turns the result and changes nothing else. Where that leaves much
    of y out there is another step: without it a signal as strong as the noise loses three times as
    much.
    """
    xp = namespace(y)
    rows, n_features = y.shape
    if rows <= EXACT_ROWS * k or n_features <= 2 * k:
        v = xp.astype(_leading_exact(y, k), y.dtype)
        return v, v.T @ y
    width = min(-(-(k + 8) // ALIGNED_COLUMNS) * ALIGNED_COLUMNS, n_features)
    omega = np.random.default_rng(rows).standard_normal((rows, width))
    w, _ = xp.linalg.qr(y.T @ xp.astype(like(y, omega), y.dtype))
    seen = y @ w
    if _squares(seen) < CAPTURED * _squares(y):
        w, _ = xp.linalg.qr(y.T @ seen)
        seen = y @ w
    z, _ = xp.linalg.qr(xp.astype(seen, xp.float64))             # (m, width)
    small = xp.astype(z, y.dtype).T @ y                          # (width, D)
    turn = _leading_exact(small, k)                              # (width, k): V = Z turn
    return xp.astype(z @ turn, y.dtype), xp.astype(turn, y.dtype).T @ small


def _leading_exact(y: Array, k: int) -> Array:
    """The k leading left singular vectors (float64) of y (m, D), by the smaller Gram matrix."""
    xp = namespace(y)
    y = xp.astype(y, xp.float64)
    rows, n_features = y.shape
    if rows <= n_features:
        _, v = xp.linalg.eigh(y @ y.T)
        return xp.flip(v[:, max(rows - k, 0):], axis=1)
    _, w = xp.linalg.eigh(y.T @ y)
    v, _ = xp.linalg.qr(y @ xp.flip(w[:, max(n_features - k, 0):], axis=1))
    return v
