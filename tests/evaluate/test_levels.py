"""The same patients at every level of a factor."""

import math

import pytest

from strokect.core.errors import ScanError
from strokect.evaluate.levels import level_points
from strokect.evaluate.tables import Case, Score, ScoreOptions

FAST = ScoreOptions(n_resamples=40)
NAN = math.nan


def score(k, dice, error, true=20.0):
    case = Case(f"s{k}", f"p{k}", "LVO" if true else "WIS")
    return Score(case, "core", dice, NAN, NAN, NAN, NAN, true + error, true, 0.0, 1, 1, 1, 0)


def run(dice, error, patients=range(5)):
    return [score(k, dice + 0.01 * k, error) for k in patients] + [score(99, 0.0, 2.0, 0.0)]


def test_dice_of_lesions_and_error_of_all():
    points = level_points({"all": {"a": run(0.8, -4)}, "1/2": {"a": run(0.5, 7)}}, FAST)
    assert [(p.level, p.method, p.region) for p in points] == [
        ("all", "a", "core"), ("1/2", "a", "core"),
    ]  # fmt: skip
    assert [p.dice.value for p in points] == pytest.approx([0.82, 0.52])
    assert [p.error_ml.value for p in points] == pytest.approx([(5 * 4 + 2) / 6, (5 * 7 + 2) / 6])
    assert (points[0].dice.n, points[0].error_ml.n) == (5, 6)
    low, high = points[0].dice.ci
    assert 0.8 <= low < 0.82 < high <= 0.84


def test_only_patients_of_every_level_and_method_count():
    levels = {
        "all": {"a": run(0.8, 1), "b": run(0.8, 1)},
        "1/2": {"b": run(0.6, 1, range(2, 5))},
    }
    points = level_points(levels, FAST)
    assert [(p.level, p.method, p.dice.n) for p in points] == [
        ("all", "a", 3), ("all", "b", 3), ("1/2", "b", 3),
    ]  # fmt: skip
    assert points[0].dice.value == pytest.approx(0.83)


def test_one_group():
    (point,) = level_points({"all": {"a": run(0.8, -4)}}, FAST, "LVO")
    assert (point.error_ml.n, point.error_ml.value) == (5, pytest.approx(4))


def test_no_patient_in_common():
    with pytest.raises(ScanError, match="a at 1/2"):
        level_points({"all": {"a": run(0.8, 1, [1])[:1]}, "1/2": {"a": run(0.8, 1, [2])[:1]}}, FAST)
