"""The command line: thin. Each command checks its settings, calls the library, shows the result."""

from __future__ import annotations

import json
import os
import sys
import traceback
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from lrh_dask import __version__
from lrh_dask.cli import pairs as cli_pairs
from lrh_dask.cli import runs as cli_runs
from lrh_dask.cli.certs import certs
from lrh_dask.cli.diff import diff
from lrh_dask.cli.doctor import doctor
from lrh_dask.cli.options import (
    BasisText,
    Insecure,
    Json,
    Memory,
    MethodText,
    RankText,
    Scheduler,
    Store,
    Threads,
    Workers,
    XName,
    YName,
    number_or_text,
    yes_or_no,
)
from lrh_dask.errors import LrhError, SettingsError, explain, printable, public_text

__all__ = ["app", "main"]

app = typer.Typer(
    name="lrh", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Low-rank Hessians from stored gradients, on a Dask cluster, with certificates.",
    epilog="Start with `lrh demo`. Exit codes: 0 done, 2 wrong call or settings, 3 bad input "
           "data, 4 the run failed, 5 done with alerts, 75 another run is at it.")
app.add_typer(cli_pairs.commands)
app.add_typer(cli_runs.commands)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lrh_dask {__version__}")
        raise typer.Exit


@app.callback()
def _lrh(version: Annotated[bool, typer.Option(
        "--version", callback=_version, is_eager=True, help="Show the version and exit.")] = False,
         ) -> None:
    pass


@app.command(rich_help_panel="Fit")
def run(
        store: Annotated[str, typer.Argument(
            metavar="STORE|CONFIG.yaml",
            help="Path or URL of a Zarr group of pairs, or a file of settings.")],
        rank: RankText = None,
        basis: BasisText = None,
        method: MethodText = None,
        center: Annotated[str | None, typer.Option(
            "--center", metavar="auto|yes|no", show_default="auto",
            help="Fit an offset b in y = H x + b.")] = None,
        rtol: Annotated[float | None, typer.Option(
            "--rtol", metavar="SHARE", show_default=False,
            help="Instead of a rank: the smallest one whose residual is at most this.")] = None,
        psd: Annotated[bool, typer.Option(
            "--psd", help="H is known to have no negative curvature.")] = False,
        weighting: Annotated[str | None, typer.Option(
            "--weighting", metavar="stored|step", show_default="stored",
            help="`step`: noise grows with the length of x.")] = None,
        bad_rows: Annotated[str | None, typer.Option(
            "--bad-rows", metavar="fail|skip", show_default="fail",
            help="Rows that hold NaN or Inf: refuse the store, or leave them out and count them.",
            )] = None,
        x: XName = None,
        y: YName = None,
        out: Annotated[str | None, typer.Option(
            "--out", metavar="RESULT.zarr", show_default="STORE-hessian.zarr beside the store",
            help="Where the result goes.")] = None,
        overwrite: Annotated[bool, typer.Option(
            "--overwrite", help="Replace a result that exists.")] = False,
        resume: Annotated[bool, typer.Option(
            "--resume", help="Keep states beside the result while the run goes (RESULT.states), "
            "and go on from those of a run that was broken off.")] = False,
        scheduler: Scheduler = None,
        insecure: Insecure = False,
        workers: Workers = None,
        threads_per_worker: Threads = None,
        memory_limit: Memory = None,
        device: Annotated[str | None, typer.Option(
            "--device", metavar="auto|cpu|gpu", show_default="auto",
            help="Where workers compute.")] = None,
        performance_report: Annotated[Path | None, typer.Option(
            "--performance-report", metavar="FILE.html", show_default=False,
            help="Write Dask's report of the run: its dashboard as a page to keep.")] = None,
        as_json: Json = False) -> None:
    """Compute the low-rank Hessian of a store of pairs, on a Dask cluster.

    Options given here override those in CONFIG.yaml.
    """
    from rich.text import Text

    from lrh_dask.cli.jobs import run_job
    from lrh_dask.reports.screen import Screen
    from lrh_dask.settings.config import RunSettings, settings_of
    from lrh_dask.stores.results import summary

    settings = settings_of(RunSettings, store, {
        "rank": number_or_text(rank), "basis": number_or_text(basis), "method": method,
        "center": yes_or_no(center), "x": x, "y": y, "out": out, "device": device, "rtol": rtol,
        "overwrite": overwrite or None, "resume": resume or None, "psd": psd or None,
        "weighting": weighting, "bad_rows": bad_rows},
        {"workers": workers, "threads_per_worker": threads_per_worker,
         "memory_limit": memory_limit, "scheduler": scheduler, "insecure": insecure})
    screen = Screen(quiet_output=as_json)
    hessian = run_job(settings, screen, report=performance_report)
    path = settings.result_path
    if as_json:
        typer.echo(json.dumps(summary(hessian, path)))
        return
    screen.show(hessian)
    screen.fact("result", path)
    screen.output.print(Text(f"Next: lrh report {path}", style="dim"), soft_wrap=True)


