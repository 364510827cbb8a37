"""The head of a virtual patient: tissue shares, skull, face and neck, and unenhanced HU.

A head is the MNI template (``template``) with its own size, shape, ventricles, sulci, skull and
age-related findings (``pathology``), inside a skull base, face and neck (``skullbase``). As in
the head phantom of Riordan 2011 (Med Phys 38:3212), time curves are laid on a segmented brain;
here shares are averaged over finer sample points, so that a voxel holds its true mixture
(partial volume), through plane as well.

Points are ``(3, N)`` RAS mm: "head" coordinates of the scan, or "MNI" coordinates of the template.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokect.core.errors import SettingsError
from strokect.core.types import Grid
from strokect.phantom import headkernel, pathology
from strokect.phantom.pathology import Pathology, draw_pathology
from strokect.phantom.skullbase import LOW_MM, load_skullbase, noise_tile
from strokect.phantom.template import (
    BRAIN_CENTRE_Y_MM,
    MEAN_SCALE,
    Float32,
    Float64,
    HeadMap,
    SmoothField,
    load_template,
    rotation,
    sample,
    smooth_field,
)

#: Range of the ages drawn, years.
AGE_RANGE = (40.0, 90.0)


@dataclass(frozen=True)
class HeadHU:
    """Unenhanced CT numbers, HU: usual values of head CT, the diploe between two tables."""

    grey: float = 38.5
    white: float = 29.0
    csf: float = 6.0
    falx: float = 46.0
    diploe: float = 750.0
    table: float = 1350.0
    scalp: float = -85.0
    skin: float = 45.0
    muscle: float = 57.0
    air: float = -1000.0


@dataclass(frozen=True)
class HeadVariation:
    """What makes a head different from the template; plain numbers, for the dataset card.

    scale : (x, y, z) relative to the MNI head. rotation_deg : about x, y, z. deformation_mm : SD.
    petalia_mm : how far the right frontal and the left occipital pole reach beyond the other.
    ventricles_mm : outward move of the ventricles' walls. atrophy : 0 (none) to 1 (severe), opens
    sulci and thins the cortex's surface. sulci : depth of the individual's own sulci, 0 to 1.
    csf_mm, skull_mm, scalp_mm : mean thickness of the shells of the vault. skull_variation : SD of
    the logarithm of the skull's. hyperostosis_mm : extra frontal bone. frontal_sinus : its size,
    0 (absent) to 1.3.
    """

    age: float
    scale: tuple[float, float, float]
    rotation_deg: tuple[float, float, float]
    shift_mm: tuple[float, float, float]
    deformation_mm: float
    petalia_mm: float
    ventricles_mm: float
    atrophy: float
    sulci: float
    csf_mm: float
    skull_mm: float
    skull_variation: float
    hyperostosis_mm: float
    scalp_mm: float
    frontal_sinus: float


@dataclass(frozen=True, eq=False)
class Head:
    """One virtual head: its map to the template, its numbers, its findings, its random fields.

    thickness : (2,) channels that vary subarachnoid space and skull. folds : (2,), pattern and
    depth of sulci. patches : (2,), of leukoaraiosis. texture : periodic tile, of bone and fat.
    """

    map: HeadMap
    variation: HeadVariation
    pathology: Pathology
    thickness: SmoothField
    folds: SmoothField
    patches: SmoothField
    texture: Float32


def make_head(
    rng: np.random.Generator, age: float | None = None, deformation_mm: float = 1.5
) -> Head:
    """Draw a head: size SD 2.5 %, rotation SD 2-3 degrees, shift SD 1.5 mm, and the rest.

    age : years; drawn from 40 to 90 unless given. It moves atrophy, ventricles and pathology, not
    the other draws. Raises SettingsError for an age outside 18 to 110.
    """
    drawn = float(rng.uniform(*AGE_RANGE))
    age = drawn if age is None else float(age)
    if not 18 <= age <= 110:
        raise SettingsError(f"age {age} years", fix="Use an age from 18 to 110, or None")
    scale = MEAN_SCALE * (1 + np.clip(rng.normal(0, 0.02, 3) + rng.normal(0, 0.015), -0.06, 0.05))
    degrees = np.clip(rng.normal(0, [3.0, 1.5, 2.0]), -6, 6)
    shift = np.clip(rng.normal(0, 1.5, 3), -3, 3)
    older = (age - 65) / 25
    z = np.clip(rng.standard_normal(4), -2, 2)
    atrophy = float(np.clip(0.38 + 0.3 * older + 0.13 * z[0], 0.02, 1.0))
    wide = 1.4 + 1.8 * older + 0.9 * (0.5 * z[0] + 0.85 * z[1])
    variation = HeadVariation(
        age=age,
        scale=pathology.triple(scale),
        rotation_deg=pathology.triple(degrees),
        shift_mm=pathology.triple(shift),
        deformation_mm=float(deformation_mm),
        petalia_mm=float(np.clip(1.2 + 1.2 * z[2], -1.5, 3.5)),
        ventricles_mm=float(np.clip(wide, -1.5, 4.8)),
        atrophy=atrophy,
        sulci=float(rng.uniform(0.3, 0.6)),
        csf_mm=float(rng.uniform(1.2, 2.4) + 2.2 * atrophy),
        skull_mm=float(rng.uniform(5.0, 7.8)),
        skull_variation=float(rng.uniform(0.08, 0.18)),
        hyperostosis_mm=float(rng.uniform(2, 5) * (rng.random() < 0.08 + 0.06 * max(older, 0))),
        scalp_mm=float(rng.uniform(4.0, 7.0)),
        frontal_sinus=float(np.clip(0.75 + 0.35 * z[3], 0.0, 1.3)),
    )
    matrix = np.diag(1 / scale) @ rotation(*np.radians(degrees)).T
    deformation = _deformation(rng, deformation_mm, variation.petalia_mm)
    thickness = smooth_field(rng, 40.0, 2)
    folds = smooth_field(rng, 9.5, 2)
    patches = smooth_field(rng, 10.0, 2)
    return Head(
        map=HeadMap(matrix, shift, deformation, variation.ventricles_mm),
        variation=variation,
        pathology=draw_pathology(rng, age),
        thickness=thickness,
        folds=folds,
        patches=patches,
        texture=noise_tile(rng, 1.3),
    )


def _deformation(rng: np.random.Generator, sd_mm: float, petalia_mm: float) -> SmoothField:
    """Smooth random displacement, mm, with the counter-clockwise torque of most brains."""
    field = smooth_field(rng, 45.0, 3)
    _, _, ny, nx = field.values.shape
    x = field.origin_mm[0] + np.arange(nx) * field.step_mm[0]
    y = field.origin_mm[1] + np.arange(ny) * field.step_mm[1] - BRAIN_CENTRE_Y_MM
    values = sd_mm * field.values
    torque = petalia_mm * np.tanh(x / 30)[None, :] * ((np.clip(y, -90, 90) / 85) ** 2)[:, None]
    values[1] -= 0.5 * torque
    return SmoothField(values.astype(np.float32), field.step_mm, field.origin_mm)


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


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Mixture of every voxel. grey, white, csf, brain : (Z, Y, X) float32 shares, 0 to 1.

    static_hu : (Z, Y, X) float32, HU without vessels and contrast. leukoaraiosis : (Z, Y, X)
    float32, share of the voxel that is diseased white matter (part of white).
    """

    grey: Float32
    white: Float32
    csf: Float32
    brain: Float32
    static_hu: Float32
    leukoaraiosis: Float32


