"""What age leaves in a head before the stroke: leukoaraiosis, an old infarct, calcifications.

Frequencies are assumed: rough figures for people seen with suspected stroke, not a fit to a
cohort. All places are in MNI coordinates, so that they follow the head's own shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from strokect.core.types import FloatArray
from strokect.phantom.template import Float64, load_template, sample

#: Width of the periventricular band, mm, and level of the deep spots' field (SD), by Fazekas grade
#: 0-3 (Fazekas 1987, AJR 149:351): none, caps or thin lining, smooth halo, irregular extension.
BAND_MM = (-6.0, 1.0, 4.0, 8.5)
DEEP_LEVEL = (9.0, 2.1, 1.35, 0.75)
#: The frequency of each grade shifts by one latent SD in this many years.
YEARS_PER_SD = 13.0
#: Old infarcts: shares of lacunes among them, and the HU of their fluid.
INFARCT_RATE, LACUNE_SHARE = 0.12, 0.45

_LACUNE_SITES = ((24, 2, 4), (18, 6, 10), (12, -18, 8), (25, -8, 24), (24, 16, 22), (5, -26, -30))
#: Cortical sites: territories of MCA branches, PCA, ACA, and the posterior inferior cerebellum.
_CORTEX_SITES = (
    (58, -8, 20),
    (52, -48, 34),
    (48, 34, 14),
    (58, -30, -6),
    (14, -92, 4),
    (8, 46, 36),
    (26, -68, -46),
)
#: Middle of the right cavernous carotid, MNI mm.
_SIPHON = ((14.5, -5.0, -32.0), (14.0, 2.0, -31.5), (13.5, 7.0, -29.5), (12.5, 8.5, -26.0))


@dataclass(frozen=True)
class Spot:
    """A calcification: an ellipsoid. centre_mm, radii_mm : MNI (x, y, z). hu : of its middle."""

    kind: str
    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    hu: float


@dataclass(frozen=True)
class OldInfarct:
    """A healed infarct: fluid with a gliotic rim. Ellipsoid in MNI mm; fluid_hu, HU."""

    kind: Literal["lacune", "cortical"]
    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    fluid_hu: float


@dataclass(frozen=True)
class Pathology:
    """periventricular, deep : Fazekas grades 0-3. white_loss_hu : HU below white matter."""

    periventricular: int = 0
    deep: int = 0
    white_loss_hu: float = 7.0
    infarct: OldInfarct | None = None
    calcifications: tuple[Spot, ...] = ()

    @property
    def summary(self) -> dict[str, Any]:
        """JSON-able: grades, infarct (kind, side, centre), number of calcifications by kind."""
        counts: dict[str, int] = {}
        for spot in self.calcifications:
            counts[spot.kind] = counts.get(spot.kind, 0) + 1
        old = None
        if self.infarct is not None:
            centre = [round(c, 1) for c in self.infarct.centre_mm]
            side = "right" if centre[0] > 0 else "left"
            old = {"kind": self.infarct.kind, "side": side, "centre_mni_mm": centre}
            old["radii_mm"] = [round(r, 1) for r in self.infarct.radii_mm]
        return {
            "fazekas_periventricular": self.periventricular,
            "fazekas_deep": self.deep,
            "old_infarct": old,
            "calcifications": counts,
        }


def draw_pathology(rng: np.random.Generator, age: float) -> Pathology:
    """Draw what a person of this ``age``, years, carries; each part from a stream of its own."""
    white, old, lime = (np.random.default_rng(s) for s in rng.integers(0, 2**63, 3))
    common = (age - 65) / YEARS_PER_SD + white.normal(0, 0.9)
    grades = np.digitize(common + white.normal(0, 0.45, 2), [-0.3, 0.9, 2.0])
    return Pathology(
        periventricular=int(grades[0]),
        deep=int(grades[1]),
        white_loss_hu=float(white.uniform(6, 8)),
        infarct=_draw_infarct(old, age),
        calcifications=tuple(_draw_calcifications(lime, age)),
    )


def _draw_infarct(rng: np.random.Generator, age: float) -> OldInfarct | None:
    present = rng.random() < INFARCT_RATE * np.clip(0.5 + (age - 50) / 40, 0.3, 1.4)
    side = 1.0 if rng.random() < 0.5 else -1.0
    fluid = float(rng.uniform(8, 12))
    if rng.random() < LACUNE_SHARE:
        site = np.array(_LACUNE_SITES[rng.integers(len(_LACUNE_SITES))], float)
        site += rng.normal(0, 1.5, 3)
        radii = rng.uniform(1.8, 4.5) * rng.uniform(0.8, 1.3, 3)
        found = OldInfarct("lacune", triple(site * [side, 1, 1]), triple(radii), fluid)
    else:
        site = np.array(_CORTEX_SITES[rng.integers(len(_CORTEX_SITES))], float)
        site += rng.normal(0, 3, 3)
        radii = rng.uniform(9, 20) * rng.uniform(0.8, 1.2, 3)
        found = OldInfarct("cortical", triple(site * [side, 1, 1]), triple(radii), fluid)
    return found if present else None


def _draw_calcifications(rng: np.random.Generator, age: float) -> list[Spot]:
    """Pineal and choroid plexus in most adults, basal ganglia and falx in some, siphon with age."""
    older = float(np.clip((age - 40) / 40, 0, 1))
    chance = {
        "pineal": 0.7,
        "choroid": 0.45 + 0.35 * older,
        "pallidum": 0.04 + 0.14 * older,
        "falx": 0.08 + 0.12 * older,
        "siphon": 0.15 + 0.65 * older,
    }
    spots: list[Spot] = []
    for kind, rate in chance.items():
        own = np.random.default_rng(rng.integers(0, 2**63))
        if own.random() < rate:
            spots += _spots(own, kind)
    return spots


def _spots(rng: np.random.Generator, kind: str) -> list[Spot]:
    def spot(centre: FloatArray, low: float, high: float, least: float, most: float) -> Spot:
        radii = rng.uniform(low, high) * rng.uniform(0.75, 1.25, 3)
        return Spot(kind, triple(centre), triple(radii), float(rng.uniform(least, most)))

    if kind == "pineal":
        return [spot(rng.normal([0, -29, 1], [0.5, 0.7, 0.7]), 1.5, 3.0, 120, 450)]
    if kind == "choroid":
        at = np.array([[x, -41.0, 8.0] for x in (23, -23)]) + rng.normal(0, 1.2, (2, 3))
        return [spot(c, 1.6, 3.6, 100, 400) for c in at]
    if kind == "pallidum":
        at = np.array([[x, -3.0, 0.0] for x in (18, -18)]) + rng.normal(0, 1, (2, 3))
        return [spot(c, 1.2, 2.5, 100, 250) for c in at]
    if kind == "falx":
        on_falx = [_on_falx(rng) for _ in range(rng.integers(1, 4))]
        return [
            Spot(kind, c, (0.9, *_pair(rng.uniform(1.5, 5, 2))), float(rng.uniform(200, 500)))
            for c in on_falx
        ]
    sides = rng.choice([1.0, -1.0], rng.integers(2, 5))
    return [spot(_on_siphon(rng) * [side, 1, 1], 0.7, 1.5, 200, 500) for side in sides]


def _on_siphon(rng: np.random.Generator) -> Float64:
    """A place (3,) in the wall of the right cavernous carotid (``courses``), MNI mm."""
    along = rng.uniform(0, len(_SIPHON) - 1)
    centre = np.array([np.interp(along, np.arange(len(_SIPHON)), c) for c in np.transpose(_SIPHON)])
    angle = rng.uniform(0, 2 * np.pi)
    return centre + 2.3 * np.array([np.cos(angle), 0.0, np.sin(angle)])


def _on_falx(rng: np.random.Generator) -> tuple[float, float, float]:
    """A place on the falx, 5 to 12 mm below the hull of the brain, MNI mm."""
    angle = rng.uniform(0.3, 2.3)
    centre, way = np.array([0.0, -20.0, 10.0]), np.array([0.0, np.cos(angle), np.sin(angle)])
    reach = np.arange(40.0, 120.0, 0.5)
    ray = centre[:, None] + way[:, None] * reach
    template = load_template()
    distance = sample(template.channels[3:], template.affine, ray)[0]
    return triple(ray[:, int(np.argmax(distance > -rng.uniform(5, 12)))])


def triple(values: FloatArray) -> tuple[float, float, float]:
    """Three plain floats, as a frozen record holds them."""
    a, b, c = (float(v) for v in values)
    return a, b, c


def _pair(values: FloatArray) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def spot_rows(pathology: Pathology) -> Float64:
    """Calcifications (N, 7): centre, radii, HU; for the renderer."""
    rows = [[*s.centre_mm, *s.radii_mm, s.hu] for s in pathology.calcifications]
    return np.array(rows, float).reshape(-1, 7)


def infarct_row(pathology: Pathology) -> Float64:
    """The old infarct (7,): centre, radii, fluid HU; far away where there is none."""
    old = pathology.infarct
    if old is None:
        return np.array([1e6, 1e6, 1e6, 1, 1, 1, 0.0])
    return np.array([*old.centre_mm, *old.radii_mm, old.fluid_hu])
