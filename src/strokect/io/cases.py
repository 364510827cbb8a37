"""Cases of a data set: one CTP scan with its truth, and what all layouts of data sets share."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from strokect.core.classes import BRAIN, CORE, PENUMBRA
from strokect.core.clinical import UNKNOWN, Clinical
from strokect.core.errors import GeometryError, ScanError
from strokect.core.mapset import MapSet
from strokect.core.types import BoolArray, CTSeries, Grid
from strokect.io import nifti

#: Endings of the images in slice folders.
IMAGE_ENDINGS = (".tif", ".tiff", ".png")
_ISLES18_CASE = re.compile(r"case_\d+")
_ISLES24_PATIENT = re.compile(r"sub-stroke(case)?\d+")
_SLICES_PATIENT = re.compile(r"(?:^|_)(\d{2}_\d{3,})$")
_UNITOBRAIN = re.compile(r"(MOL-\d+)(_Registered(_Filtered_3mm_20HU(_Maps)?)?)?")
#: The one folder in the archive of UniToBrain, which holds those of its patients.
UNITOBRAIN_TOP = "DeepHealth_IEEE"


@dataclass(frozen=True)
class Case:
    """One CTP scan of a data set, found by name only: nothing is opened.

    name : unique, safe as the name of a folder. patient : unit of splits; all cases of a patient
    stay together. scan : file or folder. labels : file or folder of the truth, None without one.
    group : "LVO", "non-LVO", "WIS" or "" (not known). split : "train", "val", "test" or "".
    clinical : what is known beside the images. sizes : what a table says of how the images are to
    be read, as words; prepared scans are kept with it.
    """

    name: str
    patient: str
    scan: Path
    labels: Path | None = None
    group: str = ""
    split: str = ""
    clinical: Clinical = UNKNOWN
    sizes: str = ""


class Layout(Protocol):
    """How a data set lies on disk. Implementations are frozen dataclasses that hold options."""

    @property
    def classes(self) -> tuple[int, ...]:
        """The numbers of classes for which the truth suffices."""

    def cases(self, root: Path) -> list[Case]:
        """All cases, in a fixed order. Raises ScanError where none is found."""

    def scan(self, case: Case) -> CTSeries:
        """The scan, HU. Raises ScanError, TimingError or GeometryError where it is unusable."""

    def map_files(self, case: Case, names: Collection[str]) -> list[Path]:
        """Files or folders of the maps that lie beside a scan, by name only; those that exist."""

    def maps(self, case: Case, names: Collection[str]) -> MapSet:
        """The maps ``names`` (keys of ``core.quantities``) that lie beside a scan.

        Raises ScanError, which says where they should be, where one is missing; GeometryError for
        maps that do not fit together.
        """

    def truth_files(self, case: Case) -> list[Path]:
        """Files or folders that ``labels`` needs, by name only; none for a case without truth."""

    def labels(self, case: Case, grid: Grid) -> npt.NDArray[np.uint8]:
        """House labels (Z, Y, X) of ``core.classes`` on the scan's grid.

        Where the truth is of the core alone (``classes == (2,)``), all else is 0.
        Raises ScanError for missing truth and unknown values, GeometryError for another grid.
        """


def guess_layout(root: Path) -> str | None:
    """The name in ``catalog.LAYOUTS`` of the layout that a folder looks like, by names alone."""
    if not root.is_dir():
        return None
    folders = set(folder_names(root))
    tops = [root, *(root / n for n in ("train", "raw_data", "rawdata", "derivatives"))]
    tops += [root / "train" / n for n in ("raw_data", "rawdata", "derivatives")]
    with_truth = (root / "derivatives" / "truth").is_dir()
    if not with_truth and any(_ISLES24_PATIENT.fullmatch(n) for t in tops for n in folder_names(t)):
        return "isles24"
    if any(n.startswith("sub-") for n in folders | set(folder_names(root / "dicom"))):
        return "own"
    tops = [root, root / "TRAINING", root / "TESTING"]
    if any(_ISLES18_CASE.fullmatch(n) for t in tops for n in folder_names(t)):
        return "isles18"
    tops = [root, root / UNITOBRAIN_TOP]
    if any(unitobrain_patient(n) for t in tops for n in folder_names(t)):
        return "unitobrain"
    tops = [root, *(root / n for n in sorted(folders)[:100])]
    tops += [top / n for top in tops[1:] for n in folder_names(top)[:10]]  # Parametric_Maps/CBF
    return "slices" if any(slices_patient(n) for t in tops for n in folder_names(t)) else None


def slices_patient(name: str) -> str | None:
    """The "01_001" at the end of the name of a patient folder, None where there is none."""
    found = _SLICES_PATIENT.search(name)
    return None if found is None else found[1]


def unitobrain_patient(name: str) -> str | None:
    """The "MOL-001" of the name of a folder of a scan or of maps, None for other names."""
    found = _UNITOBRAIN.fullmatch(name)
    return None if found is None else found[1]


def folder_names(folder: Path) -> list[str]:
    """Names of the visible folders in a folder, naturally sorted; none where it is missing."""
    if not folder.is_dir():
        return []
    found = (p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return sorted(found, key=natural)


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which "2" comes before "10"."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts if p]


def safe_name(name: str) -> str:
    """The name with nothing in it that troubles a file system or a table."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", name).strip("._") or "case"


