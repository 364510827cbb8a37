"""Where things lie on disk. Pure path arithmetic: nothing here opens an image.

The own layout is BIDS-like, with the names of ISLES'24::

    DIR/dataset_description.json, participants.tsv
    DIR/sub-0001/ses-01/sub-0001_ses-01_ctp.nii.gz   + .json sidecar
    DIR/derivatives/truth/sub-0001/ses-01/sub-0001_ses-01_cbf.nii.gz          maps
    DIR/derivatives/truth/sub-0001/ses-01/sub-0001_ses-01_core_mask.nii.gz    masks
    DIR/derivatives/truth/sub-0001/ses-01/sub-0001_ses-01_tissue_dseg.nii.gz  labels
    DIR/derivatives/truth/sub-0001/ses-01/sub-0001_ses-01_space-cta_clot_mask.nii.gz
    DIR/derivatives/truth/sub-0001/ses-01/sub-0001_ses-01_curves.csv          true AIF and VOF
    DIR/dicom/sub-0001/                                                       classic CT images
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from strokect.core.errors import ScanError

#: A folder that ``strokect cohort`` writes to has this folder in it.
COHORT_FOLDER = ".cohort"
#: Folders of a data set that hold no studies.
_NO_STUDIES = ("derivatives", "sourcedata", "code", "stimuli", "phenotype")

Modality = Literal["ncct", "cta", "ctp"]


def _space(modality: Modality) -> str:
    """Truth lies on the CT perfusion grid unless the name says otherwise."""
    return "" if modality == "ctp" else f"_space-{modality}"


@dataclass(frozen=True)
class OwnLayout:
    """Paths of one patient in the own layout. label : e.g. "0001"."""

    root: Path
    label: str
    session: str = "01"

    @property
    def stem(self) -> str:
        return f"sub-{self.label}_ses-{self.session}"

    @property
    def scan_folder(self) -> Path:
        return self.root / f"sub-{self.label}" / f"ses-{self.session}"

    @property
    def truth_folder(self) -> Path:
        return self.root / "derivatives" / "truth" / f"sub-{self.label}" / f"ses-{self.session}"

    @property
    def dicom_folder(self) -> Path:
        return self.root / "dicom" / f"sub-{self.label}"

    def scan(self, modality: Modality) -> Path:
        return self.scan_folder / f"{self.stem}_{modality}.nii.gz"

    def truth_map(self, quantity: str) -> Path:
        return self.truth_folder / f"{self.stem}_{quantity}.nii.gz"

    def truth_mask(self, name: str, space: Modality = "ctp") -> Path:
        return self.truth_folder / f"{self.stem}{_space(space)}_{name}_mask.nii.gz"

    def truth_labels(self, name: str, space: Modality = "ctp") -> Path:
        return self.truth_folder / f"{self.stem}{_space(space)}_{name}_dseg.nii.gz"

    @property
    def truth_curves(self) -> Path:
        return self.truth_folder / f"{self.stem}_curves.csv"


@dataclass(frozen=True)
class Study:
    """One CT perfusion study of a data set.

    name : unique, safe as the name of a folder, e.g. "sub-0001_ses-01". patient : the same for all
    studies of one patient. source : what ``strokect perfusion`` is given. layout : where the truth
    would lie, None outside the own layout.
    """

    name: str
    patient: str
    source: Path
    layout: OwnLayout | None = None


def find_studies(root: Path) -> list[Study]:
    """The studies of a data set, sorted by name.

    root : a folder of the own layout (``sub-*/ses-*/*_ctp.nii.gz``; ``dicom/sub-*`` where a
    patient has no NIfTI scan), or any folder whose children are NIfTI files or folders, one per
    study. Of NIfTI files those called ``*_ctp.nii*`` are taken where there are such. A patient
    without a CTP scan is listed all the same, so that it fails by name rather than in silence; a
    session without one (a follow-up) is left out where another session has one.
    Raises ScanError where nothing is found.
    """
    if not root.is_dir():
        what = "a file where a folder of studies is needed" if root.exists() else "no such folder"
        raise ScanError(what, root, "Give the folder that holds the studies")
    own = _folders(root, "sub-*") or _folders(root / "dicom", "sub-*")
    studies = list(_own_studies(root) if own else _other_studies(root))
    if not studies:
        raise ScanError(
            "no studies in the folder",
            root,
            "Give a folder whose children are DICOM folders or 4D NIfTI files, or for one study "
            "use `strokect perfusion`",
        )
    return sorted(_with_unique_names(studies), key=lambda s: s.name)


def _own_studies(root: Path) -> Iterator[Study]:
    dicom = {f.name: f for f in _folders(root / "dicom", "sub-*")}
    for folder in _folders(root, "sub-*"):
        label = folder.name.removeprefix("sub-")
        scans = sorted(p for p in folder.rglob("*_ctp.nii*") if _visible(p, folder))
        for scan in scans:
            name = re.sub(r"_ctp\.nii(\.gz)?$", "", scan.name)
            session = re.search(r"(?<![a-zA-Z0-9])ses-([a-zA-Z0-9]+)", name)
            layout = OwnLayout(root, label, session[1] if session else "01")
            yield Study(name, folder.name, scan, layout)
        if not scans:
            source = dicom.get(folder.name, folder)
            yield Study(folder.name, folder.name, source, OwnLayout(root, label))
    for name in dicom.keys() - {f.name for f in _folders(root, "sub-*")}:
        yield Study(name, name, dicom[name], OwnLayout(root, name.removeprefix("sub-")))


def _other_studies(root: Path) -> Iterator[Study]:
    files = sorted(p for p in root.glob("*.nii*") if p.is_file() and _visible(p, root))
    files = [p for p in files if "_ctp.nii" in p.name] or files
    for path in files:
        name = re.sub(r"(_ctp)?\.nii(\.gz)?$", "", path.name)
        yield Study(name, name, path)
    for folder in _folders(root, "*"):
        if folder.name not in _NO_STUDIES and any(p.is_file() for p in folder.rglob("*")):
            yield Study(folder.name, folder.name, folder)


def _with_unique_names(studies: list[Study]) -> Iterator[Study]:
    """Names with nothing in them that troubles a file system or a table."""
    taken: set[str] = set()
    for study in sorted(studies, key=lambda s: (s.name, str(s.source))):
        safe = re.sub(r"[^A-Za-z0-9._+-]+", "_", study.name).strip("._") or "study"
        name, number = safe, 1
        while name.lower() in taken:  # some file systems know no upper case
            number += 1
            name = f"{safe}-{number}"
        taken.add(name.lower())
        yield replace(study, name=name)


def _folders(root: Path, pattern: str) -> list[Path]:
    """Visible folders that are not the output of a cohort, sorted."""
    return sorted(
        p
        for p in root.glob(pattern)
        if p.is_dir() and _visible(p, root) and not (p / COHORT_FOLDER).exists()
    )


def _visible(path: Path, root: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(root).parts)
