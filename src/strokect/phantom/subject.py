"""One virtual person before any scanner: head, vessels, stroke, perfusion and blood."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from strokect.core.types import Grid
from strokect.phantom import anatomy, artefacts, haemodynamics, occlusion, vessels
from strokect.phantom.clinical import COLLATERALS
from strokect.phantom.config import PatientConfig, stream
from strokect.phantom.physiology import Physiology, StrokeDraw, make_physiology, points_of
from strokect.phantom.raster import filled
from strokect.phantom.vessels import Side, Tube, distance_to

Float32 = npt.NDArray[np.float32]

#: HU of unenhanced arterial blood, of blood in dural sinuses.
BLOOD_HU, SINUS_HU = 42.0, 52.0
#: Arrival along the arteries, s/mm: about 120 mm/s.
_DELAY_PER_MM = 0.008
#: What carries contrast, each with a curve of its own; a clot lets some of the artery's through.
KINDS = ("artery", "collateral", "vein", "clot")


@dataclass(frozen=True, eq=False)
class Subject:
    """The person. occluded, side : None without a stroke. clot_hu : of fresh thrombus, unenhanced.

    groups : tubes by what flows in them: "artery", "collateral" (beyond the clot, late), "clot",
    "vein".
    """

    seed: int
    head: anatomy.Head
    variants: vessels.Variants
    tubes: list[Tube]
    groups: dict[str, list[Tube]]
    occluded: occlusion.Occlusion | None
    side: Side | None
    collateral: int | None
    onset_h: float | None
    clot_hu: float
    physiology: Physiology
    bolus: haemodynamics.Bolus
    holder: artefacts.HeadHolder
    clip_mm: tuple[float, float, float] | None

    @property
    def info(self) -> dict[str, Any]:
        """What the dataset card says of the person; JSON-able."""
        about: dict[str, Any] = {
            "variation": dataclasses.asdict(self.head.variation),
            "pathology": self.head.pathology.summary,
            "vessel_variants": dataclasses.asdict(self.variants),
            "side": self.side,
            "collateral": self.collateral,
            "onset_h": self.onset_h,
            "bolus": dataclasses.asdict(self.bolus),
            "brain_volumes_ml": {
                k: round(v, 3) for k, v in self.physiology.volumes_ml.items()
            },
            "holder": dataclasses.asdict(self.holder),
            "clip_mm": self.clip_mm,
            "clot": None,
        }  # fmt: skip
        if self.occluded is not None:
            about["clot"] = {
                "site": self.occluded.site,
                "vessel": self.occluded.clot.name,
                "length_mm": round(self.occluded.length_mm, 2),
                "volume_ml": round(self.occluded.volume_ml, 4),
                "permeability": round(self.occluded.permeability, 3),
                "hu": round(self.clot_hu, 1),
            }
        return about


def make_subject(config: PatientConfig) -> Subject:
    """Draw the person. The scan's grid, noise and timing have no part in it."""
    head = anatomy.make_head(stream(config.seed, "head"), config.age)
    vessel_rng = stream(config.seed, "vessels")
    variants = vessels.draw_variants(vessel_rng)
    tubes = vessels.tubes(head.map, variants, vessel_rng)
    rng = stream(config.seed, "stroke")
    drawn: Side = "left" if rng.random() < 0.5 else "right"
    grade, onset = int(rng.choice(4, p=COLLATERALS)), float(rng.uniform(1.0, 6.0))
    occluded, draw, clot_hu = None, None, float(rng.uniform(62.0, 78.0))
    if config.occlusion != "none":
        side = config.side or drawn
        draw = StrokeDraw(
            grade if config.collateral is None else config.collateral,
            onset if config.onset_h is None else config.onset_h,
            config.core_ml,
            config.hypoperfusion_ml,
        )
        occluded = occlusion.occlude(rng, tubes, variants, config.occlusion, side)
    physiology = make_physiology(
        stream(config.seed, "tissue"), rng, head, tubes, occluded, draw
    )  # fmt: skip
    bolus = config.bolus or haemodynamics.draw_bolus(
        stream(config.seed, "blood"), config.arrival_s, config.peak_hu
    )
    return Subject(
        seed=config.seed,
        head=head,
        variants=variants,
        tubes=tubes,
        groups=occluded.groups if occluded else occlusion.unoccluded(tubes),
        occluded=occluded,
        side=occluded.side if occluded else None,
        collateral=draw.collateral if draw else None,
        onset_h=draw.onset_h if draw else None,
        clot_hu=clot_hu,
        physiology=physiology,
        bolus=bolus,
        holder=_holder(config, head),
        clip_mm=_clip(config, tubes),
    )


def _holder(config: PatientConfig, head: anatomy.Head) -> artefacts.HeadHolder:
    """A head holder behind this head, which a coarse look at it places."""
    coarse = anatomy.scan_grid((24, 64, 64), (8.0, 4.0, 4.0), 0.0)
    hu = anatomy.render(head, coarse, fine_mm=8.0).static_hu
    return artefacts.draw_holder(stream(config.seed, "holder"), hu, coarse)


def _clip(config: PatientConfig, tubes: list[Tube]) -> tuple[float, float, float] | None:
    """Place of an aneurysm clip, mm: beside the anterior communicating or a middle cerebral
    artery, where surgeons put most."""
    if not config.clip:
        return None
    rng = stream(config.seed, "clip")
    places = [t.points[:, -1] for t in tubes if t.segment in ("A1", "M1")]
    at = places[int(rng.integers(len(places)))] + rng.normal(0, 1.5, 3)
    return (float(at[0]), float(at[1]), float(at[2]))


@dataclass(frozen=True, eq=False)
class Blood:
    """Vessels on a grid. share, delay_s : (N,) of voxels ``index`` (N,), per kind of KINDS.

    total : (Z, Y, X) share of all of them together, 0 to 1.
    """

    index: dict[str, npt.NDArray[np.intp]]
    share: dict[str, Float32]
    delay_s: dict[str, Float32]
    total: Float32


def blood_on(subject: Subject, grid: Grid) -> Blood:
    """Shares of artery, collateral-fed artery, vein and clot, and their delays.

    Before the clot an artery enhances as the carotid does; beyond it, it fills late and slowly
    through collaterals, with the same area under the curve.
    """
    parts = {kind: filled(grid, subject.groups[kind]) for kind in KINDS}
    total = np.zeros(int(np.prod(grid.shape)), np.float32)
    for where, part in parts.values():
        total[where] += part
    over = np.maximum(total, np.float32(1.0))
    root = [t for t in subject.tubes if t.segment in ("ICA", "BA", "VA")]
    index, share, delay = {}, {}, {}
    for kind, (where, part) in parts.items():
        index[kind], share[kind] = where, np.asarray(part / over[where], np.float32)
        if kind == "vein" or not where.size:
            away = np.zeros(where.size)
        else:
            away = distance_to(root, points_of(grid, where))
        delay[kind] = (_DELAY_PER_MM * away).astype(np.float32)
    filling = np.minimum(total, np.float32(1.0), out=total)
    return Blood(index, share, delay, filling.reshape(grid.shape))


def baseline_hu(subject: Subject, static_hu: Float32, blood: Blood, loss_hu: Float32) -> Float32:
    """Unenhanced HU (Z, Y, X): tissue less the early hypodensity, with blood and clot drawn in."""
    hu = static_hu - loss_hu
    flat = hu.reshape(-1)
    levels = {"vein": SINUS_HU, "clot": subject.clot_hu}
    for kind, where in blood.index.items():
        flat[where] += blood.share[kind] * (levels.get(kind, BLOOD_HU) - flat[where])
    return hu
