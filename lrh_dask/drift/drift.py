"""What has changed between two runs, beyond their errors.

Two runs that share no pairs have independent errors; those of a later run that holds all pairs of
the earlier one differ by less than their sum. An estimate that is to first order a sum over pairs
has the correlation

    ρ = n_shared / √(n_before n_after)

with another of the same kind, so the change of an eigenvalue has the error

    error² = e_b² + e_a² - 2 ρ e_b e_a + (β_a - β_b)²,      error >= CHOICE max(e_b, e_a)

(e its standard errors, β its biases; before, after). Independent runs: the sum of both variances.
Nested ones: ρ = √(n_before / n_after) = e_a / e_b, and the first part is e_b² - e_a², the
difference of the variances (Hausman 1978); written by ρ it is never negative, as a difference of
two estimated variances may be. β, and the floor, are what another ridge, rank or basis moves,
chosen anew for nearly the same pairs; what the ridge shrinks is part of e, so a ridge that differs
makes the floor half of e. A number of shared pairs that is too low only makes the error larger.

How many standard errors are a drift? Errors are estimated from ~20 buckets, so a change follows
Student's t, and many are looked at: :func:`false_alarms` says how often chance goes beyond.
With 10 eigenvalues a night, 3 standard errors are passed by chance twice a month, 5 once in
three years.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr  # scipy.stats would take the best part of a second to import

from lrh_dask.drift.matching import Match, match
from lrh_dask.drift.overlaps import Cut, cuts_of
from lrh_dask.errors import SettingsError, explain
from lrh_dask.statistics.hessian import LowRankHessian
from lrh_dask.statistics.verdicts import Verdict

__all__ = ["LEADING", "Change", "Drift", "EigenvalueChange", "IndexChange", "compare",
           "correlation", "false_alarms"]

LEADING = 10
"""Eigenvalues of each run that are compared, unless asked otherwise."""
CHOICE, ANOTHER = 0.1, 0.5
"""What choices made anew may move, in standard errors: the same ones, and others."""
CHECKED = {Verdict.converged, Verdict.noisy, Verdict.rank_limited}
"""Only the signs of a fit that passed its check prove something."""


@dataclass(frozen=True)
class Change:
    """One figure in two runs.

    Attributes:
        before, after: its values, ``before_error`` and ``after_error`` their standard errors;
            NaN where not known.
        error: standard error of after - before, NaN where either is not known.
        shared: ρ, the correlation of the two errors.
    """

    before: float
    before_error: float
    after: float
    after_error: float
    error: float
    shared: float

    @property
    def difference(self) -> float:
        """After - before."""
        return self.after - self.before

    @property
    def drift(self) -> float:
        """The difference in its standard errors, signed; NaN where there is no error."""
        return self.difference / self.error if self.error > 0 else float("nan")

    @property
    def ratio(self) -> float:
        """After / before; negative where the sign has changed."""
        return self.after / self.before if self.before else float("nan")

    @property
    def ratio_error(self) -> float:
        """Standard error of the ratio q: √(error² + 2 (1 - q) c + (1 - q)² v) / |before|.

        To first order; v = e_b² is the variance of before, c = ρ e_b e_a - v its covariance with
        the difference.
        """
        if not self.before:
            return float("nan")
        left, v = 1.0 - self.ratio, self.before_error**2
        c = self.shared * self.before_error * self.after_error - v
        square = self.error**2 + 2.0 * left * c + left**2 * v
        return float(np.sqrt(max(square, 0.0))) / abs(self.before) if np.isfinite(square) else (
            float("nan"))


@dataclass(frozen=True)
class EigenvalueChange(Change):
    """One eigenvalue in two runs, ``match`` saying which; NaN in a run that did not find it."""

    match: Match


@dataclass(frozen=True)
class IndexChange:
    """Negative eigenvalues, before and after.

    Attributes:
        found: how many were found.
        least, most: how many there are, as far as signs exceed their errors: those that are
            certain, and with them those that are open or were found in the other run alone.
    """

    found: tuple[int, int]
    least: tuple[int, int]
    most: tuple[int, int]

    @property
    def is_certain(self) -> bool:
        """Whether the number has changed, whatever the signs that errors leave open."""
        return self.least[1] > self.most[0] or self.most[1] < self.least[0]


@dataclass(frozen=True)
class Drift:
    """Two runs of one Hessian beside each other.

    Attributes:
        eigenvalues: the leading ones of either run, in the order of ``before``, then new ones.
        cuts: agreement of subspaces (:mod:`lrh_dask.drift.overlaps`), the whole first.
        trace, residual, held_out: sums of eigenvalues and residuals (these in shares of ‖Y‖).
        index: of negative eigenvalues, all that were found.
        verdicts, n_pairs, ranks: (before, after).
        n_features: D.
        shared_pairs: pairs that both runs hold.
        n_buckets: behind the errors, of the run that has fewer.
    """

    eigenvalues: tuple[EigenvalueChange, ...]
    cuts: tuple[Cut, ...]
    trace: Change
    residual: Change
    held_out: Change
    index: IndexChange
    verdicts: tuple[Verdict, Verdict]
    n_pairs: tuple[int, int]
    ranks: tuple[int, int]
    n_features: int
    shared_pairs: float
    n_buckets: int

    @property
    def worst(self) -> EigenvalueChange | None:
        """The eigenvalue that drifted by most standard errors, None where no error is known."""
        known = [e for e in self.eigenvalues if np.isfinite(e.drift)]
        return max(known, key=lambda e: abs(e.drift), default=None)

    @property
    def chance(self) -> float:
        """How likely chance alone drifts as far in any of the eigenvalues: Bonferroni's bound."""
        if self.worst is None:
            return float("nan")
        n_known = sum(np.isfinite(e.drift) for e in self.eigenvalues)
        return min(1.0, false_alarms(abs(self.worst.drift), int(n_known), self.n_buckets))

    @property
    def least_cut(self) -> Cut | None:
        """The cut that stands apart and overlaps least, None where none stands apart."""
        return min((c for c in self.cuts if c.apart), key=lambda c: c.overlap, default=None)


