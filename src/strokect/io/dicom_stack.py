"""From the headers of a scan to its grid, time points and times; pixels are not read here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strokect.core.errors import GeometryError, ScanError, TimingError
from strokect.core.flags import flag
from strokect.core.geometry import LPS_TO_RAS, affine_from_dicom
from strokect.core.types import Grid, QualityFlag
from strokect.io.dicom_frames import (
    Frames,
    check_missing,
    drop_incomplete_ends,
    fill_times,
    frame_times,
    split_frames,
)
from strokect.io.dicom_headers import ImageHeader
from strokect.io.dicom_series import (
    Choice,
    choose_dynamic,
    choose_static,
    normal_of,
    offsets_mm,
    positions_of,
)

#: A slice distance is regular where no slice is further than this from its place, mm: positions
#: rounded to 0.1 mm in the header are.
REGULAR_MM = 0.06
#: Slices are on one line, and images of one slice at one place, within this, mm.
SAME_PLACE_MM = 0.1
#: Orientations of one scan agree within this, per direction cosine.
SAME_DIRECTION = 1e-3
#: A gap between slices beyond this multiple of the median distance is a lost slice.
MAX_GAP = 2.5
TILT_DEG = 0.1


@dataclass(frozen=True, eq=False)
class StackGeometry:
    """Where the slices lie and on which grid they are put.

    positions_mm : (Z, 3) RAS, Image Position (Patient) of every slice before resampling.
    offsets_mm : (Z,) of the slices, targets_mm : (Z',) of the grid's slices, along the normal.
    grid : regular; equal to the slices where ``resampled`` is False. tilt_deg : angle between the
    slice step and the slice normal.
    """

    positions_mm: npt.NDArray[np.float64]
    offsets_mm: npt.NDArray[np.float64]
    targets_mm: npt.NDArray[np.float64]
    grid: Grid
    tilt_deg: float

    @property
    def resampled(self) -> bool:
        return not np.array_equal(self.offsets_mm, self.targets_mm)

    def weights(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """Lower slice and weight of the one above it for each grid slice, (Z',) each."""
        last = len(self.offsets_mm) - 1
        lower = np.searchsorted(self.offsets_mm, self.targets_mm, side="right") - 1
        lower = np.clip(lower, 0, max(last - 1, 0))
        if last == 0:
            return lower, np.zeros(len(lower))
        step = self.offsets_mm[lower + 1] - self.offsets_mm[lower]
        return lower, np.clip((self.targets_mm - self.offsets_mm[lower]) / step, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class ImageStack:
    """A scan, sorted: which image is where and when.

    images : T rows of Z, None where an image is missing. times_s : (T, Z), s, of every image
    before resampling. geometry : positions and grid. flags, notes : as in CTSeries.
    """

    images: tuple[tuple[ImageHeader | None, ...], ...]
    times_s: npt.NDArray[np.float64]
    geometry: StackGeometry
    flags: tuple[QualityFlag, ...]
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, Z, Y, X) before resampling."""
        rows, columns = next(h for row in self.images for h in row if h is not None).matrix
        return len(self.images), len(self.images[0]), rows, columns


def stack_ctp(
    folder: Path,
    *,
    interval_s: float | None = None,
    times_s: npt.ArrayLike | None = None,
    series_number: int | None = None,
) -> ImageStack:
    """Sort the perfusion scan below ``folder``, from headers only. See ``read_ctp_folder``."""
    choice = choose_dynamic(Path(folder), series_number)
    positions = positions_of(choice.images)
    geometry = _geometry(choice.images, positions)
    all_frames = split_frames(choice.images, positions)
    frames = drop_incomplete_ends(all_frames)
    where = f"{folder} ({choice.info.label})"
    check_missing(frames, geometry.offsets_mm, where)
    if interval_s is not None or times_s is not None:
        times, key = _given_times(frames, interval_s, times_s), "given"
    else:
        times, key = frame_times(choice.images, frames)
    images = tuple(tuple(choice.images[i] if i >= 0 else None for i in row) for row in frames.index)
    notes = [*choice.notes, *_frame_notes(frames, all_frames, key)]
    flags = _flags(choice, geometry, frames, key)
    return ImageStack(images, times, geometry, flags, tuple(notes))


def stack_ct(folder: Path, *, series_number: int | None = None) -> ImageStack:
    """Sort the single CT volume below ``folder``, from headers only. See ``read_ct_folder``."""
    choice = choose_static(Path(folder), series_number)
    positions = positions_of(choice.images)
    first = [
        min(part, key=lambda i: choice.images[i].keys.get("Instance Number", np.inf))
        for part in positions
    ]
    geometry = _geometry(choice.images, [[i] for i in first])
    repeated = len(choice.images) - len(first)
    flags = _flags(replace(choice, repeats=choice.repeats + repeated), geometry)
    if choice.rivals:
        others = ", ".join(info.label for info in choice.rivals)
        message = f"{choice.info.label} was read; the folder also holds {others}"
        flags += (flag("SERIES_CHOSEN", message, "info"),)
    images = (tuple(choice.images[i] for i in first),)
    return ImageStack(images, np.zeros((1, len(first))), geometry, flags, choice.notes)


def _geometry(images: Sequence[ImageHeader], positions: Sequence[Sequence[int]]) -> StackGeometry:
    """Geometry of the slices at ``positions``. Raises GeometryError where they do not fit."""
    _check_orientation(images)
    ipp = np.array([image.position for image in images], dtype=np.float64)
    representatives = [part[0] for part in positions]
    places = ipp[representatives]
    for part, place in zip(positions, places, strict=True):
        off = np.abs(ipp[list(part)] - place).max(axis=1)
        if off.max() > SAME_PLACE_MM:
            raise GeometryError(
                f"an image lies {off.max():.2f} mm off others of its slice",
                images[part[int(off.argmax())]].path,
                "Export the series without images of another field of view",
            )
    first = images[representatives[0]]
    offsets = offsets_mm([images[i] for i in representatives]) if len(places) > 1 else np.zeros(1)
    if len(places) == 1:
        step = normal_of(first) * (first.thickness_mm or 1.0)
        return _stack_geometry(first, places, offsets, step, offsets)
    line = (places[-1] - places[0]) / (offsets[-1] - offsets[0])
    _check_line(images, representatives, places, offsets, line)
    count = len(offsets)
    regular = np.linspace(offsets[0], offsets[-1], count)
    if np.abs(offsets - regular).max() <= REGULAR_MM:
        return _stack_geometry(
            first, places, offsets, (places[-1] - places[0]) / (count - 1), offsets
        )
    _check_gaps(images, representatives, offsets)
    distance = float(np.median(np.diff(offsets)))
    extent = offsets[-1] - offsets[0]
    steps = max(1, round(extent / distance))
    targets = np.linspace(offsets[0], offsets[-1], steps + 1)
    return _stack_geometry(first, places, offsets, line * extent / steps, targets)


def _stack_geometry(
    first: ImageHeader,
    places: npt.NDArray[np.float64],
    offsets: npt.NDArray[np.float64],
    step: npt.NDArray[np.float64],
    targets: npt.NDArray[np.float64],
) -> StackGeometry:
    if first.orientation is None or first.spacing_mm is None:
        raise GeometryError("no orientation or pixel spacing", first.path)
    affine = affine_from_dicom(first.orientation, places[0], step, first.spacing_mm)
    cosine = float(step @ normal_of(first) / np.linalg.norm(step))
    return StackGeometry(
        positions_mm=places @ LPS_TO_RAS[:3, :3],
        offsets_mm=offsets,
        targets_mm=targets,
        grid=Grid((len(targets), *first.matrix), affine),
        tilt_deg=float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))),
    )


def _check_orientation(images: Sequence[ImageHeader]) -> None:
    orientations = np.array([image.orientation for image in images], dtype=np.float64)
    off = np.abs(orientations - np.median(orientations, axis=0)).max(axis=1)
    if off.max() > SAME_DIRECTION:
        raise GeometryError(
            "an image is oriented otherwise than the rest of its series",
            images[int(off.argmax())].path,
            "Remove it, or export the series again",
        )


def _check_line(
    images: Sequence[ImageHeader],
    representatives: Sequence[int],
    places: npt.NDArray[np.float64],
    offsets: npt.NDArray[np.float64],
    line: npt.NDArray[np.float64],
) -> None:
    off = np.linalg.norm(places - places[0] - np.outer(offsets - offsets[0], line), axis=1)
    if off.max() > SAME_PLACE_MM:
        # the ends may themselves be wrong: name the slice furthest from the typical line
        typical = np.median(np.diff(places, axis=0) / np.diff(offsets)[:, None], axis=0)
        beside = places - np.outer(offsets, typical)
        off = np.linalg.norm(beside - np.median(beside, axis=0), axis=1)
        raise GeometryError(
            f"a slice lies {off.max():.2f} mm beside the line of the others",
            images[representatives[int(off.argmax())]].path,
            "The series mixes fields of view: export one reconstruction",
        )


def _check_gaps(
    images: Sequence[ImageHeader],
    representatives: Sequence[int],
    offsets: npt.NDArray[np.float64],
) -> None:
    distances = np.diff(offsets)
    median = float(np.median(distances))
    widest = int(distances.argmax())
    if distances[widest] > MAX_GAP * median:
        raise GeometryError(
            f"a gap of {distances[widest]:.1f} mm between slices {median:.1f} mm apart, above "
            f"{offsets[widest]:.1f} mm",
            images[representatives[widest]].path,
            "Slices are lost: copy the whole series again",
        )


def _given_times(
    frames: Frames, interval_s: float | None, times_s: npt.ArrayLike | None
) -> npt.NDArray[np.float64]:
    """Times (T, Z) from the user's interval or list, for the time points that are kept."""
    count, slices = frames.found, frames.index.shape[1]
    if interval_s is not None and times_s is not None:
        raise TimingError("both an interval and times were given", None, "Give one of them")
    if interval_s is not None:
        if not np.isfinite(interval_s) or interval_s <= 0:
            raise TimingError(f"the interval is {interval_s} s", "--interval", "Give it in s, > 0")
        times = np.arange(count, dtype=np.float64) * interval_s
    else:
        times = np.asarray(times_s, dtype=np.float64)
    if times.ndim == 1 and len(times) == count:
        times = np.repeat(times[:, None], slices, axis=1)
    if times.shape != (count, slices):
        raise TimingError(
            f"times of shape {times.shape} for {count} time points and {slices} slices",
            "--times",
            "Give one time per time point, in s",
        )
    if not (np.diff(times, axis=0) > 0).all():
        raise TimingError("the given times do not increase", "--times", "Give them in order")
    kept = np.where(frames.missing, np.nan, times[frames.kept])
    return fill_times(kept) - np.nanmin(kept)


def _frame_notes(frames: Frames, all_frames: Frames, key: str) -> list[str]:
    count, slices = frames.index.shape
    source = "as given by the user" if key == "given" else f"from {key}"
    notes = [f"{count} time points of {slices} slices, told apart by {frames.key}; times {source}"]
    if frames.found > count:
        left = int((all_frames.index >= 0).sum() - (frames.index >= 0).sum())
        notes.append(
            f"dropped {frames.found - count} incomplete time points at the ends of the scan "
            f"({left} images)"
        )
    return notes


def _flags(
    choice: Choice,
    geometry: StackGeometry,
    frames: Frames | None = None,
    key: str = "",
) -> tuple[QualityFlag, ...]:
    flags = []
    duplicates = choice.repeats + (frames.duplicates if frames else 0)
    if duplicates:
        flags.append(flag("DUPLICATE_IMAGES", f"{duplicates} duplicate images were dropped"))
    if frames is not None and frames.missing.any():
        n = int(frames.missing.sum())
        message = f"{n} of {frames.index.size} images are missing and were interpolated in time"
        flags.append(flag("FILLED_IMAGES", message))
    if geometry.tilt_deg > TILT_DEG:
        message = f"the gantry was tilted by {geometry.tilt_deg:.1f} degrees"
        flags.append(flag("GANTRY_TILT", message, "info"))
    if geometry.resampled:
        steps = np.diff(geometry.offsets_mm)
        regular = float(geometry.targets_mm[1] - geometry.targets_mm[0])
        found = f"{steps.min():.2f} to {steps.max():.2f} mm"
        message = f"slices {found} apart were resampled to {regular:.2f} mm"
        flags.append(flag("SLICES_RESAMPLED", message))
    if key == "Content Time":
        message = "times are from Content Time, which may be the time of reconstruction"
        flags.append(flag("CONTENT_TIMES", message))
    return tuple(flags)


def source_paths(stack: ImageStack, frame: int = 0) -> list[Path]:
    """Files of one time point, in the order of the slices. Raises ScanError for a missing one."""
    paths = [image.path for image in stack.images[frame] if image is not None]
    if len(paths) < len(stack.images[frame]):
        raise ScanError(f"time point {frame + 1} has missing images")
    return paths
