"""The segmentation report: what each case shows and leaves out, and nothing from elsewhere."""

from __future__ import annotations

import base64
import copy
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import strokect
from strokect.core import colours
from strokect.core.errors import OutputError
from strokect.core.geometry import grid_points_mm
from strokect.core.result import SegmentationResult
from strokect.core.types import Grid, Mask, QualityFlag, Volume
from strokect.report import figures
from strokect.report.segmentation import VIRTUAL_ONLY, render, write_segmentation_report

REGIONS = ("core", "penumbra", "hypoperfusion")


def summary_of(volumes: dict[str, float]) -> dict[str, Any]:
    return {
        "schema": "strokect.segmentation/1",
        "volumes_ml": volumes,
        "volume_range_ml": {k: [0.9 * v, 1.2 * v] for k, v in volumes.items()},
        "quality": [
            {"code": "MOTION", "level": "warning", "message": "The head moved by up to 3.1 mm."}
        ],
        "model": {
            "name": "small_4d",
            "network": "mjnet_4d",
            "parameters": 1234567,
            "trained_on": "96 virtual patients",
            "virtual_only": True,
            "weights_sha256": "ab12" * 16,
            "uncertainty": {"method": "Monte-Carlo dropout", "draws": 20},
        },
        "settings": {"time_points": 20, "window_hu": [0, 100]},
        "timing_s": {"read": 1.2, "network": 20.31},
        "peak_memory_mb": 912.4,
        "provenance": {"strokect": "0.1.0", "torch": "2.13.0", "input_sha256": "cd34" * 16},
    }


def build(
    known: tuple[str, ...] = REGIONS, lesion_mm: float = 30.0, draws: bool = True
) -> SegmentationResult:
    """A ball of a head with a lesion of radius ``lesion_mm`` on the patient's left."""
    affine = np.diag([-3.0, 3.0, 10.0, 1.0])
    affine[:3, 3] = 94.5, -94.5, -45.0
    grid = Grid((10, 64, 64), affine)
    x, y, z = grid_points_mm(grid)
    brain = x**2 + y**2 + z**2 < 75**2
    away = np.sqrt((x + 40) ** 2 + y**2 + z**2)
    core, hypoperfusion = away < 0.6 * lesion_mm, away < lesion_mm
    data = dict(zip(REGIONS, (core, hypoperfusion & ~core, hypoperfusion), strict=True))
    masks = {k: Mask(data[k], grid, k) for k in known}
    probabilities = {
        k: Volume(np.where(data[k], 0.9, 0.05).astype(np.float32), grid) for k in known
    }
    sd = np.exp(-(((away - lesion_mm) / 6) ** 2)).astype(np.float32) * 0.2
    ct = np.where(brain, 35.0, -1000.0).astype(np.float32)
    labels = np.where(core, 3, np.where(hypoperfusion, 2, brain)).astype(np.uint8)
    return SegmentationResult(
        grid, Volume(ct, grid), masks | {"brain": Mask(brain, grid, "brain")}, probabilities,
        {k: Volume(sd, grid) for k in known if draws}, labels,
        (QualityFlag("MOTION", "warning", "The head moved by up to 3.1 mm."),),
        summary_of({k: masks[k].volume_ml for k in known}),
    )  # fmt: skip


def changed(result: SegmentationResult, **summary: Any) -> SegmentationResult:
    return replace(result, summary=copy.deepcopy(result.summary) | summary)


class Page(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._styled = False
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())
        self.ids = [a["id"] for _, a in self.tags if "id" in a]

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._styled = tag == "style"

    def handle_data(self, data):
        if not self._styled:
            self.words.append(data)

    def handle_endtag(self, tag):
        self._styled = False

    def picture(self, key: str) -> np.ndarray:
        """The pixels of a mosaic, (H, W, 3)."""
        uri = next(a["src"] for _, a in self.tags if a.get("id") == f"img-{key}")
        data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def result() -> SegmentationResult:
    return build()


@pytest.fixture(scope="module")
def page(result: SegmentationResult) -> Page:
    return Page(render(result))


def pictures(page: Page) -> list[str]:
    return [i.removeprefix("img-") for i in page.ids if i.startswith("img-")]


