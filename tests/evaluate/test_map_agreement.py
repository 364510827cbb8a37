"""Agreement of maps against figures by hand and distributions of known spread."""

import numpy as np
import pytest
from scipy import stats

from strokect.core.errors import GeometryError, ScanError, SettingsError
from strokect.core.mapset import MapSet
from strokect.core.types import Grid
from strokect.evaluate.map_agreement import (
    COLUMNS,
    DEFINITIONS,
    LEVELS,
    MEASURES,
    cosine_similarity,
    coverage,
    from_row,
    score_map,
    score_map_set,
    to_row,
)
from strokect.evaluate.tables import Case

CASE = Case("sub-1_ses-1", "sub-1", "LVO", "test")
SHAPE = (2, 6, 5)
ALL_IN = np.ones(SHAPE, bool)


def ramp():
    return np.linspace(10.0, 70.0, 60).reshape(SHAPE)


class TestScoreMap:
    def test_a_constant_offset_by_hand(self):
        found = score_map(CASE, "cbf", ramp() + 4, ramp(), ALL_IN)
        assert (found.voxels, found.known, found.true_mean) == (60, 1.0, pytest.approx(40))
        assert (found.bias, found.mae, found.mse) == pytest.approx((4, 4, 16))
        assert found.nmse == pytest.approx(16 / 80**2)  # CBF is shown from 0 to 80
        assert found.psnr_db == pytest.approx(20 * np.log10(80 / 4))
        assert found.pearson == pytest.approx(1.0)
        assert 0.9 < found.ssim < 1
        assert np.isnan(found.coverage).all() and np.isnan(found.mean_sd)

    def test_errors_of_both_signs(self):
        sign = np.where(np.arange(60).reshape(SHAPE) % 3 == 0, -1.0, 1.0)
        found = score_map(CASE, "tmax", ramp() / 10 + 2 * sign, ramp() / 10, ALL_IN)
        assert found.bias == pytest.approx(2 / 3)  # found minus true
        assert (found.mae, found.mse, found.nmse) == pytest.approx((2, 4, 4 / 144))

    def test_only_the_mask_counts(self):
        mask = np.zeros(SHAPE, bool)
        mask[0, 1:4, 1:4] = True
        inside = score_map(CASE, "cbf", ramp() + 1, ramp(), mask)
        spoiled = np.where(mask, ramp() + 1, 1e6)
        assert to_row(score_map(CASE, "cbf", spoiled, ramp(), mask)) == to_row(inside)
        assert inside.voxels == 9

    def test_unknown_voxels_are_told(self):
        found, true = ramp() + 2, ramp()
        found[0, :3] = np.nan  # 15 voxels
        true[1, 5] = np.nan  # 5 voxels
        got = score_map(CASE, "cbf", found, true, ALL_IN)
        assert (got.voxels, got.known) == (55, pytest.approx(40 / 55))
        assert (got.bias, got.mse) == pytest.approx((2, 4)) and np.isfinite(got.ssim)

    def test_equal_maps(self):
        got = score_map(CASE, "cbf", ramp(), ramp(), ALL_IN)
        assert (got.mse, got.ssim, got.cosine) == pytest.approx((0, 1, 1))
        assert np.isnan(got.psnr_db)

    @pytest.mark.parametrize("mask", [np.zeros(SHAPE, bool), ALL_IN], ids=["empty", "all unknown"])
    def test_nothing_to_compare(self, mask):
        got = score_map(CASE, "cbf", np.full(SHAPE, np.nan), ramp(), mask)
        assert np.isnan([got.bias, got.mse, got.ssim, got.psnr_db, got.pearson]).all()
        assert got.known == 0 or got.voxels == 0

    def test_float32_is_not_summed_in_float32(self):
        true = np.full(SHAPE, 1e4, np.float32)
        got = score_map(CASE, "mip", true + np.float32(1), true, ALL_IN)
        assert (got.bias, got.true_mean) == pytest.approx((1, 1e4), rel=1e-12)

    def test_refusals(self):
        with pytest.raises(SettingsError, match="no such map"):
            score_map(CASE, "flow", ramp(), ramp(), ALL_IN)
        with pytest.raises(GeometryError):
            score_map(CASE, "cbf", ramp()[:1], ramp(), ALL_IN)
        with pytest.raises(GeometryError):
            score_map(CASE, "cbf", ramp(), ramp(), ALL_IN, ramp()[0])


def test_cosine_by_hand():
    assert cosine_similarity(np.array([1.0, 2, 2]), np.array([2.0, 0, 1])) == pytest.approx(
        4 / (3 * np.sqrt(5))
    )
    assert np.isnan(cosine_similarity(np.zeros(3), np.ones(3)))