@app.command(rich_help_panel="Fit")
def demo(
        folder: Annotated[Path, typer.Option(
            "--folder", help="Where stores, results and reports go.")] = Path("lrh-demo"),
        workers: Workers = None) -> None:
    """Try it on real data, in a minute: the Hessian of softmax regression on digits.

    Trains on scikit-learn's digits (D = 650 weights), records two stores of pairs, runs both on
    a local Dask cluster, and compares with the exact Hessian. No download.
    """
    from lrh_dask.cli.jobs import fit_job, keep
    from lrh_dask.clusters.cluster import connect
    from lrh_dask.reports.demo import record_digits
    from lrh_dask.reports.report import write_report
    from lrh_dask.reports.screen import Screen
    from lrh_dask.runs.dashboard import dashboard_of
    from lrh_dask.settings.config import RunSettings, settings_of
    from lrh_dask.stores.opening import open_pairs

    screen = Screen()
    screen.say("Training softmax regression on 1,797 scans of digits, recording pairs ...")
    stores = record_digits(folder, overwrite=True)
    screen.say(f"Trained to {100 * stores.accuracy:.1f} % of its scans. Recorded:\n"
               f"  {stores.steps}     2,000 mini-batch steps and the gradient's change over each\n"
               f"  {stores.products}  1,500 Hessian-vector products at the end point")
    jobs = [
        (stores.steps, stores.exact_steps,
         "From training steps: beside the exact Hessian, averaged along the same steps"),
        (stores.products, stores.exact_products,
         "From Hessian-vector products: beside the exact Hessian at the end point")]
    results = []
    settings = [settings_of(RunSettings, str(store), {"overwrite": True},
                            {"kind": "local", "workers": workers}) for store, _, _ in jobs]
    with connect(settings[0].cluster) as client:
        screen.say(dashboard_of(client))
        for setting, (store, exact, title) in zip(settings, jobs, strict=True):
            screen.say(f"lrh run {store}")
            hessian = fit_job(open_pairs(store), setting, screen)
            screen.output.rule(title, style="dim")
            screen.show(hessian, exact=exact)
            result = keep(hessian, setting)
            results.append((result, write_report(hessian, result.with_suffix(".html"))))
    screen.output.rule("Where everything is", style="dim")
    for result, report in results:
        screen.output.print(f"result {result}\nreport {report}", soft_wrap=True, markup=False)
    result = results[-1][0]
    lrh, python = sys.argv[0], Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    screen.output.print(
        f"\nNext:\n  {lrh} inspect {stores.steps}\n  {lrh} run {stores.products} --rank 8 --out "
        f"{folder / 'top8.zarr'}\n  {python} -c \"import lrh_dask; "
        f"print(lrh_dask.LowRankHessian.load('{result}'))\"", soft_wrap=True, markup=False)


@app.command(rich_help_panel="Fit")
def bench(
        n_pairs: Annotated[int, typer.Option("--pairs", min=1000, help="Pairs n.")] = 100_000,
        n_features: Annotated[int, typer.Option("--features", min=32, help="Features D.")] = 1024,
        rounds: Annotated[int, typer.Option("--rounds", min=1,
                                            help="Times that each program runs.")] = 3,
        folder: Annotated[Path | None, typer.Option(
            "--folder", help="Where the store goes for the while.",
            show_default="the system's folder for temporary files")] = None,
        workers: Workers = None, as_json: Json = False) -> None:
    """Compare with what one would write by hand, on this machine: NumPy, dask.array.

    Writes a store of pairs of a known rank-16 Hessian, has each program find its eigenvalues on
    a local cluster, in turn, and removes the store.
    """
    from lrh_dask.cli.bench import bench_job
    from lrh_dask.reports.screen import Screen

    screen = Screen(quiet_output=as_json)
    found = bench_job(n_pairs, n_features, rounds=rounds, folder=folder, workers=workers,
                      say=screen.say)
    if as_json:
        typer.echo(json.dumps({name: {"seconds": measured.seconds, "error": measured.error_or_none}
                               for name, measured in found.items()}))
    screen.programs(found)


