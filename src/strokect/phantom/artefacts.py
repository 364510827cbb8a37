"""What spoils a head CT: noise, beam hardening, the head holder, metal.

Everything here is added to a rendered head in HU, on its own grid. Beam hardening and the noise
profile are smooth and are found on blocks of about 4 mm, once per head that keeps still; noise is
drawn for every frame. The order of a scan: render, ``blur``, ``beam_hardening``,
``metal_streaks``, ``add_holder``, ``noise``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokect.core.errors import SettingsError
from strokect.core.types import FloatArray, Grid
from strokect.phantom.reconstruction import (
    KERNEL_FWHM_MM,
    Kernel,
    blur,
    coarse,
    gaussian_noise,
    noise,
    noise_profile,
    projector,
)

__all__ = [
    "KERNEL_FWHM_MM",
    "HeadHolder",
    "Kernel",
    "MetalPlace",
    "add_holder",
    "back_of_head",
    "beam_hardening",
    "blur",
    "draw_holder",
    "gaussian_noise",
    "metal_streaks",
    "noise",
    "noise_profile",
    "table",
]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
MetalPlace = Literal["clip", "coil", "dental"]

AIR_HU = -1000.0
#: Bone: density above this, HU, hardens the beam.
BONE_HU = 150.0
#: Error of a line integral, in units of water * mm, by its bone path b (mm of water-equivalent
#: excess density): HARDENING_PER_MM * b * (CALIBRATED_MM - b) / (1 + b / SATURATION_MM). The
#: correction of a scanner is right on average: too much where there is less bone than assumed
#: (bright rim under the vault), too little where there is more (dark between the petrous bones).
#: A hardened beam hardens less. Set to the size seen in clinical images.
HARDENING_PER_MM, CALIBRATED_MM, SATURATION_MM = 1.1e-3, 30.0, 50.0
HARDENING_LIMIT_HU = (-25.0, 12.0)


def beam_hardening(hu: Float32, grid: Grid, angles: int = 60) -> Float32:
    """What beam hardening adds to a head (Z, Y, X), HU: (Z, Y, X) float32, smooth.

    Second-order error in the bone path of every line (Joseph and Spital 1978, J Comput Assist
    Tomogr 2:100), reconstructed by filtered back projection slice by slice: a rim of a few HU
    under the vault, dark bands between dense bones (Hounsfield bar). 0 where there is no bone.
    """
    head = coarse(np.maximum(hu, AIR_HU), grid, 3.6)
    bone = np.maximum(head.data - BONE_HU, 0) / 1000
    lines = projector(bone.shape[1:], head.step_mm[1:], angles)
    path = lines.forward(bone.astype(np.float32))
    error = np.float32(HARDENING_PER_MM) * path * (np.float32(CALIBRATED_MM) - path)
    error /= 1 + path / np.float32(SATURATION_MM)
    found = 1000 * lines.reconstruct(error)
    found = ndimage.gaussian_filter(found, (0, 0.8, 0.8))
    return head.fine(np.clip(found, *HARDENING_LIMIT_HU))


@dataclass(frozen=True)
class HeadHolder:
    """A curved head holder, along z, below a supine head. Lengths mm, head coordinates.

    apex_y_mm : inner surface at the midline, the most posterior place of the scalp or behind.
    radius_mm : of the inner surface. reach_deg : it extends this far to both sides. shell_hu :
    carbon fibre; foam_hu : core between two shells. pillow_hu : foam between head and holder, None
    for none.
    """

    apex_y_mm: float
    radius_mm: float = 125.0
    thickness_mm: float = 14.0
    wall_mm: float = 1.8
    reach_deg: float = 65.0
    shell_hu: float = 60.0
    foam_hu: float = -930.0
    pillow_hu: float | None = None


def draw_holder(rng: np.random.Generator, hu: Float32, grid: Grid) -> HeadHolder:
    """A holder just behind the head of a rendered scan (Z, Y, X), HU.

    Values from clinical images (from memory): shell -100 to 200 HU, half of them with a pillow.
    """
    gap, radius, reach, shell = rng.uniform([2, 115, 50, -100], [6, 140, 75, 200])
    thickness, foam, pillow = rng.uniform([10, -960, -985], [18, -900, -940])
    with_pillow = bool(rng.random() < 0.5)
    return HeadHolder(
        apex_y_mm=back_of_head(hu, grid) - float(gap),
        radius_mm=float(radius),
        thickness_mm=float(thickness),
        reach_deg=float(reach),
        shell_hu=float(shell),
        foam_hu=float(foam),
        pillow_hu=float(pillow) if with_pillow else None,
    )


def back_of_head(hu: Float32, grid: Grid) -> float:
    """Most posterior y, mm, of the head in a scan (Z, Y, X), HU; -100 without a head."""
    z, y, x = np.nonzero(hu[:, ::2, ::2] > -300)
    back = grid.affine[1, :3] @ np.stack([2 * x, 2 * y, z]) + grid.affine[1, 3]
    return float(back.min()) if back.size else -100.0


def table(grid: Grid, holder: HeadHolder) -> Float32:
    """The holder in air, (Z, Y, X) HU, with partial volume at its walls. See ``add_holder``."""
    nz, ny, nx = grid.shape
    z, y, x = (np.arange(n, dtype=np.float64) for n in (nz, ny, nx))
    a = grid.affine
    # y does not change along a row unless the head is turned; the general form costs little
    px = a[0, 0] * x + (a[0, 1] * y + a[0, 3])[:, None]
    py = a[1, 0] * x + (a[1, 1] * y + a[1, 3])[:, None]
    shift = np.stack([a[0, 2] * z, a[1, 2] * z], 1)
    out = np.empty(grid.shape, np.float32)
    previous: Float64 | None = None
    for i in range(nz):
        if previous is not None and np.array_equal(shift[i], previous):
            out[i] = out[i - 1]
            continue
        out[i] = _holder_plane(px + shift[i, 0], py + shift[i, 1], holder, grid.spacing_mm[2])
        previous = shift[i]
    return out


def _holder_plane(px: Float64, py: Float64, holder: HeadHolder, step_mm: float) -> Float64:
    below = holder.apex_y_mm + holder.radius_mm - py  # towards the back, from the axis
    r = np.hypot(px, below)
    depth = r - holder.radius_mm  # outwards from the inner surface
    side = np.abs(np.arctan2(px, below)) * holder.radius_mm
    end = np.radians(holder.reach_deg) * holder.radius_mm - side  # mm left to the edge

    def share(inner: float, outer: float) -> Float64:
        across = np.minimum(depth - inner, outer - depth)
        return np.clip(across / step_mm + 0.5, 0, 1) * np.clip(end / step_mm + 0.5, 0, 1)

    whole = share(0.0, holder.thickness_mm)
    core = share(holder.wall_mm, holder.thickness_mm - holder.wall_mm)
    core *= np.clip((end - holder.wall_mm) / step_mm + 0.5, 0, 1)
    core = np.minimum(core, whole)
    hu = AIR_HU + (whole - core) * (holder.shell_hu - AIR_HU) + core * (holder.foam_hu - AIR_HU)
    if holder.pillow_hu is not None:
        inside = np.clip(-depth / step_mm + 0.5, 0, 1) * (end > 0)
        inside *= np.clip((below - 0.45 * holder.radius_mm) / step_mm, 0, 1)
        hu += inside * (1 - whole) * (holder.pillow_hu - AIR_HU)
    return hu


def add_holder(hu: Float32, holder_hu: Float32) -> Float32:
    """Put a holder, as from ``table``, around a head, in place: the denser of both; returns ``hu``.

    Add it after the head has moved: the holder stays.
    """
    return np.maximum(hu, holder_hu, out=hu)


@dataclass(frozen=True)
class _Metal:
    """Usual places: RAS mm of the head, their spread, and half axes of the object, mm."""

    places: tuple[tuple[float, float, float], ...]
    spread_mm: float
    half_mm: tuple[float, float, float]
    streak_hu: float


_METALS: dict[str, _Metal] = {
    # aneurysm clip at the carotid bifurcation or the anterior communicating artery
    "clip": _Metal(((20, 2, -12), (-20, 2, -12), (1, 18, -12)), 3.0, (1.5, 5.0, 2.5), 160.0),
    "coil": _Metal(((18, 0, -13), (-18, 0, -13), (1, 18, -12), (0, -20, -10)), 3.0, (4, 4, 4), 260),
    "dental": _Metal(((24, 50, -82), (-24, 50, -82)), 6.0, (4.0, 5.0, 4.0), 320.0),
}
METAL_HU = 3071.0


def metal_streaks(
    rng: np.random.Generator,
    hu: Float32,
    grid: Grid,
    place: MetalPlace | tuple[float, float, float],
) -> Float32:
    """What metal adds to a head (Z, Y, X), HU: a small object at 12-bit saturation, and streaks.

    place : kind of metal at one of its usual places, or the RAS mm point of a clip. Streaks are
    bright and dark rays from the object with two broad dark bands along its long axis, new in
    every slice that holds it, and fall off as 1 / (distance + 12 mm) (drawn, not simulated).
    All 0 where the object is outside the grid.
    """
    if isinstance(place, str) and place not in _METALS:
        raise SettingsError(f"unknown metal {place!r}", fix=f"Use {get_args(MetalPlace)}")
    metal = _METALS["clip" if not isinstance(place, str) else place]
    if isinstance(place, str):
        at = np.array(metal.places[rng.integers(len(metal.places))], float)
        at = at + rng.uniform(-1, 1, 3) * metal.spread_mm
    else:
        at = np.asarray(place, float)
    axis = rng.uniform(0, np.pi)
    out = np.zeros(grid.shape, np.float32)
    iz, iy, ix = (np.linalg.inv(grid.affine) @ [*at, 1.0])[[2, 1, 0]]
    _, ny, nx = grid.shape
    if not (0 <= iy < ny and 0 <= ix < nx):
        return out
    dz, dy, dx = grid.spacing_mm
    yy = (np.arange(ny, dtype=np.float32) - np.float32(iy))[:, None] * np.float32(dy)
    xx = (np.arange(nx, dtype=np.float32) - np.float32(ix)) * np.float32(dx)
    radius = np.hypot(yy, xx)
    angle = np.arctan2(yy, xx).astype(np.float32)
    for z in range(grid.shape[0]):
        depth = abs(z - iz) * dz
        share = float(np.clip((metal.half_mm[2] + dz / 2 - depth) / dz, 0, 1))
        if share <= 0:
            continue
        level = metal.streak_hu * share * _rays(rng, axis)
        bins = ((angle + np.pi) * (len(level) / (2 * np.pi))).astype(np.intp) % len(level)
        out[z] = level[bins] * (12 / (radius + 12)) * np.clip(radius / 3, 0, 1)
        along = np.cos(axis) * xx + np.sin(axis) * yy
        across = np.cos(axis) * yy - np.sin(axis) * xx
        inside = 1 - np.sqrt((along / metal.half_mm[1]) ** 2 + (across / metal.half_mm[0]) ** 2)
        body = np.clip(inside * metal.half_mm[0] / max(dy, dx) + 0.5, 0, 1) * share
        out[z] += body * (METAL_HU - hu[z] - out[z])
    return out


def _rays(rng: np.random.Generator, axis: float, count: int = 1440) -> FloatArray:
    """Streak height (count,) by angle from -180 degrees: SD about 0.6, less along the axis."""
    angle = np.arange(count) * (2 * np.pi / count) - np.pi
    rays = ndimage.gaussian_filter1d(rng.standard_normal(count), 3.0, mode="wrap")
    rays *= 0.5 / rays.std()
    band = np.exp(4 * (np.cos(2 * (angle - axis)) - 1))
    return (rays * (0.4 + band) - 0.9 * band).astype(np.float32)
