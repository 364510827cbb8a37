"""Motion of the head in the scanner.

It is either rendered (the head on ``moved_grid``: partial volume changes, as in a real scan; so are
virtual patients) or interpolated (``move`` of a rendered frame: cheap, for benchmarks).
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
MotionKind = Literal["none", "jump", "drift", "nod"]


@dataclass(frozen=True)
class MotionSpec:
    """Rigid head motion. kind : "none"; "jump" stays moved from ``at`` (share of the scan) on;
    "drift" grows to the end, in eighths; "nod" moves for three frames at ``at`` and comes back.

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
        share = np.round(8 * frame / max(1, n - 1)) / 8
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


def moved_grid(grid: Grid, parameters: FloatArray) -> Grid:
    """The grid in the coordinates of the head at rest, after the head moved by ``parameters``.

    Rendering a head on it gives what the scanner sees of the moved head on ``grid``.
    """
    return Grid(grid.shape, np.linalg.inv(rigid(parameters, grid)) @ grid.affine)


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