def test_usual_case(page, result):
    volumes = result.summary["volumes_ml"]
    core, penumbra, both = (f"{volumes[k]:.1f}" for k in REGIONS)
    assert (
        f"Hypoperfusion of {both} ml: core of {core} ml and penumbra of {penumbra} ml." in page.text
    )
    assert f"Core {core} {0.9 * volumes['core']:.1f} to {1.2 * volumes['core']:.1f}" in page.text
    assert "warning The head moved by up to 3.1 mm. MOTION" in page.text
    assert "Name small_4d Network mjnet_4d Parameters 1,234,567" in page.text
    assert "Trained on 96 virtual patients Virtual patients only yes" in page.text
    assert "Monte-Carlo dropout, 20 draws" in page.text and "ab12" * 16 in page.text
    assert "cd34" * 16 in page.text and "torch 2.13.0" in page.text
    assert "time_points 20" in page.text and "network 20.31 s" in page.text
    assert "peak memory 912 MB" in page.text and "strokect.segmentation/1" in page.text
    assert page.text.count(strokect.RESEARCH_USE_ONLY) == 2
    assert page.text.index(strokect.RESEARCH_USE_ONLY) < page.text.index("Hypoperfusion of")
    assert pictures(page) == [
        "tissue", *(f"{kind}-{k}" for kind in ("p", "sd") for k in REGIONS)
    ]  # fmt: skip


def test_two_classes_know_core_only():
    page = Page(render(build(known=("core",))))
    assert re.search(r" Core of [\d.]+ ml\. ", page.text)
    assert "penumbra" not in page.text.lower() and "hypoperf" not in page.text.lower()
    assert pictures(page) == ["tissue", "p-core", "sd-core"]
    assert "n/a" not in page.text


@pytest.mark.parametrize(
    ("known", "said"),
    [(REGIONS, "No core or penumbra found."), (("core",), "No core found.")],
)
def test_no_lesion(known, said):
    html = render(build(known, lesion_mm=0.0))
    page = Page(html)
    assert said in page.text and "Core 0.0 ml" in page.text
    assert 'class="halo"' not in html and 'class="share"' not in html
    assert not _tinted(page.picture("tissue"), figures.CORE_RGB).any()


def test_no_uncertainty():
    model = summary_of({})["model"] | {"uncertainty": None}
    result = changed(build(draws=False), model=model)
    del result.summary["volume_range_ml"]
    page = Page(render(result))
    assert pictures(page) == ["tissue", "p-core", "p-penumbra", "p-hypoperfusion"]
    assert "Uncertainty none" in page.text and "Interval" not in page.text
    assert "SD" not in page.text and "uncertainty" not in page.ids


@pytest.mark.parametrize(
    "interval", [None, {}, {"core": None}, {"core": [1.0]}, {"core": [None, 2.0]}]
)
def test_an_interval_that_is_none_is_left_out(result, interval):
    assert "Interval" not in Page(render(changed(result, volume_range_ml=interval))).text


def test_one_missing_interval_is_told(result):
    page = Page(render(changed(result, volume_range_ml={"core": [1.0, 2.0]})))
    assert "1.0 to 2.0 Penumbra" in page.text
    assert re.search(r"Penumbra [\d.]+ n/a Hypoperfusion", page.text)


@pytest.mark.parametrize("virtual_only", [True, False, None])
def test_warning_of_virtual_patients(result, virtual_only):
    model = result.summary["model"] | {"virtual_only": virtual_only}
    html = render(changed(result, model=model))
    page = Page(html)
    assert (VIRTUAL_ONLY in page.text) is (virtual_only is True)
    assert ('class="virtual"' in html) is (virtual_only is True)
    shown = {True: "yes", False: "no", None: "n/a"}[virtual_only]
    assert f"Virtual patients only {shown}" in page.text


@pytest.mark.parametrize(
    "summary",
    [
        {},
        dict.fromkeys(
            ("volumes_ml", "volume_range_ml", "quality", "model", "settings", "timing_s",
             "peak_memory_mb", "provenance", "schema")
        ),
        {"volumes_ml": {"core": float("nan"), "penumbra": "many"}, "model": {"parameters": "many"}},
    ],
)  # fmt: skip
def test_missing_values_are_told(result, summary):
    page = Page(render(replace(result, summary=summary)))
    for label in ("Core", "Penumbra", "Hypoperfusion", "Name", "Parameters", "Trained on",
                  "Uncertainty", "peak memory", "schema", "Weights SHA-256"):  # fmt: skip
        assert f"{label} n/a" in page.text, label
    assert "None" not in page.text and "nan" not in page.text.split()
    assert "warning The head moved by up to 3.1 mm." in page.text  # the result's own flags
    assert VIRTUAL_ONLY not in page.text


def test_nothing_but_the_scan(result):
    least = replace(result, masks={}, probabilities={}, uncertainty={}, flags=(), summary={})
    page = Page(render(least))
    assert "Core n/a" in page.text and "Penumbra" not in page.text
    assert pictures(page) == ["tissue"]


def test_critical_findings_come_first(result):
    critical = [{"code": "TOO_SHORT", "level": "critical", "message": "Only 12 s."}]
    text = Page(render(changed(result, quality=critical))).text
    assert text.index("critical Only 12 s.") < text.index("Hypoperfusion of")
    assert "1 critical, shown at the top" in text and "No quality warnings" not in text
    assert "No quality warnings" in Page(render(changed(result, quality=[]))).text


