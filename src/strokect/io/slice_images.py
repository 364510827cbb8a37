"""Images of slice folders: their options, their pixels, and how they lie."""

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
from strokect.core.colours import Bytes
from strokect.core.errors import GeometryError, InputError, ScanError, SettingsError, TimingError
from strokect.core.types import CTSeries, FloatArray, Grid
from strokect.io.cases import IMAGE_ENDINGS, natural, safe_name, slices_patient
from strokect.io.outputs import atomic_file, check_output_folder, result_folder

#: Farthest that a grey value may lie from its level (compression, resampling).
_LEVEL_TOLERANCE = 10
_TIME_TOLERANCE = 0.1
_SIZE_TOLERANCE = 0.01
#: What Pillow raises for a file that is no image.
_BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
_FIX = "Use options.fitting(series)"


@dataclass(frozen=True)
class SliceFolderOptions:
    """What the images do not say.

    images, truth, maps : names of the folders of scans, truth and maps. interval_s : s between
    time points. slice_mm : distance of slices. pixel_mm : edge of a pixel (0.43: 220 mm over
    512). window_hu : HU of grey 0 and 255 of 8-bit images, linear between. offset_hu : added to the
    values of 16-bit images to give HU. bits : of images that are written; 16 keeps whole HU.
    colour_bar_px : columns at the right of colour maps that show a colour bar: they become black.
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
    maps: str = "Parametric_Maps"
    colour_bar_px: int = 0

    def __post_init__(self) -> None:
        for name in ("interval_s", "slice_mm", "pixel_mm"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise SettingsError(f"{value}", name, "Give a positive number")
        if not self.window_hu[1] > self.window_hu[0]:
            raise SettingsError(f"{self.window_hu}", "window_hu", "Give the lower value first")
        if self.bits not in (8, 16):
            raise SettingsError(f"{self.bits}", "bits", "Choose 8 or 16")
        names = {"images": self.images, "truth": self.truth, "maps": self.maps}
        for name, folder in names.items():
            if not folder or sum(folder == other for other in names.values()) > 1:
                what = "one name for several folders" if folder else "no name of a folder"
                raise SettingsError(what, name, "Give scans, truth and maps a name each")
        if self.colour_bar_px < 0:
            raise SettingsError(f"{self.colour_bar_px}", "colour_bar_px", "Give 0 or more")

    def fitting(self, series: CTSeries) -> SliceFolderOptions:
        """These options with interval, slice distance and pixel size of a scan."""
        return replace(self.of_grid(series.grid), interval_s=series.interval_s)

    def of_grid(self, grid: Grid) -> SliceFolderOptions:
        """These options with slice distance and pixel size of a grid."""
        slice_mm, _, pixel_mm = _displayed_spacing(grid)
        return replace(self, slice_mm=slice_mm, pixel_mm=pixel_mm)

    def grid(self, shape: tuple[int, ...]) -> Grid:
        """The grid of images (Z, Y, X) of these sizes, around the origin."""
        nz, ny, nx = shape
        affine = np.diag([-self.pixel_mm, -self.pixel_mm, self.slice_mm, 1.0])
        affine[:3, 3] = (
            self.pixel_mm * (nx - 1) / 2, self.pixel_mm * (ny - 1) / 2,
            -self.slice_mm * (nz - 1) / 2,
        )  # fmt: skip
        return Grid((nz, ny, nx), affine)

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


def read_grey(path: Path) -> tuple[npt.NDArray[np.integer], int]:
    """Grey values (Y, X) of an image, int32, and its depth in bits, 8 or 16.

    A colour image whose channels agree counts as grey.
    Raises ScanError for anything else, or several images in one file.
    """
    try:
        with Image.open(path) as image:
            _check_single(image, path)
            if image.mode.startswith("I"):
                return np.asarray(image).astype(np.int32), 16
            if image.mode == "F":
                raise ScanError(
                    "values that are no whole numbers", path, "Write 8 bits, or 16 for a scan"
                )
            if image.mode == "L":
                return np.asarray(image).astype(np.int32), 8
            pixels = np.asarray(image.convert("RGB"), np.int32)
    except _BROKEN as error:
        raise _unreadable(path, error) from error
    if (pixels != pixels[..., :1]).any():
        raise ScanError("a colour image", path, "Give grey images of the scan or of the truth")
    return pixels[..., 0], 8


def read_colours(path: Path) -> Bytes | None:
    """Colours (Y, X, 3) of a colour image, black where it is transparent; None for a grey one.

    Raises ScanError for what is no image, or several in one file.
    """
    try:
        with Image.open(path) as image:
            _check_single(image, path)
            if image.mode in ("L", "1", "F") or image.mode.startswith("I"):
                return None
            pixels = np.asarray(image.convert("RGBA"), np.uint16)
    except _BROKEN as error:
        raise _unreadable(path, error) from error
    return np.asarray((pixels[..., :3] * pixels[..., 3:] + 127) // 255, np.uint8)


def read_grey_like(path: Path, shape: tuple[int, ...], depth: int) -> npt.NDArray[np.integer]:
    """Grey values of an image that is as the others are. Raises GeometryError, ScanError."""
    grey, bits = read_grey(path)
    if grey.shape != shape:
        what = f"an image of {grey.shape} among images of {shape} (Y, X)"
        raise GeometryError(what, path, "Export the scan again")
    if bits != depth:
        what = f"an image of {bits} bits among images of {depth}"
        raise ScanError(what, path, "Export the scan again")
    return grey


def to_labels(grey: npt.NDArray[np.integer], path: Path) -> npt.NDArray[np.uint8]:
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


def begin_case(
    root: Path,
    room: str,
    case_name: str,
    labels: Bytes | None,
    grid: Grid,
    options: SliceFolderOptions,
) -> None:
    """Check that ``room`` is free for a case, and write its truth where given, which comes first.

    Raises what ``check_labels`` does, OutputExistsError where the case is there already.
    """
    if labels is not None:
        check_labels(labels, grid)
    check_output_folder(root / room / case_name, overwrite=False)
    if labels is not None:
        write_truth_slices(root, case_name, labels, grid, options)


def write_truth_slices(
    root: Path, case_name: str, labels: Bytes, grid: Grid, options: SliceFolderOptions
) -> None:
    """Write house labels (Z, Y, X) on ``grid`` as one grey-level image per slice.

    Raises what ``check_labels`` does, OutputExistsError where they are there already.
    """
    check_labels(labels, grid)
    grey = np.array(GREY_LEVELS, np.uint8)[displayed(labels, grid)]
    with result_folder(root / options.truth / case_name) as folder:
        for z, image in enumerate(grey, 1):
            write_image(folder / f"{z:02d}.png", image)


def check_labels(labels: Bytes, grid: Grid) -> None:
    """Raises GeometryError for labels off the grid, InputError for labels that are not ours."""
    if labels.shape != grid.shape:
        raise GeometryError(f"labels of {labels.shape} for a scan of {grid.shape}")
    if labels.max() >= len(GREY_LEVELS):
        raise InputError(f"label value {labels.max()}", fix="Give house labels, 0 to 3")


def check_name(case_name: str) -> None:
    """Raises SettingsError for a name that does not do for a folder."""
    if safe_name(case_name) != case_name:
        raise SettingsError(f"{case_name!r}", "case name", f"Use e.g. {safe_name(case_name)!r}")


def check_sizes(grid: Grid, options: SliceFolderOptions) -> None:
    """Raises GeometryError where the options state other sizes than the grid's."""
    stated = (options.slice_mm, options.pixel_mm, options.pixel_mm)
    turned = _displayed_spacing(grid)
    if not np.allclose(turned, stated, rtol=_SIZE_TOLERANCE):
        found = " x ".join(f"{v:.3g}" for v in turned)
        wanted = " x ".join(f"{v:.3g}" for v in stated)
        raise GeometryError(f"voxels of {found} mm, options of {wanted} mm (z, y, x)", fix=_FIX)


