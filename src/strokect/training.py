"""From settings and a data set to a trained model in a folder."""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from strokect import __version__
from strokect.core.classes import CLASS_NAMES
from strokect.core.errors import OutputExistsError, ScanError, SettingsError, StrokeCTError
from strokect.core.types import Progress, no_progress
from strokect.io.cases import no_truth
from strokect.io.datasets import Case, Layout, is_virtual
from strokect.io.outputs import DONE_FILE, atomic_file, check_writable
from strokect.learn.cache import Example
from strokect.learn.checkpoint import module_weights
from strokect.learn.data import SlabDataset, VolumeDataset
from strokect.learn.finetune import Stage, freeze
from strokect.learn.module import SegmentationModule
from strokect.learn.splits import k_folds, parts_of_fold, split_patients
from strokect.learn.train import Epoch, Fitted, Machine, fit, last_checkpoint
from strokect.model_cards import ModelCard
from strokect.models import settings_text, write_model
from strokect.network_input import CaseLoader
from strokect.training_data import COHORT
from strokect.training_processes import others, rank, same_threads, told
from strokect.training_settings import (
    TrainingSettings,
    build_layout,
    build_loss,
    build_network,
    needs_of,
    parse_training_settings,
)

#: What may differ between a training and its resumption.
_FREE = {"data.folder", "training.patience", "training.workers"}
MODEL_FOLDER, SETTINGS_FILE, SPLIT_FILE = "model", "settings.json", "split.tsv"
STAGES = "stages"
ONE = Machine()
Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainingFolders:
    """out : of the run. cache : of prepared scans; ``out``/cache where None."""

    out: Path
    cache: Path | None = None

    @property
    def kept(self) -> Path:
        return self.out / "cache" if self.cache is None else self.cache


@dataclass(frozen=True)
class Patients:
    """The cases of a data set, and the part ("train", "val", "test") of each by name."""

    layout: Layout
    cases: Sequence[Case]
    parts: Mapping[str, str]

    def of(self, part: str) -> list[Case]:
        return [case for case in self.cases if self.parts.get(case.name) == part]


def train(
    settings: TrainingSettings,
    folders: TrainingFolders,
    machine: Machine = ONE,
    resume: bool = False,
    on_epoch: Epoch = lambda epoch, epochs, metrics: None,
    progress: Progress = no_progress,
    say: Say = lambda line: None,
) -> Path:
    """Train a network; returns the folder of the finished model, ``out``/model.

    ``out`` also gets settings.json, split.tsv, checkpoints/ and logs/, those of stages in
    stages/<number>-<part>/; the model has the weights of the best epoch of all. Scans are prepared
    when they are first needed. With ``resume`` a finished training is left as it is. say : is told
    where the weights of the encoders come from, and which stage begins.
    Raises SettingsError, ScanError, GeometryError for data that cannot be used, OutputExistsError
    for a run that stands there (without ``resume``) or is of other settings or patients.
    """
    patients = find_patients(settings)
    _check_patients(patients, settings)
    torch.manual_seed(settings.training.seed)  # of the first weights
    network = build_network(settings)
    model = folders.out / MODEL_FOLDER
    if rank(machine) == 0:
        _check_folder(folders.out, settings, patients, resume)
        if is_trained(folders.out):
            return model
    start = _start_of(network, settings)  # before anything is written: the file may be bad
    if rank(machine) == 0:
        check_writable(folders.kept)
        with atomic_file(folders.out / SETTINGS_FILE) as path:
            path.write_text(settings_text(settings), encoding="utf-8")
        with atomic_file(folders.out / SPLIT_FILE) as path:
            path.write_text(_split_table(patients), encoding="utf-8")
    if start:
        say(start)
    request = {
        "settings": settings.model_dump(mode="json"),
        "folders": [str(folders.out.absolute()), str(folders.kept.absolute())],
        "machine": asdict(machine),
        "resume": resume,
    }
    try:
        with others(machine, request):
            best = _fit_stages(
                settings, network, patients, folders, machine, resume, on_epoch, progress, say
            )
    except torch.OutOfMemoryError as error:
        raise StrokeCTError(
            "out of GPU memory", fix="Give a smaller slab.tile, slab.slices or training.batch_size"
        ) from error
    if rank(machine) == 0:
        trained_on = patients.of("train")
        card = ModelCard(
            cases=len(trained_on),
            groups=tuple(sorted({c.group for c in trained_on if c.group})),
            virtual_only=is_virtual(Path(settings.data.folder)),
            strokect=__version__,
        )
        write_model(model, settings, card, best)
    return model


def _start_of(network: Any, settings: TrainingSettings) -> str:
    """Load the weights that encoders start from; which they are, "" without encoders."""
    path = settings.network.encoder_weights
    if path:
        network.load_encoder_weights(Path(path))
        return f"{settings.name}: encoders start from the weights in {Path(path).name}"
    if network.encoder_layers():
        return f"{settings.name}: encoders start from random weights (no network.encoder_weights)"
    return ""


