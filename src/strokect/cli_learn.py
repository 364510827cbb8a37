"""Commands that train, use, test and compare networks; imports wait until one runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strokect import RESEARCH_USE_ONLY, VIRTUAL_ONLY
from strokect.cli_options import Interval, Json, OutFolder, Overwrite, Times
from strokect.cli_progress import Stopped, progress

if TYPE_CHECKING:
    from strokect.learn.train import Machine

app = typer.Typer()

Data = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Data set; that of the settings else.")
]
Cache = Annotated[
    Path | None, typer.Option("--cache", metavar="DIR", help="Prepared scans; OUT/cache else.")
]
Devices = Annotated[int, typer.Option(min=1, help="GPUs, or processes where there are none.")]
Nodes = Annotated[int, typer.Option(min=1, help="Machines; start the command on each.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeatable."),
]
Vgg16Weights = Annotated[
    Path | None,
    typer.Option("--vgg16-weights", metavar="FILE", help="Where VGG-16 encoders start from."),
]
Uncertainty = Annotated[str, typer.Option(help="flip, dropout or none.")]


@app.command()
def train(
    setting: Annotated[Path, typer.Argument(metavar="SETTING.json", help="See settings/.")],
    data: Data = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder of the run; runs/NAME else.")
    ] = None,
    cache: Cache = None,
    devices: Devices = 1,
    nodes: Nodes = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training that stands there.")
    ] = False,
    changes: Changes = None,
    vgg16_weights: Vgg16Weights = None,
) -> None:
    """Train a network; a run that was broken off goes on with --resume."""
    from strokect.experiment import epoch_line
    from strokect.training import TrainingFolders, is_trained
    from strokect.training import train as run
    from strokect.training_data import with_data
    from strokect.training_settings import load_training_settings

    settings = load_training_settings(setting, _changes(changes, vgg16_weights), typer.echo)
    folder = Path("runs") / settings.name if out is None else out

    def on_epoch(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        typer.echo(epoch_line(settings.name, epoch, epochs, metrics))

    folders = TrainingFolders(folder, cache)
    finished = is_trained(folder)
    try:
        with progress() as listener:
            settings = with_data(settings, data, folder, typer.echo, listener)
            model = run(
                settings, folders, _machine(devices, nodes), resume, on_epoch,
                lambda done, total: listener("training", done, total), typer.echo,
            )  # fmt: skip
    except Stopped as stopped:
        stopped.advice = "Go on with the same command and --resume"
        raise
    if finished:
        typer.echo(f"{settings.name}: was trained already")
    typer.echo(f"model: {model}")
    typer.echo(RESEARCH_USE_ONLY)


@app.command()
def predict(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder of a model, or see `list models`.")
    ],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="4D NIfTI file, DICOM folder, patient folder, or result of `strokect perfusion`.",
        ),
    ],
    out: OutFolder,
    uncertainty: Uncertainty = "flip",
    draws: Annotated[int, typer.Option(min=2, help="Networks drawn by dropout.")] = 8,
    interval: Interval = None,
    times: Times = None,
    nihss: Annotated[
        float | None, typer.Option(help="For networks that ask for it, 0 to 42.")
    ] = None,
    age: Annotated[float | None, typer.Option(help="Years; for networks that ask for it.")] = None,
    sex: Annotated[str | None, typer.Option(help="F or M; for networks that ask for it.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """CT perfusion scan to core and penumbra by a trained network, with a report."""
    from strokect.core.clinical import Clinical
    from strokect.io.outputs import to_json
    from strokect.models import load_model
    from strokect.prediction import PredictOptions, predict_study, unused_scores

    if interval is not None and times is not None:
        raise typer.BadParameter("give --interval or --times, not both")
    clinical = Clinical(nihss, age, sex.upper() if sex else None)  # type: ignore[arg-type]
    options = PredictOptions(
        interval, times, _uncertainty(uncertainty, draws), clinical, overwrite=overwrite
    )
    loaded = load_model(model)
    for unused in unused_scores(loaded, clinical):
        typer.echo(f"note: the network does not ask for {unused}", err=True)
    with progress() as listener:
        summary = predict_study(loaded, source, out, options, listener)
    if as_json:
        typer.echo(to_json(summary))
        return
    ranges = summary.get("volume_range_ml", {})
    for name, volume in summary["volumes_ml"].items():
        spread = f"  ({ranges[name][0]:.1f} to {ranges[name][1]:.1f})" if name in ranges else ""
        typer.echo(f"{name} {volume:.1f} ml{spread}")
    for finding in summary["quality"]:
        typer.echo(f"{finding['level']}: {finding['message']} [{finding['code']}]")
    typer.echo(f"report: {out / 'report.html'}")
    if loaded.card.virtual_only:
        typer.echo(VIRTUAL_ONLY)
    typer.echo(RESEARCH_USE_ONLY)


@app.command()
def evaluate(
    pred: Annotated[
        Path, typer.Argument(metavar="PRED", help="Folder of results, one result, or NIfTI file.")
    ],
    truth: Annotated[
        Path, typer.Argument(metavar="TRUTH", help="Data set of the own layout, or NIfTI file.")
    ],
    out: OutFolder,
    split: Annotated[
        str | None, typer.Option(help="Only patients of this split: train, val or test.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(help="Classes of label files, where values do not tell.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Predictions against the truth: overlap, distances, volumes, lesions, with intervals."""
    from strokect.scoring import evaluate as run

    with progress() as listener:
        run(
            pred, truth, out, overwrite, split,
            lambda done, total: listener("evaluating", done, total), classes=classes,
        )  # fmt: skip
    typer.echo((out / "table.md").read_text(encoding="utf-8"))
    typer.echo(RESEARCH_USE_ONLY)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Evaluations; NAME=PATH names one.")
    ],
    out: OutFolder = Path("comparison"),
    overwrite: Overwrite = False,
) -> None:
    """Several evaluations in one table and one figure, with paired tests."""
    from strokect.scoring import compare as run

    run(runs, out, overwrite)
    _show_comparison(out)


