"""A stroke: where flow falls, and how far.

Hypoperfused tissue is a part of the territory beyond the clot, the core a part of that, each with
an irregular smooth border. How large both are, and how late and slow their filling, follows the
collateral grade (Tan 2009, AJNR 30:525: 0 none, 1 up to half, 2 more than half, 3 all of the
territory filled); the core also grows with the time since onset, quickly where collaterals are
poor (fast and slow progressors, Rocha 2017, Stroke 48:2621). Shares and rates are assumed. In the
core flow and volume fall, in the penumbra flow falls while volume holds (in white matter: Murphy
2008, Radiology 247:818), and both arrive late. White matter is taken to keep a larger share of its
(lower) flow than grey matter: its infarction threshold is lower (21 and 35 ml/100g/min, Arakawa
2006, Stroke 37:1211). Then the rule "rCBF < 0.30 of mean tissue" separates core and penumbra.
Around the hypoperfused part the rest of the territory fills a little late (oligaemia).

True Tmax is defined as ``delay + MTT / 2``: the centre of a symmetric transit, as of the box-shaped
residues in the phantom of Kudo 2013 (Radiology 267:201); Bayesian software reports the same (from
memory).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokect.core.types import BoolArray, FloatArray
from strokect.phantom.haemodynamics import TissueFields
from strokect.phantom.template import smooth_field

Float32 = npt.NDArray[np.float32]

#: Hypoperfusion: true Tmax above this, s. Core: flow below this share of unaffected tissue.
TMAX_THRESHOLD_S = 6.0
CORE_RCBF = 0.30
#: Parts of a lesion smaller than this are partial volume, not lesion, ml.
LEAST_PART_ML = 1.0
#: Per collateral grade 0-3: hypoperfused share of the territory (low, high), largest core share of
#: that, time constant of core growth in h, grey flow left in the penumbra, its delay in s.
_GRADES = (
    ((0.72, 0.86), 0.65, 2.0, 0.42, 4.9),
    ((0.60, 0.74), 0.50, 3.5, 0.44, 4.8),
    ((0.48, 0.62), 0.36, 6.0, 0.47, 4.7),
    ((0.36, 0.50), 0.24, 10.0, 0.50, 4.6),
)


@dataclass(frozen=True)
class StrokeModel:
    """How far each quantity changes. Factors are relative to healthy tissue of the same class.

    border_mm : half width of the transitions. Delays in s; oligaemia_s : added in the part of the
    territory that is not hypoperfused. core_hu, penumbra_hu : early hypodensity of grey matter.
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
    oligaemia_s: float = 0.8
    border_mm: float = 0.8
    core_hu: float = 3.0
    penumbra_hu: float = 0.4


def draw_stroke(
    rng: np.random.Generator,
    territory_ml: float,
    collateral: int,
    onset_h: float,
    core_ml: float | None = None,
    hypoperfusion_ml: float | None = None,
) -> StrokeModel:
    """Draw extent and severity. Volumes are of the whole brain, also where the scan ends earlier.

    territory_ml : tissue beyond the clot. collateral : grade 0-3. onset_h : hours since onset; the
    hypodensity of the core grows by 1 HU/h (assumed) to 9 HU. For scale: 1 % more water lowers CT
    numbers by 1.8 HU; in rats 4 HU were lost in 6 h (Dzialowski 2004, J Neuroimaging 14:42).
    """
    (low, high), most, hours, flow, delay = _GRADES[collateral]
    extent = territory_ml * rng.uniform(low, high)
    core = extent * most * (1 - np.exp(-(0.4 + onset_h) / hours)) * rng.uniform(0.85, 1.15)
    extent = extent if hypoperfusion_ml is None else hypoperfusion_ml
    core = core if core_ml is None else core_ml
    return StrokeModel(
        core_ml=float(core),
        hypoperfusion_ml=float(extent),
        penumbra_grey_cbf=float(flow + rng.uniform(-0.02, 0.02)),
        core_cbf=float(rng.uniform(0.11, 0.15)),
        core_cbv=float(rng.uniform(0.38, 0.48)),
        penumbra_delay_s=float(delay + rng.uniform(-0.1, 0.1)),
        core_delay_s=float(rng.uniform(6.8, 8.2)),
        oligaemia_s=float(rng.uniform(0.4, 1.2)),
        core_hu=float(min(9.0, 1.0 + 1.0 * onset_h)),
    )


@dataclass(frozen=True, eq=False)
class Lesion:
    """Where the stroke is, (V,) float32 each.

    depth_mm : inside the hypoperfused region, negative outside. core_mm : inside the core.
    territory_mm : inside the territory beyond the clot.
    """

    depth_mm: Float32
    core_mm: Float32
    territory_mm: Float32


