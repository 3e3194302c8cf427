"""Two stored runs beside each other: their drift, what they share, which settings differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrh_dask.drift.drift import LEADING, Change, Drift, compare
from lrh_dask.drift.drift_words import headline
from lrh_dask.errors import BadPairs, explain
from lrh_dask.reports.report import flat
from lrh_dask.statistics.hessian import LowRankHessian
from lrh_dask.stores.counted import CountedRows
from lrh_dask.stores.results import load_result, plain

__all__ = ["Comparison", "StoredRun", "compare_runs", "drift_document"]

ASIDE = {"out", "overwrite"}
"""Settings that say nothing of the result."""


@dataclass(frozen=True, eq=False)
class StoredRun:
    """A result, and where it lies.

    Attributes:
        name: of its run folder, if it is in one.
        counted: the rows that it counts; None if not known.
    """

    name: str
    path: Path
    hessian: LowRankHessian
    counted: CountedRows | None = None

    @staticmethod
    def load(path: str | Path) -> StoredRun:
        """A result, or the one in a run folder (``result.zarr``).

        Raises:
            BadPairs: there is none.
        """
        path = Path(path)
        folder = path.parent if path.name == "result.zarr" else path
        inner = folder / "result.zarr"
        if path.is_dir() and not inner.exists() and not (path / "zarr.json").exists():
            raise BadPairs(explain(
                f"read run {path}", expected="a result of `lrh run`, or a folder with result.zarr",
                got="a folder without either", consequence="There is nothing to compare",
                fix="Name RESULT.zarr or a run folder"))
        if not inner.exists():
            return StoredRun(path.name, path, load_result(path))
        return StoredRun(folder.resolve().name, inner, load_result(inner), CountedRows.of(folder))


@dataclass(frozen=True, eq=False)
class Comparison:
    """What has changed from one stored run to another.

    Attributes:
        about_shared: what is known of the pairs that both hold, in a sentence.
        settings: name, value before, value after, of each that differs; "-" where there is none.
    """

    before: StoredRun
    after: StoredRun
    drift: Drift
    about_shared: str
    settings: tuple[tuple[str, str, str], ...]

    def document(self) -> dict[str, Any]:
        """As JSON for scripts; NaN is null."""
        return {"before": _about(self.before), "after": _about(self.after),
                **drift_document(self.drift), "headline": headline(self.drift),
                "settings": [{"name": n, "before": a, "after": b} for n, a, b in self.settings]}


def compare_runs(before: StoredRun, after: StoredRun, *, shared_pairs: float | None = None,
                 leading: int = LEADING) -> Comparison:
    """Compare two stored runs.

    Args:
        shared_pairs: pairs that both hold; None: as run folders say, or all where both read the
            same store as it was, else none, by which errors are too large if anything.
    Raises:
        SettingsError: the runs cannot be compared, or cannot share so many pairs.
    """
    n_before, n_after = before.hessian.n_pairs, after.hessian.n_pairs
    prints = [run.hessian.provenance.get("fingerprint") for run in (before, after)]
    counted = shared_pairs is None and before.counted is not None and (
        after.counted is not None and before.counted.store == after.counted.store)
    if counted and before.counted and after.counted:
        shared_pairs = min(before.counted.n_shared(after.counted), n_before, n_after)
    if shared_pairs is not None:
        least = "at least " * (counted and shared_pairs < min(n_before, n_after))
        said = f"{least}{shared_pairs:,.0f} pairs are in both runs"
    elif prints[0] is not None and prints[0] == prints[1] and n_before == n_after:
        shared_pairs, said = n_before, ("both runs read the same pairs: what differs is not "
                                        "drift, but settings or versions")
    else:
        shared_pairs, said = 0.0, ("how many pairs are in both runs is not known: errors are those "
                                   "of runs that share none, too large if they do (--shared N)")
    drift = compare(before.hessian, after.hessian, shared_pairs=shared_pairs, leading=leading)
    return Comparison(before, after, drift, said, _differing(before.hessian, after.hessian))


def drift_document(drift: Drift) -> dict[str, Any]:
    """A drift as JSON for scripts; NaN is null."""
    return plain({
        "shared_pairs": drift.shared_pairs, "chance": drift.chance,
        "eigenvalues": [{**_change(e), "place_before": e.match.before, "place_after": e.match.after,
                         "overlap": e.match.overlap, "followed": e.match.followed}
                        for e in drift.eigenvalues],
        "overlaps": [{"size": c.size, "overlap": c.overlap, "by_noise": c.by_noise,
                      "angles": c.angles, "apart": c.apart} for c in drift.cuts],
        "index": {"before": drift.index.found[0], "after": drift.index.found[1],
                  "least": drift.index.least, "most": drift.index.most,
                  "change_is_certain": drift.index.is_certain},
        "trace": _change(drift.trace), "residual": _change(drift.residual),
        "held_out_residual": _change(drift.held_out),
        "verdict": {"before": drift.verdicts[0].name, "after": drift.verdicts[1].name}})


def _change(change: Change) -> dict[str, float]:
    return {"before": change.before, "before_error": change.before_error, "after": change.after,
            "after_error": change.after_error, "ratio": change.ratio,
            "ratio_error": change.ratio_error, "difference": change.difference,
            "difference_error": change.error, "drift": change.drift}


def _about(run: StoredRun) -> dict[str, Any]:
    hessian = run.hessian
    return plain({"run": run.name, "result": str(run.path), "n_pairs": hessian.n_pairs,
                  "created": hessian.provenance.get("created"), "rank": hessian.rank,
                  "store": hessian.provenance.get("store"),
                  "verdict": hessian.certificates.verdict.name})


def _differing(before: LowRankHessian, after: LowRankHessian) -> tuple[tuple[str, str, str], ...]:
    sides = []
    for run in (before, after):
        known: dict[str, Any] = {**(run.provenance.get("settings") or {}),
                                 "versions": run.provenance.get("versions") or {}}
        sides.append(dict(flat({k: v for k, v in known.items() if k not in ASIDE})))
    names = list(dict.fromkeys([*sides[0], *sides[1]]))
    return tuple((n, sides[0].get(n, "-"), sides[1].get(n, "-")) for n in names
                 if sides[0].get(n) != sides[1].get(n))
