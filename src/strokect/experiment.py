"""Several settings on one data set: train, predict, evaluate each, and compare them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strokect import scoring
from strokect.core.errors import OutputExistsError, SettingsError
from strokect.io.datasets import Case
from strokect.io.outputs import DONE_FILE
from strokect.learn.predict import UncertaintyOptions
from strokect.learn.train import Machine
from strokect.models import load_model
from strokect.prediction import FLIP, PredictOptions, predict_study
from strokect.settings import load_settings
from strokect.study import StudyOptions, run_study
from strokect.training import MODEL_FOLDER, TrainingFolders, find_cases, parts_of, train
from strokect.training_settings import TrainingSettings, load_training_settings, with_folder

#: What stands beside the networks: maps, thresholds, no learning.
RULES = "rules"
ONE = Machine()
Say = Callable[[str], None]
Listener = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ExperimentOptions:
    """rules : also the rule-based result. uncertainty : of the predictions."""

    machine: Machine = ONE
    rules: bool = True
    uncertainty: UncertaintyOptions = FLIP


def run_experiment(
    files: Sequence[Path],
    data: Path | None,
    out: Path,
    options: ExperimentOptions = ExperimentOptions(),
    say: Say = lambda line: None,
    listener: Listener = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Train each settings file, predict the test patients, and compare; run again to go on.

    files : settings files, or folders of them. data : the data set, None for that of the settings.
    ``out`` gets, for each, <name>/{model, predictions, evaluation}, ``rules`` alike, and
    ``comparison``. All settings must share out the patients alike. Returns what ``scoring.compare``
    does. What is finished stays; a broken training goes on after its last epoch.
    """
    chosen = [with_folder(load_training_settings(p), data) for p in settings_files(files)]
    _check(chosen)
    tests = _test_cases(chosen[0])
    runs = []
    for settings in chosen:
        folder = out / settings.name
        say(f"{settings.name}: training")
        _train(settings, folder, out / "cache", options, say)
        model = load_model(folder / MODEL_FOLDER)
        for n, case in enumerate(tests):
            listener(f"{settings.name} test", n, len(tests))
            place = folder / "predictions" / case.name
            if not (place / DONE_FILE).exists():
                predict_study(
                    model, case.scan, place, PredictOptions(uncertainty=options.uncertainty)
                )
        runs.append(_evaluate(folder, settings, tests))
    if options.rules:
        say(f"{RULES}: `strokect perfusion` on {len(tests)} patients")
        folder = out / RULES
        for n, case in enumerate(tests):
            listener(RULES, n, len(tests))
            place = folder / "predictions" / case.name
            if not (place / DONE_FILE).exists():
                run_study(case.scan, place, load_settings(None), StudyOptions(report=False))
        runs.append(_evaluate(folder, chosen[0], tests))
    return scoring.compare(runs, out / "comparison", overwrite=True)


def settings_files(given: Sequence[Path]) -> list[Path]:
    """JSON files, those of folders in order of their names."""
    found = [q for p in given for q in (sorted(p.glob("*.json")) if p.is_dir() else [p])]
    found = [p for p in found if p.name != "Setting_explained.json"]
    if not found:
        raise SettingsError("no settings files", ", ".join(map(str, given)), "Give .json files")
    return found


def _train(
    settings: TrainingSettings, folder: Path, cache: Path, options: ExperimentOptions, say: Say
) -> None:
    if (folder / MODEL_FOLDER / DONE_FILE).exists():
        say(f"{settings.name}: was trained already")
        return

    def on_epoch(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        say(epoch_line(settings.name, epoch, epochs, metrics))

    train(settings, TrainingFolders(folder, cache), options.machine, resume=True, on_epoch=on_epoch)


def epoch_line(name: str, epoch: int, epochs: int, metrics: dict[str, float]) -> str:
    """One line on an epoch that is done."""
    shown = [f"{k.replace('_', ' ')} {v:.3f}" for k, v in sorted(metrics.items())]
    return f"{name}: epoch {epoch}/{epochs}  {'  '.join(shown)}"


def _evaluate(folder: Path, settings: TrainingSettings, tests: Sequence[Case]) -> Path:
    scoring.evaluate(
        folder / "predictions",
        Path(settings.data.folder),
        folder / "evaluation",
        overwrite=True,
        only=[case.name for case in tests],
        classes=settings.data.classes,
    )
    return folder / "evaluation"


def _check(chosen: Sequence[TrainingSettings]) -> None:
    names = [s.name for s in chosen]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise SettingsError(f"two settings are called {twice[0]!r}", fix="Give each its own name")
    if RULES in names:
        raise OutputExistsError(f"the name {RULES!r} is that of the rule-based result")
    for other in chosen[1:]:
        if other.data != chosen[0].data:
            raise SettingsError(
                f"{chosen[0].name} and {other.name} differ in their data settings",
                fix="Compare models on the same patients and classes",
            )


def _test_cases(settings: TrainingSettings) -> list[Case]:
    _, cases = find_cases(settings)
    parts = parts_of(cases, settings)
    found = [case for case in cases if parts[case.name] == "test"]
    if not found:
        raise SettingsError("no patients in the part 'test'", "data", "Give other fractions")
    return found
