"""Arterial and venous input functions (AIF, VOF).

An artery is high, early and narrow; a vein is late and wide; tissue is low. A voxel is judged by
all of these and by its neighbours, and several candidates are kept. Partial volume damps the
arterial curve, so its area is scaled to the venous one, allowing for what the vein has not yet
seen when the scan ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokect.core.errors import CurveError
from strokect.core.result import InputCurve
from strokect.core.types import BoolArray, FloatArray, Grid
from strokect.perfusion.curves import Shape, noise_sd, shape_of

#: A second hump of this share of the peak is no recirculation. Fastest fall, share of peak per s.
SECOND_PASS, FASTEST_FALL = 0.45, 0.28


@dataclass(frozen=True)
class InputOptions:
    """n_voxels : voxels averaged at most, within radius_mm of the best one.
    apart_mm : distance between candidates. n_candidates : runners-up kept.
    min_peak_hu, min_width_s : no artery enhances less, or shorter. off_bone_mm : nor is one judged
    nearer to the skull, where a moving edge looks like a bolus. early_s, wide_s : penalty scales
    for arriving late and lasting long. vein_lag_s, vein_usual_s : by how much a vein's half-rise
    follows the artery's at least, and usually.
    artery_mm, sinus_mm : radius within which neighbours of a vessel voxel should be alike.
    scale_to_vof : correct partial volume. max_scale : beyond it the vein is not believed.
    """

    n_voxels: int = 5
    radius_mm: float = 5.0
    apart_mm: float = 12.0
    n_candidates: int = 4
    min_peak_hu: float = 30.0
    min_width_s: float = 4.0
    off_bone_mm: float = 3.0
    early_s: float = 1.5
    wide_s: float = 3.0
    vein_lag_s: float = 1.5
    vein_usual_s: float = 6.0
    artery_mm: float = 1.0
    sinus_mm: float = 2.5
    scale_to_vof: bool = True
    max_scale: float = 4.0


@dataclass(frozen=True, eq=False)
class VesselVoxels:
    """Strongly enhancing voxels: index (N, 3) as (z, y, x), curves (T, N) HU, their shape."""

    index: npt.NDArray[np.intp]
    curves: FloatArray
    shape: Shape
    noise_hu: FloatArray


def vessel_voxels(
    curves: FloatArray, index: npt.NDArray[np.intp], interval_s: float, options: InputOptions
) -> VesselVoxels:
    """Pick the voxels that may be vessels from enhancement curves (T, V).

    Raises CurveError where nothing enhances like a vessel.
    """
    peak = curves.max(axis=0)
    strong = float(np.quantile(peak, 1 - min(1.0, 40 / peak.size)))
    chosen = np.flatnonzero(peak > max(options.min_peak_hu, 0.2 * strong))
    if not chosen.size:
        raise CurveError(
            f"no artery: the strongest enhancement is {strong:.0f} HU",
            fix="Give an artery with --aif-mask, or check that contrast was given",
        )
    picked = curves[:, chosen]
    return VesselVoxels(
        index[chosen], picked, shape_of(picked, interval_s), np.maximum(noise_sd(picked), 0.5)
    )


def arterial_candidates(
    vessels: VesselVoxels,
    allowed: BoolArray,
    grid: Grid,
    interval_s: float,
    options: InputOptions,
) -> list[InputCurve]:
    """Arterial input functions, best first, among the ``allowed`` (N,) voxels.

    Raises CurveError where there is none.
    """
    shape = vessels.shape
    steady = (shape.peak_hu > 6 * vessels.noise_hu) & _returns(vessels.curves)
    steady &= allowed & (shape.width_s > options.min_width_s)
    if not steady.any():
        raise CurveError(
            "no curve looks like an artery", fix="Give an artery with --aif-mask or --aif-voxel"
        )
    like_bolus = steady & _one_passage(vessels, interval_s)
    if like_bolus.any():
        steady = like_bolus
    early = _earliest(shape.half_rise_s, shape.peak_hu, steady)
    narrow = float(np.quantile(shape.width_s[steady & (shape.half_rise_s < early + 3)], 0.1))
    lateness = np.maximum(shape.half_rise_s - early, 0) / options.early_s
    excess = np.maximum(shape.width_s - narrow, 0) / options.wide_s
    score = np.where(steady, shape.peak_hu * np.exp(-(lateness**2) - excess), 0.0)
    score *= 0.5 + 0.5 * _support(score, vessels.index, grid, options.artery_mm)
    positions = vessels.index[:, ::-1] @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    out: list[InputCurve] = []
    free = score > 0
    while free.any() and len(out) <= options.n_candidates:
        best = int(np.argmax(np.where(free, score, -1)))
        distance = np.linalg.norm(positions - positions[best], axis=1)
        members = _members(vessels, score, distance, best, options)
        out.append(_input_curve(vessels, members, positions, float(score[best])))
        free &= distance > options.apart_mm
    top = out[0].confidence
    quality = _arterial_quality(out[0], vessels, early, narrow, interval_s)
    return [replace(c, confidence=round(quality * c.confidence / top, 4)) for c in out]


def venous_input(
    vessels: VesselVoxels, aif: InputCurve, grid: Grid, interval_s: float, options: InputOptions
) -> InputCurve | None:
    """Venous output function: late, and of the largest area; None where no vein is seen."""
    artery = shape_of(aif.raw_hu[:, None], interval_s)
    lag = vessels.shape.half_rise_s - artery.half_rise_s[0]
    high = vessels.shape.peak_hu > 0.3 * artery.peak_hu[0]
    late = high & (lag > options.vein_lag_s) & _gradual(vessels.curves)
    if np.count_nonzero(late) < options.n_voxels:
        return None
    # Arteries behind an occlusion fill late too, but veins later still.
    area = np.where(late, vessels.shape.area * np.minimum(lag / options.vein_usual_s, 1.0), 0.0)
    # A sinus is wide: its middle is a voxel whose neighbours are as high, not a noisy maximum.
    score = area * (0.5 + 0.5 * _support(area, vessels.index, grid, options.sinus_mm))
    best = int(np.argmax(score))
    positions = vessels.index[:, ::-1] @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    distance = np.linalg.norm(positions - positions[best], axis=1)
    members = _members(vessels, score, distance, best, options)
    return _input_curve(vessels, members, positions, 1.0)


def scale_to_vein(
    aif: InputCurve, vof: InputCurve, interval_s: float, options: InputOptions
) -> InputCurve:
    """Scale the arterial curve to the area of the venous one.

    The venous curve is fitted by the arterial one passed through an exponential transit,
    s * AIF(t - delay) * exp(-t / MTT) / MTT, so that a scan that ends before the vein has washed
    out does not bias s. A scale below 1 or beyond ``max_scale`` is not believed.
    """
    scale = fit_scale(aif.raw_hu, vof.raw_hu, interval_s)
    if not 1.0 <= scale <= options.max_scale:
        return aif
    return replace(aif, curve_hu=(aif.raw_hu * scale).astype(np.float32), scale=scale)


def fit_scale(artery: FloatArray, vein: FloatArray, interval_s: float) -> float:
    """Ratio of areas vein / artery, each (T,), by the model of ``scale_to_vein``."""
    fine = 4
    n = len(artery)
    step = interval_s / fine
    t = np.arange(n * fine) * step
    a = np.interp(t, np.arange(n) * interval_s, artery)
    lags = np.arange(0.0, 15.0, 0.25)
    best = (np.inf, 1.0)
    for mtt in np.geomspace(0.5, 15.0, 24):
        transit = np.exp(-t / mtt)
        wide = np.convolve(a, transit / transit.sum())[: t.size]
        moved = np.stack([np.interp(t[::fine] - lag, t, wide, left=0.0) for lag in lags])
        scale = moved @ vein / np.maximum((moved**2).sum(axis=1), 1e-9)
        misfit = ((vein - scale[:, None] * moved) ** 2).sum(axis=1)
        k = int(np.argmin(misfit))
        best = min(best, (float(misfit[k]), float(scale[k])))
    return best[1]


def given_input(
    curves: FloatArray, index: npt.NDArray[np.intp], grid: Grid, source: str
) -> InputCurve:
    """The mean curve of voxels that the user chose.

    curves : (T, N) enhancement of the voxels ``index`` (N, 3). source : "mask" or "voxel".
    Raises CurveError where they do not enhance.
    """
    curve = curves.mean(axis=1).astype(np.float32)
    if not np.isfinite(curve).all() or curve.max() <= 0 or curve.sum() <= 0:
        raise CurveError(f"the voxels of the given {source} do not enhance", fix="Choose others")
    x, y, z = (grid.affine @ np.r_[index.mean(axis=0)[::-1], 1.0])[:3]
    return InputCurve(curve, curve, index, (float(x), float(y), float(z)), source=source)


def _returns(curves: FloatArray) -> BoolArray:
    """Whether a curve falls again, below 80 % of its peak: a step is motion, not a bolus."""
    return curves[-3:].mean(axis=0) < 0.8 * curves.max(axis=0)


def _one_passage(vessels: VesselVoxels, interval_s: float) -> BoolArray:
    """Whether contrast comes once and leaves gradually.

    An edge that a moving head drags over a voxel makes pulses: they end within a frame, and come
    back. Recirculation brings back a fifth of the peak at most, and dispersion in heart and lungs
    keeps any bolus from falling faster than FASTEST_FALL.
    """
    curves, peak = vessels.curves, vessels.shape.peak_hu
    noise = 4.0 * float(np.median(vessels.noise_hu))  # its own would excuse a jagged curve
    since = np.arange(len(curves))[:, None] - np.argmax(curves, axis=0)
    sides = np.where(since >= 0, curves, peak), np.where(since <= 0, curves, peak)[::-1]
    again = np.maximum(*((s - np.minimum.accumulate(s, axis=0)).max(axis=0) for s in sides))
    fall = -np.diff(curves, axis=0).min(axis=0)
    return (again < SECOND_PASS * peak + noise) & (fall < FASTEST_FALL * interval_s * peak + noise)


def _gradual(curves: FloatArray) -> BoolArray:
    """Whether no single frame makes up most of the rise: veins fill slowly, a jump does not."""
    return np.diff(curves, axis=0).max(axis=0) < 0.6 * curves.max(axis=0)


def _earliest(half_rise_s: FloatArray, peak_hu: FloatArray, steady: BoolArray) -> float:
    """Half-rise of the earliest arteries: low quantile over the stronger curves."""
    strong = steady & (peak_hu > 0.35 * np.quantile(peak_hu[steady], 0.98))
    return float(np.quantile(half_rise_s[strong], 0.05))


def _support(
    score: FloatArray, index: npt.NDArray[np.intp], grid: Grid, radius_mm: float
) -> FloatArray:
    """Mean score of the in-plane neighbours relative to the voxel's own, clipped to 0..1."""
    image = np.zeros(grid.shape, np.float32)
    image[tuple(index.T)] = score
    _, dy, dx = grid.spacing_mm
    size = (1, *(2 * max(1, round(radius_mm / d)) + 1 for d in (dy, dx)))
    n = size[1] * size[2]
    around = ndimage.uniform_filter(image, size, mode="constant") * n - image
    return np.clip(around[tuple(index.T)] / (n - 1) / np.maximum(score, 1e-6), 0, 1)


