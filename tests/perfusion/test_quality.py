from dataclasses import replace

import numpy as np
import pytest

from strokect.core.errors import ScanError
from strokect.core.result import Curves, InputCurve, Motion
from strokect.core.types import CTSeries, Grid
from strokect.perfusion.quality import check_values, curve_flags, motion_flags, scan_flags

TIME = np.arange(60.0)
GRID = Grid((16, 8, 8), np.diag([1.0, 1, 5, 1]))


def bolus(arrival_s, peak_hu=300.0):
    t = np.maximum(TIME - arrival_s, 0)
    return (peak_hu * (t / 4.5) ** 3 * np.exp(3 * (1 - t / 4.5))).astype(np.float32)


def input_curve(curve, **kwargs):
    return InputCurve(curve, curve, np.zeros((1, 3), int), (0.0, 0.0, 0.0), **kwargs)


GOOD = Curves(TIME, input_curve(bolus(8)), input_curve(bolus(15)), bolus(12, 8.0))


def codes(flags):
    return {f.code for f in flags}


def test_a_good_scan_has_no_findings():
    assert codes(curve_flags(GOOD)) == set()
    assert codes(scan_flags(TIME[:, None], GRID, 800.0, 5.0, True)) == set()
    still = Motion(TIME, np.zeros((60, 6)), np.zeros(60))
    assert motion_flags(still) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"aif": input_curve(bolus(30))}, "LATE_BOLUS"),
        ({"vof": input_curve(bolus(50))}, "TRUNCATED_WASHOUT"),
        ({"aif": input_curve(bolus(8, 60.0))}, "WEAK_ENHANCEMENT"),
        ({"tissue_hu": bolus(12, 1.0)}, "WEAK_ENHANCEMENT"),
        ({"aif": input_curve(bolus(8), confidence=0.1)}, "POOR_AIF"),
        ({"aif": input_curve(bolus(8), source="mask")}, "MANUAL_AIF"),
        ({"aif": input_curve(bolus(8), scale=1.3)}, "AIF_SCALED"),
        ({"vof": None}, "NO_VOF"),
        ({"vof": input_curve(bolus(15, 1500.0))}, "AIF_NOT_SCALED"),
    ],
)
def test_each_fault_of_the_curves_has_its_code(change, code):
    assert code in codes(curve_flags(replace(GOOD, **change)))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((TIME[:, None], Grid((4, 8, 8), GRID.affine), 200.0, 5.0, True), "COVERAGE"),
        ((TIME[:, None], GRID, 30.0, 5.0, True), "BRAIN_MASK"),
        ((TIME[:10, None], GRID, 800.0, 5.0, True), "FEW_FRAMES"),
        ((4 * TIME[:, None], GRID, 800.0, 5.0, True), "COARSE_SAMPLING"),
        ((TIME[:, None], GRID, 800.0, 20.0, True), "HIGH_NOISE"),
        ((TIME[:, None], GRID, 800.0, 5.0, False), "IRREGULAR_TIMES"),
    ],
)
def test_each_fault_of_the_scan_has_its_code(arguments, code):
    assert codes(scan_flags(*arguments)) == {code}


@pytest.mark.parametrize(("moved_mm", "level"), [(2.0, "warning"), (8.0, "critical")])
def test_motion_is_graded_and_replaced_frames_are_named(moved_mm, level):
    shift = np.zeros(60)
    shift[7] = moved_mm
    found = motion_flags(Motion(TIME, np.zeros((60, 6)), shift, replaced=(3,)))
    assert {f.code: f.level for f in found} == {"MOTION": level, "FRAMES_REPLACED": "warning"}
    assert "4" in found[1].message, "frames are counted from 1"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.full((3, 16, 8, 8), 40.0), "3 time points"),
        (np.full((9, 16, 8, 8), -1000.0), "every voxel"),
        (1060 + np.random.default_rng(0).normal(0, 5, (9, 16, 8, 8)), "not HU"),
    ],
)
def test_what_can_be_no_scan_is_refused(data, words):
    with pytest.raises(ScanError, match=words):
        check_values(CTSeries(data.astype(np.float32), TIME[: len(data)], GRID))