def compare(before: LowRankHessian, after: LowRankHessian, *, shared_pairs: float = 0.0,
            leading: int = LEADING) -> Drift:
    """What has changed from one run to another, beyond their errors.

    Args:
        shared_pairs: pairs that both runs hold. All of the earlier one where a run adds to it,
            0 where none is shared or it is not known (the errors are then larger, if anything).
        leading: eigenvalues of each run that are compared, and largest dimension of a subspace.
    Raises:
        SettingsError: the two have different D, or cannot share so many pairs.
    Cost: O(D r²) flops; no pass over pairs.
    """
    if before.n_features != after.n_features:
        raise SettingsError(explain(
            "compare two runs", expected=f"the {before.n_features:,} features of the earlier run",
            got=f"{after.n_features:,} in the later one",
            consequence="Their eigenvectors lie in different spaces",
            fix="Compare runs over the same parameters"))
    shared = correlation(before.n_pairs, after.n_pairs, shared_pairs)
    pairs = match(before, after)
    ours, theirs = before.certificates, after.certificates
    alike = (ours.ridge, ours.n_basis, ours.centered) == (
        theirs.ridge, theirs.n_basis, theirs.centered)
    least = CHOICE if alike else ANOTHER
    return Drift(
        eigenvalues=tuple(_eigenvalue(before, after, m, shared, least) for m in pairs
                          if min(p for p in (m.before, m.after) if p is not None) < leading),
        cuts=cuts_of(before, after, leading, shared, least),
        trace=_change(_trace(before), _trace(after), shared, least),
        residual=_change(_residual(before), _residual(after), shared, least),
        held_out=_change(_held_out(before), _held_out(after), shared, least),
        index=_index(before, after, pairs),
        verdicts=(ours.verdict, theirs.verdict),
        n_pairs=(before.n_pairs, after.n_pairs), ranks=(before.rank, after.rank),
        n_features=before.n_features, shared_pairs=shared_pairs,
        n_buckets=min(ours.n_buckets, theirs.n_buckets))


