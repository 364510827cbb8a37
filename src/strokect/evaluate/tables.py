"""Scores of one study and class, and their summary per group and class.

Masks may be empty, in patients without ischaemic stroke (WIS) they should be. What each measure
then is, is defined here (``DEFINITIONS``) and written into every result, so that neither a missed
lesion nor a false one can be hidden by leaving it out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, TypeVar

import numpy as np

from strokect.core.errors import GeometryError, ScanError, SettingsError
from strokect.core.types import BoolArray, FloatArray, Grid
from strokect.evaluate.agreement import Estimate, bland_altman, bootstrap_ci, icc, pearson
from strokect.evaluate.lesions import LesionOptions, count_lesions
from strokect.evaluate.overlap import dice, precision, recall, surface_distances

#: Classes in the order of every table; "mask" is a mask of which nothing else is known.
CLASSES = ("penumbra", "core", "hypoperfusion", "mask")
ALL = "all"
#: Groups in the order of every table; others follow by name.
GROUPS = (ALL, "LVO", "non-LVO", "WIS")
MISSING = "n/a"  # as BIDS writes it

DEFINITIONS = {
    "hypoperfusion": "penumbra and core together, found and true",
    "dice of a patient": "1 where found and true are both empty, 0 where exactly one is",
    "dice": "mean over patients with a true lesion",
    "dice_all": "mean over all patients",
    "dice_pooled": "2 x shared volume / (found + true volume), volumes summed over all patients; "
    "1 where nothing is found and nothing is there",
    "hd95_mm, assd_mm": "undefined (n/a) and left out where found or true is empty",
    "precision": "undefined and left out where nothing is found",
    "recall": "undefined and left out where nothing is there",
    "error_ml": "found minus true volume, all patients",
    "false_volume_ml": "found volume in patients without a true lesion of the class",
    "correct_negatives": "patients without a true lesion in whom nothing is found",
    "missed": "patients with a true lesion in whom nothing is found",
    "ci95": "bootstrap (BCa) over patients",
}


@dataclass(frozen=True)
class ScoreOptions:
    """lesions : what a lesion is. false_ml : found volume that counts as a false alarm where
    nothing is there, ml. n_resamples, seed : of the bootstrap.

    Raises SettingsError for a negative volume or no resamples.
    """

    lesions: LesionOptions = field(default_factory=LesionOptions)
    false_ml: float = 1.0
    n_resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_resamples < 1 or not 0 <= self.false_ml < np.inf:
            raise SettingsError(
                f"{self.n_resamples} resamples, false alarms above {self.false_ml} ml",
                fix="Choose at least one resample and a volume of 0 ml or more",
            )


@dataclass(frozen=True)
class Case:
    """One study: its label, that of its patient, and the patient's group and split or "n/a"."""

    study: str
    patient: str
    group: str = MISSING
    split: str = MISSING


@dataclass(frozen=True)
class Score:
    """Agreement of found with true in one study and class; NaN where a measure is undefined.

    shared_ml : volume in both. Lesion counts as in ``lesions.LesionCount``.
    """

    case: Case
    region: str
    dice: float
    hd95_mm: float
    assd_mm: float
    precision: float
    recall: float
    found_ml: float
    true_ml: float
    shared_ml: float
    true_lesions: int
    found_lesions: int
    detected_lesions: int
    false_lesions: int

    @property
    def error_ml(self) -> float:
        return self.found_ml - self.true_ml

    @property
    def absolute_error_ml(self) -> float:
        return abs(self.error_ml)

    @property
    def affected(self) -> bool:
        """Whether there is a true lesion."""
        return self.true_ml > 0

    @property
    def correct_negative(self) -> bool:
        return not self.affected and not self.found_ml > 0


def score_masks(
    case: Case,
    region: str,
    found: BoolArray,
    true: BoolArray,
    grid: Grid,
    options: LesionOptions = LesionOptions(),
) -> Score:
    """Score a found mask against the true one, both (Z, Y, X) on ``grid``.

    Raises GeometryError where a mask does not fit the grid.
    """
    for mask in (found, true):
        if np.shape(mask) != grid.shape:
            raise GeometryError(f"a mask of shape {np.shape(mask)} on a grid {grid.shape}")
    first, second = np.asarray(found) != 0, np.asarray(true) != 0
    surfaces = surface_distances(first, second, grid)
    lesions = count_lesions(first, second, grid, options)
    found_ml, true_ml, shared_ml = (
        float(np.count_nonzero(m) * grid.voxel_ml) for m in (first, second, first & second)
    )
    return Score(
        case, region, dice(first, second), surfaces.hd95_mm, surfaces.assd_mm,
        precision(first, second), recall(first, second), found_ml, true_ml, shared_ml,
        lesions.true, lesions.found, lesions.detected, lesions.false,
    )  # fmt: skip


