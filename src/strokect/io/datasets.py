"""Data sets of several layouts as training cases; ``catalog.LAYOUTS`` names the layouts.

Usage: ``layout = catalog.load("layouts", "own")()``; ``for case in layout.cases(root): series =
layout.scan(case); labels = layout.labels(case, series.grid)``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strokect.core.mapset import MapSet
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
from strokect.io.datasets_unitobrain import UniToBrainDataset, write_unitobrain
from strokect.io.layouts import OwnLayout, Study, find_studies
from strokect.io.nifti_maps import COMPUTE, read_maps
from strokect.io.people import Person, read_people
from strokect.io.slice_maps import write_map_slices

__all__ = [
    "Case",
    "Isles18Dataset",
    "Isles24Dataset",
    "Layout",
    "OwnDataset",
    "SliceDataset",
    "SliceFolderOptions",
    "UniToBrainDataset",
    "guess_layout",
    "write_map_slices",
    "write_slices",
    "write_unitobrain",
]

#: What the description of a virtual data set says that made it.
PHANTOM = "strokect phantom"
DESCRIPTION_FILE = "dataset_description.json"
_BRAIN = Path("masks") / "brain.nii.gz"


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

    Group, split and clinical scores come from ``participants.tsv`` (columns participant_id, group,
    split, nihss, age, sex) where there is one; a group that is none of ours counts as not known.

    maps_folder : of ``derivatives``, where ``strokect cohort`` or ``strokect perfusion`` wrote the
    maps.
    """

    maps_folder: str = "perfusion"
    classes: tuple[int, ...] = (2, 3, 4)

    def cases(self, root: Path) -> list[Case]:
        """All cases, sorted by name; a patient without a scan too, so that it fails by name.

        Raises ScanError where none is found or ``participants.tsv`` cannot be used.
        """
        if guess_layout(root) != "own":
            return checked([], root, "own")
        people = read_people(root / "participants.tsv")
        return checked([_case(study, people) for study in find_studies(root)], root, "own")

    def scan(self, case: Case) -> CTSeries:
        """The scan, HU. Raises ScanError, TimingError or GeometryError where it is unusable."""
        if case.scan.is_dir():
            from strokect.io import dicom

            return dicom.read_ctp_folder(case.scan)
        return nifti.read_ctp(case.scan)

    def map_files(self, case: Case, names: Collection[str]) -> list[Path]:
        """The maps that are there; see ``io.cases.Layout``."""
        folder = self._results(case)
        found = [*(folder / "maps" / f"{n}.nii.gz" for n in names), folder / _BRAIN]
        return [path for path in found if path.exists()]

    def maps(self, case: Case, names: Collection[str]) -> MapSet:
        """The maps ``names`` of ``derivatives/<maps_folder>``; see ``io.cases.Layout``."""
        folder = self._results(case)
        top = folder.parent.parent if folder.parent.name == "studies" else folder.parent
        fix = f"Run `strokect cohort {top.parent.parent} -o {top}`, or {COMPUTE}"
        files = {n: folder / "maps" / f"{n}.nii.gz" for n in names}
        return read_maps(files, f"files of {top.name}", lambda n: (files[n], fix), folder / _BRAIN)

    def _results(self, case: Case) -> Path:
        """The folder with the results of a case, whether it is there or not."""
        patient = next(
            (p for p in (case.scan, *case.scan.parents) if p.name == case.patient), case.scan
        )
        root = patient.parent.parent if patient.parent.name == "dicom" else patient.parent
        top = root / "derivatives" / self.maps_folder
        alone = top / case.name
        return alone if (alone / "maps").is_dir() else top / "studies" / case.name

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


def _case(study: Study, people: dict[str, Person]) -> Case:
    truth = None if study.layout is None else study.layout.truth_folder
    if truth is not None and not truth.is_dir():
        truth = None
    person = people.get(study.patient, Person())
    return Case(
        study.name, study.patient, study.source, truth, person.group, person.split, person.clinical
    )  # fmt: skip
