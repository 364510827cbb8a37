"""The vessels of one head: labelled centre lines and calibres, with normal variants.

``courses`` holds the average lines in MNI space. Here they are varied as people differ (variants
of the circle of Willis, courses, calibres), smoothed, and carried into the head. Compare Mouches
2019 (Sci Data 6:29), an atlas of cerebral arteries in MNI space.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator
from scipy.spatial import cKDTree

from strokect.core.types import BoolArray, FloatArray
from strokect.phantom.courses import Line
from strokect.phantom.raster import spaced
from strokect.phantom.template import HeadMap, load_template, sample, smooth_field
from strokect.phantom.variants import Side, Variants, draw_variants, varied

__all__ = [
    "SEGMENT_LABELS",
    "TERRITORIES",
    "Side",
    "Tube",
    "Variants",
    "distance_to",
    "draw_variants",
    "tubes",
]

Float64 = npt.NDArray[np.float64]

#: Values of the truth image of vessel segments. Stable: new segments get new numbers.
SEGMENT_LABELS: dict[str, int] = {
    "ICA": 1,
    "M1": 2,
    "M2": 3,
    "M3": 4,
    "A1": 5,
    "A2": 6,
    "A3": 7,
    "ACOM": 8,
    "PCOM": 9,
    "VA": 10,
    "BA": 11,
    "P1": 12,
    "P2": 13,
    "P3": 14,
    "CEREBELLAR": 15,
    "PERFORATOR": 16,
    "SSS": 20,
    "TS": 21,
    "SIGMOID": 22,
    "STRAIGHT": 23,
    "VEIN": 24,
    "CORTICAL_VEIN": 25,
}
#: Segments that lie in sulci, and are led back there after their course was varied.
_SULCAL = ("M2", "M3", "A3", "P2", "P3", "CEREBELLAR", "CORTICAL_VEIN")
#: Segments that give rise to those and stay where they are.
_CISTERNAL = ("ICA", "M1", "A1", "A2", "P1", "PCOM", "VA", "BA")
#: Territories that tissue belongs to; "stem" vessels feed several, "vein" none.
TERRITORIES = ("mca", "aca", "pca", "other")


@dataclass(frozen=True, eq=False)
class Tube:
    """A vessel of one head. points : (3, N) head mm, about 0.4 mm apart; mni : (3, N) the same.

    side : "left", "right" or "both". radius_mm : (N,), 0 for perforators. parent : name of the
    vessel it arises from, on the same side or unpaired. cut : whether its start and its end were
    cut from a longer vessel, and so are flat.
    """

    name: str
    segment: str
    territory: str
    side: str
    points: FloatArray
    mni: FloatArray
    radius_mm: FloatArray
    parent: str | None = None
    cut: tuple[bool, bool] = (False, False)

    @property
    def length_mm(self) -> float:
        """Length along the centre line."""
        return float(np.linalg.norm(np.diff(self.points, axis=1), axis=0).sum())


def tubes(
    head_map: HeadMap, variants: Variants = Variants(), rng: np.random.Generator | None = None
) -> list[Tube]:
    """All arteries and veins of a head.

    rng : draws courses (SD 0.4 mm at the circle of Willis to 1.5 mm distally, smooth) and calibres
    (SD 8 %, and the unequal transverse sinuses); without it, the average.
    """
    made: list[Tube] = []
    for side, sign in (("right", 1.0), ("left", -1.0)):
        curves: dict[str, Float64] = {}
        for line in varied(variants, side):  # parents come before their branches
            mni, radius = _densify(line, curves)
            curves[line.name] = mni
            if line.paired or side == "right":
                where = "both" if not line.paired else side
                mni = mni * np.array([[sign], [1], [1]])
                empty = np.zeros_like(mni)
                made.append(
                    Tube(
                        line.name,
                        line.segment,
                        line.territory,
                        where,
                        empty,
                        mni,
                        radius,
                        line.parent,
                    )
                )
    sizes = np.cumsum([t.mni.shape[1] for t in made])[:-1]
    together = np.concatenate([t.mni for t in made], axis=1)
    scale = np.ones(len(made))
    if rng is not None:
        together = _jitter(rng, together, np.concatenate([_looseness(t) for t in made]))
        fixed = [np.full(t.mni.shape[1], t.segment in _CISTERNAL) for t in made]
        free = [np.full(t.mni.shape[1], t.segment in _SULCAL) for t in made]
        together = _settle(together, np.concatenate(free), np.concatenate(fixed))
        scale = _calibres(rng, made)
    mni_parts = np.split(together, sizes, axis=1)
    parts = np.split(head_map.from_mni(together), sizes, axis=1)
    return [
        replace(t, mni=m, points=p, radius_mm=t.radius_mm * k)
        for t, m, p, k in zip(made, mni_parts, parts, scale, strict=True)
    ]


def _densify(
    line: Line, curves: dict[str, Float64], step_mm: float = 0.4
) -> tuple[Float64, Float64]:
    """Smooth curve through the nodes: points (3, N) MNI mm and radii (N,).

    The start is moved on to the parent's curve; perforators stay where they are.
    """
    nodes = np.array(line.points_mm, float)
    if line.parent in curves and max(line.radius_mm) > 0:
        parent = curves[str(line.parent)].T
        nearest = parent[int(np.argmin(((parent - nodes[0]) ** 2).sum(axis=1)))]
        gap = float(np.linalg.norm(nearest - nodes[0]))
        nodes = np.vstack([nearest, nodes]) if gap > 3.0 else np.vstack([nearest, nodes[1:]])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(nodes, axis=0), axis=1))])
    s = np.linspace(0, along[-1], max(2, int(along[-1] / step_mm)))
    points = PchipInterpolator(along, nodes)(s).T
    knots = np.linspace(0, along[-1], len(line.radius_mm))
    return points, np.interp(s, knots, line.radius_mm)


def _looseness(tube: Tube) -> Float64:
    """SD (N,) of the displacement of a course, mm: least in dura and bone."""
    away = np.linalg.norm(tube.mni - np.array([[0.0], [0.0], [-18.0]]), axis=0)
    fast = {"SSS": 0.5, "TS": 0.5, "SIGMOID": 0.5, "STRAIGHT": 0.5, "ICA": 0.8, "VA": 0.8}
    most = fast.get(tube.segment, 1.5)
    return np.clip(0.4 + 0.025 * (away - 25.0), 0.4, most)


def _jitter(rng: np.random.Generator, points: Float64, sd_mm: Float64) -> Float64:
    """Displace points (3, N) by a smooth function of place, so that branches stay joined.

    Less across the midline.
    """
    shift = sd_mm * np.clip(smooth_field(rng, 20.0, 3)(points), -2, 2)
    shift[0] *= np.clip(np.abs(points[0]) / 8.0, 0.15, 1.0)
    moved = points + shift
    return _within_dura(points, moved)


def _within_dura(before: Float64, moved: Float64) -> Float64:
    """Push points (3, N) that were moved outwards, beyond 0.4 mm off the brain's hull, back in."""
    depth = _channel(before, slice(3, 4))
    for _ in range(2):
        beyond = np.maximum(_channel(moved, slice(3, 4)) - np.maximum(depth, 0.4), 0.0)
        beyond[depth > 3.0] = 0.0  # neck and skull base
        moved = moved - beyond * _slope(moved, slice(3, 4), 1.0)
    return moved


