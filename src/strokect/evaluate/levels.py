"""The same patients with less and less: lesions of several methods at every level of a factor.

A factor is what is taken from the scans (time points, dose, length); its levels have names, such
as "all", "1/2" and "1/4", in the order in which they are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from strokect.evaluate.agreement import Estimate, bootstrap_ci
from strokect.evaluate.paired import Models, common
from strokect.evaluate.tables import ALL, Score, ScoreOptions, classes_of


@dataclass(frozen=True)
class LevelPoint:
    """One method at one level: figures of one class, with bootstrap intervals over patients.

    dice : mean over studies with a true lesion. error_ml : mean absolute error of the volume over
    all studies, ml.
    """

    level: str
    method: str
    region: str
    dice: Estimate
    error_ml: Estimate


def level_points(
    levels: Mapping[str, Models], options: ScoreOptions = ScoreOptions(), group: str = ALL
) -> list[LevelPoint]:
    """Points of every level, method and class, over the studies that all of them have.

    levels : level -> method -> scores; a method may be missing at a level. options : its
    resamples and seed. group : patients that count.
    Raises ScanError where no study is common to all, or truths differ (``paired.common``).
    """
    flat = {
        f"{method} at {level}": (level, method, scores)
        for level, models in levels.items()
        for method, scores in models.items()
    }
    shared = common({name: scores for name, (_, _, scores) in flat.items()})
    out = []
    for name, scores in shared.items():
        level, method, _ = flat[name]
        chosen = [s for s in scores if group in (ALL, s.case.group)]
        for region in classes_of(chosen):
            of_class = [s for s in chosen if s.region == region]
            affected = [s for s in of_class if s.affected]
            dice = _mean(affected, [s.dice for s in affected], options)
            error = _mean(of_class, [s.absolute_error_ml for s in of_class], options)
            out.append(LevelPoint(level, method, region, dice, error))
    return out


def _mean(scores: list[Score], values: list[float], options: ScoreOptions) -> Estimate:
    patients = [s.case.patient for s in scores]
    return bootstrap_ci(np.mean, values, patients, options.seed, options.n_resamples)
