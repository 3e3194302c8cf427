"""What every task of a run is told, and which of its pairs judge a fitted basis."""

from __future__ import annotations

from dataclasses import dataclass

from lrh_dask.runs.budget import Route
from lrh_dask.runs.shards import HELD_OUT_EVERY
from lrh_dask.statistics.asked import Asked

__all__ = ["HELD_OUT", "TRAIN", "Spec", "group_of"]

TRAIN, HELD_OUT = 0, 1


@dataclass(frozen=True)
class Spec:
    """What every task of a run is told.

    Attributes:
        watched: somebody wants to know what is done.
        stage: what a task calls that which it is a part of, where it is not told otherwise.
        digested: digests of the rows are wanted.
    """

    run_id: str
    method: str
    asked: Asked
    route: Route
    max_basis: int
    device: str
    dtype: str
    n_pairs: int
    watched: bool
    weighting: str = "stored"
    stage: str = ""
    digested: bool = False


def group_of(bucket: int) -> int:
    """Whether a basis may see the pairs of a bucket, or is judged on them."""
    return HELD_OUT if bucket % HELD_OUT_EVERY == 0 else TRAIN
