"""The index page of a cohort: figures of agreement, a table with links to the reports."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strokect.io.outputs import atomic_file
from strokect.report import figures
from strokect.report.pages import constants, environment
from strokect.report.text import number

REGION_NAMES = {
    "core": "Core",
    "penumbra": "Penumbra",
    "hypoperfusion": "Hypoperfusion",
    "tmax6": "Tmax > 6 s",
}
_PLOTTED = ("core", "hypoperfusion")


def write_index(
    path: Path,
    summary: Mapping[str, Any],
    results: Sequence[Mapping[str, str]],
    failures: Sequence[Mapping[str, str]],
    scores: Mapping[str, Mapping[str, Any]],
    reports: set[str],
) -> None:
    """Write the page. summary, results, failures : as in the files of these names. scores : per
    study and region ``found_ml`` and ``true_ml``. reports : studies that have a report.

    The same results give the same bytes. Raises OutputError where it cannot be written.
    """
    page = (
        environment()
        .get_template("cohort.html")
        .render(
            constants(),
            summary=summary,
            method=[(k, summary["settings"].get(k)) for k in ("estimator", "denoise", "rule")],
            results=[_shorter(row) for row in results],
            failures=failures,
            reports=reports,
            regions=[_region(k, v) for k, v in summary["agreement"].items()],
            plots=[
                plot
                for region in _PLOTTED
                if region in summary["agreement"]
                for plot in _plots(region, summary["agreement"][region], scores)
            ],
        )
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page.lstrip() + "\n", encoding="utf-8", newline="\n")


def interval(estimate: Mapping[str, Any], digits: int) -> str:
    """A figure with its 95 % interval for people: "0.93 (0.88 to 0.96)"."""
    low, high = (number(x, digits) for x in estimate["ci95"])
    value = number(estimate["value"], digits)
    return value if "n/a" in (low, high) else f"{value} ({low} to {high})"


def _shorter(row: Mapping[str, str]) -> dict[str, str]:
    """A line of results.tsv with no more digits than a reader wants."""
    out = dict(row)
    for key, value in row.items():
        digits = 1 if key.endswith(("_ml", "_mm")) else 2
        with contextlib.suppress(ValueError):
            out[key] = number(float(value), digits)
    return out


def _region(name: str, found: Mapping[str, Any]) -> dict[str, str]:
    limits = " to ".join(number(found[f"{k}_limit_ml"]["value"]) for k in ("lower", "upper"))
    return {
        "name": REGION_NAMES[name],
        "n": str(found["n"]),
        "dice": interval(found["mean_dice"], 2),
        "dice_n": str(found["mean_dice"]["n"]),
        "pearson": interval(found["pearson"], 3),
        "icc": interval(found["icc_2_1"], 3),
        "bias": interval(found["bias_ml"], 1),
        "limits": limits,
        "error": number(found["mean_absolute_error_ml"]),
    }


def _plots(
    region: str, agreement: Mapping[str, Any], scores: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Found against true volume, and their difference against their mean (Bland-Altman)."""
    pairs = [(s[region]["true_ml"], s[region]["found_ml"]) for s in scores.values() if region in s]
    true, found = np.array(pairs).T
    most = 1.05 * max(float(max(true.max(), found.max())), 1.0)
    difference = found - true
    limits = [agreement[f"{k}_limit_ml"]["value"] for k in ("lower", "upper")]
    lines = [x for x in (agreement["bias_ml"]["value"], *limits) if x is not None]
    spread = 1.15 * max([1.0, *np.abs(difference), *np.abs(lines)])
    name, n = REGION_NAMES[region], len(pairs)
    return [
        {
            "key": region,
            "title": f"{name}, found, ml",
            "alt": f"{name} of {n} studies, found against true volume",
            "dots": _dots(true / most, 1 - found / most),
            "rules": [("identity", "M0 1000L1000 0")],
            "x_ticks": _ticks(0, most, False),
            "y_ticks": _ticks(0, most, True),
            "x_name": "true, ml",
        },
        {
            "key": region,
            "title": f"{name}, error, ml",
            "alt": f"{name} of {n} studies, difference against mean, bias and limits of agreement",
            "dots": _dots((true + found) / 2 / most, 0.5 - difference / spread / 2),
            "rules": [
                ("identity", "M0 500L1000 500"),
                *(
                    ("bias" if k == 0 else "limit", _level(0.5 - value / spread / 2))
                    for k, value in enumerate(lines)
                ),
            ],
            "x_ticks": _ticks(0, most, False),
            "y_ticks": _ticks(-spread, spread, True),
            "x_name": "mean of both, ml",
        },
    ]


def _dots(x: np.ndarray, y: np.ndarray) -> str:
    """Lines of no length: with round ends they are dots, whatever the shape of the axes."""
    return "".join(f"M{1000 * a:.1f} {1000 * b:.1f}h0" for a, b in zip(x, y, strict=True))


def _level(y: float) -> str:
    return f"M0 {1000 * y:.1f}L1000 {1000 * y:.1f}"


def _ticks(low: float, high: float, upright: bool) -> list[tuple[float, str]]:
    ticks = [t for t in figures.round_ticks(low, high, 4) if low <= t <= high]
    share = [100 * (t - low) / (high - low) for t in ticks]
    return [
        (round(100 - s if upright else s, 2), f"{t:g}".replace("-", "−"))
        for s, t in zip(share, ticks, strict=True)
    ]
