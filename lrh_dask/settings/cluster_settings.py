"""Which cluster a run is carried out on, and which setting goes with which kind of cluster."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lrh_dask.errors import SettingsError, explain

__all__ = ["CONNECT_SECONDS", "QUEUES", "ClusterSettings", "Kind", "Strict", "TlsSettings",
           "cluster_at", "named_by_dask"]

CONNECT_SECONDS = 10
"""How long a scheduler, or a machine, has to answer."""
Kind = Literal["local", "address", "scheduler_file", "slurm", "pbs", "lsf", "sge", "kubernetes",
               "cuda", "ssh"]
QUEUES: tuple[Kind, ...] = ("slurm", "pbs", "lsf", "sge")

_HERE = {"workers", "threads_per_worker", "memory_limit", "insecure"}
_NEEDS: dict[Kind, str] = {
    "address": "address: tcp://host:8786", "scheduler_file": "scheduler_file: scheduler.json",
    "ssh": "hosts: [HOST, HOST]",
    **{kind: "workers: 8" for kind in (*QUEUES, "kubernetes")}}
"""What a kind cannot do without, as it may stand in a file."""
_TAKES: dict[Kind, set[str]] = {
    "local": {*_HERE, "tls"}, "address": {"address", "tls", "insecure", "wait_seconds"},
    "scheduler_file": {"scheduler_file", "tls", "insecure", "wait_seconds"},
    **{kind: {"workers", "options", "tls", "insecure", "wait_seconds"} for kind in QUEUES},
    "kubernetes": {"workers", "options", "insecure", "wait_seconds"},
    "cuda": {*_HERE, "options", "wait_seconds"},
    "ssh": {*_HERE, "hosts", "options", "tls", "wait_seconds"}}


class Strict(BaseModel):
    """Settings of which none is unknown, and none changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class TlsSettings(Strict):
    """Files by which client, scheduler and workers know each other; `lrh certs` makes them."""

    ca_file: str
    """Certificates of the authority that both trust, PEM."""
    cert: str
    """Certificate of this client, and of what it starts, PEM."""
    key: str
    """Private key of that certificate, PEM."""

    @field_validator("ca_file", "cert", "key")
    @classmethod
    def _from_home(cls, value: str) -> str:
        return os.path.expanduser(value)


