"""Several settings on one data set: train, predict, evaluate each, and compare them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from strokect import RESEARCH_USE_ONLY, pipeline, scoring
from strokect.core.errors import ScanError, SettingsError
from strokect.evaluate.factors import SettingRow, factor_effects, layer_weights, pairs_of
from strokect.evaluate.paired import Models
from strokect.io import nifti
from strokect.io.cases import Case, Layout
from strokect.io.outputs import DONE_FILE, result_folder, write_json, write_text, write_tsv
from strokect.learn.finetune import Stage, epochs_of
from strokect.learn.map_inputs import MapInputOptions
from strokect.learn.predict import UncertaintyOptions
from strokect.learn.train import Machine
from strokect.models import Model, load_model
from strokect.network_input import Study, case_study
from strokect.perfusion.prepare import Given
from strokect.pipeline import Stages
from strokect.prediction import FLIP, PredictOptions, predict_scan
from strokect.report import settings_table
from strokect.settings import load_settings
from strokect.training import TrainingFolders, is_trained, train
from strokect.training_data import with_data
from strokect.training_patients import find_patients
from strokect.training_processes import same_threads
from strokect.training_settings import (
    TrainingSettings,
    build_layout,
    load_training_settings,
    with_folder,
)

#: What stands beside the networks: maps, thresholds, no learning.
RULES = "rules"
#: The settings as rows of a table.
SETTINGS_TABLE = "settings.md"
ONE = Machine()
Say = Callable[[str], None]
Listener = Callable[[str, int, int], None]
#: Opened for each stretch of work that reports how far it is.
Progress = Callable[[], AbstractContextManager[Listener]]


def _silent() -> AbstractContextManager[Listener]:
    return nullcontext(lambda stage, done, total: None)


@dataclass(frozen=True)
class ExperimentOptions:
    """rules : also the rule-based result. uncertainty : of the predictions. changes : of all
    settings files, as of ``load_training_settings``."""

    machine: Machine = ONE
    rules: bool = True
    uncertainty: UncertaintyOptions = FLIP
    changes: tuple[str, ...] = ()


def run_experiment(
    files: Sequence[Path | TrainingSettings],
    data: Path | None,
    out: Path,
    options: ExperimentOptions = ExperimentOptions(),
    say: Say = lambda line: None,
    progress: Progress = _silent,
) -> dict[str, Any]:
    """Train each settings file, predict the test patients, and compare; run again to go on.

    files : settings files, folders of them, or settings. data : the data set, None for that of
    the settings, or the virtual patients that they name. ``out`` gets, for each,
    <name>/{model, predictions, evaluation}, ``rules`` alike, and ``comparison``; of settings that
    look at maps also settings.md and settings.tsv, a row for each, and factors.json, what each
    input and each way of fine-tuning adds. All settings must share out the patients alike.
    Returns what ``scoring.compare`` does. What is finished stays; a broken training goes on after
    its last epoch.
    """
    chosen = read_settings(files, options.changes, say)
    _check(chosen)
    with progress() as listener:
        root = with_data(chosen[0], data, out, say, listener).data.folder
    chosen = [with_folder(s, Path(root) if root else None) for s in chosen]
    layout, tests = _tests(chosen[0])
    (out / SETTINGS_TABLE).unlink(missing_ok=True)  # of an earlier run, perhaps of other settings
    began = time.monotonic()
    if options.rules:  # first: data without scans are refused before hours of training
        _try_rules(layout, tests, out / RULES, say, progress)
    runs = []
    for settings in chosen:
        folder = out / settings.name
        _train(settings, folder, out / "cache", options.machine, say, progress)
        model = load_model(folder)
        todo = [c for c in tests if not _predicted(folder, c, model, options.uncertainty)]
        _say_tests(say, settings.name, tests, todo)
        with progress() as listener:
            for n, case in enumerate(todo):
                listener(settings.name, n, len(todo))
                study = partial(case_study, layout, case, settings.input, out / "cache")
                _predict(model, study, case, _place(folder, case), options.uncertainty)
        runs.append(_evaluate(folder, settings, tests))
    if options.rules:
        runs.append(_evaluate(out / RULES, chosen[0], tests))
    say(f"trained, tested and evaluated in {(time.monotonic() - began) / 60:.0f} min")
    content = scoring.compare(runs, out / "comparison", overwrite=True)
    if any(isinstance(s.input, MapInputOptions) for s in chosen):
        _write_settings_table(chosen, content, scoring.read_runs(runs), out)
    return content


def _write_settings_table(
    chosen: Sequence[TrainingSettings], content: dict[str, Any], models: Models, out: Path
) -> None:
    """The settings as rows, and what each factor adds."""
    rows = [_row(settings) for settings in chosen]
    # Only settings that are alike in all that a row does not tell are compared factor by factor.
    alike = [_row(s) for s in chosen if _untold(s) == _untold(chosen[0])]
    effects = factor_effects(models, pairs_of(alike))
    spread = settings_table.dice_deviations(models)
    text = settings_table.settings_markdown(content, rows, spread)
    write_text(out / SETTINGS_TABLE, text + "\n" + settings_table.factors_markdown(effects))
    write_tsv(out / "settings.tsv", *settings_table.settings_tsv(content, rows, spread))
    write_json(out / "factors.json", {"research_use_only": RESEARCH_USE_ONLY, "factors": effects})


def _row(settings: TrainingSettings) -> SettingRow:
    seen = settings.input
    maps, scores = (seen.maps, seen.scores) if isinstance(seen, MapInputOptions) else ((), ())
    weights = layer_weights([stage.train for stage in settings.finetune])
    return SettingRow(settings.name, maps, scores, weights)


def _untold(settings: TrainingSettings) -> dict[str, Any]:
    """What a row of the table does not tell."""
    told: Any = {"name": True, "finetune": True, "input": {"maps", "scores"}}
    epochs = sum(epochs_of(settings.finetune or (Stage(),), settings.training.epochs))
    return {**settings.model_dump(mode="json", exclude=told), "epochs": epochs}


def read_settings(
    given: Sequence[Path | TrainingSettings],
    changes: Sequence[str] = (),
    say: Say = lambda line: None,
) -> list[TrainingSettings]:
    """Settings of files, of the files in folders, and those that are settings already."""
    out: list[TrainingSettings] = []
    for each in given:
        if isinstance(each, TrainingSettings):
            out.append(each)
        else:
            out += [load_training_settings(path, changes, say) for path in settings_files([each])]
    return out


def settings_files(given: Sequence[Path]) -> list[Path]:
    """JSON files, those of folders in order of their names."""
    found = [q for p in given for q in (sorted(p.glob("*.json")) if p.is_dir() else [p])]
    found = [p for p in found if p.name != "Setting_explained.json"]
    if not found:
        raise SettingsError("no settings files", ", ".join(map(str, given)), "Give .json files")
    return found


def _train(
    settings: TrainingSettings, folder: Path, cache: Path, machine: Machine, say: Say, bar: Progress
) -> None:
    say(f"{settings.name}: {'was trained already' if is_trained(folder) else 'training'}")

    def on_epoch(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        say(epoch_line(settings.name, epoch, epochs, metrics))

    with bar() as listener:
        train(
            settings, TrainingFolders(folder, cache), machine, True, on_epoch,
            lambda done, total: listener(settings.name, done, total), say,
        )  # fmt: skip


def epoch_line(name: str, epoch: int, epochs: int, metrics: dict[str, float]) -> str:
    """One line on an epoch that is done."""
    shown = [f"{k.replace('_', ' ')} {v:.3f}" for k, v in sorted(metrics.items())]
    return f"{name}: epoch {epoch}/{epochs}  {'  '.join(shown)}"


def _say_tests(say: Say, name: str, tests: Sequence[Case], todo: Sequence[Case]) -> None:
    known = len(tests) - len(todo)
    scans = "1 scan" if len(tests) == 1 else f"{len(tests)} scans"
    say(f"{name}: testing on {scans}" + (f", {known} predicted before" if known else ""))


def _place(folder: Path, case: Case) -> Path:
    return folder / "predictions" / case.name


def _predicted(folder: Path, case: Case, model: Model, uncertainty: UncertaintyOptions) -> bool:
    """Whether this very model predicted a case in this way before."""
    path = _place(folder, case) / DONE_FILE
    if not path.exists():
        return False
    made_by = nifti.read_json(path).get("model")
    return (
        isinstance(made_by, dict)
        and made_by.get("weights_sha256") == model.sha256
        and made_by.get("uncertainty", {}).get("method") == uncertainty.method
    )


def _predict(
    model: Model,
    study: Callable[[], Study],
    case: Case,
    out: Path,
    uncertainty: UncertaintyOptions,
) -> None:
    options = PredictOptions(uncertainty=uncertainty, clinical=case.clinical, overwrite=True)
    predict_scan(model, lambda progress: study(), out, options)


def _try_rules(
    layout: Layout, tests: Sequence[Case], folder: Path, say: Say, bar: Progress
) -> None:
    todo = [c for c in tests if not (_place(folder, c) / DONE_FILE).exists()]
    _say_tests(say, RULES, tests, todo)
    with bar() as listener:
        for n, case in enumerate(todo):
            listener(RULES, n, len(todo))
            try:
                _apply_rules(layout, case, _place(folder, case))
            except ScanError as error:
                fix = f"{error.fix}, or leave the rules out: --no-rules"
                raise ScanError(error.what, error.where, fix) from error


def _apply_rules(layout: Layout, case: Case, out: Path) -> None:
    """What `strokect perfusion` finds, without a report."""
    stages = Stages()
    with same_threads():
        result = pipeline.analyse(layout.scan(case), load_settings(None), Given(), stages)
    with result_folder(out) as folder:
        pipeline.write_result(result, folder)
        pipeline.finish(result, stages, folder)


def _evaluate(folder: Path, settings: TrainingSettings, tests: Sequence[Case]) -> Path:
    scoring.evaluate(
        folder / "predictions",
        Path(settings.data.folder),
        folder / "evaluation",
        overwrite=True,
        only=[case.name for case in tests],
        classes=settings.data.classes,
        layout=(settings.data.layout, build_layout(settings)),
    )
    return folder / "evaluation"


def _check(chosen: Sequence[TrainingSettings]) -> None:
    names = [s.name for s in chosen]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise SettingsError(f"two settings are called {twice[0]!r}", fix="Give each its own name")
    if RULES in names:
        raise SettingsError(
            f"the name {RULES!r} is that of the rule-based result", fix="Give another name"
        )
    for other in chosen[1:]:
        if other.data != chosen[0].data:
            raise SettingsError(
                f"{chosen[0].name} and {other.name} differ in their data settings",
                fix="Compare models on the same patients and classes",
            )


def _tests(settings: TrainingSettings) -> tuple[Layout, list[Case]]:
    """The cases that no training sees. Raises SettingsError where there are none."""
    patients = find_patients(settings)
    found = patients.of("test")
    if not found:
        raise SettingsError(
            "no patients in the part 'test'",
            settings.data.folder,
            'Give other data.fractions, or data.split "random"',
        )
    return patients.layout, found
