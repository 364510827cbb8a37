"""Data sets of TIFF or PNG slices, as the source's systems read and write them.

::

    ROOT/CTP/01_001/07/12.tiff    patient, slice, time point; 01_ LVO, 02_ non-LVO, 03_ WIS
    ROOT/GT/01_001/07.png         truth of a slice: 0 background, 85 brain, 170 penumbra, 255 core

Slices and time points are in the natural order of their names ("2" before "10"). Patient folders
may lie in ROOT itself, names may have something before them (``CTP_01_001``), and the truth may
lie in the patient's folder (``01_001/GT/07.png``). Slices run from the feet to the head, rows
from front to back and columns from the patient's right to the left, as radiologists look at
them. The images know no times, sizes or HU: those are options.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from nibabel import orientations
from PIL import Image

from strokect.core.classes import GREY_LEVELS
from strokect.core.errors import GeometryError, InputError, ScanError, SettingsError, TimingError
from strokect.core.types import CTSeries, FloatArray, Grid
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
from strokect.io.outputs import atomic_file, check_output_folder, result_folder

_GROUPS = {"01": "LVO", "02": "non-LVO", "03": "WIS"}
#: Farthest that a grey value may lie from its level (compression, resampling).
_LEVEL_TOLERANCE = 10
_TIME_TOLERANCE = 0.1
_SIZE_TOLERANCE = 0.01


@dataclass(frozen=True)
class SliceFolderOptions:
    """What the images do not say.

    images, truth : names of the folders of scans and truth. interval_s : s between time points.
    slice_mm : distance of slices. pixel_mm : edge of a pixel (0.43: 220 mm over 512).
    window_hu : HU of grey 0 and 255 of 8-bit images, linear between. offset_hu : added to the
    values of 16-bit images to give HU. bits : of images that are written; 16 keeps whole HU.
    Raises SettingsError for values that cannot be.
    """

    images: str = "CTP"
    truth: str = "GT"
    interval_s: float = 1.0
    slice_mm: float = 5.0
    pixel_mm: float = 0.43
    window_hu: tuple[float, float] = (0.0, 255.0)
    offset_hu: float = -1024.0
    bits: Literal[8, 16] = 8

    def __post_init__(self) -> None:
        for name in ("interval_s", "slice_mm", "pixel_mm"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise SettingsError(f"{value}", name, "Give a positive number")
        if not self.window_hu[1] > self.window_hu[0]:
            raise SettingsError(f"{self.window_hu}", "window_hu", "Give the lower value first")
        if self.bits not in (8, 16):
            raise SettingsError(f"{self.bits}", "bits", "Choose 8 or 16")
        if not self.images or not self.truth or self.images == self.truth:
            raise SettingsError("one name for scans and truth", "images", "Give two names")

    def fitting(self, series: CTSeries) -> SliceFolderOptions:
        """These options with interval, slice distance and pixel size of a scan."""
        slice_mm, _, pixel_mm = _displayed_spacing(series.grid)
        return replace(self, interval_s=series.interval_s, slice_mm=slice_mm, pixel_mm=pixel_mm)

    def hu(self, grey: npt.NDArray[np.integer], depth: int) -> FloatArray:
        """HU of grey values of images of ``depth`` bits, float32."""
        if depth == 16:
            return np.asarray(grey + np.float32(self.offset_hu), np.float32)
        low, high = self.window_hu
        return np.asarray(low + grey * np.float32((high - low) / 255), np.float32)

    def grey(self, hu: FloatArray) -> npt.NDArray[np.integer]:
        """Grey values of HU, of ``bits`` bits; what is outside their range is clipped."""
        if self.bits == 16:
            return np.clip(np.rint(hu - self.offset_hu), 0, 65535).astype(np.uint16)
        low, high = self.window_hu
        return np.clip(np.rint((hu - low) * (255 / (high - low))), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class SliceDataset:
    """Slice folders (see the module)."""

    options: SliceFolderOptions = SliceFolderOptions()
    classes: tuple[int, ...] = (2, 3, 4)

    def cases(self, root: Path) -> list[Case]:
        """All patients in natural order. Raises ScanError where none is found."""
        top = root / self.options.images
        direct = not top.is_dir()
        if direct:  # only folders that are called as patients are: anything may lie in a root
            top = root
        outer = root / self.options.truth
        truths = {_key(n): outer / n for n in folder_names(outer)}
        found = []
        for name in folder_names(top):
            patient = slices_patient(name)
            if name == self.options.truth or (direct and patient is None):
                continue
            labels = truths.get(_key(name))
            inner = top / name / self.options.truth
            if labels is None and inner.is_dir():
                labels = inner
            group = _GROUPS.get((patient or "")[:2], "")
            found.append(Case(safe_name(name), patient or name, top / name, labels, group))
        return checked(found, root, "slices")

    def scan(self, case: Case) -> CTSeries:
        """The scan, HU, on a grid of the options' sizes around the origin.

        Raises ScanError for missing or unreadable images, GeometryError for images of other
        sizes.
        """
        rows = [_images(folder) for folder in self._slices(case)]
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
                data[t, z] = self.options.hu(_alike(path, first.shape, depth), depth)
        times = np.arange(counts[0], dtype=np.float64) * self.options.interval_s
        note = f"interval {self.options.interval_s:g} s and voxel size from the options"
        return CTSeries(data, times, self._grid(data.shape[1:]), (), (note,))

    def truth_files(self, case: Case) -> list[Path]:
        """The truth; see ``io.cases.Layout``."""
        return [] if case.labels is None else [case.labels]

    def labels(self, case: Case, grid: Grid) -> npt.NDArray[np.uint8]:
        """House labels (Z, Y, X) on ``grid``; see ``io.cases.Layout``.

        A grey value within 10 of a level counts as that level.
        """
        if case.labels is None:
            raise no_truth(case)
        slices = self._slices(case)
        truths: dict[str, Path] = {}
        for path in _images(case.labels):
            if _number(path.stem) in truths:
                raise ScanError("two truth images of one slice", path, "Remove one of them")
            truths[_number(path.stem)] = path
        out = np.zeros((len(slices), *grid.shape[1:]), np.uint8)
        for z, folder in enumerate(slices):
            missing = case.labels / f"{folder.name}.png"
            path = truths.pop(_number(folder.name), missing)
            if not path.exists():
                raise ScanError("the truth image is missing", path, "Add it or leave the case out")
            grey, _ = read_grey(path)
            if grey.shape != grid.shape[1:]:
                what = f"a truth image of {grey.shape} for a scan of {grid.shape[1:]} (Y, X)"
                raise GeometryError(what, path, "Resample it onto the scan")
            out[z] = _levels(grey, path)
        if truths or out.shape != grid.shape:
            what = f"truth of {len(slices) + len(truths)} slices for a scan of {grid.shape[0]}"
            raise GeometryError(what, case.labels, "Give one truth image per slice")
        return out

    def _slices(self, case: Case) -> list[Path]:
        found = [case.scan / n for n in folder_names(case.scan) if n != self.options.truth]
        found = [folder for folder in found if _images(folder)]
        if not found:
            what = "no slice folders with images" if case.scan.is_dir() else "no such folder"
            fix = f"Give a folder per slice with an image ({', '.join(IMAGE_ENDINGS)}) per time"
            raise ScanError(what, case.scan, fix)
        return found

    def _grid(self, shape: tuple[int, ...]) -> Grid:
        nz, ny, nx = shape
        pixel, step = self.options.pixel_mm, self.options.slice_mm
        affine = np.diag([-pixel, -pixel, step, 1.0])
        affine[:3, 3] = pixel * (nx - 1) / 2, pixel * (ny - 1) / 2, -step * (nz - 1) / 2
        return Grid((nz, ny, nx), affine)


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
    if safe_name(case_name) != case_name:
        raise SettingsError(f"{case_name!r}", "case name", f"Use e.g. {safe_name(case_name)!r}")
    _check_fit(series, options)
    if labels is not None:
        if labels.shape != series.grid.shape:
            raise GeometryError(f"labels of {labels.shape} for a scan of {series.grid.shape}")
        if labels.max() >= len(GREY_LEVELS):
            raise InputError(f"label value {labels.max()}", fix="Give house labels, 0 to 3")
    check_output_folder(root / options.images / case_name, overwrite=False)
    if labels is not None:
        grey = np.array(GREY_LEVELS, np.uint8)[_displayed(labels, series.grid)]
        with result_folder(root / options.truth / case_name) as folder:
            for z, image in enumerate(grey, 1):
                _write(folder / f"{z:02d}.png", image)
    with result_folder(root / options.images / case_name) as folder:
        for t, frame in enumerate(series.data_hu, 1):
            for z, image in enumerate(options.grey(_displayed(frame, series.grid)), 1):
                _write(folder / f"{z:02d}" / f"{t:02d}.tiff", image)


def read_grey(path: Path) -> tuple[npt.NDArray[np.integer], int]:
    """Grey values (Y, X) of an image, int32, and its depth in bits, 8 or 16.

    A colour image whose channels agree counts as grey.
    Raises ScanError for anything else, or several images in one file.
    """
    try:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise ScanError("several images in one file", path, "Give one file per time point")
            if image.mode.startswith("I"):
                return np.asarray(image).astype(np.int32), 16
            if image.mode == "F":
                raise ScanError("values that are no whole numbers", path, "Write 8 or 16 bits")
            if image.mode == "L":
                return np.asarray(image).astype(np.int32), 8
            pixels = np.asarray(image.convert("RGB"), np.int32)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ScanError(f"not a readable image ({error})", path, "Copy it again") from error
    if (pixels != pixels[..., :1]).any():
        raise ScanError("a colour image", path, "Give grey images of the scan or of the truth")
    return pixels[..., 0], 8


def _alike(path: Path, shape: tuple[int, ...], depth: int) -> npt.NDArray[np.integer]:
    grey, bits = read_grey(path)
    if grey.shape != shape:
        what = f"an image of {grey.shape} among images of {shape} (Y, X)"
        raise GeometryError(what, path, "Export the scan again")
    if bits != depth:
        what = f"an image of {bits} bits among images of {depth}"
        raise ScanError(what, path, "Export the scan again")
    return grey


def _levels(grey: npt.NDArray[np.integer], path: Path) -> npt.NDArray[np.uint8]:
    """House labels of grey levels. Raises ScanError for a value that is near no level."""
    levels = np.array(GREY_LEVELS)
    nearest = np.clip(np.rint(grey / levels[1]), 0, len(levels) - 1).astype(np.uint8)
    wrong = np.abs(grey - levels[nearest]) > _LEVEL_TOLERANCE
    if wrong.any():
        raise ScanError(
            f"grey value {grey[wrong][0]} in a truth image",
            path,
            f"Use {', '.join(map(str, GREY_LEVELS))} (background, brain, penumbra, core)",
        )
    return nearest


def _check_fit(series: CTSeries, options: SliceFolderOptions) -> None:
    fix = "Use options.fitting(series)"
    stated = (options.slice_mm, options.pixel_mm, options.pixel_mm)
    turned = _displayed_spacing(series.grid)
    if not np.allclose(turned, stated, rtol=_SIZE_TOLERANCE):
        found = " x ".join(f"{v:.3g}" for v in turned)
        wanted = " x ".join(f"{v:.3g}" for v in stated)
        raise GeometryError(f"voxels of {found} mm, options of {wanted} mm (z, y, x)", fix=fix)
    steps = np.diff(series.times_s.min(axis=1))
    if np.abs(steps - options.interval_s).max(initial=0) > _TIME_TOLERANCE * options.interval_s:
        raise TimingError(
            f"time steps of {steps.min():g} to {steps.max():g} s, an interval of "
            f"{options.interval_s:g} s in the options",
            fix=f"{fix}; resample irregular times",
        )


def _displayed(data: npt.NDArray, grid: Grid) -> npt.NDArray:
    """An image (Z, Y, X) turned to the orientation of the layout."""
    return np.ascontiguousarray(orientations.apply_orientation(data.T, _turn(grid)).T)


def _displayed_spacing(grid: Grid) -> tuple[float, float, float]:
    dx_dy_dz = grid.spacing_mm[::-1]
    turned = {int(axis): size for size, (axis, _) in zip(dx_dy_dz, _turn(grid), strict=True)}
    return turned[2], turned[1], turned[0]


def _turn(grid: Grid) -> npt.NDArray[np.float64]:
    ours = orientations.io_orientation(grid.affine)
    return np.asarray(orientations.ornt_transform(ours, orientations.axcodes2ornt("LPS")))


def _write(path: Path, grey: npt.NDArray) -> None:
    with atomic_file(path) as temporary:
        Image.fromarray(grey).save(temporary)


def _images(folder: Path) -> list[Path]:
    """The images in a folder, in natural order."""
    if not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
    return sorted((p for p in found if not p.name.startswith(".")), key=lambda p: natural(p.name))


def _key(name: str) -> str:
    """What the folders of scan and truth of one patient have in common."""
    return slices_patient(name) or name


def _number(name: str) -> str:
    """What the names of a slice and of its truth have in common: their last number."""
    numbers = re.findall(r"\d+", name)
    return str(int(numbers[-1])) if numbers else name.lower()
