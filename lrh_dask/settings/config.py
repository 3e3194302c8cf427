"""Settings of a run, from a YAML file or the command line, checked before anything starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from reprlib import Repr
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError, field_serializer, field_validator, model_validator

from lrh_dask.errors import SettingsError, explain, public_name
from lrh_dask.settings.alert_settings import AlertSettings
from lrh_dask.settings.cluster_settings import (
    ClusterSettings,
    Strict,
    TlsSettings,
    cluster_at,
    named_by_dask,
)
from lrh_dask.settings.yaml_file import Lines, read_yaml
from lrh_dask.statistics.asked import LEAST_RTOL
from lrh_dask.stores.windows import Window

__all__ = ["FitSettings", "NightlySettings", "RunSettings", "Settings", "settings_from",
           "settings_of"]


class FitSettings(Strict):
    """What is read, what is fitted, and where."""

    example: ClassVar[str] = "quickstart.yaml"

    store: str
    """Path or URL of a Zarr group of pairs."""
    x: str = "x"
    """Name of the array of points or steps, (n, D)."""
    y: str = "y"
    """Name of the array of gradients or gradient differences, (n, D)."""
    rank: Literal["auto"] | Annotated[int, Field(ge=1, strict=True)] = "auto"
    """Eigenvalues wanted, or `auto`: as many as held-out pairs support."""
    basis: Literal["auto"] | Annotated[int, Field(ge=1, strict=True)] = "auto"
    """Columns to fit in, at most; D of them are all of R^D. `auto`: by shape and price."""
    method: Literal["symmetric", "seed", "least_norm"] = "symmetric"
    """`symmetric` is always safe; `seed` and `least_norm` take few exact pairs."""
    center: Literal["auto"] | bool = "auto"
    """Whether y = H x + b has an offset b."""
    rtol: Annotated[float, Field(ge=LEAST_RTOL, lt=1)] | None = None
    """Instead of a rank: the smallest whose residual, over all pairs and held out, is within it."""
    psd: bool = False
    """H is known to have no negative curvature."""
    weighting: Literal["stored", "step"] = "stored"
    """`step` divides weights by the squared length of x, for noise that grows with the step."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where workers compute; `auto` takes a GPU where one is usable."""
    bad_rows: Literal["fail", "skip"] = "fail"
    """Rows that hold NaN or Inf: `fail` refuses the store, `skip` leaves them out, counted."""
    cluster: ClusterSettings = ClusterSettings()
    """Where the run is carried out."""

    @property
    def of_result(self) -> dict[str, Any]:
        """Those that a result depends on, beside its pairs, as JSON has them."""
        return self.model_dump(mode="json", include={*FitSettings.model_fields} - {
            "store", "cluster"})

    @field_serializer("store")
    def _without_secret(self, value: str) -> str:
        """As results and reports show it."""
        return public_name(value)

    @field_validator("store", "out", "runs", check_fields=False)
    @classmethod
    def _is_a_path(cls, value: str | None) -> str | None:
        """``~`` is a home directory and ``file://`` a local path."""
        if value is None:
            return None
        if "\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value):
            message = f"expected a path, got {_shown(value)}"
            raise ValueError(message)
        value = value.removeprefix("file://")
        return value if "://" in value else os.path.expanduser(value)


class RunSettings(FitSettings):
    """One run, and where the result goes."""

    out: str | None = None
    """Where the result goes; by default beside the store, as `<store>-hessian.zarr`."""
    overwrite: bool = False
    """Replace a result that exists."""
    resume: bool = False
    """Keep states beside the result while the run goes, and go on from those of one broken off."""

    @property
    def states_path(self) -> Path:
        """Where states are kept while the run goes, if they are."""
        path = self.result_path
        return path.with_name(f"{path.name.removesuffix('.zarr')}.states")

    @property
    def result_path(self) -> Path:
        """Where the result goes.

        Raises:
            SettingsError: the store is remote and no place was named, the place is remote or
                has no name of its own, or it is the store itself.
        """
        if "://" in (self.out or self.store):
            raise SettingsError(explain(
                "out", expected="a local path for the result",
                got="a remote store and no --out" if self.out is None else "a URL",
                consequence="A result is made whole by a rename, which object stores do not have",
                fix="Name a local path with --out, and copy it afterwards"))
        store = Path(self.store)
        path = Path(self.out) if self.out is not None else (
            store.parent / f"{store.name.removesuffix('.zarr')}-hessian.zarr")
        if "://" not in self.store and (
                path.resolve() == store.resolve() or path.resolve() in store.resolve().parents
                or store.resolve() in path.resolve().parents):
            raise SettingsError(explain(
                f"out {path}", expected="a place outside of the store",
                got=f"one that is, holds or lies in {store}",
                consequence="The result would destroy its own input, so nothing was computed",
                fix="Choose another place with --out"))
        if path.name in {"", ".."}:
            raise SettingsError(explain(
                f"out {path}", expected="a path that ends in the name of the result", got="none",
                consequence="There would be no place for it, so nothing was computed",
                fix="Name one with --out, such as result.zarr"))
        return path


