"""Small DICOM scans for the tests, written by strokect and then altered like scanners do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from strokect.core.types import CTSeries, Grid
from strokect.io.dicom_write import write_ct_series

SHAPE = (6, 4, 32, 32)
SECRETS = ("Geheim", "ID4711", "19420317", "20231224", "1.2.3.999")


def upright() -> np.ndarray:
    return np.array([[-0.5, 0, 0, 8.0], [0, -0.6, 0, 9.0], [0, 0, 5, -20.0], [0, 0, 0, 1]])


def tilted(degrees: float = 18.5) -> np.ndarray:
    """Rows and columns tilted about the left-right axis, slices along z: a sheared grid."""
    affine, angle = upright(), np.deg2rad(degrees)
    affine[:3, 1] = -0.6 * np.array([0, np.cos(angle), np.sin(angle)])
    return affine


def make_series(
    affine: np.ndarray | None = None, interval_s: float = 1.5, slice_s: float = 0.02
) -> CTSeries:
    """A scan whose values are linear in time and differ from voxel to voxel."""
    rng = np.random.default_rng(7)
    count, slices = SHAPE[:2]
    base = rng.uniform(-900, 1500, SHAPE[1:]).astype(np.float32)
    slope = rng.uniform(0, 12, SHAPE[1:]).astype(np.float32)
    data = base + slope * np.arange(count, dtype=np.float32)[:, None, None, None]
    times = np.arange(count)[:, None] * interval_s + np.arange(slices) * slice_s
    grid = Grid(SHAPE[1:], upright() if affine is None else affine)
    return CTSeries(np.rint(data), times, grid)


def write(folder: Path, series: CTSeries | None = None, **options: object) -> list[Path]:
    return write_ct_series(series or make_series(), folder, seed=1, **options)  # type: ignore[arg-type]


def edit(paths: list[Path], change: Callable[[Dataset], None]) -> None:
    """Change files in place."""
    for path in paths:
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)


def without(*keywords: str) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for keyword in keywords:
            if keyword in dataset:
                delattr(dataset, keyword)

    return change


ALL_TIMES = without(
    "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime", "ContentDate", "ContentTime"
)


def add_map(folder: Path, template: Path, name: str, **values: object) -> Path:
    """An image of another series, made from a scan image by setting ``values``."""
    dataset = pydicom.dcmread(template)
    dataset.SeriesInstanceUID, dataset.SOPInstanceUID = generate_uid(), generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.SeriesNumber = 77
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    folder.mkdir(parents=True, exist_ok=True)
    dataset.save_as(folder / name)
    return folder / name


def make_colour(dataset: Dataset) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.PlanarConfiguration, dataset.BitsAllocated = 0, 8
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 7, 0
    dataset.PixelData = bytes(dataset.Rows * dataset.Columns * 3)
    dataset["PixelData"].VR = "OB"


def identify(dataset: Dataset) -> None:
    """Give an image a person."""
    dataset.PatientName, dataset.PatientID = "Geheim^Person", "ID4711"
    dataset.PatientBirthDate = "19420317"
    dataset.StudyDate = dataset.AcquisitionDate = dataset.ContentDate = "20231224"
    dataset.AcquisitionDateTime = "20231224" + dataset.AcquisitionTime
    dataset.StudyInstanceUID = "1.2.3.999.1"
    dataset.SeriesInstanceUID = "1.2.3.999.2"
