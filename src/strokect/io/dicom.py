"""Read CT scans from folders of classic DICOM CT images (PS3.3 A.3).

A folder may hold anything else too: other series, localisers, colour maps, reports, files that
are not DICOM. What was read and what was ignored is told in the notes of the series.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder

from strokect.core.errors import ScanError, TimingError
from strokect.core.types import CTSeries, FloatArray, Progress, Volume, no_progress
from strokect.io.dicom_headers import damaged, quiet
from strokect.io.dicom_series import SeriesInfo, find_series
from strokect.io.dicom_stack import ImageStack, StackGeometry, stack_ct, stack_ctp

__all__ = [
    "ImageStack",
    "SeriesInfo",
    "StackGeometry",
    "find_series",
    "read_ct_folder",
    "read_ctp_folder",
    "stack_ct",
    "stack_ctp",
]

#: HU of air, given to everything that was not imaged.
AIR_HU = -1000.0
#: No material lies below: vacuum is -1000 and 12-bit scanners store down to -1024. Lower values
#: mark pixels outside the field of view (GE -1500, -2000, -3024, others -2048, -8192).
LOWEST_HU = -1024.0
#: A padding value within this range would punch holes into tissue; such headers are wrong.
_TISSUE_HU = (-900.0, 3000.0)


def read_ctp_folder(
    folder: Path | str,
    *,
    interval_s: float | None = None,
    times_s: npt.ArrayLike | None = None,
    series_number: int | None = None,
    progress: Progress = no_progress,
) -> CTSeries:
    """Read the CT perfusion scan below a folder.

    interval_s : time between frames, s; times_s : (T,) or (T, Z), s. Either overrides the times
    of the headers. series_number : read only this series; else the one with most time points.
    Returns HU on a regular grid, sheared for a tilted gantry, with the times of every slice.
    Raises ScanError without a dynamic scan, for missing or damaged images; TimingError without
    acquisition times; GeometryError for slices that do not fit together.
    """
    stack = stack_ctp(
        Path(folder), interval_s=interval_s, times_s=times_s, series_number=series_number
    )
    data, notes = _read_pixels(stack, progress)
    _fill(data, stack)
    geometry, times = stack.geometry, stack.times_s
    if geometry.resampled:
        lower, weight = geometry.weights()
        times = _between(times[:, lower], times[:, _above(lower, times.shape[1])], weight)
        data = _resample(data, geometry)
    if len(data) < 2:
        raise ScanError("one time point", folder, "Perfusion needs a dynamic scan")
    return CTSeries(data, times, geometry.grid, stack.flags, stack.notes + notes)


def read_ct_folder(
    folder: Path | str,
    *,
    series_number: int | None = None,
    progress: Progress = no_progress,
) -> Volume:
    """Read the single CT volume (plain CT or angiography) below a folder.

    series_number : read only this series; else the original series with the most slices, named
    in a SERIES_CHOSEN flag where there are several. Returns HU, (Z, Y, X), on a regular grid.
    Raises ScanError without a CT volume or for a dynamic one, GeometryError for slices that do
    not fit together.
    """
    stack = stack_ct(Path(folder), series_number=series_number)
    data, _ = _read_pixels(stack, progress)
    if stack.geometry.resampled:
        data = _resample(data, stack.geometry)
    return Volume(data[0], stack.geometry.grid, stack.flags)


def image_hu(dataset: Dataset, path: Path) -> tuple[FloatArray, bool]:
    """HU of one image, (Y, X) float32, and whether a padding value within tissue was ignored.

    Padding (PS3.3 C.7.5.1.1.2) and values below -1024 HU become air.
    Raises ScanError for pixels that cannot be decoded and for a missing rescale.
    """
    stored = _stored_values(dataset, path)
    try:
        slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    except (AttributeError, TypeError, ValueError):
        raise ScanError(
            "no Rescale Slope and Intercept, so the values are not in HU",
            path,
            "Export the original images",
        ) from None
    hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    limits = _padding(dataset)
    ignored = False
    if limits is not None:
        ends = [v * slope + intercept for v in limits]
        ignored = any(_TISSUE_HU[0] < v < _TISSUE_HU[1] for v in ends)
        if not ignored:
            hu[(stored >= limits[0]) & (stored <= limits[1])] = AIR_HU
    hu[~(hu >= LOWEST_HU)] = AIR_HU
    return hu, ignored


def _stored_values(dataset: Dataset, path: Path) -> npt.NDArray[np.integer]:
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if "PixelData" not in dataset:
        raise damaged(path)
    if syntax is not None and syntax.is_compressed and syntax.is_encapsulated:
        try:
            available = get_decoder(syntax).is_available
        except NotImplementedError:  # pydicom's answer for a transfer syntax it does not know
            available = False
        if not available:
            raise ScanError(
                f"cannot decode {syntax.name}",
                path,
                "Install a decoder (pip install python-gdcm), or export the images uncompressed",
            )
    try:
        return np.asarray(dataset.pixel_array)
    except Exception as error:  # decoders raise their own kinds
        raise damaged(path) from error


def _padding(dataset: Dataset) -> tuple[float, float] | None:
    """Lowest and highest stored value of the padding, inclusive; None without padding."""
    value = dataset.get("PixelPaddingValue")
    limit = dataset.get("PixelPaddingRangeLimit", value)
    if not isinstance(value, int) or not isinstance(limit, int):
        return None
    ends = [value, limit]
    if dataset.PixelRepresentation == 1:  # written as unsigned by some: 63536 for -2000
        size = 1 << int(dataset.BitsAllocated)
        ends = [v - size if v >= size // 2 else v for v in ends]
    return min(ends), max(ends)


def _read_pixels(stack: ImageStack, progress: Progress) -> tuple[FloatArray, tuple[str, ...]]:
    """HU of all images, (T, Z, Y, X) float32; missing ones are left at 0. And notes."""
    data = np.zeros(stack.shape, dtype=np.float32)
    total, done, ignored = data.shape[0] * data.shape[1], 0, False
    with quiet():
        for t, row in enumerate(stack.images):
            for z, image in enumerate(row):
                done += 1
                if image is None:
                    continue
                try:
                    dataset = pydicom.dcmread(image.path, force=True)
                except (EOFError, OSError, ValueError) as error:
                    raise damaged(image.path) from error
                hu, wrong_padding = image_hu(dataset, image.path)
                if hu.shape != data.shape[2:]:
                    raise damaged(image.path)
                data[t, z] = hu
                ignored |= wrong_padding
                progress(done, total)
    note = "ignored a Pixel Padding Value that lies within the range of tissue"
    return data, (note,) if ignored else ()


def _fill(data: FloatArray, stack: ImageStack) -> None:
    """Fill missing images in place, linear between the neighbours in time."""
    for t, row in enumerate(stack.images):
        for z, image in enumerate(row):
            if image is None:
                before, now, after = stack.times_s[t - 1 : t + 2, z]
                if not before < now < after:
                    raise TimingError("no times around a missing image", f"time point {t + 1}")
                w = np.float32((now - before) / (after - before))
                data[t, z] = (1 - w) * data[t - 1, z] + w * data[t + 1, z]


def _resample(data: FloatArray, geometry: StackGeometry) -> FloatArray:
    """Slices at the regular places of the grid, linear along the slice step; frame by frame."""
    lower, weight = geometry.weights()
    upper = _above(lower, data.shape[1])
    w = weight.astype(np.float32)[:, None, None]
    out = np.empty((data.shape[0], len(lower), *data.shape[2:]), dtype=np.float32)
    for t, frame in enumerate(data):
        out[t] = _between(frame[lower], frame[upper], w)
    return out


def _above(lower: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    return np.minimum(lower + 1, count - 1)


def _between(a: FloatArray, b: FloatArray, weight: FloatArray) -> FloatArray:
    return (1 - weight) * a + weight * b
