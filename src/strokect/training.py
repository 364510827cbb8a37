"""From settings and a data set to a trained model in a folder."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from strokect import __version__
from strokect.core.classes import CLASS_NAMES
from strokect.core.errors import OutputExistsError, StrokeCTError
from strokect.core.types import Progress, no_progress
from strokect.io.datasets import is_virtual
from strokect.io.outputs import DONE_FILE, atomic_file, check_writable
from strokect.learn.cache import Example
from strokect.learn.checkpoint import module_weights
from strokect.learn.data import SlabDataset, VolumeDataset
from strokect.learn.finetune import Stage, epochs_of, freeze
from strokect.learn.module import SegmentationModule
from strokect.learn.train import Epoch, Fitted, Machine, fit, last_checkpoint
from strokect.model_cards import ModelCard
from strokect.models import settings_text, write_model
from strokect.network_input import CaseLoader
from strokect.training_data import COHORT
from strokect.training_patients import Patients, check_patients, find_patients, split_table
from strokect.training_processes import others, rank, same_threads, told
from strokect.training_settings import (
    TrainingSettings,
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
    check_patients(patients, settings)
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
            path.write_text(split_table(patients), encoding="utf-8")
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
    lengths = epochs_of(stages, settings.training.epochs)
    for number, (stage, epochs) in enumerate(zip(stages, lengths, strict=True), 1):
        out = folders.out
        if settings.finetune:
            out = out / STAGES / f"{number}-{stage.train}"
            say(f"{settings.name}: stage {number} of {len(stages)}, training {stage.train}")
        if number > 1:
            network.load_state_dict(module_weights(found.checkpoint, "network."))
        freeze(network, stage.train)
        chosen = _of_stage(settings, stage, number, epochs)
        module, samples, volumes = _learning(chosen, network, patients, folders.kept)
        found = fit(
            module, samples, volumes, chosen.training, out,
            machine=machine, resume=resume, on_epoch=on_epoch, progress=progress,
        )  # fmt: skip
        if found.val_dice > best.val_dice:
            best = found
    return best.checkpoint


def _of_stage(
    settings: TrainingSettings, stage: Stage, number: int, epochs: int
) -> TrainingSettings:
    """Settings with what the stage says of its own; limits that go beyond it follow."""
    training, optimizer = settings.training, settings.optimizer
    lr = stage.lr or optimizer.lr
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
    if split.exists() and split.read_text(encoding="utf-8") != split_table(patients):
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
