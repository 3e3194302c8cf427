"""A real cron, in namespaces of its own: it sees one crontab, ours, and ends with the block."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from cluster_processes import process

SPOOL = Path("/var/spool/cron/crontabs")
BEGIN = f"""
set -e
mount -t tmpfs tmpfs /run
mount --bind "$1/spool" {SPOOL}
mount --bind "$1/none" /etc/cron.d
mount --bind /dev/null /etc/crontab
exec cron -f
"""


class Unavailable(Exception):
    """This machine has no cron, or does not let its user make namespaces."""


@contextlib.contextmanager
def crond(folder, lines):
    """The block gets the process, and the file that holds what it says."""
    needed = [SPOOL.is_dir(), Path("/etc/crontab").exists(), Path("/etc/cron.d").is_dir(),
              os.geteuid() == 0, *map(shutil.which, ("cron", "unshare"))]
    if not all(needed):
        raise Unavailable("Debian's package cron, `unshare` and root are needed")
    for name in ("spool", "none"):
        (folder / name).mkdir()
    table = folder / "spool" / "root"
    table.write_text("\n".join([*lines, ""]))
    table.chmod(0o600)
    log = folder / "cron.txt"
    with process(["unshare", "--mount", "--propagation", "private", "--pid", "--fork",
                  "--kill-child", "--mount-proc", "sh", "-c", BEGIN, "sh", folder],
                 log) as started:
        try:
            yield started, log
        finally:
            started.kill()  # a first process of a namespace is deaf to milder signals