def lesion(
    rng: np.random.Generator,
    model: StrokeModel,
    points: FloatArray,
    tissue_ml: FloatArray,
    territory_mm: FloatArray,
    axis_mm: FloatArray,
    centre: FloatArray,
) -> Lesion:
    """Place the lesion. points : (3, V) head mm. tissue_ml : (V,) tissue volume of each voxel.

    territory_mm : (V,) inside the territory. axis_mm : (V,) distance from its proximal vessels,
    far from which collaterals spare tissue. centre : (3,) mm, about which the core lies.
    Volumes are met by choosing the level of a smooth function; a lesion larger than the territory
    is cut to it, a core to 0.7 of the lesion.
    """
    noise = 4.0 * smooth_field(rng, 22.0, 2)(points) + 1.2 * smooth_field(rng, 9.0, 2)(points)
    territory = territory_mm + 0.6 * noise[0]
    # Collaterals spare the borders of the territory and what lies far from the fissure.
    inside = 15 * np.tanh(territory / 15) - 0.3 * axis_mm
    reachable = float(tissue_ml[territory > 0].sum())
    extent_ml = min(model.hypoperfusion_ml, 0.95 * reachable)
    depth = np.minimum(inside - _level(inside, tissue_ml, extent_ml), territory + 2)

    stretch = rng.uniform(0.8, 1.25, 3)[:, None]
    near = 0.8 * noise[1] - np.linalg.norm((points - centre[:, None]) / stretch, axis=0)
    room = depth - 3.0  # a rim of penumbra all round
    core_ml = min(model.core_ml, 0.7 * extent_ml)
    core_depth = np.minimum(near - _level(near, tissue_ml * (room > 0), core_ml), room)
    return Lesion(*(np.asarray(a, np.float32) for a in (depth, core_depth, territory)))


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
    hypoperfused = _soft(where.depth_mm, model.border_mm)
    core = _soft(where.core_mm, model.border_mm)

    def factor(penumbra: float, infarct: float) -> FloatArray:
        log = (1 - core) * np.log(penumbra) + core * np.log(infarct)
        return np.exp(hypoperfused * log)

    deep = np.tanh(np.maximum(where.depth_mm, 0) / 18.0)
    late = model.penumbra_delay_s + model.penumbra_delay_rise_s * deep
    late = late + core * (model.core_delay_s - late)
    variation = 0.3 * (healthy.delay_s - 1.0)
    around = healthy.delay_s + model.oligaemia_s * np.clip(where.territory_mm / 10, 0, 1)
    arrays = (
        healthy.grey_cbf * factor(model.penumbra_grey_cbf, model.core_cbf),
        healthy.grey_cbv * factor(model.penumbra_grey_cbv, model.core_cbv),
        healthy.white_cbf * factor(model.penumbra_white_cbf, model.core_cbf),
        healthy.white_cbv * factor(model.penumbra_white_cbv, model.core_cbv),
        around + hypoperfused * (late + variation - around),
    )
    return TissueFields(*(np.asarray(a, np.float32) for a in arrays))


def hypodensity(model: StrokeModel, where: Lesion) -> Float32:
    """Early hypodensity of grey matter, (V,) HU >= 0."""
    core = _soft(where.core_mm, 2 * model.border_mm)
    hypoperfused = _soft(where.depth_mm, 2 * model.border_mm)
    hu = hypoperfused * (core * model.core_hu + (1 - core) * model.penumbra_hu)
    return np.asarray(hu, np.float32)


def true_tmax(delay_s: FloatArray, mtt_s: FloatArray) -> FloatArray:
    """Tmax = delay + MTT / 2, s."""
    return delay_s + mtt_s / 2


def tissue_masks(
    cbf: FloatArray, tmax: FloatArray, tissue: BoolArray, reference: BoolArray, voxel_ml: float
) -> dict[str, BoolArray]:
    """Hypoperfusion, core and penumbra (Z, Y, X) by the "rapid" rule, from the true maps.

    tissue : grey and white matter without CSF and vessels. reference : unaffected tissue.
    Hypoperfusion is Tmax > 6 s in parts of at least LEAST_PART_ML, core its voxels with CBF < 0.30
    of the mean of the reference, penumbra the rest.
    """
    labels, count = ndimage.label((tmax > TMAX_THRESHOLD_S) & tissue, np.ones((3, 3, 3)))
    hypoperfusion = np.zeros(cbf.shape, bool)
    if count:
        large = np.bincount(labels.ravel()) * voxel_ml >= LEAST_PART_ML
        large[0] = False
        hypoperfusion = large[labels]
    normal = float(cbf[reference].mean()) if reference.any() else 0.0
    core = hypoperfusion & (cbf < CORE_RCBF * normal)
    return {"hypoperfusion": hypoperfusion, "core": core, "penumbra": hypoperfusion & ~core}
