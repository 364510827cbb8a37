"""What the scanner adds: frame and slice times, motion, noise, whole HU.

Noise of a brain perfusion frame at 80 kVp is 4-8 HU for 5 mm slices and is correlated in plane by
the reconstruction kernel; between frames and slices it is independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokect.core.errors import SettingsError
from strokect.core.result import Motion
from strokect.core.types import BoolArray, FloatArray, Grid

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
SliceTimes = Literal["simultaneous", "sequential", "shuttle"]
MotionKind = Literal["none", "jump", "drift", "nod"]


def frame_times(n_times: int, interval_s: float, n_slices: int, mode: SliceTimes) -> Float64:
    """Acquisition times (T, Z), s.

    "simultaneous": a wide detector, all slices at once. "sequential": slices spread evenly over
    the interval, lowest first. "shuttle": the table toggles between a lower and an upper half,
    half an interval apart.
    """
    frames = np.arange(n_times) * interval_s
    z = np.arange(n_slices)
    if mode == "simultaneous":
        offset = np.zeros(n_slices)
    elif mode == "sequential":
        offset = z / n_slices * interval_s
    elif mode == "shuttle":
        offset = np.where(z < (n_slices + 1) // 2, 0.0, interval_s / 2)
    else:
        raise SettingsError(f"unknown slice timing {mode!r}", fix=f"Use {get_args(SliceTimes)}")
    return frames[:, None] + offset[None, :]


@dataclass(frozen=True)
class MotionSpec:
    """Rigid head motion. kind : "none"; "jump" stays moved from ``at`` (share of the scan) on;
    "drift" grows evenly to the end; "nod" moves for three frames at ``at`` and comes back.

    translation_mm, rotation_deg : (x, y, z) RAS, at full extent. "x" rotation is a nod.
    """

    kind: MotionKind = "none"
    translation_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    at: float = 0.4


def motion_of(spec: MotionSpec, time_s: Float64, brain: BoolArray, grid: Grid) -> Motion:
    """Motion per frame; frame 0 is the reference. time_s : (T,), s. brain : (Z, Y, X)."""
    n = len(time_s)
    frame = np.arange(n)
    start = max(1, round(spec.at * n))
    if spec.kind == "none":
        share = np.zeros(n)
    elif spec.kind == "jump":
        share = (frame >= start).astype(float)
    elif spec.kind == "drift":
        share = frame / max(1, n - 1)
    elif spec.kind == "nod":
        share = ((frame >= start) & (frame < start + 3)).astype(float)
    else:
        raise SettingsError(f"unknown motion {spec.kind!r}", fix=f"Use {get_args(MotionKind)}")
    full = np.array([*spec.translation_mm, *spec.rotation_deg])
    parameters = share[:, None] * full
    z, y, x = np.nonzero(brain[:, ::4, ::4])
    points = grid.affine @ np.stack([4 * x, 4 * y, z, np.ones_like(x)])
    moved = [np.linalg.norm((rigid(p, grid) @ points - points)[:3], axis=0) for p in parameters]
    displacement = np.array([m.mean() if m.size else 0.0 for m in moved])
    return Motion(time_s, parameters, displacement)


def centre_mm(grid: Grid) -> Float64:
    """Centre of the grid, RAS mm; motion rotates about it."""
    z, y, x = ((n - 1) / 2 for n in grid.shape)
    return (grid.affine @ [x, y, z, 1.0])[:3]


def rigid(parameters: FloatArray, grid: Grid) -> Float64:
    """(4, 4) RAS transform that takes a point of the head at rest to where it moved.

    parameters : (6,) translation mm and rotation degrees about x, y, z; p' = R (p - c) + c + t
    with R = Rz Ry Rx and c the centre of the grid.
    """
    ax, ay, az = np.radians(parameters[3:])
    rx = np.array([[1, 0, 0], [0, np.cos(ax), -np.sin(ax)], [0, np.sin(ax), np.cos(ax)]])
    ry = np.array([[np.cos(ay), 0, np.sin(ay)], [0, 1, 0], [-np.sin(ay), 0, np.cos(ay)]])
    rz = np.array([[np.cos(az), -np.sin(az), 0], [np.sin(az), np.cos(az), 0], [0, 0, 1]])
    out = np.eye(4)
    out[:3, :3] = rz @ ry @ rx
    centre = centre_mm(grid)
    out[:3, 3] = centre + np.asarray(parameters[:3]) - out[:3, :3] @ centre
    return out


def move(volume: Float32, grid: Grid, parameters: FloatArray) -> Float32:
    """The volume (Z, Y, X) as seen after the head moved; cubic, edge values outside."""
    if not np.any(parameters):
        return volume
    to_index = np.linalg.inv(grid.affine)
    matrix = to_index @ np.linalg.inv(rigid(parameters, grid)) @ grid.affine  # output -> input
    flip = np.eye(4)[[2, 1, 0, 3]]
    matrix = flip @ matrix @ flip
    out = ndimage.affine_transform(volume, matrix[:3, :3], matrix[:3, 3], order=3, mode="nearest")
    return np.clip(out, volume.min(), volume.max())


def correlation_kernel(sigma_mm: float, spacing_mm: float) -> Float32:
    """Gaussian kernel with unit sum of squares, so that white noise keeps its SD."""
    reach = int(np.ceil(4 * sigma_mm / spacing_mm))
    x = np.arange(-reach, reach + 1) * spacing_mm
    kernel = np.exp(-0.5 * (x / max(sigma_mm, 1e-6)) ** 2)
    return (kernel / np.sqrt((kernel**2).sum())).astype(np.float32)


def noise(rng: np.random.Generator, grid: Grid, sd_hu: float, sigma_mm: float) -> Float32:
    """One frame of noise (Z, Y, X), HU: Gaussian, in-plane correlated, SD exactly ``sd_hu``.

    sigma_mm : of the Gaussian that white noise is filtered with.
    """
    _, dy, dx = grid.spacing_mm
    out = rng.standard_normal(grid.shape, dtype=np.float32)
    for axis, step in ((1, dy), (2, dx)):
        out = ndimage.correlate1d(out, correlation_kernel(sigma_mm, step), axis, mode="wrap")
    out *= np.float32(sd_hu)
    return out
