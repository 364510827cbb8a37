"""The UniToBrain data set of CT perfusion scans with their maps, as it is published.

Facts are from the sources named in the class. Nothing of the data set is in this project.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from strokect.core.errors import GeometryError, ScanError, SettingsError, TimingError
from strokect.core.mapset import MapSet
from strokect.core.types import CTSeries, FloatArray, Grid, Volume
from strokect.io.cases import (
    UNITOBRAIN_TOP,
    Case,
    checked,
    folder_names,
    no_truth,
    unitobrain_patient,
)
from strokect.io.nifti_maps import COMPUTE, known_within, map_label

Version = Literal["filtered", "registered", "raw"]

#: What stands after the patient in the name of a scan's folder.
_SUFFIX: dict[Version, str] = {
    "filtered": "_Registered_Filtered_3mm_20HU",
    "registered": "_Registered",
    "raw": "",
}
_MAPS_SUFFIX = f"{_SUFFIX['filtered']}_Maps"
#: Folder of each map in the folder of maps.
_MAPS = {
    "cbf": "NLR_CBF", "cbv": "NLR_CBV", "ttp": "NLR_TTP", "mtt": "NLR_MTT", "delay": "NLR_Delay",
}  # fmt: skip
#: The cine protocol: this many time points, every half second.
_CINE_FRAMES = 89
_CINE_INTERVAL_S = 0.5


@dataclass(frozen=True)
class UniToBrainDataset:
    """UniToBrain: CT perfusion of acute stroke with maps of a deconvolution, without lesions.

    ``DeepHealth_IEEE/MOL-001`` is the scan as it came from the scanner, ``MOL-001_Registered``
    the scan after motion correction, ``MOL-001_Registered_Filtered_3mm_20HU`` that after a
    bilateral filter too (files ``Filtered00001.dcm``), and
    ``MOL-001_Registered_Filtered_3mm_20HU_Maps/NLR_CBV`` (``NLR_CBV00001.dcm``; also NLR_CBF,
    NLR_TTP, NLR_MTT, NLR_Delay) are its maps, one image per slice at the position of the scan's
    [1]_ [2]_ [3]_. root : ``DeepHealth_IEEE`` or the folder that holds it.

    The scans are of a GE LightSpeed VCT at 80 kVp [2]_. Ten of eleven patients that [2]_ read are
    cine scans of 8 slices of 5 mm, 89 time points every 0.5 s; one is a shuttle scan of 16 slices
    and 18 time points every 2.8 s. Raw cine scans have one Acquisition Time for all images, the
    times stand only in GE's private Mid Scan Time. In one patient raw scan and maps differ in
    their number of slices (8 and 9) [2]_. Maps are of the box-model non-linear regression [4]_;
    values are Rescale Slope times stored value plus Rescale Intercept, which both stand in the
    files [1]_, and have medians in the brain (CBF 6 to 18, CBV 1 to 1.6, MTT 4 to 10 [2]_) as
    expected in ml/100g/min, ml/100g and s. [2]_ takes CBF above 0 as what was mapped; here maps
    are NaN where all that are asked for are at their background, the value of their corners.

    Not found: which units the authors state, from when TTP counts, what the headers of the
    registered and filtered scans say of times and image type, whether all patients have all
    folders. The table of patients [3]_ is not read. There is **no truth of lesions**: ``labels``
    always raises; the use of this data set is its scans, and its maps as input or target.

    version : of the scan that is read: "filtered", "registered" or "raw". default_interval_s :
    where the headers do not state the scanner's times; None for 0.5 s in scans of 89 time points,
    others are then refused. classes : nothing of it is in the data set; any may be asked for.

    .. [1] github.com/EIDOSLAB/UC3-UNITOBrain and Neural-Network-derived-perfusion-maps, the
       authors' code. [2] github.com/OpenPerfusion/OpenPerfusion, README, results/unitobrain and
       scripts: readers of the data. [3] Gava U et al., doi.org/10.21227/x8ea-vh16 and
       zenodo.org/records/5109415. [4] Gava U et al., arXiv:2101.05992.
    """

    version: Version = "filtered"
    default_interval_s: float | None = None
    classes: tuple[int, ...] = (2, 3, 4)

    def __post_init__(self) -> None:
        if self.version not in _SUFFIX:
            fix = f"Use {', '.join(_SUFFIX)}"
            raise SettingsError(f"no version of the scans is {self.version!r}", "version", fix)
        step = self.default_interval_s
        if step is not None and not (np.isfinite(step) and step > 0):
            raise SettingsError(f"an interval of {step:g} s", "default_interval_s", "Give it in s")

    def cases(self, root: Path) -> list[Case]:
        """All patients, sorted; one without the wanted scan too, so that it fails by name.

        Raises ScanError where none is found.
        """
        inner = root / UNITOBRAIN_TOP
        top = inner if inner.is_dir() else root
        found = (unitobrain_patient(name) for name in folder_names(top))
        patients = dict.fromkeys(patient for patient in found if patient is not None)
        suffix = _SUFFIX[self.version]
        return checked([Case(p, p, top / f"{p}{suffix}") for p in patients], root, "unitobrain")

    def scan(self, case: Case) -> CTSeries:
        """The scan, HU. Raises ScanError, TimingError or GeometryError where it is unusable."""
        from strokect.io import dicom

        if not case.scan.is_dir():
            raise self._missing(case)
        interval_s = self._assumed_interval_s(case.scan)
        series = dicom.read_ctp_folder(case.scan, interval_s=interval_s)
        if interval_s is None:
            return series
        note = f"the headers do not state the scanner's times; {interval_s:g} s assumed"
        return replace(series, notes=(note, *series.notes))

    def map_files(self, case: Case, names: Collection[str]) -> list[Path]:
        """The folders of maps that are there; see ``io.cases.Layout``."""
        found = (_map_folder(case, name) for name in names if name in _MAPS)
        return [folder for folder in found if folder.is_dir()]

    def maps(self, case: Case, names: Collection[str]) -> MapSet:
        """The maps ``names``, in their own units; see ``io.cases.Layout``.

        They lie where their headers say: on the grid of the filtered scan. They are NaN where all
        that are asked for are at their background.
        """
        from strokect.io.dicom_maps import known_values, read_map_folder

        found: dict[str, Volume] = {}
        for name in names:
            folder = _map_folder(case, name)
            if name not in _MAPS or not folder.is_dir():
                fix = "Add the folder" if name in _MAPS else "Leave it out: the data set has none"
                raise ScanError(f"no {map_label(name)} map", folder, f"{fix}, or {COMPUTE}")
            found[name] = read_map_folder(folder)
            _check_fit(found[name].grid, next(iter(found.values())).grid, folder)
        if not found:
            raise ScanError("no map is asked for", case.scan, "Name one, e.g. cbf")
        maps: dict[str, npt.NDArray[np.float32]] = {k: v.data for k, v in found.items()}
        grid = next(iter(found.values())).grid
        together = MapSet(grid, dict(maps), source="files of UniToBrain, in their own units")
        return known_within(together, np.any([known_values(v) for v in maps.values()], axis=0))

    def truth_files(self, case: Case) -> list[Path]:
        """None: the data set has no lesions."""
        return []

    def labels(self, case: Case, grid: Grid) -> npt.NDArray[np.uint8]:
        """Raises ScanError: the data set has no lesions."""
        raise no_truth(case)

    def _missing(self, case: Case) -> ScanError:
        """The error for a patient without the wanted version of the scan."""
        top, patient = case.scan.parent, case.patient
        others = [v for v, suffix in _SUFFIX.items() if (top / f"{patient}{suffix}").is_dir()]
        fix = "Add the folder or leave the patient out"
        if others:
            fix = f"Add the folder, or set data.layout_options.version to {' or '.join(others)}"
        return ScanError(f"no {self.version} scan of {patient}", case.scan, fix)

    def _assumed_interval_s(self, folder: Path) -> float | None:
        """Time between the time points where the headers do not state it, s; None where they do.

        Content Time is not trusted here: the images of a cine scan are made after all of it.
        """
        from strokect.io.dicom_stack import stack_ctp

        try:
            stack = stack_ctp(folder)
        except TimingError as error:
            count = len(stack_ctp(folder, interval_s=1.0).images)
            if self.default_interval_s is None and count != _CINE_FRAMES:
                fix = "Give the time between them as data.layout_options.default_interval_s"
                raise TimingError(f"{count} time points, {error.what}", folder, fix) from error
        else:
            untold = any(f.code == "CONTENT_TIMES" for f in stack.flags)
            known = self.default_interval_s is not None or len(stack.images) == _CINE_FRAMES
            if not (untold and known):
                return None
        return self.default_interval_s or _CINE_INTERVAL_S


def write_unitobrain(
    root: Path,
    patient: str,
    series: CTSeries,
    maps: Mapping[str, FloatArray],
    *,
    version: Version = "filtered",
    seed: int = 1,
) -> None:
    """Write a scan, e.g. of a virtual patient, and maps on its grid in this layout.

    patient : "MOL-" and a number. maps : (Z, Y, X) by key, of cbf, cbv, ttp, mtt and delay; NaN
    becomes 0, the background. version : of the scan. seed : of the unique identifiers.
    Raises SettingsError for another name or map, OutputExistsError where a folder is there,
    OutputError where it cannot be written, GeometryError for maps off the grid.
    """
    from strokect.io.dicom_maps import MapSeries, write_map_folder
    from strokect.io.dicom_vendors import VendorStyle
    from strokect.io.dicom_write import write_ct_series

    if unitobrain_patient(patient) != patient:
        raise SettingsError(f"patient {patient!r}", "patient", "Name it as MOL-001")
    for name in maps.keys() - _MAPS.keys():
        raise SettingsError(f"no map {name!r} in UniToBrain", "maps", f"Use {', '.join(_MAPS)}")
    for number, (name, values) in enumerate(maps.items(), 2):
        kind = _MAPS[name]
        about = MapSeries(kind.replace("_", " "), number, kind, seed)
        write_map_folder(root / f"{patient}{_MAPS_SUFFIX}" / kind, values, series.grid, about)
    style = VendorStyle(
        "GE MEDICAL SYSTEMS", "LightSpeed VCT", times=("acquisition time", "content time"),
        acquisition_number="constant", slice_major=True,
    )  # fmt: skip
    folder = root / f"{patient}{_SUFFIX[version]}"
    files = write_ct_series(series, folder, seed=seed, vendor=style)
    if version != "raw":
        for path in files:
            path.rename(path.with_name(f"{version.capitalize()}{path.name}"))


def _map_folder(case: Case, name: str) -> Path:
    """Where a map lies, or would."""
    folder = case.scan.parent / f"{case.patient}{_MAPS_SUFFIX}"
    return folder / _MAPS.get(name, f"NLR_{map_label(name)}")


def _check_fit(grid: Grid, first: Grid, folder: Path) -> None:
    """Refuse a map on another grid than the first."""
    if not grid.same_as(first, tolerance_mm=0.1):
        what = f"a map of shape {grid.shape} beside others of {first.shape}"
        if grid.shape == first.shape:
            what = "a map that lies elsewhere than the others"
        raise GeometryError(what, folder, "Copy the maps of the patient again")
