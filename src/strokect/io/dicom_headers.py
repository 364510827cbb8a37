"""Headers of DICOM files: what a reader needs to sort them, and nothing about the patient.

A header keeps no name, identifier, or date as text. Times are seconds on an arbitrary clock,
unique identifiers serve to group images, and neither is ever put in a note or message.
"""

from __future__ import annotations

import datetime
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from strokect.core.errors import ScanError

Kind = Literal[
    "scan",
    "localiser",
    "derived map",
    "colour image",
    "inverted image",
    "secondary capture",
    "report",
    "enhanced CT",
    "no geometry",
    "other",
]
Vector = tuple[float, ...]

#: Tags that tell time points apart, in order of trust; the values are numbers.
FRAME_KEYS = (
    "Acquisition DateTime",
    "Acquisition Time",
    "Temporal Position Identifier",
    "Temporal Position Index",
    "Acquisition Number",
    "Content Time",
    "Trigger Time",
    "Series Number",
    "Instance Number",
)
#: Those which are times, in order of trust; seconds.
TIME_KEYS = ("Acquisition DateTime", "Acquisition Time", "Trigger Time", "Content Time")

DAY_S = 86400.0
_EPOCH = datetime.date(2000, 1, 1).toordinal()  # a near one keeps microseconds in a float

_CT = "1.2.840.10008.5.1.4.1.1.2"
_ENHANCED_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_REPORT = ("1.2.840.10008.5.1.4.1.1.88", "1.2.840.10008.5.1.4.1.1.104")
_DIRECTORY = "1.2.840.10008.1.3.10"

_MAP_WORDS = frozenset(
    [
        "CBF",
        "CBV",
        "MTT",
        "TTP",
        "TMAX",
        "TTD",
        "TTS",
        "RCBF",
        "RCBV",
        "RMTT",
        "RTTP",
        "RTMAX",
        "PERMEABILITY",
        "PENUMBRA",
        "MISMATCH",
    ]
)
_MAP_TYPES = _MAP_WORDS | frozenset(["PERFUSION", "MIP", "MINIP", "TMIP", "VRT", "RENDERING"])
_LOCALISER = frozenset(["LOCALIZER", "LOCALISER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM"])
_PLANE_TYPES = frozenset(["AXIAL", "MPR", "REFORMATTED"])

_TAGS: list[int | str | tuple[int, int]] = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "Modality",
    "ImageType",
    "Rows",
    "Columns",
    "PixelSpacing",
    "SliceThickness",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PhotometricInterpretation",
    "SamplesPerPixel",
    "NumberOfFrames",
    "RescaleType",
    "AcquisitionDateTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "ContentDate",
    "ContentTime",
    "TriggerTime",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "AcquisitionNumber",
    "InstanceNumber",
]


@dataclass(frozen=True)
class ImageHeader:
    """What sorts one DICOM file into a scan.

    orientation : (6,), position : (3,), mm LPS. spacing_mm : (between rows, between columns).
    keys : numbers by the names of FRAME_KEYS; times in s. Values that are absent are left out.
    """

    path: Path
    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    series_number: int | None
    description: str
    image_type: tuple[str, ...]
    kind: Kind
    matrix: tuple[int, int]
    spacing_mm: Vector | None
    orientation: Vector | None
    position: Vector | None
    thickness_mm: float | None
    keys: dict[str, float]


