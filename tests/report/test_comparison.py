"""The page, the figure and the tables of several models."""

import re

import numpy as np
import pytest
from PIL import Image

import strokect
from strokect.core.types import Grid
from strokect.evaluate.paired import compare_models
from strokect.evaluate.tables import Case, ScoreOptions, score_masks
from strokect.report.comparison import write_comparison_page, write_figure
from strokect.report.score_tables import (
    comparison_markdown,
    comparison_rows,
    counts_text,
    markdown_table,
    p_text,
)

GRID = Grid((2, 10, 10), np.diag([10.0, 10.0, 10.0, 1.0]))
FAST = ScoreOptions(n_resamples=40)
EVIL = "<script>alert(1)</script>|x$y_1^"


def mask(n):
    out = np.zeros(GRID.shape, bool)
    out.flat[:n] = True
    return out


def model(shift, regions=("penumbra", "core"), groups=("LVO", "LVO", "non-LVO", "WIS")):
    """shift : voxels found beside the true ones. WIS patients have nothing."""
    return [
        score_masks(
            Case(f"sub-{k}_ses-01", f"sub-{k}", group), region,
            mask(shift if group == "WIS" else 30 + 5 * k + shift),
            mask(0 if group == "WIS" else 30 + 5 * k), GRID,
        )
        for region in regions
        for k, group in enumerate(groups)
    ]  # fmt: skip


def content_of(models):
    head = {"schema": "strokect.comparison/1", "definitions": {"dice": "as it is"}}
    return head | compare_models(models, FAST)


def draw(tmp_path, models, name="figure.png"):
    write_figure(tmp_path / name, models, content_of(models))
    with Image.open(tmp_path / name) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def has_colour(pixels, rgb):
    return bool((np.abs(pixels - rgb).max(axis=2) <= 12).any())


def test_every_model_is_drawn_in_its_colour(tmp_path):
    one = draw(tmp_path, {"a": model(2)})
    two = draw(tmp_path, {"a": model(2), "b": model(9)})
    blue, red = (0, 114, 178), (213, 94, 0)
    assert has_colour(one, blue) and not has_colour(one, red)
    assert has_colour(two, blue) and has_colour(two, red)
    assert min(one.shape[:2]) > 600


@pytest.mark.parametrize(
    "models",
    [
        {"a": model(2, ("core",))},
        {"a": model(2, ("mask",), ("n/a",))},
        {"a": model(2, groups=("WIS",)), "b": model(0, groups=("WIS",))},
        {"a": model(2), "b": model(3, ("core",))},
        {f"m{k}": model(k) for k in range(11)},
        {EVIL: model(2)},
    ],
    ids=["one class", "one mask", "no lesion", "a class less", "many models", "odd name"],
)
def test_odd_comparisons_are_drawn(tmp_path, models):
    pixels = draw(tmp_path, models)
    assert (pixels < 250).any(axis=2).mean() > 0.005


def test_page(tmp_path):
    models = {"rule": model(8), EVIL: model(2)}
    content = content_of(models)
    write_figure(tmp_path / "figure.png", models, content)
    write_comparison_page(tmp_path / "index.html", content, tmp_path / "figure.png")
    page = (tmp_path / "index.html").read_text()
    assert page.count(strokect.RESEARCH_USE_ONLY) == 2
    assert "<script" not in page and "&lt;script&gt;" in page
    assert page.count("data:image/png;base64,") == 1
    assert "default-src 'none'" in page
    assert not re.findall(r'(?:src|href)="(?!data:|table|comparison|figure)', page)
    assert "4 studies of 4 patients, common to all models (2)." in page


def test_rows_hold_what_was_measured():
    content = content_of({"exact": model(0), "large": model(20)})
    head, (exact, large) = comparison_rows(content)
    table = [dict(zip(head, row, strict=True)) for row in (exact, large)]
    assert table[0]["Dice core, LVO"] == "1.00 (1.00 to 1.00)"
    assert table[1]["Dice core, non-LVO"] == f"{2 * 40 / 100:.2f}"  # one patient: no interval
    assert table[1]["False core, WIS, ml"] == "20.0 (max 20.0)"
    assert table[0]["Volume error core, ml"] == "0.0"
    assert not any("WIS" in name for name in head if name.startswith("Dice"))


def test_a_distance_without_all_patients_says_so():
    missed = model(0)
    missed[4] = score_masks(missed[4].case, "core", mask(0), mask(30), GRID)
    _, (_, row) = comparison_rows(content_of({"a": model(0), "b": missed}))
    assert any(cell.endswith("n = 2 of 3") for cell in row)


def test_a_model_without_a_class_has_no_figures_for_it():
    content = content_of({"a": model(2), "b": model(3, ("core",))})
    head, (_, row) = comparison_rows(content)
    assert dict(zip(head, row, strict=True))["Dice penumbra, LVO"] == "n/a"
    assert "| b | a | penumbra | n/a | 0 |" in comparison_markdown(content)


def test_markdown():
    text = comparison_markdown(content_of({"a": model(8), EVIL: model(2)}))
    assert strokect.RESEARCH_USE_ONLY in text
    assert "Wilcoxon" in text
    widths = {len(re.findall(r"(?<!\\)\|", x)) for x in text.splitlines() if x.startswith("| a |")}
    assert len(widths) == 1
    assert r"\|x" in text
    assert markdown_table(["a"], [["b\nc|d"]]).splitlines()[2] == r"| b c\|d |"
    assert "Paired tests" not in comparison_markdown(content_of({"a": model(8)}))


def test_left_out_is_said():
    content = content_of({"a": model(1), "b": model(2, groups=("LVO", "LVO"))})
    assert "Left out, as others lack them: 2 of a." in counts_text(content)
    assert counts_text(content).startswith("2 studies of 2 patients, common")
    alone = content_of({"a": model(1, groups=("LVO",))})
    assert counts_text(alone).startswith("1 study of 1 patient, common")


def test_p_text():
    assert [p_text(p) for p in (None, 0.0004, 0.0312)] == ["n/a", "< 0.001", "0.031"]
