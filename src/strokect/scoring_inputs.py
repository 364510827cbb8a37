"""What is scored: predictions found on disk, each beside its truth, and how both are read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from strokect import catalog
from strokect.core.classes import CLASS_NAMES
from strokect.core.classes import LABELS as HOUSE_LABELS
from strokect.core.errors import GeometryError, ScanError, SettingsError
from strokect.core.types import BoolArray, FloatArray, Grid, Volume
from strokect.evaluate.tables import MISSING, Case
from strokect.io import nifti
from strokect.io.cases import Case as DataCase
from strokect.io.cases import Layout, guess_layout, no_truth
from strokect.io.layouts import OwnLayout

#: Where study folders lie in what ``strokect predict``, ``cohort`` and ``experiment`` write.
_STUDY_FOLDERS = (".", "studies", "predictions")
_LESIONS = ("penumbra", "core")
#: Values of a label image by its number of classes.
LABELS = {
    classes: {name: value for value, name in enumerate(names) if name in _LESIONS}
    for classes, names in CLASS_NAMES.items()
}
_SAME_GRID_MM = 0.1
_MOST_NAMES = 5

#: Class -> (found, true), and the grid of both.
Masks = tuple[dict[str, tuple[BoolArray, BoolArray]], Grid]


@dataclass(frozen=True)
class Task:
    """One study to score, and how its masks are read."""

    case: Case
    load: Callable[[], Masks]


@dataclass(frozen=True)
class Plan:
    """What is scored; not_evaluated : class -> why it is not."""

    tasks: list[Task]
    not_evaluated: dict[str, str]


@dataclass(frozen=True)
class Choice:
    """Which studies of a data set are scored, and which classes.

    split : of participants.tsv; None for all. only : names of studies; None for all. classes : 2,
    3 or 4; with 2 the core alone is scored. None for all that there are.
    layout : its name in ``catalog`` and the layout with its options; None to find it by names.
    Raises SettingsError for another number of classes.
    """

    split: str | None = None
    only: Collection[str] | None = None
    classes: int | None = None
    layout: tuple[str, Layout] | None = None

    def __post_init__(self) -> None:
        if self.classes is not None and self.classes not in LABELS:
            raise SettingsError(f"label images of {self.classes} classes", fix="Choose 2, 3 or 4")


def plan(pred: Path, truth: Path, choice: Choice = Choice()) -> Plan:
    """The studies to score, checked for completeness; no image is read yet.

    Arguments and errors as of ``scoring.evaluate``.
    """
    for path in (pred, truth):
        if not path.exists():
            raise ScanError("no such file or folder", path, "Give predictions and their truth")
    if truth.is_dir():
        if not pred.is_dir():
            raise ScanError(
                "one file cannot be scored against a whole data set", pred,
                "Give the NIfTI file of its own truth, or a folder of predictions",
            )  # fmt: skip
        return _plan_data_set(pred, truth, choice)
    if choice.split is not None or choice.only is not None:
        raise SettingsError("single files have no split", fix="Leave --split out")
    if pred.is_dir() and not _is_prediction(pred):
        raise ScanError(
            "no masks/ in the folder", pred, "Give the result folder of one study, or a NIfTI file"
        )
    load = partial(_load_folder if pred.is_dir() else _load_files, pred, truth, choice.classes)
    return Plan([Task(Case("case-1", "case-1"), load)], {})


# Data sets


def _plan_data_set(pred: Path, truth: Path, choice: Choice) -> Plan:
    one = _is_prediction(pred)
    found = {pred.absolute().name: pred} if one else find_predictions(pred)
    name, layout, known = _truth_of(truth, choice.layout)
    chosen = _chosen(known, choice, truth)
    if stray := sorted(set(found) - set(known)):
        raise ScanError(
            f"predictions without a truth: {_listed(stray)}", truth,
            "Name study folders as in the data set (sub-0001_ses-01), and give the data set "
            "that they were made from",
        )  # fmt: skip
    missing = [] if one else [case.name for case in chosen if case.name not in found]
    if missing:
        raise ScanError(
            f"no prediction for {_listed(missing)}", pred,
            "Predict these studies too, or choose what was predicted with --split",
        )  # fmt: skip
    pairs = [(case, found[case.name]) for case in chosen if case.name in found]
    if not pairs:
        raise ScanError("the study is not among those chosen", pred, "Leave --split out")
    regions, skipped = _regions(pairs, layout if name != "own" else None, choice.classes)
    return Plan(
        [
            Task(
                Case(c.name, c.patient, c.group or MISSING, c.split or MISSING),
                partial(_load_own, folder, c, regions) if name == "own"
                else partial(_load_other, folder, c, layout, regions),
            )
            for c, folder in pairs
        ],
        skipped,
    )  # fmt: skip


def _truth_of(
    root: Path, given: tuple[str, Layout] | None
) -> tuple[str, Layout, dict[str, DataCase]]:
    """Name of the layout of a data set, the layout, and its cases with a truth by name."""
    name, layout = given or _guessed(root)
    known = {c.name: c for c in layout.cases(root) if c.labels is not None}
    if name == "own":
        known = {n: c for n, c in known.items() if any(_own_mask(c, r).exists() for r in _LESIONS)}
    if not known:
        raise ScanError("no truth in the data set", root, "Add its masks (derivatives/truth)")
    return name, layout, known


def _guessed(root: Path) -> tuple[str, Layout]:
    name = guess_layout(root)
    if name is None:
        raise ScanError(
            "no data set in the folder", root,
            "Give a folder as `strokect phantom` writes it, with scans and derivatives/truth",
        )  # fmt: skip
    return name, catalog.load("layouts", name)()


def _chosen(known: dict[str, DataCase], choice: Choice, root: Path) -> list[DataCase]:
    """The cases to score, sorted by name."""
    cases = [known[name] for name in sorted(known)]
    if choice.only is not None:
        lacking = sorted(set(choice.only) - set(known))
        if lacking:
            raise no_truth(DataCase(_listed(lacking), "", root))
        cases = [case for case in cases if case.name in choice.only]
    if choice.split is None:
        return cases
    splits = sorted({case.split for case in cases} - {""})
    if choice.split not in splits:
        raise SettingsError(
            f"no patient of the split {choice.split!r}", root,
            f"Choose one of: {', '.join(splits)}" if splits else "Leave --split out",
        )  # fmt: skip
    if unknown := [case.name for case in cases if not case.split]:
        raise ScanError(
            f"no split is given for {_listed(unknown)}", root, "Complete participants.tsv"
        )
    return [case for case in cases if case.split == choice.split]


def find_predictions(root: Path) -> dict[str, Path]:
    """Study folders with masks in a folder of predictions, by name.

    Raises ScanError where there are none.
    """
    for place in _STUDY_FOLDERS:
        found = {p.name: p for p in sorted((root / place).glob("*")) if _is_prediction(p)}
        if found:
            return found
    raise ScanError(
        "no predictions in the folder", root,
        "Give a folder whose subfolders hold masks/core.nii.gz, as `strokect predict` and "
        "`strokect cohort` write them",
    )  # fmt: skip


def _is_prediction(folder: Path) -> bool:
    return (folder / "masks").is_dir() and not folder.name.startswith(".")


def _regions(
    pairs: Sequence[tuple[DataCase, Path]], layout: Layout | None, classes: int | None
) -> tuple[list[str], dict[str, str]]:
    """Classes to score, and why others are not: what truth and predictions have anywhere.

    layout : whose truth says what it has; None for the own one, where files do.
    """
    known = CLASS_NAMES[max(layout.classes)] if layout is not None else None
    regions, skipped = [], {}
    for name in _LESIONS:
        if classes is not None and name not in LABELS[classes]:
            skipped[name] = f"not one of the {classes} classes"
        elif not (name in known if known else any(_own_mask(c, name).exists() for c, _ in pairs)):
            skipped[name] = "no truth has it"
        elif not any(_mask_path(folder, name).exists() for _, folder in pairs):
            skipped[name] = "no prediction has it"
        else:
            regions.append(name)
    if not regions:
        raise ScanError(
            "predictions and truth have no class in common", pairs[0][1].parent,
            "Both need core or penumbra masks",
        )  # fmt: skip
    if skipped:
        skipped["hypoperfusion"] = f"needs {next(iter(skipped))}"
    return regions, skipped


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


# Reading masks


def _mask_path(folder: Path, name: str) -> Path:
    return folder / "masks" / f"{name}.nii.gz"


def _own_mask(case: DataCase, name: str) -> Path:
    """True mask of a case of the own layout."""
    if case.labels is None:
        raise no_truth(case)
    label, session = (part.partition("-")[2] for part in case.labels.parts[-2:])
    return OwnLayout(case.labels.parents[3], label, session).truth_mask(name)


def _load_own(folder: Path, case: DataCase, regions: Sequence[str]) -> Masks:
    true = {name: _read(_own_mask(case, name), "the truth lacks a mask") for name in regions}
    grid = next(iter(true.values())).grid
    out = {}
    for name in regions:
        _check_grid(true[name], grid, _own_mask(case, name))
        out[name] = (_found(folder, name, grid), _inside(true[name].data))
    return _with_both(out), grid


def _load_other(folder: Path, case: DataCase, layout: Layout, regions: Sequence[str]) -> Masks:
    """Masks of a study folder, and the labels of its case in any layout."""
    grid = _read(_mask_path(folder, regions[0]), "the prediction lacks a mask").grid
    labels = layout.labels(case, grid)
    out = {n: (_found(folder, n, grid), labels == HOUSE_LABELS[n]) for n in regions}
    return _with_both(out), grid


def _load_folder(folder: Path, truth: Path, classes: int | None) -> Masks:
    """Masks of a study folder, and the labels of its truth."""
    image = _read(truth, "no such file")
    table = _label_table([(image, truth)], classes)
    if "mask" in table:
        raise SettingsError(
            "the labels do not tell which class is which", truth,
            "Say how many --classes they have, or give one mask file of the prediction",
        )  # fmt: skip
    pairs = {
        name: (_found(folder, name, image.grid), image.data == value)
        for name, value in table.items()
    }
    return _with_both(pairs), image.grid


def _load_files(pred: Path, truth: Path, classes: int | None) -> Masks:
    """Two label images, or two masks."""
    found, true = (_read(path, "no such file") for path in (pred, truth))
    _check_grid(found, true.grid, pred)
    table = _label_table([(found, pred), (true, truth)], classes)
    if "mask" in table:
        return {"mask": (_inside(found.data), _inside(true.data))}, true.grid
    pairs = {name: (found.data == v, true.data == v) for name, v in table.items()}
    return _with_both(pairs), true.grid


def _label_table(images: Sequence[tuple[Volume, Path]], classes: int | None) -> dict[str, int]:
    """Class -> label value; {"mask": 1} where each image holds one value beside 0, as a mask does.

    Values 2 and 3 are labels, even alone.
    """
    values = {path: set(np.unique(np.nan_to_num(v.data)).tolist()) for v, path in images}
    everything = set().union(*values.values()) - {0}
    if classes is None:
        if all(len(v - {0}) <= 1 for v in values.values()) and not everything & {2, 3}:
            return {"mask": 1}
        if max(everything) == 2:
            raise SettingsError(
                "labels 0 to 2 may be of three classes, or of four without a core", images[-1][1],
                "Say how many --classes they have",
            )  # fmt: skip
        classes = 4
    for path, found in values.items():
        if wrong := sorted(found - set(range(classes))):
            raise ScanError(
                f"label value {wrong[0]:g} outside the {classes} classes 0 to {classes - 1}", path,
                "Give labels of the stated classes",
            )  # fmt: skip
    return LABELS[classes]


def _read(path: Path, missing: str) -> Volume:
    if not path.is_file():
        raise ScanError(missing, path, "Make it, or take the study out of both folders")
    return nifti.read_volume(path)


def _found(folder: Path, name: str, grid: Grid) -> BoolArray:
    path = _mask_path(folder, name)
    volume = _read(path, "the prediction lacks a mask")
    _check_grid(volume, grid, path)
    return _inside(volume.data)


def _check_grid(volume: Volume, grid: Grid, path: Path) -> None:
    if not volume.grid.same_as(grid, _SAME_GRID_MM):
        raise GeometryError(
            f"the mask's grid {volume.grid.shape} differs from that of the truth {grid.shape} or "
            "lies elsewhere", path, "Resample it onto the grid of the truth",
        )  # fmt: skip


def _inside(data: FloatArray) -> BoolArray:
    return np.asarray(np.nan_to_num(data) != 0)


def _with_both(
    pairs: dict[str, tuple[BoolArray, BoolArray]],
) -> dict[str, tuple[BoolArray, BoolArray]]:
    """With hypoperfusion, penumbra and core together, where there are both."""
    if {"penumbra", "core"} <= pairs.keys():
        (a, b), (c, d) = pairs["penumbra"], pairs["core"]
        pairs["hypoperfusion"] = (a | c, b | d)
    return pairs
