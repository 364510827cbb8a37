"""Write scans as classic CT images (PS3.3 A.3), one file per time point and slice.

For virtual patients and tests: the patient is named VIRTUAL^PATIENT, and every unique identifier
follows from the seed. A vendor shapes the files as its scanners do (``dicom_vendors``).
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
from strokect.io.dicom_vendors import Vendor, VendorStyle, outside_circle, style_of

__all__ = [
    "Vendor",
    "VendorStyle",
    "atomic_folder",
    "plane_attributes",
    "series_template",
    "write_ct_series",
    "write_ct_volume",
]

#: Angles of the gantry below this, degrees, are rounding.
_TILT_DEG = 0.05


def write_ct_series(
    series: CTSeries,
    folder: Path | str,
    *,
    seed: int,
    series_description: str = "CTP",
    series_number: int = 1,
    start: str = "20000101120000",
    kvp: float = 80,
    vendor: Vendor | VendorStyle = "strokect",
    progress: Progress = no_progress,
) -> list[Path]:
    """Write a CT perfusion scan as T * Z classic CT images, values rounded to 1 HU.

    seed : makes the unique identifiers; scans of one seed are one study. start : date and time
    YYYYMMDDHHMMSS of time 0. Times are written per slice, to 1 microsecond. vendor : whose files
    these look like; a vendor that splits time points into series counts up from series_number.
    The folder appears whole or not at all. Returns the files, time points first.
    Raises OutputExistsError where the folder holds files already, OutputError where it cannot be
    written, GeometryError where rows and columns of the grid are not perpendicular.
    """
    style = style_of(vendor)
    template = series_template(series.grid, seed, series_description, series_number, start)
    _stylise(template, style, series.grid, kvp)
    return _write(
        template, style, series.data_hu, series.times_s, series.grid, Path(folder), progress
    )


def write_ct_volume(
    volume: Volume,
    folder: Path | str,
    *,
    seed: int,
    series_description: str = "NCCT",
    series_number: int = 1,
    start: str = "20000101115500",
    kvp: float = 80,
    vendor: Vendor | VendorStyle = "strokect",
    progress: Progress = no_progress,
) -> list[Path]:
    """Write one CT volume as Z classic CT images; otherwise as ``write_ct_series``."""
    style = style_of(vendor)
    template = series_template(volume.grid, seed, series_description, series_number, start)
    _stylise(template, style, volume.grid, kvp)
    times = np.zeros((1, volume.grid.shape[0]))
    return _write(template, style, volume.data[None], times, volume.grid, Path(folder), progress)


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
    ds.FrameOfReferenceUID = _uid(seed, "frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer, ds.ManufacturerModelName = "strokect", "virtual scanner"
    ds.PixelSpacing = [_ds(v) for v in spacing]
    ds.ImageOrientationPatient = [_ds(v) for v in orientation]
    ds.SliceThickness = _ds(abs(float(normal @ step)))
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = grid.shape[1:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "-1024", "1", "HU"
    ds.WindowCenter, ds.WindowWidth = "40", "80"
    ds.KVP = "80"
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    return ds


def _stylise(ds: Dataset, style: VendorStyle, grid: Grid, kvp: float) -> None:
    """What all images of a vendor have in common."""
    ds.Manufacturer, ds.ManufacturerModelName = style.manufacturer, style.model
    ds.ImageType, ds.KVP = list(style.image_type), f"{kvp:g}"
    ds.RescaleIntercept = str(style.intercept)
    if style.kernel is not None:
        ds.ConvolutionKernel = style.kernel
    if style.unsigned12:
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 0
    if style.padding is not None:
        ds.add_new("PixelPaddingValue", "US" if style.unsigned12 else "SS", style.padding)
    if style.tilt:
        angle = _tilt_deg(grid)
        ds.GantryDetectorTilt = _ds(round(angle, 3) if abs(angle) > _TILT_DEG else 0.0)


def _tilt_deg(grid: Grid) -> float:
    """Angle of the slices against the plane across the table; positive with their front down.

    PS3.3 C.8.2.1: negative is tilted away from where the table enters; the patient lies supine,
    head first.
    """
    columns, step = grid.affine[:3, 1], grid.affine[:3, 2]
    away = float(columns @ step / np.linalg.norm(columns) / np.linalg.norm(step))
    upwards = np.sign(step[2]) or 1.0
    return float(np.degrees(np.arcsin(np.clip(upwards * away, -1, 1))))


def _write(
    template: Dataset,
    style: VendorStyle,
    data: FloatArray,
    times: npt.NDArray[np.float64],
    grid: Grid,
    folder: Path,
    progress: Progress,
) -> list[Path]:
    """Write data (T, Z, Y, X) at times (T, Z), one file per image."""
    positions = plane_attributes(grid)[2]
    start = datetime.datetime.strptime(template.StudyDate + template.StudyTime, "%Y%m%d%H%M%S")
    hidden = outside_circle(*grid.shape[1:]) if style.padding is not None else None
    first_uid, first_number = template.SeriesInstanceUID, int(template.SeriesNumber)
    count, slices = data.shape[:2]
    names = []
    with atomic_folder(folder) as temporary:
        for t, frame in enumerate(data):
            if style.split and t > 0:
                template.SeriesNumber = first_number + t
                template.SeriesInstanceUID = generate_uid(
                    entropy_srcs=[first_uid, "series", str(t)]
                )
            for z, image in enumerate(frame):
                done = t * slices + z + 1
                template.SOPInstanceUID = generate_uid(entropy_srcs=[first_uid, str(done)])
                template.AcquisitionNumber = t + 1 if style.acquisition_number == "frame" else 1
                order = z * count + t + 1 if style.slice_major else done
                template.InstanceNumber = z + 1 if style.split else order
                if style.temporal_index and count > 1:
                    template.TemporalPositionIndex = t + 1
                _tell_time(template, style, start, float(times[t, z]))
                template.ImagePositionPatient = [_ds(v) for v in positions[z]]
                _file_meta(template)
                _pixels(template, image, style, hidden)
                names.append(f"{done:05d}.dcm")
                template.save_as(temporary / names[-1], enforce_file_format=True)
                progress(done, count * slices)
    return [folder / name for name in names]


def _tell_time(ds: Dataset, style: VendorStyle, start: datetime.datetime, time_s: float) -> None:
    """Set the times of one image, where the vendor puts them."""
    moment = start + datetime.timedelta(seconds=time_s)
    acquired = moment if "acquisition time" in style.times else start
    shown = moment if "content time" in style.times else start
    if "acquisition datetime" in style.times:
        ds.AcquisitionDateTime = moment.strftime("%Y%m%d%H%M%S.%f")
    ds.AcquisitionDate, ds.AcquisitionTime = _date_and_time(acquired)
    ds.ContentDate, ds.ContentTime = _date_and_time(shown)
    if "trigger time" in style.times:
        ds.TriggerTime = _ds(round(1000 * time_s, 3))


def _date_and_time(moment: datetime.datetime) -> tuple[str, str]:
    return moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")


def _file_meta(ds: Dataset) -> None:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _pixels(
    ds: Dataset,
    image: FloatArray,
    style: VendorStyle,
    hidden: npt.NDArray[np.bool_] | None,
) -> None:
    """Store HU in 16 bits; values that are no number as air; padding outside the circle."""
    hu = np.nan_to_num(np.asarray(image, np.float64), nan=-1000.0, posinf=3071.0, neginf=-1000.0)
    low, high = (0, 4095) if style.unsigned12 else (-32768, 32767)
    stored = np.clip(np.rint(hu) - style.intercept, low, high)
    if hidden is not None and style.padding is not None:
        stored[hidden] = style.padding
    ds.PixelData = stored.astype("<u2" if style.unsigned12 else "<i2").tobytes()
    ds["PixelData"].VR = "OW"


def _uid(seed: int, *parts: object) -> str:
    return str(generate_uid(entropy_srcs=["strokect", str(seed), *map(str, parts)]))


def _ds(value: float) -> str:
    """A number in the 16 characters of a decimal string."""
    return format_number_as_ds(float(value) + 0.0)
