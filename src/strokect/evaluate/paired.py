"""Several models on the same patients: summaries side by side, and paired tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from strokect.core.errors import ScanError
from strokect.core.types import FloatArray
from strokect.evaluate.agreement import bootstrap_ci
from strokect.evaluate.tables import (
    Score,
    ScoreOptions,
    classes_of,
    estimate_json,
    groups_of,
    summarise,
)

#: True volumes of one study that differ by no more are the same truth, ml.
_SAME_ML = 0.01

Models = Mapping[str, Sequence[Score]]


def common(models: Models) -> dict[str, list[Score]]:
    """The scores of every model in the studies that all of them have, in one order.

    Raises ScanError where there are none, or where the truth or the group of a study differs.
    """
    studies = [{s.case.study for s in scores} for scores in models.values()]
    shared = set.intersection(*studies) if studies else set()
    if not shared:
        raise ScanError(
            f"no study is common to {', '.join(models) or 'nothing'}",
            fix="Evaluate the models on the same data and the same split",
        )
    out = {
        name: sorted(
            (s for s in scores if s.case.study in shared), key=lambda s: (s.case.study, s.region)
        )
        for name, scores in models.items()
    }
    _check_same_truth(out)
    return out


def _check_same_truth(models: Models) -> None:
    known: dict[tuple[str, str], tuple[Score, str]] = {}
    for name, scores in models.items():
        for score in scores:
            first, by = known.setdefault((score.case.study, score.region), (score, name))
            same = abs(first.true_ml - score.true_ml) <= _SAME_ML
            if not same or (first.case.group, first.case.patient) != (
                score.case.group,
                score.case.patient,
            ):
                raise ScanError(
                    f"{by} and {name} were evaluated against different truths "
                    f"({score.region} {first.true_ml:g} and {score.true_ml:g} ml)",
                    score.case.study,
                    "Evaluate both against the same data set",
                )


def compare_models(models: Models, options: ScoreOptions = ScoreOptions()) -> dict[str, Any]:
    """Summaries of every model over the studies common to all, and tests against the first one.

    Returns ``reference`` (the first), ``studies``, ``patients``, ``left_out`` (studies per model
    that others lack), ``groups``, ``classes``, ``models`` (as of ``tables.summarise``), ``tests``.
    Raises ScanError as ``common`` does.
    """
    shared = common(models)
    everyone = [s for scores in shared.values() for s in scores]
    studies = {s.case.study for s in everyone}
    return {
        "reference": next(iter(models)),
        "studies": len(studies),
        "patients": len({s.case.patient for s in everyone}),
        "left_out": {
            name: len({s.case.study for s in scores} - studies) for name, scores in models.items()
        },
        "groups": groups_of(everyone),
        "classes": classes_of(everyone),
        "models": {name: summarise(scores, options) for name, scores in shared.items()},
        "tests": paired_tests(shared, options),
    }


def paired_tests(models: Models, options: ScoreOptions = ScoreOptions()) -> list[dict[str, Any]]:
    """Dice of every further model minus that of the first, over patients with a true lesion.

    Per class: the mean difference (positive: better than the first) with a bootstrap interval
    over patients, and the two-sided Wilcoxon signed-rank test [1]_ of the patients' Dice (the mean
    over the studies of a patient), p corrected by Holm's method [2]_ over all tests of the list.
    p is None without pairs, and 1 where no patient differs.

    .. [1] Wilcoxon F, Biometrics Bull 1945;1:80-83.
    .. [2] Holm S, Scand J Stat 1979;6:65-70.
    """
    reference, *others = models
    tests, values = [], []
    for name in others:
        for region in classes_of([*models[reference], *models[name]]):
            difference = _differences(models[reference], models[name], region)
            found = bootstrap_ci(
                np.mean, difference, None, options.seed, options.n_resamples
            )  # fmt: skip
            values.append(wilcoxon_p(difference))
            tests.append({
                "model": name, "reference": reference, "class": region,
                "difference": estimate_json(found),
                "better": int((difference > 0).sum()), "worse": int((difference < 0).sum()),
                "p": p_json(values[-1]),
            })  # fmt: skip
    for test, corrected in zip(tests, holm(values), strict=True):
        test["p_holm"] = p_json(corrected)
    return tests


def _differences(first: Sequence[Score], second: Sequence[Score], region: str) -> FloatArray:
    """Dice of the second minus that of the first, one per patient with a true lesion."""
    there, here = (
        {s.case.study: s for s in scores if s.region == region and s.affected}
        for scores in (first, second)
    )
    by_patient: dict[str, list[float]] = {}
    for study in sorted(there.keys() & here.keys()):
        change = here[study].dice - there[study].dice
        by_patient.setdefault(here[study].case.patient, []).append(change)
    return np.array([np.mean(changes) for changes in by_patient.values()])


def wilcoxon_p(difference: FloatArray) -> float:
    """Two-sided p of the Wilcoxon signed-rank test; NaN without pairs, 1 where all are equal."""
    if not len(difference):
        return math.nan
    rounded = np.round(difference, 9)  # what differs by rounding alone is a tie
    if not rounded.any():
        return 1.0
    return float(stats.wilcoxon(rounded).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """P values corrected for their number by Holm's step-down method; NaN ones do not count."""
    out = [math.nan] * len(p)
    order = sorted((i for i, x in enumerate(p) if math.isfinite(x)), key=lambda i: p[i])
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[index]))
        out[index] = largest
    return out


def p_json(value: float) -> float | None:
    """For JSON: four digits, None for no p."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
