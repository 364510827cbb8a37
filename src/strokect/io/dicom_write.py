"""Write scans as classic CT images (PS3.3 A.3), one file per time point and slice.

For virtual patients and tests: the patient is named VIRTUAL^PATIENT, and every unique identifier
follows from the seed.
"""

from __future__ import annotations

import datetime
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from strokect.core.errors import GeometryError, OutputError, OutputExistsError, SettingsError
from strokect.core.geometry import LPS_TO_RAS
from strokect.core.types import CTSeries, FloatArray, Grid, Progress, Volume, no_progress

__all__ = [
    "atomic_folder",
    "plane_attributes",
    "series_template",
    "write_ct_series",
    "write_ct_volume",
]

_INTERCEPT = -1024


def write_ct_series(
    series: CTSeries,
    folder: Path | str,
    *,
    seed: int,
    series_description: str = "CTP",
    series_number: int = 1,
    start: str = "20000101120000",
    progress: Progress = no_progress,
) -> list[Path]:
    """Write a CT perfusion scan as T * Z classic CT images, values rounded to 1 HU.

    seed : makes the unique identifiers; scans of one seed are one study. start : date and time
    YYYYMMDDHHMMSS of time 0. Times are written per slice, to 1 microsecond.
    The folder appears whole or not at all. Returns the files, time points first.
    Raises OutputExistsError where the folder holds files already, OutputError where it cannot be
    written, GeometryError where rows and columns of the grid are not perpendicular.
    """
    template = series_template(series.grid, seed, series_description, series_number, start)
    return _write(template, series.data_hu, series.times_s, series.grid, Path(folder), progress)


def write_ct_volume(
    volume: Volume,
    folder: Path | str,
    *,
    seed: int,
    series_description: str = "NCCT",
    series_number: int = 1,
    start: str = "20000101115500",
    progress: Progress = no_progress,
) -> list[Path]:
    """Write one CT volume as Z classic CT images; otherwise as ``write_ct_series``."""
    template = series_template(volume.grid, seed, series_description, series_number, start)
    times = np.zeros((1, volume.grid.shape[0]))
    return _write(template, volume.data[None], times, volume.grid, Path(folder), progress)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary sibling that becomes ``folder`` when the block ends without an error.

    Raises OutputExistsError where ``folder`` is a file or holds anything, OutputError where it
    cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputExistsError("the output is there already", folder, "Choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror})", folder) from error
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.replace(folder)
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror})", folder) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def plane_attributes(grid: Grid) -> tuple[list[float], list[float], npt.NDArray[np.float64]]:
    """Orientation (6,), pixel spacing (rows, columns) and positions (Z, 3), mm LPS, of a grid.

    The inverse of ``geometry.affine_from_dicom``; a shear of the slices stays in the positions.
    Raises GeometryError where rows and columns are not perpendicular: DICOM has no such image.
    """
    lps = LPS_TO_RAS @ grid.affine
    columns, rows = np.linalg.norm(lps[:3, :2], axis=0)
    row, column = lps[:3, 0] / columns, lps[:3, 1] / rows
    if abs(float(row @ column)) > 1e-4:
        raise GeometryError(
            f"rows and columns of the grid meet at {np.degrees(np.arccos(row @ column)):.2f} "
            "degrees; DICOM images need 90",
            "affine",
            "Resample the scan to a grid without shear within slices",
        )
    positions = lps[:3, 3] + np.arange(grid.shape[0])[:, None] * lps[:3, 2]
    return [*row, *column], [float(rows), float(columns)], positions


