"""The truth of a virtual patient on a scan's grid: maps, masks and fractions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from strokect.core.quantities import QUANTITIES
from strokect.core.types import Grid, Map, Mask, Volume
from strokect.phantom import anatomy, stroke
from strokect.phantom.haemodynamics import BloodCurves
from strokect.phantom.physiology import points_of
from strokect.phantom.raster import fullest
from strokect.phantom.subject import Blood, Subject

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

#: Voxels with at least this share of CSF, or of vessel, count as CSF or vessel, not as tissue.
CSF_SHARE, VESSEL_SHARE, TISSUE_VESSEL_LIMIT = 0.5, 0.3, 0.02
#: Least tissue (grey + white) of a voxel of the tissue masks: the larger part of it.
TISSUE_SHARE = 0.5
#: Share of its flow that leukoaraiotic white matter has lost (white matter of eight patients with
#: leukoaraiosis: 38 %, Markus 2000, J Neurol Neurosurg Psychiatry 69:48).
LEUKOARAIOSIS_LOSS = 0.4
#: Values of the tissue-class image, in order of precedence: later names win.
CLASSES = ("background", "grey", "white", "csf", "penumbra", "core", "artery", "vein", "clot")


@dataclass(frozen=True, eq=False)
class Truth:
    """Maps of the brain. where : flat voxel indices (V,); the rest (V,) float32 there.

    cbf, cbv : of the voxel's grey and white share together. hypodensity_hu : early, >= 0.
    """

    where: npt.NDArray[np.intp]
    cbf: Float32
    cbv: Float32
    mtt: Float32
    delay: Float32
    hypodensity_hu: Float32

    @property
    def tmax(self) -> Float32:
        """Delay + MTT / 2, s."""
        return np.asarray(stroke.true_tmax(self.delay, self.mtt), np.float32)


def truth_on(subject: Subject, grid: Grid, tissue: anatomy.Anatomy, blood: Blood) -> Truth:
    """Maps at every voxel with some tissue. A voxel's flow is that of its grey and white share."""
    where = np.flatnonzero((tissue.grey + tissue.white).ravel() > 0.02)
    points = points_of(grid, where)
    lesion = subject.physiology.lesion_at(points)
    fields = subject.physiology.fields_at(points, lesion)
    room = 1 - blood.total.ravel()[where]
    grey, white = tissue.grey.ravel()[where] * room, tissue.white.ravel()[where] * room
    pale = 1 - np.float32(LEUKOARAIOSIS_LOSS) * np.minimum(
        tissue.leukoaraiosis.ravel()[where] / np.maximum(tissue.white.ravel()[where], 1e-3), 1
    )
    cbf = grey * fields.grey_cbf + white * pale * fields.white_cbf
    cbv = grey * fields.grey_cbv + white * pale * fields.white_cbv
    mtt = 60 * cbv / np.maximum(cbf, 1e-6)
    # White matter is taken to lose less early on, as its flow falls less far (0.6 is assumed).
    loss = subject.physiology.hypodensity_at(lesion, where.size) * (grey + 0.6 * white)
    arrays = (cbf, cbv, mtt, fields.delay_s, loss)
    return Truth(where, *(np.asarray(a, np.float32) for a in arrays))


def masks_of(
    subject: Subject, grid: Grid, tissue: anatomy.Anatomy, blood: Blood, truth: Truth
) -> dict[str, Mask]:
    """All truth masks, by rule from fractions and true maps."""
    brain = tissue.brain > 0.5
    parenchyma = tissue.grey + tissue.white
    solid = brain & (parenchyma > TISSUE_SHARE) & (blood.total < TISSUE_VESSEL_LIMIT)
    cbf, tmax = fill(grid, truth.where, truth.cbf), fill(grid, truth.where, truth.tmax)
    reference = solid & (tmax < 4)
    if subject.side is not None:
        points = points_of(grid, np.arange(solid.size))
        mni_x = subject.head.map.to_mni(points)[0].reshape(grid.shape)
        reference = solid & ((mni_x > 0) if subject.side == "left" else (mni_x < 0))
    found = {
        "brain": brain,
        "tissue": solid,
        "grey": solid & (tissue.grey > 0.5),
        "white": solid & (tissue.white > 0.5),
        "csf": brain & (tissue.csf >= CSF_SHARE) & (blood.total < VESSEL_SHARE),
        "artery": scatter(grid, blood, ("artery", "collateral")) >= VESSEL_SHARE,
        "vein": scatter(grid, blood, ("vein",)) >= VESSEL_SHARE,
        "clot": fullest(blood.index["clot"], blood.share["clot"], grid),
        **stroke.tissue_masks(cbf, tmax, solid, reference, grid.voxel_ml),
    }
    return {name: Mask(data, grid, name) for name, data in found.items()}


def classes_of(masks: dict[str, Mask]) -> npt.NDArray[np.uint8]:
    """Tissue class (Z, Y, X): the place of each voxel's class in CLASSES."""
    out = np.zeros(masks["brain"].data.shape, np.uint8)
    for value, name in enumerate(CLASSES[1:], 1):
        out[masks[name].data] = value
    return out


def fractions_of(grid: Grid, tissue: anatomy.Anatomy, blood: Blood) -> dict[str, Volume]:
    """Share of each voxel, 0 to 1, that is grey, white, CSF, brain, and vessel or clot."""
    found = {
        "grey": tissue.grey,
        "white": tissue.white,
        "csf": tissue.csf,
        "brain": tissue.brain,
        "vessel": blood.total,
    }
    return {name: Volume(data, grid) for name, data in found.items()}


def maps_of(grid: Grid, truth: Truth) -> dict[str, Map]:
    """cbf, cbv, mtt, delay and tmax; 0 outside tissue."""
    values = {name: getattr(truth, name) for name in ("cbf", "cbv", "mtt", "delay", "tmax")}
    return {
        name: Map(fill(grid, truth.where, v), grid, quantity=QUANTITIES[name])
        for name, v in values.items()
    }


def curves_of(time_s: Float64, curves: BloodCurves) -> dict[str, Float64]:
    """True AIF and VOF at the frames, and on the dense axis."""
    return {
        "time_s": time_s.copy(),
        "aif_hu": curves.at(curves.artery, time_s),
        "vof_hu": curves.at(curves.vein, time_s),
        "dense_time_s": curves.time_s,
        "dense_aif_hu": curves.artery,
        "dense_vof_hu": curves.vein,
    }


def scatter(grid: Grid, blood: Blood, kinds: tuple[str, ...]) -> Float32:
    """Share (Z, Y, X) of these kinds of blood."""
    out = np.zeros(int(np.prod(grid.shape)), np.float32)
    for kind in kinds:
        out[blood.index[kind]] += blood.share[kind]
    return out.reshape(grid.shape)


def fill(grid: Grid, where: npt.NDArray[np.intp], values: npt.NDArray[Any]) -> Float32:
    """Values (V,) of flat voxels ``where`` as (Z, Y, X), 0 elsewhere."""
    out = np.zeros(int(np.prod(grid.shape)), np.float32)
    out[where] = values
    return out.reshape(grid.shape)
