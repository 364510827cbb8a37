"""Which patients train, which choose the model, which test it. Never by slice: by patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from strokect.core.errors import SettingsError

Parts = dict[str, list[str]]


def split_patients(
    groups: Mapping[str, str], fractions: Sequence[float], seed: int
) -> dict[str, str]:
    """Part ("train", "val" or "test") of every patient, each group shared out alike.

    groups : patient to group. fractions : of the three parts, together 1. The parts of a group are
    as near to their fractions as whole patients allow.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise SettingsError(
            f"parts of {', '.join(f'{f:g}' for f in fractions)}",
            "data.fractions",
            "Give three shares, train, val and test, that make 1 together",
        )
    ends = np.cumsum(fractions)
    part: dict[str, str] = {}
    for n, patient in _shuffled(groups, seed):
        part[patient] = ("train", "val", "test")[int(np.searchsorted(ends[:2], n, side="right"))]
    return part


def k_folds(groups: Mapping[str, str], folds: int, seed: int) -> dict[str, int]:
    """Fold (0 .. folds-1) of every patient, each group shared out alike."""
    if not 2 <= folds <= len(groups):
        raise SettingsError(
            f"{folds} folds of {len(groups)} patients",
            "data.folds",
            "Give 2 or more, and no more than patients",
        )
    return {patient: int(n * folds) for n, patient in _shuffled(groups, seed)}


def parts_of_fold(folds: Mapping[str, int], fold: int) -> dict[str, str]:
    """Part of every patient where ``fold`` tests and the one after it validates."""
    n = max(folds.values()) + 1
    if not 0 <= fold < n:
        raise SettingsError(f"no fold {fold}", "data.fold", f"Give 0 to {n - 1}")
    chooses = (fold + 1) % n
    return {
        p: "test" if f == fold else "val" if f == chooses and n > 2 else "train"
        for p, f in folds.items()
    }


def _shuffled(groups: Mapping[str, str], seed: int) -> list[tuple[float, str]]:
    """Patients with their place in [0, 1) among their group, shuffled by ``seed``."""
    out: list[tuple[float, str]] = []
    for number, group in enumerate(sorted(set(groups.values()))):
        members = sorted(p for p, g in groups.items() if g == group)
        order = np.random.default_rng([seed, number]).permutation(len(members))
        out += [((k + 0.5) / len(members), members[i]) for k, i in enumerate(order)]
    return out
