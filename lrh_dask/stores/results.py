"""Results on disk: a Zarr group with named dimensions that :func:`xarray.open_zarr` opens.

Arrays: ``eigenvalues (rank)``, ``standard_errors (rank)``, ``eigenvectors (feature, rank)``,
``offset (feature)`` where one was fitted, and the curves behind the report. Attributes hold the
settings, the input's fingerprint, versions, certificates and the format version. The group is
written aside and renamed: one that lies under its name is whole.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrh_dask.errors import BadPairs, explain
from lrh_dask.statistics.certificates import Certificates
from lrh_dask.statistics.hessian import LowRankHessian
from lrh_dask.statistics.verdicts import Verdict
from lrh_dask.stores.aside import attributes_of, written_aside
from lrh_dask.stores.chunks import whole
from lrh_dask.stores.documents import MALFORMED, known

if TYPE_CHECKING:
    import zarr

__all__ = ["FORMAT_VERSION", "is_result", "load_result", "plain", "save_result",
           "summary"]

FORMAT_VERSION = 1
DIMENSIONS = {
    "eigenvalues": ("rank",), "standard_errors": ("rank",), "eigenvectors": ("feature", "rank"),
    "offset": ("feature",), "bias": ("rank",),
    "sign_margins": ("rank",), "residual_by_rank": ("rank_tried",),
    "residual_by_rank_error": ("rank_tried",), "bucket_residuals": ("bucket",),
}


def save_result(hessian: LowRankHessian, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a result, whole or not at all.

    Raises:
        SettingsError: the path exists and ``overwrite`` is False, or cannot be written.
    """
    import zarr
    from zarr.codecs import Crc32cCodec

    arrays = {"eigenvalues": hessian.eigenvalues, "standard_errors": hessian.standard_errors,
              "eigenvectors": hessian.eigenvectors, **hessian.curves}
    if hessian.offset is not None:
        arrays["offset"] = hessian.offset
    certificates = asdict(hessian.certificates) | {"verdict": hessian.certificates.verdict.name}
    with written_aside(path, overwrite=overwrite, is_ours=is_result) as aside:
        group = zarr.open_group(str(aside), mode="w", zarr_format=3)
        for name, array in arrays.items():
            rows = max(1, 2**24 // max(array[:1].nbytes, 1))
            chunks = tuple(max(1, n) for n in (min(rows, array.shape[0]), *array.shape[1:]))
            group.create_array(
                name, data=np.ascontiguousarray(array), chunks=chunks,
                compressors=(Crc32cCodec(),), config={"write_empty_chunks": True},
                dimension_names=DIMENSIONS[name])
        group.attrs.put({
            "lrh_dask_format": FORMAT_VERSION, "n_pairs": hessian.n_pairs,
            "certificates": plain(certificates), "provenance": plain(dict(hessian.provenance))})
        with warnings.catch_warnings():  # xarray looks for consolidated metadata, Zarr warns of it
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(group.store)
    return Path(path)


def is_result(path: Path) -> bool:
    """Whether a result lies at a local path."""
    return "lrh_dask_format" in attributes_of(path)


def load_result(path: str | Path) -> LowRankHessian:
    """Read a result.

    Raises:
        BadPairs: no complete result lies there, or one of another format version.
    """
    group = _open(path)
    attributes: dict[str, Any] = dict(group.attrs.asdict())
    try:
        arrays = {name: whole(f"{path}/{name}", array)
                  for name, array in group.arrays() if name in DIMENSIONS}
        _refuse_misshapen(arrays)
        stored = dict(attributes["certificates"])
        for name, value in stored.items():
            if value is None:
                stored[name] = math.nan
        if not 0 <= (n_pairs := int(attributes["n_pairs"])) < 2**63:
            message = f"{n_pairs} pairs"
            raise ValueError(message)
        stored["verdict"] = Verdict[stored["verdict"]]
        stored["outlier_buckets"] = tuple(stored.get("outlier_buckets", ()))
        return LowRankHessian(
            eigenvalues=arrays.pop("eigenvalues"), standard_errors=arrays.pop("standard_errors"),
            eigenvectors=arrays.pop("eigenvectors"), offset=arrays.pop("offset", None),
            n_pairs=n_pairs, certificates=known(Certificates, stored),
            curves=arrays, provenance=_checked(attributes["provenance"]))
    except MALFORMED as error:
        raise BadPairs(explain(
            f"read result {path}", expected="a complete result",
            got=f"{type(error).__name__}: {error}", consequence="It cannot be judged or used",
            fix="Run `lrh run` again")) from error


def _refuse_misshapen(arrays: dict[str, np.ndarray]) -> None:
    """Raise unless arrays are of numbers, and as long as others along the same dimensions.

    Raises:
        ValueError: they are not.
    """
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        along = dict(zip(DIMENSIONS[name], array.shape, strict=True))
        if array.dtype.kind not in "fiu" or any(
                sizes.setdefault(axis, n) != n for axis, n in along.items()):
            message = f"{name} of shape {array.shape} and {array.dtype} beside {sizes}"
            raise ValueError(message)


@dataclass(frozen=True)
class _Provenance:
    """What a result tells of the run that made it, as far as it does."""

    settings: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, float] = field(default_factory=dict)
    peak_worker_bytes: int = 0
    notices: tuple[str, ...] = ()


