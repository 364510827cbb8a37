"""Which images belong together, and which series is the scan.

A group is the part of a series that shares matrix, pixel spacing, image type and, roughly,
orientation: scanners put localisers and colour maps in the series of the scan.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from strokect.core.errors import GeometryError, ScanError
from strokect.io.dicom_headers import ImageHeader, Kind, read_headers

#: Slices closer than this along the normal are at one position, mm.
SAME_POSITION_MM = 0.1
#: Fewest series of one time point each that are joined: a CTA of several phases has three.
MIN_JOINED = 4
_SAME_PLANE_COS = np.cos(np.deg2rad(10.0))


@dataclass(frozen=True)
class SeriesInfo:
    """One group of images in a folder, for lists and choices. Nothing about the patient."""

    number: int | None
    description: str
    kind: Kind
    images: int
    positions: int
    time_points: int
    matrix: tuple[int, int]

    @property
    def label(self) -> str:
        """E.g. ``series 5 "CTP"``."""
        number = "without number" if self.number is None else str(self.number)
        return f'series {number} "{self.description}"' if self.description else f"series {number}"


@dataclass(frozen=True)
class Group:
    """Images that belong together. repeats : images dropped for their repeated SOP UID."""

    info: SeriesInfo
    images: tuple[ImageHeader, ...]
    repeats: int = 0

    @property
    def is_original(self) -> bool:
        return self.images[0].image_type[:1] != ("DERIVED",)


@dataclass(frozen=True)
class Choice:
    """The chosen images and, as notes, everything else. rivals : usable series not chosen."""

    images: tuple[ImageHeader, ...]
    info: SeriesInfo
    repeats: int
    notes: tuple[str, ...]
    rivals: tuple[SeriesInfo, ...] = ()


def find_series(folder: Path | str) -> list[SeriesInfo]:
    """The groups of images below ``folder``, by series number; scans and everything else.

    Raises ScanError where the folder is absent, empty or holds no DICOM file.
    """
    return [group.info for group in group_images(read_headers(Path(folder))[0])]


def choose_dynamic(folder: Path, series_number: int | None = None) -> Choice:
    """The perfusion scan below ``folder``: the scan with most time points.

    Where no series has several time points, series with one time point each, same geometry, study
    and description (but for digits) are joined. Raises ScanError where there is no dynamic scan.
    """
    groups, other_files = _usable(folder, series_number)
    scans = [g for g in groups if g.info.kind == "scan"]
    dynamic = [g for g in scans if g.info.time_points > 1]
    if dynamic:
        chosen = max(dynamic, key=lambda g: (g.info.time_points, g.is_original, g.info.positions))
        return _choice([chosen], groups, other_files)
    joined = _joinable(scans)
    if joined:
        return _choice(joined, groups, other_files)
    if scans:
        found = ", ".join(g.info.label for g in scans[:5])
        raise ScanError(
            f"one time point only ({found})",
            folder,
            "Perfusion needs a dynamic scan: give the folder of the CT perfusion series",
        )
    raise _no_scan(groups, folder)


def choose_static(folder: Path, series_number: int | None = None) -> Choice:
    """The CT volume below ``folder``: original before derived, then the most slices.

    Raises ScanError where there is none, or only a dynamic scan.
    """
    groups, other_files = _usable(folder, series_number)
    scans = [g for g in groups if g.info.kind == "scan"]
    static = [g for g in scans if g.info.time_points == 1]
    if static:
        chosen = max(static, key=lambda g: (g.is_original, g.info.positions))
        return _choice([chosen], groups, other_files)
    if scans:
        raise ScanError(
            f"{scans[0].info.time_points} time points ({scans[0].info.label})",
            folder,
            "This is a dynamic scan: read it as CT perfusion, or give the folder of the plain CT",
        )
    raise _no_scan(groups, folder)


def group_images(headers: Iterable[ImageHeader]) -> list[Group]:
    """Split images into groups; see the module. Sorted by series number."""
    coarse: dict[tuple[object, ...], list[list[ImageHeader]]] = defaultdict(list)
    for header in headers:
        spacing = tuple(round(v, 3) for v in header.spacing_mm or ())
        key = (header.series_uid, header.kind, header.matrix, spacing, header.image_type[:3])
        for images in coarse[key]:
            if _same_plane(images[0], header):
                images.append(header)
                break
        else:
            coarse[key].append([header])
    groups = [_group(images) for parts in coarse.values() for images in parts]
    return sorted(groups, key=lambda g: (g.info.number is None, g.info.number or 0))


def positions_of(images: Sequence[ImageHeader]) -> list[list[int]]:
    """Indices of the images at each slice position, ordered along the slice normal."""
    offsets = offsets_mm(images)
    order = np.argsort(offsets, kind="stable")
    breaks = np.flatnonzero(np.diff(offsets[order]) > SAME_POSITION_MM) + 1
    return [part.tolist() for part in np.split(order, breaks)]


def offsets_mm(images: Sequence[ImageHeader]) -> np.ndarray:
    """Distance of each image from the origin along the slice normal of the first, (N,), mm."""
    return np.array([image.position for image in images], float) @ normal_of(images[0])


def normal_of(image: ImageHeader) -> np.ndarray:
    """Unit slice normal, (3,) LPS: rows x columns."""
    row, column = np.asarray(image.orientation, float).reshape(2, 3)
    normal = np.cross(row, column)
    length = np.linalg.norm(normal)
    if not np.isclose(length, 1.0, atol=0.01):
        raise GeometryError(
            "Image Orientation (Patient) is not two perpendicular unit vectors", image.path
        )
    return normal / length


def _group(images: list[ImageHeader]) -> Group:
    unique = list({image.sop_uid or str(image.path): image for image in images}.values())
    first = unique[0]
    positions, time_points = 0, 0
    if first.kind == "scan":
        counts = [len(part) for part in positions_of(unique)]
        positions, time_points = len(counts), max(1, round(float(np.median(counts))))
    info = SeriesInfo(
        first.series_number,
        first.description,
        first.kind,
        len(unique),
        positions,
        time_points,
        first.matrix,
    )
    return Group(info, tuple(unique), len(images) - len(unique))


def _usable(folder: Path, series_number: int | None) -> tuple[list[Group], int]:
    headers, other_files = read_headers(folder)
    groups = group_images(headers)
    if series_number is None:
        return groups, other_files
    wanted = [g for g in groups if g.info.number == series_number]
    if not wanted:
        found = sorted({str(g.info.number) for g in groups})
        raise ScanError(
            f"no series {series_number} (found {', '.join(found)})", folder, "Choose one of these"
        )
    return wanted, other_files


def _same_plane(a: ImageHeader, b: ImageHeader) -> bool:
    """Whether two images have roughly one orientation; small differences are an error later."""
    if a.orientation is None or b.orientation is None:
        return a.orientation is b.orientation
    u, v = np.reshape(a.orientation, (2, 3)), np.reshape(b.orientation, (2, 3))
    return bool((np.sum(u * v, axis=1) > _SAME_PLANE_COS).all())


def _joinable(scans: list[Group]) -> list[Group]:
    """Series of one time point each that together are one dynamic scan; the largest such set."""
    sets: dict[tuple[object, ...], list[Group]] = defaultdict(list)
    for group in scans:
        first = group.images[0]
        stem = re.sub(r"[\W\d_]+", "", group.info.description).casefold()
        spacing = tuple(round(v, 3) for v in first.spacing_mm or ())
        orientation = tuple(round(v, 3) + 0.0 for v in first.orientation or ())
        key = (first.study_uid, stem, first.matrix, spacing, orientation, first.image_type[:3])
        sets[key].append(group)
    best = max(sets.values(), key=len, default=[])
    if len(best) < MIN_JOINED:
        return []
    images = [image for group in best for image in group.images]
    counts = [len(part) for part in positions_of(images)]
    return best if np.median(counts) >= MIN_JOINED else []


def _choice(chosen: list[Group], groups: list[Group], other_files: int) -> Choice:
    images = tuple(image for group in chosen for image in group.images)
    series = {image.series_uid for image in images}
    bare = [g for g in groups if g.info.kind == "no geometry" and g.images[0].series_uid in series]
    if bare:
        raise GeometryError(
            "no Image Position, Image Orientation or Pixel Spacing in an image of the scan",
            bare[0].images[0].path,
            "Export the series again with its geometry, or remove the file",
        )
    notes = [f"read {chosen[0].info.label}"]
    if len(chosen) > 1:
        notes = [
            f"joined {len(chosen)} series of one time point each, first {chosen[0].info.label}"
        ]
    ignored = [g for g in groups if not any(g is c for c in chosen)]
    notes += [_ignored(g, len(chosen) > 1) for g in ignored]
    if other_files:
        notes.append(f"ignored {other_files} files that are not DICOM")
    rivals = tuple(g.info for g in ignored if g.info.kind == "scan")
    return Choice(images, chosen[0].info, sum(g.repeats for g in chosen), tuple(notes), rivals)


def _ignored(group: Group, joined: bool) -> str:
    info = group.info
    reasons: dict[Kind, str] = {
        "scan": "a scan that is not part of the joined series" if joined else "another scan",
        "localiser": "localiser",
        "derived map": "derived map, not a scan",
        "colour image": "colour image, not in HU",
        "inverted image": "inverted grey scale (MONOCHROME1), not in HU",
        "secondary capture": "secondary capture",
        "report": "report or document",
        "enhanced CT": "enhanced multi-frame CT; only classic CT images are read so far",
        "no geometry": "CT images without position or orientation",
        "other": "not a CT image",
    }
    size = f"{info.images} image{'s' if info.images > 1 else ''}"
    if info.kind == "scan":
        size += f", {info.time_points} time point{'s' if info.time_points > 1 else ''}"
    return f"ignored {info.label}, {size}: {reasons[info.kind]}"


def _no_scan(groups: list[Group], folder: Path) -> ScanError:
    """The error for a folder of DICOM files without any classic CT scan."""
    counts = Counter(g.info.kind for g in groups)
    found = ", ".join(f"{n} series of kind '{kind}'" for kind, n in counts.items())
    if "enhanced CT" in counts:
        fix = "Only classic CT images are read so far: export the scan as classic CT"
    elif "no geometry" in counts:
        fix = "The CT images lack position or orientation: export them again with their geometry"
    else:
        fix = "Give the folder of the original CT images, not of maps, captures or reports"
    return ScanError(f"no CT scan ({found or 'an index only'})", folder, fix)