@app.command()
def experiment(
    settings: Annotated[
        list[Path], typer.Argument(metavar="SETTINGS...", help="Setting files, or their folders.")
    ],
    out: OutFolder,
    data: Data = None,
    devices: Devices = 1,
    nodes: Nodes = 1,
    rules: Annotated[bool, typer.Option(help="Also the rule-based result.")] = True,
    uncertainty: Uncertainty = "flip",
    changes: Changes = None,
    vgg16_weights: Vgg16Weights = None,
) -> None:
    """Train, test and compare several settings; run again to go on after an interrupt."""
    from strokect.experiment import SETTINGS_TABLE, ExperimentOptions, run_experiment

    options = ExperimentOptions(
        _machine(devices, nodes), rules, _uncertainty(uncertainty, 8),
        _changes(changes, vgg16_weights),
    )  # fmt: skip
    run_experiment(settings, data, out, options, typer.echo, progress)
    if (out / SETTINGS_TABLE).exists():
        typer.echo((out / SETTINGS_TABLE).read_text(encoding="utf-8"))
    _show_comparison(out / "comparison")


def _changes(given: list[str] | None, vgg16_weights: Path | None) -> tuple[str, ...]:
    """Changes of settings that options ask for."""
    from json import dumps

    weights = (
        [] if vgg16_weights is None else [f"network.encoder_weights={dumps(str(vgg16_weights))}"]
    )
    return (*(given or ()), *weights)


def _show_comparison(out: Path) -> None:
    typer.echo((out / "table.md").read_text(encoding="utf-8"))
    typer.echo(f"page: {out / 'index.html'}")
    typer.echo(RESEARCH_USE_ONLY)


def _machine(devices: int, nodes: int) -> Machine:
    from strokect.learn.train import Machine

    return Machine(devices, nodes)


def _uncertainty(name: str, draws: int) -> Any:
    from strokect.core.errors import SettingsError
    from strokect.learn.predict import UncertaintyOptions

    if name not in ("none", "dropout", "flip"):
        raise SettingsError(f"no uncertainty is called {name!r}", "--uncertainty",
                            "Choose from flip, dropout, none")  # fmt: skip
    return UncertaintyOptions(name, draws)  # type: ignore[arg-type]
