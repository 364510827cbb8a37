"""The data sets of the ISLES challenges of 2018 and 2024, as they are published.

Facts are from the pages named in each class. Nothing of the data sets is in this project.
"""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError

from strokect.core.errors import ScanError, SettingsError
from strokect.core.mapset import MapSet
from strokect.core.types import CTSeries, Grid
from strokect.io import nifti
from strokect.io.cases import (
    Case,
    checked,
    folder_names,
    labels_of,
    no_truth,
    read_truth_mask,
    safe_name,
)
from strokect.io.nifti_maps import COMPUTE, known_within, read_maps

#: Intervals of a header, s, that can be those of a CT perfusion scan.
_PLAUSIBLE_S = (0.2, 6.0)
_UNITS_S = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
#: How names of the maps of ISLES'18 tell them apart; there is no map of time to peak.
_ISLES18_MAPS = {"cbf": ".CT_CBF.", "cbv": ".CT_CBV.", "mtt": ".CT_MTT.", "tmax": ".CT_Tmax."}
_TIME_FIELDS = ("FrameTimesStart", "AcquisitionTimes")


class _TimedScans(ABC):
    """Scans whose times may be missing, with one file of truth each and maps of other software.

    maps_source : who made the maps, for the record.
    """

    default_interval_s: float
    maps_source: ClassVar[str]

    def scan(self, case: Case) -> CTSeries:
        """The scan, HU. Raises ScanError, TimingError or GeometryError where it is unusable."""
        return read_timed(case.scan, self.default_interval_s)

    def map_files(self, case: Case, names: Collection[str]) -> list[Path]:
        """The maps that are there; see ``io.cases.Layout``."""
        return [path for path in (self._map_file(case, n) for n in names) if path is not None]

    def maps(self, case: Case, names: Collection[str]) -> MapSet:
        """The maps ``names`` of the data set, in its own units; see ``io.cases.Layout``.

        They are NaN where all that are asked for are 0: that is outside of what was mapped.
        """
        files = {name: self._map_file(case, name) for name in names}
        fix = f"The data set has no such map: leave it out of input.maps, or {COMPUTE}"
        found = read_maps(files, self.maps_source, lambda n: (self._map_place(case, n), fix))
        mapped = [v for k, v in found.maps.items() if k != "mip"]
        if not mapped:
            return found
        return known_within(found, np.any([(v != 0) & np.isfinite(v) for v in mapped], axis=0))

    @abstractmethod
    def _map_file(self, case: Case, name: str) -> Path | None:
        """The file of a map, None where there is none."""

    @abstractmethod
    def _map_place(self, case: Case, name: str) -> Path:
        """Where the file of a map would be looked for."""

    def truth_files(self, case: Case) -> list[Path]:
        """The truth; see ``io.cases.Layout``."""
        return [] if case.labels is None else [case.labels]


@dataclass(frozen=True)
class Isles18Dataset(_TimedScans):
    """ISLES 2018: acute core on CT perfusion, drawn on MR diffusion soon after it.

    ``TRAINING/case_1/SMIR.Brain.XX.O.CT_4DPWI.345561/SMIR.Brain.XX.O.CT_4DPWI.345561.nii`` is the
    scan and ``SMIR.Brain.XX.O.OT.345566/...`` the core mask; cases of TESTING have none. root :
    the folder that holds TRAINING, or TRAINING or TESTING itself.

    Anterior large artery occlusions of four centres, 63 patients to train with and 40 to test;
    the infarct was drawn on diffusion a median of 36 minutes after CTP [1]_. A patient whose
    scan is two slabs appears as two cases, so there are more cases than patients (94 and 62,
    from memory), of 2, 4, 8, 16 or 22 slices. Which cases belong together is not in the files:
    without ``patients.tsv`` (columns case and patient) in ``root`` every case counts as a patient
    of its own, and two slabs of one patient may fall on both sides of a split.

    Maps are ``SMIR.Brain.XX.O.CT_CBF.345563`` and so on: CBF, CBV, MTT and Tmax, as the
    challenge's software made them.

    default_interval_s : where neither header nor sidecar states a plausible interval. The
    challenge resampled its scans to 1 s (as other readers of them say; not found in [1]_).

    .. [1] Hakim A et al., Stroke 2021;52:2328, pmc.ncbi.nlm.nih.gov/articles/PMC8240494.
       Data: zenodo.org/records/17736412.
    """

    default_interval_s: float = 1.0
    classes: tuple[int, ...] = (2,)
    maps_source = "files of ISLES'18, in their own units"

    def __post_init__(self) -> None:
        _check_interval(self.default_interval_s)

    def cases(self, root: Path) -> list[Case]:
        """All cases in the order of their numbers; those of TRAINING where ``root`` holds it.

        Raises ScanError where none is found, or several scans or masks for one.
        """
        top = root / "TRAINING" if (root / "TRAINING").is_dir() else root
        patients = _patients(root / "patients.tsv")
        found = []
        for name in folder_names(top):
            if name.startswith("case_"):
                folder = top / name
                scan = _smir_file(folder, ".CT_4DPWI.") or folder / "SMIR.Brain.XX.O.CT_4DPWI.nii"
                core = _smir_file(folder, ".OT.")
                found.append(Case(safe_name(name), patients.get(name, name), scan, core))
        return checked(found, root, "isles18")

    def labels(self, case: Case, grid: Grid) -> npt.NDArray[np.uint8]:
        """House labels (Z, Y, X) on ``grid``: 3 in the core, 0 elsewhere."""
        if case.labels is None:
            raise no_truth(case)
        return labels_of(grid.shape, core=read_truth_mask(case.labels, grid))

    def _map_file(self, case: Case, name: str) -> Path | None:
        mark = _ISLES18_MAPS.get(name)
        folder = _isles18_folder(case)
        return None if mark is None or not folder.is_dir() else _smir_file(folder, mark)

    def _map_place(self, case: Case, name: str) -> Path:
        mark = _ISLES18_MAPS.get(name, f".CT_{name.upper()}.")
        return _isles18_folder(case) / f"SMIR.Brain.XX.O{mark}nii"


