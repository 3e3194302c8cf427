"""What a process of a cluster says of itself.

These functions are sent whole: they run where lrh_dask is not installed, so each imports what
it needs, asks nothing of this package, and returns what any Python can read.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle

__all__ = ["ask_nannies", "ask_scheduler", "ask_workers", "library"]


def ask_workers(client: Any, probe: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """What a probe returns on each worker, by address; an exception where it failed."""
    with _sent_whole():
        return dict(client.run(probe, *args, on_error="return"))


def ask_nannies(client: Any, probe: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """The same in the processes that watch over workers, for those workers that have one."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    watched = [address for address, worker in workers.items() if worker.get("nanny")]
    if not watched:
        return {}
    with _sent_whole():
        return dict(client.run(probe, *args, nanny=True, workers=watched, on_error="return"))


def ask_scheduler(client: Any, probe: Callable[..., Any], *args: Any) -> Any:
    """What a probe returns on the scheduler; an exception where it failed."""
    with _sent_whole():
        try:
            return client.run_on_scheduler(probe, *args)
        except Exception as error:
            return error


@contextlib.contextmanager
def _sent_whole() -> Any:
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def library() -> dict[str, str | None]:
    """The lrh_dask that tasks would import here: version, digest of its source, what failed."""
    import hashlib
    from importlib import import_module
    from pathlib import Path

    found: dict[str, str | None] = {"version": None, "source": None, "failed": None}
    try:
        package = import_module("lrh_dask")
        found["version"] = str(getattr(package, "__version__", "unknown"))
        digest = hashlib.sha256()
        for path in sorted(Path(str(package.__file__)).parent.glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        found["source"] = digest.hexdigest()[:8]
        import_module("lrh_dask.tasks")  # with all that it needs
    except Exception as error:
        found["failed"] = f"{type(error).__name__}: {error}"
    return found
