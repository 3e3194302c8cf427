"""Commands that make runs in a folder, here or on a cluster, and look after them."""

from __future__ import annotations

import json
import math
import shlex
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lrh_dask.cli.options import Insecure, Json, Scheduler
from lrh_dask.errors import LrhError, SettingsError, explain, printable

__all__ = ["commands"]

commands = typer.Typer()

Config = Annotated[str, typer.Argument(
    metavar="CONFIG.yaml", help="A file of settings; `store:` and `runs:` are all it needs.")]
Runs = Annotated[str, typer.Option(
    "--runs", metavar="FOLDER|CONFIG.yaml", envvar="LRH_RUNS",
    help="The folder of runs, or a file of settings that names it.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="Its id, as `lrh submit` printed it.")]
Recompute = Annotated[bool, typer.Option(
    "--recompute", help="Read all pairs again, whatever is stored of them.")]


@commands.command(rich_help_panel="Every night")
def nightly(
        config: Config, scheduler: Scheduler = None, insecure: Insecure = False,
        recompute: Recompute = False,
        wait: Annotated[bool, typer.Option(
            "--wait", help="Where another run is in the folder, wait for its end.")] = False,
        run_id: Annotated[str | None, typer.Option("--run-id", hidden=True)] = None,
        as_json: Json = False) -> None:
    """Count the pairs of a store that are new, and publish the Hessian of all.

    Call it from any schedule, as often as you like: it decides from what is stored what there is
    to do. Exit codes: 0 done, or nothing was new; 5 done, with alerts; 75 another run is in the
    folder; others as of `lrh run`.
    """
    from lrh_dask.cli.jobs import Stopped
    from lrh_dask.drift.alerts import AlertsRaised
    from lrh_dask.nights.every_night import nightly as carry_out
    from lrh_dask.reports.screen import Screen

    settings, _ = _settings(config, scheduler, insecure=insecure)
    screen = Screen(quiet_output=as_json)
    try:
        outcome = carry_out(settings, screen, recompute=recompute, wait=wait, run_id=run_id)
    except KeyboardInterrupt:
        raise Stopped from None
    if as_json:
        typer.echo(json.dumps(outcome.document))
    else:
        if outcome.is_new:
            screen.show(outcome.result())
        else:
            screen.say("Nothing is new: the last run is as good as another would be")
        screen.fact("run", outcome.path)
    if outcome.alerts:
        raise AlertsRaised(outcome.alerts)


@commands.command(rich_help_panel="Every night")
def submit(config: Config, scheduler: Scheduler = None, insecure: Insecure = False,
           recompute: Recompute = False, as_json: Json = False) -> None:
    """Hand `lrh nightly` to a cluster that is there, and leave: prints the id of the run.

    The driver runs on the cluster; this terminal may close. The folder of runs must be on a disk
    that the workers see. `lrh wait`, `status`, `logs` and `cancel` take it from there.
    """
    from lrh_dask.nights.submitting import submit as hand_over
    from lrh_dask.reports.screen import Screen

    settings, raw = _settings(config, scheduler, insecure=insecure)
    screen = Screen(quiet_output=as_json)
    status = hand_over(settings, raw, screen.say, recompute=recompute)
    if as_json:
        typer.echo(json.dumps(_plain(status)))
        return
    typer.echo(status.run)
    screen.say(f"{status.state.value}. Next: lrh wait {status.run} --runs "
               f"{shlex.quote(str(Path(settings.runs).absolute()))}")


@commands.command(rich_help_panel="Every night")
def runs(folder: Runs = "runs", as_json: Json = False) -> None:
    """List the published runs of a folder."""
    from lrh_dask.cli.runs_screen import show_runs
    from lrh_dask.reports.screen import Screen
    from lrh_dask.stores.catalog import Catalog

    catalog, screen = Catalog(_folder(folder)), Screen(quiet_output=as_json)
    for said in catalog.damaged():
        screen.say(f"Notice: {said}")
    listed = catalog.runs()
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in listed]))
        return
    show_runs(screen, listed)


@commands.command(rich_help_panel="Every night")
def status(run: Annotated[str | None, typer.Argument(metavar="[RUN]", show_default="all")] = None,
           folder: Runs = "runs", as_json: Json = False) -> None:
    """Say how runs are: waiting, under way and how far, done, failed, lost."""
    from lrh_dask.cli.runs_screen import show_status, show_statuses
    from lrh_dask.nights.underway import status_of, statuses
    from lrh_dask.reports.screen import Screen

    path = _folder(folder)
    found = statuses(path) if run is None else [status_of(path, run)]
    if as_json:
        typer.echo(json.dumps([_plain(one) for one in found] if run is None else _plain(found[0])))
    elif run is None:
        show_statuses(Screen(), found)
    else:
        show_status(Screen(), found[0])