@dataclass(frozen=True)
class Isles24Dataset(_TimedScans):
    """ISLES 2024: final infarct days after treatment, from the acute CT.

    ``raw_data/sub-stroke0001/ses-01/*_ctp.nii.gz`` is the scan on its own grid,
    ``derivatives/sub-stroke0001/ses-01/*_space-ncct_ctp.nii.gz`` the scan registered to the plain
    CT, ``derivatives/sub-stroke0001/ses-02/*_space-ncct_lesion-msk.nii.gz`` the lesion [1]_; the
    challenge's own page writes ``rawdata``, ``ses-0001`` and ``*_lesion-msk.nii.gz`` [2]_. All
    are found. root : the folder that holds raw_data and derivatives, its parent (``train``
    within), or one of the two.

    The lesion is the **final infarct** in follow-up MR (2 to 9 days [3]_) after treatment, not
    the core at the time of the scan: tissue saved by treatment is not in it, tissue lost since
    is. It counts as core here. Maps are ``ses-01/perfusion-maps/*_space-ncct_cbf.nii.gz`` of
    ``derivatives``, also cbv, mtt and tmax, on the plain CT's grid. The lesion lies on that grid
    too, so the registered scan is taken where there is one; the scan on its own grid does not fit
    it.

    default_interval_s : where neither header nor sidecar states a plausible interval; assumed.

    .. [1] zenodo.org/records/16748089. [2] github.com/ezequieldlrosa/isles24.
       [3] Riedel EO et al., arXiv:2408.11142.
    """

    default_interval_s: float = 1.0
    classes: tuple[int, ...] = (2,)
    maps_source = "files of ISLES'24, in their own units"

    def __post_init__(self) -> None:
        _check_interval(self.default_interval_s)

    def cases(self, root: Path) -> list[Case]:
        """All patients, sorted; one without a scan too, so that it fails by name.

        Raises ScanError where none is found.
        """
        top = _isles24_top(root)
        raw = top / "raw_data" if (top / "raw_data").is_dir() else top / "rawdata"
        derived = top / "derivatives"
        names = {n for f in (raw, derived) for n in folder_names(f) if n.startswith("sub-")}
        found = []
        for name in sorted(names):
            acute = _files(derived / name, 1, "_space-ncct_ctp.nii")
            scan = acute or _files(raw / name, 1, "_ctp.nii")
            lesion = _files(derived / name, 2, "lesion-msk.nii")
            # One patient has a second mask, on another grid, beside that on the plain CT's.
            lesion.sort(key=lambda p: ("space-ncct" not in p.name, not p.name.endswith(".gz")))
            missing = derived / name / "ses-01" / f"{name}_ses-01_space-ncct_ctp.nii.gz"
            found.append(
                Case(safe_name(name), name, next(iter(scan), missing), next(iter(lesion), None))
            )
        return checked(found, root, "isles24")

    def labels(self, case: Case, grid: Grid) -> npt.NDArray[np.uint8]:
        """House labels (Z, Y, X) on ``grid``: 3 in the final infarct, 0 elsewhere."""
        if case.labels is None:
            raise no_truth(case)
        fix = (
            "The lesion lies on the plain CT's grid: add the scan on that grid "
            f"(derivatives/{case.patient}/ses-01/*_space-ncct_ctp.nii.gz)"
        )
        return labels_of(grid.shape, core=read_truth_mask(case.labels, grid, fix))

    def _map_file(self, case: Case, name: str) -> Path | None:
        folders = [case.scan.parent, _isles24_acute(case)]
        places = [f / n for f in folders for n in ("perfusion-maps", "")]
        names = (f"_space-ncct_{name}.nii.gz", f"_space-ncct_{name}.nii")
        found = (
            path for place in places if place.is_dir()
            for path in sorted(place.iterdir())
            if path.name.endswith(names) and not path.name.startswith(".")
        )  # fmt: skip
        return next(found, None)

    def _map_place(self, case: Case, name: str) -> Path:
        session = case.scan.parent.name
        file = f"{case.patient}_{session}_space-ncct_{name}.nii.gz"
        return _isles24_acute(case) / "perfusion-maps" / file


