"""One writer at a time: a file that is locked as long as its holder lives."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lrh_dask.errors import SettingsError, explain

__all__ = ["exclusive"]


@contextlib.contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file, which is made where there is none; who comes second waits.

    The system gives the lock back when its holder dies, however it dies. The file stays: were it
    removed, two could each hold the lock of a file of that name.

    Raises:
        SettingsError: the file cannot be made, or this system has no such locks.
        BlockingIOError: somebody holds it, and is not to be waited for.
    """
    descriptor = _held(path, wait=wait)
    try:
        yield
    finally:
        os.close(descriptor)


def _held(path: Path, *, wait: bool) -> int:
    """An open file that is locked and still has its name: its folder may have been replaced."""
    try:
        import fcntl

        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                                 | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
    except BlockingIOError:
        raise
    except (OSError, ImportError) as error:
        raise SettingsError(explain(
            f"lock {path}", expected="a file that can be locked", got=str(error),
            consequence="Two writers at once could lose pairs, so nothing was written",
            fix="Check that the folder is there and may be written; on a network file system, "
                "that it has locks")) from error