def _fit_stages(
    settings: TrainingSettings,
    network: Any,
    patients: Patients,
    folders: TrainingFolders,
    machine: Machine,
    resume: bool,
    on_epoch: Epoch,
    progress: Progress,
    say: Say,
) -> Path:
    """Train the stages in turn, each from the best weights of the last one, and return the best
    checkpoint of all. A stage that is finished is not trained again."""
    found = best = Fitted(Path(), -1.0)
    stages = settings.finetune or (Stage(),)
    for number, stage in enumerate(stages, 1):
        out = folders.out
        if settings.finetune:
            out = out / STAGES / f"{number}-{stage.train}"
            say(f"{settings.name}: stage {number} of {len(stages)}, training {stage.train}")
        if number > 1:
            network.load_state_dict(module_weights(found.checkpoint, "network."))
        freeze(network, stage.train)
        chosen = _of_stage(settings, stage, number)
        module, samples, volumes = _learning(chosen, network, patients, folders.kept)
        found = fit(
            module, samples, volumes, chosen.training, out,
            machine=machine, resume=resume, on_epoch=on_epoch, progress=progress,
        )  # fmt: skip
        if found.val_dice > best.val_dice:
            best = found
    return best.checkpoint


def _of_stage(settings: TrainingSettings, stage: Stage, number: int) -> TrainingSettings:
    """Settings with what the stage says of its own; limits that go beyond it follow."""
    training, optimizer = settings.training, settings.optimizer
    epochs, lr = stage.epochs or training.epochs, stage.lr or optimizer.lr
    training = replace(
        training,
        seed=training.seed + number - 1,  # other samples than those of the stage before
        epochs=epochs,
        patience=stage.patience or training.patience,
        validate_every=min(training.validate_every, epochs),
    )
    optimizer = replace(optimizer, lr=lr, lr_min=min(optimizer.lr_min, lr))
    return settings.model_copy(update={"training": training, "optimizer": optimizer})


def is_trained(out: Path) -> bool:
    """Whether a finished training stands in a folder."""
    return (out / MODEL_FOLDER / DONE_FILE).exists()


def join() -> None:
    """Take part in a training as one of its further processes; see ``training_processes``."""
    warnings.simplefilter("ignore")
    logging.disable()
    request = json.load(sys.stdin)
    out, cache = map(Path, request["folders"])
    try:
        train(
            parse_training_settings(request["settings"], out / SETTINGS_FILE),
            TrainingFolders(out, cache),
            Machine(**request["machine"]),
            request["resume"],
        )
    except Exception as error:
        raise SystemExit(told(error)) from error


def _learning(
    settings: TrainingSettings, network: Any, patients: Patients, cache: Path
) -> tuple[SegmentationModule, SlabDataset, VolumeDataset]:
    """What is trained, on which samples, and validated on which scans."""
    classes, seed = settings.data.classes, settings.training.seed
    needs = needs_of(network)

    def loader(part: str) -> tuple[_Loader, int]:
        cases = tuple(patients.of(part))
        load = CaseLoader(cases, patients.layout, settings.input, classes, cache)
        return _Loader(load), len(cases)

    module = SegmentationModule(
        network,
        build_loss(settings),
        {n: k for k, n in enumerate(CLASS_NAMES[classes]) if n in ("penumbra", "core")},
        needs,
        settings.optimizer,
        settings.tiling,
        settings.training.epochs,
        seed,
    )
    samples = SlabDataset(*loader("train"), needs, settings.slab, settings.augment, seed)
    return module, samples, VolumeDataset(*loader("val"))


@dataclass(frozen=True)
class _Loader:
    """Prepared scans; whether one had to be prepared changes nothing in the training."""

    load: CaseLoader

    def __call__(self, number: int) -> Example:
        with same_threads():
            return self.load(number)


def find_patients(settings: TrainingSettings) -> Patients:
    """The cases of the data set, by names alone, and how they are shared out."""
    layout, cases = find_cases(settings)
    return Patients(layout, cases, parts_of(cases, settings))


def find_cases(settings: TrainingSettings) -> tuple[Layout, list[Case]]:
    """The cases of the data set, by names alone."""
    if not settings.data.folder:
        raise SettingsError("no data set", "data.folder", "Give --data DIR")
    layout: Layout = build_layout(settings)
    if settings.data.classes not in layout.classes:
        raise SettingsError(
            f"{settings.data.classes} classes of a data set in layout {settings.data.layout!r}",
            "data.classes",
            f"Its truth gives {' or '.join(map(str, layout.classes))}",
        )
    return layout, layout.cases(Path(settings.data.folder))


def parts_of(cases: Sequence[Case], settings: TrainingSettings) -> dict[str, str]:
    """Part ("train", "val", "test") of every case by name; a patient's cases go together.

    Raises SettingsError where the data set's own split leaves some patients out.
    """
    data = settings.data
    groups = {case.patient: case.group for case in cases}
    if data.folds is not None:
        by_patient = parts_of_fold(k_folds(groups, data.folds, data.seed), data.fold)
    elif data.split == "given" and any(case.split for case in cases):
        without = [case.patient for case in cases if not case.split]
        if without:
            raise SettingsError(
                f"the data set gives a split, but none for {without[0]}",
                data.folder,
                'Complete participants.tsv, or set data.split to "random"',
            )
        return {case.name: case.split for case in cases}
    elif data.split == "listed":
        return _listed_parts(cases, settings)
    else:
        by_patient = split_patients(groups, data.fractions, data.seed)
    return {case.name: by_patient[case.patient] for case in cases}


