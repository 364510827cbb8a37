"""The MNI template brain, smooth random fields, and the map between a head and the template.

The brain is the MNI152 average (ICBM 2009a symmetric, Fonov 2011, NeuroImage 54:313), which
nilearn carries in its package. It is skull-stripped; ``skullbase`` and ``anatomy`` add the rest.

Points are ``(3, N)`` RAS mm: "head" coordinates of the scan, or "MNI" coordinates of the template.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokect.core.types import BoolArray, FloatArray

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

#: Box that contains every cranium, RAS mm (x, y, z), low and high.
BOX_MM = np.array([[-130.0, -160.0, -110.0], [130.0, 130.0, 130.0]])
#: Typical size of an adult's brain relative to the MNI152 template, which is larger than average.
MEAN_SCALE = 0.935
#: Middle of the template's brain in the axial plane, mm.
BRAIN_CENTRE_Y_MM = -17.0
#: The ventricular warp fades over this distance from the ventricles, mm.
WARP_REACH_MM = 16.0


@numba.njit(cache=True, parallel=True)
def _trilinear(volume, index, out):
    channels, nz, ny, nx = volume.shape
    for i in numba.prange(index.shape[1]):
        x = min(max(index[0, i], 0.0), nx - 1.001)
        y = min(max(index[1, i], 0.0), ny - 1.001)
        z = min(max(index[2, i], 0.0), nz - 1.001)
        a, b, c = int(x), int(y), int(z)
        u, v, w = x - a, y - b, z - c
        for k in range(channels):
            p = volume[k]
            low = (p[c, b, a] * (1 - u) + p[c, b, a + 1] * u) * (1 - v)
            low += (p[c, b + 1, a] * (1 - u) + p[c, b + 1, a + 1] * u) * v
            high = (p[c + 1, b, a] * (1 - u) + p[c + 1, b, a + 1] * u) * (1 - v)
            high += (p[c + 1, b + 1, a] * (1 - u) + p[c + 1, b + 1, a + 1] * u) * v
            out[k, i] = low * (1 - w) + high * w


def sample(volume: Float32, affine: npt.ArrayLike, points: FloatArray) -> Float32:
    """Trilinear samples (C, N) of ``volume`` (C, Z, Y, X) at ``points`` (3, N) mm.

    affine : (4, 4), voxel index (x, y, z) to mm. Outside, the nearest edge value holds.
    """
    inverse = np.linalg.inv(np.asarray(affine, float))
    index = (inverse[:3, :3] @ points + inverse[:3, 3:]).astype(np.float32)
    out = np.empty((volume.shape[0], index.shape[1]), np.float32)
    _trilinear(volume, index, out)
    return out


@dataclass(frozen=True, eq=False)
class SmoothField:
    """A smooth function of position on a lattice.

    values : (C, Z, Y, X) float32. step_mm : (3,) lattice step (x, y, z). origin_mm : (3,) first
    lattice point, BOX_MM's low corner unless given.
    """

    values: Float32
    step_mm: Float64
    origin_mm: Float64 = field(default_factory=BOX_MM[0].copy)

    @property
    def affine(self) -> Float64:
        """(4, 4), lattice index (x, y, z) to mm."""
        affine = np.diag([*self.step_mm, 1.0])
        affine[:3, 3] = self.origin_mm
        return affine

    def __call__(self, points: FloatArray) -> Float32:
        """Values (C, N) at ``points`` (3, N), mm."""
        return sample(self.values, self.affine, points)


def smooth_field(rng: np.random.Generator, length_mm: float, channels: int = 1) -> SmoothField:
    """Random field, mean 0 and SD 1, that varies over about ``length_mm``, over BOX_MM."""
    extent = BOX_MM[1] - BOX_MM[0]
    coarse = [int(np.ceil(e / length_mm)) + 1 for e in extent[::-1]]
    fine = 4 if length_mm > 12 else 2
    values = [
        ndimage.zoom(rng.standard_normal(coarse), fine, order=3, mode="mirror")
        for _ in range(channels)
    ]
    together = np.stack([(v - v.mean()) / v.std() for v in values]).astype(np.float32)
    step = extent / (np.array(together.shape[:0:-1]) - 1)
    return SmoothField(together, step)


@dataclass(frozen=True, eq=False)
class Template:
    """The MNI brain. channels : (4, Z, Y, X) grey, white, brain mask, distance; 2nd: its affine.

    The distance, mm, is from the smooth hull of the brain, positive outside. Grey and white are
    the group's shares, 0 to 1; ``anatomy`` sharpens them for one head.
    deep : on a 2 mm lattice, (2,) channels: distance from the lateral and third ventricles, mm
    (negative inside), and the tissue share smoothed over 2.5 mm.
    warp : (3,) channels, direction away from the ventricles times a factor that fades from 1.
    """

    channels: Float32
    affine: Float64
    deep: SmoothField
    warp: SmoothField


@lru_cache(maxsize=1)
def load_template() -> Template:
    """The template, from nilearn's package data (no download)."""
    from nilearn import datasets

    grey_image = datasets.load_mni152_gm_template(resolution=1)
    # nilearn stores (x, y, z); here arrays are (Z, Y, X) and the affine takes (x, y, z).
    grey = np.asarray(grey_image.dataobj, np.float32).T
    white = np.asarray(datasets.load_mni152_wm_template(resolution=1).dataobj, np.float32).T
    mask = np.asarray(datasets.load_mni152_brain_mask(resolution=1).dataobj).T > 0
    grey, white = grey / grey.max() * mask, white / white.max() * mask
    distance = _hull_distance(mask)
    channels = np.stack([grey, white, mask.astype(np.float32), distance])
    affine = np.asarray(grey_image.affine, float)
    deep = _deep(grey + white, mask, distance, affine)
    return Template(np.ascontiguousarray(channels, np.float32), affine, deep, _warp(deep))


