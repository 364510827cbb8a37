"""From an aligned scan to what an estimator needs: masks, times, input functions, curves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from strokect.core.errors import CurveError, GeometryError
from strokect.core.result import Curves, InputCurve, Motion
from strokect.core.types import BoolArray, CTSeries, FloatArray, Grid, Mask
from strokect.perfusion import brain as brains
from strokect.perfusion import curves as enhancement
from strokect.perfusion import inputs, motion, sampling
from strokect.perfusion.convolution import BloodConstants
from strokect.perfusion.inputs import InputOptions
from strokect.perfusion.motion import MotionOptions
from strokect.perfusion.tissue import VESSEL_CBV


@dataclass(frozen=True)
class Given:
    """What the user gives instead of letting it be found. aif_voxels : indices (z, y, x)."""

    aif: Mask | None = None
    vof: Mask | None = None
    brain: Mask | None = None
    aif_voxels: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Prepared:
    """What is known of a scan before its curves are fitted. mip_hu, mean_hu : (Z, Y, X).

    given : curves (N, V) of the voxels that the user chose, HU, on the axis, by "aif" and "vof".
    """

    mip_hu: FloatArray
    mean_hu: FloatArray
    masks: brains.BrainMasks
    axis: sampling.UniformAxis
    given: dict[str, Picked]
    last_baseline: int
    noise_hu: float


@dataclass(frozen=True, eq=False)
class Picked:
    """Voxels (V, 3) that the user chose, from what source, and their curves (N, V), HU."""

    index: npt.NDArray[np.intp]
    source: str
    curves: FloatArray


def prepare(series: CTSeries, given: Given) -> tuple[Prepared, FloatArray]:
    """Masks, uniform axis, baseline and noise; and the curves (N, V) inside the skull, HU."""
    data, grid = series.data_hu, series.grid
    mean = data.mean(axis=0)
    if given.brain is None:
        masks = brains.brain_masks(mean, grid)
    else:
        masks = brains.given_brain(mean, given.brain.data, grid)
    axis = sampling.uniform_axis(series.times_s)
    within = data[:, masks.inside]
    noise = float(np.median(enhancement.noise_sd(within[:, masks.brain[masks.inside]])))
    raw = sampling.to_uniform(within, np.nonzero(masks.inside)[0], series.times_s, axis)
    last = enhancement.last_baseline_frame(raw, noise)
    picked = {name: _pick(series, axis, *p) for name, p in _given_voxels(given, grid).items()}
    return Prepared(data.max(axis=0), mean, masks, axis, picked, last, noise), raw


def _given_voxels(given: Given, grid: Grid) -> dict[str, tuple[npt.NDArray[np.intp], str]]:
    """Indices (V, 3) of what the user gave as "aif" and "vof", and how."""
    out = {}
    if given.aif is not None:
        out["aif"] = (np.argwhere(given.aif.data), "mask")
    elif given.aif_voxels:
        index = np.array(given.aif_voxels, dtype=np.intp)
        if (index < 0).any() or (index >= np.array(grid.shape)).any():
            z, y, x = grid.shape
            raise GeometryError(
                "a voxel outside the scan",
                "--aif-voxel",
                f"Give x,y,z below {x},{y},{z}, counted from 0",
            )
        out["aif"] = (index, "voxel")
    if given.vof is not None:
        out["vof"] = (np.argwhere(given.vof.data), "mask")
    return out


def _pick(
    series: CTSeries, axis: sampling.UniformAxis, index: npt.NDArray[np.intp], source: str
) -> Picked:
    curves = series.data_hu[(slice(None), *index.T)]
    return Picked(index, source, sampling.to_uniform(curves, index[:, 0], series.times_s, axis))


def steady_voxels(
    inside: BoolArray, moved: Motion | None, grid: Grid, off_bone_mm: float, options: MotionOptions
) -> BoolArray:
    """Where an AIF may lie (Z, Y, X): off the skull, the further the more the head moved.

    An edge of bone dragged over a voxel, in its slice or from the next, looks like a bolus.
    """
    shift = 0.0 if moved is None else float(moved.displacement_mm.max())
    if moved is None or shift <= options.ignore_mm:
        return brains.distance_mm(inside, grid) > off_bone_mm
    above, below = (np.concatenate(p) for p in ((inside[1:], inside[-1:]),
                                                (inside[:1], inside[:-1])))  # fmt: skip
    clear = brains.distance_mm(inside & above & below, grid) > off_bone_mm + shift
    return clear & motion.always_seen(moved, grid, options)


def settled_inputs(
    prepared: Prepared,
    raw: FloatArray,
    steady: BoolArray,
    grid: Grid,
    options: InputOptions,
) -> tuple[Prepared, Curves]:
    """Input functions, on a baseline that ends before the artery itself fills."""
    curves = _input_functions(prepared, raw, steady, grid, options)
    first = int(enhancement.frames_before_arrival(curves.aif.raw_hu[:, None])[0]) - 1
    if not 0 <= first < prepared.last_baseline:
        return prepared, curves
    # The few arteries filled before the many vessels that the baseline was judged by.
    prepared = replace(prepared, last_baseline=first)
    return prepared, _input_functions(prepared, raw, steady, grid, options)


def _input_functions(
    prepared: Prepared,
    raw: FloatArray,
    steady: BoolArray,
    grid: Grid,
    options: InputOptions,
) -> Curves:
    """AIF and VOF: the user's where given, else found; the AIF scaled to the VOF.

    raw : (N, V) inside the skull, HU.
    """
    step = prepared.axis.interval_s
    enhanced = enhancement.subtract_baseline(raw, prepared.last_baseline)
    index = np.argwhere(prepared.masks.inside)
    vessels = inputs.vessel_voxels(enhanced, index, step, options)
    if "aif" in prepared.given:
        aif, others = _given_curve(prepared, "aif", grid), []
    else:
        allowed = steady[tuple(vessels.index.T)]
        aif, *others = inputs.arterial_candidates(vessels, allowed, grid, step, options)
    if "vof" in prepared.given:
        vof: InputCurve | None = _given_curve(prepared, "vof", grid)
    else:
        vof = inputs.venous_input(vessels, aif, grid, step, options)
    if vof is not None and options.scale_to_vof:
        aif = inputs.scale_to_vein(aif, vof, step, options)
    nothing = np.zeros_like(prepared.axis.time_s)
    return Curves(prepared.axis.time_s, aif, vof, nothing, tuple(others))


def _given_curve(prepared: Prepared, name: str, grid: Grid) -> InputCurve:
    picked = prepared.given[name]
    curves = enhancement.subtract_baseline(picked.curves, prepared.last_baseline)
    peak = float(curves.mean(axis=1).max())
    if not peak > 4 * prepared.noise_hu / np.sqrt(len(picked.index)):
        raise CurveError(
            f"the vessel given as {picked.source} rises by {peak:.0f} HU only, no more than noise",
            fix="Choose voxels inside a vessel",
        )
    return inputs.given_input(curves, picked.index, grid, picked.source)


def large_vessels(
    prepared: Prepared, raw: FloatArray, aif: InputCurve, blood: BloodConstants
) -> BoolArray:
    """Voxels (Z, Y, X) whose undenoised curve holds more blood than tissue can."""
    area = float(aif.curve_hu.sum(dtype=float)) / blood.volume_to_cbv
    cbv = enhancement.subtract_baseline(raw, prepared.last_baseline).sum(axis=0) / area
    noise = prepared.noise_hu * np.sqrt(len(raw)) / area
    out = np.zeros(prepared.masks.inside.shape, bool)
    out[prepared.masks.inside] = cbv > VESSEL_CBV + 2.0 * noise
    return out


def denoised(
    curves: FloatArray,
    prepared: Prepared,
    vessels: BoolArray,
    grid: Grid,
    denoiser: Callable[..., FloatArray],
    options: Any,
) -> FloatArray:
    """Enhancement of the brain, tissue and CSF denoised apart, large vessels left alone.

    curves : (N, V) of the brain, HU; overwritten. denoiser, options : see ``perfusion.denoise``.
    """
    brain, csf = prepared.masks.brain, prepared.masks.csf
    for part in (brain & ~csf & ~vessels, brain & csf & ~vessels):
        if part.any():
            chosen = part[brain]
            curves[:, chosen] = denoiser(curves[:, chosen], part, grid, options)
    curves -= enhancement.baseline(curves, prepared.last_baseline)
    return curves
