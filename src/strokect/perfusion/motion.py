"""Rigid head-motion correction of dynamic CT.

Every frame is aligned to a reference frame by inverse-compositional Gauss-Newton (Baker 2004, Int
J Comput Vis 56:221) on a coarse grid of points at edges. Attenuation is windowed so that skull
and scalp drive the fit, and residuals carry Huber weights, so that vessels filling with contrast
count little. A weak prior keeps thin coverage well-posed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from scipy import ndimage

from strokect.core.geometry import smoothing_sigma_voxels
from strokect.core.result import Motion
from strokect.core.types import BoolArray, CTSeries, FloatArray, Grid, Progress, no_progress
from strokect.perfusion.realign import Pose, realign

#: Median misfit at edges that the bolus may cause, HU.
CONTRAST_MISFIT_HU = 5.0


@dataclass(frozen=True)
class MotionOptions:
    """point_mm : in-plane spacing of the points. smooth_mm : widths, coarse to fine.
    window_hu : attenuation is clipped to it. prior_mm, prior_deg : SD of plausible motion.
    ignore_mm : frames that moved less are left untouched, as interpolation costs sharpness.
    replace_ratio : frames that fit this much worse than usual are replaced in time.
    """

    point_mm: float = 3.0
    smooth_mm: tuple[float, ...] = (4.0, 1.0)
    window_hu: tuple[float, float] = (-200.0, 250.0)
    prior_mm: float = 5.0
    prior_deg: float = 4.0
    iterations: int = 20
    ignore_mm: float = 0.25
    replace_ratio: float = 2.5


@dataclass(frozen=True, eq=False)
class _Level:
    """One resolution: points (N, 3) mm, reference values (N,), Jacobian (N, 6)."""

    points_mm: FloatArray
    values: FloatArray
    jacobian: FloatArray
    sigma: tuple[float, ...]


def correct_motion(
    series: CTSeries, options: MotionOptions, progress: Progress = no_progress
) -> tuple[FloatArray, Motion]:
    """Align all frames with the first good frame.

    They are registered to the frame most like the others, which is the easiest to fit, and told
    relative to the first, where a reader expects the head. Returns the aligned (T, Z, Y, X)
    float32, HU (the input array itself where nothing moved), and the motion found. Frames beyond
    repair are interpolated from their neighbours in time.
    """
    data, grid = series.data_hu, series.grid
    reference = _reference_frame(data)
    centre = _head_centre_mm(data[reference], grid)
    levels = [_level(data[reference], grid, centre, s, options) for s in options.smooth_mm]
    n = len(data)
    parameters, misfit = np.zeros((n, 6)), np.zeros(n)
    for t in range(n):
        if t != reference:
            parameters[t], misfit[t] = _register(data[t], grid, centre, levels, options)
        progress(t + 1, 2 * n)
    misfit[reference] = np.median(np.delete(misfit, reference)) if n > 1 else 0.0
    bad = _beyond_repair(misfit, options.replace_ratio)
    first = int(np.setdiff1d(np.arange(n), bad)[0])
    parameters = _relative_to(parameters, first, centre)
    parameters[bad] = 0.0  # what was found for them means nothing
    shift = _displacement_mm(parameters, levels[-1].points_mm, centre)
    aligned = data
    at_rest = np.setdiff1d(np.flatnonzero(shift <= options.ignore_mm), bad)
    if len(at_rest) + bad.size < n:
        poses = _poses(parameters, shift, levels[-1].points_mm, (grid, centre), options)
        aligned = realign(data, at_rest, poses)
    if bad.size:
        aligned = data.copy() if aligned is data else aligned
        _replace(aligned, series.times_s, bad)
    progress(2 * n, 2 * n)
    shown = parameters.copy()
    shown[:, 3:] = np.rad2deg(shown[:, 3:])
    frame_times = series.times_s.mean(axis=1)
    x, y, z = (float(c) for c in centre)
    return aligned, Motion(frame_times, shown, shift, tuple(int(b) for b in bad), (x, y, z))


def always_seen(motion: Motion, grid: Grid, options: MotionOptions) -> BoolArray:
    """Voxels (Z, Y, X) that lay within the scan in every pose of the head.

    What a moved frame did not see was filled in from its nearest slice: good enough for a map, not
    to take an input function from.
    """
    seen = np.ones(grid.shape, bool)
    centre, to_index = np.asarray(motion.centre_mm), np.linalg.inv(grid.affine)
    z, y, x = np.ogrid[tuple(slice(n) for n in grid.shape)]
    moved = motion.parameters[motion.displacement_mm > options.ignore_mm]
    for pose in np.unique(moved, axis=0):
        radians = np.concatenate([pose[:3], np.deg2rad(pose[3:])])
        index = to_index @ rigid_matrix(radians, centre) @ grid.affine
        for row, n in zip(index, grid.shape[::-1], strict=False):
            place = row[0] * x + row[1] * y + row[2] * z + row[3]
            seen &= (place > -0.5) & (place < n - 0.5)
    return seen


def rigid_matrix(parameters: FloatArray, centre_mm: FloatArray) -> FloatArray:
    """(4, 4) RAS motion: rotation about x, y, z (radians, last three) at the centre, then shift."""
    a, b, c = parameters[3:]
    ca, sa, cb, sb, cc, sc = np.cos(a), np.sin(a), np.cos(b), np.sin(b), np.cos(c), np.sin(c)
    rx = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    ry = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    rz = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    out = np.eye(4)
    out[:3, :3] = rz @ ry @ rx
    out[:3, 3] = centre_mm + parameters[:3] - out[:3, :3] @ centre_mm
    return out


def _reference_frame(data: FloatArray) -> int:
    """The frame nearest to the median frame, seen coarsely: the pose held most of the time."""
    coarse = np.clip(data[:, :, 2::5, 2::5], -200, 250)
    middle = np.median(coarse, axis=0)
    return int(np.argmin([np.abs(f - middle).mean(dtype=float) for f in coarse]))


def _head_centre_mm(frame: FloatArray, grid: Grid) -> FloatArray:
    step = tuple(slice(None, None, 4 if n > 64 else 1) for n in frame.shape)
    inside = np.argwhere(frame[step] > -300)
    where = inside.mean(axis=0) if len(inside) else np.array(frame[step].shape) / 2
    z, y, x = (w * (s.step or 1) for w, s in zip(where, step, strict=True))
    return (grid.affine @ [x, y, z, 1.0])[:3]


def _windowed(frame: FloatArray, sigma: tuple[float, ...], options: MotionOptions) -> FloatArray:
    return ndimage.gaussian_filter(np.clip(frame, *options.window_hu), sigma, truncate=2.5)


def _level(
    frame: FloatArray, grid: Grid, centre: FloatArray, smooth_mm: float, options: MotionOptions
) -> _Level:
    sigma = smoothing_sigma_voxels(grid, smooth_mm, in_plane=True)
    image = _windowed(frame, sigma, options)
    by_index = np.stack([np.gradient(image, axis=a) for a in (2, 1, 0) if image.shape[a] > 1])
    if len(by_index) < 3:  # a single slice tells nothing of motion along z
        by_index = np.concatenate([by_index, np.zeros((1, *image.shape), np.float32)])
    _, dy, dx = grid.spacing_mm
    sy, sx = max(1, round(options.point_mm / dy)), max(1, round(options.point_mm / dx))
    lattice = np.zeros(image.shape, bool)
    lattice[:, ::sy, ::sx] = True
    to_index = np.linalg.inv(grid.affine[:3, :3])
    gradient = np.einsum("rzyx,rc->czyx", by_index, to_index)  # HU per mm, RAS
    strength = np.linalg.norm(gradient, axis=0)
    chosen = lattice & (strength > np.quantile(strength[lattice], 0.6))
    z, y, x = np.nonzero(chosen)
    points = np.stack([x, y, z]).T @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    g = gradient[:, chosen].T  # (N, 3)
    arm = points - centre
    jacobian = np.hstack([g, np.cross(arm, g)])  # rotation w moves a point by w x arm
    return _Level(points, image[chosen].astype(np.float64), jacobian, sigma)


def _register(
    frame: FloatArray, grid: Grid, centre: FloatArray, levels: list[_Level], options: MotionOptions
) -> tuple[FloatArray, float]:
    """Parameters (6,), mm and radians, that take the reference onto the frame; and the misfit."""
    to_index = np.linalg.inv(grid.affine)
    pose = np.eye(4)
    spread = np.r_[np.full(3, options.prior_mm), np.full(3, np.deg2rad(options.prior_deg))]
    misfit = 0.0
    for level in levels:
        image = _windowed(frame, level.sigma, options)
        for _ in range(options.iterations):
            moved = to_index @ pose
            residual = _residuals(image, level.points_mm, level.values, moved)
            seen = np.isfinite(residual)
            misfit = float(np.median(np.abs(residual[seen]))) if seen.any() else np.inf
            if not seen.any():
                break
            scale = max(1.4826 * misfit, 1.0)
            # Huber: bounded, never zero. A redescending weight would reject the very skull points
            # that tell a motion along z apart in thick slices.
            size = np.maximum(np.abs(residual) / (3.0 * scale), 1.0)
            weight = np.where(seen, 1.0 / size, 0.0) / scale**2
            weighted = level.jacobian * weight[:, None]
            normal = weighted.T @ level.jacobian + np.diag(spread**-2.0)
            pull = _parameters(pose, centre) / spread**2  # the prior: towards no motion
            step = np.linalg.solve(normal, weighted.T @ np.where(seen, residual, 0.0) + pull)
            pose = pose @ np.linalg.inv(rigid_matrix(step, centre))
            if np.abs(step[:3]).max() < 0.01 and np.abs(step[3:]).max() < 1e-4:
                break
    return _parameters(pose, centre), misfit


def _parameters(pose: FloatArray, centre: FloatArray) -> FloatArray:
    """Invert ``rigid_matrix``."""
    r = pose[:3, :3]
    angles = [np.arctan2(r[2, 1], r[2, 2]), -np.arcsin(np.clip(r[2, 0], -1, 1)),
              np.arctan2(r[1, 0], r[0, 0])]  # fmt: skip
    return np.r_[pose[:3, 3] - centre + r @ centre, angles]


def _relative_to(parameters: FloatArray, frame: int, centre: FloatArray) -> FloatArray:
    """The same motion, told from the pose of another frame."""
    back = np.linalg.inv(rigid_matrix(parameters[frame], centre))
    out = np.stack([_parameters(rigid_matrix(p, centre) @ back, centre) for p in parameters])
    out[frame] = 0.0
    return out


def _displacement_mm(parameters: FloatArray, points: FloatArray, centre: FloatArray) -> FloatArray:
    """Mean displacement (T,) of the points under each motion; 0 where there is no head."""
    out = np.zeros(len(parameters))
    if not len(points):
        return out
    for t, p in enumerate(parameters):
        m = rigid_matrix(p, centre)
        out[t] = np.linalg.norm(points @ (m[:3, :3] - np.eye(3)).T + m[:3, 3], axis=1).mean()
    return out


def _poses(
    parameters: FloatArray,
    shift_mm: FloatArray,
    points: FloatArray,
    frame_of: tuple[Grid, FloatArray],
    options: MotionOptions,
) -> list[Pose]:
    """Moved frames that lie within ``ignore_mm`` of each other share a pose, their mean."""
    grid, centre = frame_of
    held: list[list[int]] = []
    for t in map(int, np.flatnonzero(shift_mm > options.ignore_mm)):
        means = [parameters[frames].mean(axis=0) for frames in held]
        gaps = [_distance_mm(parameters[t], m, points, centre) for m in means]
        if gaps and min(gaps) <= options.ignore_mm:
            held[int(np.argmin(gaps))].append(t)
        else:
            held.append([t])
    to_index = np.linalg.inv(grid.affine)
    return [
        Pose(
            np.array(frames, np.intp),
            to_index @ rigid_matrix(parameters[frames].mean(axis=0), centre) @ grid.affine,
        )
        for frames in held
    ]


def _distance_mm(a: FloatArray, b: FloatArray, points: FloatArray, centre: FloatArray) -> float:
    """Mean distance between where two motions take the points."""
    m = rigid_matrix(a, centre) - rigid_matrix(b, centre)
    return float(np.linalg.norm(points @ m[:3, :3].T + m[:3, 3], axis=1).mean())


def _beyond_repair(misfit: FloatArray, ratio: float) -> np.ndarray:
    # The passage of contrast alone leaves some HU of misfit, however quiet the scan.
    usual = max(float(np.median(misfit)), CONTRAST_MISFIT_HU)
    bad = np.flatnonzero(~(misfit <= ratio * usual))
    # If many frames misfit, the usual is no guide and there is little to interpolate from.
    return bad if bad.size <= 0.2 * misfit.size else np.array([], int)


def _replace(data: FloatArray, times_s: FloatArray, bad: np.ndarray) -> None:
    """Linear interpolation in time between the nearest good frames, per slice, in place."""
    good = np.setdiff1d(np.arange(len(data)), bad)
    for t in bad:
        after = good[good > t]
        before = good[good < t]
        low = before[-1] if before.size else after[0]
        high = after[0] if after.size else before[-1]
        span = times_s[high] - times_s[low]
        share = np.where(span > 0, (times_s[t] - times_s[low]) / np.where(span > 0, span, 1), 0.0)
        share = share.astype(np.float32)[:, None, None]
        data[t] = (1 - share) * data[low] + share * data[high]


@numba.njit(parallel=True, cache=True)
def _residuals(image, points, values, to_index):
    """Trilinear image value at moved points minus the reference value; NaN outside."""
    n_z, n_y, n_x = image.shape
    out = np.empty(len(points))
    for n in numba.prange(len(points)):
        p = points[n]
        x = to_index[0, 0] * p[0] + to_index[0, 1] * p[1] + to_index[0, 2] * p[2] + to_index[0, 3]
        y = to_index[1, 0] * p[0] + to_index[1, 1] * p[1] + to_index[1, 2] * p[2] + to_index[1, 3]
        z = to_index[2, 0] * p[0] + to_index[2, 1] * p[1] + to_index[2, 2] * p[2] + to_index[2, 3]
        tiny = 1e-6
        if x < -tiny or y < -tiny or z < -tiny:
            out[n] = np.nan
            continue
        if x > n_x - 1 + tiny or y > n_y - 1 + tiny or z > n_z - 1 + tiny:
            out[n] = np.nan
            continue
        i = max(min(int(x), n_x - 2), 0)
        j = max(min(int(y), n_y - 2), 0)
        k = max(min(int(z), n_z - 2), 0)
        k1 = min(k + 1, n_z - 1)
        u, v, w = x - i, y - j, z - k
        low = (image[k, j, i] * (1 - u) + image[k, j, i + 1] * u) * (1 - v) + (
            image[k, j + 1, i] * (1 - u) + image[k, j + 1, i + 1] * u
        ) * v
        high = (image[k1, j, i] * (1 - u) + image[k1, j, i + 1] * u) * (1 - v) + (
            image[k1, j + 1, i] * (1 - u) + image[k1, j + 1, i + 1] * u
        ) * v
        out[n] = low * (1 - w) + high * w - values[n]
    return out
