"""Sort the images of a dynamic scan into time points; find what is missing.

Works on numbers only: the values of one key (a time, a frame number) of all images at each slice
position. In shuttle and cine scans every position has its own values, so frames are matched with
an offset per position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from strokect.core.errors import ScanError, TimingError
from strokect.io.dicom_headers import DAY_S, FRAME_KEYS, TIME_KEYS, ImageHeader

#: A key may unite at most this share of the images at one position as duplicates.
MAX_DUPLICATES = 0.10
#: Filled images: at most this share of all, and of the images at one position (at least one).
MAX_FILLED = 0.05
MAX_FILLED_AT_POSITION = 0.10
#: Incomplete first or last time points dropped: at most this share (at least one).
MAX_DROPPED_FRAMES = 0.10

Index = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Frames:
    """Images by time point and slice. index : (T, Z) int, -1 where an image is missing.

    key : the name of the key that told the time points apart. duplicates : images left out.
    kept : slice of the time points found before incomplete ends were dropped.
    """

    index: Index
    key: str
    duplicates: int
    kept: slice
    found: int

    @property
    def missing(self) -> npt.NDArray[np.bool_]:
        return np.less(self.index, 0)


def split_frames(images: Sequence[ImageHeader], positions: Sequence[Sequence[int]]) -> Frames:
    """Sort images into time points by the first key that tells them apart at every position.

    positions : indices into ``images`` at each slice position, as from ``positions_of``.
    Raises TimingError where no key does.
    """
    for key in FRAME_KEYS:
        values = key_values(images, key)
        if values is None:
            continue
        kept = [_distinct(values, part) for part in positions]
        counts = np.array([len(k) for k in kept])
        total = sum(len(part) for part in positions)
        if np.median(counts) > 1 and total - counts.sum() <= MAX_DUPLICATES * total:
            index = match_frames([values[k] for k in kept])
            found: Index = np.full_like(index, -1)
            for z, k in enumerate(kept):
                rows = np.flatnonzero(index[:, z] >= 0)
                found[rows, z] = np.asarray(k, dtype=np.intp)[index[rows, z]]
            count = found.shape[0]
            return Frames(found, key, int(total - counts.sum()), slice(0, count), count)
    raise TimingError(
        "the time points cannot be told apart by time, temporal position, acquisition or instance "
        f"number at the {len(positions)} slice positions",
        images[positions[0][0]].path.parent,
        "The series may mix two reconstructions: export only one",
    )


def key_values(images: Sequence[ImageHeader], key: str) -> npt.NDArray[np.float64] | None:
    """Values of one key, (N,); None unless all images have it. Times cross midnight upwards."""
    if any(key not in image.keys for image in images):
        return None
    values = np.array([image.keys[key] for image in images], dtype=np.float64)
    if key in TIME_KEYS and np.ptp(values) > DAY_S / 2:  # no date, or one that does not change
        values = values % DAY_S
        if np.ptp(values) > DAY_S / 2:
            values[values < DAY_S / 2] += DAY_S
    return values - values.min() if key in TIME_KEYS else values


def match_frames(values: Sequence[npt.NDArray[np.float64]]) -> Index:
    """Which value of each position belongs to which time point.

    values : Z arrays, increasing. Returns (T, Z) indices into them, -1 where none belongs.
    First by clusters that all positions share; else (each position has its own times) by the
    offset of each position against the nearest complete one.
    """
    clustered = _match_common(values)
    return clustered if clustered is not None else _match_offsets(values)


def drop_incomplete_ends(frames: Frames) -> Frames:
    """Leave out first and last time points with missing images: they have no two neighbours.

    Frames with more incomplete ends than MAX_DROPPED_FRAMES are returned whole.
    """
    complete = np.asarray(np.logical_not(frames.missing).all(axis=1))
    if not complete.any():
        return frames
    count = len(complete)
    first, last = int(np.argmax(complete)), count - int(np.argmax(complete[::-1]))
    if first + count - last > max(1, MAX_DROPPED_FRAMES * count):
        return frames
    return Frames(
        frames.index[first:last], frames.key, frames.duplicates, slice(first, last), count
    )


def check_missing(frames: Frames, offsets: npt.NDArray[np.float64], where: str) -> None:
    """Raise ScanError unless the missing images are few and have both neighbours in time.

    offsets : (Z,) slice positions along the normal, mm.
    """
    missing = frames.missing
    count = missing.shape[0]
    at_position = max(1.0, np.ceil(MAX_FILLED_AT_POSITION * count))
    ends = missing[0].any() or missing[-1].any()
    adjacent = (missing[1:] & missing[:-1]).any()
    few = missing.mean() <= MAX_FILLED and missing.sum(axis=0).max() <= at_position
    if few and not ends and not adjacent:
        return
    places = [
        f"time point {t + 1 + frames.kept.start} at {offsets[z]:.2f} mm"
        for t, z in np.argwhere(missing)[:10]
    ]
    more = int(missing.sum()) - len(places)
    listed = "; ".join(places) + (f"; and {more} more" if more > 0 else "")
    raise ScanError(
        f"{int(missing.sum())} of {missing.size} images are missing ({listed})",
        where,
        "Copy the whole series again from the archive",
    )


def frame_times(
    images: Sequence[ImageHeader], frames: Frames
) -> tuple[npt.NDArray[np.float64], str]:
    """Acquisition times (T, Z) in s, and the name of the key they come from.

    Missing images have the time that fits between their neighbours.
    Raises TimingError where no time increases along the time points.
    """
    reasons = []
    for key in TIME_KEYS:
        used = sorted({int(i) for i in frames.index.ravel() if i >= 0})
        have = sum(key in images[i].keys for i in used)
        if have < len(used):
            reasons.append(f"{key} is missing" + (" in some images" if have else ""))
            continue
        values = key_values([images[i] for i in used], key)
        if values is None:
            continue
        place = np.full(len(images), 0)
        place[used] = np.arange(len(used))
        times = np.where(frames.missing, np.nan, values[place[frames.index]])
        times = fill_times(times)
        if (np.diff(times, axis=0) > 0).all():
            return times, key
        constant = bool((np.ptp(times, axis=0) == 0).all())
        reasons.append(f"{key} " + ("does not change" if constant else "does not increase"))
    raise TimingError(
        f"no acquisition times: {'; '.join(reasons)}",
        images[0].path.parent,
        "Give the time between frames with --interval, or all times with --times",
    )


def fill_times(times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Replace NaN in (T, Z) times by the time that fits between the neighbours in time."""
    missing = np.isnan(times)
    if not missing.any():
        return times
    filled = times.copy()
    for t, z in np.argwhere(missing):
        w = time_fraction(times, int(t))
        filled[t, z] = (1 - w) * times[t - 1, z] + w * times[t + 1, z]
    return filled


