"""An occlusion of the middle cerebral artery: where flow falls, and how far.

Hypoperfused tissue is a part of the MCA territory, the core a part of that, each with an
irregular smooth border and a drawn volume. Flow and volume follow the thresholds of CT perfusion
(Murphy 2006, Stroke 37:1771): in the core both fall, in the
penumbra flow falls while volume holds, and both arrive late through collaterals. White matter
keeps a larger share of its (lower) flow than grey matter, as its ischaemic thresholds are lower
(Arakawa 2006, Stroke 37:1211); so the rule "rCBF < 0.30 of mean tissue" separates the two.

True Tmax is defined as ``delay + MTT / 2``: the centre of a symmetric transit, the value that
Bayesian software reports and that box phantoms (Kudo 2013, Radiology 267:201) hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokect.core.types import BoolArray, FloatArray
from strokect.phantom.anatomy import smooth_field
from strokect.phantom.haemodynamics import TissueFields
from strokect.phantom.vessels import Side, Tube, distance_to, mca_margin

Float32 = npt.NDArray[np.float32]

#: Hypoperfusion: true Tmax above this, s. Core: flow below this share of unaffected tissue.
TMAX_THRESHOLD_S = 6.0
CORE_RCBF = 0.30


@dataclass(frozen=True)
class StrokeModel:
    """How far each quantity changes. Factors are relative to healthy tissue of the same class.

    border_mm : half width of the transitions. Delays in s.
    """

    core_ml: float
    hypoperfusion_ml: float
    penumbra_grey_cbf: float = 0.45
    penumbra_white_cbf: float = 0.66
    penumbra_grey_cbv: float = 1.05
    penumbra_white_cbv: float = 1.15
    core_cbf: float = 0.13
    core_cbv: float = 0.42
    penumbra_delay_s: float = 4.6
    penumbra_delay_rise_s: float = 1.6
    core_delay_s: float = 7.5
    border_mm: float = 0.8


def draw_stroke(
    rng: np.random.Generator, core_ml: float | None = None, hypoperfusion_ml: float | None = None
) -> StrokeModel:
    """Draw volumes, core 15-60 ml and hypoperfusion 100-210 ml unless given, and severity."""
    core, extent = float(rng.uniform(15, 60)), float(rng.uniform(100, 210))
    return StrokeModel(
        core_ml=core if core_ml is None else core_ml,
        hypoperfusion_ml=extent if hypoperfusion_ml is None else hypoperfusion_ml,
        penumbra_grey_cbf=float(rng.uniform(0.42, 0.50)),
        core_cbf=float(rng.uniform(0.11, 0.15)),
        core_cbv=float(rng.uniform(0.38, 0.48)),
        penumbra_delay_s=float(rng.uniform(4.5, 4.9)),
        core_delay_s=float(rng.uniform(6.8, 8.2)),
    )


@dataclass(frozen=True, eq=False)
class Lesion:
    """Membership of each voxel, (V,) float32, 0 to 1; depth_mm inside the hypoperfused region."""

    hypoperfused: Float32
    core: Float32
    depth_mm: Float32


def lesion(
    rng: np.random.Generator,
    model: StrokeModel,
    all_tubes: list[Tube],
    side: Side,
    points: FloatArray,
    tissue_ml: FloatArray,
) -> Lesion:
    """Place the lesion. points : (3, V) head mm. tissue_ml : (V,) tissue volume of each voxel.

    Volumes are met by choosing the level of a smooth function; a lesion larger than the territory
    within the scan is cut to it, a core to half of the lesion.
    """
    noise = 4.0 * smooth_field(rng, 22.0, 2)(points) + 1.2 * smooth_field(rng, 9.0, 2)(points)
    territory = mca_margin(all_tubes, side, points) + 0.6 * noise[0]
    own = [t for t in all_tubes if t.territory == "mca" and t.side == side]
    axis = [t for t in own if t.name.startswith(("m2", "lenticulostriate", "medullary"))]
    # Collaterals spare the borders of the territory and what lies far from the fissure.
    inside = 15 * np.tanh(territory / 15) - 0.3 * distance_to(axis, points)
    reachable = float(tissue_ml[territory > 0].sum())
    extent_ml = min(model.hypoperfusion_ml, 0.95 * reachable)
    depth = np.minimum(inside - _level(inside, tissue_ml, extent_ml), territory + 2)

    centre = _core_centre(rng, all_tubes, side)
    stretch = rng.uniform(0.8, 1.25, 3)[:, None]
    near = 0.8 * noise[1] - np.linalg.norm((points - centre[:, None]) / stretch, axis=0)
    room = depth - 3.0  # a rim of penumbra all round
    core_ml = min(model.core_ml, 0.5 * extent_ml)
    core_depth = np.minimum(near - _level(near, tissue_ml * (room > 0), core_ml), room)
    return Lesion(
        _soft(depth, model.border_mm), _soft(core_depth, model.border_mm), depth.astype(np.float32)
    )


def _core_centre(rng: np.random.Generator, all_tubes: list[Tube], side: Side) -> FloatArray:
    """A point (3,) between the lentiform nucleus and the cortex over the Sylvian fissure, mm."""
    m1_end = next(t for t in all_tubes if t.name == "m1" and t.side == side).points[:, -1]
    branches = [t for t in all_tubes if t.name.startswith("m2") and t.side == side]
    cortex = np.concatenate([t.points for t in branches], axis=1)
    target = cortex[:, rng.integers(cortex.shape[1])]
    lentiform = m1_end + np.array([0.0, 0.0, 14.0])
    return lentiform + rng.uniform(0.2, 0.8) * (target - m1_end) + rng.normal(0, 4, 3)


def _level(values: FloatArray, weight: FloatArray, total: float) -> float:
    """Level above which the weights of ``values`` add up to ``total``."""
    order = np.argsort(-values, kind="stable")
    reached = np.cumsum(np.asarray(weight, float)[order])
    last = min(int(np.searchsorted(reached, total)), len(order) - 1)
    return float(values[order[last]])


def _soft(depth_mm: FloatArray, width_mm: float) -> Float32:
    """Smooth step from 0 to 1 over about 4 widths."""
    return (0.5 + 0.5 * np.tanh(depth_mm / width_mm)).astype(np.float32)


def apply(model: StrokeModel, where: Lesion, healthy: TissueFields) -> TissueFields:
    """Perfusion with the stroke. Factors blend in their logarithm, delays linearly."""

    def factor(penumbra: float, core: float) -> FloatArray:
        log = (1 - where.core) * np.log(penumbra) + where.core * np.log(core)
        return np.exp(where.hypoperfused * log)

    deep = np.tanh(np.maximum(where.depth_mm, 0) / 18.0)
    late = model.penumbra_delay_s + model.penumbra_delay_rise_s * deep
    late = late + where.core * (model.core_delay_s - late)
    variation = 0.3 * (healthy.delay_s - 1.0)
    arrays = (
        healthy.grey_cbf * factor(model.penumbra_grey_cbf, model.core_cbf),
        healthy.grey_cbv * factor(model.penumbra_grey_cbv, model.core_cbv),
        healthy.white_cbf * factor(model.penumbra_white_cbf, model.core_cbf),
        healthy.white_cbv * factor(model.penumbra_white_cbv, model.core_cbv),
        healthy.delay_s + where.hypoperfused * (late + variation - healthy.delay_s),
    )
    return TissueFields(*(np.asarray(a, np.float32) for a in arrays))


def true_tmax(delay_s: FloatArray, mtt_s: FloatArray) -> FloatArray:
    """Tmax = delay + MTT / 2, s."""
    return delay_s + mtt_s / 2


def tissue_masks(
    cbf: FloatArray, tmax: FloatArray, tissue: BoolArray, reference: BoolArray
) -> dict[str, BoolArray]:
    """Hypoperfusion, core and penumbra (Z, Y, X) by the "rapid" rule, from the true maps.

    tissue : grey and white matter without CSF and vessels. reference : unaffected tissue.
    Hypoperfusion is the largest part of Tmax > 6 s, core its voxels with CBF < 0.30 of the mean
    of the reference, penumbra the rest.
    """
    labels, count = ndimage.label((tmax > TMAX_THRESHOLD_S) & tissue, np.ones((3, 3, 3)))
    hypoperfusion = np.zeros(cbf.shape, bool)
    if count:
        hypoperfusion = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    normal = float(cbf[reference].mean()) if reference.any() else 0.0
    core = hypoperfusion & (cbf < CORE_RCBF * normal)
    return {"hypoperfusion": hypoperfusion, "core": core, "penumbra": hypoperfusion & ~core}
