"""Submit and leave: the whole run is handed to the cluster, its driver included.

The driver is a process of its own, ``lrh nightly`` with the settings that were submitted, started
by a task on a worker that sees the folder of runs. The scheduler keeps the task, whoever leaves;
where its worker dies another one begins it again, and as the call decides its own work, what was
counted by then is not counted twice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lrh_dask.clusters.cluster import reach
from lrh_dask.clusters.versions import compare_versions, refuse_mismatched
from lrh_dask.errors import RunFailed, SettingsError, explain
from lrh_dask.nights.journal import PARENT
from lrh_dask.nights.underway import State, Status, job_folder, note, status_of
from lrh_dask.runs.pipeline import new_run_id
from lrh_dask.settings.config import NightlySettings
from lrh_dask.stores.aside import replace_file
from lrh_dask.stores.inside import no_link

__all__ = ["driver_key", "submit"]

BEGINS_WITHIN = 5.0
"""Seconds that a submission is watched for a sign of life before the call returns."""
LOOKS_AGAIN = 1.0


def submit(settings: NightlySettings, raw: dict[str, Any], say: Callable[[str], None], *,
           recompute: bool = False) -> Status:
    """Hand a run to a cluster that is there; its id, and how it is by now.

    Args:
        raw: the same settings as they stand in the file: secrets are not masked there.
        say: is told what a person should know.
    Raises:
        SettingsError: the cluster is not one that runs already, or no worker sees the folder.
        RunFailed: no scheduler or worker answers, or they have other versions.
    """
    if settings.cluster.kind not in {"address", "scheduler_file"}:
        raise SettingsError(explain(
            f"submit to a cluster of kind {settings.cluster.kind!r}",
            expected="a scheduler that runs already", got="none",
            consequence="A cluster that this process starts would end with it",
            fix="Give --scheduler tcp://host:8786 or a scheduler file, or set "
                "DASK_SCHEDULER_ADDRESS; or use `lrh nightly`, and stay"))
    runs, run = Path(settings.runs).absolute(), new_run_id()
    folder = job_folder(runs, run)
    try:
        folder.mkdir(parents=True, mode=0o700)
        replace_file(folder / "settings.yaml", yaml.safe_dump(_seen_from_anywhere(settings, raw)),
                     mode=0o600)
    except OSError as error:
        raise SettingsError(explain(
            f"write {folder}", expected="a folder that can be written", got=str(error),
            consequence="Nothing was submitted", fix="Choose another with `runs:`")) from error
    try:
        with reach(settings.cluster, say) as client:
            refuse_mismatched(compare_versions(client))
            return _handed_over(client, runs, run, recompute=recompute)
    except BaseException:
        if not (folder / "status.json").exists():  # nothing was submitted
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _seen_from_anywhere(settings: NightlySettings, raw: dict[str, Any]) -> dict[str, Any]:
    """The same settings with paths that do not depend on the folder one is in."""
    def absolute(path: str) -> str:
        return path if "://" in path else str(Path(path).absolute())

    found = {**raw, "store": absolute(settings.store), "runs": absolute(settings.runs)}
    cluster = dict(raw.get("cluster") or {})
    if tls := cluster.get("tls"):
        cluster["tls"] = {name: absolute(os.path.expanduser(path))
                          for name, path in tls.items()}
    return {**found, "cluster": cluster} if cluster else found


def _handed_over(client: Any, runs: Path, run: str, *, recompute: bool) -> Status:
    from distributed import fire_and_forget

    folder = job_folder(runs, run)
    seen = client.run(_sees, str(folder / "settings.yaml"))
    able = [worker for worker, sees in seen.items() if sees]
    if not able:
        raise SettingsError(explain(
            f"submit run to {client.scheduler.address}",
            expected=f"a worker that sees {folder}", got=f"none of {len(seen)}",
            consequence="Nothing was submitted",
            fix="Put the folder of runs on a disk that workers and you share"))
    note(runs, Status(run, State.queued, scheduler=client.scheduler.address, began=time.time()))
    future = client.submit(
        drive, str(runs), run, recompute, key=driver_key(run), pure=False,
        workers=able, allow_other_workers=True, priority=1)
    fire_and_forget(future)
    return _wait_for_a_sign(runs, run, future)


def _sees(path: str) -> bool:
    return os.access(path, os.R_OK)


def _wait_for_a_sign(runs: Path, run: str, future: Any) -> Status:
    until = time.time() + BEGINS_WITHIN
    status = status_of(runs, run)
    while status.state is State.queued and time.time() < until and future.status != "error":
        time.sleep(0.1)
        status = status_of(runs, run)
    if future.status == "error":
        note(runs, replace(status, state=State.failed, exit_code=RunFailed.exit_code,
                           error=str(future.exception())))
        raise RunFailed(explain(
            f"run {run}", expected="a driver on the cluster", got=str(future.exception()),
            consequence="Nothing was published", fix="See the log of the workers"))
    return status


def driver_key(run: str) -> str:
    """The key of the task that drives a run."""
    return f"lrh-driver-{run}"


def drive(runs: str, run: str, recompute: bool) -> int:
    """The task on the cluster: a process that carries the run out; its exit code.

    Raises:
        Reschedule: this worker does not see the folder of runs.
    """
    from distributed import Reschedule, get_worker, secede

    scheduler = get_worker().scheduler.address  # the submitter may have come by another way
    secede()  # it waits for tasks that need this worker's threads
    folder = job_folder(Path(runs), run)
    if not _sees(str(folder / "settings.yaml")):
        time.sleep(LOOKS_AGAIN)
        raise Reschedule
    # The process of a worker that died may have outlived it.
    while (now := status_of(Path(runs), run)).state is State.running:
        time.sleep(LOOKS_AGAIN)
    if now.state not in {State.queued, State.lost}:
        return now.exit_code or 0
    with open(folder / "driver.txt", "ab", opener=no_link) as log:
        code = subprocess.run(
            [sys.executable, "-m", "lrh_dask", "nightly", str(folder / "settings.yaml"),
             "--scheduler", scheduler, "--insecure",  # this very worker is at it already
             "--run-id", run, "--wait",
             *(["--recompute"] if recompute else [])],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, check=False,
            env={**os.environ, PARENT: str(os.getpid())}).returncode
    now = status_of(Path(runs), run)
    if not now.state.is_final:
        said = (folder / "driver.txt").read_text(encoding="utf-8", errors="replace").strip()
        note(Path(runs), replace(now, state=State.failed, exit_code=code or 4, error=(
            f"its driver ended with {code}: {said.splitlines()[-1] if said else 'it said nothing'}"
            )))
    return code
