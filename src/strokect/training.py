"""From settings and a data set to a trained model in a folder."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strokect import __version__
from strokect.core.classes import CLASS_NAMES
from strokect.core.errors import OutputExistsError, ScanError, SettingsError, StrokeCTError
from strokect.ctp_input import CaseLoader
from strokect.io import nifti
from strokect.io.datasets import Case, Layout
from strokect.io.outputs import check_writable, write_json
from strokect.learn.data import SlabDataset, VolumeDataset
from strokect.learn.module import SegmentationModule
from strokect.learn.splits import k_folds, parts_of_fold, split_patients
from strokect.learn.train import Epoch, Machine, fit, last_checkpoint
from strokect.models import ModelCard, write_model
from strokect.training_settings import (
    TrainingSettings,
    build_layout,
    build_loss,
    build_network,
    needs_of,
    parse_training_settings,
)

#: What may differ between a training and its resumption.
_FREE = {"data": {"folder"}, "training": {"patience", "workers"}}
MODEL_FOLDER, SETTINGS_FILE, SPLIT_FILE = "model", "settings.json", "split.tsv"


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
    machine: Machine = Machine(),
    resume: bool = False,
    on_epoch: Epoch = lambda epoch, epochs, metrics: None,
) -> Path:
    """Train a network; returns the folder of the finished model, ``out``/model.

    ``out`` also gets settings.json, split.tsv, checkpoints/ and logs/. Scans are prepared when they
    are first needed. Raises SettingsError, ScanError, GeometryError for data that cannot be used,
    OutputExistsError for a run that stands there (without ``resume``) or has other settings.
    """
    layout, cases = find_cases(settings)
    parts = parts_of(cases, settings)
    network = build_network(settings)
    needs = needs_of(network)
    _check_folder(folders.out, settings, resume)
    check_writable(folders.kept)
    if _rank() == 0:
        write_json(folders.out / SETTINGS_FILE, settings.model_dump(mode="json"))
        _write_split(folders.out / SPLIT_FILE, cases, parts)
    train_cases, val_cases = ([c for c in cases if parts[c.name] == p] for p in ("train", "val"))
    _check_cases(train_cases, val_cases)
    classes, seed = settings.data.classes, settings.training.seed

    def loader(chosen: Sequence[Case]) -> CaseLoader:
        return CaseLoader(tuple(chosen), layout, settings.input, classes, folders.kept)

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
    samples = SlabDataset(
        loader(train_cases), len(train_cases), needs, settings.slab, settings.augment, seed
    )
    volumes = VolumeDataset(loader(val_cases), len(val_cases))
    with _plain_errors():
        best = fit(
            module, samples, volumes, settings.training, folders.out,
            machine=machine, resume=resume, on_epoch=on_epoch,
        )  # fmt: skip
    model = folders.out / MODEL_FOLDER
    if _rank() == 0:
        groups = sorted({c.group for c in train_cases if c.group})
        card = ModelCard(
            cases=len(train_cases),
            groups=tuple(groups),
            virtual_only=is_virtual(Path(settings.data.folder)),
            strokect=__version__,
        )
        write_model(model, settings, card, best)
    return model


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
    """Part ("train", "val", "test") of every case by name; a patient's cases go together."""
    data = settings.data
    groups = {case.patient: case.group for case in cases}
    if data.folds is not None:
        by_patient = parts_of_fold(k_folds(groups, data.folds, data.seed), data.fold)
    elif data.split == "given" and all(case.split for case in cases):
        return {case.name: case.split for case in cases}
    else:
        by_patient = split_patients(groups, data.fractions, data.seed)
    return {case.name: by_patient[case.patient] for case in cases}


def read_split(out: Path) -> dict[str, str]:
    """Part of every case of a run, by name. Raises ScanError where there is none."""
    path = out / SPLIT_FILE
    if not path.exists():
        raise ScanError("no training stands in the folder", out, "Train with `strokect train`")
    with path.open(newline="", encoding="utf-8") as file:
        return {row["case"]: row["part"] for row in csv.DictReader(file, delimiter="\t")}


def is_virtual(folder: Path) -> bool:
    """Whether a data set says of itself that ``strokect phantom`` made it."""
    path = folder / "dataset_description.json"
    if not path.exists():
        return False
    makers = nifti.read_json(path).get("GeneratedBy")
    return isinstance(makers, list) and any(
        isinstance(m, dict) and m.get("Name") == "strokect phantom" for m in makers
    )


def _check_folder(out: Path, settings: TrainingSettings, resume: bool) -> None:
    """Refuse a folder with something else, or with a run of other settings."""
    if not out.exists() or not any(out.iterdir()):
        return
    mine = out / SETTINGS_FILE
    if not mine.exists():
        raise OutputExistsError("the folder is not empty", out, "Choose a new one")
    if _rank():  # the first process of this very run wrote the settings
        return
    if not resume and last_checkpoint(out).exists():
        raise OutputExistsError(
            "a training stands there", out, "Add --resume to go on with it, or choose another"
        )
    earlier = parse_training_settings(json.loads(mine.read_text(encoding="utf-8")), mine)
    changed = _differences(earlier, settings)
    if changed and last_checkpoint(out).exists():
        raise OutputExistsError(
            f"the training that stands there has other settings ({', '.join(changed)})",
            out,
            "Choose another folder",
        )


def _differences(one: TrainingSettings, other: TrainingSettings) -> list[str]:
    found = []
    a, b = one.model_dump(mode="json"), other.model_dump(mode="json")
    for room, values in a.items():
        if not isinstance(values, dict):
            found += [room] if values != b[room] else []
            continue
        free = _FREE.get(room, set())
        keys = (values.keys() | b[room].keys()) - free
        found += [f"{room}.{k}" for k in sorted(keys) if values.get(k) != b[room].get(k)]
    return found


def _check_cases(train_cases: Sequence[Case], val_cases: Sequence[Case]) -> None:
    for part, chosen in (("train", train_cases), ("val", val_cases)):
        if not chosen:
            raise SettingsError(
                f"no patients in the part {part!r}", "data", "Give more, or other fractions"
            )
    for case in (*train_cases, *val_cases):
        if case.labels is None:
            raise ScanError("a case without truth", case.name, "Add its masks or leave it out")


def _write_split(path: Path, cases: Sequence[Case], parts: dict[str, str]) -> None:
    lines = ["case\tpatient\tgroup\tpart"]
    lines += [f"{c.name}\t{c.patient}\t{c.group}\t{parts[c.name]}" for c in cases]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rank() -> int:
    """Number of this process among those of the training; Lightning sets it for those it starts."""
    return int(
        os.environ.get("GLOBAL_RANK", os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
    )


class _plain_errors:
    """An error of a worker process comes wrapped in its traceback: its last line is ours."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, StrokeCTError) and "\n" in str(error):
            last = str(error).strip().splitlines()[-1]
            raise type(error)(last.partition(": ")[2]) from None
