"""What a call may do: write in one folder, take so long and so much memory; nothing else.

Python tells its audit hooks of every file that is opened, moved, made or removed, and of every
process that is started, whoever asks for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from lrh_dask.runs.process import peak_bytes

MAKES = {"os.mkdir": (0,), "os.rmdir": (0,), "os.remove": (0,), "os.rename": (0, 1),
         "os.link": (1,), "os.symlink": (1,), "os.truncate": (0,), "os.chmod": (0,),
         "os.chown": (0,), "os.utime": (0,), "os.setxattr": (0,), "shutil.rmtree": (0,)}
"""Events that change what a path of theirs names, and which of their arguments are such paths."""
NEVER = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork",
         "os.forkpty", "pickle.find_class", "socket.connect"}
PAGE = os.sysconf("SC_PAGE_SIZE")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Forbidden(BaseException):
    """Something was done that nobody may; no handler of errors is to catch it."""


@dataclass
class _Watch:
    folder: str = ""
    done: list[str] = field(default_factory=list)


_watch = _Watch()


def _is_inside(path, *, followed):
    """Whether a path names something in the folder; ``followed``: what a link there points at."""
    if isinstance(path, int):  # a descriptor that is open: how it was opened was told
        return True
    path = os.path.abspath(os.fsdecode(path))
    place = os.path.realpath(path) if followed else os.path.join(
        os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return place.startswith(_watch.folder + os.sep) or place in {_watch.folder, os.devnull}


def _hear(event, args):
    if not _watch.folder:
        return
    if event == "open":
        path, mode, flags = args
        writes = flags & WRITES if isinstance(flags, int) else any(c in str(mode) for c in "wax+")
        wrong = bool(writes) and path is not None and not _is_inside(
            path, followed=True)
    elif event in MAKES:
        wrong = not all(_is_inside(args[i], followed=False) for i in MAKES[event])
    else:
        wrong = event in NEVER
    if wrong:
        _watch.done.append(f"{event} {args!r:.300}")
        raise Forbidden(_watch.done[-1])


_hooked = []


@contextlib.contextmanager
def watched(folder, *, seconds=10.0, n_bytes=2**29):
    """Let the block write in a folder alone, in time, and in so much memory beyond what it has.

    Raises:
        Forbidden: it did something else, be it that it went on afterwards.
    """
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked.append(True)

    def too_long(*_):
        raise Forbidden(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, too_long)
    held, peak, began = _resident(), peak_bytes(), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    _watch.done, _watch.folder = [], os.path.realpath(folder)
    try:
        yield
    finally:
        _watch.folder = ""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if _watch.done:
        raise Forbidden(_watch.done[0])
    if peak_bytes() > max(held + n_bytes, peak):
        raise Forbidden(f"{(peak_bytes() - held) / 2**20:.0f} MiB of memory")
    if time.monotonic() - began > seconds:
        raise Forbidden(f"{time.monotonic() - began:.1f} s")


def _resident():
    """Bytes that this process has in memory now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE
