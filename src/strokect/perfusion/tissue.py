"""Tissue rules (data), lesion masks, volumes, trial criteria. Volumes in ml, thresholds in units
of the maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from strokect.core.types import BoolArray, FloatArray, Grid

#: Blood volume above which a voxel is a large vessel, ml/100g (grey matter has 3-5).
VESSEL_CBV = 9.0


@dataclass(frozen=True)
class Condition:
    """A threshold on a map. relative : in units of the mean of unaffected tissue."""

    quantity: str
    sign: Literal["above", "below"]
    value: float
    relative: bool = False

    def __str__(self) -> str:
        sign = ">" if self.sign == "above" else "<"
        return f"{'r' if self.relative else ''}{self.quantity.upper()} {sign} {self.value:g}"


@dataclass(frozen=True)
class TissueRule:
    """How hypoperfused tissue and, inside it, core are told; penumbra is what remains."""

    name: str
    hypoperfusion: Condition
    core: Condition
    source: str


RAPID = TissueRule(
    "rapid",
    Condition("tmax", "above", 6.0),
    Condition("cbf", "below", 0.30, relative=True),
    "Straka 2010, J Magn Reson Imaging 32:1024; Albers 2018, N Engl J Med 378:708",
)
MISTAR = TissueRule(
    "mistar",
    Condition("delay", "above", 3.0),
    Condition("cbf", "below", 0.30, relative=True),
    "Lin 2016, Radiology 279:876",
)
WINTERMARK = TissueRule(
    "wintermark",
    Condition("mtt", "above", 1.45, relative=True),
    Condition("cbv", "below", 2.0),
    "Wintermark 2006, Stroke 37:979",
)


@dataclass(frozen=True)
class TissueOptions:
    """min_island_ml : smaller islands are dropped. reference_tmax_s : unaffected tissue lies below
    it. smooth_mm : width of the in-plane median of the maps before thresholds are applied."""

    min_island_ml: float = 0.5
    reference_tmax_s: float = 4.0
    smooth_mm: float = 3.0


@dataclass(frozen=True, eq=False)
class Tissue:
    """Lesion masks (Z, Y, X), the tissue they were judged in, and reference values by quantity."""

    hypoperfusion: BoolArray
    core: BoolArray
    penumbra: BoolArray
    parenchyma: BoolArray
    reference: dict[str, float]
    reference_ml: float


def reference_values(
    maps: dict[str, FloatArray], tissue: BoolArray, options: TissueOptions
) -> tuple[dict[str, float], BoolArray]:
    """Mean of each map over unaffected tissue (Tmax below the reference), and that tissue."""
    unaffected = tissue & (maps["tmax"] < options.reference_tmax_s) & (maps["cbf"] > 0)
    # With no unaffected tissue the lesion is compared with itself: reference_flags says so.
    judged_by = unaffected if unaffected.any() else tissue
    means = {k: float(v[judged_by].mean(dtype=float)) for k, v in maps.items()}
    return means, unaffected


def segment(
    maps: dict[str, FloatArray],
    solid: BoolArray,
    grid: Grid,
    rule: TissueRule,
    options: TissueOptions,
) -> Tissue:
    """Apply a tissue rule to maps (Z, Y, X), smoothed already.

    solid : brain without CSF; what the CBV map shows to be a large vessel is left out too.
    """
    tissue = solid & (maps["cbv"] < VESSEL_CBV)
    means, unaffected = reference_values(maps, tissue, options)
    hypo = drop_islands(
        tissue & _holds(rule.hypoperfusion, maps, means), grid, options.min_island_ml
    )
    core = drop_islands(hypo & _holds(rule.core, maps, means), grid, options.min_island_ml)
    reference_ml = float(np.count_nonzero(unaffected) * grid.voxel_ml)
    return Tissue(hypo, core, hypo & ~core, tissue, means, reference_ml)


def drop_islands(mask: BoolArray, grid: Grid, min_ml: float) -> BoolArray:
    """Remove face-connected islands smaller than ``min_ml``."""
    label, n = ndimage.label(mask)
    if n == 0:
        return mask
    sizes = np.bincount(label.ravel()) * grid.voxel_ml
    keep = sizes >= min_ml
    keep[0] = False
    return keep[label]


def volumes_ml(tissue: Tissue, tmax: FloatArray, grid: Grid, min_ml: float) -> dict[str, float]:
    """Lesion volumes, and of Tmax above 4, 8 and 10 s in brain tissue."""
    out = {
        name: float(np.count_nonzero(mask) * grid.voxel_ml)
        for name, mask in (
            ("core", tissue.core),
            ("penumbra", tissue.penumbra),
            ("hypoperfusion", tissue.hypoperfusion),
        )
    }
    for limit in (4, 6, 8, 10):
        above = drop_islands(tissue.parenchyma & (tmax > limit), grid, min_ml)
        out[f"tmax_gt_{limit}"] = float(np.count_nonzero(above) * grid.voxel_ml)
    return out


def indices(
    volumes: dict[str, float], tissue: Tissue, tmax: FloatArray, cbv: FloatArray
) -> dict[str, Any]:
    """Mismatch, hypoperfusion intensity ratio and CBV index; None where undefined."""
    core, hypo = volumes["core"], volumes["hypoperfusion"]
    delayed = tissue.parenchyma & (tmax > 6.0)
    reference = tissue.reference["cbv"]
    delayed_ml = volumes["tmax_gt_6"]
    return {
        "mismatch": {"volume_ml": hypo - core, "ratio": hypo / core if core > 0 else None},
        "hir": volumes["tmax_gt_10"] / delayed_ml if delayed_ml > 0 else None,
        "cbv_index": (
            float(cbv[delayed].mean(dtype=float)) / reference
            if delayed_ml > 0 and reference > 0
            else None
        ),
    }


def side_of(mask: BoolArray, brain: BoolArray, grid: Grid) -> str:
    """Side of a lesion: "left", "right", "bilateral" or "none".

    The midline is the middle of the brain's extent in each slice, which holds for a tilted or
    turned head better than x = 0. A lesion with over 80 % on one side lies there.
    """
    if not mask.any():
        return "none"
    left = right = 0
    a = grid.affine
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        y, x = np.nonzero(brain[z])
        if not x.size:
            continue
        # The in-plane left-right coordinate, whatever the order and sign of the axes.
        ras_x = a[0, 0] * x + a[0, 1] * y
        line = _midline(ras_x, a[1, 0] * x + a[1, 1] * y)
        ly, lx = np.nonzero(mask[z])
        lesion_x, lesion_y = a[0, 0] * lx + a[0, 1] * ly, a[1, 0] * lx + a[1, 1] * ly
        on_right = lesion_x > np.polyval(line, lesion_y)
        right += int(on_right.sum())
        left += int((~on_right).sum())
    total = max(left + right, 1)
    if left / total > 0.8:
        return "left"
    return "right" if right / total > 0.8 else "bilateral"


def _midline(x: FloatArray, y: FloatArray) -> FloatArray:
    """Line x = p(y) through the middles of the brain's rows, by a robust straight fit."""
    edges = np.arange(y.min(), y.max() + 1e-6, 4.0)
    if edges.size < 5:
        return np.array([0.0, (x.min() + x.max()) / 2])
    row = np.digitize(y, edges)
    rows = [r for r in np.unique(row) if np.count_nonzero(row == r) > 5]
    if len(rows) < 2:
        return np.array([0.0, (x.min() + x.max()) / 2])
    middle = np.array([(x[row == r].min() + x[row == r].max()) / 2 for r in rows])
    width = np.array([np.ptp(x[row == r]) for r in rows])
    height = np.array([y[row == r].mean() for r in rows])
    return np.polyfit(height, middle, 1, w=width + 1e-3)


@dataclass(frozen=True)
class TrialCriterion:
    """Imaging criterion of a trial on core volume, mismatch ratio and mismatch volume.

    ratio_inclusive : ">=" rather than ">". clinical : also needs age and NIHSS.
    """

    name: str
    max_core_ml: float
    min_ratio: float
    min_mismatch_ml: float
    inclusive: bool
    source: str

    @property
    def detail(self) -> str:
        sign = ">=" if self.inclusive else ">"
        return (
            f"core < {self.max_core_ml:g} ml, ratio {sign} {self.min_ratio:g}, "
            f"mismatch {sign} {self.min_mismatch_ml:g} ml"
        )

    def met(self, core_ml: float, hypoperfusion_ml: float) -> bool:
        mismatch = hypoperfusion_ml - core_ml
        ratio_part = hypoperfusion_ml - self.min_ratio * core_ml  # no division by a core of 0
        if hypoperfusion_ml <= 0 or core_ml >= self.max_core_ml:
            return False
        if self.inclusive:
            return ratio_part >= 0 and mismatch >= self.min_mismatch_ml
        return ratio_part > 0 and mismatch > self.min_mismatch_ml


TRIALS = (
    TrialCriterion("DEFUSE 3", 70.0, 1.8, 15.0, True, "Albers 2018, N Engl J Med 378:708"),
    TrialCriterion("EXTEND", 70.0, 1.2, 10.0, False, "Ma 2019, N Engl J Med 380:1795"),
)


def trial_criteria(core_ml: float, hypoperfusion_ml: float) -> list[dict[str, str]]:
    """Which imaging criteria of trials are met. DAWN cannot be judged without age and NIHSS."""
    out = [
        {
            "name": trial.name,
            "status": "met" if trial.met(core_ml, hypoperfusion_ml) else "not met",
            "detail": trial.detail,
            "source": trial.source,
        }
        for trial in TRIALS
    ]
    out.append(
        {
            "name": "DAWN",
            "status": "needs age, NIHSS",
            "detail": f"clinical-core mismatch; core {core_ml:.0f} ml",
            "source": "Nogueira 2018, N Engl J Med 378:11",
        }
    )
    return out


def _holds(condition: Condition, maps: dict[str, FloatArray], means: dict[str, float]) -> BoolArray:
    limit = condition.value * (means[condition.quantity] if condition.relative else 1.0)
    values = maps[condition.quantity]
    return values > limit if condition.sign == "above" else values < limit