@commands.command(rich_help_panel="Every night")
def wait(run: RunId, folder: Runs = "runs",
         timeout: Annotated[float | None, typer.Option(
             "--timeout", metavar="SECONDS", show_default="none",
             help="Give up after so long; the run goes on.")] = None,
         as_json: Json = False) -> None:
    """Wait for a run, showing its progress; the exit code is that of the run."""
    from lrh_dask.cli.runs_screen import Follower, show_status
    from lrh_dask.nights.following import follow
    from lrh_dask.reports.screen import Screen

    path, screen = _folder(folder), Screen(quiet_output=as_json)
    until = math.inf if timeout is None else time.monotonic() + timeout
    with Follower(screen).following() as follower:
        for now in follow(path, run, screen.say):
            follower.show(now)
            if not now.state.is_final and time.monotonic() > until:
                raise StillRunning(explain(
                    f"wait for run {run}", expected=f"its end within {timeout:g} seconds",
                    got=now.state.value, consequence="The run goes on",
                    fix=f"Wait longer, or `lrh cancel {run}`"))
    if as_json:
        typer.echo(json.dumps(_plain(now)))
    else:
        show_status(screen, now)
    if now.exit_code:
        raise typer.Exit(now.exit_code)


@commands.command(rich_help_panel="Every night")
def logs(run: RunId, folder: Runs = "runs") -> None:
    """Print what a run has said."""
    from lrh_dask.nights.underway import job_folder, status_of

    path = _folder(folder)
    status_of(path, run)
    said = [log for log in (job_folder(path, run) / name for name in (
        "driver.txt", "log.txt")) if log.exists()]
    if said:  # all that a driver on the cluster has printed, or else what was told of a run here
        typer.echo(printable(said[0].read_text(encoding="utf-8", errors="replace")), nl=False)


@commands.command(rich_help_panel="Every night")
def cancel(run: RunId, folder: Runs = "runs") -> None:
    """End a run that is waiting or under way; nothing of it is published."""
    from lrh_dask.nights.underway import State, job_folder, note, status_of
    from lrh_dask.stores.aside import replace_file

    path = _folder(folder)
    now = status_of(path, run)
    if now.state.is_final:
        raise SettingsError(explain(
            f"cancel run {run}", expected="a run that is waiting or under way",
            got=now.state.value, consequence="Nothing was changed", fix="See `lrh status`"))
    replace_file(job_folder(path, run) / "cancel", "")
    if now.state is State.queued:  # no process is there that would end
        note(path, replace(now, state=State.cancelled, exit_code=130,
                           error="cancelled by `lrh cancel`"))
    typer.echo(f"{run} will end within seconds")


class StillRunning(LrhError):
    """A wait was given up."""

    exit_code = 124


def _settings(config: str, scheduler: str | None = None, *,
              insecure: bool = False) -> tuple[Any, dict[str, Any]]:
    """Checked settings, and the same as they stand in the file."""
    from lrh_dask.settings.config import NightlySettings, settings_of
    from lrh_dask.settings.yaml_file import read_yaml

    if not config.endswith((".yaml", ".yml")):
        raise SettingsError(explain(
            f"settings {config}", expected="a YAML file", got="another name",
            consequence="Nothing was started",
            fix="Write `store:` and `runs:` into one, see configs/nightly.yaml"))
    settings = settings_of(NightlySettings, config, {},
                           {"scheduler": scheduler, "insecure": insecure})
    return settings, read_yaml(Path(config))[0]


def _folder(runs: str) -> Path:
    """The folder of runs itself, or that of a file of settings."""
    if runs.endswith((".yaml", ".yml")):
        return Path(_settings(runs)[0].runs)
    if not Path(runs).is_dir():
        raise SettingsError(explain(
            f"runs {runs}", expected="a folder of runs", got="none",
            consequence="There is nothing to show",
            fix="Name it with --runs, or in the environment variable LRH_RUNS"))
    return Path(runs)


def _plain(status: Any) -> dict[str, Any]:
    return asdict(status) | {"state": status.state.name}
