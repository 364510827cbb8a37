"""The table of settings: its rows, ticks, figures and best values; the factors in words."""

import dataclasses
import re

import numpy as np
import pytest

import strokect
from strokect.evaluate.factors import SettingRow, factor_effects, pairs_of
from strokect.evaluate.paired import compare_models
from strokect.evaluate.tables import Case, Score, ScoreOptions
from strokect.report.settings_table import (
    dice_deviations,
    factor_sentences,
    factors_markdown,
    settings_markdown,
    settings_tsv,
)

FAST = ScoreOptions(n_resamples=60)
PMS = ("cbf", "cbv", "ttp", "tmax")
ROWS = [
    SettingRow("Baseline", PMS, (), "Frozen"),
    SettingRow("Mdl_F_PmMN", (*PMS, "mip"), ("nihss",), "Frozen"),
    SettingRow("Mdl_G_Pm", PMS, (), "Gradual"),
]
GROUPS = ("LVO", "LVO", "LVO", "non-LVO", "non-LVO", "WIS")


def model(dice, regions=("penumbra", "core", "hypoperfusion"), groups=GROUPS):
    """Scores of this Dice, a little less from patient to patient; nothing there in WIS."""
    out = []
    for region in regions:
        for k, group in enumerate(groups):
            true, d = (0.0, 1.0) if group == "WIS" else (10.0 + 5 * k, dice - 0.02 * k)
            found = true
            out.append(Score(Case(f"sub-{k}_ses-01", f"sub-{k}", group), region, d, 1.0, 1.0,
                             d, d, found, true, d * true, 1, 1, 1, 0))  # fmt: skip
    return out


def models():
    # As found in a comparison: the rules first, the settings in another order than in the table.
    return {"rules": model(0.5), "Mdl_G_Pm": model(0.8), "Baseline": model(0.7),
            "Mdl_F_PmMN": model(0.75)}  # fmt: skip


