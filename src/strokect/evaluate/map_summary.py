"""Agreement of maps summed up per group and map, and of several methods side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from strokect.core.errors import ScanError
from strokect.core.quantities import QUANTITIES
from strokect.evaluate.agreement import Estimate, bootstrap_ci
from strokect.evaluate.map_agreement import COVERAGES, LEVELS, MEASURES, MapScore, rounded
from strokect.evaluate.tables import ScoreOptions, by_group, groups_of

Models = Mapping[str, Sequence[MapScore]]


def summarise_maps(
    scores: Sequence[MapScore], options: ScoreOptions = ScoreOptions()
) -> dict[str, dict[str, Any]]:
    """Summary per group and map: the mean of every measure with its interval.

    options : its resamples and seed. The intervals draw patients, so that several scans of one
    stay together; see ``DEFINITIONS``.
    Returns group -> {"studies", "patients", "maps": key -> {"studies", measure -> figure}}.
    """

    def maps(chosen: Sequence[MapScore]) -> dict[str, Any]:
        return {
            key: _map_summary([s for s in chosen if s.quantity == key], options)
            for key in quantities_of(chosen)
        }

    return by_group(scores, "maps", maps)


def _map_summary(scores: Sequence[MapScore], options: ScoreOptions) -> dict[str, Any]:
    table = {name: [getattr(s, name) for s in scores] for name in MEASURES}
    table |= {name: [s.coverage[i] for s in scores] for i, name in enumerate(COVERAGES)}
    patients = np.array([s.case.patient for s in scores])
    out: dict[str, Any] = {"studies": len(scores)}
    for name, column in table.items():
        values = np.array(column, float)
        fit = np.isfinite(values)
        found = bootstrap_ci(
            np.mean, values[fit], patients[fit], options.seed, options.n_resamples
        )  # fmt: skip
        out[name] = _figure(found)
    return out


def _figure(found: Estimate) -> dict[str, Any]:
    """As ``tables.estimate_json``, but with significant digits: some measures are tiny."""
    value, low, high = (
        rounded(x) if math.isfinite(x) else None for x in (found.value, *found.ci)
    )  # fmt: skip
    return {"value": value, "ci95": [low, high], "n": found.n}


def quantities_of(scores: Iterable[MapScore]) -> list[str]:
    """Keys of the maps of the scores in the order of ``core.quantities``."""
    found = {s.quantity for s in scores}
    return [key for key in QUANTITIES if key in found] + sorted(found - QUANTITIES.keys())


def compare_maps(models: Models, options: ScoreOptions = ScoreOptions()) -> dict[str, Any]:
    """Summaries of several methods, each map over the studies of all methods that make it.

    Returns ``studies``, ``patients``, ``groups``, ``maps`` (keys), ``levels`` (nominal, of the
    coverages), ``models`` (name -> as of ``summarise_maps``).
    Raises ScanError where methods that make a map share no study, or were compared with different
    truths.
    """
    shared = common_maps(models)
    everyone = [s for scores in shared.values() for s in scores]
    return {
        "studies": len({s.case.study for s in everyone}),
        "patients": len({s.case.patient for s in everyone}),
        "groups": groups_of(everyone),
        "maps": quantities_of(everyone),
        "levels": list(LEVELS),
        "models": {name: summarise_maps(scores, options) for name, scores in shared.items()},
    }


def common_maps(models: Models) -> dict[str, list[MapScore]]:
    """Scores of every method in the studies that all methods with the same map have, in one order.

    A method that does not make a map at all takes no study from the others. Raises ScanError as
    ``compare_maps`` does.
    """
    studies: dict[str, list[set[str]]] = {}
    truths: dict[tuple[str, str], MapScore] = {}
    for name, scores in models.items():
        for key in quantities_of(scores):
            studies.setdefault(key, []).append({s.case.study for s in scores if s.quantity == key})
        for s in scores:
            first = truths.setdefault((s.case.study, s.quantity), s)
            near = math.isclose(first.true_mean, s.true_mean, rel_tol=1e-4, abs_tol=1e-6)
            if first.voxels != s.voxels or (s.voxels and not near):
                raise ScanError(
                    f"{name} was compared with another true {s.quantity} or in another mask than "
                    f"the methods before it ({s.voxels} and {first.voxels} voxels)",
                    s.case.study, "Compare all methods with the same maps in the same mask",
                )  # fmt: skip
    common = {key: set.intersection(*found) for key, found in studies.items()}
    if lacking := [key for key, found in common.items() if not found]:
        raise ScanError(
            f"no study has {', '.join(lacking)} of all methods",
            fix="Compare the methods on the same scans",
        )
    return {
        name: sorted(
            (s for s in scores if s.case.study in common[s.quantity]),
            key=lambda s: (s.case.study, s.quantity),
        )
        for name, scores in models.items()
    }
