"""A fit in a fitted basis: rounds of reading until the basis is enough, then one pass to fit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from lrh_dask.runs import budget
from lrh_dask.runs.basis import SHORT_OF, WELL_BELOW, Outlook, worth_reading
from lrh_dask.runs.graph import Stages
from lrh_dask.runs.shards import SAMPLE_BYTES, Partition, gathered
from lrh_dask.runs.spec import HELD_OUT, Spec, group_of
from lrh_dask.runs.tasks import Missed, Short, Solved
from lrh_dask.runs.tree import Key, ReadStats
from lrh_dask.stores.layout import is_zarr
from lrh_dask.stores.pairs import Pairs

__all__ = ["fit_in_basis", "share_missed", "shortcomings", "still_missed"]

SPARE_COLUMNS = 8
"""Further rounds look for so many columns more than the first has found worth fitting."""


def fit_in_basis(stages: Stages, pairs: Pairs, split: Partition, spec: Spec, *,
                 all_features_too: bool) -> Solved:
    """Find a basis from as few pairs as it needs, fit all pairs in it, and solve.

    Where the basis captures less of all pairs than it had promised, it goes on with the pairs it
    has not seen, and all are fitted again; the outcome says so.

    Args:
        all_features_too: all of R^D may be taken where no basis does.
    """
    def why_none(known: Outlook) -> str:
        return _why_no_basis(known, pairs, spec) if all_features_too else ""

    notices = []
    if spec.n_pairs < budget.MANY_PAIRS:
        basis, known = _of_all_pairs(stages, split, spec, why_none)
    else:
        rounds = _Rounds(stages, pairs, split, spec, why_none)
        known = rounds.until_enough()
        basis = rounds.basis
    if why := why_none(known):
        begin = time.time()
        solved = stages.solve(split, spec, None)
        assert isinstance(solved, Solved)
        return replace(solved, basis_stats=known.stats, times={**solved.times, "basis": begin},
                       notices=(f"{why}, so the fit is in all of R^D",))
    solved = stages.solve(split, spec, basis)
    if isinstance(solved, Short):
        assert solved.missed is not None
        notices.append(f"{share_missed(solved.missed)} of a sample, so all pairs were read for it "
                       "and then once more for the fit")
        known = rounds.read_the_rest(solved.stats)
        solved = stages.solve(split, spec, rounds.basis)
    assert isinstance(solved, Solved)  # a basis of all pairs promises nothing
    if spec.n_pairs >= budget.MANY_PAIRS:
        notices += still_missed(solved)
    return replace(solved, notices=(*notices, *shortcomings(known, pairs.n_features,
                                                            spec.n_pairs)))


def still_missed(solved: Solved) -> list[str]:
    """What a user should know of a bucket that even a basis of all pairs leaves much out of."""
    return [] if solved.missed is None else [
        f"{share_missed(solved.missed)} of all pairs: few pairs may explore a direction that it "
        "lacks. Look at that bucket's pairs by themselves"]


def shortcomings(known: Outlook, n_features: int, n_pairs: int) -> list[str]:
    """What a user should know of a basis that ``n_pairs`` pairs are fitted in."""
    said, n_read = [], known.stats.n_pairs
    better = (f"; `--basis {n_features}` fits in all of R^D, at a price that `lrh plan` tells"
              if 2 * n_features < n_pairs and n_features <= budget.MAX_FEATURES else "")
    if SHORT_OF * n_read < known.n_pairs or known.n_pairs > n_pairs:
        said.append(
            f"noise tilts the basis, found in {n_read:,} of {n_pairs:,} pairs: the weakest "
            f"eigenvalues may be short by {known.n_pairs / (WELL_BELOW * n_read):.1f} standard "
            "errors or more" + better)
    if known.is_full and better:
        said.append(f"the spectrum of y does not end within the {known.n_columns} columns of "
                    f"the basis{better}")
    return said


def _of_all_pairs(stages: Stages, split: Partition, spec: Spec,
                  why_none: Callable[[Outlook], str]) -> tuple[Key, Outlook]:
    """The key of a basis of all pairs, and what it tells: of few columns where these will do."""
    few = replace(spec, max_basis=budget.first_columns(spec.asked.rank, spec.max_basis)
                  if spec.n_pairs > budget.LARGE_BASIS_PAIRS else spec.max_basis)
    keys, known = stages.find_basis(split.runs, few, None, complete=True, spent=ReadStats())
    if known.is_full and few.max_basis < spec.max_basis and not why_none(known):
        stages.forget(keys)
        keys, known = stages.find_basis(split.runs, spec, None, complete=True,
                                        spent=known.stats.to_no_avail())
    return keys[1], known


def _why_no_basis(known: Outlook, pairs: Pairs, spec: Spec) -> str:
    """What makes all of R^D the better choice, where it can be had; nothing where a basis does."""
    if known.is_full and (spec.max_basis >= pairs.n_features or budget.all_features_pay(
            spec.n_pairs, pairs.n_features)):
        return f"the spectrum of y does not end within {known.n_columns} columns of a basis"
    if known.n_pairs > spec.n_pairs:
        return "noise would tilt a basis so far that it moved eigenvalues by more than noise does"
    return ""


def share_missed(missed: Missed) -> str:
    """How much lay outside a basis, as the beginning of a sentence."""
    bucket = "" if missed.bucket is None else f" in bucket {missed.bucket}"
    return (f"{100 * missed.outside:.3g} % of y²{bucket}, where {100 * missed.expected:.3g} % was "
            "to be expected, lay outside the basis")


class _Rounds:
    """Blocks in an order of which every beginning is spread over the store."""

    def __init__(self, stages: Stages, pairs: Pairs, split: Partition, spec: Spec,
                 why_none: Callable[[Outlook], str]) -> None:
        self._stages, self._pairs, self._why_none = stages, pairs, why_none
        self._blocks = split.spread(lambda bucket: group_of(bucket) == HELD_OUT)
        self._spec = replace(spec, max_basis=budget.first_columns(
            spec.asked.rank, spec.max_basis))
        self._most_columns = spec.max_basis
        self._n_seen = 0  # blocks
        self._keys: tuple[Key, Key] | None = None
        self._spent = ReadStats()

    @property
    def basis(self) -> Key:
        """Key of the basis of all rounds so far."""
        assert self._keys is not None
        return self._keys[1]

    def spend(self, stats: ReadStats) -> None:
        """Count what was read to no avail."""
        self._spent = self._spent.merge(stats.to_no_avail())

    def until_enough(self) -> Outlook:
        """Read rounds, each at least as large as all before, until the basis is enough."""
        known = self.read(budget.FIRST_ROWS)
        if (known.is_full and self._spec.max_basis < self._most_columns and self._keys
                and not self._why_none(known)):
            self.spend(known.stats)
            self._spec = replace(self._spec, max_basis=self._most_columns)
            self._stages.forget(self._keys)
            self._n_seen, self._keys = 0, None
            known = self.read(budget.FIRST_ROWS)
        while not self._why_none(known) and (
                not known.enough
                or SHORT_OF * known.stats.n_pairs < worth_reading(known, self._spec.n_pairs)):
            self._spec = replace(self._spec, max_basis=min(
                self._spec.max_basis, known.n_columns + SPARE_COLUMNS))
            known = self.read(max(2 * known.stats.n_pairs,
                                  worth_reading(known, self._spec.n_pairs)))
        return known

    def read_the_rest(self, wasted: ReadStats) -> Outlook:
        """Bring all pairs that were not seen into the basis, and look for any columns again.

        Args:
            wasted: what the pass cost that showed the sample to be none.
        """
        self.spend(wasted)
        self._spec = replace(self._spec, max_basis=self._most_columns)
        return self.read(self._spec.n_pairs)

    def read(self, n_pairs: int) -> Outlook:
        """Read on until that many pairs are in the basis, or all where that is nearly all."""
        seen = sum(run.n_pairs for run in self._blocks[:self._n_seen])
        stop = self._n_seen
        while stop < len(self._blocks) and (seen < n_pairs or stop < 2):
            seen += self._blocks[stop].n_pairs
            stop += 1
        if 2 * seen > self._spec.n_pairs:
            stop = len(self._blocks)
        blocks = self._blocks[self._n_seen:stop]
        # Rows in memory are handed over as one slice a task.
        size = SAMPLE_BYTES if is_zarr(self._pairs.x) else 0
        self._keys, known = self._stages.find_basis(
            gathered(blocks, self._pairs.row_bytes, run_bytes=size), self._spec, self._keys,
            complete=stop == len(self._blocks), spent=self._spent)
        self._n_seen = stop
        return known