class TestCoverage:
    def test_right_wrong_and_timid_spreads(self):
        rng = np.random.default_rng(2)
        truth = rng.normal(0, 1, 20000)
        zero, one = np.zeros_like(truth), np.ones_like(truth)
        assert coverage(zero, one, truth) == pytest.approx(LEVELS, abs=0.015)
        half = 2 * stats.norm.cdf(0.5 * stats.norm.ppf(0.5 + np.array(LEVELS) / 2)) - 1
        assert coverage(zero, 0.5 * one, truth) == pytest.approx(half, abs=0.015)
        assert coverage(zero, 5 * one, truth, (0.9,))[0] > 0.999

    def test_by_hand(self):
        # z of 90 % is 1.645: the first two lie inside, the third outside.
        got = coverage(np.zeros(3), np.array([1.0, 2.0, 1.0]), np.array([1.6, -3.2, 1.7]), (0.9,))
        assert got == pytest.approx((2 / 3,))

    def test_unknown_spreads_do_not_count(self):
        got = coverage(np.zeros(3), np.array([1.0, np.nan, 1.0]), np.array([0.0, 0.0, 9.0]), (0.9,))
        assert got == (0.5,)
        assert np.isnan(coverage(np.zeros(2), np.full(2, np.nan), np.zeros(2))).all()

    def test_no_spread_covers_only_what_is_exact(self):
        assert coverage(np.zeros(2), np.zeros(2), np.array([0.0, 1e-9]), (0.5,)) == (0.5,)

    def test_refusals(self):
        with pytest.raises(ScanError):
            coverage(np.zeros(2), np.array([1.0, -1.0]), np.zeros(2))
        with pytest.raises(SettingsError):
            coverage(np.zeros(2), np.ones(2), np.zeros(2), (90,))

    def test_in_a_score(self):
        got = score_map(CASE, "cbf", ramp() + 3, ramp(), ALL_IN, np.full(SHAPE, 2.0))
        # |3| / 2 = 1.5 SD: inside from 87 % on.
        assert got.coverage == tuple(float(level > 0.867) for level in LEVELS)
        assert got.mean_sd == 2.0


class TestMapSets:
    GRID = Grid(SHAPE, np.diag([2.0, 2.0, 5.0, 1.0]))

    def sets(self):
        true = MapSet(self.GRID, {"tmax": ramp() / 10, "cbf": ramp(), "ttp": ramp()}, ALL_IN)
        maps = {"cbf": ramp() + 1, "tmax": ramp() / 10, "cbf_sd": np.ones(SHAPE), "mip": ramp()}
        return MapSet(self.GRID, maps), true

    def test_shared_maps_with_their_spread(self):
        cbf, tmax = score_map_set(CASE, *self.sets())
        assert (cbf.quantity, tmax.quantity) == ("cbf", "tmax")
        assert cbf.coverage[3] == 1.0 and np.isnan(tmax.coverage[3])
        assert (cbf.bias, tmax.bias) == pytest.approx((1, 0))

    def test_refusals(self):
        found, true = self.sets()
        with pytest.raises(SettingsError, match="mask"):
            score_map_set(CASE, true, found)
        other = MapSet(Grid(SHAPE, np.diag([3.0, 2.0, 5.0, 1.0])), found.maps)
        with pytest.raises(GeometryError):
            score_map_set(CASE, other, true)
        painted = MapSet(self.GRID, {"cbf": np.zeros((*SHAPE, 3), np.uint8)})
        with pytest.raises(SettingsError, match="colours"):
            score_map_set(CASE, painted, true)


class TestRows:
    def test_there_and_back(self):
        score = score_map(CASE, "cbv", ramp() / 20 + 0.1, ramp() / 20, ALL_IN, np.full(SHAPE, 0.2))
        row = to_row(score)
        assert tuple(row) == COLUMNS and row["map"] == "cbv" and row["group"] == "LVO"
        back = from_row(row)
        assert (back.case, back.quantity, back.voxels) == (CASE, "cbv", 60)
        for name in MEASURES:
            assert getattr(back, name) == pytest.approx(getattr(score, name), rel=1e-5)
        assert back.coverage == pytest.approx(score.coverage, abs=1e-6)
        assert to_row(back) == row

    def test_undefined_is_na(self):
        row = to_row(score_map(CASE, "cbf", ramp(), ramp(), ALL_IN))
        assert row["psnr_db"] == row["coverage_90"] == "n/a" and row["bias"] == "0"
        assert np.isnan(from_row(row).psnr_db)

    @pytest.mark.parametrize("change", [{"mae": None}, {"mae": "x"}, {"voxels": "1.5"}, "drop"])
    def test_broken_lines_are_refused(self, change):
        row = to_row(score_map(CASE, "cbf", ramp(), ramp(), ALL_IN))
        row = {k: v for k, v in row.items() if k != "ssim"} if change == "drop" else row | change
        with pytest.raises(ScanError, match="line of maps"):
            from_row(row)


def test_every_measure_is_defined():
    assert {*MEASURES, "voxels", "coverage_90"} - {"true_mean"} <= DEFINITIONS.keys()
    assert "CBF 80 ml/100g/min" in DEFINITIONS["nmse"]