def checked(cases: list[Case], root: Path, layout: str) -> list[Case]:
    """The cases, where there are some and their names differ. Raises ScanError otherwise."""
    if not cases:
        if not root.is_dir():
            what = "a file where a data set is needed" if root.exists() else "no such folder"
            raise ScanError(what, root, "Give the folder that holds the data set")
        guess = guess_layout(root)
        hint = "Give the folder that holds its patients"
        if guess not in (None, layout):
            hint = f"It looks like the layout {guess!r}: choose that one"
        raise ScanError(f"no case of the layout {layout!r}", root, hint)
    taken: set[str] = set()
    for case in cases:
        if case.name.lower() in taken:  # some file systems know no upper case
            raise ScanError(f"two cases would be called {case.name!r}", root, "Rename one of them")
        taken.add(case.name.lower())
    return cases


def no_truth(case: Case) -> ScanError:
    """The error for a case without truth."""
    return ScanError(f"no truth for the case {case.name!r}", case.scan, "Add it or leave it out")


def read_truth_mask(path: Path, grid: Grid, fix: str = "Resample it onto the scan") -> BoolArray:
    """A truth mask (Z, Y, X) of zeros and ones, which may be empty, on ``grid``.

    fix : what to do about another grid.
    Raises ScanError where it is missing or holds other values, GeometryError for another grid.
    """
    if not path.exists():
        raise ScanError("the mask file is missing", path, "Add it or leave the case out")
    volume = nifti._reoriented(nifti.read_volume(path), grid)
    if volume.grid.shape != grid.shape:
        what = f"a mask of shape {volume.grid.shape} for a scan of shape {grid.shape} (Z, Y, X)"
        raise GeometryError(what, path, fix)
    if not volume.grid.same_as(grid, tolerance_mm=0.1):
        what = f"a mask of shape {volume.grid.shape}, as the scan {grid.shape}, that lies elsewhere"
        raise GeometryError(what, path, fix)
    wrong = (volume.data != 0) & (volume.data != 1)
    if wrong.any():
        value = volume.data[wrong][0]
        raise ScanError(
            f"label value {value:g} in a mask of 0 and 1", path, "Write the mask as 0 and 1"
        )
    return volume.data == 1


def labels_of(
    shape: tuple[int, int, int],
    *,
    brain: BoolArray | None = None,
    penumbra: BoolArray | None = None,
    core: BoolArray,
) -> npt.NDArray[np.uint8]:
    """House labels (Z, Y, X) of masks; core goes before penumbra, penumbra before brain."""
    out = np.zeros(shape, np.uint8)
    for value, mask in ((BRAIN, brain), (PENUMBRA, penumbra), (CORE, core)):
        if mask is not None:
            out[mask] = value
    return out