def _settle(points: Float64, free: BoolArray, fixed: BoolArray) -> Float64:
    """Slide free points (3, N) out of parenchyma, by up to 2 mm, towards the nearest sulcus.

    The move depends on place alone and fades near fixed points, so that branches stay joined.
    """
    out = points.copy()
    away = cKDTree(points[:, fixed].T).query(points[:, free].T)[0]
    step_mm = 0.65 * np.clip((away - 0.5) / 6.0, 0.0, 1.0)
    for _ in range(3):
        slope = _slope(out[:, free], slice(0, 2), 1.5)
        slope[0] *= np.abs(out[0, free]) > 4.0  # not across the midline
        out[:, free] -= step_mm * slope / np.maximum(np.linalg.norm(slope, axis=0), 0.15)
    return _within_dura(points, out)


def _channel(points: Float64, which: slice) -> Float64:
    """Sum (N,) of channels of the template at MNI points (3, N)."""
    template = load_template()
    return np.asarray(sample(template.channels[which], template.affine, points), float).sum(axis=0)


def _slope(points: Float64, which: slice, step_mm: float) -> Float64:
    """Gradient (3, N) of ``_channel``, 1/mm."""
    steps = step_mm * np.eye(3)[:, :, None]
    return np.stack([_channel(points + e, which) - _channel(points - e, which) for e in steps]) / (
        2 * step_mm
    )


def _calibres(rng: np.random.Generator, made: list[Tube]) -> Float64:
    """Factor (len(made),) on each radius: of the person (SD 5 %) and of the vessel (SD 6 %).

    One transverse sinus, more often the right, is larger down to the jugular vein; likewise one
    vertebral artery, more often the left. All figures are assumed.
    """
    person = 1 + 0.05 * np.clip(rng.standard_normal(), -2, 2)
    factor = person * (1 + 0.06 * np.clip(rng.standard_normal(len(made)), -2, 2))
    sinus = float(np.clip(rng.normal(0.10, 0.18), -0.35, 0.35))
    vertebral = float(np.clip(rng.normal(-0.05, 0.12), -0.3, 0.3))
    for k, tube in enumerate(made):
        right = {"right": 1.0, "left": -1.0}.get(tube.side, 0.0)
        factor[k] *= 1 + right * sinus * (tube.segment in ("TS", "SIGMOID"))
        factor[k] *= 1 + right * vertebral * (tube.segment == "VA")
    return factor


def distance_to(group: list[Tube], points: FloatArray, step_mm: float = 1.0) -> Float64:
    """Distance, mm, of head points (3, N) from the centre lines of the group, to about 0.1 mm.

    Infinite for an empty group.
    """
    if not group:
        return np.full(np.asarray(points).shape[1], np.inf)
    lines = [t.points[:, spaced(t.points, step_mm)] for t in group]
    tree = cKDTree(np.concatenate(lines, axis=1).T)
    return tree.query(np.asarray(points).T, workers=2)[0]