# Tables


_CASE = [f.name for f in fields(Case)]
_VALUES = [f for f in fields(Score) if f.name not in ("case", "region")]
#: Columns of patients.tsv.
COLUMNS = (
    *_CASE, "class", *(f.name for f in _VALUES), "error_ml", "absolute_error_ml",
    "correct_negative",
)  # fmt: skip


def to_row(score: Score) -> dict[str, str]:
    """One line of patients.tsv."""
    row = {name: getattr(score.case, name) for name in _CASE} | {"class": score.region}
    for name in (*(f.name for f in _VALUES), "error_ml", "absolute_error_ml"):
        value = getattr(score, name)
        row[name] = str(value) if isinstance(value, int) else cell(value, 5)
    return row | {"correct_negative": "yes" if score.correct_negative else "no"}


def from_row(row: Mapping[str, str | None]) -> Score:
    """A score from a line of patients.tsv. Raises ScanError where it is none."""
    try:
        case = Case(*(_text(row[name]) for name in _CASE))
        values = [_value(_text(row[f.name]), f.type == "int") for f in _VALUES]
        return Score(case, _text(row["class"]), *values)
    except (KeyError, ValueError) as error:
        raise ScanError(
            f"a line of patients.tsv cannot be used ({type(error).__name__}: {error})",
            fix="Run `strokect evaluate` again",
        ) from error


def _text(value: str | None) -> str:
    if value is None:
        raise ValueError("too short")
    return value


def _value(text: str, whole: bool) -> Any:
    if whole:
        return int(text)
    return float("nan") if text == MISSING else float(text)


def cell(value: float | None, digits: int) -> str:
    """A number of a table: "n/a" where it is undefined, no "-0.0"."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{round(value, digits) + 0.0:.{digits}f}"


# Summary


def summarise(
    scores: Sequence[Score], options: ScoreOptions = ScoreOptions()
) -> dict[str, dict[str, Any]]:
    """Summary per group and class: n, means, medians, intervals, agreement of volumes.

    Returns group -> {"studies", "patients", "classes": class -> measures}; see ``DEFINITIONS``.
    The intervals draw patients, so that several studies of one stay together.
    """

    def classes(chosen: Sequence[Score]) -> dict[str, Any]:
        return {
            region: _class_summary([s for s in chosen if s.region == region], options)
            for region in classes_of(chosen)
        }

    return by_group(scores, "classes", classes)


class OfCase(Protocol):
    """A score of any kind: it is of a case."""

    @property
    def case(self) -> Case: ...


Kind = TypeVar("Kind", bound=OfCase)


def by_group(
    scores: Sequence[Kind], key: str, summary: Callable[[Sequence[Kind]], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Group -> {"studies", "patients", ``key``: ``summary`` of the group's scores}."""
    out: dict[str, dict[str, Any]] = {}
    for group in groups_of(scores):
        chosen = [s for s in scores if group in (ALL, s.case.group)]
        out[group] = {
            "studies": len({s.case.study for s in chosen}),
            "patients": len({s.case.patient for s in chosen}),
            key: summary(chosen),
        }
    return out


def groups_of(scores: Iterable[OfCase]) -> list[str]:
    """Groups of the scores in the order of tables, "all" first."""
    return _ordered({ALL, *(s.case.group for s in scores)} - {MISSING}, GROUPS)


def lesion_classes(regions: Sequence[str]) -> list[str]:
    """Classes of a table without hypoperfusion, which is two of them, unless it stands alone."""
    return [r for r in regions if r != "hypoperfusion"] or list(regions)


def classes_of(scores: Iterable[Score]) -> list[str]:
    """Classes of the scores in the order of tables."""
    return _ordered({s.region for s in scores}, CLASSES)


def _ordered(found: set[str], known: Sequence[str]) -> list[str]:
    return [k for k in known if k in found] + sorted(found - set(known))


def _class_summary(scores: Sequence[Score], options: ScoreOptions) -> dict[str, Any]:
    affected = [s for s in scores if s.affected]
    free = [s for s in scores if not s.affected]
    return {
        "studies": len(scores),
        "with_lesion": len(affected),
        "without_lesion": len(free),
        "correct_negatives": sum(s.correct_negative for s in free),
        "missed": sum(not s.found_ml > 0 for s in affected),
        "dice": _mean(affected, "dice", options),
        "dice_all": _mean(scores, "dice", options),
        "dice_pooled": _pooled(scores, options),
        **{
            name: _mean(scores, name, options)
            for name in (
                "hd95_mm", "assd_mm", "precision", "recall", "error_ml", "absolute_error_ml",
            )
        },
        "volume_agreement": _volume_agreement(scores),
        "lesions": _lesion_summary(scores, options),
        "false_volume_ml": {
            **_mean(free, "found_ml", options),
            "max": _round(max((s.found_ml for s in free), default=math.nan)),
            "above_limit": sum(s.found_ml > options.false_ml for s in free),
            "limit_ml": options.false_ml,
        },
    }  # fmt: skip


def _mean(scores: Sequence[Score], name: str, options: ScoreOptions) -> dict[str, Any]:
    """Mean with its interval, median and n of a measure where it is defined."""
    defined = [s for s in scores if math.isfinite(getattr(s, name))]
    values = np.array([getattr(s, name) for s in defined], float)
    found = _bootstrap(np.mean, values, defined, options)
    median = float(np.median(values)) if len(values) else math.nan
    return estimate_json(found) | {"median": _round(median)}


def _pooled(scores: Sequence[Score], options: ScoreOptions) -> dict[str, Any]:
    """Dice of all voxels of all studies together, weighted by volume."""
    volumes = np.array([[s.shared_ml, s.found_ml + s.true_ml] for s in scores]).reshape(-1, 2)

    def of(rows: FloatArray) -> float:
        shared, both = rows.sum(axis=0)
        return float(2 * shared / both) if both > 0 else 1.0

    return estimate_json(_bootstrap(of, volumes, scores, options))


def _lesion_summary(scores: Sequence[Score], options: ScoreOptions) -> dict[str, Any]:
    names = ("true_lesions", "found_lesions", "detected_lesions", "false_lesions")
    true, found, detected, false = (sum(getattr(s, n) for s in scores) for n in names)
    with_some = [s for s in scores if s.true_lesions]
    counts = np.array([[s.detected_lesions, s.true_lesions] for s in with_some]).reshape(-1, 2)

    def share(rows: FloatArray) -> float:
        return float(rows[:, 0].sum() / rows[:, 1].sum())

    return {
        "true": true,
        "found": found,
        "detected": detected,
        "false": false,
        "detected_share": estimate_json(_bootstrap(share, counts, with_some, options)),
        "false_per_study": _mean(scores, "false_lesions", options),
    }


def _volume_agreement(scores: Sequence[Score]) -> dict[str, Any]:
    true, found = (np.array([getattr(s, n) for s in scores]) for n in ("true_ml", "found_ml"))
    limits = bland_altman(true, found)
    return {
        "pearson": estimate_json(pearson(true, found)),
        "icc_2_1": estimate_json(icc(np.column_stack([true, found]))),
        "bias_ml": estimate_json(limits.bias),
        "lower_limit_ml": estimate_json(limits.lower),
        "upper_limit_ml": estimate_json(limits.upper),
    }


def _bootstrap(
    statistic: Any, values: FloatArray, scores: Sequence[Score], options: ScoreOptions
) -> Estimate:
    patients = [s.case.patient for s in scores]
    return bootstrap_ci(statistic, values, patients, options.seed, options.n_resamples)


def estimate_json(found: Estimate) -> dict[str, Any]:
    """A figure with its interval as JSON; undefined ones are None."""
    return {"value": _round(found.value), "ci95": [_round(x) for x in found.ci], "n": found.n}


def _round(value: float) -> float | None:
    """Four decimals: the last digits of a sum are not the same on every machine."""
    return round(value, 4) + 0.0 if math.isfinite(value) else None


def options_json(options: ScoreOptions) -> dict[str, Any]:
    """The options as they are written into results."""
    return dataclasses.asdict(options)