def _isles18_folder(case: Case) -> Path:
    """The folder of a case, whose scan may lie in a folder of its own."""
    inner = case.scan.parent
    return inner.parent if inner.name.startswith("SMIR.") else inner


def _isles24_acute(case: Case) -> Path:
    """The derived images of the session of a scan, whether the scan is one of them or not."""
    session = case.scan.parent
    return session.parents[2] / "derivatives" / session.parent.name / session.name


def read_timed(path: Path, default_interval_s: float) -> CTSeries:
    """A 4D scan; ``default_interval_s`` where nothing states a plausible interval, with a note."""
    if _states_times(path):
        return nifti.read_ctp(path)
    series = nifti.read_ctp(path, interval_s=default_interval_s)
    note = f"the file states no plausible interval; {default_interval_s:g} s assumed"
    return replace(series, notes=(note,))


def _states_times(path: Path) -> bool:
    """Whether sidecar or header state usable times; a file that cannot be read fails later."""
    sidecar = nifti.sidecar_path(path)
    if sidecar.exists() and any(f in nifti.read_json(sidecar) for f in _TIME_FIELDS):
        return True
    try:
        header: Any = nib.load(path).header
        step = float(header["pixdim"][4]) * _UNITS_S.get(header.get_xyzt_units()[1], np.nan)
    except (ImageFileError, EOFError, OSError, ValueError, KeyError):
        return True
    return _PLAUSIBLE_S[0] <= step <= _PLAUSIBLE_S[1]


def _check_interval(interval_s: float) -> None:
    if not _PLAUSIBLE_S[0] <= interval_s <= _PLAUSIBLE_S[1]:
        low, high = _PLAUSIBLE_S
        raise SettingsError(
            f"an interval of {interval_s:g} s", "default_interval_s", f"Give {low:g} to {high:g} s"
        )


def _smir_file(folder: Path, mark: str) -> Path | None:
    """The one NIfTI file of a kind in a case, in a folder of its own or not; None without one."""
    found = []
    for entry in sorted(folder.iterdir()):
        if mark in entry.name:
            found += sorted(p for p in entry.iterdir()) if entry.is_dir() else [entry]
    found = [p for p in found if nifti.is_nifti(p) and not p.name.startswith(".")]
    if len(found) > 1:
        raise ScanError(f"{len(found)} files called *{mark}*.nii", folder, "Leave one of them")
    return found[0] if found else None


def _patients(path: Path) -> dict[str, str]:
    """Patient by case, of the table that a user may add; empty without one."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    if not rows or not all(row.get("case") and row.get("patient") for row in rows):
        raise ScanError("no columns case and patient", path, "Fill both in every line")
    return {row["case"]: row["patient"] for row in rows}


def _isles24_top(root: Path) -> Path:
    if root.name in ("raw_data", "rawdata", "derivatives"):
        return root.parent
    inner = root / "train"
    return inner if inner.is_dir() and not (root / "derivatives").is_dir() else root


def _files(patient: Path, session: int, mark: str) -> list[Path]:
    """Files of a session of a patient (ses-01 or ses-0001) with ``mark`` in their names."""
    return [
        path
        for name in (f"ses-{session:02d}", f"ses-{session:04d}")
        if (patient / name).is_dir()
        for path in sorted((patient / name).iterdir())
        if mark in path.name and not path.name.startswith(".")
    ]
