"""Paired tests: their sign, their pairs, and how many of them there are."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from strokect.core.errors import ScanError
from strokect.core.types import Grid
from strokect.evaluate.paired import common, compare_models, holm, paired_tests, wilcoxon_p
from strokect.evaluate.tables import Case, ScoreOptions, score_masks

GRID = Grid((2, 10, 10), np.diag([10.0, 10.0, 10.0, 1.0]))
FAST = ScoreOptions(n_resamples=60)


def mask(n):
    out = np.zeros(GRID.shape, bool)
    out.flat[:n] = True
    return out


def scores(found, true=None, region="core", group="LVO"):
    """One score per patient. found, true : voxels; true is 40 where nothing is said."""
    true = [40] * len(found) if true is None else true
    return [
        score_masks(Case(f"sub-{k}_ses-01", f"sub-{k}", group), region, mask(f), mask(t), GRID)
        for k, (f, t) in enumerate(zip(found, true, strict=True))
    ]


GOOD = [38, 36, 39, 35, 37, 34, 33, 32]
BAD = [30, 29, 25, 21, 28, 20, 18, 15]


def test_the_sign_says_which_is_better():
    (up,) = paired_tests({"bad": scores(BAD), "good": scores(GOOD)}, FAST)
    (down,) = paired_tests({"good": scores(GOOD), "bad": scores(BAD)}, FAST)
    assert (up["model"], up["reference"], up["class"]) == ("good", "bad", "core")
    assert up["difference"]["value"] > 0 and up["difference"]["ci95"][0] > 0
    assert down["difference"]["value"] == -up["difference"]["value"]
    assert (up["better"], up["worse"], down["better"], down["worse"]) == (8, 0, 0, 8)
    # All eight change the same way: the exact two-sided p is 2 / 2^8.
    assert up["p"] == pytest.approx(2 / 2**8, rel=1e-3)
    assert up["p_holm"] == up["p"]


def test_the_p_is_that_of_scipy_on_the_dice_of_patients():
    first, second = scores(BAD), scores([36, 20, 39, 24, 37, 12, 33, 32])
    (test,) = paired_tests({"a": first, "b": second}, FAST)
    expected = stats.wilcoxon([s.dice for s in second], [s.dice for s in first]).pvalue
    assert test["p"] == pytest.approx(expected, rel=1e-3)


def test_patients_without_a_lesion_are_no_pairs():
    true = [40] * 6 + [0, 0]
    (test,) = paired_tests({"a": scores(BAD, true), "b": scores(GOOD, true)}, FAST)
    assert test["difference"]["n"] == 6


def test_studies_of_one_patient_are_one_pair():
    first, second = scores(BAD), scores(GOOD)
    same = [
        [dataclasses.replace(s, case=dataclasses.replace(s.case, patient="sub-0")) for s in x]
        for x in (first, second)
    ]
    (test,) = paired_tests({"a": same[0], "b": same[1]}, FAST)
    assert (test["difference"]["n"], test["better"]) == (1, 1)
    expected = np.mean([b.dice - a.dice for a, b in zip(first, second, strict=True)])
    assert test["difference"]["value"] == pytest.approx(expected, abs=1e-4)


def test_equal_models_do_not_differ():
    (test,) = paired_tests({"a": scores(GOOD), "b": scores(GOOD)}, FAST)
    assert (test["p"], test["better"], test["worse"]) == (1.0, 0, 0)
    assert test["difference"]["value"] == 0.0


def test_no_pairs():
    (test,) = paired_tests({"a": scores([1], [0]), "b": scores([2], [0])}, FAST)
    assert (test["p"], test["p_holm"], test["difference"]["value"]) == (None, None, None)
    assert math.isnan(wilcoxon_p(np.empty(0)))


def test_holm():
    # Holm 1979, worked by hand: sorted .01 .02 .03 .04 times 4, 3, 2, 1, never falling.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    corrected = holm([0.01, math.nan, 0.02])
    assert corrected[0] == pytest.approx(0.02) and math.isnan(corrected[1])
    assert holm([]) == []


def test_correction_counts_all_tests():
    found = paired_tests({"a": scores(BAD), "b": scores(GOOD), "c": scores(GOOD)}, FAST)
    assert [t["model"] for t in found] == ["b", "c"]
    assert all(t["p_holm"] == pytest.approx(2 * t["p"], rel=1e-3) for t in found)


class TestCommon:
    def test_only_what_all_have(self):
        models = {"a": scores(GOOD), "b": scores(BAD)[2:]}
        content = compare_models(models, FAST)
        assert (content["studies"], content["patients"]) == (6, 6)
        assert content["left_out"] == {"a": 2, "b": 0}
        found = content["models"]["a"]["all"]["classes"]["core"]["dice"]
        assert found["n"] == 6
        expected = np.mean([s.dice for s in scores(GOOD)[2:]])
        assert found["value"] == pytest.approx(expected, abs=1e-4)
        assert content["reference"] == "a"

    def test_nothing_in_common(self):
        with pytest.raises(ScanError, match="no study is common to a, b"):
            common({"a": scores(GOOD)[:3], "b": scores(BAD)[3:]})

    def test_other_truth_is_refused(self):
        with pytest.raises(ScanError, match=r"different truths .*sub-0_ses-01"):
            common({"a": scores([5]), "b": scores([5], [41])})
        with pytest.raises(ScanError, match="different truths"):
            common({"a": scores([5]), "b": scores([5], group="WIS")})

    def test_a_model_may_lack_a_class(self):
        models = {"a": scores(GOOD) + scores(GOOD, region="penumbra"), "b": scores(BAD)}
        content = compare_models(models, FAST)
        assert content["classes"] == ["penumbra", "core"]
        by_class = {t["class"]: t for t in content["tests"]}
        assert by_class["penumbra"]["p"] is None
        assert by_class["core"]["p"] == by_class["core"]["p_holm"]
