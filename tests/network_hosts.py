"""Several hosts on one machine: network namespaces with addresses of their own, on one switch."""

from __future__ import annotations

import contextlib
import os
import subprocess


class Unavailable(Exception):
    """This machine does not let its user make network namespaces."""


@contextlib.contextmanager
def hosts(*names):
    """Namespaces that see each other and nothing else; the block gets {name: (prefix, address)}.

    A command after a prefix runs on that host. The switch is a namespace, too, so that the
    machine's own network stays as it is.
    """
    mark = f"lrh{os.getpid()}"
    switch = f"{mark}-switch"
    made = []
    try:
        try:
            _add(switch, made)
            _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", switch, "link", "set", "bridge", "up")
            found = {}
            for number, name in enumerate(names, start=1):
                host, address = f"{mark}-{name}", f"10.77.0.{number}"
                _add(host, made)
                _ip("link", "add", f"port{number}", "netns", switch, "type", "veth",
                    "peer", "name", "eth0", "netns", host)
                _ip("-n", switch, "link", "set", f"port{number}", "master", "bridge", "up")
                _ip("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
                _ip("-n", host, "link", "set", "eth0", "up")
                _ip("-n", host, "link", "set", "lo", "up")
                found[name] = (("ip", "netns", "exec", host), address)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", "") or str(error)
            raise Unavailable(" ".join(said.split())) from error
        yield found
    finally:
        for namespace in reversed(made):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


def _add(namespace, made):
    _ip("netns", "add", namespace)
    made.append(namespace)


def _ip(*args):
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)