def test_hostile_words_are_escaped(result):
    evil = '"><script>alert(1)</script> & <img src=x onerror=y>'
    model = {"name": evil, "network": evil, "trained_on": evil, "weights_sha256": evil, evil: evil,
             "uncertainty": {"method": evil, "draws": evil}}  # fmt: skip
    html = render(
        changed(
            result, model=model, settings={evil: evil}, provenance={evil: evil}, schema=evil,
            quality=[{"code": evil, "level": evil, "message": evil}], timing_s={evil: 1.0},
        )
    )  # fmt: skip
    assert evil not in html and "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in html
    tags = Page(html).tags
    assert all(tag != "script" and "onerror" not in attributes for tag, attributes in tags)


def test_nothing_names_the_patient(result):
    model = result.summary["model"] | {
        "name": "/home/DOE/small_4d.json",
        "trained_on": "C:\\Users\\DOE JANE\\cohort",
    }
    html = render(
        changed(
            result, model=model, patient_name="DOE^JANE",
            settings={"input": "/data/DOE/ctp", "patient": {"id": "DOE"}, "study_date": "20240131"},
            provenance={"input_sha256": {"/data/DOE/ctp.nii.gz": "cd34" * 16}},
            quality=[{"code": "X", "level": "info", "message": "Missing: /in/DOE/1.dcm"}],
        )
    )  # fmt: skip
    text = re.sub(r"base64,[^\"]+", "", html)
    for secret in ("DOE", "JANE", "20240131", "/data", "/home"):
        assert secret not in text, secret
    assert "cd34" * 16 in text


def test_one_file_that_asks_for_nothing_else(page, result):
    for tag, attributes in page.tags:
        assert tag not in ("link", "script", "iframe", "object", "embed", "base", "a"), tag
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), value
    html = render(result)
    assert "http:" not in html and "https:" not in html
    assert "@import" not in html and "url(" not in html
    assert any("default-src 'none'" in (a.get("content") or "") for _, a in page.tags)


def test_structure_is_readable(page):
    assert len(page.ids) == len(set(page.ids))
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")
    wanted = [a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a]
    assert wanted and set(wanted) <= set(page.ids)


def test_same_result_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_segmentation_report(build(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_unwritable_place_is_told(result, tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_segmentation_report(result, tmp_path / "missing" / "report.html")


def _tinted(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where an overlay of this colour lies: its channels differ as the colour's do."""
    over = 0.72 * np.array(colour)
    return np.abs((pixels - pixels.min(-1, keepdims=True)) - (over - over.min())).max(-1) < 3


def test_overlay_shows_the_masks_on_the_patients_left(page, result):
    view = figures.view_of(result.grid, result.masks["brain"].data)
    pixels = page.picture("tissue")
    for name, colour in (("core", figures.CORE_RGB), ("penumbra", figures.PENUMBRA_RGB)):
        wanted = figures.mosaic(view.tiles(result.masks[name].data).astype(np.uint8), view)
        np.testing.assert_array_equal(_tinted(pixels, colour), wanted.astype(bool))
        tile = wanted.reshape(view.down, view.tile[0], view.across, view.tile[1]).sum((0, 1, 2))
        assert tile[: view.tile[1] // 2].sum() == 0 < tile.sum()  # left is on the right


def test_probability_is_bright_in_the_lesion_and_outlined(result):
    html = render(result)
    pixels = Page(html).picture("p-core")
    palette = colours.colour_palette("viridis").astype(int)
    seen = {tuple(c) for c in pixels.reshape(-1, 3)}
    levels = colours.levels(np.array([0.9, 0.05]), (0, 1))
    assert seen == {(0, 0, 0), *(tuple(palette[k]) for k in levels)}
    figure = html[html.index('id="figure-p-core"') : html.index('id="figure-p-penumbra"')]
    slices = int(result.masks["core"].data.any(axis=(1, 2)).sum())
    assert figure.count('class="halo"') == slices > 1
    assert ">0</span>" in figure and ">1</span>" in figure


def test_a_mask_of_specks_keeps_the_page_small(result, tmp_path):
    grid = Grid((16, 256, 256), np.diag([-0.8, 0.8, 8.0, 1.0]))
    specks = np.random.default_rng(0).random(grid.shape) < 0.1
    noise = Volume(specks.astype(np.float32), grid)
    noisy = replace(
        result, grid=grid, mean_ct=noise, masks={k: Mask(specks, grid, k) for k in REGIONS},
        probabilities=dict.fromkeys(REGIONS, noise), uncertainty=dict.fromkeys(REGIONS, noise),
        labels=specks.astype(np.uint8),
    )  # fmt: skip
    write_segmentation_report(noisy, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 6_000_000


def test_templates_are_installed_with_the_package():
    folder = Path(strokect.__file__).parent / "report/templates"
    assert {p.name for p in folder.iterdir()} >= {"segmentation.html", "segmentation.css"}
