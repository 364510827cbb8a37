"""Agreement against published examples and hand-computed figures."""

import numpy as np
import pytest
from scipy import stats

from strokect.core.errors import SettingsError
from strokect.evaluate.agreement import bland_altman, bootstrap_ci, icc, pearson

#: Shrout and Fleiss 1979, table 2: 6 targets, 4 judges.
SHROUT_FLEISS = [
    [9, 2, 5, 8],
    [6, 1, 3, 2],
    [8, 4, 6, 8],
    [7, 1, 2, 6],
    [10, 5, 6, 9],
    [6, 2, 4, 7],
]
#: Bland and Altman 1986, table: peak flow of 17 people, l/min; large meter twice, mini meter.
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
AGAIN = [490, 397, 512, 401, 470, 611, 415, 431, 638, 429, 420, 633, 275, 492, 165, 372, 421]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


class TestPearson:
    def test_by_hand(self):
        # Deviations (-1, 0, 1) and (-4/3, -1/3, 5/3): r = 3 / sqrt(2 * 42/9).
        assert pearson([1, 2, 3], [1, 2, 4]).value == pytest.approx(3 / np.sqrt(2 * 42 / 9))

    def test_interval_is_fishers(self):
        x, y = np.array(WRIGHT, float), np.array(MINI, float)
        found = pearson(x, y)
        z, half = np.arctanh(found.value), 1.959964 / np.sqrt(len(x) - 3)
        assert found.value == pytest.approx(0.943, abs=5e-4)
        assert found.ci == pytest.approx((np.tanh(z - half), np.tanh(z + half)), abs=1e-6)

    def test_pairs_with_a_gap_are_left_out(self):
        assert pearson([1, 2, 3, np.nan], [1, 2, 4, 5]).n == 3

    @pytest.mark.parametrize("x", [[1, 1, 1], [1, 2], []])
    def test_undefined(self, x):
        assert np.isnan(pearson(x, x).value)

    def test_unequal_lengths_are_refused(self):
        with pytest.raises(SettingsError):
            pearson([1, 2, 3], [1, 2])


class TestIcc:
    def test_shrout_and_fleiss(self):
        found = icc(SHROUT_FLEISS)
        assert found.value == pytest.approx(0.2898, abs=5e-5)
        assert found.ci == pytest.approx((0.0188, 0.7611), abs=5e-4)  # as R's psych and irr print

    def test_agreement_is_absolute(self):
        first = np.arange(10.0)
        assert icc(np.c_[first, first]).value == pytest.approx(1.0)
        # A constant offset of 3: MSR = 2 var, MSE = 0, MSC = 10 * 9 / 2.
        shifted = icc(np.c_[first, first + 3]).value
        msr, msc = 2 * first.var(ddof=1), 45.0
        assert shifted == pytest.approx(msr / (msr + 2 * msc / 10))

    def test_interval_covers_the_truth_as_often_as_it_says(self):
        rng = np.random.default_rng(1)
        truth, hits = 4.0 / (4.0 + 1.0), 0
        for _ in range(300):
            subjects = rng.normal(0, 2, (25, 1))
            low, high = icc(subjects + rng.normal(0, 1, (25, 2))).ci
            hits += low <= truth <= high
        assert 0.91 <= hits / 300 <= 0.985

    @pytest.mark.parametrize("table", [[[1, 1], [1, 1]], [[1, 2]], [[1], [2]], [[1, np.nan]] * 3])
    def test_undefined(self, table):
        assert np.isnan(icc(table).value)


