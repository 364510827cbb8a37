"""The command line. Exit codes: 0 done, 1 failure, 2 bad input, 130 Ctrl-C, 143 terminated."""

from __future__ import annotations

import json
import logging
import signal
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strokect import RESEARCH_USE_ONLY, __version__, cli_learn, cli_settings, cli_slices
from strokect.cli_options import Interval, Json, OutFolder, Overwrite, Times
from strokect.cli_progress import Stopped, progress

if TYPE_CHECKING:  # the real imports wait until a command runs, so that --help is quick
    from collections.abc import Iterator

    from strokect.cohort import Listener
    from strokect.cohort_tasks import Outcome
    from strokect.core.types import CTSeries
    from strokect.perfusion.prepare import Given

app = typer.Typer(
    name="strokect",
    help=f"CT analysis for acute ischaemic stroke. {RESEARCH_USE_ONLY}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(cli_learn.app)
app.add_typer(cli_settings.app)
app.command()(cli_slices.slices)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"strokect {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show warnings, and the traceback of an error.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def perfusion(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="4D NIfTI file, DICOM folder, or patient folder."),
    ],
    out: OutFolder,
    estimator: Annotated[str | None, typer.Option(help="See `strokect list estimators`.")] = None,
    denoise: Annotated[str | None, typer.Option(help="See `strokect list denoisers`.")] = None,
    rule: Annotated[str | None, typer.Option(help="See `strokect list rules`.")] = None,
    settings: Annotated[Path | None, typer.Option(help="JSON file of settings.")] = None,
    aif_mask: Annotated[Path | None, typer.Option(help="NIfTI mask of an artery.")] = None,
    aif_voxel: Annotated[
        list[str] | None, typer.Option(metavar="X,Y,Z", help="Artery voxel from 0; repeatable.")
    ] = None,
    vof_mask: Annotated[Path | None, typer.Option(help="NIfTI mask of a vein.")] = None,
    brain_mask: Annotated[Path | None, typer.Option(help="NIfTI mask of the brain.")] = None,
    interval: Interval = None,
    times: Times = None,
    no_motion: Annotated[bool, typer.Option("--no-motion", help="No motion correction.")] = False,
    dicom_out: Annotated[
        bool, typer.Option("--dicom-out", help="Also write DICOM SEG and parametric maps.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """CT perfusion scan to maps, core, penumbra and a report."""
    from strokect.io.outputs import to_json
    from strokect.settings import load_settings
    from strokect.study import StudyOptions, run_study

    if interval is not None and times is not None:
        raise typer.BadParameter("give --interval or --times, not both")
    chosen = load_settings(
        settings, estimator=estimator, denoise=denoise, rule=rule,
        motion_correction=False if no_motion else None,
    )  # fmt: skip

    def given(series: CTSeries) -> Given:
        return _given(series, aif_mask, aif_voxel, vof_mask, brain_mask)

    options = StudyOptions(interval, times, given, dicom_out=dicom_out, overwrite=overwrite)
    with progress() as listener:
        summary, problem = run_study(source, out, chosen, options, listener)
    typer.echo(to_json(summary) if as_json else _in_words(summary, out))
    if problem is not None:
        _fail(f"all but the DICOM results was written. {problem}", 1)


@app.command()
def phantom(
    out: OutFolder,
    n: Annotated[int, typer.Option("-n", min=1, help="How many patients.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 1,
    size: Annotated[str, typer.Option(help="full, or small for tests.")] = "full",
    groups: Annotated[
        str | None,
        typer.Option(metavar="G:P,...", help="E.g. LVO:0.5,non-LVO:0.3,WIS:0.2, or one name."),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(metavar="HU", min=0, help="CTP noise SD per voxel; drawn by default."),
    ] = None,
    dicom: Annotated[
        str | None,
        typer.Option(metavar="VENDOR", help="Also DICOM as of siemens, ge, philips or canon."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; by cores and memory by default.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Virtual stroke patients: NCCT, CTA and CTP with known truth."""
    from strokect.virtual import VirtualOptions, make_patients

    options = VirtualOptions(n, seed, size, groups, noise, dicom, workers, overwrite)  # type: ignore[arg-type]
    with progress() as listener:
        for folder, new in make_patients(out, options, listener):
            typer.echo(f"{folder}" if new else f"{folder} (was there already)")


@app.command()
def cohort(
    source: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder of studies: own layout, or one child each."),
    ],
    out: OutFolder,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler, e.g. tcp://host:8786.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes on this machine; memory may allow fewer.")
    ] = None,
    estimator: Annotated[str | None, typer.Option(help="See `strokect list estimators`.")] = None,
    denoise: Annotated[str | None, typer.Option(help="See `strokect list denoisers`.")] = None,
    rule: Annotated[str | None, typer.Option(help="See `strokect list rules`.")] = None,
    settings: Annotated[Path | None, typer.Option(help="JSON file of settings.")] = None,
    reports: Annotated[bool, typer.Option(help="A report page for each study.")] = True,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try unusable studies again too.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a cohort of other settings.")
    ] = False,
) -> None:
    """Many CT perfusion scans to one table; run again to go on after an interrupt."""
    from strokect.cohort import CohortOptions, run_cohort
    from strokect.settings import load_settings

    if scheduler is not None and workers is not None:
        raise typer.BadParameter("--workers is for this machine; a scheduler has its own")
    chosen = load_settings(settings, estimator=estimator, denoise=denoise, rule=rule)
    options = CohortOptions(scheduler, workers, reports, retry_failed, overwrite)
    settled = [0, 0]
    try:
        with _cohort_progress(settled) as listener:
            report = run_cohort(source, out, chosen, options, listener)
    except Stopped:
        typer.echo(f"{settled[0]} of {settled[1]} studies are settled and stay", err=True)
        raise
    typer.echo(f"{report.done} done, {report.failed} failed ({report.ran} now)")
    typer.echo(f"table: {out / 'results.tsv'}   page: {out / 'index.html'}")
    typer.echo(RESEARCH_USE_ONLY)
    if report.failed:
        total = report.done + report.failed
        _fail(f"{report.failed} of {total} studies failed. See {out / 'failures.tsv'}", 1)


