"""From acquisition times, per frame and slice, to one uniform time axis.

CT perfusion is often irregular in time, and in shuttle and cine modes every slice has times of
its own. One linear operator per slice takes the samples to the uniform axis; after it, everything
may assume uniform times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from strokect.core.types import FloatArray
from strokect.perfusion.curves import noise_sd

#: Above this interval a scan is sampled finer than it was acquired, so that the discrete
#: convolution follows the bolus, which rises within a few seconds.
MAX_INTERVAL_S = 1.5
MIN_INTERVAL_S = 0.5


@dataclass(frozen=True, eq=False)
class UniformAxis:
    """time_s : (N,) uniform times, s. exact : whether the samples already lie on it."""

    time_s: FloatArray
    exact: bool

    @property
    def interval_s(self) -> float:
        return float(self.time_s[1] - self.time_s[0])


def uniform_axis(times_s: FloatArray) -> UniformAxis:
    """Choose the uniform axis for acquisition times (T, Z).

    Samples that are uniform within 1 % and simultaneous over slices are kept as they are. Else the
    axis spans the scan at the interval of its densest phase, between 0.5 and 1.5 s.
    """
    steps = np.diff(times_s, axis=0)
    interval = float(np.median(steps))
    start = float(times_s.min())
    uniform = np.allclose(steps, interval, rtol=0.01, atol=0.002)
    simultaneous = float(np.ptp(times_s, axis=1).max()) < 0.02 * interval
    if uniform and simultaneous and interval <= 2 * MAX_INTERVAL_S:
        return UniformAxis(start + interval * np.arange(times_s.shape[0]), exact=True)
    dense = float(np.quantile(steps, 0.1))
    step = float(np.clip(dense, MIN_INTERVAL_S, MAX_INTERVAL_S))
    end = float(times_s[-1].min())  # beyond it, some slices were never seen
    n = int(np.floor((end - start) / step + 1e-6)) + 1
    return UniformAxis(start + step * np.arange(max(n, 2)), exact=False)


def interpolation_matrix(source_s: FloatArray, target_s: FloatArray) -> FloatArray:
    """Linear operator (N, T) of local cubic interpolation from uneven samples.

    Cubic Hermite with three-point slopes: exact for quadratics, with a support of four samples, so
    that noise does not travel; held constant outside the samples.
    """
    t = np.asarray(source_s, float)
    n = t.size
    if n == 1:
        return np.ones((target_s.size, 1))
    h = np.diff(t)
    slopes = np.zeros((n, n))
    slopes[0, :2] = [-1 / h[0], 1 / h[0]]
    slopes[-1, -2:] = [-1 / h[-1], 1 / h[-1]]
    for i in range(1, n - 1):  # derivative of the parabola through three samples
        a, b = h[i - 1], h[i]
        slopes[i, i - 1 : i + 2] = [-b / (a * (a + b)), (b - a) / (a * b), a / (b * (a + b))]
    x = np.clip(np.asarray(target_s, float), t[0], t[-1])
    k = np.clip(np.searchsorted(t, x, side="right") - 1, 0, n - 2)
    u = (x - t[k]) / h[k]
    rows = np.arange(x.size)
    values = np.zeros((x.size, n))
    values[rows, k] += (1 + 2 * u) * (1 - u) ** 2
    values[rows, k + 1] += u**2 * (3 - 2 * u)
    left, right = (u * (1 - u) ** 2 * h[k])[:, None], (u**2 * (u - 1) * h[k])[:, None]
    return values + left * slopes[k] + right * slopes[k + 1]


def noise_correction(curves: FloatArray, times_s: FloatArray, axis: UniformAxis) -> float:
    """By what to multiply the noise SD that ``curves.noise_sd`` tells of curves (N, V).

    Interpolated samples share their noise: its second differences are small, and smaller than
    those of the bolus where samples lie far apart. So the noise is measured at the distance of the
    acquired samples and set against what interpolation leaves of it there; and points beyond the
    number of samples count for nothing. 1 where the samples already lie on the axis.
    """
    if axis.exact:
        return 1.0
    some = curves[:, :: max(1, curves.shape[1] // 5000)]
    interval = float(np.median(np.diff(times_s, axis=0)))
    stride = max(1, min(round(interval / axis.interval_s), len(curves) // 4))
    sets = np.unique(times_s, axis=1).T
    few = sets[:: max(1, len(sets) // 8)]
    operators = [interpolation_matrix(times, axis.time_s) for times in few]
    found = np.median([np.median(noise_sd(some[k::stride])) for k in range(stride)])
    left = np.concatenate(
        [np.linalg.norm(np.diff(o[k::stride], n=2, axis=0), axis=1) for o in operators
         for k in range(stride)]
    )  # fmt: skip
    # The median of Gaussians of several widths, by their quantiles.
    quantiles = special.ndtri(np.arange(0.5025, 1.0, 0.005))
    expected = np.median(np.outer(quantiles, left)) / (0.6745 * np.sqrt(6.0))
    share = max(axis.time_s.size / len(times_s), 1.0)
    noise = found / max(float(expected), 1e-3) * np.sqrt(share)
    return float(noise / max(float(np.median(noise_sd(some))), 1e-6))


def to_uniform(
    curves: FloatArray, slice_of: npt.NDArray[np.intp], times_s: FloatArray, axis: UniformAxis
) -> FloatArray:
    """Resample curves (T, V), voxel v lying in slice ``slice_of[v]``, to (N, V) float32."""
    if axis.exact:
        return curves
    out = np.empty((axis.time_s.size, curves.shape[1]), np.float32)
    for z in np.unique(slice_of):  # slices, not voxels: each has one operator
        here = slice_of == z
        operator = interpolation_matrix(times_s[:, z], axis.time_s).astype(np.float32)
        out[:, here] = operator @ curves[:, here]
    return out
