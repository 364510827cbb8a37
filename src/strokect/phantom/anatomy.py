"""The head of a virtual patient: tissue fractions, skull, scalp, and unenhanced HU.

The brain is the MNI152 average (ICBM 2009a symmetric, Fonov 2011, NeuroImage 54:313), which
nilearn carries in its package. It is skull-stripped, so the subarachnoid space, skull and scalp
are shells at stated distances (mm) from the brain's hull. Every seed has its own size, rotation,
shift and smooth deformation. As in the head phantom of Riordan 2011 (Med Phys 38:3212), time
curves are laid on a segmented brain; here fractions are averaged over finer sample points, so
that a voxel holds its true mixture (partial volume), through plane as well.

Points are ``(3, N)`` RAS mm: "head" coordinates of the scan, or "MNI" coordinates of the template.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokect.core.types import FloatArray, Grid

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

#: Box that contains every head, RAS mm (x, y, z), low and high.
BOX_MM = np.array([[-130.0, -160.0, -110.0], [130.0, 130.0, 130.0]])
#: Typical size of an adult's brain relative to the MNI152 template, which is larger than average.
MEAN_SCALE = 0.95
#: Middle of the template's brain in the axial plane, mm.
BRAIN_CENTRE_Y_MM = -17.0


@dataclass(frozen=True)
class HeadHU:
    """Unenhanced CT numbers, HU: usual values of head CT, the diploe between two tables."""

    grey: float = 38.5
    white: float = 29.0
    csf: float = 6.0
    falx: float = 46.0
    diploe: float = 850.0
    table: float = 1350.0
    scalp: float = 38.0
    skin: float = 55.0
    air: float = -1000.0


@dataclass(frozen=True, eq=False)
class SmoothField:
    """A smooth random function of position with mean 0 and SD 1.

    values : (C, Z, Y, X) float32 on a lattice over BOX_MM. step_mm : (3,) lattice step (x, y, z).
    """

    values: Float32
    step_mm: Float64

    def __call__(self, points: FloatArray) -> Float32:
        """Values (C, N) at ``points`` (3, N), mm."""
        affine = np.eye(4)
        affine[[0, 1, 2], [0, 1, 2]] = self.step_mm
        affine[:3, 3] = BOX_MM[0]
        return sample(self.values, affine, points)


def smooth_field(rng: np.random.Generator, length_mm: float, channels: int = 1) -> SmoothField:
    """Random field that varies over about ``length_mm``; independent of any image grid."""
    extent = BOX_MM[1] - BOX_MM[0]
    coarse = [int(np.ceil(e / length_mm)) + 1 for e in extent[::-1]]
    fine = 4 if length_mm > 12 else 2
    values = [
        ndimage.zoom(rng.standard_normal(coarse), fine, order=3, mode="mirror")
        for _ in range(channels)
    ]
    field = np.stack([(v - v.mean()) / v.std() for v in values]).astype(np.float32)
    step = extent / (np.array(field.shape[:0:-1]) - 1)
    return SmoothField(field, step)


@numba.njit(cache=True)
def _trilinear(volume, index, out):
    channels, nz, ny, nx = volume.shape
    for i in range(index.shape[1]):
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
class Template:
    """The MNI brain. channels : (4, Z, Y, X) grey, white, brain mask, distance; 2nd: its affine.

    The distance, mm, is from the smooth hull of the brain, positive outside.
    """

    channels: Float32
    affine: Float64


@lru_cache(maxsize=1)
def load_template() -> Template:
    """The template, from nilearn's package data (no download)."""
    from nilearn import datasets

    grey_image = datasets.load_mni152_gm_template(resolution=1)
    grey = np.asarray(grey_image.dataobj, np.float32)
    white = np.asarray(datasets.load_mni152_wm_template(resolution=1).dataobj, np.float32)
    mask = np.asarray(datasets.load_mni152_brain_mask(resolution=1).dataobj) > 0
    grey, white = _sharpen(grey / grey.max(), white / white.max())
    distance = _hull_distance(mask)
    channels = np.stack([grey * mask, white * mask, mask.astype(np.float32), distance])
    # nilearn stores (x, y, z); here arrays are (Z, Y, X) and the affine takes (x, y, z).
    data = np.ascontiguousarray(channels.transpose(0, 3, 2, 1), np.float32)
    return Template(data, np.asarray(grey_image.affine, float))


def _sharpen(grey: Float32, white: Float32) -> tuple[Float32, Float32]:
    """Undo part of the blur of a group average: steeper tissue-CSF and grey-white borders."""
    tissue = np.clip((grey + white - 0.5) * 1.7 + 0.55, 0, 1)
    share = np.clip((white / np.maximum(grey + white, 1e-3) - 0.5) * 1.6 + 0.5, 0, 1)
    return tissue * (1 - share), tissue * share


