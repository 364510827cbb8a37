"""Scores of every empty case, and what their summary makes of them."""

import dataclasses
import math

import numpy as np
import pytest

from strokect.core.errors import GeometryError, ScanError, SettingsError
from strokect.core.types import Grid
from strokect.evaluate.tables import (
    COLUMNS,
    Case,
    ScoreOptions,
    cell,
    classes_of,
    from_row,
    groups_of,
    score_masks,
    summarise,
    to_row,
)

GRID = Grid((3, 10, 10), np.diag([10.0, 10.0, 10.0, 1.0]))  # 1 ml a voxel
FAST = ScoreOptions(n_resamples=60)


def mask(n):
    """The first n voxels."""
    out = np.zeros(GRID.shape, bool)
    out.flat[:n] = True
    return out


def score(found, true, label="0001", group="LVO", region="core", study=None):
    case = Case(study or f"sub-{label}_ses-01", f"sub-{label}", group, "test")
    return score_masks(case, region, found, true, GRID)


def test_a_known_pair():
    found = score(mask(20), mask(30))
    assert found.dice == pytest.approx(2 * 20 / 50)
    assert (found.precision, found.recall) == (1.0, pytest.approx(2 / 3))
    assert (found.found_ml, found.true_ml, found.shared_ml) == pytest.approx((20, 30, 20))
    assert (found.error_ml, found.absolute_error_ml) == pytest.approx((-10, 10))
    assert found.affected and not found.correct_negative
    assert (found.true_lesions, found.detected_lesions, found.false_lesions) == (1, 1, 0)


@pytest.mark.parametrize(
    ("found", "true", "dice", "correct_negative"),
    [(0, 0, 1.0, True), (5, 0, 0.0, False), (0, 5, 0.0, False)],
)
def test_empty_masks(found, true, dice, correct_negative):
    got = score(mask(found), mask(true))
    assert got.dice == dice
    assert got.correct_negative == correct_negative
    assert math.isnan(got.hd95_mm) and math.isnan(got.assd_mm)
    assert math.isnan(got.precision) == (found == 0)
    assert math.isnan(got.recall) == (true == 0)


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(GeometryError):
        score(mask(3)[:1], mask(3))


def test_rows_are_read_as_they_were_written():
    for one in (score(mask(20), mask(30)), score(mask(0), mask(0), group="WIS")):
        row = to_row(one)
        assert tuple(row) == COLUMNS
        back = from_row(row)
        assert to_row(back) == row
        assert (back.case, back.true_lesions) == (one.case, one.true_lesions)
        assert back.dice == pytest.approx(one.dice, abs=1e-5)
    assert (row["hd95_mm"], row["correct_negative"]) == ("n/a", "yes")


@pytest.mark.parametrize(
    "change", [{"dice": "high"}, {"true_lesions": "1.5"}, {"study": None}, {"recall": ""}]
)
def test_broken_rows_are_refused(change):
    row = to_row(score(mask(2), mask(3))) | change
    with pytest.raises(ScanError, match="evaluate"):
        from_row(row)
    with pytest.raises(ScanError):
        from_row({})


def test_cells():
    assert (cell(-0.00001, 2), cell(math.nan, 2), cell(None, 1)) == ("0.00", "n/a", "n/a")


SCORES = [
    score(mask(20), mask(30), "0001", "LVO"),  # Dice 0.8
    score(mask(10), mask(30), "0002", "LVO"),  # Dice 0.5
    score(mask(0), mask(10), "0003", "non-LVO"),  # missed: Dice 0
    score(mask(0), mask(0), "0004", "WIS"),
    score(mask(40), mask(0), "0005", "WIS"),  # a false alarm
]


