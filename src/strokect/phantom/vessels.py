"""Centre lines of the head's large vessels in MNI mm, and how much of each voxel they fill.

Courses follow textbook anatomy, placed in the fissures of the MNI152 template; calibres after
Rai 2013 (J NeuroIntervent Surg 5:371); compare Mouches 2019 (Sci Data 6:29), an atlas of cerebral
arteries in MNI space. Each line is given for the right side (x > 0)
and mirrored. A radius of 0 marks a perforator, which only shapes the territories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator
from scipy.spatial import cKDTree

from strokect.core.types import FloatArray, Grid
from strokect.phantom.anatomy import HeadMap, fine_offsets, load_template, sample

Side = Literal["left", "right"]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One vessel. points_mm : RAS MNI nodes, right side. radius_mm : at start and end.

    territory : "aca", "mca", "pca", "other", "stem" (feeds several) or "vein". paired : a
    mirrored twin exists.
    """

    name: str
    territory: str
    points_mm: tuple[tuple[float, ...], ...]
    radius_mm: tuple[float, float]
    paired: bool = True


#: name, territory, radius at start and end (mm), one or a pair, nodes x,y,z (MNI mm, right side)
_ARTERIES = """
ica                  stem  2.2 1.9 pair 14,-4,-44 15,1,-34 12,3,-26 11,4,-20
m1                   mca   1.5 1.3 pair 11,4,-20 18,5,-18.5 25,6,-17 31,5,-17 36,2,-14
m2_superior          mca   1.1 0.9 pair 36,2,-14 39,5,-8 40,7,0 41,6,8 42,0,15
m2_inferior          mca   1.1 0.9 pair 36,2,-14 40,-5,-9 40,-12,-3 41,-20,6 42,-28,14
m3_prefrontal        mca   0.8 0.4 pair 40,7,0 47,15,3 53,19,12 52,20,26 46,20,40
m3_central           mca   0.8 0.4 pair 42,0,15 52,-1,17 60,-4,26 57,-8,40 48,-12,56
m3_parietal          mca   0.8 0.4 pair 42,-28,14 52,-30,20 60,-36,32 54,-44,46 46,-48,54
m3_angular           mca   0.8 0.4 pair 42,-28,14 52,-40,18 57,-54,20 50,-66,26 44,-74,28
m3_temporal          mca   0.8 0.4 pair 40,-12,-3 50,-18,-3 61,-26,-2 64,-36,-4 60,-50,0
m3_temporal_anterior mca   0.7 0.4 pair 31,5,-17 40,12,-22 52,8,-22 60,-4,-20 64,-16,-16
m3_orbitofrontal     mca   0.7 0.4 pair 39,5,-8 42,20,-9 46,34,-6 46,42,4 42,46,16
lenticulostriate     mca   0.0 0.0 pair 20,5,-14 23,3,-2 26,-3,12 26,-8,22
medullary            mca   0.0 0.0 pair 28,8,24 30,-8,28 32,-26,28 34,-40,24
a1                   aca   1.1 1.0 pair 11,4,-20 7,8,-18 2.5,12,-15
acomm                aca   0.8 0.8 one  2.5,12,-15 -2.5,12,-15
a2                   aca   1.0 0.9 pair 2.5,12,-15 2,20,-14 2,30,-8 2,37,2 2,37,10 2,30,21
pericallosal         aca   0.9 0.5 pair 2,30,21 2,16,28 2,0,32 2,-16,34 2,-32,32 2,-42,26
callosomarginal      aca   0.8 0.4 pair 2,37,6 4,44,16 5,40,30 5,26,42 6,10,50 6,-4,58
frontopolar          aca   0.7 0.4 pair 2,30,-8 3,46,-6 5,60,4 7,60,18 12,54,30
paracentral          aca   0.6 0.4 pair 2,-16,34 4,-26,46 6,-34,58 10,-36,66
precuneal            aca   0.6 0.4 pair 2,-32,32 4,-46,42 6,-58,48 8,-64,54
heubner              aca   0.0 0.0 pair 8,9,-16 11,14,-4 11,14,6
basilar              stem  1.8 1.7 one  0,-26,-52 0,-24,-40 0,-20,-28 0,-17,-21
p1                   pca   1.1 1.0 pair 0,-17,-21 5,-17,-20 11,-17,-19
pcomm                pca   0.6 0.6 pair 11,2,-22 11,-8,-20 11,-17,-19
p2                   pca   1.0 0.8 pair 11,-17,-19 18,-22,-16 22,-30,-10 19,-38,-5 15,-46,-1
calcarine            pca   0.7 0.4 pair 15,-46,-1 12,-58,3 9,-72,6 8,-86,4 12,-96,4
parieto_occipital    pca   0.7 0.4 pair 15,-46,-1 14,-58,10 13,-68,22 14,-78,34 18,-84,38
temporo_occipital    pca   0.6 0.4 pair 20,-27,-14 30,-34,-17 38,-48,-17 40,-62,-13 36,-78,-10
temporal_basal       pca   0.0 0.0 pair 20,-27,-14 30,-20,-24 36,-12,-30
thalamoperforators   pca   0.0 0.0 pair 4,-17,-18 8,-18,-2 12,-20,10
superior_cerebellar  other 0.6 0.4 pair 2,-18,-23 12,-24,-22 20,-44,-22 24,-62,-26
cerebellar           other 0.0 0.0 pair 0,-24,-36 20,-50,-45 20,-75,-35
"""
_VEINS = """
internal_cerebral    vein  0.9 1.2 pair 2,-2,11 2,-12,14 2,-24,12 1,-34,7
galen                vein  2.0 2.3 one  0,-33,7 0,-39,5 0,-44,8
straight             vein  2.3 2.8 one  0,-44,8 0,-60,2 0,-78,-6 0,-97,-12
basal                vein  0.7 0.9 pair 12,-4,-16 17,-18,-12 12,-30,-2 1,-36,5
thalamostriate       vein  0.6 0.8 pair 16,-20,20 12,-8,17 2,-2,11
"""


