"""Agreement of maps as tables for people (Markdown) and for other programs (TSV)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import strokect
from strokect.core.quantities import QUANTITIES
from strokect.evaluate.agreement import Estimate
from strokect.evaluate.levels import LevelPoint
from strokect.evaluate.map_agreement import COVERAGES, DEFINITIONS, MEASURES
from strokect.evaluate.tables import ALL, cell
from strokect.report.cohort_page import interval
from strokect.report.score_tables import markdown_table
from strokect.report.text import number

Json = Mapping[str, Any]

#: Measure, its name, digits (None: by the span of the map), whether its interval is shown.
_SHOWN: tuple[tuple[str, str, int | None, bool], ...] = (
    ("bias", "Bias", None, True),
    ("mae", "MAE", None, True),
    ("mse", "MSE", None, False),
    ("nmse", "Normalised MSE", 4, False),
    ("psnr_db", "PSNR, dB", 1, True),
    ("ssim", "SSIM", 3, True),
    ("cosine", "Cosine", 3, False),
    ("pearson", "Pearson", 3, False),
    ("coverage_90", "Coverage of 90 %", 3, True),
)


def map_markdown(content: Json) -> str:
    """Methods by maps, one table per group, and the calibration, for people.

    content : as of ``map_summary.compare_maps``.
    """
    studies, patients = content["studies"], content["patients"]
    people = (
        f"{studies} {'scan' if studies == 1 else 'scans'} of "
        f"{patients} {'patient' if patients == 1 else 'patients'}"
    )
    tables = "\n\n".join(
        f"## {'All patients' if g == ALL else g}\n\n{markdown_table(*map_rows(content, g))}"
        for g in content["groups"]
    )
    head, rows = calibration_rows(content)
    calibration = ""
    if rows:
        calibration = f"\n\n## Calibration\n\n{CALIBRATION_NOTE}\n\n{markdown_table(head, rows)}"
    notes = "\n".join(f"- {name}: {words}" for name, words in DEFINITIONS.items())
    return (
        f"# Agreement of maps with truth\n\n{strokect.RESEARCH_USE_ONLY}\n\n{people}. "
        f"Figures are means over scans, in brackets the 95 % interval.\n\n"
        f"{tables}{calibration}\n\n## Measures\n\n{notes}\n"
    )


def map_rows(content: Json, group: str = ALL) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of one group: every map of every method, by map."""
    head = ["Map", "Method", "n", "Known", *(title for _, title, _, _ in _SHOWN)]
    rows = []
    for key, name, found in _each(content, group):
        cells = [_cell(found[m], _digits(d, key), wide) for m, _, d, wide in _SHOWN]
        known = found["known"]["value"]
        share = "n/a" if known is None else f"{number(100 * known)} %"
        scored, studies = found["bias"]["n"], found["studies"]
        n = str(studies) if scored == studies else f"{scored} of {studies}"
        rows.append([_title(key), name, n, share, *cells])
    return head, rows


CALIBRATION_NOTE = (
    "Share of voxels whose truth lies in the interval of each nominal level, mean over scans; a "
    "calibrated map gives back the level. Below it the spread is told too small, above it too "
    "large."
)


def calibration_rows(content: Json) -> tuple[list[str], list[list[str]]]:
    """Head and rows of coverage by nominal level, over all patients; maps with a spread only."""
    head = ["Map", "Method", "n", "Mean SD", *(f"{100 * x:g} %" for x in content["levels"])]
    rows = []
    for key, name, found in _each(content, ALL):
        n = max(found[c]["n"] for c in COVERAGES)
        if n:
            spread = number(found["mean_sd"]["value"], _digits(None, key))
            shares = (_cell(found[c], 3) for c in COVERAGES)
            rows.append([_title(key), name, str(n), spread, *shares])
    return head, rows


def map_tsv(content: Json) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows for programs: a line per group, map and method, every measure with its
    interval and n; undefined is "n/a"."""
    measures = (*MEASURES, *COVERAGES)
    keys = ["group", "map", "method", "studies"]
    keys += [f"{m}{end}" for m in measures for end in ("", "_low", "_high", "_n")]
    rows = []
    for group in content["groups"]:
        for key, name, found in _each(content, group):
            row = [group, key, name, str(found["studies"])]
            for m in measures:
                figures = (found[m]["value"], *found[m]["ci95"])
                row += [*("n/a" if x is None else f"{x:g}" for x in figures), str(found[m]["n"])]
            rows.append(dict(zip(keys, row, strict=True)))
    return keys, rows


def _each(content: Json, group: str) -> list[tuple[str, str, Json]]:
    """(map, method, summary) of one group, by map, methods in their order."""
    out = []
    for key in content["maps"]:
        for name, summary in content["models"].items():
            found = summary.get(group, {}).get("maps", {}).get(key)
            if found is not None:
                out.append((key, name, found))
    return out


def _cell(found: Json, digits: int, wide: bool = True) -> str:
    """A figure, with its interval where that is asked for; no "−0.0"."""
    value, low, high = (
        None if x is None else round(x, digits) + 0.0 for x in (found["value"], *found["ci95"])
    )
    shown = {"value": value, "ci95": [low, high]}
    return interval(shown, digits) if wide else number(value, digits)


def _title(key: str) -> str:
    quantity = QUANTITIES[key]
    return f"{quantity.label}, {quantity.unit}"


def _digits(digits: int | None, key: str) -> int:
    """Digits of a measure; of one in the unit of a map by the span of the map."""
    low, high = QUANTITIES[key].display_range
    return digits if digits is not None else 2 if high - low < 50 else 1


# Less and less


def levels_markdown(points: Sequence[LevelPoint], factor: str) -> str:
    """Dice and volume error by level of a factor, a table each, for people.

    points : as of ``levels.level_points``. factor : its name ("time points").
    """
    levels = list(dict.fromkeys(p.level for p in points))
    methods = list(dict.fromkeys(p.method for p in points))
    regions = dict.fromkeys(p.region for p in points)
    lines = [(r, m) for r in regions for m in methods]
    known = {(p.region, p.method, p.level): p for p in points}
    parts = [f"## {factor[:1].upper()}{factor[1:]}"]
    for title, name, digits in (
        ("Dice of patients with a true lesion", "dice", 3),
        ("Absolute error of the volume, ml, all patients", "error_ml", 1),
    ):
        rows = []
        for region, method in lines:
            of_line = [known.get((region, method, level)) for level in levels]
            cells = ["n/a" if p is None else _words(getattr(p, name), digits) for p in of_line]
            n = max((getattr(p, name).n for p in of_line if p is not None), default=0)
            rows.append([region, method, str(n), *cells])
        parts.append(f"{title}: mean with its 95 % interval over patients.")
        parts.append(markdown_table(["Class", "Method", "n", *levels], rows))
    return "\n\n".join(parts) + "\n"


def levels_tsv(points: Sequence[LevelPoint]) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows for programs: a line per level, method and class."""
    keys = ["level", "method", "class"]
    keys += [f"{m}{end}" for m in ("dice", "error_ml") for end in ("", "_low", "_high", "_n")]
    rows = []
    for p in points:
        row = [p.level, p.method, p.region]
        for found in (p.dice, p.error_ml):
            row += [*(cell(x, 4) for x in (found.value, *found.ci)), str(found.n)]
        rows.append(dict(zip(keys, row, strict=True)))
    return keys, rows


def _words(found: Estimate, digits: int) -> str:
    return interval({"value": found.value, "ci95": found.ci}, digits)
