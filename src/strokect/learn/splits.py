"""Which patients train, which choose the model, which test it. Never by slice: by patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from strokect.core.errors import SettingsError

PARTS = ("train", "val", "test")


def split_patients(
    groups: Mapping[str, str], fractions: Sequence[float], seed: int
) -> dict[str, str]:
    """Part ("train", "val" or "test") of every patient, each group shared out alike.

    groups : patient to group. fractions : of the three parts, together 1. Each part of a group is
    right within one patient, and what rounding gave to a part in one group it takes in the next.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise SettingsError(
            f"parts of {', '.join(f'{f:g}' for f in fractions)}",
            "data.fractions",
            "Give three shares, train, val and test, that make 1 together",
        )
    part: dict[str, str] = {}
    owed = np.zeros(3)
    for members in _shuffled(groups, seed):
        exact = len(members) * np.asarray(fractions, float)
        sizes = np.floor(exact + 1e-9).astype(int)
        rest = exact - sizes
        # The patients that are left over go where most is missing, but never to a part of share 0.
        order = np.argsort(np.where(rest > 1e-9, -(rest + owed), np.inf), kind="stable")
        sizes[order[: len(members) - sizes.sum()]] += 1
        owed += exact - sizes
        part |= zip(members, np.repeat(PARTS, sizes).tolist(), strict=True)
    return part


def k_folds(groups: Mapping[str, str], folds: int, seed: int) -> dict[str, int]:
    """Fold (0 .. folds-1) of every patient, each group shared out alike."""
    if not 3 <= folds <= len(groups):
        raise SettingsError(
            f"{folds} folds of {len(groups)} patients",
            "data.folds",
            "Give 3 or more (to test, to validate, to train), and no more than patients",
        )
    patients = [p for members in _shuffled(groups, seed) for p in members]
    return {patient: n % folds for n, patient in enumerate(patients)}


def parts_of_fold(folds: Mapping[str, int], fold: int) -> dict[str, str]:
    """Part of every patient where ``fold`` tests and the one after it validates."""
    n = max(folds.values()) + 1
    if not 0 <= fold < n:
        raise SettingsError(f"no fold {fold}", "data.fold", f"Give 0 to {n - 1}")
    chooses = (fold + 1) % n
    return {
        p: "test" if f == fold else "val" if f == chooses else "train" for p, f in folds.items()
    }


def _shuffled(groups: Mapping[str, str], seed: int) -> list[list[str]]:
    """The patients of each group, in an order of ``seed``."""
    out: list[list[str]] = []
    for number, group in enumerate(sorted(set(groups.values()))):
        members = sorted(p for p, g in groups.items() if g == group)
        order = np.random.default_rng([seed, number]).permutation(len(members))
        out.append([members[i] for i in order])
    return out