class TestSummary:
    def all(self):
        return summarise(SCORES, FAST)["all"]["classes"]["core"]

    def test_counts(self):
        found = self.all()
        assert (found["studies"], found["with_lesion"], found["without_lesion"]) == (5, 3, 2)
        assert (found["correct_negatives"], found["missed"]) == (1, 1)

    def test_the_three_dice(self):
        found = self.all()
        assert found["dice"]["value"] == pytest.approx((0.8 + 0.5 + 0) / 3, abs=1e-4)
        assert (found["dice"]["n"], found["dice"]["median"]) == (3, 0.5)
        assert found["dice_all"]["value"] == pytest.approx((0.8 + 0.5 + 0 + 1 + 0) / 5)
        assert found["dice_pooled"]["value"] == pytest.approx(2 * 30 / (70 + 70), abs=1e-4)

    def test_a_false_alarm_lowers_what_it_should(self):
        with_alarm, without = self.all(), summarise(SCORES[:4], FAST)["all"]["classes"]["core"]
        assert with_alarm["dice"] == without["dice"]
        for name in ("dice_all", "dice_pooled"):
            assert with_alarm[name]["value"] < without[name]["value"]

    def test_false_volume(self):
        found = summarise(SCORES, FAST)["WIS"]["classes"]["core"]["false_volume_ml"]
        assert (found["value"], found["median"], found["max"], found["n"]) == (20, 20, 40, 2)
        assert (found["above_limit"], found["limit_ml"]) == (1, 1.0)
        none = summarise(SCORES, FAST)["LVO"]["classes"]["core"]["false_volume_ml"]
        assert (none["value"], none["max"], none["n"], none["above_limit"]) == (None, None, 0, 0)

    def test_undefined_distances_are_left_out(self):
        found = self.all()
        assert (found["hd95_mm"]["n"], found["precision"]["n"], found["recall"]["n"]) == (2, 3, 3)

    def test_volumes(self):
        found = self.all()
        assert found["error_ml"]["value"] == pytest.approx((-10 - 20 - 10 + 0 + 40) / 5)
        assert found["absolute_error_ml"]["value"] == pytest.approx(80 / 5)
        assert found["volume_agreement"]["bias_ml"]["value"] == found["error_ml"]["value"]

    def test_lesions(self):
        lesions = self.all()["lesions"]
        assert (lesions["true"], lesions["detected"], lesions["false"]) == (3, 2, 1)
        assert lesions["detected_share"]["value"] == pytest.approx(2 / 3, abs=1e-4)
        assert lesions["false_per_study"]["value"] == pytest.approx(1 / 5)

    def test_groups(self):
        found = summarise(SCORES, FAST)
        assert list(found) == ["all", "LVO", "non-LVO", "WIS"]
        assert found["LVO"]["classes"]["core"]["dice"]["value"] == pytest.approx(0.65)
        assert found["WIS"]["classes"]["core"]["dice"] == {
            "value": None, "ci95": [None, None], "n": 0, "median": None,
        }  # fmt: skip

    def test_all_empty(self):
        found = summarise(SCORES[3:4], FAST)["all"]["classes"]["core"]
        assert (found["dice"]["value"], found["dice_pooled"]["value"]) == (None, 1.0)
        assert found["dice_all"]["value"] == 1.0

    def test_intervals_hold_the_mean_and_are_the_same_each_time(self):
        first, second = summarise(SCORES, FAST), summarise(SCORES, FAST)
        assert first == second
        low, high = first["all"]["classes"]["core"]["dice_all"]["ci95"]
        assert low < first["all"]["classes"]["core"]["dice_all"]["value"] < high

    def test_studies_of_one_patient_are_drawn_together(self):
        """Two studies of each patient are no more evidence than one."""
        scores = [score(mask(n), mask(30), str(n)) for n in (5, 12, 18, 24, 29)]
        double = [
            dataclasses.replace(s, case=dataclasses.replace(s.case, study=f"{s.case.study}{k}"))
            for s in scores for k in "ab"
        ]  # fmt: skip
        one, two = (summarise(s, FAST)["all"]["classes"]["core"]["dice"] for s in (scores, double))
        assert two["ci95"] == pytest.approx(one["ci95"], abs=2e-4)
        assert (one["n"], two["n"]) == (5, 10)
        assert summarise(double, FAST)["all"]["patients"] == 5


def test_order_of_groups_and_classes():
    cases = [("WIS", "core"), ("B", "penumbra"), ("LVO", "other"), ("n/a", "hypoperfusion")]
    scores = [score(mask(1), mask(1), group=g, region=r) for g, r in cases]
    assert groups_of(scores) == ["all", "LVO", "WIS", "B"]
    assert classes_of(scores) == ["penumbra", "core", "hypoperfusion", "other"]


def test_options_are_checked():
    with pytest.raises(SettingsError):
        ScoreOptions(n_resamples=0)
    with pytest.raises(SettingsError):
        ScoreOptions(false_ml=-1.0)
