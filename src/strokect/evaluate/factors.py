"""Does a factor add? One input or one way of training more, everything else the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from strokect.core.errors import SettingsError
from strokect.core.quantities import QUANTITIES
from strokect.core.types import FloatArray
from strokect.evaluate.agreement import Estimate, bootstrap_ci
from strokect.evaluate.paired import Models, common, holm, p_json, wilcoxon_p
from strokect.evaluate.tables import (
    ALL,
    Score,
    ScoreOptions,
    classes_of,
    estimate_json,
    groups_of,
    lesion_classes,
)

#: How the encoders' layers are trained. Every other way is asked against the first.
FROZEN, UNFROZEN, GRADUAL = "Frozen", "Unfrozen", "Gradual"
_WEIGHTS = {
    ("decoder",): FROZEN,
    (): UNFROZEN,
    ("all",): UNFROZEN,
    ("decoder", "half", "all"): GRADUAL,
}

#: What an interval says of a factor.
ADDS, TAKES_AWAY, NOT_SHOWN, TOO_FEW = (
    "adds", "takes away", "no difference shown", "too few patients",
)  # fmt: skip
#: The interval of fewer patients says little more than their range.
_LEAST_PATIENTS = 6


@dataclass(frozen=True)
class SettingRow:
    """What one setting gives its network, and how it is trained: a row of the table of settings.

    name : of the setting, as its model is called in a comparison. maps : keys of
    ``core.quantities``. scores : of ``core.clinical``. weights : Frozen, Unfrozen or Gradual.
    """

    name: str
    maps: tuple[str, ...]
    scores: tuple[str, ...]
    weights: str


def layer_weights(stages: Sequence[str]) -> str:
    """Name of a course of fine-tuning by what its stages train, in order.

    stages : of "decoder", "half", "all"; none is all at once.
    Returns Frozen, Unfrozen or Gradual, the stages themselves for any other course.
    """
    return _WEIGHTS.get(tuple(stages), " then ".join(stages))


def pairs_of(rows: Iterable[SettingRow]) -> dict[str, list[tuple[str, str]]]:
    """Factor -> pairs (without, with) of the names of settings that differ in it alone.

    A factor is a map ("MIP"), a clinical score ("NIHSS") or another way of training than Frozen
    ("Unfrozen", "Gradual"). What a row does not tell (network, loss, length of the training) has
    to be the same in all; that is the caller's to see to.
    """
    out: dict[str, list[tuple[str, str]]] = {}
    for without, having in permutations(rows, 2):
        if (factor := _added(without, having)) is not None:
            out.setdefault(factor, []).append((without.name, having.name))
    return out


def _added(without: SettingRow, having: SettingRow) -> str | None:
    """The one thing that the second row has beyond the first, None where it is not one."""
    maps, scores = set(having.maps) - set(without.maps), set(having.scores) - set(without.scores)
    lost = set(without.maps) - set(having.maps) or set(without.scores) - set(having.scores)
    trained = {having.weights} - {without.weights}
    if lost or len(maps) + len(scores) + len(trained) != 1:
        return None
    if trained:
        return having.weights if without.weights == FROZEN else None
    (key,) = maps | scores
    return QUANTITIES[key].label if key in QUANTITIES else key.upper()


def factor_effects(
    models: Models,
    pairs: Mapping[str, Sequence[tuple[str, str]]],
    options: ScoreOptions = ScoreOptions(),
) -> list[dict[str, Any]]:
    """What each factor does to the Dice, per class and group, all its pairs taken together.

    models : name -> scores of the same patients. pairs : as of ``pairs_of``.
    Per patient with a true lesion the Dice with the factor minus that without, averaged over the
    pairs (and the patient's studies); of these the mean with a bootstrap (BCa) interval over
    patients, the two-sided Wilcoxon signed-rank p, and p by Holm's correction over the whole list.
    ``effect`` is what the interval says: "adds" above 0, "takes away" below, "no difference shown"
    where it holds 0, "too few patients" where there is none. The interval is that of other
    patients, not of other trainings: each setting stands for itself, trained once.
    Classes are penumbra and core (hypoperfusion is both); groups without a lesion are left out.

    Returns a list of ``factor``, ``class``, ``group``, ``pairs`` (how many), ``difference``
    (value, ci95, n), ``better``, ``worse`` (patients), ``p``, ``p_holm``, ``effect``.
    Raises SettingsError for a pair of a model that is not there, ScanError as ``paired.common``.
    """
    named = dict.fromkeys(name for ps in pairs.values() for pair in ps for name in pair)
    if unknown := [name for name in named if name not in models]:
        raise SettingsError(
            f"no scores of {', '.join(unknown)}",
            fix="Evaluate every setting of a pair, or leave the pair out",
        )
    if not named:
        return []
    shared = common({name: models[name] for name in named})
    everyone = [s for scores in shared.values() for s in scores]
    regions = lesion_classes(classes_of(everyone))
    with_lesion = [s for s in everyone if s.affected]
    out, values = [], []
    for factor, chosen in pairs.items():
        for region in regions:
            for group in groups_of(with_lesion):
                found = _differences(shared, chosen, region, group)
                estimate = bootstrap_ci(np.mean, found, None, options.seed, options.n_resamples)
                values.append(wilcoxon_p(found))
                out.append({
                    "factor": factor, "class": region, "group": group, "pairs": len(chosen),
                    "difference": estimate_json(estimate),
                    "better": int((found > 0).sum()), "worse": int((found < 0).sum()),
                    "p": p_json(values[-1]), "effect": _effect(estimate),
                })  # fmt: skip
    for effect, corrected in zip(out, holm(values), strict=True):
        effect["p_holm"] = p_json(corrected)
    return out


def _differences(
    models: Models, pairs: Sequence[tuple[str, str]], region: str, group: str
) -> FloatArray:
    """Dice with minus Dice without, averaged over pairs: one per patient with a true lesion."""
    dice = {
        name: {
            s.case.study: s
            for s in models[name]
            if s.region == region and s.affected and group in (ALL, s.case.group)
        }
        for name in {name for pair in pairs for name in pair}
    }
    by_patient: dict[str, list[float]] = {}
    # A study counts where every setting has it, so that each pair sees the same patients.
    for study in sorted(set.intersection(*(set(d) for d in dice.values()))):
        first: Score = next(iter(dice.values()))[study]
        change = np.mean([dice[b][study].dice - dice[a][study].dice for a, b in pairs])
        by_patient.setdefault(first.case.patient, []).append(float(change))
    return np.array([np.mean(changes) for changes in by_patient.values()])


def _effect(found: Estimate) -> str:
    low, high = found.ci
    if found.n < _LEAST_PATIENTS or not (math.isfinite(low) and math.isfinite(high)):
        return TOO_FEW
    return ADDS if low > 0 else TAKES_AWAY if high < 0 else NOT_SHOWN