def correlation(n_before: int, n_after: int, n_shared: float) -> float:
    """ρ = n_shared / √(n_before n_after), between errors of runs that share pairs.

    Raises:
        SettingsError: either run holds fewer pairs than that.
    """
    if not 0 <= n_shared <= min(n_before, n_after):
        raise SettingsError(explain(
            "shared pairs", expected=f"0 to {min(n_before, n_after):,}, those of the smaller run",
            got=f"{n_shared:,}", consequence="The error of a change would be too small",
            fix="Give the number of pairs that both runs hold, or 0"))
    return float(n_shared / np.sqrt(n_before * n_after)) if n_shared else 0.0


def false_alarms(beyond: float, n_eigenvalues: int, n_buckets: int, n_nights: int = 1) -> float:
    """How many changes go beyond so many standard errors by chance, in so many nights.

    Student's t of ``n_buckets`` - 1 degrees of freedom, as for
    :func:`lrh_dask.linalg.signs.half_widths`; changes may depend on each other, the expected
    number does not.
    """
    if n_buckets < 2:
        return float("nan")
    return float(n_eigenvalues * n_nights * 2.0 * stdtr(n_buckets - 1, -abs(beyond)))


def _eigenvalue(before: LowRankHessian, after: LowRankHessian, pair: Match,
                shared: float, least: float) -> EigenvalueChange:
    ours, bias = [], []
    for run, place in ((before, pair.before), (after, pair.after)):
        found = place is not None
        ours.append((float(run.eigenvalues[place]), float(run.standard_errors[place])) if found
                    else (float("nan"), float("nan")))
        bias.append(float(np.nan_to_num(run.bias[place])) if found else 0.0)
    made = _change(ours[0], ours[1], shared, least, bias[1] - bias[0])
    return EigenvalueChange(**vars(made), match=pair)


def _change(before: tuple[float, float], after: tuple[float, float], shared: float,
            least: float, moved: float = 0.0) -> Change:
    """The change of a figure, from its (value, standard error) in both runs.

    Args:
        least: of the larger standard error, so much is that of the change at least.
        moved: the change of its bias.
    """
    e_b, e_a = before[1], after[1]
    square = e_b**2 + e_a**2 - 2.0 * shared * e_b * e_a + moved**2
    error = float(np.sqrt(np.maximum(square, (least * np.maximum(e_b, e_a)) ** 2)))
    return Change(*before, *after, error, shared)


def _trace(run: LowRankHessian) -> tuple[float, float]:
    return run.trace(), float(np.sqrt(np.sum(run.standard_errors**2))) if run.rank else float("nan")


def _residual(run: LowRankHessian) -> tuple[float, float]:
    """A residual and its standard error, from the scatter of the buckets."""
    by_bucket = np.asarray(run.curves.get("bucket_residuals", ()), dtype=float)
    known = by_bucket[np.isfinite(by_bucket)]
    return run.certificates.residual, float(known.std(ddof=1) / np.sqrt(known.size)) if (
        known.size > 1) else float("nan")


def _held_out(run: LowRankHessian) -> tuple[float, float]:
    errors = np.asarray(run.curves.get("residual_by_rank_error", ()), dtype=float)
    return run.certificates.held_out_residual, float(errors[run.rank]) if (
        run.rank < errors.size) else float("nan")


def _index(before: LowRankHessian, after: LowRankHessian,
           pairs: tuple[Match, ...]) -> IndexChange:
    least, most = [], []
    for run, alone in ((before, sum(m.before is None for m in pairs)),
                       (after, sum(m.after is None for m in pairs))):
        margins = np.asarray(run.curves.get("sign_margins", np.full(run.rank, np.nan)))
        certain = (np.abs(run.eigenvalues) > margins) & (run.certificates.verdict in CHECKED)
        least.append(int(np.count_nonzero(certain & (run.eigenvalues < 0))))
        most.append(least[-1] + int(np.count_nonzero(~certain)) + alone)
    return IndexChange((before.index, after.index), (least[0], least[1]), (most[0], most[1]))
