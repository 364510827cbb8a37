"""Data sets of TIFF or PNG slices, as the source's systems read and write them.

::

    ROOT/CTP/01_001/07/12.tiff               patient, slice, time; 01_ LVO, 02_ non-LVO, 03_ WIS
    ROOT/GT/01_001/07.png                    truth of a slice: 0, brain 85, penumbra 170, core 255
    ROOT/Parametric_Maps/01_001/CBF/07.png   maps, in colour: CBF, CBV, TTP, TMAX, MTT, MIP
    ROOT/clinical.tsv                        patient, nihss, age, sex, group, split

Slices and time points are in the natural order of their names ("2" before "10"). Patient folders
may lie in ROOT itself, names may have something before them (``CTP_01_001``), the truth may lie
in the patient's folder (``01_001/GT/07.png``), so may the maps (``01_001/CBF/07.png``), and the
folders of maps may hold those of patients (``Parametric_Maps/CBF/01_001/07.png``). Scans or maps
may be missing. The table may be called ``clinical.csv`` or ``participants.tsv``. Slices run from
the feet to the head, rows from front to back and columns from the patient's right to the left, as
radiologists look at them. The images know no times, sizes or HU: those are options; columns
interval_s, slice_mm and pixel_mm of the table go before them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from strokect.core.errors import GeometryError, ScanError
from strokect.core.mapset import MapSet
from strokect.core.types import CTSeries, Grid
from strokect.io.cases import (
    IMAGE_ENDINGS,
    Case,
    checked,
    folder_names,
    natural,
    no_truth,
    safe_name,
    slices_patient,
)
from strokect.io.outputs import result_folder
from strokect.io.people import Person, read_people
from strokect.io.slice_images import (
    SliceFolderOptions,
    begin_case,
    check_name,
    check_sizes,
    check_times,
    displayed,
    images_in,
    person_key,
    read_grey,
    read_grey_like,
    slice_key,
    to_labels,
    write_image,
)
from strokect.io.slice_maps import (
    map_folder,
    map_slices,
    patients_with_maps,
    quantity_of,
    read_map_slices,
    root_of,
)

_GROUPS = {"01": "LVO", "02": "non-LVO", "03": "WIS"}
#: Tables of patients, the first that is there.
TABLES = ("clinical.tsv", "clinical.csv", "participants.tsv")
_SIZES = ("interval_s", "slice_mm", "pixel_mm")


@dataclass(frozen=True)
class SliceDataset:
    """Slice folders (see the module)."""

    options: SliceFolderOptions = field(default_factory=SliceFolderOptions)
    classes: tuple[int, ...] = (2, 3, 4)

    def cases(self, root: Path) -> list[Case]:
        """All patients in natural order, those with maps alone too.

        Raises ScanError where none is found or the table cannot be used.
        """
        people = _people(root)
        outer = root / self.options.truth
        truths = {person_key(n): outer / n for n in folder_names(outer)}
        found = []
        for folder in self._patients(root):
            patient, key = slices_patient(folder.name), person_key(folder.name)
            labels = truths.get(key)
            inner = folder / self.options.truth
            if labels is None and inner.is_dir():
                labels = inner
            person = people.get(key, Person())
            group = _GROUPS.get((patient or "")[:2], person.group)
            found.append(
                Case(
                    safe_name(folder.name), patient or folder.name, folder, labels, group,
                    person.split, person.clinical,
                    " ".join(f"{n}={c}" for n in _SIZES if (c := person.cells.get(n, ""))),
                )
            )  # fmt: skip
        return checked(found, root, "slices")

    def scan(self, case: Case) -> CTSeries:
        """The scan, HU, on a grid of the options' sizes around the origin.

        Raises ScanError for missing or unreadable images and a case of maps alone, GeometryError
        for images of other sizes.
        """
        options = self._fitting(case)
        rows = [images_in(folder) for folder in self._slices(case)]
        counts = sorted({len(row) for row in rows})
        if len(counts) > 1:
            short = min(rows, key=len)
            raise ScanError(
                f"{len(short)} time points where other slices have {counts[-1]}",
                short[0].parent if short else case.scan,
                "Add the missing images",
            )
        if counts[0] < 2:
            what = f"{counts[0]} image per slice, but perfusion needs many"
            raise ScanError(what, case.scan, "Give one folder per slice with an image per time")
        first, depth = read_grey(rows[0][0])
        data = np.empty((counts[0], len(rows), *first.shape), np.float32)
        for z, row in enumerate(rows):
            for t, path in enumerate(row):
                data[t, z] = options.hu(read_grey_like(path, first.shape, depth), depth)
        times = np.arange(counts[0], dtype=np.float64) * options.interval_s
        note = f"interval {options.interval_s:g} s and voxel size from the options"
        return CTSeries(data, times, options.grid(data.shape[1:]), (), (note,))

    def map_files(self, case: Case, names: Collection[str]) -> list[Path]:
        """The folders of maps that are there; see ``io.cases.Layout``."""
        found = (map_folder(case, name, self.options) for name in names)
        return [folder for folder in found if folder is not None]

    def maps(self, case: Case, names: Collection[str]) -> MapSet:
        """The maps ``names``, in colour; see ``io.cases.Layout``. A grey MIP is in HU."""
        return read_map_slices(case, names, self._fitting(case), self.options)

    def truth_files(self, case: Case) -> list[Path]:
        """The truth; see ``io.cases.Layout``."""
        return [] if case.labels is None else [case.labels]

    def labels(self, case: Case, grid: Grid) -> npt.NDArray[np.uint8]:
        """House labels (Z, Y, X) on ``grid``; see ``io.cases.Layout``.

        A grey value within 10 of a level counts as that level.
        """
        if case.labels is None:
            raise no_truth(case)
        truths: dict[str, Path] = {}
        for path in images_in(case.labels):
            if slice_key(path.stem) in truths:
                raise ScanError("two truth images of one slice", path, "Remove one of them")
            truths[slice_key(path.stem)] = path
        slices = self._slice_names(case, grid.shape[0]) or list(truths)
        out = np.zeros((len(slices), *grid.shape[1:]), np.uint8)
        for z, name in enumerate(slices):
            missing = case.labels / f"{name}.png"
            path = truths.pop(slice_key(name), missing)
            if not path.exists():
                raise ScanError("the truth image is missing", path, "Add it or leave the case out")
            grey, _ = read_grey(path)
            if grey.shape != grid.shape[1:]:
                what = f"a truth image of {grey.shape} for a scan of {grid.shape[1:]} (Y, X)"
                raise GeometryError(what, path, "Resample it onto the scan")
            out[z] = to_labels(grey, path)
        if truths or out.shape != grid.shape:
            what = f"truth of {len(slices) + len(truths)} slices for a scan of {grid.shape[0]}"
            raise GeometryError(what, case.labels, "Give one truth image per slice")
        return out

    def _patients(self, root: Path) -> list[Path]:
        """Folders of patients; where there are maps alone, that in which the scan would lie."""
        top = root / self.options.images
        direct = not top.is_dir()
        if direct:  # only folders that are called as patients are: anything may lie in a root
            top = root
        names = (n for n in folder_names(top) if n != self.options.truth)
        found = [top / n for n in names if not direct or slices_patient(n)]
        known = {person_key(p.name) for p in found}
        more = (n for n in patients_with_maps(root, self.options) if person_key(n) not in known)
        found += [root / self.options.images / n for n in more]
        return sorted(found, key=lambda p: natural(p.name))

    def _slice_folders(self, case: Case) -> list[Path]:
        """The folders of the scan's slices."""
        names = folder_names(case.scan)
        found = [case.scan / n for n in names if n != self.options.truth and not quantity_of(n)]
        return [folder for folder in found if images_in(folder)]

    def _slices(self, case: Case) -> list[Path]:
        found = self._slice_folders(case)
        if not found and map_slices(case, self.options):
            what = f"maps only, no scan, of the case {case.name!r}"
            raise ScanError(what, case.scan, "Add the scan, or set input.source to files")
        if not found:
            what = "no slice folders with images" if case.scan.is_dir() else "no such folder"
            fix = f"Give a folder per slice with an image ({', '.join(IMAGE_ENDINGS)}) per time"
            raise ScanError(what, case.scan, fix)
        return found

    def _slice_names(self, case: Case, wanted: int) -> list[str]:
        """Names of the slices of scan or maps, of those that are as many as wanted first."""
        scan = [folder.name for folder in self._slice_folders(case)]
        if len(scan) == wanted:
            return scan
        maps = map_slices(case, self.options)
        return maps if len(maps) == wanted else scan or maps

    def _fitting(self, case: Case) -> SliceFolderOptions:
        """The options with the sizes that the table gives for this patient."""
        root = root_of(case, self.options)
        person = _people(root).get(person_key(case.scan.name), Person())
        sizes: dict[str, Any] = {}
        for name in _SIZES:
            cell = person.cells.get(name, "")
            if cell not in ("", "n/a"):
                try:
                    sizes[name] = float(cell)
                except ValueError as error:
                    what = f"{name} {cell!r} of {case.patient}"
                    raise ScanError(what, root, "Give a number in its table") from error
        return replace(self.options, **sizes)