def _parse(table: str) -> tuple[Line, ...]:
    lines = []
    for row in table.strip().splitlines():
        name, territory, start, end, count, *nodes = row.split()
        points = tuple(tuple(float(c) for c in node.split(",")) for node in nodes)
        lines.append(Line(name, territory, points, (float(start), float(end)), count == "pair"))
    return tuple(lines)


ARTERIES = _parse(_ARTERIES)
VEINS = _parse(_VEINS)
TERRITORIES = ("mca", "aca", "pca", "other")


@dataclass(frozen=True, eq=False)
class Tube:
    """A vessel of one head. points : (3, N) head mm, about 0.4 mm apart. radius_mm : (N,)."""

    name: str
    territory: str
    side: str
    points: FloatArray
    radius_mm: FloatArray


def tubes(head_map: HeadMap) -> list[Tube]:
    """All arteries and veins of a head."""
    out = []
    for line in (*ARTERIES, *VEINS, *_dural_sinuses(head_map)):
        for side, sign in (("right", 1.0), ("left", -1.0)) if line.paired else (("both", 1.0),):
            mni, radius = _densify(line)
            points = head_map.from_mni(mni * np.array([[sign], [1], [1]]))
            out.append(Tube(line.name, line.territory, side, points, radius))
    return out


def _densify(line: Line, step_mm: float = 0.4) -> tuple[Float64, Float64]:
    """Smooth curve through the nodes: points (3, N) MNI mm and radii (N,)."""
    nodes = np.array(line.points_mm, float)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(nodes, axis=0), axis=1))])
    s = np.linspace(0, along[-1], max(2, int(along[-1] / step_mm)))
    points = PchipInterpolator(along, nodes)(s).T
    return points, np.interp(s, [0, along[-1]], line.radius_mm)


