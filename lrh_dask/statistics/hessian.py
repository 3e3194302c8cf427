"""The result: a symmetric low-rank Hessian H = U diag(s) Uᵀ that can be used as an operator.

Shapes: D features, r the rank, U (D, r) orthonormal, s (r,) signed. Units: eigenvalues are in
units of y per unit of x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrh_dask.errors import SettingsError, explain
from lrh_dask.linalg.signs import curvature_sentence, half_widths
from lrh_dask.statistics.certificates import Certificates
from lrh_dask.statistics.verdicts import Verdict

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

__all__ = ["LowRankHessian"]

@dataclass(frozen=True, eq=False)
class LowRankHessian:
    """A low-rank symmetric Hessian with its certificates.

    Attributes:
        eigenvalues: s (r,), signed, the largest in magnitude first.
        standard_errors: (r,), root mean square errors; NaN where none is honest (the reason is
            ``certificates.standard_error_note``).
        eigenvectors: U (D, r), orthonormal columns.
        offset: b (D,) of y = H x + b where one was fitted, else None.
        n_pairs: pairs the fit rests on.
        certificates: residuals and verdict.
        curves: arrays behind the report: ``residual_by_rank``, ``residual_by_rank_error``
            (ranks 0, 1, ...), ``bucket_residuals``, ``bias`` and ``sign_margins``.
        provenance: settings, fingerprint of the input, versions, seconds and bytes.
    """

    eigenvalues: np.ndarray
    standard_errors: np.ndarray
    eigenvectors: np.ndarray
    n_pairs: int
    certificates: Certificates
    offset: np.ndarray | None = None
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """r, the number of eigenpairs."""
        return int(self.eigenvalues.size)

    @property
    def n_features(self) -> int:
        """D."""
        return int(self.eigenvectors.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """(D, D)."""
        return self.n_features, self.n_features

    @property
    def index(self) -> int:
        """Number of negative eigenvalues among those found."""
        return int(np.count_nonzero(self.eigenvalues < 0))

    @property
    def half_widths(self) -> np.ndarray:
        """Half of each 95 % interval (r,), by Student's t; NaN where no error is honest."""
        return half_widths(self.standard_errors, self.certificates.n_buckets)

    @property
    def bias(self) -> np.ndarray:
        """What may be missing from or added to each eigenvalue (r,), NaN where not known.

        How far it moves when the basis is halved (what the basis leaves out; nothing where it is
        all of R^D), how far the cut to low rank has moved it and the ridge shrunk it, and how far
        noise pushes it away from the others. Standard errors hold what the ridge has shrunk and
        what the cut has moved beyond chance, but not what the basis leaves out or noise pushes.
        """
        return np.asarray(self.curves.get("bias", np.full(self.rank, np.nan)), dtype=float)

    @property
    def curvature(self) -> str:
        """What the signs prove, in a sentence; "minimum" is never certified."""
        margins = np.asarray(self.curves.get("sign_margins", np.full(self.rank, np.nan)))
        good = self.certificates.verdict in {Verdict.converged, Verdict.noisy,
                                             Verdict.rank_limited}
        known = not bool(np.isnan(margins).any())
        said = (curvature_sentence(
                    self.eigenvalues, margins, self.n_features, certified=known,
                    why="not all eigenvalues have a standard error")
                if good else curvature_sentence(
                    self.eigenvalues, margins, self.n_features, certified=False))
        settings = self.provenance.get("settings") or {}
        return f"{said}; negative curvature was ruled out by `psd`, not by the pairs" if (
            settings.get("psd")) else said

    def __repr__(self) -> str:
        top = ", ".join(f"{v:.4g}" for v in self.eigenvalues[:3])
        more = ", ..." if self.rank > 3 else ""
        return (f"<LowRankHessian D={self.n_features} rank={self.rank} n_pairs={self.n_pairs} "
                f"eigenvalues=[{top}{more}] residual={self.certificates.residual:.3g} "
                f"verdict={self.certificates.verdict.name}>")

    def matvec(self, v: np.ndarray) -> np.ndarray:
        """H v for v (D,). Cost: 4 D r flops.

        Raises:
            SettingsError: v has another shape.
        """
        v = self._checked(v, ndim=1)
        return self.eigenvectors @ (self.eigenvalues * (self.eigenvectors.T @ v))

    def matmat(self, v: np.ndarray) -> np.ndarray:
        """H V for V (D, m), column by column.

        Raises:
            SettingsError: V has another shape.
        """
        v = self._checked(v, ndim=2)
        return self.eigenvectors @ (
            self.eigenvalues[:, None] * (self.eigenvectors.T @ v))

    def __matmul__(self, v: np.ndarray) -> np.ndarray:
        return self.matvec(v) if np.ndim(v) == 1 else self.matmat(v)

    def solve(self, b: np.ndarray, damping: float = 0.0) -> np.ndarray:
        """x with (H + damping I) x = b, for b (D,) or (D, m).

        With damping d > 0 the unexplored directions count as curvature d:
        x = (b - U diag(s / (s + d)) Uᵀ b) / d. With d = 0 they have no inverse: the least-norm
        solution U diag(1/s) Uᵀ b is returned, which ignores the part of b outside U.

        Raises:
            SettingsError: damping is negative or not finite, b has another shape, or
                H + damping I is singular.
        """
        b = self._checked(b, ndim=np.ndim(b))
        shifted = self._shifted(damping)
        if np.any(shifted == 0):
            raise SettingsError(explain(
                "solve", expected="H + damping I to be invertible",
                got=f"an eigenvalue of exactly {0.0 - damping:g}",
                consequence="The step along it would be infinite", fix="Use another damping"))
        inner = self.eigenvectors.T @ b
        if damping == 0:
            return self.eigenvectors @ (inner.T / shifted).T
        share = self.eigenvalues / shifted
        return (b - self.eigenvectors @ (inner.T * share).T) / damping

    def trace(self) -> float:
        """Sum of the eigenvalues found: the trace of the known part."""
        return float(self.eigenvalues.sum())

    def logdet(self, damping: float) -> float:
        """log det(H + damping I), unexplored directions counting as curvature ``damping``.

        Raises:
            SettingsError: H + damping I is not positive definite.
        """
        shifted = self._shifted(damping)
        if damping <= 0 or np.any(shifted <= 0):
            lowest = float(self.eigenvalues.min(initial=0.0))
            raise SettingsError(explain(
                "logdet", expected="H + damping I positive definite",
                got=f"damping {damping:g} with a smallest eigenvalue of {lowest:g}",
                consequence="Its logarithm is not real",
                fix=f"Use a damping above {max(0.0, -lowest):g}"))
        return float(np.log(shifted).sum() + (self.n_features - self.rank) * np.log(damping))

    def diagonal(self) -> np.ndarray:
        """Diagonal of H (D,)."""
        return (self.eigenvectors**2) @ self.eigenvalues

    def to_dense(self) -> np.ndarray:
        """H (D, D). Memory: 8 D² bytes."""
        return (self.eigenvectors * self.eigenvalues) @ self.eigenvectors.T

    def to_scipy(self) -> LinearOperator:
        """H as a :class:`scipy.sparse.linalg.LinearOperator`, for its solvers."""
        from scipy.sparse.linalg import LinearOperator

        def matvec(v: np.ndarray) -> np.ndarray:  # SciPy hands over (D,) or (D, 1)
            return self.matvec(np.ravel(v))

        return LinearOperator(shape=self.shape, dtype=np.dtype(np.float64), matvec=matvec,
                              rmatvec=matvec, matmat=self.matmat, rmatmat=self.matmat)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a Zarr group that :func:`xarray.open_zarr` opens.

        See :mod:`lrh_dask.stores.results`.

        Raises:
            SettingsError: the path exists and ``overwrite`` is False.
        """
        from lrh_dask.stores.results import save_result

        return save_result(self, path, overwrite=overwrite)

    @staticmethod
    def load(path: str | Path) -> LowRankHessian:
        """Read what :meth:`save` wrote.

        Raises:
            BadPairs: no complete result lies there, or of another format version.
        """
        from lrh_dask.stores.results import load_result

        return load_result(path)

    def _shifted(self, damping: float) -> np.ndarray:
        if not (np.isfinite(damping) and damping >= 0):
            raise SettingsError(explain(
                "damping", expected="a finite number >= 0", got=f"{damping}",
                consequence="Nothing was solved", fix="Give curvature to add, in units of s"))
        return self.eigenvalues + damping

    def _checked(self, v: np.ndarray, ndim: int) -> np.ndarray:
        v = np.asarray(v)
        if v.ndim != ndim or ndim not in (1, 2) or v.shape[0] != self.n_features:
            wanted = f"({self.n_features},)" if ndim == 1 else f"({self.n_features}, m)"
            raise SettingsError(explain(
                "vector", expected=f"shape {wanted}", got=f"{v.shape}",
                consequence="It lies in another space than this Hessian",
                fix="Give one entry per feature"))
        return v
