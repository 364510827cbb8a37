"""How the vessels of people differ: variants of the circle of Willis and of the MCA."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from strokect.core.errors import SettingsError
from strokect.phantom import courses
from strokect.phantom.courses import Line

Side = Literal["left", "right"]
Float64 = npt.NDArray[np.float64]

#: Where M1 divides early, mm from its start, and the vertical gap of the divisions then.
EARLY_M1_MM = 12.0
EARLY_GAP_MM = 1.6
#: Radius of thin arteries (< 1 mm wide in angiography) and of the PCOM that feeds a PCA, mm.
THIN_MM = 0.45
FETAL_PCOM_MM = 1.0


@dataclass(frozen=True)
class Variants:
    """Normal variants; a side listed has the variant.

    fetal_pca : the carotid feeds the PCA through a large PCOM; P1 is thin. hypoplastic_a1,
    absent_pcomm, absent_acomm : as said. early_m1 : M1 divides after 12 mm. superior_m2 and
    inferior_m2 : that division is dominant (else they balance) and takes parietal branches over.
    Raises SettingsError where a PCA or ACA would have no feeder, or both divisions dominate.
    """

    fetal_pca: tuple[Side, ...] = ()
    hypoplastic_a1: tuple[Side, ...] = ()
    absent_acomm: bool = False
    absent_pcomm: tuple[Side, ...] = ()
    early_m1: tuple[Side, ...] = ()
    superior_m2: tuple[Side, ...] = ()
    inferior_m2: tuple[Side, ...] = ()

    def __post_init__(self) -> None:
        clash = {
            "fetal_pca and absent_pcomm": set(self.fetal_pca) & set(self.absent_pcomm),
            "superior_m2 and inferior_m2": set(self.superior_m2) & set(self.inferior_m2),
            "hypoplastic_a1 with absent_acomm": self.absent_acomm and self.hypoplastic_a1,
            "hypoplastic_a1 of both sides": len(set(self.hypoplastic_a1)) > 1,
        }
        for what, found in clash.items():
            if found:
                raise SettingsError(f"vessel variants: {what}", fix="Choose one of them")


def draw_variants(rng: np.random.Generator) -> Variants:
    """Draw variants with the frequency of adults.

    Only both PCOM are missing (< 1 mm) in 28 % (Hindenes 2020, PLoS ONE 15:e0241373, 1,864 adults);
    that one is missing as often is assumed. PCA from the carotid in 13 % of people (Macchi 1996,
    Ital J Anat Embryol 101:115), taken as 7 % of sides; no ACOM in 3 % (the same). Thin A1 in 5 %
    of people (6 of 117, Tanaka 2006, AJNR 27:1770). Divisions of the MCA: superior dominant 36 %,
    inferior 41 %, balanced 23 % of bifurcations (Gibo 1981, J Neurosurg 54:151). Early bifurcation:
    10 % of sides, assumed.
    """
    sides: tuple[Side, Side] = ("left", "right")
    fetal = tuple(s for s in sides if rng.random() < 0.07)
    draw = rng.random()
    gone = sides if draw < 0.28 else ((sides[int(rng.random() < 0.5)],) if draw < 0.56 else ())
    draw, which = rng.random(), sides[int(rng.random() < 0.5)]
    early = tuple(s for s in sides if rng.random() < 0.10)
    dominance = {s: rng.random() for s in sides}
    return Variants(
        fetal_pca=fetal,
        hypoplastic_a1=(which,) if draw < 0.05 else (),
        absent_acomm=bool(draw > 0.97),
        absent_pcomm=tuple(s for s in gone if s not in fetal),
        early_m1=early,
        superior_m2=tuple(s for s in sides if dominance[s] < 0.36),
        inferior_m2=tuple(s for s in sides if dominance[s] > 0.59),
    )


def varied(variants: Variants, side: str) -> list[Line]:
    """Lines of one side (in right-side coordinates) with its variants; parents come first."""
    lines = {line.name: line for line in courses.lines()}

    def change(name: str, **fields: object) -> None:
        lines[name] = replace(lines[name], **fields)  # type: ignore[arg-type]

    if side in variants.fetal_pca:
        change("p1", radius_mm=(THIN_MM,))
        change("pcomm", radius_mm=(FETAL_PCOM_MM,))
        change("p2", parent="pcomm")
        order = list(lines)  # the parent must come first
        order.insert(order.index("p2"), order.pop(order.index("pcomm")))
        lines = {name: lines[name] for name in order}
    if side in variants.hypoplastic_a1:
        change("a1", radius_mm=(THIN_MM,))
    if side in variants.absent_pcomm:
        del lines["pcomm"]
    if variants.absent_acomm:
        del lines["acomm"]
    if side in variants.early_m1:
        m1 = np.array(lines["m1"].points_mm)
        along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(m1, axis=0), axis=1))])
        fork = np.array([np.interp(EARLY_M1_MM, along, c) for c in m1.T])
        late = m1[along > EARLY_M1_MM + 2.0]
        change("m1", points_mm=_nodes([*m1[along < EARLY_M1_MM], fork]))
        for name, up in (("m2_superior", 1.0), ("m2_inferior", -1.0)):
            gap = np.array([0, 0, up * EARLY_GAP_MM])
            rest = lines[name].points_mm[1:]
            change(name, points_mm=_nodes([fork, *(late + gap), *np.array(rest)]))
        change("m3_temporal_anterior", parent="m2_inferior")
    for name, own, other in (
        ("m2_superior", variants.superior_m2, variants.inferior_m2),
        ("m2_inferior", variants.inferior_m2, variants.superior_m2),
    ):
        factor = 1.1 if side in own else 0.88 if side in other else 1.0
        change(name, radius_mm=tuple(r * factor for r in lines[name].radius_mm))
    if side in variants.superior_m2:
        for name in ("m3_parietal", "m3_angular"):
            bridge = ((42.5, -14.0, 14.0),)  # along the insula
            change(name, parent="m2_superior", points_mm=bridge + lines[name].points_mm)
    if side in variants.inferior_m2:
        rest = tuple(p for p in lines["m3_anterior_parietal"].points_mm if p[1] < -12)
        start = ((40.0, -21.0, 12.0),)
        change("m3_anterior_parietal", parent="m2_inferior", points_mm=start + rest)
    return list(lines.values())


def _nodes(points: list[Float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(c) for c in p) for p in points)
