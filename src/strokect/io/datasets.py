"""Data sets of several layouts as training cases; ``catalog.LAYOUTS`` names the layouts.

Usage: ``layout = catalog.load("layouts", "own")()``; ``for case in layout.cases(root): series =
layout.scan(case); labels = layout.labels(case, series.grid)``.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strokect.core.errors import ScanError
from strokect.core.types import CTSeries, Grid
from strokect.io import nifti
from strokect.io.cases import (
    Case,
    Layout,
    checked,
    guess_layout,
    labels_of,
    no_truth,
    read_truth_mask,
)
from strokect.io.datasets_isles import Isles18Dataset, Isles24Dataset
from strokect.io.datasets_slices import SliceDataset, SliceFolderOptions, write_slices
from strokect.io.layouts import OwnLayout, Study, find_studies

__all__ = [
    "Case",
    "Isles18Dataset",
    "Isles24Dataset",
    "Layout",
    "OwnDataset",
    "SliceDataset",
    "SliceFolderOptions",
    "guess_layout",
    "write_slices",
]

#: What the description of a virtual data set says that made it.
PHANTOM = "strokect phantom"
DESCRIPTION_FILE = "dataset_description.json"
_GROUPS = {name.lower(): name for name in ("LVO", "non-LVO", "WIS")}
_SPLITS = ("train", "val", "test")
_UNKNOWN = ("", "n/a")


def is_virtual(root: Path) -> bool:
    """Whether a data set says of itself that ``strokect phantom`` made it."""
    path = root / DESCRIPTION_FILE
    if not path.exists():
        return False
    makers = nifti.read_json(path).get("GeneratedBy")
    return isinstance(makers, list) and any(
        isinstance(m, dict) and m.get("Name") == PHANTOM for m in makers
    )


@dataclass(frozen=True)
class OwnDataset:
    """The own layout (``io.layouts``): NIfTI or DICOM scans; brain, penumbra and core masks.

    Group and split come from ``participants.tsv`` (columns participant_id, group, split) where
    there is one; a group that is none of ours counts as not known.
    """

    classes: tuple[int, ...] = (2, 3, 4)

    def cases(self, root: Path) -> list[Case]:
        """All cases, sorted by name; a patient without a scan too, so that it fails by name.

        Raises ScanError where none is found or ``participants.tsv`` cannot be used.
        """
        if guess_layout(root) != "own":
            return checked([], root, "own")
        people = _participants(root / "participants.tsv")
        return checked([_case(study, people) for study in find_studies(root)], root, "own")

    def scan(self, case: Case) -> CTSeries:
        """The scan, HU. Raises ScanError, TimingError or GeometryError where it is unusable."""
        if case.scan.is_dir():
            from strokect.io import dicom

            return dicom.read_ctp_folder(case.scan)
        return nifti.read_ctp(case.scan)

    def truth_files(self, case: Case) -> list[Path]:
        """The masks; see ``io.cases.Layout``."""
        return [] if case.labels is None else list(_masks(case.labels).values())

    def labels(self, case: Case, grid: Grid) -> npt.NDArray[np.uint8]:
        """House labels (Z, Y, X) on ``grid``; see ``io.cases.Layout``."""
        if case.labels is None:
            raise no_truth(case)
        masks = {n: read_truth_mask(path, grid) for n, path in _masks(case.labels).items()}
        return labels_of(grid.shape, **masks)


def _masks(folder: Path) -> dict[str, Path]:
    """Masks in the folder of a patient's truth, by name."""
    label, session = (part.split("-", 1)[1] for part in folder.parts[-2:])
    layout = OwnLayout(folder.parents[3], label, session)
    return {name: layout.truth_mask(name) for name in ("brain", "penumbra", "core")}


def _case(study: Study, people: dict[str, tuple[str, str]]) -> Case:
    truth = None if study.layout is None else study.layout.truth_folder
    if truth is not None and not truth.is_dir():
        truth = None
    group, split = people.get(study.patient, ("", ""))
    return Case(study.name, study.patient, study.source, truth, group, split)


def _participants(path: Path) -> dict[str, tuple[str, str]]:
    """(group, split) by participant; empty where there is no table.

    Raises ScanError for a table without participants, a participant named twice, and a split
    that is none of ours: leaving it out in silence could put a test patient into training.
    """
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScanError(f"unreadable table ({error})", path, "Correct or remove it") from error
    found: dict[str, tuple[str, str]] = {}
    for line, row in enumerate(rows, 2):
        values = {k: (row.get(k) or "").strip() for k in ("participant_id", "group", "split")}
        person, split = values["participant_id"], values["split"]
        if not person:
            raise ScanError(f"no participant_id in line {line}", path, "Correct or remove it")
        if person in found:
            raise ScanError(f"{person} stands there twice", path, "Remove one of its lines")
        if split not in (*_SPLITS, *_UNKNOWN):
            fix = f"Use one of {', '.join(_SPLITS)}, or n/a"
            raise ScanError(f"split {split!r} in line {line}", path, fix)
        group = _GROUPS.get(values["group"].lower(), "")
        found[person] = (group, "" if split in _UNKNOWN else split)
    return found