def series_template(grid: Grid, seed: int, description: str, number: int, start: str) -> Dataset:
    """All attributes that the images of one series share, by the modules of the CT IOD."""
    try:
        moment = datetime.datetime.strptime(start, "%Y%m%d%H%M%S")
    except ValueError:
        raise SettingsError(f"no date and time: {start!r}", "start", "Use YYYYMMDDHHMMSS") from None
    orientation, spacing, positions = plane_attributes(grid)
    normal = np.cross(orientation[:3], orientation[3:])
    step = (
        positions[-1] - positions[-2] if len(positions) > 1 else (LPS_TO_RAS @ grid.affine)[:3, 2]
    )
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "VIRTUAL^PATIENT", "", "", ""
    ds.PatientIdentityRemoved, ds.DeidentificationMethod = "YES", "Virtual patient, no person"
    ds.StudyInstanceUID = _uid(seed, "study")
    ds.StudyDate, ds.StudyTime = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    ds.ReferringPhysicianName, ds.StudyID, ds.AccessionNumber = "", "", ""
    ds.StudyDescription = "Virtual patient, research use only"
    ds.Modality, ds.SeriesDescription, ds.SeriesNumber = "CT", description, number
    ds.SeriesInstanceUID = _uid(seed, "series", description, number)
    ds.PatientPosition, ds.BodyPartExamined = "HFS", "HEAD"
    ds.FrameOfReferenceUID = _uid(seed, "frame of reference", description, number)
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer, ds.ManufacturerModelName = "strokect", "virtual scanner"
    ds.PixelSpacing = [_ds(v) for v in spacing]
    ds.ImageOrientationPatient = [_ds(v) for v in orientation]
    ds.SliceThickness = _ds(abs(float(normal @ step)))
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = grid.shape[1:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(_INTERCEPT), "1", "HU"
    ds.WindowCenter, ds.WindowWidth = "40", "80"
    ds.KVP = "80"
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    return ds


def _write(
    template: Dataset,
    data: FloatArray,
    times: npt.NDArray[np.float64],
    grid: Grid,
    folder: Path,
    progress: Progress,
) -> list[Path]:
    """Write data (T, Z, Y, X) at times (T, Z), one file per image."""
    positions = plane_attributes(grid)[2]
    start = datetime.datetime.strptime(template.StudyDate + template.StudyTime, "%Y%m%d%H%M%S")
    names = []
    with atomic_folder(folder) as temporary:
        for t, frame in enumerate(data):
            for z, image in enumerate(frame):
                number = t * len(frame) + z + 1
                moment = start + datetime.timedelta(seconds=float(times[t, z]))
                _place(template, moment, positions[z], t + 1, number)
                _pixels(template, image)
                names.append(f"{number:05d}.dcm")
                template.save_as(temporary / names[-1], enforce_file_format=True)
                progress(number, data.shape[0] * data.shape[1])
    return [folder / name for name in names]


def _place(
    ds: Dataset,
    moment: datetime.datetime,
    position: npt.NDArray[np.float64],
    acquisition: int,
    number: int,
) -> None:
    """Set what one image has of its own, but for its pixels."""
    ds.SOPInstanceUID = generate_uid(entropy_srcs=[ds.SeriesInstanceUID, str(number)])
    ds.AcquisitionNumber, ds.InstanceNumber = acquisition, number
    date, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
    ds.AcquisitionDateTime = date + time
    ds.AcquisitionDate, ds.AcquisitionTime = date, time
    ds.ContentDate, ds.ContentTime = date, time
    ds.ImagePositionPatient = [_ds(v) for v in position]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _pixels(ds: Dataset, image: FloatArray) -> None:
    """Store HU as signed 16-bit; values that are no number as air."""
    hu = np.nan_to_num(np.asarray(image, np.float64), nan=-1000.0, posinf=3071.0, neginf=-1000.0)
    stored = np.clip(np.rint(hu) - _INTERCEPT, -32768, 32767).astype("<i2")
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"


def _uid(seed: int, *parts: object) -> str:
    return str(generate_uid(entropy_srcs=["strokect", str(seed), *map(str, parts)]))


def _ds(value: float) -> str:
    """A number in the 16 characters of a decimal string."""
    return format_number_as_ds(float(value) + 0.0)
