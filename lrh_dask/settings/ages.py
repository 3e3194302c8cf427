"""Ages, as a person writes and reads them."""

from __future__ import annotations

import math
import re

__all__ = ["age_words", "seconds_of"]

SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
AGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(m|min|minutes?|h|hours?|d|days?|w|weeks?)\s*")
SHOWN = (("d", 86400, 2), ("h", 3600, 1), ("min", 60, 1))
"""Units, their seconds, and from how many of them an age is shown in them."""


def seconds_of(text: str) -> float:
    """An age such as ``36h`` or ``2 days`` in seconds; NaN where it is none."""
    matched = AGE.fullmatch(text)
    return float(matched[1]) * SECONDS[matched[2][0]] if matched else math.nan


def age_words(seconds: float) -> str:
    """An age of so many seconds, to a tenth: ``36 h``, ``2.5 d``."""
    for unit, size, least in SHOWN:
        if seconds >= least * size:
            return f"{seconds / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.0f} s"
