"""Baseline, noise, arrival and shape of enhancement curves. Curves are (T, V), time uniform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from strokect.core.errors import CurveError
from strokect.core.types import FloatArray

#: Fraction of the peak at which a strong curve counts as having arrived.
ARRIVAL_FRACTION = 0.1
#: Curves at a time where whole scans are sorted: numpy would copy them all several times.
BLOCK = 65536


def noise_sd(curves: FloatArray) -> FloatArray:
    """Noise SD (V,) of raw curves (T, V) from second differences, HU.

    A smooth curve has second differences near 0, so the estimate needs no baseline; the median
    keeps the bolus out. White noise: Var(second difference) = 6 sigma^2.
    """
    return _by_block(
        lambda block: np.median(np.abs(np.diff(block, n=2, axis=0)), axis=0), curves
    ) / np.float32(0.6745 * np.sqrt(6.0))


def _by_block(f: Callable[[FloatArray], FloatArray], curves: FloatArray) -> FloatArray:
    """f of curves (T, V), (V,), some curves at a time."""
    starts = range(0, max(curves.shape[1], 1), BLOCK)
    return np.concatenate([f(curves[:, start : start + BLOCK]) for start in starts])


def _low(curves: FloatArray) -> FloatArray:
    """The level (V,) that curves (T, V) lie below for a tenth of the time."""
    return _by_block(lambda block: np.quantile(block, 0.1, axis=0), curves)


def last_baseline_frame(curves: FloatArray, noise_hu: float) -> int:
    """Index of the last frame before contrast reaches any vessel.

    Judged on the strongest curves, each by itself: their mean would follow the many voxels of the
    sinuses, which fill after the arteries. curves : (T, V) HU, not baseline-corrected. noise_hu :
    noise SD of one curve. Raises CurveError where nothing enhances.
    """
    low = _low(curves)
    rise = curves.max(axis=0) - low
    n_best = min(max(20, curves.shape[1] // 500), curves.shape[1])
    best = np.argpartition(rise, -n_best)[-n_best:]
    mean = curves[:, best].mean(axis=1)
    height = float(np.ptp(mean))
    if height < max(6.0 * noise_hu, 15.0) or not _is_bolus(mean - mean.min()):
        raise CurveError(
            f"no contrast bolus [NO_BOLUS]: the strongest curves rise by {height:.0f} HU at a "
            f"noise of {noise_hu:.1f} HU",
            fix="Check that this is the CT perfusion series and that contrast was given",
        )
    return max(int(np.quantile(frames_before_arrival(curves[:, best]), 0.02)) - 1, 0)


def frames_before_arrival(curves: FloatArray) -> npt.NDArray[np.intp]:
    """Last frame (V,) before each strong curve (T, V), of any baseline, rises to its peak; -1 if
    it starts high."""
    low = _low(curves)
    level = low + 2 * ARRIVAL_FRACTION * (curves.max(axis=0) - low)
    frames = np.arange(len(curves))[:, None]
    before = (curves < level) & (frames < np.argmax(curves, axis=0))
    return np.where(before, frames, -1).max(axis=0)


def _is_bolus(curve: FloatArray) -> bool:
    """A bolus lasts several frames; a spike of motion or an artefact does not."""
    return int(np.count_nonzero(curve > 0.4 * curve.max())) >= 2


def subtract_baseline(curves: FloatArray, last_baseline: int) -> FloatArray:
    """Enhancement (T, V): curves minus their mean over frames 0 .. last_baseline."""
    return curves - baseline(curves, last_baseline)


def baseline(curves: FloatArray, last_baseline: int) -> FloatArray:
    """Mean (V,) of curves (T, V) over frames 0 .. last_baseline."""
    return curves[: last_baseline + 1].mean(axis=0)


@dataclass(frozen=True, eq=False)
class Shape:
    """Shape of strong curves; each (V,). Times in s from the start of the axis."""

    peak_hu: FloatArray
    peak_s: FloatArray
    half_rise_s: FloatArray
    width_s: FloatArray
    area: FloatArray


def shape_of(curves: FloatArray, interval_s: float) -> Shape:
    """Peak, time of the half-maximum on the way up, full width at half maximum, area (HU s).

    curves : (T, V) enhancement. A curve that never falls to half its peak is as wide as the scan
    allows.
    """
    n, v = curves.shape
    every = np.arange(v)
    top = np.argmax(curves, axis=0)
    peak = curves[top, every]
    half = peak / 2
    frames = np.arange(n)[:, None]
    below = curves < half
    last_below = np.where(below & (frames < top), frames, -1).max(axis=0)
    first_below = np.where(below & (frames > top), frames, n).min(axis=0)
    rise = _crossing(curves, last_below, np.minimum(last_below + 1, n - 1), half)
    fall = _crossing(curves, np.maximum(first_below - 1, 0), np.minimum(first_below, n - 1), half)
    rise = np.where(last_below < 0, 0.0, rise)
    fall = np.where(first_below >= n, n - 1.0, fall)
    return Shape(
        peak, parabolic_peak(curves, top) * interval_s, rise * interval_s,
        (fall - rise) * interval_s, curves.sum(axis=0) * interval_s,
    )  # fmt: skip


def _crossing(
    curves: FloatArray, low: npt.NDArray[np.intp], high: npt.NDArray[np.intp], level: FloatArray
) -> FloatArray:
    """Position in frames where a straight line from frame low to frame high meets the level."""
    every = np.arange(curves.shape[1])
    a, b = curves[np.maximum(low, 0), every], curves[high, every]
    step = np.where(np.abs(b - a) > 1e-6, b - a, 1.0)
    return low + np.clip((level - a) / step, 0.0, 1.0) * (high - low)


def parabolic_peak(curves: FloatArray, top: npt.NDArray[np.intp]) -> FloatArray:
    """Sub-sample position (V,) of maxima at frames ``top`` (V,), by a parabola, in frames."""
    n, v = curves.shape
    every = np.arange(v)
    inner = (top > 0) & (top < n - 1)
    i = np.clip(top, 1, n - 2)
    a, b, c = curves[i - 1, every], curves[i, every], curves[i + 1, every]
    bend = a - 2 * b + c
    offset = np.where(inner & (bend < 0), 0.5 * (a - c) / np.where(bend < 0, bend, -1.0), 0.0)
    return (top + np.clip(offset, -0.5, 0.5)).astype(np.float32)


def arrival_s(curve: FloatArray, interval_s: float) -> float:
    """Bolus arrival of one strong curve (T,), s: where it first leaves 10 % of its peak."""
    peak = int(np.argmax(curve))
    level = ARRIVAL_FRACTION * curve[peak]
    below = np.flatnonzero(curve[: peak + 1] < level)
    if not below.size:
        return 0.0
    low = int(below[-1])
    step = curve[low + 1] - curve[low]
    return float((low + (level - curve[low]) / step) * interval_s)