def _hull_distance(mask: npt.NDArray[np.bool_]) -> Float32:
    """Signed distance, mm, from the closed and smoothed brain mask (1 mm voxels)."""
    low = np.pad(mask[::2, ::2, ::2], 12)
    # Closing by 16 mm through distances, then smoothing of the surface.
    grown = ndimage.distance_transform_edt(~low) <= 8
    closed = ndimage.distance_transform_edt(grown) > 8
    closed = ndimage.gaussian_filter(closed.astype(np.float32), 2.0) > 0.5
    signed = ndimage.distance_transform_edt(~closed) - ndimage.distance_transform_edt(closed)
    signed = ndimage.gaussian_filter(2.0 * signed.astype(np.float32), 1.0)
    signed = signed[12:-12, 12:-12, 12:-12]
    return ndimage.zoom(signed, 2, order=1)[: mask.shape[0], : mask.shape[1], : mask.shape[2]]


@dataclass(frozen=True, eq=False)
class HeadMap:
    """From head to MNI coordinates: affine, then a smooth deformation of a few mm."""

    matrix: Float64
    shift_mm: Float64
    deformation: SmoothField
    amplitude_mm: float

    def to_mni(self, points: FloatArray) -> FloatArray:
        """MNI points (3, N) of head points (3, N)."""
        moved = self.matrix @ (points - self.shift_mm[:, None])
        return moved + self.amplitude_mm * self.deformation(points)

    def from_mni(self, points: FloatArray) -> FloatArray:
        """Head points (3, N) of MNI points (3, N), by fixed-point iteration (< 0.05 mm)."""
        inverse = np.linalg.inv(self.matrix)
        found = inverse @ points + self.shift_mm[:, None]
        for _ in range(12):
            found = found - inverse @ (self.to_mni(found) - points)
        return found


@dataclass(frozen=True, eq=False)
class Head:
    """One virtual head: its map to the template and its shells.

    thickness : two fields that vary subarachnoid space and skull. texture : of the diploe.
    csf_mm, skull_mm, scalp_mm : mean thickness of the shells.
    """

    map: HeadMap
    thickness: SmoothField
    texture: SmoothField
    csf_mm: float
    skull_mm: float
    scalp_mm: float


def make_head(rng: np.random.Generator, deformation_mm: float = 1.5) -> Head:
    """Draw a head: size SD 2.5 %, rotation SD 2-3 degrees, shift SD 1.5 mm, deformation."""
    scale = MEAN_SCALE * (1 + np.clip(rng.normal(0, 0.02, 3) + rng.normal(0, 0.015), -0.06, 0.05))
    pitch, roll, yaw = np.radians(np.clip(rng.normal(0, [3.0, 1.5, 2.0]), -6, 6))
    shift = np.clip(rng.normal(0, 1.5, 3), -3, 3)
    matrix = np.diag(1 / scale) @ _rotation(pitch, roll, yaw).T
    deformation = smooth_field(rng, 45.0, 3)
    return Head(
        map=HeadMap(matrix, shift, deformation, deformation_mm),
        thickness=smooth_field(rng, 40.0, 2),
        texture=smooth_field(rng, 4.0),
        csf_mm=float(rng.uniform(2.0, 3.5)),
        skull_mm=float(rng.uniform(5.5, 7.5)),
        scalp_mm=float(rng.uniform(4.0, 6.0)),
    )


def _rotation(about_x: float, about_y: float, about_z: float) -> Float64:
    """Rotation matrix Rz Ry Rx, angles in radians."""
    (cx, sx), (cy, sy), (cz, sz) = ((np.cos(a), np.sin(a)) for a in (about_x, about_y, about_z))
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return rz @ ry @ rx


def scan_grid(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], centre_z_mm: float
) -> Grid:
    """Axial CT grid around the head: x to the patient's left, y to the back, z upwards.

    This is how DICOM stores head CT, so that ``data[z]`` shows in radiological convention.
    """
    dz, dy, dx = spacing_mm
    nz, ny, nx = shape
    affine = np.diag([-dx, -dy, dz, 1.0])
    affine[:3, 3] = (
        (nx - 1) / 2 * dx,
        MEAN_SCALE * BRAIN_CENTRE_Y_MM + (ny - 1) / 2 * dy,
        centre_z_mm - (nz - 1) / 2 * dz,
    )
    return Grid(shape, affine)


def fine_offsets(step_mm: float, target_mm: float) -> Float64:
    """Sample positions across a voxel of ``step_mm``, in voxels, at most ``target_mm`` apart."""
    n = max(1, int(np.ceil(step_mm / target_mm - 1e-6)))
    return (np.arange(n) + 0.5) / n - 0.5