def _listed_parts(cases: Sequence[Case], settings: TrainingSettings) -> dict[str, str]:
    """Parts of the patients that the settings list; cases that are in no list are left out."""
    data = settings.data
    groups = {case.patient: case.group for case in cases}
    tests = _named(data.test_patients, groups, settings)
    learn = _named(data.train_patients, groups, settings) or set(groups)
    rest = {p: g for p, g in groups.items() if p in learn - tests}
    shares = data.fractions[:2]
    if not sum(shares) > 0:
        raise SettingsError("no share to train with", "data.fractions", "Give train and val more")
    if data.validation_patients is not None:
        if data.validation_patients >= len(rest):
            raise SettingsError(
                f"{data.validation_patients} of {len(rest)} patients to validate",
                "data.validation_patients",
                "Give fewer",
            )
        shares = (len(rest) - data.validation_patients, data.validation_patients)
    fractions = (shares[0] / sum(shares), shares[1] / sum(shares), 0.0)
    parts = {**dict.fromkeys(tests, "test"), **split_patients(rest, fractions, data.seed)}
    return {case.name: parts[case.patient] for case in cases if case.patient in parts}


def _named(ids: Sequence[str], patients: Mapping[str, str], settings: TrainingSettings) -> set[str]:
    """The patients that ids name, in full or by their end. Raises SettingsError for another id."""
    found = set()
    for name in ids:
        matches = {p for p in patients if p == name} or {p for p in patients if p.endswith(name)}
        if len(matches) != 1:
            what = "no patient is" if not matches else f"{len(matches)} patients are"
            raise SettingsError(
                f"{what} called {name!r}", settings.data.folder, "Correct the lists in data"
            )
        found |= matches
    return found


def _check_patients(patients: Patients, settings: TrainingSettings) -> None:
    """Refuse parts without patients, and cases that lack a file of their truth."""
    for part in ("train", "val"):
        chosen = patients.of(part)
        if not chosen:
            raise SettingsError(
                f"no patients in the part {part!r}",
                settings.data.folder,
                'Give more, other data.fractions, or data.split "random"',
            )
        for case in chosen:
            files = patients.layout.truth_files(case)
            if not files:
                raise no_truth(case)
            for path in files:
                if not path.exists():
                    raise ScanError(
                        "a file of the truth is missing", path, "Add it or leave the case out"
                    )


def _check_folder(out: Path, settings: TrainingSettings, patients: Patients, resume: bool) -> None:
    """Refuse a folder with something else, or with a run of other settings or patients."""
    if out.exists() and not out.is_dir():
        raise OutputExistsError(
            "a file stands where the output folder should be", out, "Choose another name"
        )
    if not out.exists() or not {p.name for p in out.iterdir()} - {COHORT}:
        return
    mine = out / SETTINGS_FILE
    if not mine.exists():
        raise OutputExistsError("the folder is not empty", out, "Choose a new one")
    finished = is_trained(out)
    began = last_checkpoint(out).exists() or any((out / STAGES).glob("*/checkpoints/last.*"))
    if not finished and not began:
        return  # broken off in its first epoch: nothing to lose
    if not resume:
        what = "a finished training stands there" if finished else "a training stands there"
        fix = f"Use {out / MODEL_FOLDER}" if finished else "Add --resume to go on with it"
        raise OutputExistsError(what, out, f"{fix}, or choose another folder")
    earlier = parse_training_settings(json.loads(mine.read_text(encoding="utf-8")), mine)
    changed = _differences(earlier, settings)
    if changed:
        raise OutputExistsError(
            f"the training that stands there has other settings ({', '.join(changed)})",
            out,
            "Choose another folder",
        )
    split = out / SPLIT_FILE
    if split.exists() and split.read_text(encoding="utf-8") != _split_table(patients):
        raise OutputExistsError(
            f"the training that stands there has other patients ({SPLIT_FILE})",
            out,
            "Give the same data set, or choose another folder",
        )


def _differences(one: TrainingSettings, other: TrainingSettings) -> list[str]:
    """Keys whose values differ, of those that may not."""
    a, b = (dict(_flat("", s.model_dump(mode="json"))) for s in (one, other))
    keys = [*a, *(k for k in b if k not in a)]
    return [k for k in keys if k not in _FREE and a.get(k, ...) != b.get(k, ...)]


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}" if key else name, inner)
    else:
        yield key, value


def _split_table(patients: Patients) -> str:
    out = io.StringIO()
    table = csv.writer(out, delimiter="\t", lineterminator="\n")
    table.writerow(("case", "patient", "group", "part"))
    table.writerows(
        (c.name, c.patient, c.group, patients.parts.get(c.name, "")) for c in patients.cases
    )
    return out.getvalue()