def _members(
    vessels: VesselVoxels, score: FloatArray, distance: FloatArray, best: int, options: InputOptions
) -> npt.NDArray[np.intp]:
    """The best voxel and its like around it: near, high scoring, of the same shape."""
    near = np.flatnonzero((distance <= options.radius_mm) & (score >= 0.7 * score[best]))
    model = vessels.curves[:, best]
    kept = [i for i in near if np.corrcoef(vessels.curves[:, i], model)[0, 1] > 0.95]
    order = sorted(kept, key=lambda i: (-score[i], i))[: options.n_voxels]
    return np.array(order if order else best, ndmin=1)


def _input_curve(
    vessels: VesselVoxels, members: npt.NDArray[np.intp], positions: FloatArray, confidence: float
) -> InputCurve:
    curve = vessels.curves[:, members].mean(axis=1).astype(np.float32)
    x, y, z = positions[members].mean(axis=0)
    return InputCurve(
        curve, curve, vessels.index[members], (float(x), float(y), float(z)), 1.0, confidence
    )


def _arterial_quality(
    aif: InputCurve, vessels: VesselVoxels, early: float, narrow: float, interval_s: float
) -> float:
    """Confidence 0..1: the product of soft judgements of height, noise, lead and width."""
    shape = shape_of(aif.raw_hu[:, None], interval_s)
    peak = float(shape.peak_hu[0])
    noise = float(noise_sd(aif.raw_hu[:, None])[0]) + 0.5
    height = np.clip(peak / 80.0, 0, 1)
    clean = np.clip(peak / (15.0 * noise), 0, 1)
    lead = np.exp(-max(float(shape.half_rise_s[0]) - early - 1.0, 0.0) / 3.0)
    width = np.exp(-max(float(shape.width_s[0]) - 12.0, 0.0) / 8.0)
    return float(height * clean * lead * width)
