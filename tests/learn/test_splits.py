"""Patients shared out: whole, by group, by seed."""

from collections import Counter

import pytest

from strokect.core.errors import SettingsError
from strokect.learn.splits import k_folds, parts_of_fold, split_patients

GROUPS = {f"p{i:03}": g for i, g in enumerate(["LVO"] * 77 + ["non-LVO"] * 60 + ["WIS"] * 15)}


def _counts(parts, groups):
    return {g: Counter(parts[p] for p in parts if groups[p] == g) for g in set(groups.values())}


@pytest.mark.parametrize("fractions", [(0.6, 0.2, 0.2), (0.7, 0.15, 0.15), (0.5, 0.5, 0.0)])
@pytest.mark.parametrize("seed", range(5))
def test_every_group_is_shared_out_within_one_patient(fractions, seed):
    parts = split_patients(GROUPS, fractions, seed)
    assert parts.keys() == GROUPS.keys()
    for group, found in _counts(parts, GROUPS).items():
        n = sum(g == group for g in GROUPS.values())
        for part, share in zip(("train", "val", "test"), fractions, strict=True):
            assert abs(found[part] - share * n) < 1
            assert share > 0 or not found[part]


def test_small_groups_together_fill_all_parts():
    groups = {f"{g}{i}": g for g in "abc" for i in range(3)}
    found = Counter(split_patients(groups, (0.6, 0.2, 0.2), 0).values())
    assert found == {"train": 5, "val": 2, "test": 2}
    alone = {f"p{i}": f"group{i}" for i in range(10)}
    found = Counter(split_patients(alone, (0.6, 0.2, 0.2), 0).values())
    assert found == {"train": 6, "val": 2, "test": 2}


def test_seed_decides_and_order_does_not():
    backwards = dict(reversed(GROUPS.items()))
    one = split_patients(GROUPS, (0.6, 0.2, 0.2), 1)
    assert one == split_patients(backwards, (0.6, 0.2, 0.2), 1)
    assert one != split_patients(GROUPS, (0.6, 0.2, 0.2), 2)
    assert k_folds(GROUPS, 5, 1) == k_folds(backwards, 5, 1) != k_folds(GROUPS, 5, 2)


@pytest.mark.parametrize("fractions", [(0.6, 0.4), (0.6, 0.3, 0.2), (1.2, -0.1, -0.1)])
def test_shares_that_are_none_are_refused(fractions):
    with pytest.raises(SettingsError, match=r"data\.fractions"):
        split_patients(GROUPS, fractions, 0)


@pytest.mark.parametrize("folds", [3, 5, 10])
def test_folds_are_alike_in_size_and_groups(folds):
    found = k_folds(GROUPS, folds, 0)
    assert found.keys() == GROUPS.keys()
    sizes = Counter(found.values())
    assert set(sizes) == set(range(folds))
    assert max(sizes.values()) - min(sizes.values()) <= 1
    for counts in _counts(found, GROUPS).values():
        each = [counts[f] for f in range(folds)]
        assert max(each) - min(each) <= 1


def test_no_fold_is_empty_where_groups_are_small():
    groups = {f"{g}{i}": g for g in "abc" for i in range(2)}
    assert Counter(k_folds(groups, 3, 0).values()) == {0: 2, 1: 2, 2: 2}
    assert len(set(k_folds(groups, 6, 0).values())) == 6


def test_every_patient_is_tested_once_and_validates_once():
    folds = k_folds(GROUPS, 5, 0)
    parts = [parts_of_fold(folds, fold) for fold in range(5)]
    for patient in GROUPS:
        assert Counter(p[patient] for p in parts) == {"train": 3, "val": 1, "test": 1}


@pytest.mark.parametrize("folds", [0, 1, 2, 153])
def test_folds_that_cannot_be_are_refused(folds):
    with pytest.raises(SettingsError, match=r"data\.folds"):
        k_folds(GROUPS, folds, 0)


@pytest.mark.parametrize("fold", [-1, 5])
def test_a_fold_that_is_not_there_is_refused(fold):
    with pytest.raises(SettingsError, match=r"data\.fold\. Give 0 to 4"):
        parts_of_fold(k_folds(GROUPS, 5, 0), fold)
