"""Maps summed up per group, methods side by side on the same scans."""

import json

import numpy as np
import pytest

from strokect.core.errors import ScanError
from strokect.evaluate.map_agreement import MapScore
from strokect.evaluate.map_summary import common_maps, compare_maps, summarise_maps
from strokect.evaluate.tables import Case, ScoreOptions

FAST = ScoreOptions(n_resamples=60)
GROUPS = ("WIS", "LVO", "LVO", "non-LVO")


def score(k, quantity="cbf", error=1.0, group=None, **more):
    case = Case(f"s{k}", f"p{k}", GROUPS[k % 4] if group is None else group)
    given = {"voxels": 100, "known": 1.0, "true_mean": 40.0 + k} | more
    return MapScore(case, quantity, bias=error, mae=abs(error), mse=error**2, **given)


def test_means_per_group():
    found = summarise_maps([score(k, error=float(k)) for k in range(8)], FAST)
    assert list(found) == ["all", "LVO", "non-LVO", "WIS"]
    assert found["all"]["maps"]["cbf"]["bias"]["value"] == pytest.approx(3.5)
    lvo = found["LVO"]
    assert (lvo["studies"], lvo["patients"]) == (4, 4)
    assert lvo["maps"]["cbf"]["bias"]["value"] == pytest.approx((1 + 2 + 5 + 6) / 4)
    low, high = found["all"]["maps"]["cbf"]["bias"]["ci95"]
    assert 0 <= low < 3.5 < high <= 7
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_undefined_measures_are_left_out_and_counted():
    scores = [score(k, psnr_db=np.nan if k else 20.0) for k in range(4)]
    figure = summarise_maps(scores, FAST)["all"]["maps"]["cbf"]["psnr_db"]
    assert figure == {"value": 20.0, "ci95": [None, None], "n": 1}
    none = summarise_maps(scores, FAST)["all"]["maps"]["cbf"]["coverage_90"]
    assert none == {"value": None, "ci95": [None, None], "n": 0}


def test_scans_of_one_patient_stay_together():
    far = [score(k, error=10.0 * (k % 2)) for k in range(12)]
    two = [
        MapScore(Case(f"s{k}", f"p{k % 2}"), "cbf", 9, 1.0, 40.0, bias=10.0 * (k % 2))
        for k in range(12)
    ]
    spread = [
        np.ptp(summarise_maps(s, FAST)["all"]["maps"]["cbf"]["bias"]["ci95"]) for s in (far, two)
    ]
    assert spread[1] > 1.3 * spread[0]


def test_tiny_figures_keep_their_digits():
    found = summarise_maps([score(k, nmse=1.23456789e-5) for k in range(3)], FAST)
    nmse = found["all"]["maps"]["cbf"]["nmse"]["value"]
    assert nmse == pytest.approx(1.23457e-5, rel=1e-4)


class TestComparison:
    def test_each_map_over_the_scans_of_those_that_make_it(self):
        full = [score(k, q) for k in range(6) for q in ("tmax", "cbf")]
        less = [score(k, "cbf", 3.0) for k in range(2, 9)]
        got = compare_maps({"a": full, "b": less}, FAST)
        maps = {name: m["all"]["maps"] for name, m in got["models"].items()}
        assert maps["a"]["cbf"]["studies"] == maps["b"]["cbf"]["studies"] == 4
        assert maps["a"]["tmax"]["studies"] == 6 and "tmax" not in maps["b"]
        assert got["maps"] == ["cbf", "tmax"] and (got["studies"], got["patients"]) == (6, 6)

    def test_nothing_in_common(self):
        with pytest.raises(ScanError, match="cbf"):
            common_maps({"a": [score(1)], "b": [score(2)]})

    @pytest.mark.parametrize("change", [{"voxels": 99}, {"true_mean": 50.0}])
    def test_other_truths_are_refused(self, change):
        with pytest.raises(ScanError, match="another true"):
            common_maps({"a": [score(1)], "b": [score(1, **change)]})

    def test_masks_without_truth_agree(self):
        nothing = {"voxels": 0, "known": np.nan, "true_mean": np.nan}
        assert common_maps({"a": [score(1, **nothing)], "b": [score(1, **nothing)]})
