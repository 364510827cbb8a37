"""Perfusion of one head as smooth functions of position, shared by all its scans.

The functions live on a lattice over the head and are sampled where a scan needs them, so that
non-contrast CT, CT angiography and CT perfusion, each on a grid of its own, show one patient.
The lesion is stored as depths (mm inside a border), which interpolate well; its borders are made
from them afterwards and stay as sharp as they are meant to be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokect.core.types import FloatArray, Grid
from strokect.phantom import anatomy, haemodynamics, occlusion, stroke
from strokect.phantom.haemodynamics import NormalPerfusion, TissueFields
from strokect.phantom.stroke import Lesion, StrokeModel
from strokect.phantom.template import BOX_MM, sample
from strokect.phantom.vessels import Tube, distance_to

Float32 = npt.NDArray[np.float32]

LATTICE_MM = 2.5
#: Vessel segments near which a territory keeps least of its flow when they are blocked.
_PROXIMAL = ("M1", "M2", "A1", "A2", "P1", "P2", "PERFORATOR")


@dataclass(frozen=True, eq=False)
class Physiology:
    """Healthy perfusion and, with a stroke, where and how far it falls.

    healthy : (3, Z, Y, X) relative flow and volume, and delay in s, on ``lattice``.
    lesion : (3, Z, Y, X) depth, core depth and territory depth, mm; None without a stroke.
    volumes_ml : of the whole brain: territory, hypoperfused, core; empty without a stroke.
    """

    normal: NormalPerfusion
    lattice: Grid
    healthy: Float32
    model: StrokeModel | None
    lesion: Float32 | None
    volumes_ml: dict[str, float]

    def lesion_at(self, points: FloatArray) -> Lesion | None:
        """The lesion at head points (3, V)."""
        if self.lesion is None:
            return None
        return Lesion(*sample(self.lesion, self.lattice.affine, points))

    def fields_at(self, points: FloatArray, where: Lesion | None) -> TissueFields:
        """Perfusion of pure grey and pure white matter at head points (3, V)."""
        flow, volume, delay = sample(self.healthy, self.lattice.affine, points)
        fields = haemodynamics.scaled(self.normal, flow, volume, delay)
        if self.model is None or where is None:
            return fields
        return stroke.apply(self.model, where, fields)

    def hypodensity_at(self, where: Lesion | None, n: int) -> Float32:
        """Early hypodensity of grey matter, (V,) HU >= 0."""
        if self.model is None or where is None:
            return np.zeros(n, np.float32)
        return stroke.hypodensity(self.model, where)


@dataclass(frozen=True)
class StrokeDraw:
    """What is known of a stroke before its place in this head. Volumes are drawn unless given."""

    collateral: int
    onset_h: float
    core_ml: float | None = None
    hypoperfusion_ml: float | None = None


def make_physiology(
    tissue_rng: np.random.Generator,
    stroke_rng: np.random.Generator,
    head: anatomy.Head,
    all_tubes: list[Tube],
    occluded: occlusion.Occlusion | None,
    draw: StrokeDraw | None,
) -> Physiology:
    """Draw perfusion on the lattice. tissue_rng : of healthy tissue; stroke_rng : of the lesion."""
    lattice = _lattice()
    tissue = anatomy.render(head, lattice, fine_mm=LATTICE_MM)
    brain = tissue.brain.ravel() > 0
    index = np.flatnonzero(_grown(brain.reshape(lattice.shape)))
    points = points_of(lattice, index)
    normal = haemodynamics.draw_normal(tissue_rng)
    healthy = _spread(
        haemodynamics.normal_fields(tissue_rng, normal, all_tubes, points), index, lattice
    )
    if occluded is None or draw is None:
        return Physiology(normal, lattice, healthy, None, None, {})
    tissue_ml = (tissue.grey + tissue.white).ravel()[index] * lattice.voxel_ml
    territory = occlusion.margin(all_tubes, occluded.downstream, points, head.map)
    territory_ml = float(tissue_ml[territory > 0].sum())
    model = stroke.draw_stroke(
        stroke_rng, territory_ml, draw.collateral, draw.onset_h, draw.core_ml, draw.hypoperfusion_ml
    )
    beyond = [t for t in all_tubes if (t.name, t.side) in occluded.downstream]
    axis = [t for t in beyond if t.segment in _PROXIMAL] or beyond
    placed = stroke.lesion(
        stroke_rng, model, points, tissue_ml, territory, distance_to(axis, points),
        _core_centre(stroke_rng, occluded, axis),
    )  # fmt: skip
    depths = np.stack([placed.depth_mm, placed.core_mm, placed.territory_mm])
    volumes = {
        "territory": territory_ml,
        "hypoperfused": float(tissue_ml[placed.depth_mm > 0].sum()),
        "core": float(tissue_ml[placed.core_mm > 0].sum()),
    }
    return Physiology(
        normal, lattice, healthy, model, _spread(depths, index, lattice, -20.0), volumes
    )


def _core_centre(
    rng: np.random.Generator, occluded: occlusion.Occlusion, axis: list[Tube]
) -> FloatArray:
    """A point (3,) in the deep part of the territory, between clot and distal branches, mm."""
    branches = [t for t in axis if t.segment in ("M2", "A2", "P2")] or axis
    course = np.concatenate([t.points for t in branches], axis=1)
    target = course[:, rng.integers(course.shape[1])]
    start = occluded.clot.points[:, -1]
    if occluded.site in ("ICA", "M1"):  # the lentiform nucleus lies above the end of M1
        m1 = [t for t in axis if t.segment == "M1"]
        start = (m1[0].points[:, -1] if m1 else start) + np.array([0.0, 0.0, 14.0])
    return start + rng.uniform(0.2, 0.8) * (target - start) + rng.normal(0, 4, 3)


def _lattice() -> Grid:
    """Lattice over the part of the box that a brain can lie in."""
    low, high = BOX_MM[0] + [45, 30, 15], BOX_MM[1] - [45, 45, 35]
    shape = np.ceil((high - low) / LATTICE_MM).astype(int) + 1
    affine = np.diag([LATTICE_MM] * 3 + [1.0])
    affine[:3, 3] = low
    nx, ny, nz = (int(n) for n in shape)
    return Grid((nz, ny, nx), affine)


def _grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.asarray(ndimage.binary_dilation(mask, np.ones((3, 3, 3)), iterations=2))


def points_of(grid: Grid, where: npt.NDArray[np.intp]) -> FloatArray:
    """Head points (3, N) mm of flat voxel indices."""
    z, y, x = np.unravel_index(where, grid.shape)
    return grid.affine[:3, :3] @ np.stack([x, y, z]) + grid.affine[:3, 3:]


def _spread(
    values: FloatArray, index: npt.NDArray[np.intp], lattice: Grid, outside: float = 0.0
) -> Float32:
    """Values (C, V) of lattice points ``index`` as (C, Z, Y, X)."""
    out = np.full((len(values), int(np.prod(lattice.shape))), outside, np.float32)
    out[:, index] = values
    return out.reshape(len(values), *lattice.shape)