@app.command(rich_help_panel="Fit")
def plan(store: Store, rank: RankText = None, basis: BasisText = None,
         method: MethodText = None, x: XName = None, y: YName = None, workers: Workers = None,
         threads_per_worker: Threads = None, memory_limit: Memory = None,
         as_json: Json = False) -> None:
    """Price a run (bytes read, flops, tasks, memory of a worker) without running it."""
    from dataclasses import asdict

    from lrh_dask.cli.jobs import price_of, worker_of
    from lrh_dask.reports.screen import Screen
    from lrh_dask.settings.config import RunSettings, settings_of
    from lrh_dask.stores.opening import open_pairs

    settings = settings_of(
        RunSettings, store, {"rank": number_or_text(rank), "method": method, "x": x, "y": y,
                             "basis": number_or_text(basis)},
        {"workers": workers, "threads_per_worker": threads_per_worker,
         "memory_limit": memory_limit})
    found, split = price_of(open_pairs(settings.store, x=settings.x, y=settings.y), settings)
    _, worker_bytes = worker_of(settings.cluster)
    if as_json:
        typer.echo(json.dumps({**asdict(found), "route": found.route.name,
                               "worker_bytes": worker_bytes}))
        return
    Screen().plan(found, len(split.runs), worker_bytes)


@app.command(rich_help_panel="Results")
def report(
        result: Annotated[Path, typer.Argument(metavar="RESULT.zarr",
                                               help="What `lrh run` wrote.")],
        out: Annotated[Path | None, typer.Option(
            "--out", metavar="FILE.html", show_default="RESULT.html beside the result",
            help="Where the page goes.")] = None) -> None:
    """Write one self-contained HTML page: spectrum, held-out residual, certificates in words."""
    from lrh_dask.reports.report import write_report
    from lrh_dask.stores.results import load_result

    hessian = load_result(result)
    path = out or result.with_suffix(".html")
    if path.suffix not in {".html", ".htm"}:
        raise SettingsError(explain(
            f"write {path}", expected="a name that ends in .html", got=path.suffix or "no ending",
            consequence="A file of another kind might be overwritten, so nothing was written",
            fix="Choose another name with --out"))
    try:
        typer.echo(printable(str(write_report(hessian, path))))
    except OSError as error:
        raise SettingsError(explain(
            f"write {path}", expected="a place that can be written", got=str(error),
            consequence="No report was written", fix="Choose another with --out")) from error


app.command(rich_help_panel="Results")(diff)
app.command(rich_help_panel="Fit")(doctor)
app.command(rich_help_panel="Fit")(certs)


def main() -> None:
    """Run the command line; every error is one message on standard error and an exit code.

    With ``--json`` it is a document on standard output as well.
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal without these signs gets question marks
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(standalone_mode=True)
    except SystemExit as end:  # Typer's, which has told of a wrong call
        wrong: Any = end.__context__
        if hasattr(wrong, "format_message"):
            _document(wrong, wrong.format_message(), wrong.exit_code)
        raise
    except LrhError as error:
        _fail(error, str(error), error.exit_code, told=error.has_result)
    except Exception as error:
        if os.environ.get("LRH_DEBUG"):
            sys.stderr.write(printable(public_text(traceback.format_exc())))
        _fail(error, public_text(f"unexpected {type(error).__name__}: {error}. Set "
                                 "LRH_DEBUG=1 to see where, and please report it."), 4)


def _fail(error: Exception, message: str, code: int, *, told: bool = False) -> None:
    if not told:
        _document(error, message, code)
    sys.stderr.write(printable(f"error: {message}\n"))
    sys.exit(code)


def _document(error: Any, message: str, code: int) -> None:
    if "--json" in sys.argv:
        typer.echo(json.dumps({"error": {
            "kind": type(error).__name__, "message": message, "exit_code": code}}))
