"""What a check has found, how bad it is, and what mends it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["Answers", "Finding", "Health", "answered", "fair", "good", "poor", "who"]

Answers = Mapping[str, Any]
"""What each worker told, by address; an exception where it did not."""
SHOWN = 3


class Health(Enum):
    """How good it is."""

    good = "as it should be"
    fair = "works, but slower or less safely than it could"
    poor = "fails, harms a result, or is open to others"


@dataclass(frozen=True)
class Finding:
    """One check: what it looked at, the verdict, what was seen, and the fix where one is needed."""

    name: str
    health: Health
    said: str
    fix: str = ""


def good(name: str, said: str) -> Finding:
    """As it should be."""
    return Finding(name, Health.good, said)


def fair(name: str, said: str, fix: str) -> Finding:
    """Works, but not as well as it could."""
    return Finding(name, Health.fair, said, fix)


def poor(name: str, said: str, fix: str) -> Finding:
    """To be mended before a run."""
    return Finding(name, Health.poor, said, fix)


def who(some: Collection[str], of: Collection[str], noun: str = "worker") -> str:
    """Which workers, in few words."""
    if len(some) == len(of):
        return f"all {len(of)} {noun}s" if len(of) > 1 else f"the {noun}"
    shown = sorted(some)[:SHOWN]
    more = f" and {len(some) - len(shown)} more" if len(some) > len(shown) else ""
    return f"{noun}{'s' * (len(some) > 1)} {', '.join(shown)}{more}"


def answered(name: str, answers: Answers) -> Finding | None:
    """A finding where a worker could not be looked at; None where all answered."""
    failed = {address: answer for address, answer in answers.items()
              if isinstance(answer, Exception)}
    if not failed:
        return None
    first = next(iter(failed.values()))
    return fair(name, f"{who(failed, answers)} could not be looked at: "
                      f"{type(first).__name__}: {first}", "Mend the software there first")