def write_slices(
    root: Path,
    case_name: str,
    series: CTSeries,
    labels: npt.NDArray[np.uint8] | None,
    options: SliceFolderOptions = SliceFolderOptions(),
) -> None:
    """Write one scan, and its truth where given, as slice folders; the scan comes last.

    labels : (Z, Y, X) house labels on the scan's grid. Images are turned to the layout's
    orientation; a tilt and times that differ between slices are lost. 8-bit images hold the
    options' window only.
    Raises GeometryError and TimingError where the options state other sizes or times than the
    scan's (``options.fitting(series)`` states its own), InputError for other labels,
    OutputExistsError where the case is there already.
    """
    check_name(case_name)
    check_sizes(series.grid, options)
    check_times(series, options)
    begin_case(root, options.images, case_name, labels, series.grid, options)
    with result_folder(root / options.images / case_name) as folder:
        for t, frame in enumerate(series.data_hu, 1):
            for z, image in enumerate(options.grey(displayed(frame, series.grid)), 1):
                write_image(folder / f"{z:02d}" / f"{t:02d}.tiff", image)


def _people(root: Path) -> dict[str, Person]:
    """People of the first table there is, by what their folders have in common."""
    path = next((root / n for n in TABLES if (root / n).exists()), root / TABLES[0])
    return {person_key(name): person for name, person in read_people(path).items()}
