"""Centre lines of the head's large vessels in MNI mm, and how much of each voxel they fill.

Courses follow textbook anatomy, placed in the fissures of the MNI152 template; calibres after
Krejza 2006 (AJR 186:1047; ICA, M1), Rai 2013 (J NeuroIntervent Surg 5:371) and Mouches 2019
(Sci Data 6:29, atlas of vessels in MNI space). Each line is given for the right side (x > 0)
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

    territory : "aca", "mca", "pca", "other" or "vein". stem : before an M1 occlusion or in
    another territory, so that it keeps its flow. paired : a mirrored twin exists.
    """

    name: str
    territory: str
    points_mm: tuple[tuple[float, float, float], ...]
    radius_mm: tuple[float, float]
    stem: bool = False
    paired: bool = True


ARTERIES: tuple[Line, ...] = (
    Line("ica", "stem", ((14, -4, -44), (15, 1, -34), (12, 3, -26), (11, 4, -20)), (2.2, 1.9), True),
    Line("m1", "mca", ((11, 4, -20), (18, 5, -18.5), (25, 6, -17), (31, 5, -17), (36, 2, -14)), (1.5, 1.3)),
    Line("m2_superior", "mca", ((36, 2, -14), (39, 5, -8), (40, 7, 0), (41, 6, 8), (42, 0, 15)), (1.1, 0.9)),
    Line("m2_inferior", "mca", ((36, 2, -14), (40, -5, -9), (40, -12, -3), (41, -20, 6), (42, -28, 14)), (1.1, 0.9)),
    Line("m3_prefrontal", "mca", ((40, 7, 0), (47, 15, 3), (53, 19, 12), (52, 20, 26), (46, 20, 40)), (0.8, 0.4)),
    Line("m3_central", "mca", ((42, 0, 15), (52, -1, 17), (60, -4, 26), (57, -8, 40), (48, -12, 56)), (0.8, 0.4)),
    Line("m3_parietal", "mca", ((42, -28, 14), (52, -30, 20), (60, -36, 32), (54, -44, 46), (46, -48, 54)), (0.8, 0.4)),
    Line("m3_angular", "mca", ((42, -28, 14), (52, -40, 18), (57, -54, 20), (50, -66, 26), (44, -74, 28)), (0.8, 0.4)),
    Line("m3_temporal", "mca", ((40, -12, -3), (50, -18, -3), (61, -26, -2), (64, -36, -4), (60, -50, 0)), (0.8, 0.4)),
    Line("m3_temporal_anterior", "mca", ((31, 5, -17), (40, 12, -22), (52, 8, -22), (60, -4, -20), (64, -16, -16)), (0.7, 0.4)),
    Line("m3_orbitofrontal", "mca", ((39, 5, -8), (42, 20, -9), (46, 34, -6), (46, 42, 4), (42, 46, 16)), (0.7, 0.4)),
    Line("lenticulostriate", "mca", ((20, 5, -14), (23, 3, -2), (26, -3, 12), (26, -8, 22)), (0.0, 0.0)),
    Line("a1", "aca", ((11, 4, -20), (7, 8, -18), (2.5, 12, -15)), (1.1, 1.0), True),
    Line("acomm", "aca", ((2.5, 12, -15), (-2.5, 12, -15)), (0.8, 0.8), True, False),
    Line("a2", "aca", ((2.5, 12, -15), (2, 20, -14), (2, 30, -8), (2, 37, 2), (2, 37, 10), (2, 30, 21)), (1.0, 0.9), True),
    Line("pericallosal", "aca", ((2, 30, 21), (2, 16, 28), (2, 0, 32), (2, -16, 34), (2, -32, 32), (2, -42, 26)), (0.9, 0.5), True),
    Line("callosomarginal", "aca", ((2, 37, 6), (4, 44, 16), (5, 40, 30), (5, 26, 42), (6, 10, 50), (6, -4, 58)), (0.8, 0.4), True),
    Line("frontopolar", "aca", ((2, 30, -8), (3, 46, -6), (5, 60, 4), (7, 60, 18), (12, 54, 30)), (0.7, 0.4), True),
    Line("paracentral", "aca", ((2, -16, 34), (4, -26, 46), (6, -34, 58), (10, -36, 66)), (0.6, 0.4), True),
    Line("precuneal", "aca", ((2, -32, 32), (4, -46, 42), (6, -58, 48), (8, -64, 54)), (0.6, 0.4), True),
    Line("heubner", "aca", ((8, 9, -16), (11, 14, -4), (11, 14, 6)), (0.0, 0.0), True),
    Line("basilar", "stem", ((0, -26, -52), (0, -24, -40), (0, -20, -28), (0, -17, -21)), (1.8, 1.7), True, False),
    Line("p1", "pca", ((0, -17, -21), (5, -17, -20), (11, -17, -19)), (1.1, 1.0), True),
    Line("pcomm", "pca", ((11, 2, -22), (11, -8, -20), (11, -17, -19)), (0.6, 0.6), True),
    Line("p2", "pca", ((11, -17, -19), (18, -22, -16), (22, -30, -10), (19, -38, -5), (15, -46, -1)), (1.0, 0.8), True),
    Line("calcarine", "pca", ((15, -46, -1), (12, -58, 3), (9, -72, 6), (8, -86, 4), (12, -96, 4)), (0.7, 0.4), True),
    Line("parieto_occipital", "pca", ((15, -46, -1), (14, -58, 10), (13, -68, 22), (14, -78, 34), (18, -84, 38)), (0.7, 0.4), True),
    Line("temporo_occipital", "pca", ((20, -27, -14), (30, -34, -17), (38, -48, -17), (40, -62, -13), (36, -78, -10)), (0.6, 0.4), True),
    Line("temporal_basal", "pca", ((20, -27, -14), (30, -20, -24), (36, -12, -30)), (0.0, 0.0), True),
    Line("thalamoperforators", "pca", ((4, -17, -18), (8, -18, -2), (12, -20, 10)), (0.0, 0.0), True),
    Line("superior_cerebellar", "other", ((2, -18, -23), (12, -24, -22), (20, -44, -22), (24, -62, -26)), (0.6, 0.4), True),
    Line("cerebellar", "other", ((0, -24, -36), (20, -50, -45), (20, -75, -35)), (0.0, 0.0), True),
)  # fmt: skip