def read_headers(folder: Path) -> tuple[list[ImageHeader], int]:
    """Headers of all DICOM files below ``folder``, in the order of their paths.

    Returns the headers and the number of files that are not DICOM.
    Raises ScanError where the folder is absent, is a file, or holds no DICOM file, and for a
    damaged DICOM file.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ScanError("a file was given, not a folder", folder, "Give the folder that holds it")
    if not folder.is_dir():
        raise ScanError("no such folder", folder, "Check the path")
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if not files:
        raise ScanError("the folder is empty", folder, "Give the folder of the DICOM images")
    with quiet():
        headers = [h for h in map(read_header, files) if h is not None]
    if not headers:
        raise ScanError(
            f"none of the {len(files)} files is DICOM", folder, "Give the folder of the images"
        )
    kept = [h for h in headers if h.sop_class != _DIRECTORY]
    return kept, len(files) - len(headers)


def read_header(path: Path) -> ImageHeader | None:
    """Header of one file; None where it is not DICOM. Raises ScanError where it is damaged."""
    marker = _marker(path)
    if marker == "none":
        return None
    try:
        dataset = pydicom.dcmread(
            path, stop_before_pixels=True, force=marker == "bare", specific_tags=_TAGS
        )
        header = _header(path, dataset)
    except InvalidDicomError:
        return None
    except (EOFError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        if marker == "bare":
            return None
        raise damaged(path) from error
    if not header.sop_class or (header.sop_class == _CT and 0 in header.matrix):
        if marker == "bare":
            return None
        raise damaged(path)
    return header


def damaged(path: Path) -> ScanError:
    """The error for a truncated or corrupt file."""
    return ScanError("truncated or damaged DICOM file", path, "Copy it again, or remove it")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom, whose warnings quote the values of a header."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def clock_s(time: str, date: str = "") -> float | None:
    """Seconds of a DICOM time HHMMSS.FFFFFF on a DICOM date YYYYMMDD; None where it is no time.

    Colons of older files are allowed. Without a usable date the day is 0.
    """
    match = re.match(r"(\d{2}):?(\d{2})?:?(\d{2}(?:\.\d*)?)?", time.strip())
    if match is None:
        return None
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    digits = re.sub(r"\D", "", date)[:8]
    try:
        day = (
            datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])).toordinal() - _EPOCH
        )
    except ValueError:
        day = 0
    return day * DAY_S + hours * 3600 + minutes * 60 + seconds


def _marker(path: Path) -> Literal["part10", "bare", "none"]:
    """Whether a file starts as DICOM: with a preamble, as a bare data set, or not at all."""
    try:
        with path.open("rb") as stream:
            start = stream.read(132)
    except OSError as error:
        raise ScanError("cannot read the file", path, "Check its permissions") from error
    if start[128:] == b"DICM":
        return "part10"
    return "bare" if start[:2] in (b"\x02\x00", b"\x08\x00") else "none"


def _header(path: Path, dataset: Dataset) -> ImageHeader:
    number = _number(dataset, "SeriesNumber")
    image_type = tuple(v.upper() for v in _texts(dataset, "ImageType"))
    header = ImageHeader(
        path=path,
        sop_class=_text(dataset, "SOPClassUID"),
        sop_uid=_text(dataset, "SOPInstanceUID"),
        study_uid=_text(dataset, "StudyInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        series_number=None if number is None else int(number),
        description=_text(dataset, "SeriesDescription"),
        image_type=image_type,
        kind="scan",
        matrix=(int(_number(dataset, "Rows") or 0), int(_number(dataset, "Columns") or 0)),
        spacing_mm=_vector(dataset, "PixelSpacing", 2),
        orientation=_vector(dataset, "ImageOrientationPatient", 6),
        position=_vector(dataset, "ImagePositionPatient", 3),
        thickness_mm=_number(dataset, "SliceThickness"),
        keys=_keys(dataset),
    )
    return ImageHeader(**{**vars(header), "kind": _kind(header, dataset)})


def _kind(header: ImageHeader, dataset: Dataset) -> Kind:
    """What an object is, by SOP class, image type and photometric interpretation."""
    photometric = _text(dataset, "PhotometricInterpretation")
    words = {w for value in header.image_type for w in re.split(r"[^A-Z0-9]+", value)}
    geometry = (header.orientation, header.position, header.spacing_mm)
    enhanced = header.sop_class in _ENHANCED_CT
    rules: tuple[tuple[bool, Kind], ...] = (  # the first that holds
        (enhanced and header.image_type[:1] == ("DERIVED",), "derived map"),
        (enhanced, "enhanced CT"),
        (header.sop_class.startswith(_SECONDARY_CAPTURE), "secondary capture"),
        (header.sop_class.startswith(_REPORT), "report"),
        (header.sop_class != _CT or _text(dataset, "Modality") not in ("CT", ""), "other"),
        (bool(words & _LOCALISER), "localiser"),
        ((_number(dataset, "SamplesPerPixel") or 1) != 1, "colour image"),
        (photometric == "MONOCHROME1", "inverted image"),
        (photometric not in ("MONOCHROME2", ""), "colour image"),
        (_is_map(header, words, _text(dataset, "RescaleType").upper()), "derived map"),
        ((_number(dataset, "NumberOfFrames") or 1) > 1, "enhanced CT"),
        (None in geometry, "no geometry"),
    )
    return next((kind for holds, kind in rules if holds), "scan")


def _is_map(header: ImageHeader, words: set[str], rescale_type: str) -> bool:
    """Whether a classic CT image is a computed map and not an image in HU.

    DERIVED alone does not make a map: thick slices averaged from thin ones are DERIVED too, and
    many sites send only those.
    """
    types = header.image_type
    if rescale_type not in ("", "HU", "US"):
        return True
    if types[:1] != ("DERIVED",):
        return False
    described = set(re.split(r"[^A-Z0-9]+", header.description.upper()))
    if words & _MAP_TYPES or described & _MAP_WORDS:
        return True
    return types[1:2] == ("SECONDARY",) and not words & _PLANE_TYPES


def _keys(dataset: Dataset) -> dict[str, float]:
    moment = _text(dataset, "AcquisitionDateTime").split("+")[0].split("-")[0]
    trigger_ms = _number(dataset, "TriggerTime")
    found = {
        "Acquisition DateTime": clock_s(moment[8:], moment[:8]) if len(moment) >= 12 else None,
        "Acquisition Time": clock_s(
            _text(dataset, "AcquisitionTime"), _text(dataset, "AcquisitionDate")
        ),
        "Temporal Position Identifier": _number(dataset, "TemporalPositionIdentifier"),
        "Temporal Position Index": _number(dataset, "TemporalPositionIndex"),
        "Acquisition Number": _number(dataset, "AcquisitionNumber"),
        "Content Time": clock_s(_text(dataset, "ContentTime"), _text(dataset, "ContentDate")),
        "Trigger Time": None if trigger_ms is None else trigger_ms / 1000.0,
        "Series Number": _number(dataset, "SeriesNumber"),
        "Instance Number": _number(dataset, "InstanceNumber"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _value(dataset: Dataset, keyword: str) -> Any:
    """An attribute; None where it is absent or its text breaks its value representation."""
    try:
        return dataset.get(keyword)
    except (ValueError, TypeError, OverflowError):
        return None


def _texts(dataset: Dataset, keyword: str) -> list[str]:
    value = _value(dataset, keyword)
    if value is None or value == "":
        return []
    return [str(v) for v in value] if not isinstance(value, str) else [value]


def _text(dataset: Dataset, keyword: str) -> str:
    value = _value(dataset, keyword)
    return "" if value is None else str(value).strip()


def _number(dataset: Dataset, keyword: str) -> float | None:
    try:
        return float(_value(dataset, keyword))
    except (TypeError, ValueError):
        return None


def _vector(dataset: Dataset, keyword: str, size: int) -> Vector | None:
    value = _value(dataset, keyword)
    try:
        numbers = tuple(float(v) for v in value)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == size else None
