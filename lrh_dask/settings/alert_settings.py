"""Limits beyond which a night raises an alert, as a file of settings has them."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

from lrh_dask.settings.ages import seconds_of

__all__ = ["AlertSettings", "is_url", "shown_url"]

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class AlertSettings(BaseModel):
    """When a night is worth waking somebody; what is not set raises nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    sharpness_above: float | None = None
    """Largest eigenvalue that is still quiet, in units of y per unit of x."""
    drift_beyond: Annotated[float, Field(gt=0)] | None = None
    """Standard errors by which an eigenvalue, or the residual of new pairs, may change. With 10
    eigenvalues a night chance goes beyond 3 twice a month, beyond 5 once in three years; the
    residual of new pairs, whose error five buckets tell, goes beyond 5 once in nine months."""
    overlap_below: Annotated[float, Field(gt=0, le=1)] | None = None
    """Least mean cos² of the angles between leading subspaces, where noise does not explain it."""
    residual_above: Annotated[float, Field(gt=0)] | None = None
    """Largest residual of held-out pairs, in shares of the length of y."""
    stale_after: str | None = None
    """Age that the newest recorded pair may reach, such as `36h` or `2 days`."""
    webhook: Annotated[str | None, Field(repr=False)] = None
    """Where alerts are sent as JSON: the name of an environment variable that holds the URL (a URL
    lets anyone write who reads it, so it does not belong in a file), or the URL."""

    @field_validator("stale_after")
    @classmethod
    def _is_an_age(cls, value: str | None) -> str | None:
        if value is not None and not seconds_of(value) > 0:
            message = f"expected an age such as 36h or 2 days, got {value!r}"
            raise ValueError(message)
        return value

    @field_validator("webhook")
    @classmethod
    def _is_a_url_or_a_variable(cls, value: str | None) -> str | None:
        if value is not None and not (is_url(value) or VARIABLE.fullmatch(value)):
            message = "expected the name of an environment variable, or an http(s):// URL"
            raise ValueError(message)  # without the value: it may hold a secret
        return value

    @field_serializer("webhook")
    def _without_secret(self, value: str | None) -> str | None:
        """As results and reports show it: of a URL its host alone."""
        return shown_url(value) if value is not None and is_url(value) else value

    @property
    def stale_seconds(self) -> float | None:
        """``stale_after`` in seconds."""
        return None if self.stale_after is None else seconds_of(self.stale_after)


def is_url(text: str) -> bool:
    """Whether a webhook is given as a URL, not as the name of a variable."""
    return text.startswith(("http://", "https://"))


def shown_url(url: str) -> str:
    """Scheme and host of a URL: its path or its user may be the secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the webhook"
    return f"{parts.scheme}://{parts.hostname or '?'}/..."