class TestBlandAltman:
    def test_peak_flow_of_1986(self):
        found = bland_altman(MINI, WRIGHT)
        assert found.bias.value == pytest.approx(-2.1, abs=0.05)
        assert found.sd == pytest.approx(38.8, abs=0.05)
        assert found.lower.value == pytest.approx(-2.12 - 1.96 * 38.77, abs=0.1)
        assert found.upper.value == pytest.approx(-2.12 + 1.96 * 38.77, abs=0.1)
        assert found.bias.ci == pytest.approx((-22.0, 17.8), abs=0.1)  # as the paper gives it

    def test_intervals_of_the_limits_widen_with_the_spread_of_sd(self):
        found = bland_altman(MINI, WRIGHT)
        error = found.sd * np.sqrt(1 / 17 + 1.959964**2 / 32)
        half = stats.t.ppf(0.975, 16) * error
        assert found.upper.ci == pytest.approx(
            (found.upper.value - half, found.upper.value + half), abs=1e-4
        )

    def test_repeatability_of_1986(self):
        # Within-subject SD of the large meter: 15.3 l/min; 1.96 sqrt(2) of it.
        found = bland_altman(WRIGHT, AGAIN).repeatability
        assert found / (1.959964 * np.sqrt(2)) == pytest.approx(15.3, abs=0.05)

    def test_repeatability_without_the_bias_is_half_of_the_limits(self):
        found = bland_altman(MINI, WRIGHT)
        half = found.repeatability_sd
        assert half.value == pytest.approx((found.upper.value - found.lower.value) / 2)
        assert half.value == pytest.approx(1.96 * 38.8, abs=0.1)
        shifted = bland_altman(MINI, np.add(WRIGHT, 500))
        assert shifted.repeatability_sd.value == pytest.approx(half.value)
        assert shifted.repeatability > 900  # the bias counts in this one

    def test_interval_of_repeatability_covers_the_truth_as_often_as_it_says(self):
        rng, hits = np.random.default_rng(4), 0
        for _ in range(400):
            first = rng.normal(50, 10, 12)
            low, high = bland_altman(first, first + rng.normal(3, 2, 12)).repeatability_sd.ci
            hits += low <= 1.959964 * 2 <= high
        assert 0.92 <= hits / 400 <= 0.98

    def test_one_pair_says_nothing(self):
        assert np.isnan(bland_altman([1], [2]).bias.value)
        assert np.isnan(bland_altman([1], [2]).repeatability_sd.value)


class TestBootstrap:
    def test_mean_has_the_interval_of_theory(self):
        x = np.random.default_rng(3).normal(10, 2, 200)
        found = bootstrap_ci(np.mean, x, seed=1)
        half = 1.96 * x.std(ddof=1) / np.sqrt(200)
        assert found.value == pytest.approx(x.mean())
        assert found.ci == pytest.approx((x.mean() - half, x.mean() + half), abs=0.05)

    def test_rows_of_one_patient_are_drawn_together(self):
        per_patient = np.random.default_rng(4).normal(0, 1, 40)
        x, patient = np.repeat(per_patient, 25), np.repeat(np.arange(40), 25)
        one = bootstrap_ci(np.mean, per_patient, seed=2).ci
        grouped = bootstrap_ci(np.mean, x, patient, seed=2).ci
        alone = bootstrap_ci(np.mean, x, seed=2).ci
        assert np.ptp(grouped) == pytest.approx(np.ptp(one), rel=0.05)
        assert np.ptp(grouped) > 4 * np.ptp(alone)

    def test_same_seed_same_interval(self):
        x = np.arange(20.0)
        assert bootstrap_ci(np.median, x, seed=5).ci == bootstrap_ci(np.median, x, seed=5).ci
        assert bootstrap_ci(np.mean, x, seed=5).ci != bootstrap_ci(np.mean, x, seed=6).ci

    def test_a_statistic_of_two_columns(self):
        table = np.c_[WRIGHT, MINI]
        found = bootstrap_ci(lambda t: np.corrcoef(t.T)[0, 1], table, seed=1)
        assert 0.6 < found.ci[0] < found.value < found.ci[1] < 1.0

    def test_degenerate(self):
        assert bootstrap_ci(np.mean, [1.0, 1.0, 1.0]).ci == (1.0, 1.0)
        assert np.isnan(bootstrap_ci(np.mean, [1.0, 2.0], ["a", "a"]).ci[0])
        assert np.isnan(bootstrap_ci(np.mean, []).value)
        with pytest.raises(SettingsError):
            bootstrap_ci(np.mean, [1.0, 2.0], ["a"])
