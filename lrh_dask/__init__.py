"""Low-rank Hessians from stored gradients, on a Dask cluster, with certificates.

>>> import lrh_dask
>>> hessian = lrh_dask.fit(lrh_dask.open_pairs("pairs.zarr"))
>>> hessian.eigenvalues, hessian.standard_errors, hessian.certificates.verdict
>>> step = hessian.solve(-gradient, damping=0.1)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lrh_dask import source as _loaded  # noqa: F401 - before what is on disk can change

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lrh_dask.errors import BadPairs, LrhError, RunFailed, SettingsError
    from lrh_dask.nights.every_night import nightly
    from lrh_dask.reports.report import write_report
    from lrh_dask.runs.pipeline import fit
    from lrh_dask.statistics.certificates import Certificates
    from lrh_dask.statistics.hessian import LowRankHessian
    from lrh_dask.statistics.verdicts import Verdict
    from lrh_dask.stores.appending import append_pairs
    from lrh_dask.stores.opening import open_pairs
    from lrh_dask.stores.pair_writer import PairWriter
    from lrh_dask.stores.pairs import Pairs
    from lrh_dask.stores.writing import write_pairs

__all__ = ["BadPairs", "Certificates", "LowRankHessian", "LrhError", "PairWriter", "Pairs",
           "RunFailed", "SettingsError", "Verdict", "append_pairs", "fit", "nightly",
           "open_pairs", "write_pairs", "write_report"]

_HOME = {
    "BadPairs": "errors", "Certificates": "statistics.certificates",
    "LowRankHessian": "statistics.hessian", "LrhError": "errors",
    "PairWriter": "stores.pair_writer", "Pairs": "stores.pairs", "RunFailed": "errors",
    "SettingsError": "errors", "Verdict": "statistics.verdicts",
    "append_pairs": "stores.appending", "fit": "runs.pipeline", "nightly": "nights.every_night",
    "open_pairs": "stores.opening", "write_pairs": "stores.writing",
    "write_report": "reports.report",
}


def __getattr__(name: str) -> Any:
    """Import on first use: Dask and Zarr cost a second that `lrh --help` should not take."""
    if name in _HOME:
        return getattr(import_module(f"lrh_dask.{_HOME[name]}"), name)
    message = f"module 'lrh_dask' has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