def _checked(provenance: dict[str, Any]) -> dict[str, Any]:
    """The same.

    Raises:
        ValueError: it is none.
    """
    known(_Provenance, provenance)
    return provenance


def summary(hessian: LowRankHessian, result: Path) -> dict[str, Any]:
    """A result as the JSON document of the command line; NaN is null."""
    certificates, provenance = hessian.certificates, {
        **asdict(_Provenance()), **hessian.provenance}
    document = {
        "eigenvalues": hessian.eigenvalues.tolist(),
        "standard_errors": hessian.standard_errors.tolist(),
        "half_widths": hessian.half_widths.tolist(), "bias": hessian.bias.tolist(),
        "standard_error_note": certificates.standard_error_note,
        "rank": hessian.rank, "method": provenance["settings"].get("method", "symmetric"),
        "n_pairs": hessian.n_pairs, "n_features": hessian.n_features,
        "residual": certificates.residual, "held_out_residual": certificates.held_out_residual,
        "asymmetry": certificates.asymmetry, "captured_energy": certificates.captured_energy,
        "verdict": certificates.verdict.name, "seconds": dict(provenance["seconds"]),
        "bytes": dict(provenance["bytes"]),
        "peak_worker_bytes": provenance["peak_worker_bytes"], "result": str(result),
        "centered": certificates.centered, "n_basis": certificates.n_basis,
        "ridge": certificates.ridge, "tail": certificates.tail,
        "condition": certificates.condition, "n_explored": certificates.n_explored,
        "n_effective": certificates.n_effective, "n_duplicates": certificates.n_duplicates,
        "n_zero_x": certificates.n_zero_x, "n_zero_y": certificates.n_zero_y,
        "n_far_x": certificates.n_far_x, "n_far_y": certificates.n_far_y,
        "n_skipped": certificates.n_skipped, "skipped": provenance.get("skipped", []),
        "bucket_residuals": hessian.curves.get("bucket_residuals", np.zeros(0)).tolist(),
        "outlier_buckets": list(certificates.outlier_buckets),
        "notices": list(provenance["notices"]),
        "explanation": certificates.verdict.value, "curvature": hessian.curvature}
    return plain(document)


def _open(path: str | Path) -> zarr.Group:
    import zarr

    try:
        group = zarr.open_group(str(path), mode="r", zarr_format=3, use_consolidated=False)
    except Exception as error:
        raise BadPairs(explain(
            f"read result {path}", expected="a result of `lrh run`",
            got="nothing there" if isinstance(error, FileNotFoundError)
            else f"{type(error).__name__}: {error}",
            consequence="There is nothing to show", fix="Check the path")) from error
    version = group.attrs.get("lrh_dask_format")
    if version != FORMAT_VERSION:
        raise BadPairs(explain(
            f"read result {path}", expected=f"a result of format {FORMAT_VERSION}",
            got="another Zarr group" if version is None else f"format {version}",
            consequence="It cannot be judged or used",
            fix="Name the result of `lrh run`, not the store of pairs" if version is None else
                "Read it with the version of lrh_dask that wrote it, or run again"))
    return group


def plain(value: Any) -> Any:
    """Python values that JSON knows: NaN and Inf become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