def table(text):
    """Head and rows of the Markdown table, as cells."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    return cells[0], cells[2:]


@pytest.fixture
def content():
    return compare_models(models(), FAST)


def test_rows_stand_in_the_order_of_the_settings_with_their_ticks(content):
    head, rows = table(settings_markdown(content, ROWS))
    assert head[:5] == ["Setting", "PMs", "MIP", "NIHSS", "Layer weights"]
    assert [r[:5] for r in rows] == [
        ["Baseline", "✓", "", "", "Frozen"],
        ["Mdl_F_PmMN", "✓", "✓", "✓", "Frozen"],
        ["Mdl_G_Pm", "✓", "", "", "Gradual"],
        ["rules", "–", "–", "–", "–"],
    ]


def test_columns_are_groups_with_a_lesion_by_penumbra_and_core(content):
    head, _ = table(settings_markdown(content, ROWS))
    assert head[5:] == [
        f"{m}, {g} {r}" for m in ("F1", "Dice") for g in ("LVO", "non-LVO")
        for r in ("penumbra", "core")
    ]  # fmt: skip


def test_f1_is_of_all_volumes_and_dice_of_patients_with_their_spread(content):
    head, rows = table(settings_markdown(content, ROWS, dice_deviations(models())))
    baseline = dict(zip(head, rows[0], strict=True))
    # Patients of 10, 15, 20 ml with Dice 0.70, 0.68, 0.66: weighted, and plain.
    f1 = (10 * 0.70 + 15 * 0.68 + 20 * 0.66) / 45
    assert baseline["F1, LVO core"] == f"{f1:.3f}" == "0.676"
    assert baseline["Dice, LVO core"] == "0.680 ± 0.020"
    assert baseline["Dice, non-LVO core"] == "0.630 ± 0.014"


def test_best_of_each_column_is_bold_and_ties_share_it(content):
    _, rows = table(settings_markdown(content, ROWS))
    assert [all(c.startswith("**") for c in r[5:]) for r in rows] == [False, False, True, False]
    assert sum(c.startswith("**") for r in rows for c in r) == 8
    tied = {"a": model(0.7), "b": model(0.7 + 1e-5), "c": model(0.6)}
    _, rows = table(settings_markdown(compare_models(tied, FAST), []))
    assert [r[5].startswith("**") for r in rows] == [True, True, False]


def test_one_row_has_no_best():
    text = settings_markdown(compare_models({"Baseline": model(0.7)}, FAST), ROWS[:1])
    assert "**" not in text


def test_a_setting_without_a_model_has_no_figures(content):
    _, rows = table(settings_markdown(content, [*ROWS, SettingRow("lost", PMS, (), "Unfrozen")]))
    assert rows[3] == ["lost", "✓", "", "", "Unfrozen", *["n/a"] * 8]


def test_head_says_how_many_patients_and_what_it_is_for(content):
    text = settings_markdown(content, ROWS)
    assert strokect.RESEARCH_USE_ONLY in text
    assert "6 studies of 6 patients" in text
    assert "LVO penumbra 3, LVO core 3, non-LVO penumbra 2, non-LVO core 2" in text


def test_patients_without_groups_are_one_group():
    found = compare_models(
        {"a": model(0.7, ("core",), ("n/a",) * 3), "b": model(0.6, ("core",), ("n/a",) * 3)}, FAST
    )
    head, _ = table(settings_markdown(found, []))
    assert head[5:] == ["F1, all core", "Dice, all core"]


def test_tsv_has_every_figure(content):
    spread = dice_deviations(models())
    columns, rows = settings_tsv(content, ROWS, spread)
    assert all(set(row) == set(columns) for row in rows)
    assert len(columns) == len(set(columns)) == 4 + 4 * (4 + 5)
    by_name = {row["setting"]: row for row in rows}
    assert list(by_name) == ["Baseline", "Mdl_F_PmMN", "Mdl_G_Pm", "rules"]
    full = by_name["Mdl_F_PmMN"]
    assert (full["maps"], full["scores"], full["layer_weights"]) == (
        "cbf,cbv,ttp,tmax,mip", "nihss", "Frozen",
    )  # fmt: skip
    dice = content["models"]["Mdl_F_PmMN"]["LVO"]["classes"]["core"]["dice"]
    assert float(full["dice_core_LVO"]) == dice["value"]
    assert float(full["dice_core_LVO_low"]) == dice["ci95"][0]
    assert full["dice_core_LVO_sd"] == "0.0200"
    assert (full["f1_core_LVO_n"], full["dice_core_LVO_n"]) == ("3", "3")
    assert by_name["rules"]["maps"] == "–"
    assert settings_tsv(content, ROWS)[1][0]["dice_core_LVO_sd"] == "n/a"


def test_deviation_is_over_patients():
    found = dice_deviations(models())["Baseline"]
    assert found["LVO"]["core"] == pytest.approx(np.std([0.70, 0.68, 0.66], ddof=1), abs=1e-4)
    assert found["WIS"]["core"] is None  # nobody with a lesion
    one = [dataclasses.replace(s, case=dataclasses.replace(s.case, patient="sub-0"))
           for s in model(0.7, ("core",), ("LVO", "LVO"))]  # fmt: skip
    assert dice_deviations({"a": one})["a"]["LVO"]["core"] is None


def effects():
    base = 0.6 + np.linspace(-0.1, 0.1, 8)
    rng = np.random.default_rng(0)

    def of(change):
        return [
            s for k, d in enumerate(base + change)
            for s in [dataclasses.replace(model(d, ("core",), ("LVO",))[0],
                                          case=Case(f"s{k}", f"p{k}", "LVO"))]
        ]  # fmt: skip

    rows = [SettingRow("a", PMS, (), "Frozen"), SettingRow("b", (*PMS, "mip"), (), "Frozen"),
            SettingRow("c", PMS, ("nihss",), "Frozen")]  # fmt: skip
    found = {"a": of(np.zeros(8)), "b": of(0.05 + rng.normal(0, 0.01, 8)),
             "c": of(np.tile([0.02, -0.02], 4))}  # fmt: skip
    return factor_effects(found, pairs_of(rows), FAST)


def test_a_sentence_for_each_factor_and_class():
    mip, nihss = factor_sentences(effects())
    assert re.fullmatch(
        r"MIP, core: adds \(\+0\.0\d\d \(\+0\.0\d\d to \+0\.0\d\d\), 8 patients\); "
        r"LVO adds \(.*, 8 patients\)\.", mip
    )  # fmt: skip
    assert nihss.startswith("NIHSS, core: no difference shown (0.000 (−0.0")


def test_factors_as_a_table():
    text = factors_markdown(effects())
    head, rows = table(text)
    assert head[0] == "Factor" and head[-1] == "Effect"
    assert [(r[0], r[2], r[-1]) for r in rows] == [
        ("MIP", "all", "adds"), ("MIP", "LVO", "adds"),
        ("NIHSS", "all", "no difference shown"), ("NIHSS", "LVO", "no difference shown"),
    ]  # fmt: skip
    assert "trained once" in text
    assert "No two settings differ" in factors_markdown([])


def test_too_few_patients_is_said():
    models = {n: model(d, ("core",), ("LVO",)) for n, d in (("a", 0.5), ("b", 0.6))}
    (sentence,) = factor_sentences(factor_effects(models, {"MIP": [("a", "b")]}, FAST))
    assert sentence == (
        "MIP, core: too few patients (+0.100, 1 patient); LVO too few patients (+0.100, 1 patient)."
    )


def test_nothing_is_not_written_as_less_than_nothing():
    effect = {
        "factor": "MIP", "class": "core", "group": "all", "effect": "no difference shown",
        "difference": {"value": -0.0001, "ci95": [-0.0121, 0.0119], "n": 9},
    }  # fmt: skip
    (sentence,) = factor_sentences([effect])
    assert "(0.000 (−0.012 to +0.012), 9 patients)" in sentence
