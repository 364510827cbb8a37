"""Effects of factors: made-up scores of a known effect, and the pairs that they are found from."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from strokect.core.errors import ScanError, SettingsError
from strokect.evaluate.factors import (
    ADDS,
    NOT_SHOWN,
    TAKES_AWAY,
    TOO_FEW,
    SettingRow,
    factor_effects,
    layer_weights,
    pairs_of,
)
from strokect.evaluate.tables import Case, Score, ScoreOptions

FAST = ScoreOptions(n_resamples=200)
PMS = ("cbf", "cbv", "ttp", "tmax")
WITH_MIP = (*PMS, "mip")


def twelve():
    return [
        SettingRow(f"{w[0]}{len(maps)}{len(scores)}", maps, scores, w)
        for w in ("Frozen", "Unfrozen", "Gradual")
        for maps in (PMS, WITH_MIP)
        for scores in ((), ("nihss",))
    ]


def scores(dice, groups=None, region="core", true_ml=10.0):
    """One score per patient, of this Dice."""
    groups = groups or ["LVO" if k % 2 else "non-LVO" for k in range(len(dice))]
    return [
        Score(
            Case(f"sub-{k}_ses-01", f"sub-{k}", group), region, d, 1.0, 1.0, d, d,
            true_ml, true_ml, d * true_ml, 1, 1, 1, 0,
        )
        for k, (d, group) in enumerate(zip(dice, groups, strict=True))
    ]  # fmt: skip


def noise(seed, n=16, spread=0.02):
    return np.random.default_rng(seed).normal(0, spread, n)


def of(effects, group="all", region="core"):
    return {e["factor"]: e for e in effects if e["group"] == group and e["class"] == region}


class TestPairs:
    def test_of_the_twelve_settings(self):
        found = pairs_of(twelve())
        assert {k: len(v) for k, v in found.items()} == {
            "MIP": 6, "NIHSS": 6, "Unfrozen": 4, "Gradual": 4,
        }  # fmt: skip
        assert ("F40", "F50") in found["MIP"] and ("F50", "F40") not in found["MIP"]
        assert ("G50", "G51") in found["NIHSS"]
        assert ("F41", "U41") in found["Unfrozen"] and ("F51", "G51") in found["Gradual"]

    def test_two_changes_at_once_are_no_pair(self):
        plain, both = SettingRow("a", PMS, (), "Frozen"), SettingRow("b", WITH_MIP, (), "Gradual")
        swapped = SettingRow("c", (*PMS[:3], "mip"), (), "Frozen")
        assert pairs_of([plain, both]) == pairs_of([plain, swapped]) == {}

    def test_order_of_maps_is_no_difference(self):
        turned = SettingRow("b", WITH_MIP[::-1], (), "Frozen")
        assert pairs_of([turned, SettingRow("a", PMS, (), "Frozen")]) == {"MIP": [("a", "b")]}

    def test_any_map_and_score_is_a_factor(self):
        rows = [
            SettingRow("a", PMS, (), "Frozen"),
            SettingRow("b", (*PMS, "mtt"), (), "Frozen"),
            SettingRow("c", PMS, ("age",), "Frozen"),
        ]
        assert pairs_of(rows) == {"MTT": [("a", "b")], "AGE": [("a", "c")]}

    @pytest.mark.parametrize(
        ("stages", "name"),
        [
            (["decoder"], "Frozen"), (["all"], "Unfrozen"), ([], "Unfrozen"),
            (["decoder", "half", "all"], "Gradual"), (["decoder", "all"], "decoder then all"),
        ],
    )  # fmt: skip
    def test_weights_by_their_stages(self, stages, name):
        assert layer_weights(stages) == name


class TestEffects:
    def test_known_effects_are_found(self):
        base = 0.6 + noise(0, spread=0.1)
        models = {
            "plain": scores(base),
            "mip": scores(base + 0.05 + noise(1)),
            "nihss": scores(base - 0.05 + noise(2)),
            "gradual": scores(base + np.tile([0.02, 0.02, -0.02, -0.02], 4)),
        }
        pairs = {"MIP": [("plain", "mip")], "NIHSS": [("plain", "nihss")],
                 "Gradual": [("plain", "gradual")]}  # fmt: skip
        found = of(factor_effects(models, pairs, FAST))
        assert [e["effect"] for e in found.values()] == [ADDS, TAKES_AWAY, NOT_SHOWN]
        assert found["MIP"]["difference"]["value"] == pytest.approx(0.05, abs=0.02)
        low, high = found["MIP"]["difference"]["ci95"]
        assert 0 < low < 0.05 < high
        assert (found["Gradual"]["better"], found["Gradual"]["worse"]) == (8, 8)
        assert found["MIP"]["p_holm"] >= found["MIP"]["p"]

    def test_pairs_are_averaged_in_each_patient(self):
        models = {
            "a": scores([0.5] * 6), "b": scores([0.7, 0.6, 0.6, 0.8, 0.7, 0.6]),
            "c": scores([0.4] * 6), "d": scores([0.4, 0.5, 0.3, 0.4, 0.2, 0.5]),
        }  # fmt: skip
        (found,) = of(factor_effects(models, {"MIP": [("a", "b"), ("c", "d")]}, FAST)).values()
        changes = [0.1, 0.1, 0.0, 0.15, 0.0, 0.1]
        assert found["difference"]["value"] == pytest.approx(np.mean(changes), abs=1e-4)
        assert (found["difference"]["n"], found["pairs"], found["better"]) == (6, 2, 4)
        expected = stats.wilcoxon(np.round(changes, 9)).pvalue
        assert found["p"] == pytest.approx(expected, rel=1e-3)

    def test_a_group_may_gain_what_another_loses(self):
        base = np.full(16, 0.6)
        change = np.where(np.arange(16) % 2, 0.05, -0.05) + noise(3, spread=0.005)
        effects = factor_effects(
            {"a": scores(base), "b": scores(base + change)}, {"MIP": [("a", "b")]}, FAST
        )
        assert {e["group"]: e["effect"] for e in effects} == {
            "all": NOT_SHOWN, "LVO": ADDS, "non-LVO": TAKES_AWAY,
        }  # fmt: skip
        assert {e["group"]: e["difference"]["n"] for e in effects} == {
            "all": 16, "LVO": 8, "non-LVO": 8,
        }  # fmt: skip

    def test_patients_without_a_lesion_do_not_count(self):
        def model(d):
            free = [dataclasses.replace(s, case=Case("sub-w_ses-01", "sub-w", "WIS"))
                    for s in scores([d], true_ml=0.0)]  # fmt: skip
            return [*scores([d] * 4), *free]

        effects = factor_effects({"a": model(0.5), "b": model(0.6)}, {"MIP": [("a", "b")]}, FAST)
        assert {e["group"] for e in effects} == {"all", "LVO", "non-LVO"}
        assert of(effects)["MIP"]["difference"]["n"] == 4

    def test_studies_of_one_patient_count_once(self):
        def one(values):
            return [dataclasses.replace(s, case=dataclasses.replace(s.case, patient="sub-0"))
                    for s in scores(values, ["LVO"] * len(values))]  # fmt: skip

        models = {"a": one([0.5, 0.5]), "b": one([0.6, 0.8])}
        (found,) = of(factor_effects(models, {"MIP": [("a", "b")]}, FAST)).values()
        assert (found["difference"]["n"], found["effect"]) == (1, TOO_FEW)
        assert found["difference"]["value"] == pytest.approx(0.2)
        assert found["difference"]["ci95"] == [None, None]

    def test_holm_counts_the_whole_list(self):
        rises = scores(0.6 + np.linspace(0.01, 0.08, 8), ["LVO"] * 8)
        flat = scores([0.6] * 8, ["LVO"] * 8)
        models = {"a": flat, "b": rises}
        alone = factor_effects(models, {"MIP": [("a", "b")]}, FAST)
        both = factor_effects(models, {"MIP": [("a", "b")], "NIHSS": [("a", "b")]}, FAST)
        assert [len(alone), len(both)] == [2, 4]  # all, LVO
        assert alone[0]["p_holm"] == pytest.approx(2 * alone[0]["p"], rel=1e-3)
        assert both[0]["p_holm"] == pytest.approx(4 * both[0]["p"], rel=1e-3)

    def test_hypoperfusion_is_not_asked_beside_its_parts(self):
        regions = ("penumbra", "core", "hypoperfusion")
        models = {n: [s for r in regions for s in scores([d] * 4, region=r)]
                  for n, d in (("a", 0.5), ("b", 0.6))}  # fmt: skip
        effects = factor_effects(models, {"MIP": [("a", "b")]}, FAST)
        assert {e["class"] for e in effects} == {"penumbra", "core"}
        whole = {n: scores([0.5] * 4, region="hypoperfusion") for n in "ab"}
        (found,) = {e["class"] for e in factor_effects(whole, {"MIP": [("a", "b")]}, FAST)}
        assert found == "hypoperfusion"

    def test_a_class_that_one_setting_lacks(self):
        both = scores([0.5] * 4) + scores([0.5] * 4, region="penumbra")
        models = {"a": both, "b": scores([0.6] * 4)}
        found = of(factor_effects(models, {"MIP": [("a", "b")]}, FAST), region="penumbra")["MIP"]
        assert (found["difference"]["n"], found["p"], found["effect"]) == (0, None, TOO_FEW)

    def test_same_seed_same_interval(self):
        models = {"a": scores(0.6 + noise(4)), "b": scores(0.62 + noise(5))}
        pairs = {"MIP": [("a", "b")]}
        assert factor_effects(models, pairs, FAST) == factor_effects(models, pairs, FAST)

    def test_no_pairs_no_effects(self):
        assert factor_effects({"a": scores([0.5])}, {}, FAST) == []

    def test_errors(self):
        with pytest.raises(SettingsError, match="no scores of b, c"):
            factor_effects({"a": scores([0.5])}, {"MIP": [("a", "b"), ("a", "c")]}, FAST)
        others = {"a": scores([0.5]), "b": scores([0.5], true_ml=12.0)}
        with pytest.raises(ScanError, match="different truths"):
            factor_effects(others, {"MIP": [("a", "b")]}, FAST)