def time_fraction(times: npt.NDArray[np.float64], t: int) -> float:
    """Where time point ``t`` lies between t - 1 and t + 1, 0 to 1, from the complete slices."""
    whole = ~np.isnan(times[t - 1 : t + 2]).any(axis=0)
    if not whole.any():
        return 0.5
    before, now, after = times[t - 1 : t + 2, whole]
    span = np.median(after - before)
    return float(np.median(now - before) / span) if span > 0 else 0.5


def _distinct(values: npt.NDArray[np.float64], part: Sequence[int]) -> list[int]:
    """Indices of the first image of each distinct value at one position, by value."""
    first: dict[float, int] = {}
    for i in part:
        first.setdefault(float(values[i]), i)
    return [first[v] for v in sorted(first)]


def _match_common(values: Sequence[npt.NDArray[np.float64]]) -> Index | None:
    """Time points as clusters of values shared by the positions; None where there are none."""
    steps = [np.diff(v).min() for v in values if len(v) > 1]
    flat = np.concatenate(values)
    place = np.repeat(np.arange(len(values)), [len(v) for v in values])
    within = np.concatenate([np.arange(len(v)) for v in values])
    order = np.argsort(flat, kind="stable")
    # gaps within one time point are shorter than half the shortest time between time points
    breaks = np.diff(flat[order], prepend=-np.inf) > 0.5 * min(steps)
    frame = np.cumsum(breaks) - 1
    index = np.full((int(frame[-1]) + 1, len(values)), -1, dtype=np.intp)
    if len(np.unique(frame * len(values) + place[order])) < len(flat):
        return None  # two images of one position in one cluster
    index[frame, place[order]] = within[order]
    return index if (index >= 0).mean() >= 0.75 else None


def _match_offsets(values: Sequence[npt.NDArray[np.float64]]) -> Index:
    """Time points where each position has its own times, against the nearest complete position."""
    count = max(len(v) for v in values)
    complete = [z for z, v in enumerate(values) if len(v) == count]
    index = np.full((count, len(values)), -1, dtype=np.intp)
    for z, own in enumerate(values):
        reference = values[min(complete, key=lambda c: abs(c - z))]
        index[_rows(own, reference), z] = np.arange(len(own))
    return index


def _rows(own: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> Index:
    """The entries of ``reference`` that ``own`` values belong to, but for a constant offset.

    The offset of least deviation; the smallest among equals. Images are missing at the end where
    no offset gives every value its own entry.
    """
    best: tuple[float, float] = (np.inf, np.inf)
    rows = np.arange(len(own))
    for shift in range(len(reference) - len(own) + 1):
        offset = own[0] - reference[shift]
        nearest = np.abs(own[:, None] - (reference + offset)).argmin(axis=1)
        if len(np.unique(nearest)) < len(own):
            continue
        deviation = own - reference[nearest]
        spread = float(np.abs(deviation - np.median(deviation)).sum())
        score = (round(spread, 3), abs(float(np.median(deviation))))
        if score < best:
            best, rows = score, nearest
    return rows