class ClusterSettings(Strict):
    """Where a run is carried out."""

    kind: Kind = "local"
    """`local`: worker processes on this machine; `address`, `scheduler_file`: a scheduler that
    runs already; `slurm`, `pbs`, `lsf`, `sge`: jobs of that queue; `kubernetes`: pods of its Dask
    operator; `cuda`: one process a GPU of this machine; `ssh`: processes on other machines."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Worker processes in all. By default one a core and at most 8 (`local`), one a GPU (`cuda`),
    one a host (`ssh`)."""
    threads_per_worker: Annotated[int, Field(ge=1)] = 1
    """Threads of a worker, each of which reduces one run of shards at a time."""
    memory_limit: str | None = None
    """Memory of a worker, such as `4GiB`; by default its share of its machine."""
    address: str | None = None
    """Scheduler address such as `tcp://host:8786`, for kind `address`."""
    scheduler_file: str | None = None
    """What `dask scheduler --scheduler-file` writes, for kind `scheduler_file`."""
    tls: TlsSettings | None = None
    """Certificates for a scheduler that runs already at a `tls://` address, or for the cluster that
    is started: then each of its machines sees the files under the same paths."""
    insecure: bool = False
    """Whether ports may be open to other machines without TLS: whoever reaches one runs any code
    there, so the network must keep others away."""
    hosts: tuple[str, ...] = ()
    """For kind `ssh`: the machine of the scheduler, then those of workers."""
    options: Annotated[dict[str, Any], Field(exclude=True, repr=False)] = {}  # passwords: not kept
    """Handed on to the class that starts the cluster: dask-jobqueue's, `KubeCluster`,
    `LocalCUDACluster`, `SSHCluster`."""
    wait_seconds: Annotated[float, Field(ge=1)] | None = None
    """How long to wait for workers: by default 10 s for a cluster that runs already, 300 s for
    a queue or pods, 60 s for machines."""

    @property
    def runs_already(self) -> bool:
        """Whether the cluster is somebody else's to start and to end."""
        return self.kind in {"address", "scheduler_file"}

    @property
    def patience(self) -> float:
        """Seconds to wait for workers."""
        if self.wait_seconds is not None:
            return self.wait_seconds
        return 10.0 if self.runs_already else 300.0 if self.kind in {
            *QUEUES, "kubernetes"} else 60.0

    @field_validator("memory_limit")
    @classmethod
    def _is_a_size(cls, value: str | None) -> str | None:
        if value is not None:
            from dask.utils import parse_bytes

            try:
                n_bytes = parse_bytes(value)
            except (ValueError, KeyError, OverflowError) as error:
                message = f"expected a size such as 4GiB, got {value!r}"
                raise ValueError(message) from error
            if n_bytes <= 0:
                message = f"expected a positive size such as 4GiB, got {value!r}"
                raise ValueError(message)
        return value

    @field_validator("scheduler_file")
    @classmethod
    def _from_home(cls, value: str | None) -> str | None:
        return None if value is None else os.path.expanduser(value)

    @model_validator(mode="after")
    def _settings_go_with_kind(self) -> ClusterSettings:
        given = {name for name in self.model_fields_set - {"kind"}
                 if getattr(self, name) not in (None, (), {})}
        wrong = []
        example = _NEEDS.get(self.kind, "")
        if (needed := example.partition(":")[0]) and needed not in given:
            wrong.append(f"`kind: {self.kind}` needs `{needed}` beside it, such as `{example}`")
        if foreign := sorted(given - _TAKES[self.kind]):
            why = " (a cluster that runs already)" if self.runs_already else ""
            wrong.append(f"{_listed(foreign)} cannot be set for `kind: {self.kind}`{why}, which "
                         f"takes {_listed(sorted(_TAKES[self.kind]))}"
                         + "".join(_hint(name) for name in foreign))
        if self.tls and self.kind == "address" and not str(self.address).startswith("tls://"):
            wrong.append(f"`tls` goes with an address tls://host:port, got {self.address!r}")
        if self.kind == "ssh" and self.hosts:
            n_hosts = len(self.hosts) - 1
            if n_hosts < 1:
                wrong.append("hosts are the machine of the scheduler and at least one of a worker "
                             f"(it may be the same again), got {list(self.hosts)}")
            elif self.workers is not None and self.workers % n_hosts:
                wrong.append(f"workers must be a multiple of the {n_hosts} hosts of workers, "
                             f"got {self.workers}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _hint(name: str) -> str:
    """Which kinds take a setting that only one or two of them know."""
    kinds = [kind for kind in get_args(Kind) if name in _TAKES[kind]]
    return f"; `{name}` goes with `kind: {'` or `'.join(kinds)}`" * (len(kinds) <= 2)


def cluster_at(scheduler: str) -> dict[str, str]:
    """The settings of a cluster that runs already, from its address or its scheduler file.

    Raises:
        SettingsError: it is neither.
    """
    if "://" in scheduler or re.fullmatch(r"[^/\s]+:\d+", scheduler):
        return {"kind": "address", "address": scheduler}
    if scheduler.endswith(".json") or Path(scheduler).is_file():
        return {"kind": "scheduler_file", "scheduler_file": scheduler}
    raise SettingsError(explain(
        f"scheduler {scheduler!r}",
        expected="an address such as tcp://host:8786, or a scheduler file (.json)",
        got="neither", consequence="Nothing was started",
        fix="Copy the address that `dask scheduler` prints, or name the file it writes with "
            "--scheduler-file"))


def named_by_dask() -> str | None:
    """The scheduler that DASK_SCHEDULER_ADDRESS, or Dask's own settings, name."""
    import dask

    address = dask.config.get("scheduler-address", None)
    return str(address) if address else None
