"""A head of three slices with a bolus that is known, for tests of what networks are given."""

import numpy as np

from strokect.core.types import CTSeries, Grid
from strokect.learn.inputs import InputOptions

SHAPE, SPACING = (3, 64, 72), (8.0, 3.0, 2.5)
ARRIVAL_S, RISE_S = 14.0, 8.0
#: What a network is given of it.
OPTIONS = InputOptions(
    time_points=12, interval_s=2.0, before_s=6.0, window_hu=(-20.0, 150.0), crop_mm=6.0,
    zscore=False, outside=None, motion_correction=False,
)  # fmt: skip


def inside(margin_mm):
    """An ellipse of 63 x 54 mm half axes, less a margin."""
    _, y, x = np.indices(SHAPE)
    y, x = (y - 33) * SPACING[1], (x - 36) * SPACING[2]
    return (y / (76 - margin_mm)) ** 2 + (x / (66 - margin_mm)) ** 2 < 1


def bolus(t):
    """0 before ARRIVAL_S, 1 at its peak."""
    s = np.maximum(t - ARRIVAL_S, 0) / RISE_S
    return s**2 * np.exp(2 * (1 - s))


def make_head(arrives=True, frames=40, slice_s=0.25):
    rng = np.random.default_rng(0)
    times = np.arange(frames, dtype=float)[:, None] + slice_s * np.arange(SHAPE[0])
    still = np.where(inside(10), 35.0, np.where(inside(0), 900.0, -1000.0)).astype(np.float32)
    gain = np.where(inside(10), 8.0, 0.0)
    gain[:, 30:32, 30:32] = 250.0  # an artery
    curve = bolus(times) if arrives else np.zeros_like(times)
    data = still + gain * curve[:, :, None, None] + rng.normal(0, 2.0, (frames, *SHAPE))
    affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
    return CTSeries(data.astype(np.float32), times, Grid(SHAPE, affine))
