"""Who can reach the ports of a cluster, and the certificates by which they know each other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lrh_dask.clusters.exposure import is_loopback
from lrh_dask.clusters.findings import Finding, fair, good, poor

__all__ = ["check_certificates", "check_ports"]

SOON_DAYS = 14
SHOWN = 3


def check_ports(told: Mapping[str, Any]) -> Finding:
    """Ports that are open beyond their own machine.

    Args:
        told: what scheduler, workers and nannies told, by what messages call them.
    """
    ports = [(f"{what} of {name}" if what == "dashboard" else name, address, encrypted, what)
             for name, answer in told.items() if not isinstance(answer, Exception)
             for what, address, encrypted in answer["listens"]
             if not is_loopback(address.rpartition(":")[0])]
    code = sorted({(name, address) for name, address, encrypted, what in ports
                   if what == "tasks" and not encrypted})
    pages = sorted({(name, address) for name, address, _, what in ports if what == "dashboard"})
    if code:
        return poor("open ports", f"{_listed(code)} without TLS: whoever reaches a Dask port runs "
                    "any code there, as the user who started it",
                    "Bind them to 127.0.0.1 (`--host 127.0.0.1`) where one machine is enough; else "
                    "use TLS (configs/tls.yaml), and a firewall until then")
    if pages:
        return fair("open ports", f"{_listed(pages)}: whoever reaches it sees what runs, and TLS "
                    "does not cover it",
                    "Start with `--dashboard-address 127.0.0.1:8787`; look through an SSH tunnel")
    if ports:
        return good("open ports", "open beyond their machines, to those with a certificate only")
    return good("open ports", "all bound to this machine (127.0.0.1)")


def check_certificates(files: Mapping[str, str | None], *, encrypted: bool) -> Finding:
    """The certificate, key and authority that this client uses.

    Args:
        files: paths or PEM texts by name: ``ca_file``, ``cert``, ``key``.
        encrypted: whether the scheduler's address is ``tls://``.
    """
    if not encrypted:
        return good("TLS", "not used")
    key = files.get("key") or ""
    if key and "\n" not in key and Path(key).exists() and Path(key).stat().st_mode & 0o077:
        return poor("TLS", f"others on this machine may read the private key {key}, and so run "
                    "code on the cluster", f"chmod 600 {key}")
    ends = {name: end for name in ("ca_file", "cert") if (end := _end_of(files.get(name)))}
    if not ends:
        return good("TLS", "in use (install the extra `tls` to have dates of certificates read)")
    name, end = min(ends.items(), key=lambda item: item[1])
    days = (end - datetime.now(UTC)).days
    if days < SOON_DAYS:
        return (poor if days < 0 else fair)(
            "TLS", f"{name} {'ended' if days < 0 else 'ends'} on {end:%Y-%m-%d}",
            "Make new certificates, and start scheduler and workers with them")
    return good("TLS", f"in use; certificates are valid until {end:%Y-%m-%d}")


def _end_of(certificate: str | None) -> datetime | None:
    """When a certificate ends, where there is one and a package that reads it."""
    if not certificate:
        return None
    with contextlib.suppress(ImportError, OSError, ValueError):
        from cryptography.x509 import load_pem_x509_certificate

        text = certificate if "\n" in certificate else Path(certificate).read_text("utf-8")
        return load_pem_x509_certificate(text.encode()).not_valid_after_utc
    return None


def _listed(ports: Iterable[tuple[str, str]]) -> str:
    ports = list(ports)
    more = f" and {len(ports) - SHOWN} more" if len(ports) > SHOWN else ""
    shown = ", ".join(f"{name} ({address})" for name, address in ports[:SHOWN])
    return f"{shown}{more} {'is' if len(ports) == 1 else 'are'} open to other machines"