def render(head: Head, grid: Grid, hu: HeadHU = HeadHU(), fine_mm: float = 1.25) -> Anatomy:
    """Average the head over sample points at most ``fine_mm`` apart in each voxel of ``grid``."""
    out = tuple(np.empty(grid.shape, np.float32) for _ in range(6))
    _run(head, grid, hu, fine_mm, out)
    grey, white, csf, brain, late, total = out
    return Anatomy(grey, white, csf, brain, total, late)


def _run(
    head: Head, grid: Grid, hu: HeadHU, fine_mm: float, out: tuple[npt.NDArray[np.float32], ...]
) -> None:
    dz, dy, dx = (fine_offsets(s, fine_mm) for s in grid.spacing_mm)
    offsets = np.stack([a.ravel() for a in np.meshgrid(dx, dy, dz, indexing="ij")], axis=1)
    template, base = load_template(), load_skullbase()
    fields = (
        head.map.deformation,
        template.warp,
        SmoothField(template.channels, np.ones(3), template.affine[:3, 3]),
        template.deep,
        head.thickness,
        head.folds,
        head.patches,
    )
    reach, reach_frame = _reach()
    frames = [np.concatenate([f.origin_mm, 1 / f.step_mm]) for f in fields]
    frames += [np.array([*LOW_MM, 1.0, 1.0, 1.0]), reach_frame]
    place = np.concatenate([head.map.matrix, head.map.shift_mm[:, None]], axis=1)
    headkernel.render_voxels(
        grid.affine,
        np.ascontiguousarray(offsets),
        _parameters(head, hu),
        place,
        tuple(f.values for f in fields),
        np.array(frames),
        (base.hu, base.share, reach),
        head.texture,
        pathology.spot_rows(head.pathology),
        pathology.infarct_row(head.pathology),
        out,
    )


def _parameters(head: Head, hu: HeadHU) -> Float64:
    """Numbers of the head in the order of ``headkernel.PARAMETERS``."""
    v, found = head.variation, head.pathology
    values: dict[str, Any] = vars(v) | vars(hu)
    values["band_mm"] = pathology.BAND_MM[found.periventricular]
    values["deep_level"] = pathology.DEEP_LEVEL[found.deep]
    values["white_loss_hu"] = found.white_loss_hu
    return np.array([values[name] for name in headkernel.PARAMETERS], float)


@lru_cache(maxsize=1)
def _reach() -> tuple[npt.NDArray[np.uint8], Float64]:
    """Where a head can be: (Z, Y, X) uint8 on a 4 mm lattice in affine MNI space, and its frame.

    It has a margin of 12 mm, more than deformation and ventricles move a point.
    """
    low = LOW_MM - 20.0
    nx, ny, nz = 60, 76, 86
    x, y, z = (low[k] + 4.0 * np.arange(n) + 2.0 for k, n in enumerate((nx, ny, nz)))
    points = np.stack([a.ravel() for a in np.meshgrid(z, y, x, indexing="ij")[::-1]])
    template, base = load_template(), load_skullbase()
    edge = np.clip(points, template.affine[:3, 3:] + 1, np.array([[97.0], [97.0], [115.0]]))
    distance = sample(template.channels[3:], template.affine, edge)[0]
    away = np.linalg.norm(points - edge, axis=0)
    near = (np.hypot(np.maximum(distance, 0), away) < 34).reshape(nz, ny, nx)
    near[:5] = False  # below the skull base's lattice
    sparse = ndimage.maximum_filter(base.share, 4)[::4, ::4, ::4] > 0
    near[5:, 5:, 5:][tuple(slice(n) for n in sparse.shape)] |= sparse
    near = ndimage.binary_dilation(near, iterations=4)
    return near.astype(np.uint8), np.array([*low, 0.25, 0.25, 0.25])
