"""Who could reach the ports of a cluster: this machine, holders of a certificate, or anybody.

A Dask port runs the code that it is sent. So it is bound to 127.0.0.1, or speaks TLS, or somebody
has said that the network keeps others away.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from lrh_dask.errors import SettingsError, explain
from lrh_dask.settings.cluster_settings import QUEUES, ClusterSettings

__all__ = ["LOOPBACK", "is_exposed", "is_loopback", "refuse_exposed"]

LOOPBACK = "127.0.0.1"
SAFE_SCHEMES = {"tls", "wss", "inproc"}


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by an address that no other machine can reach."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def is_exposed(address: str) -> bool:
    """Whether what listens at a Dask address is open to other machines, without TLS."""
    import dask
    from distributed.comm.registry import get_backend

    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = dask.config.get("distributed.comm.default-scheme", "tcp"), address
    try:
        get_backend(scheme)
        host = urlsplit(f"//{rest}").hostname
    except ValueError:  # no address at all, which who connects to it tells
        return False
    return scheme not in SAFE_SCHEMES and not is_loopback(host or "")


def refuse_exposed(settings: ClusterSettings, say: Callable[[str], None],
                   address: str | None = None) -> None:
    """Raise, or with ``insecure`` say, that other machines could run code on a cluster.

    Args:
        address: of a scheduler that runs already; None: the cluster is yet to be started.
    Raises:
        SettingsError: they could, and nobody has said that this is meant.
    """
    if address is None:
        open_to = _opened(settings)
        where = f"cluster of kind {settings.kind}"
        if open_to is None and not settings.insecure:
            _refuse_open_dashboard(where, settings.options)
    else:
        open_to = "a port of another machine without TLS" if is_exposed(address) else None
        where = f"scheduler {address}"
    if open_to is None:
        return
    if settings.insecure:
        say(f"Notice: {where}: {open_to}. Whoever reaches it runs any code there, as you.")
        return
    tls = ("use an SSH tunnel to 127.0.0.1, or TLS" if address is not None else
           "use TLS" if settings.kind != "kubernetes" else
           "run within one pod (workflows/kubernetes/cronjob.yaml)")
    how = " (`lrh certs FOLDER` makes the files for `tls:` in `cluster`)" * ("TLS" in tls)
    raise SettingsError(explain(
        where, expected="ports on 127.0.0.1, or TLS", got=open_to,
        consequence="Whoever reaches a Dask port runs any code there, as you, so nothing was "
                    "started",
        fix=f"{tls[0].upper()}{tls[1:]}{how}; or, where the network lets nobody else in, pass "
            "--insecure (`insecure: true` in `cluster`)"))


def _refuse_open_dashboard(where: str, options: Mapping[str, Any]) -> None:
    """Raise where options have a dashboard listen beyond this machine; TLS does not cover it.

    Raises:
        SettingsError: they do.
    """
    parts = (options.get(f"{what}_options") or {} for what in ("scheduler", "worker"))
    for of in (options, *parts):
        asked = of.get("dashboard_address")
        host = f"{asked or LOOPBACK}".rpartition("://")[2].rpartition(":")[0]
        if asked and not is_loopback(host):
            raise SettingsError(explain(
                where, expected="a dashboard on 127.0.0.1", got=f"dashboard_address: {asked}",
                consequence="It would show what runs, and where, to other machines, so nothing was "
                            "started",
                fix="Take 127.0.0.1:8787, and look through an SSH tunnel; or, where the network "
                    "lets nobody else in, pass --insecure (`insecure: true` in `cluster`)"))


def _opened(settings: ClusterSettings) -> str | None:
    """What other machines could reach of a cluster that is to be started; None: nothing."""
    kind, options = settings.kind, settings.options
    scheduler, worker = (options.get(f"{what}_options") or {} for what in ("scheduler", "worker"))
    if kind == "kubernetes":
        return "pods that listen to the whole network of pods, without TLS"
    if settings.tls is not None or kind == "local":
        return None
    if kind in QUEUES:
        stays = bool(options.get("security")) or (
            "interface" in options and _stays(options) and _stays(scheduler))
        return None if stays else "jobs that listen to the network of their nodes, without TLS"
    if kind == "ssh":
        stays = all(map(is_loopback, settings.hosts)) and _stays(scheduler) and _stays(worker)
        return None if stays else "processes that listen to the network of their hosts, without TLS"
    stays = _stays(options) or str(options.get("protocol")).startswith("tls")
    return None if stays else "processes that listen beyond this machine, without TLS"


def _stays(options: Mapping[str, Any]) -> bool:
    """Whether options of a process leave it on addresses of its own machine."""
    import psutil

    host, interface = options.get("host"), options.get("interface")
    addresses = [] if interface is None else [
        found.address for found in psutil.net_if_addrs().get(str(interface), ())
        if found.family.name in {"AF_INET", "AF_INET6"}] or ["unknown"]
    return all(is_loopback(address) for address in (*addresses, *([host] if host else ())))
