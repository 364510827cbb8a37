"""From a 4D scan to the array that a network sees: times around the bolus, window, z-score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from strokect.core.errors import SettingsError
from strokect.core.types import BoolArray, FloatArray

Channel = Literal["hu", "enhancement", "baseline"]

#: Where a mean over a width of 1 about 0 is sampled.
_MIDPOINTS = (np.arange(16) + 0.5) / 16 - 0.5


@dataclass(frozen=True)
class InputOptions:
    """What a network sees of a scan.

    kind : "ctp". spacing_mm : voxel size (z, y, x) that scans are brought to, None leaves them.
    pixels : number of rows and columns that the longer side of a slice is brought to instead.
    time_points, interval_s : points in time and their distance. before_s : the first one lies this
    long before contrast reaches the brain. window_hu : attenuation is cut to it. channels : "hu"
    as it is, "enhancement" above the baseline, "baseline" the mean before contrast, at every time.
    zscore : each channel to mean 0 and SD 1 over brain and time. crop_mm : in-plane margin around
    the brain that is kept; None keeps the slice. outside : value of what is not brain, None keeps
    it. motion_correction : align the frames first.
    """

    kind: Literal["ctp"] = "ctp"
    spacing_mm: tuple[float, float, float] | None = None
    pixels: int | None = None
    time_points: int = 30
    interval_s: float = 1.5
    before_s: float = 6.0
    window_hu: tuple[float, float] = (-20.0, 150.0)
    channels: tuple[Channel, ...] = ("hu",)
    zscore: bool = True
    crop_mm: float | None = 5.0
    outside: float | None = 0.0
    motion_correction: bool = True

    def __post_init__(self) -> None:
        if self.time_points < 2 or not 0 < self.interval_s < np.inf:
            raise SettingsError(
                f"{self.time_points} time points every {self.interval_s:g} s",
                "input",
                "Give time_points of at least 2 and interval_s above 0",
            )
        if not np.isfinite(self.before_s):
            raise SettingsError(f"{self.before_s} s before contrast", "input.before_s", "Give s")
        if not -np.inf < self.window_hu[0] < self.window_hu[1] < np.inf:
            raise SettingsError(
                f"an empty window of HU, {self.window_hu}", "input.window_hu", "Give low, high"
            )
        if not self.channels:
            raise SettingsError("no channels", "input.channels", "Give at least one")
        check_size(self.spacing_mm, self.pixels, self.crop_mm)


def check_size(
    spacing_mm: tuple[float, float, float] | None, pixels: int | None, crop_mm: float | None
) -> None:
    """Raises SettingsError for sizes that cannot be, or two that contradict each other."""
    if spacing_mm is not None and not min(spacing_mm) > 0:
        raise SettingsError(
            f"voxels of {spacing_mm} mm", "input.spacing_mm", "Give z, y, x above 0"
        )
    if pixels is not None and pixels < 1:
        raise SettingsError(f"{pixels} pixels", "input.pixels", "Give 1 or more, or null")
    if pixels is not None and spacing_mm is not None:
        raise SettingsError("both spacing_mm and pixels", "input", "Give one of them")
    if crop_mm is not None and not 0 <= crop_mm < np.inf:
        raise SettingsError(
            f"a margin of {crop_mm:g} mm", "input.crop_mm", "Give 0 or more, or null"
        )


def resampling_matrix(source_s: FloatArray, target_s: FloatArray) -> npt.NDArray[np.float32]:
    """Weights (N, T) that take samples at ``source_s`` (T,) to ``target_s`` (N,), both rising.

    Linear interpolation. Where the samples lie closer together than the targets, its mean about
    each target, over the targets' distance where the samples are twice as close: no sample between
    two targets is thrown away. A straight line stays the same line; beyond the ends the samples
    are held.
    """
    source, target = np.asarray(source_s, float), np.asarray(target_s, float)
    if len(source) == 1:
        return np.ones((len(target), 1), np.float32)
    gaps = np.diff(source)
    at = np.clip(target, source[0], source[-1])
    left = np.clip(np.searchsorted(source, at, side="right") - 1, 0, len(gaps) - 1)
    step = float(np.median(np.diff(target))) if len(target) > 1 else 0.0
    # Narrower at the ends, so that the mean stays one about the target.
    room = 2 * np.minimum(at - source[0], source[-1] - at)
    wide = np.clip(2 * (step - gaps[left]), 0.0, np.minimum(step, room))
    points = at[:, None] + wide[:, None] * _MIDPOINTS  # (N, M)
    left = np.clip(np.searchsorted(source, points, side="right") - 1, 0, len(gaps) - 1)
    share = (points - source[left]) / gaps[left]
    weights = np.zeros((len(target), len(source)))
    rows = np.arange(len(target))[:, None]
    np.add.at(weights, (rows, left), 1 - share)
    np.add.at(weights, (rows, left + 1), share)
    return (weights / len(_MIDPOINTS)).astype(np.float32)


def network_input(
    data_hu: FloatArray,
    times_s: FloatArray,
    arrival_s: float,
    options: InputOptions,
) -> npt.NDArray[np.float32]:
    """Channels of a scan at the times that the network expects, (C, N, Z, Y, X) float32.

    data_hu : (T, Z, Y, X) HU. times_s : (T, Z). arrival_s : when contrast reaches the brain, on the
    clock of ``times_s``. Each slice keeps the times of its own. Not yet normalised.
    """
    target = arrival_s - options.before_s + options.interval_s * np.arange(options.time_points)
    low, high = options.window_hu
    shape = data_hu.shape[1:]
    out = np.empty((len(options.channels), len(target), *shape), np.float32)
    for z in range(shape[0]):
        frames = np.clip(data_hu[:, z], low, high).reshape(len(data_hu), -1)
        seen = resampling_matrix(times_s[:, z], target) @ frames
        early = times_s[:, z] < arrival_s - 0.5 * options.interval_s
        early[0] = True  # a scan that starts late has no other baseline
        base = frames[early].mean(axis=0)
        still = np.broadcast_to(base, seen.shape)
        forms = {"hu": seen, "enhancement": seen - base, "baseline": still}
        for c, name in enumerate(options.channels):
            out[c, :, z] = forms[name].reshape(len(target), *shape[1:])
    return out


def normalised(
    image: npt.NDArray[np.float32], brain: BoolArray, options: InputOptions
) -> npt.NDArray[np.float32]:
    """Each channel (C, N, Z, Y, X) to mean 0 and SD 1 over brain and time; the rest set apart."""
    out = image.copy()
    for c, channel in enumerate(image):
        if options.zscore and brain.any():
            values = channel[:, brain]
            out[c] = (channel - values.mean()) / max(float(values.std()), 1e-6)
    if options.outside is not None:
        out[:, :, ~brain] = options.outside
    return out


def brain_box(brain: BoolArray, margin: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns that hold the brain (Z, Y, X) of every slice, with a margin (y, x)."""
    found = []
    for axis, extra in ((1, margin[0]), (2, margin[1])):
        other = tuple(a for a in range(3) if a != axis)
        at = np.flatnonzero(brain.any(axis=other))
        size = brain.shape[axis]
        if not at.size:
            found.append(slice(0, size))
            continue
        found.append(slice(max(0, int(at[0]) - extra), min(size, int(at[-1]) + 1 + extra)))
    return found[0], found[1]
