"""Tables of maps: methods by maps, calibration, less and less."""

import re

import numpy as np
import pytest

import strokect
from strokect.evaluate.agreement import Estimate
from strokect.evaluate.levels import LevelPoint
from strokect.evaluate.map_agreement import LEVELS, MapScore
from strokect.evaluate.map_summary import compare_maps
from strokect.evaluate.tables import Case, ScoreOptions
from strokect.report.map_tables import (
    calibration_rows,
    levels_markdown,
    levels_tsv,
    map_markdown,
    map_rows,
    map_tsv,
)

FAST = ScoreOptions(n_resamples=40)
EVIL = "a|b\n<i>"


def scores(error, quantities=("tmax", "cbf"), spread=False, lost=()):
    out = []
    for k in range(4):
        case = Case(f"s{k}", f"p{k}", "LVO" if k % 2 else "WIS")
        for q in quantities:
            if k in lost:
                out.append(MapScore(case, q, 100, 0.0, 5.0))
                continue
            more = {"coverage": LEVELS, "mean_sd": 1.25} if spread else {}
            out.append(
                MapScore(
                    case, q, 100, 1.0, 5.0, bias=error, mae=abs(error), mse=error**2,
                    nmse=0.01, psnr_db=20.0, ssim=0.9, cosine=0.99, pearson=0.8, **more,
                )
            )  # fmt: skip
    return out


@pytest.fixture
def content():
    models = {"net": scores(-0.5, spread=True), "bsvd": scores(2, ("cbf",), lost=(3,))}
    return compare_maps(models, FAST)


def table(rows):
    head, body = rows
    return [dict(zip(head, row, strict=True)) for row in body]


def test_rows_are_methods_by_map(content):
    rows = table(map_rows(content))
    assert [(r["Map"], r["Method"]) for r in rows] == [
        ("CBF, ml/100g/min", "net"), ("CBF, ml/100g/min", "bsvd"), ("Tmax, s", "net"),
    ]  # fmt: skip
    net, bsvd, tmax = rows
    assert net["Bias"] == "−0.5 (−0.5 to −0.5)" and tmax["Bias"] == "−0.50 (−0.50 to −0.50)"
    assert net["Coverage of 90 %"].startswith("0.900") and bsvd["Coverage of 90 %"] == "n/a"
    assert (net["n"], net["Known"]) == ("4", "100.0 %")
    assert (bsvd["n"], bsvd["Known"]) == ("3 of 4", "75.0 %")


def test_no_negative_zero():
    rows = table(map_rows(compare_maps({"a": scores(-1e-6)}, FAST)))
    assert rows[0]["Bias"] == "0.0 (0.0 to 0.0)"


def test_calibration_of_those_with_a_spread(content):
    rows = table(calibration_rows(content))
    assert [r["Method"] for r in rows] == ["net", "net"]
    assert rows[0]["68 %"].startswith("0.680") and rows[1]["Mean SD"] == "1.25"


def test_markdown(content):
    text = map_markdown(content)
    assert strokect.RESEARCH_USE_ONLY in text and "4 scans of 4 patients" in text
    assert [x for x in text.splitlines() if x.startswith("## ")] == [
        "## All patients", "## LVO", "## WIS", "## Calibration", "## Measures",
    ]  # fmt: skip
    assert "peak is the span of the display range" in text
    plain = map_markdown(compare_maps({EVIL: scores(1)}, FAST))
    assert "Calibration" not in plain and r"a\|b <i>" in plain


def test_tsv_has_every_group_map_and_method(content):
    keys, rows = map_tsv(content)
    assert all(list(row) == keys for row in rows)
    found = {(r["group"], r["map"], r["method"]): r for r in rows}
    assert len(found) == len(rows) == 9
    assert float(found["LVO", "tmax", "net"]["bias"]) == -0.5
    assert found["all", "cbf", "bsvd"]["bias_n"] == "3"
    assert found["all", "cbf", "bsvd"]["coverage_90"] == "n/a"


def point(level, method, dice, error, region="core"):
    return LevelPoint(
        level, method, region,
        Estimate(dice, (dice - 0.1, dice + 0.1), 6), Estimate(error, (np.nan, np.nan), 8),
    )  # fmt: skip


POINTS = [
    point("all", "net", 0.8, 3), point("all", "net", 0.85, 9, "hypoperfusion"),
    point("all", "bsvd", 0.7, 5), point("1/2", "net", 0.75, 4),
]  # fmt: skip


def test_levels_markdown():
    text = levels_markdown(POINTS, "time points")
    assert text.startswith("## Time points\n")
    assert "| Class | Method | n | all | 1/2 |" in text
    assert "| core | net | 6 | 0.800 (0.700 to 0.900) | 0.750 (0.650 to 0.850) |" in text
    assert "| core | bsvd | 8 | 5.0 | n/a |" in text
    order = re.findall(r"\| (core|hypoperfusion) \| (net|bsvd) ", text)[:3]
    assert order == [("core", "net"), ("core", "bsvd"), ("hypoperfusion", "net")]


def test_levels_tsv():
    keys, rows = levels_tsv(POINTS)
    assert len(rows) == 4 and all(list(r) == keys for r in rows)
    assert rows[3]["level"] == "1/2" and rows[3]["dice_low"] == "0.6500"
    assert rows[3]["error_ml"] == "4.0000" and rows[3]["error_ml_low"] == "n/a"
