"""Maps as folders of classic DICOM images, one image per slice (``datasets_unitobrain``).

A map is its rescaled values (slope and intercept), whatever kind of image its headers claim to
be: software that writes maps states SOP class and image type as it likes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from strokect.core.errors import GeometryError, ScanError
from strokect.core.types import BoolArray, FloatArray, Grid, Volume
from strokect.io import dicom, dicom_stack
from strokect.io.dicom_headers import ImageHeader, damaged, quiet, read_headers
from strokect.io.dicom_series import positions_of
from strokect.io.dicom_write import atomic_folder, plane_attributes, series_template

#: Finest step of values that are written, in the unit of the map.
_STEP = 0.01
_LARGEST = 32767


@dataclass(frozen=True)
class MapSeries:
    """What the headers of a map say. prefix : of the names of its files. seed : of its UIDs."""

    description: str
    number: int
    prefix: str
    seed: int


def read_map_folder(folder: Path) -> Volume:
    """A map (Z, Y, X) float32, slope times stored value plus intercept, NaN where it is padding.

    Slices are sorted, and brought to a regular distance where theirs varies, as those of a scan.
    Raises ScanError for no or damaged images, two of one slice, colour images and images without
    a rescale; GeometryError for images without position and for slices that do not fit together.
    """
    images = read_headers(folder)[0]
    _check(images, folder)
    positions = positions_of(images)
    for part in positions:
        if len(part) > 1:
            what = f"{len(part)} images of one slice in a map"
            raise ScanError(what, images[part[1]].path, "Leave one image per slice")
    geometry = dicom_stack._geometry(images, positions)
    with quiet():
        data = np.stack([_values(images[part[0]]) for part in positions])
    if geometry.resampled:
        data = dicom._resample(data[None], geometry)[0]
    return Volume(data, geometry.grid)


def known_values(values: FloatArray) -> BoolArray:
    """Where a map (Z, Y, X) is not at its background.

    The background is the value that the corners of all slices share, which lie outside of the
    head; 0 where they share none.
    """
    corners = values[:, [0, 0, -1, -1], [0, -1, 0, -1]].ravel()
    outside = corners[0] if (corners == corners[0]).all() else 0.0
    return np.asarray(np.isfinite(values) & (values != outside))


def write_map_folder(folder: Path, values: FloatArray, grid: Grid, series: MapSeries) -> None:
    """Write a map (Z, Y, X) as derived CT images in steps of 0.01, coarser where it must be.

    Values that are no number become 0. The folder appears whole or not at all.
    Raises GeometryError for a map off the grid or rows and columns that are not perpendicular,
    OutputExistsError where the folder holds files, OutputError where it cannot be written.
    """
    if values.shape != grid.shape:
        raise GeometryError(f"a map of shape {values.shape} on a grid of {grid.shape}", folder)
    clean = np.nan_to_num(np.asarray(values, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    slope = max(_STEP, round(float(np.abs(clean).max()) / _LARGEST + 5e-7, 6))
    ds = series_template(grid, series.seed, series.description, series.number, "20000101120000")
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = f"{slope:g}", "0", "US"
    ds.ContentDate, ds.ContentTime = ds.StudyDate, ds.StudyTime
    with atomic_folder(folder) as temporary:
        for z, position in enumerate(plane_attributes(grid)[2]):
            ds.SOPInstanceUID = generate_uid(entropy_srcs=[ds.SeriesInstanceUID, str(z)])
            ds.InstanceNumber, ds.AcquisitionNumber = z + 1, 1
            ds.ImagePositionPatient = [f"{v + 0.0:.6f}" for v in position]
            ds.PixelData = np.rint(clean[z] / slope).astype("<i2").tobytes()
            ds["PixelData"].VR = "OW"
            ds.file_meta = FileMetaDataset()
            ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            name = f"{series.prefix}{z + 1:05d}.dcm"
            ds.save_as(temporary / name, enforce_file_format=True)


def _check(images: list[ImageHeader], folder: Path) -> None:
    """Refuse images that have no place, or not one matrix and pixel spacing."""
    if not images:
        raise ScanError("no images of a map", folder, "Give the folder of its DICOM images")
    first = images[0]
    for image in images:
        if None in (image.orientation, image.position, image.spacing_mm):
            what = "no Image Position, Image Orientation or Pixel Spacing in an image of a map"
            raise GeometryError(what, image.path, "Export the map again with its geometry")
        if image.matrix != first.matrix:
            what = f"an image of {image.matrix} among images of {first.matrix} (Y, X)"
            raise GeometryError(what, image.path, "Leave the images of one map")
        if not np.allclose(image.spacing_mm or (), first.spacing_mm or (), atol=1e-3):
            what = f"pixels of {image.spacing_mm} mm among pixels of {first.spacing_mm} mm"
            raise GeometryError(what, image.path, "Leave the images of one map")


def _values(image: ImageHeader) -> FloatArray:
    """Rescaled values of one image, (Y, X) float32, NaN where it is padding."""
    try:
        dataset = pydicom.dcmread(image.path, force=True)
    except (EOFError, OSError, ValueError) as error:
        raise damaged(image.path) from error
    stored = dicom._stored_values(dataset, image.path)
    if stored.shape != image.matrix:
        what = f"an image of shape {stored.shape}, not one value per pixel"
        raise ScanError(what, image.path, "Give the map in grey levels, not in colour")
    try:
        slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    except (AttributeError, TypeError, ValueError):
        what = "no Rescale Slope and Intercept, so the values are in no known unit"
        raise ScanError(what, image.path, "Export the map again") from None
    values = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    padding = dicom._padding(dataset)
    if padding is not None:
        values[(stored >= padding[0]) & (stored <= padding[1])] = np.nan
    return np.asarray(values)
