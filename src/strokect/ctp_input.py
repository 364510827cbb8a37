"""From a CT perfusion scan to what networks that look at the whole 4D scan are given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from strokect.core.types import CTSeries, Progress, no_progress
from strokect.learn.inputs import InputOptions, network_input, normalised
from strokect.learn.scan_input import ScanInput, field_of
from strokect.perfusion import curves as enhancement
from strokect.perfusion import motion, quality
from strokect.perfusion.motion import MotionOptions
from strokect.perfusion.prepare import Given, prepare


def scan_input(
    series: CTSeries, options: InputOptions, progress: Progress = no_progress
) -> ScanInput:
    """Align, find the brain and the bolus, and resample to the network's times.

    Raises ScanError (no head, too few frames), CurveError (no bolus).
    """
    quality.check_values(series)
    flags = list(series.flags)
    if options.motion_correction and series.data_hu.shape[0] > 1:
        aligned, moved = motion.correct_motion(series, MotionOptions(), progress)
        series = replace(series, data_hu=aligned)
        flags += quality.motion_flags(moved)
    prepared, raw = prepare(series, Given())
    brain = prepared.masks.brain
    curve = enhancement.subtract_baseline(raw, prepared.last_baseline)
    mean = curve[:, brain[prepared.masks.inside]].mean(axis=1)
    start = float(prepared.axis.time_s[0])
    arrival = start + enhancement.arrival_s(mean, prepared.axis.interval_s)
    where = field_of(brain, series.grid, options.spacing_mm, options.pixels, options.crop_mm)
    cut = series.data_hu[:, :, *where.box]
    seen = network_input(cut, series.times_s, arrival, options)
    seen = where.grids.to_network(seen)
    image_brain = where.grids.mask_to_network(brain[:, *where.box])
    brain_ml = float(np.count_nonzero(brain) * series.grid.voxel_ml)
    flags += quality.scan_flags(
        series.times_s, series.grid, brain_ml, prepared.noise_hu, prepared.axis.exact
    )
    return ScanInput(
        normalised(seen, image_brain, options),
        image_brain,
        where.grids,
        where.box,
        brain,
        prepared.mean_hu,
        tuple(flags),
    )