def check_times(series: CTSeries, options: SliceFolderOptions) -> None:
    """Raises TimingError where the options state other times than the scan's."""
    steps = np.diff(series.times_s.min(axis=1))
    if np.abs(steps - options.interval_s).max(initial=0) > _TIME_TOLERANCE * options.interval_s:
        raise TimingError(
            f"time steps of {steps.min():g} to {steps.max():g} s, an interval of "
            f"{options.interval_s:g} s in the options",
            fix=f"{_FIX}; resample irregular times",
        )


def displayed(data: npt.NDArray, grid: Grid) -> npt.NDArray:
    """An image (Z, Y, X), or colours (Z, Y, X, 3), turned to the orientation of the layout."""
    if data.ndim == 4:
        return np.stack([displayed(data[..., c], grid) for c in range(data.shape[3])], axis=-1)
    return np.ascontiguousarray(orientations.apply_orientation(data.T, _turn(grid)).T)


def _displayed_spacing(grid: Grid) -> tuple[float, float, float]:
    dx_dy_dz = grid.spacing_mm[::-1]
    turned = {int(axis): size for size, (axis, _) in zip(dx_dy_dz, _turn(grid), strict=True)}
    return turned[2], turned[1], turned[0]


def _turn(grid: Grid) -> npt.NDArray[np.float64]:
    ours = orientations.io_orientation(grid.affine)
    return np.asarray(orientations.ornt_transform(ours, orientations.axcodes2ornt("LPS")))


def write_image(path: Path, grey: npt.NDArray) -> None:
    """Write grey values (Y, X) or colours (Y, X, 3), atomically."""
    with atomic_file(path) as temporary:
        Image.fromarray(grey).save(temporary)


def images_in(folder: Path) -> list[Path]:
    """The images in a folder, in natural order."""
    if not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
    return sorted((p for p in found if not p.name.startswith(".")), key=lambda p: natural(p.name))


def person_key(name: str) -> str:
    """What the folders of scan, truth and maps of one patient have in common."""
    return slices_patient(name) or name


def slice_key(name: str) -> str:
    """What the names of a slice and of its truth have in common: their last number."""
    numbers = re.findall(r"\d+", name)
    return str(int(numbers[-1])) if numbers else name.lower()


def _check_single(image: Image.Image, path: Path) -> None:
    if getattr(image, "n_frames", 1) > 1:
        raise ScanError("several images in one file", path, "Give one file per image")


def _unreadable(path: Path, error: BaseException) -> ScanError:
    return ScanError(f"not a readable image ({error})", path, "Copy it again")
