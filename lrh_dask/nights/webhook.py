"""Alerts sent as JSON to an address that a person has set: told if lost, never in the way."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lrh_dask.drift.alerts import Alert
from lrh_dask.settings.alert_settings import is_url, shown_url
from lrh_dask.stores.results import plain

__all__ = ["notify"]


def notify(webhook: str, alerts: Sequence[Alert], summary: Mapping[str, Any], *,
           timeout: float = 10.0) -> str | None:
    """Send alerts as JSON to a webhook; None when it took them, else what went wrong.

    Never raises, for the run itself is done, and never shows more of the URL than its host. The
    document has ``text`` (what Slack, Mattermost and others show), ``alerts`` and ``run``.

    Args:
        webhook: a URL, or the name of an environment variable that holds it.
        summary: of the run, what JSON knows; NaN becomes null.
        timeout: seconds that connecting, and each answer, may take.
    """
    url = webhook if is_url(webhook) else os.environ.get(webhook, "").strip()
    if not is_url(url):
        why = "does not hold an http(s):// URL" if url else "is not set"
        return f"alerts were not sent: the environment variable {webhook} {why}. Set it"
    n = len(alerts)
    where = f"alerts were not sent to {shown_url(url)}"
    try:
        body = json.dumps(plain({
            "text": "\n".join([f"lrh: {n} alert{'s'[:n != 1]}", *map(str, alerts)]),
            "alerts": [asdict(alert) for alert in alerts], "run": dict(summary)}))
        request = urllib.request.Request(url, body.encode(), method="POST", headers={
            "Content-Type": "application/json", "User-Agent": "lrh"})
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"{where}: it answered {error.code}. Check the address and what it accepts"
    except (OSError, http.client.HTTPException, ValueError, TypeError) as error:
        reason = getattr(error, "reason", error)  # words of the system, never of the URL
        said = (reason.strerror if isinstance(reason, OSError) else None) or type(reason).__name__
        return f"{where}: {said}. Check that this machine reaches it"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is sent elsewhere loses its body: better told than lost."""

    def redirect_request(self, *_: Any) -> None:
        return None
