"""What a user asks of a fit: checked, and as the mathematics takes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrh_dask.errors import SettingsError, explain

__all__ = ["LEAST_RTOL", "Asked", "asked_of"]

LEAST_RTOL = 1e-7
"""Residuals by rank are differences of squares: below this they are rounding."""


@dataclass(frozen=True)
class Asked:
    """What is asked of a fit; None leaves it to the pairs.

    Attributes:
        rank: so many eigenpairs.
        rtol: the smallest rank whose residual, over all pairs and held out, is at most this.
        center: fit an offset b, or do not.
        psd: H is known to have no negative curvature.
    """

    rank: int | None = None
    rtol: float | None = None
    center: bool | None = None
    psd: bool = False


def asked_of(*, rank: object, basis: object, method: object, center: object, rtol: object,
             psd: object, weighting: object, device: object) -> Asked:
    """The settings of a fit, once each is known to be allowed and none rules out another.

    Raises:
        SettingsError: naming the one that is not.
    """
    if rank != "auto" and not _whole(rank):
        raise _refused("rank", "'auto' or a whole number >= 1", repr(rank),
                       "Give the number of eigenvalues you want")
    if basis != "auto" and not _whole(basis):
        raise _refused("basis", "'auto' or a whole number >= 1", repr(basis),
                       "Give the columns to fit in, at least the rank; D is all of R^D")
    if method not in ("symmetric", "seed", "least_norm"):
        raise _refused("method", "symmetric, seed or least_norm", repr(method),
                       "`symmetric` is always safe")
    if center != "auto" and not isinstance(center, (bool, np.bool_)):
        raise _refused("center", "'auto', True or False", repr(center), "Use 'auto'")
    if rtol is not None and not _share(rtol):
        raise _refused("rtol", f"a number between {LEAST_RTOL:g} (what is below is rounding) and 1",
                       repr(rtol), "Give the residual to reach, such as 0.05")
    if not isinstance(psd, (bool, np.bool_)):
        raise _refused("psd", "True or False", repr(psd), "Leave it out")
    if weighting not in ("stored", "step"):
        raise _refused("weighting", "stored or step", repr(weighting),
                       "`step` is for noise that grows with ‖x‖")
    if device not in ("auto", "cpu", "gpu"):
        raise _refused("device", "auto, cpu or gpu", repr(device), "Use 'auto'")
    if rtol is not None and rank != "auto":
        raise _refused("rtol", "either a rank or a residual to reach", f"both, rank {rank!r}",
                       "Leave out one of them")
    beside = {"basis": basis != "auto", "center": center != "auto" and bool(center),
              "rtol": rtol is not None, "psd": bool(psd), "weighting": weighting != "stored"}
    if method != "symmetric" and any(beside.values()):
        raise _refused(f"method {method!r}",
                       "no offset, rtol, psd or weighting, nor a basis, with exact pairs",
                       ", ".join(name for name, given in beside.items() if given),
                       "Use method 'symmetric'")
    return Asked(rank=int(rank) if isinstance(rank, (int, np.integer)) else None,
                 rtol=float(rtol) if isinstance(rtol, (int, float, np.floating)) else None,
                 center=None if center == "auto" else bool(center), psd=bool(psd))


def _whole(rank: object) -> bool:
    return (isinstance(rank, (int, np.integer)) and not isinstance(rank, bool)
            and int(rank) >= 1)


def _share(rtol: object) -> bool:
    return (isinstance(rtol, (int, float, np.floating)) and not isinstance(rtol, bool)
            and LEAST_RTOL <= float(rtol) < 1)


def _refused(setting: str, expected: str, got: str, fix: str) -> SettingsError:
    return SettingsError(explain(setting, expected=expected, got=got,
                                 consequence="Nothing was started", fix=fix))