def _hull_distance(mask: BoolArray) -> Float32:
    """Signed distance, mm, from the closed and smoothed brain mask (1 mm voxels)."""
    low = np.pad(mask[::2, ::2, ::2], 12)
    # Closing by 16 mm through distances, then smoothing of the surface.
    grown = ndimage.distance_transform_edt(~low) <= 8
    closed = ndimage.distance_transform_edt(grown) > 8
    closed = ndimage.gaussian_filter(closed.astype(np.float32), 2.0) > 0.5
    signed = _signed_distance(closed, 2.0)[12:-12, 12:-12, 12:-12]
    fine = ndimage.zoom(signed, 2, order=1)
    return fine[tuple(slice(n) for n in mask.shape)]


def _signed_distance(inside: BoolArray, step_mm: float) -> Float32:
    """Distance, mm, from the surface of ``inside`` (Z, Y, X), smoothed by one voxel."""
    signed = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    return ndimage.gaussian_filter(np.float32(step_mm) * signed.astype(np.float32), 1.0)


def _deep(tissue: Float32, mask: BoolArray, hull: Float32, affine: Float64) -> SmoothField:
    """Ventricle distance and smoothed tissue share on every second voxel."""
    z, y, x = (affine[k, 3] + np.arange(n) for k, n in zip((2, 1, 0), tissue.shape, strict=True))
    z, y, x = z[:, None, None], y[None, :, None], np.abs(x)[None, None, :]
    box = (x < 42) & (y > -62) & (y < 42) & (z > -22) & (z < 34) & (hull < -18)
    # Cisterns round the brain stem touch the ventricles only through thin tissue; they stay out.
    cistern = ((x < 14) & (y < -26) & (z < 10)) | ((x < 26) & (y < -10) & (z < -8))
    fluid = (tissue < 0.6) & mask & box & ~(cistern & (z + 0.35 * (x - 20) < 9))
    labels, _ = ndimage.label(fluid)
    seed = labels[int(18 - affine[2, 3]), int(0 - affine[1, 3])]
    wanted = np.unique(seed[seed > 0])
    ventricles = np.isin(labels, wanted)
    smooth = ndimage.gaussian_filter(tissue, 2.5)
    distance = _signed_distance(ventricles[::2, ::2, ::2], 2.0)
    values = np.stack([distance, smooth[::2, ::2, ::2]]).astype(np.float32)
    return SmoothField(values, np.full(3, 2.0), affine[:3, 3].copy())


def _warp(deep: SmoothField) -> SmoothField:
    """Unit displacement away from the ventricles; smooth enough that 6 mm of it can be inverted."""
    distance = ndimage.gaussian_filter(deep.values[0], 2.0)
    gradient = np.stack(np.gradient(distance, 2.0)[::-1])  # (x, y, z)
    fade = np.exp(-((np.maximum(distance, 0) / WARP_REACH_MM) ** 2))
    return SmoothField((gradient * fade).astype(np.float32), deep.step_mm, deep.origin_mm)


@dataclass(frozen=True, eq=False)
class HeadMap:
    """From head to MNI coordinates: affine, a smooth deformation, then the ventricles' size.

    matrix, shift_mm : mni = matrix @ (head - shift). deformation : (3,) channels, mm, of the head
    point. ventricles_mm : how far the walls of the ventricles are moved outwards (negative: in).
    """

    matrix: Float64
    shift_mm: Float64
    deformation: SmoothField
    ventricles_mm: float = 0.0

    def to_mni(self, points: FloatArray) -> FloatArray:
        """MNI points (3, N) of head points (3, N)."""
        moved = self.matrix @ (points - self.shift_mm[:, None]) + self.deformation(points)
        return moved - self.ventricles_mm * load_template().warp(moved)

    def from_mni(self, points: FloatArray) -> FloatArray:
        """Head points (3, N) of MNI points (3, N), by fixed-point iteration (< 0.05 mm)."""
        inverse = np.linalg.inv(self.matrix)
        found = inverse @ points + self.shift_mm[:, None]
        for _ in range(30):
            step = inverse @ (self.to_mni(found) - points)
            found = found - step
            if np.abs(step).max(initial=0) < 0.01:
                break
        return found


def rotation(about_x: float, about_y: float, about_z: float) -> Float64:
    """Rotation matrix Rz Ry Rx, angles in radians."""
    (cx, sx), (cy, sy), (cz, sz) = ((np.cos(a), np.sin(a)) for a in (about_x, about_y, about_z))
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return rz @ ry @ rx