VEINS: tuple[Line, ...] = (
    Line("internal_cerebral", "vein", ((2, -2, 11), (2, -12, 14), (2, -24, 12), (1, -34, 7)), (0.9, 1.2)),
    Line("galen", "vein", ((0, -33, 7), (0, -39, 5), (0, -44, 8)), (2.0, 2.3), paired=False),
    Line("straight", "vein", ((0, -44, 8), (0, -60, 2), (0, -78, -6), (0, -97, -12)), (2.3, 2.8), paired=False),
    Line("basal", "vein", ((12, -4, -16), (17, -18, -12), (12, -30, -2), (1, -36, 5)), (0.7, 0.9)),
    Line("thalamostriate", "vein", ((16, -20, 20), (12, -8, 17), (2, -2, 11)), (0.6, 0.8)),
)  # fmt: skip

TERRITORIES = ("mca", "aca", "pca", "other")


@dataclass(frozen=True, eq=False)
class Tube:
    """A vessel of one head. points : (3, N) head mm, about 0.4 mm apart. radius_mm : (N,)."""

    name: str
    territory: str
    side: str
    stem: bool
    points: FloatArray
    radius_mm: FloatArray


def tubes(head_map: HeadMap) -> list[Tube]:
    """All arteries and veins of a head."""
    out = []
    for line in (*ARTERIES, *VEINS, *_dural_sinuses(head_map)):
        for side, sign in (("right", 1.0), ("left", -1.0)) if line.paired else (("both", 1.0),):
            mni, radius = _densify(line)
            points = head_map.from_mni(mni * np.array([[sign], [1], [1]]))
            out.append(Tube(line.name, line.territory, side, line.stem, points, radius))
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
        for k in range(max(0, int(points[2, i] - rz * pad)), min(nz, int(points[2, i] + rz * pad) + 2)):
            dz = (k - points[2, i]) / rz
            for j in range(max(0, int(points[1, i] - ry * pad)), min(ny, int(points[1, i] + ry * pad) + 2)):
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