def _dural_sinuses(head_map: HeadMap) -> list[Line]:
    """Superior sagittal and transverse sinuses, laid on the inner table of the MNI hull."""
    template = load_template()

    def on_hull(centre: Float64, direction: Float64, out_mm: float) -> tuple[float, float, float]:
        reach = np.arange(40.0, 130.0, 0.5)
        ray = centre[:, None] + direction[:, None] * reach
        distance = sample(template.channels[3:], template.affine, ray)[0]
        x, y, z = ray[:, int(np.argmax(distance > out_mm))]
        return (float(x), float(y), float(z))

    centre = np.array([0.0, -20.0, 10.0])
    sagittal = tuple(
        on_hull(centre, np.array([0.0, np.cos(a), np.sin(a)]), 0.0)
        for a in np.radians(np.arange(20, 198, 6))
    )
    torcula = (0.0, -100.0, -12.0)
    low = np.array([0.0, -20.0, -18.0])
    transverse = [torcula] + [
        on_hull(low, np.array([np.cos(np.radians(a)), np.sin(np.radians(a)), drop]), 0.0)
        for a, drop in ((-75, -0.03), (-60, -0.05), (-45, -0.07), (-32, -0.1))
    ]
    return [
        Line("superior_sagittal", "vein", (*sagittal, torcula), (1.4, 4.5), paired=False),
        Line("transverse", "vein", tuple(transverse), (3.6, 3.2)),
    ]


@numba.njit(cache=True)
def _rasterise(out, points, radius, soft):
    """Draw spheres: out (Z, Y, X), points (3, N) index (x, y, z) and radius (3, N) in samples."""
    nz, ny, nx = out.shape
    for i in range(points.shape[1]):
        rx, ry, rz, r = radius[0, i], radius[1, i], radius[2, i], radius[3, i]
        pad = 1 + soft / r
        for k in range(
            max(0, int(points[2, i] - rz * pad)), min(nz, int(points[2, i] + rz * pad) + 2)
        ):
            dz = (k - points[2, i]) / rz
            for j in range(
                max(0, int(points[1, i] - ry * pad)), min(ny, int(points[1, i] + ry * pad) + 2)
            ):
                dy = (j - points[1, i]) / ry
                for m in range(
                    max(0, int(points[0, i] - rx * pad)), min(nx, int(points[0, i] + rx * pad) + 2)
                ):
                    dx = (m - points[0, i]) / rx
                    d = np.sqrt(dx * dx + dy * dy + dz * dz) * r
                    value = min(1.0, max(0.0, (r - d) / soft + 0.5))
                    out[k, j, m] = max(out[k, j, m], value)


def occupancy(grid: Grid, group: list[Tube]) -> npt.NDArray[np.float32]:
    """Fraction (Z, Y, X) of each voxel filled by the tubes.

    Drawn on samples at most 0.5 mm apart in plane and 1 mm through plane, each with a soft edge
    whose second moment is taken out of the radius so that the cross-section stays pi r^2.
    """
    dz, dy, dx = grid.spacing_mm
    n = [fine_offsets(s, t).size for s, t in ((dz, 1.0), (dy, 0.5), (dx, 0.5))]
    fine = np.zeros([g * m for g, m in zip(grid.shape, n, strict=True)], np.float32)
    steps = np.array([dx / n[2], dy / n[1], dz / n[0]])
    inverse = np.linalg.inv(grid.affine)
    soft = 0.5
    for tube in group:
        index = inverse[:3, :3] @ tube.points + inverse[:3, 3:]
        index = (index + 0.5) * np.array(n[::-1])[:, None] - 0.5
        r = np.sqrt(np.maximum(np.asarray(tube.radius_mm) ** 2 - soft**2 / 12, 0.01))
        radius = np.concatenate([r[None] / steps[:, None], r[None]])
        _rasterise(fine, index, radius, soft)
    blocks = fine.reshape(grid.shape[0], n[0], grid.shape[1], n[1], grid.shape[2], n[2])
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def distance_to(group: list[Tube], points: FloatArray) -> Float64:
    """Distance, mm, of head points (3, N) from the nearest centre line of the group."""
    tree = cKDTree(np.concatenate([t.points for t in group], axis=1).T)
    return tree.query(np.asarray(points).T, workers=2)[0]


def mca_margin(all_tubes: list[Tube], side: Side, points: FloatArray) -> Float64:
    """How far points (3, N) lie inside the MCA territory of ``side``, mm; negative outside.

    Territories are nearest-artery regions; half the difference of the two distances is the
    distance from a plane border.
    """
    arteries = [t for t in all_tubes if t.territory in TERRITORIES]
    own = [t for t in arteries if t.territory == "mca" and t.side == side]
    rest = [t for t in arteries if not (t.territory == "mca" and t.side == side)]
    return (distance_to(rest, points) - distance_to(own, points)) / 2