@contextmanager
def _cohort_progress(settled: list[int]) -> Iterator[Listener]:
    """One line per study on standard output, and a bar on a terminal.

    settled : is kept at [studies settled, studies in all].
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )  # fmt: skip

    columns = (
        TextColumn("studies"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    show = sys.stderr.isatty()
    console, shown = Console(stderr=True), sys.stdout.isatty()
    with Progress(*columns, console=console, disable=not show, redirect_stdout=shown) as bar:
        task = bar.add_task("studies", total=None)

        def listen(outcome: Outcome | None, done: int, total: int) -> None:
            settled[:] = [done, total]
            bar.update(task, completed=done, total=total)
            if outcome is None:
                if done:
                    typer.echo(f"{done} of {total} studies were settled already")
            elif outcome.failure is not None:
                failure = outcome.failure
                typer.echo(f"{outcome.name}  failed: {failure.message} [{failure.error}]")
            elif outcome.brief is not None:
                core, hypoperfusion = outcome.brief
                typer.echo(
                    f"{outcome.name}  core {core:.1f} ml  hypoperfusion {hypoperfusion:.1f} ml"
                )

        yield listen


@app.command()
def gallery(
    source: Annotated[
        Path, typer.Argument(metavar="DIR", help="Virtual patients, as `strokect phantom` writes.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page, e.g. gallery.html.")],
    results: Annotated[
        Path | None, typer.Option(help="Results of `strokect cohort DIR` to show beside the truth.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=50, help="How many patients at most.")] = 10,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier page.")
    ] = False,
) -> None:
    """One page that shows the scans of virtual patients, their truth and what was found."""
    from strokect.report.gallery import write_gallery

    shown = write_gallery(source, out, results, n, overwrite)
    typer.echo(f"{shown} patients: {out}")
    typer.echo(RESEARCH_USE_ONLY)


@app.command(name="list")
def list_(
    table: Annotated[
        str, typer.Argument(help="estimators, denoisers, rules, networks, losses, layouts, models.")
    ],
    as_json: Json = False,
) -> None:
    """What can be chosen."""
    from strokect.catalog import TABLES
    from strokect.core.errors import SettingsError
    from strokect.model_cards import read_model, shipped_models

    known = [*TABLES, "models"]
    if table not in known:
        raise SettingsError(
            f"nothing to list under {table!r}", fix=f"Choose from {', '.join(known)}"
        )
    if table == "models":
        rows = [(name, read_model(p).summary, "") for name, p in shipped_models().items()]
    else:
        rows = [(name, entry.summary, entry.source) for name, entry in TABLES[table].items()]
    if as_json:
        keys = ("name", "summary", "source")
        typer.echo(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2))
        return
    width = max((len(name) for name, *_ in rows), default=0)
    for name, summary, source in rows:
        typer.echo(f"{name:<{width}}  {summary}{f' ({source})' if source else ''}")


#: What Typer raises for a wrong command line, wherever it keeps its copy of click.
_UsageError: Any = typer.BadParameter.__mro__[2]


def main() -> None:
    """Run the command line; every error is one line on standard error."""
    from strokect.core.errors import StrokeCTError

    debug = "--debug" in sys.argv[1:]
    if not debug:  # what libraries have to say is not for users
        warnings.simplefilter("ignore")
        logging.disable()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        raise SystemExit(app(standalone_mode=False) or 0)
    except StrokeCTError as error:
        _fail(str(error), error.exit_code)
    except _UsageError as error:
        if error.format_message():  # empty where the help was shown instead
            command = error.ctx.command_path if getattr(error, "ctx", None) else "strokect"
            _fail(f"{error.format_message().rstrip('.')}. See {command} --help", error.exit_code)
        raise SystemExit(error.exit_code) from None
    except Stopped as stopped:
        _fail(f"interrupted; nothing was left half-written. {stopped.advice}", 128 + stopped.number)
    except MemoryError:
        _fail("out of memory. Close other programs or use a smaller scan", 1)
    except Exception as error:
        if debug:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        _fail(
            f"unexpected error ({reason}). Please report it with what "
            "`strokect --debug ...` prints for the same command",
            1,
        )


def _stop(number: int, frame: object) -> None:
    # Objects of libraries that were cut off in the making complain when they are cleared away.
    sys.unraisablehook = lambda complaint: None
    raise Stopped(number)


def _fail(message: str, code: int) -> None:
    typer.echo(f"strokect: {' '.join(message.split())}", err=True)
    raise SystemExit(code) from None


def _given(
    series: CTSeries,
    aif: Path | None,
    voxels: list[str] | None,
    vof: Path | None,
    brain: Path | None,
) -> Given:
    from strokect.core.errors import SettingsError
    from strokect.io.nifti import read_mask
    from strokect.perfusion.prepare import Given

    index = []
    for text in voxels or []:
        try:
            x, y, z = (int(n) for n in text.split(","))
        except ValueError as error:
            raise SettingsError(f"{text!r} is no voxel", "--aif-voxel", "Give x,y,z") from error
        index.append((z, y, x))
    if aif is not None and index:
        raise typer.BadParameter("give --aif-mask or --aif-voxel, not both")
    aif_m, vof_m, brain_m = (
        None if path is None else read_mask(path, series.grid) for path in (aif, vof, brain)
    )
    return Given(aif_m, vof_m, brain_m, tuple(index))


def _in_words(summary: dict[str, Any], out: Path) -> str:
    volumes, mismatch = summary["volumes_ml"], summary["mismatch"]
    ratio = "n/a" if mismatch["ratio"] is None else f"{mismatch['ratio']:.1f}"
    lines = [
        f"core {volumes['core']:.1f} ml   hypoperfusion {volumes['hypoperfusion']:.1f} ml   "
        f"penumbra {volumes['penumbra']:.1f} ml   mismatch ratio {ratio}   side {summary['side']}",
        *(f"{q['level']}: {q['message']} [{q['code']}]" for q in summary["quality"]),
        f"report: {out / 'report.html'}",
        RESEARCH_USE_ONLY,
    ]
    return "\n".join(lines)