class NightlySettings(FitSettings):
    """Runs of one store, night by night, of which each adds what is new."""

    example: ClassVar[str] = "nightly.yaml"

    method: Literal["symmetric"] = "symmetric"
    """Of few exact pairs nothing is gained by adding: `lrh run` has the other methods."""
    runs: str
    """Folder of the runs: results, reports, and the states that the next run goes on from."""
    window: str = "all"
    """Which pairs a run is about: `all`, `last 30 days`, `last 1,000,000 pairs`, `label NAME` (a
    training run), `last label`."""
    alerts: AlertSettings = AlertSettings()
    """What is worth waking somebody: exit code 5, a line in the report, a webhook."""

    @field_validator("window")
    @classmethod
    def _is_a_window(cls, value: str) -> str:
        Window.parse(value)
        return value

    @model_validator(mode="after")
    def _is_outside_of_the_store(self) -> NightlySettings:
        runs, store = Path(self.runs).resolve(), Path(self.store).resolve()
        if "://" not in self.store and (runs == store or store in runs.parents):
            message = f"`runs: {self.runs}` lies in the store: runs would become a part of it"
            raise ValueError(message)
        return self

    @field_validator("runs")
    @classmethod
    def _is_local(cls, value: str) -> str:
        if "://" in value:
            message = (f"expected a local path, got {value!r}: a run is made whole by a rename, "
                       "which object stores do not have")
            raise ValueError(message)
        return value


Settings = TypeVar("Settings", bound=FitSettings)


def settings_of(kind: type[Settings], store: str, values: dict[str, Any],
                cluster: dict[str, Any]) -> Settings:
    """Settings from a file, where ``store`` names one, overridden by those given (not None).

    A scheduler that is given takes the place of the file's whole cluster but for its `tls` and
    `insecure`.
    Where neither names a cluster, the one that Dask's own settings name is taken, if any.

    Raises:
        SettingsError: the file cannot be read, or a setting is unknown or wrong.
    """
    loaded: dict[str, Any] = {"store": store}
    where, lines = "settings", Lines()
    if store.endswith((".yaml", ".yml")):
        (loaded, lines), where = read_yaml(Path(store)), f"settings in {store}"
    given = {key: value for key, value in cluster.items() if value is not None}
    scheduler, insecure = given.pop("scheduler", None), given.pop("insecure", None)
    if scheduler is None and not given and loaded.get("cluster") is None:
        scheduler = named_by_dask()
    nested = loaded.get("cluster")
    kept = nested if isinstance(nested, dict) else {}
    if scheduler is not None:
        given |= cluster_at(scheduler)
        encrypted = not scheduler.startswith("tcp://") and "tls" in kept
        kept = {name: kept[name] for name in ("tls", "insecure")
                if name in kept and (encrypted or name != "tls")}
    if insecure:
        given["insecure"] = True
    if given:
        loaded = {**loaded, "cluster": {**kept, **given}}
    set_here = {key: value for key, value in values.items() if value is not None}
    told_here = {*((name,) for name in set_here), *(("cluster", name) for name in given)}
    of_file = {way: line * (not told_here & {way[:1], way[:2]}) for way, line in lines.items()
               if len(way) == 1 or way[0] != "cluster" or way[1] in kept}
    return settings_from({**loaded, **set_here}, where, kind, of_file)


def settings_from(values: dict[str, Any], where: str, kind: type[Settings],
                  lines: Mapping[tuple[str, ...], int] = MappingProxyType({})) -> Settings:
    """Checked settings.

    Args:
        values: nested as in the file; ``where``: what the message names as their source.
        kind: of settings; ``lines``: of the file that they stand in; 0 of what others have said.
    Raises:
        SettingsError: naming every setting that is unknown or wrong.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        wrong: dict[str, str] = {}  # one line a setting, also where it may be of several types
        for item in error.errors():
            name = ".".join(str(part) for part in item["loc"] if str(part) in _NAMES
                            or item["type"] == "extra_forbidden")
            wrong.setdefault(name or "settings", _complaint(name, item) + _line(item, lines))
        unknown = any("unknown setting" in said for said in wrong.values())
        raise SettingsError(explain(
            where, expected="known settings with allowed values",
            got="; ".join(f"{name}: {said}" for name, said in wrong.items()),
            consequence="Nothing was started",
            fix=f"Known settings: {', '.join(kind.model_fields)}; of cluster: "
                f"{', '.join(ClusterSettings.model_fields)}" if unknown else
                f"`lrh run --help` and configs/{kind.example} say what each setting takes",
        )) from error


_NAMES = {name for kind in (RunSettings, NightlySettings, AlertSettings, ClusterSettings,
                           TlsSettings) for name in kind.model_fields}
_ALLOWED = {"rank": "'auto' or a whole number >= 1", "basis": "'auto' or a whole number >= 1",
            "center": "auto, yes or no"}


def _complaint(name: str, item: Any) -> str:
    if item["type"] == "extra_forbidden":
        return "unknown setting"
    if item["type"] == "missing":
        return "missing"
    if item["type"] == "value_error":  # ours: it says what it got
        return str(item["msg"]).removeprefix("Value error, ")
    wanted = f"expected {_ALLOWED[name]}" if name in _ALLOWED else item["msg"]
    if {"options", "webhook"} & set(item["loc"]):  # there may be passwords in it
        return str(wanted)
    return f"{wanted}, got {_shown(item['input'])}"


def _shown(value: Any) -> str:
    """A value as far as a line has room; in YAML a short text can stand for a very long one."""
    short = Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, 200, 200
    try:
        return short.repr(value)
    except ValueError:
        return "a number of thousands of digits"


def _line(item: Any, lines: Mapping[tuple[str, ...], int]) -> str:
    """Where a wrong setting stands in its file, or else what it is missing from."""
    way = tuple(map(str, item["loc"]))
    found = [lines[way[:n]] for n in range(len(way), 0, -1) if way[:n] in lines]
    return f" (line {found[0]})" if found and found[0] else ""
