"""The report: one file, right numbers, nothing that names a patient, the same bytes every time."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import strokect
from strokect.core.errors import OutputError
from strokect.core.result import PerfusionResult
from strokect.report.html import render, write_report
from strokect.report.text import condition, ratio_text


class Page(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._hidden = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._hidden = tag

    def handle_endtag(self, tag):
        if tag == self._hidden:
            self._hidden = ""

    def handle_data(self, data):
        if not self._hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def html(result: PerfusionResult) -> str:
    return render(result)


def without(result: PerfusionResult, **summary) -> PerfusionResult:
    return replace(result, summary=summary)


def test_one_file_that_asks_for_nothing_else(html):
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base"), tag
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), value
    assert "http:" not in html and "https:" not in html
    assert "@import" not in html and "url(" not in html
    assert any("default-src 'none'" in (a.get("content") or "") for _, a in page.tags)


def test_ids_are_unique_and_references_resolve(html):
    tags = Page(html).tags
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in tags:
        wanted = [
            attributes.get("aria-labelledby"),
            attributes.get("for"),
            (attributes.get("href") or "").lstrip("#"),
        ]
        assert all(w in ids for w in wanted if w)
    for name in re.findall(r'byId\("([a-z-]+)"\)', html):
        assert name in ids


def test_every_image_has_a_text_and_headings_are_nested(html):
    tags = Page(html).tags
    assert all(a.get("alt") for tag, a in tags if tag == "img")
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_numbers_of_the_summary_are_shown(html, result):
    text, volumes = Page(html).text, result.summary["volumes_ml"]
    for key, label in (("core", "Core"), ("hypoperfusion", "Hypoperfusion")):
        assert f"{label} {volumes[key]:.1f} ml" in text
    assert f"Mismatch {volumes['penumbra']:.1f} ml" in text
    assert "Mismatch ratio 3.27" in text and "HIR 0.41" in text and "CBV index 0.83" in text
    assert "Side left" in text and f"Tmax > 10 s {volumes['tmax_gt_10']:.1f} ml" in text
    assert "DEFUSE 3 core < 70 ml, ratio ≥ 1.8, mismatch ≥ 15 ml met" in text
    assert "needs age, NIHSS" in text and "not met" in text
    assert "bayes" in text and "rCBF < 0.3" in text and "ab12" * 16 in text
    assert "CBF 41.3 ml/100g/min" in text and "Tmax 1.9 s" in text
    assert "Scale factor 1.31" in text and "R 8, A 35, I 12 mm" in text
    assert "frames 22, 23" in text and "Motion correction on" in text
    assert text.count(strokect.RESEARCH_USE_ONLY) == 2


@pytest.mark.parametrize(
    "summary",
    [
        {},
        {"volumes_ml": None, "mismatch": {"ratio": None}, "method": None, "criteria": None},
        {"volumes_ml": {"core": float("nan"), "penumbra": "many"}, "hir": float("inf")},
    ],
)
def test_missing_values_are_told(result, summary):
    text = Page(render(without(result, **summary))).text
    for label in ("Core", "Hypoperfusion", "Mismatch", "Mismatch ratio", "HIR", "CBV index"):
        assert f"{label} n/a" in text, label
    assert "nan" not in text.lower().split() and "None" not in text and "inf" not in text.split()


def test_ratio_without_core(result):
    summary = copy.deepcopy(result.summary)
    summary["volumes_ml"]["core"], summary["mismatch"]["ratio"] = 0.0, None
    text = Page(render(replace(result, summary=summary))).text
    assert "Mismatch ratio n/a core is 0 ml" in text and "core of 0.0 ml" in text


def test_findings_by_level_and_none(result, html):
    text = Page(html).text
    assert text.index("critical The scan ends 4.0 s") < text.index("Hypoperfusion")
    assert "warning The head moved by up to 3.1 mm. MOTION" in text
    assert "info Arterial area scaled" in text and "No quality warnings" not in text
    calm = [{"code": "AIF_SCALED", "level": "info", "message": "Scaled."}]
    text = Page(render(without(result, quality=calm))).text
    assert "No quality warnings" in text and "Scaled." in text
    fallback = Page(render(without(result))).text  # no list in the summary: the result's flags
    assert "warning The head moved by up to 3.1 mm." in fallback


def test_messages_are_escaped(result):
    evil = "<script>alert(1)</script> & <img src=x onerror=y>"
    summary = copy.deepcopy(result.summary)
    summary["quality"] = [{"code": evil, "level": evil, "message": evil}]
    summary["side"] = summary["method"]["estimator"] = evil
    summary["settings"] = {evil: evil}
    html = render(replace(result, summary=summary))
    assert evil not in html and "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in html
    assert not any("onerror" in a for _, a in Page(html).tags)


def test_nothing_names_the_patient(result):
    summary = copy.deepcopy(result.summary)
    summary["patient_name"] = "DOE^JANE"
    summary["settings"]["patient"] = {"id": "DOE-77", "birth_date": "19500203"}
    summary["settings"]["study_date"] = "20240131-DOE"
    summary["settings"]["masks"] = ["C:\\Users\\DOE JANE\\aif.nii", "sub-DOE_aif.nii.gz"]
    summary["provenance"]["command"] = "strokect perfusion /data/DOE JANE/ctp"
    summary["quality"].append(
        {"code": "FILLED_IMAGES", "level": "info", "message": "Image missing: /in/DOE/1.dcm"}
    )
    html = re.sub(r"base64,[^\"]+", "", render(replace(result, summary=summary)))
    for secret in ("DOE", "JANE", "19500203", "20240131", "/data/"):
        assert secret not in html, secret
    assert "Image missing: [path]" in html  # the finding itself stays


def test_units_and_slashes_survive_cleaning(html):
    text = Page(html).text
    assert "ml/100g/min" in text and "strokect.summary/1" in text


def test_same_result_same_bytes(tmp_path, make_result):
    for name in ("a", "b"):
        write_report(make_result(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_unwritable_place_is_told(result, tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(result, tmp_path / "missing" / "report.html")


@pytest.mark.parametrize("shape", [(16, 256, 256), (36, 320, 320)])
def test_size_is_bounded(tmp_path, shape, make_result):
    path = tmp_path / "report.html"
    write_report(make_result(shape=shape), path)
    assert 200_000 < path.stat().st_size < 6_000_000


def test_both_themes_and_print(html):
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@media screen and (prefers-color-scheme: dark)" in style
    assert ':root[data-theme="dark"]' in style and ':root:not([data-theme="light"])' in style
    assert "@page" in style and "@media print" in style and "size: A4" in style
    names = set(re.findall(r"var\((--[a-z-]+)\)", style))
    defined = re.findall(r"(--[a-z-]+):", style)
    assert names - {"--size"} <= set(defined)
    assert all(defined.count(n) == 3 for n in names - {"--core", "--penumbra", "--size"})


def test_readable_without_script(html):
    """Mosaics stand in the page; only the viewer and the theme button wait for the script."""
    tags = Page(html).tags
    shown = {a["id"] for tag, a in tags if tag == "img" and "id" in a and "hidden" not in a}
    assert shown == {
        f"img-{k}" for k in ("tissue", "tmax", "cbf", "cbv", "mtt", "delay", "ttp", "mip")
    }
    assert {a["id"] for _, a in tags if "hidden" in a} == {"theme", "viewer", "img-ct"}


def test_least_result(result):
    """No VOF, no motion, no masks, one map: every part says what it lacks."""
    curves = replace(
        result.curves,
        vof=None,
        aif_candidates=(),
        aif=replace(result.curves.aif, voxels=np.empty((0, 3), np.intp)),
    )
    least = replace(
        result,
        masks={},
        maps={"cbf": result.maps["cbf"]},
        curves=curves,
        motion=None,
        flags=(),
        summary={},
    )
    text = Page(render(least)).text
    assert "Motion correction off." in text and "None found" in text
    assert "No quality warnings" in text and "Slice n/a" in text


def test_templates_are_installed_with_the_package():
    assert {p.name for p in (Path(strokect.__file__).parent / "report/templates").iterdir()} >= {
        "report.html",
        "report.css",
        "report.js",
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.8, "1.80"), (18.24, "18.2"), (243.3, "243"), (None, "n/a"), (float("nan"), "n/a")],
)
def test_ratios_have_three_digits(value, shown):
    assert ratio_text(value) == shown


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        ("TMAX > 6", "Tmax > 6 s"),
        ("CBV < 2", "CBV < 2 ml/100g"),
        ("rCBF < 0.3", "rCBF < 0.3"),
        ("anything else", "anything else"),
        (None, ""),
    ],
)
def test_thresholds_carry_units(rule, shown):
    assert condition(rule) == shown