def slice_points(grid: Grid, z: float, dy: float = 0.0, dx: float = 0.0) -> Float64:
    """Head points (3, Y*X) of a slice at the (fractional) index z, shifted in plane (voxels)."""
    _, ny, nx = grid.shape
    y, x = np.meshgrid(np.arange(ny) + dy, np.arange(nx) + dx, indexing="ij")
    index = np.stack([x.ravel(), y.ravel(), np.full(x.size, z)])
    return grid.affine[:3, :3] @ index + grid.affine[:3, 3:]


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Mixture of every voxel. grey, white, csf, brain : (Z, Y, X) float32 fractions, 0 to 1.

    static_hu : (Z, Y, X) float32, HU without vessels and contrast.
    """

    grey: Float32
    white: Float32
    csf: Float32
    brain: Float32
    static_hu: Float32


def render(head: Head, grid: Grid, hu: HeadHU = HeadHU(), fine_mm: float = 1.25) -> Anatomy:
    """Average the head over sample points at most ``fine_mm`` apart in each voxel of ``grid``."""
    dz, dy, dx = grid.spacing_mm
    offsets = [fine_offsets(s, fine_mm) for s in (dz, dy, dx)]
    weight = 1.0 / np.prod([o.size for o in offsets])
    out = np.zeros((5, grid.shape[0], grid.shape[1] * grid.shape[2]), np.float32)
    for z in range(grid.shape[0]):
        for oz in offsets[0]:
            for oy in offsets[1]:
                for ox in offsets[2]:
                    points = slice_points(grid, z + oz, oy, ox)
                    out[:, z] += np.float32(weight) * _mixture(head, points, hu)
    return Anatomy(*out.reshape(5, *grid.shape))


def _mixture(head: Head, points: Float64, hu: HeadHU) -> Float32:
    """Grey, white, CSF and brain fractions and HU, (5, N), at head points (3, N)."""
    template = load_template()
    mni = head.map.to_mni(points)
    grey, white, brain, distance = sample(template.channels, template.affine, mni)
    csf = np.clip(brain - grey - white, 0, 1)
    thin, thick = head.thickness(points)
    inner = head.csf_mm * np.exp(0.2 * thin) - distance  # depth below the inner table, mm
    skull_mm = head.skull_mm * np.exp(0.12 * thick)
    scalp_mm = head.scalp_mm + _temporal_muscle(mni)
    inside = _above(inner)
    in_skull = _above(inner + skull_mm) - inside
    in_scalp = _above(inner + skull_mm + scalp_mm) - inside - in_skull
    outside = 1 - inside - in_skull - in_scalp

    soft = grey * hu.grey + white * hu.white + np.clip(1 - grey - white, 0, 1) * hu.csf
    falx = _falx(mni, distance)
    soft += falx * (hu.falx - soft)
    across = np.clip(-inner / skull_mm, 0, 1)  # 0 inner table, 1 outer table
    porous = np.clip(1 - (2 * across - 1) ** 4, 0, 1)
    diploe = hu.diploe + 120 * head.texture(points)[0]
    bone = porous * diploe + (1 - porous) * hu.table
    bone += _frontal_sinus(mni, across) * (hu.air - bone)
    depth = np.clip((-inner - skull_mm) / scalp_mm, 0, 1)
    scalp = hu.scalp + (hu.skin - hu.scalp) * depth + 6 * thick
    total = inside * soft + in_skull * bone + in_scalp * scalp + outside * hu.air
    return np.stack([grey, white, csf, brain, total]).astype(np.float32)


def _above(depth_mm: FloatArray) -> FloatArray:
    """Share of a sample inside a surface, soft over 0.8 mm."""
    return np.clip(depth_mm / 0.8 + 0.5, 0, 1)


def _temporal_muscle(mni: FloatArray) -> FloatArray:
    """Extra thickness, mm, of the scalp over the temporal fossae."""
    x, y, z = mni
    return 9.0 * np.exp(
        -(((np.abs(x) - 72) / 18) ** 2) - ((y - 12) / 24) ** 2 - ((z + 22) / 24) ** 2
    )


def _frontal_sinus(mni: FloatArray, across: FloatArray) -> FloatArray:
    """Share of air in the frontal bone: two cells between the tables, above the orbits."""
    x, y, z = mni
    cells = 1.0 - ((np.abs(x) - 9) / 9) ** 2 - ((z + 22) / 18) ** 2 - ((across - 0.5) / 0.4) ** 2
    return np.clip(4 * cells, 0, 1) * (y > 40)


def _falx(mni: FloatArray, distance: FloatArray) -> FloatArray:
    """Share of falx, a midline sheet about 1 mm thick, above the corpus callosum."""
    x, y, z = mni
    sheet = np.clip(1.0 - np.abs(x), 0, 1)
    reach = np.where(y > 0, 22.0, 34.0) - 6.0 * (z < 20)  # mm it hangs down from the hull
    return 0.8 * sheet * np.clip((distance + reach) / 2, 0, 1) * (z > -12)
