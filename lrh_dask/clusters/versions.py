"""Whether client, scheduler and workers have the same software, and where that matters.

Graphs are unpickled by the scheduler, tasks by workers, results by the client: what one of them
has not, or has in another version, ends a run halfway or changes its bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lrh_dask.clusters.probes import ask_scheduler, ask_workers, library
from lrh_dask.errors import RunFailed, explain

__all__ = ["Agreement", "Package", "compare_versions", "how_to_mend", "mismatched",
           "refuse_mismatched", "survived"]

LIBRARY = "lrh-dask"
ALIKE: dict[str, int] = {
    "python": 2, LIBRARY: 9, "dask": 9, "distributed": 9, "zarr": 2, "numpy": 1, "numcodecs": 1,
    "cloudpickle": 1, "msgpack": 1, "scipy": 1, "xxhash": 1, "crc32c": 1}
"""Parts of a version that must be the same. Zarr's arrays travel as its own pickles, which
change with minor versions; for NumPy and the others a major version is enough."""
SHOWN = 4


class Agreement(Enum):
    """How far the versions of a package agree."""

    same = "the same everywhere"
    near = "differs by less than matters, but the last bits of a result may depend on it"
    apart = "differs so far that one process cannot read what another sends"
    missing = "cannot be imported where tasks need it"


@dataclass(frozen=True)
class Package:
    """The versions of one package: here, on the scheduler, and on workers by address."""

    name: str
    client: str | None
    scheduler: str | None
    workers: Mapping[str, str | None]

    @property
    def agreement(self) -> Agreement:
        """The verdict."""
        everywhere = {self.client, self.scheduler, *self.workers.values()}
        if None in everywhere or any("failed" in str(version) for version in everywhere):
            return Agreement.missing
        if len(everywhere) == 1:
            return Agreement.same
        parts = ALIKE[self.name]
        alike = {tuple(str(version).split(".")[:parts]) for version in everywhere}
        return Agreement.near if len(alike) == 1 else Agreement.apart

    def __str__(self) -> str:
        """Who has what: those that differ from this client are named."""
        said = [f"{self.client or 'none'} here"]
        if self.scheduler != self.client:
            said.append(f"{self.scheduler or 'none'} on the scheduler")
        others: dict[str | None, list[str]] = {}
        for address, version in self.workers.items():
            if version != self.client:
                others.setdefault(version, []).append(address)
        said += [f"{version or 'none'} on {_listed(addresses)}"
                 for version, addresses in others.items()]
        return f"{self.name} {', '.join(said)}"


def compare_versions(client: Any) -> tuple[Package, ...]:
    """The versions of all packages a run needs, on all processes of a cluster.

    Works where a worker lacks lrh_dask, too. Where all have the same Python, lrh_dask is
    imported on each, as what is installed and what can be imported may be two things.
    """
    told = client.get_versions(packages=[name for name in ALIKE if name != "python"])
    workers = {address: _packages(answer) for address, answer in told["workers"].items()}
    here, scheduler = _packages(told["client"]), _packages(told["scheduler"])
    found = {name: Package(name, here.get(name), scheduler.get(name),
                           {address: packages.get(name) for address, packages in workers.items()})
             for name in ALIKE}
    if found["python"].agreement in {Agreement.same, Agreement.near}:
        mine = library()
        found[LIBRARY] = Package(
            LIBRARY, _importable(mine, mine), _importable(ask_scheduler(client, library), mine),
            {address: _importable(answer, mine)
             for address, answer in ask_workers(client, library).items()})
    return tuple(found.values())


def refuse_mismatched(found: Iterable[Package]) -> None:
    """Raise where a difference would end a run halfway, or make it wrong.

    Raises:
        RunFailed: naming each such package, and who has which version of it.
    """
    wrong = mismatched(found)
    if wrong:
        raise RunFailed(explain(
            "compare versions of client, scheduler and workers",
            expected=f"the same {', '.join(package.name for package in wrong)}",
            got="; ".join(map(str, wrong)),
            consequence="A process could not read what another sends, or would count otherwise, "
                        "so nothing was started", fix=how_to_mend(wrong)))


def mismatched(found: Iterable[Package]) -> list[Package]:
    """Packages that differ by more than a run survives."""
    return [package for package in found
            if package.agreement in {Agreement.apart, Agreement.missing}]


def how_to_mend(wrong: Iterable[Package]) -> str:
    """What to install where."""
    wrong = list(wrong)
    wanted = " ".join(f"{package.name}=={str(package.client).split(' ')[0]}" for package in wrong
                      if package.client and package.name != "python")
    python = next((package.client for package in wrong if package.name == "python"), None)
    fix = [f"Run scheduler and workers by Python {'.'.join(str(python).split('.')[:2])}"] * bool(
        python) + [f"Install on scheduler and workers what is here, `pip install {wanted}`, and "
                   "start them again"] * bool(wanted)
    return f"{'. '.join(fix) or 'Install lrh-dask here'}, or run from an environment like theirs"


def survived(found: Iterable[Package]) -> list[str]:
    """Differences that a run survives, for people to know."""
    return [f"{package}: {package.agreement.value}" for package in found
            if package.agreement is Agreement.near]


def _packages(answer: Any) -> dict[str, str | None]:
    """Package versions as a process told them; nothing where it did not answer."""
    if not isinstance(answer, dict):
        return {}
    packages = {**answer["packages"]}
    packages["python"] = str(packages.get("python", "")).removesuffix(".final.0") or None
    return packages


def _importable(answer: Any, mine: Mapping[str, str | None]) -> str | None:
    """A version that tasks can import, and its source where that is not the one here."""
    if isinstance(answer, Exception):
        return f"failed ({type(answer).__name__}: {answer})"
    if answer["version"] is None:
        return None
    if answer["failed"]:
        return f"{answer['version']} failed ({answer['failed']})"
    same = answer["version"] != mine["version"] or answer["source"] == mine["source"]
    return str(answer["version"]) + ("" if same else f" (other source, {answer['source']})")


def _listed(addresses: list[str]) -> str:
    more = f" and {len(addresses) - SHOWN} more" if len(addresses) > SHOWN else ""
    return ", ".join(addresses[:SHOWN]) + more
