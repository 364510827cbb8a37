"""The report: one HTML file that holds everything, to be read in a minute.

``write_report`` prepares numbers (texts, "n/a" where one is missing) and pictures; the templates
beside this file lay them out. Nothing that could name a patient is printed: no input path, no
file name; the summary itself carries no patient data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from strokect.core import colours
from strokect.core.quantities import QUANTITIES
from strokect.core.result import InputCurve, PerfusionResult
from strokect.core.types import BoolArray
from strokect.report import figures
from strokect.report.figures import View
from strokect.report.pages import (
    SIDES,
    Picture,
    constants,
    environment,
    findings,
    hashes,
    slices_note,
    volume_bar,
    write_page,
)
from strokect.report.text import (
    MISSING,
    condition,
    mapping,
    number,
    position,
    ratio_text,
    rows,
    text,
)

#: Maps in the order of the page, each pair side by side.
MAP_ORDER = ("cbf", "cbv", "mtt", "delay", "ttp", "mip")
TMAX_OUTLINE_S = 6.0
_SMALLEST_ISLAND_MM2 = 50.0  # outlined; smaller ones are specks of noise


def write_report(result: PerfusionResult, path: Path) -> None:
    """Write the report of ``result`` to ``path``, whole or not at all.

    The same result gives the same bytes. Raises OutputError where the file cannot be written.
    """
    write_page(render(result), path)


def render(result: PerfusionResult) -> str:
    """The report as one HTML text."""
    brain = result.masks.get("brain")
    view = figures.view_of(result.grid, None if brain is None else brain.data)
    context = _numbers(result) | _pictures(result, view) | _curves(result, view)
    page = environment().get_template("report.html").render(constants(), **context)
    return page.lstrip() + "\n"


# Numbers and texts


def _numbers(result: PerfusionResult) -> dict[str, Any]:
    """Headline numbers, criteria, findings and the record of the analysis."""
    summary = mapping(result.summary)
    volumes, mismatch = mapping(summary.get("volumes_ml")), mapping(summary.get("mismatch"))
    method = mapping(summary.get("method"))
    thresholds = mapping(method.get("thresholds"))
    ratio = ratio_text(mismatch.get("ratio"))
    core = volumes.get("core")
    headline = [
        ("core", "Core", number(core), "ml", condition(thresholds.get("core"))),
        (
            "hypoperfusion",
            "Hypoperfusion",
            number(volumes.get("hypoperfusion")),
            "ml",
            condition(thresholds.get("hypoperfusion")),
        ),
        ("penumbra", "Mismatch", number(_penumbra(summary)), "ml", "hypoperfused, not core"),
        (
            "ratio",
            "Mismatch ratio",
            ratio,
            "",
            "core is 0 ml" if ratio == MISSING and core == 0 else "hypoperfusion / core",
        ),
    ]
    details = [
        ("HIR", number(summary.get("hir"), 2), "", "Tmax > 10 s / Tmax > 6 s"),
        ("CBV index", number(summary.get("cbv_index"), 2), "", "in Tmax > 6 s / unaffected"),
        ("Side", text(summary.get("side")), "", ""),
        *(
            (f"Tmax > {s} s", number(volumes.get(f"tmax_gt_{s}")), "ml", "")
            for s in ("4", "8", "10")
        ),
    ]
    provenance = mapping(summary.get("provenance"))
    return {
        "headline": headline,
        "details": details,
        "bar": volume_bar(core, _penumbra(summary)),
        "sentence": _sentence(summary),
        "criteria": _criteria(summary),
        "findings": findings(result.summary, result.flags),
        "rule": text(method.get("rule")),
        "method": _method(method),
        "thresholds": [(name, condition(value)) for name, value in rows(thresholds)],
        "reference": _reference(method.get("reference")),
        "settings": rows(summary.get("settings")),
        "timing": [
            (name.replace("_", " "), number(value, 2))
            for name, value in mapping(summary.get("timing_s")).items()
        ],
        "peak_memory": number(summary.get("peak_memory_mb"), 0),
        "provenance": rows(provenance, skip=("input_sha256",)),
        "hashes": hashes(provenance.get("input_sha256")),
        "schema": text(summary.get("schema")),
    }


def _penumbra(summary: Mapping[str, Any]) -> Any:
    """Mismatch volume, or the penumbra's where the summary lacks it."""
    value = mapping(summary.get("mismatch")).get("volume_ml")
    return mapping(summary.get("volumes_ml")).get("penumbra") if value is None else value


def _sentence(summary: Mapping[str, Any]) -> str:
    """One plain sentence with the finding; empty where numbers are missing."""
    volumes = mapping(summary.get("volumes_ml"))
    core, deficit, side = volumes.get("core"), volumes.get("hypoperfusion"), summary.get("side")
    if MISSING in (number(core), number(deficit)):
        return ""
    if deficit == 0:
        return "No hypoperfused tissue found."
    where = {"left": "left", "right": "right", "bilateral": "bilateral"}.get(str(side), "")
    start = f"{where} hypoperfusion".strip().capitalize()
    ratio = ratio_text(mapping(summary.get("mismatch")).get("ratio"))
    words = f"{start} of {number(deficit)} ml with a core of {number(core)} ml"
    words += f"; mismatch {number(_penumbra(summary))} ml"
    return words + ("." if ratio == MISSING else f", ratio {ratio}.")


def _criteria(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    table = summary.get("criteria")
    styles = {"met": "met", "not met": "not-met"}
    return [
        {
            "name": text(row.get("name")),
            "status": text(row.get("status")),
            "style": styles.get(str(row.get("status")), "open"),
            "detail": text(row.get("detail")).replace(">=", "≥").replace("<=", "≤"),
        }
        for row in (table if isinstance(table, list | tuple) else ())
        if isinstance(row, Mapping)
    ]


def _method(method: Mapping[str, Any]) -> list[tuple[str, str]]:
    known = {
        "estimator": "Estimator",
        "denoise": "Denoiser",
        "rule": "Tissue rule",
        "rule_source": "Source of the rule",
        "motion_correction": "Motion correction",
        "interval_s": "Frame interval",
        "analysis_interval_s": "Analysis interval",
        "frames": "Frames",
    }
    table = [(label, text(method.get(key))) for key, label in known.items()]
    table = [
        (label, {"yes": "on", "no": "off"}.get(value, value))
        if label == "Motion correction"
        else (label, value + " s" if label.endswith("interval") and value != MISSING else value)
        for label, value in table
    ]
    others = rows(method, skip=(*known, "aif", "vof", "thresholds", "reference", "reader_notes"))
    return table + [(name.replace("_", " "), value) for name, value in others]


def _reference(found: Any) -> list[tuple[str, str]]:
    """Means over unaffected tissue, with units."""
    return [
        (QUANTITIES[key].label, f"{number(value)} {QUANTITIES[key].unit}")
        for key, value in mapping(found).items()
        if key in QUANTITIES and number(value) != MISSING
    ]


# Pictures


def _pictures(result: PerfusionResult, view: View) -> dict[str, Any]:
    """Mosaics, the geometry of their tiles, and where the viewer starts."""
    brain = result.masks.get("brain")
    shown = None if brain is None else view.tiles(brain.data)
    empty = np.zeros((len(view.slices), *view.tile), bool)

    def mask(name: str) -> BoolArray:
        return view.tiles(result.masks[name].data) if name in result.masks else empty

    ct = view.smooth_tiles(result.mean_ct.data)
    core, penumbra = mask("core"), mask("penumbra") & ~mask("core")
    grey = colours.colour_palette("gray")
    tissue = figures.tissue_levels(ct, core, penumbra)
    mosaics = {
        "ct": _picture("ct", view, colours.levels(ct, figures.CT_WINDOW_HU), grey),
        "tissue": _picture("tissue", view, tissue, figures.tissue_palette()),
    }
    for key in ("tmax", *MAP_ORDER):
        if key in result.maps:
            quantity = QUANTITIES[key]
            data = result.maps[key].data
            tiles = view.smooth_tiles(data) if key == "mip" else view.tiles(data)
            index = colours.levels(tiles, quantity.display_range, None if key == "mip" else shown)
            mosaics[key] = _picture(key, view, index, colours.colour_palette(quantity.colour_map))

    outlines: list[str] = []
    if "tmax" in result.maps:
        late = np.nan_to_num(view.tiles(result.maps["tmax"].data)) > TMAX_OUTLINE_S
        late = late if shown is None else late & shown
        step = float(np.diff(view.rows).mean()) if len(view.rows) > 1 else 1.0
        pixel_mm = result.grid.spacing_mm[view.axes[1]] * step
        smallest = round(_SMALLEST_ISLAND_MM2 / pixel_mm**2)
        outlines = [figures.outline(m) for m in figures.without_specks(late, smallest)]
    affected = (core | penumbra).sum(axis=(1, 2))
    return {
        "view": view,
        "mosaics": mosaics,
        "map_order": [k for k in MAP_ORDER if k in mosaics],
        "outlines": outlines,
        "corners": [view.corner(n) for n in range(len(view.slices))],
        "slice_numbers": [int(s) + 1 for s in view.slices],
        "start": int(affected.argmax()) if affected.any() else len(view.slices) // 2,
        "every": slices_note(view),
    }


def _picture(key: str, view: View, index: figures.Bytes, palette: figures.Bytes) -> Picture:
    uri = figures.png_uri(figures.mosaic(index, view), palette)
    if key in ("ct", "tissue"):
        title = {"ct": "Mean CT", "tissue": "Core and penumbra"}[key]
        caption = "Temporal mean, window 0 to 80 HU"
        return Picture(key, title, caption, f"{title}: {SIDES}", uri, None)
    quantity = QUANTITIES[key]
    bar = {
        "gradient": figures.gradient(palette),
        "ticks": figures.bar_ticks(quantity),
        "unit": quantity.unit,
    }
    alt = f"{quantity.long_name} map: {SIDES}"
    return Picture(key, quantity.label, quantity.long_name, alt, uri, bar)


# Curves and motion


def _curves(result: PerfusionResult, view: View) -> dict[str, Any]:
    """Panels of the input functions and of the motion, and where the inputs lie."""
    curves = result.curves
    aif, vof = curves.aif, curves.vof
    lines: list[figures.Curve] = [
        (c.curve_hu, "candidate", "" if n else "AIF candidates")
        for n, c in enumerate(curves.aif_candidates)
    ]
    if vof is not None:
        lines.append((vof.curve_hu, "vof", "VOF"))
    if np.shape(aif.raw_hu) and not np.allclose(aif.raw_hu, aif.curve_hu, equal_nan=True):
        lines.append((aif.raw_hu, "aif raw", "AIF measured"))
        lines.append((aif.curve_hu, "aif", "AIF used (scaled)"))
    else:
        lines.append((aif.curve_hu, "aif", "AIF used"))
    tissue: list[figures.Curve] = [(curves.tissue_hu, "tissue", "")]
    return {
        "input_panels": [
            figures.panel("Arterial and venous curves", "HU", curves.time_s, lines),
            figures.panel("Brain tissue, mean", "HU", curves.time_s, tissue),
        ],
        "inputs": [
            _input("Arterial input (AIF)", "aif", aif, result, view),
            None if vof is None else _input("Venous output (VOF)", "vof", vof, result, view),
        ],
        "candidates": len(curves.aif_candidates),
        "motion": _motion(result),
    }


def _input(
    title: str, key: str, curve: InputCurve, result: PerfusionResult, view: View
) -> dict[str, Any]:
    """One input function: its numbers, and the slice it lies in with a marker."""
    entry: dict[str, Any] = {"title": title, "key": key, "thumbnail": None, "slice": MISSING}
    voxels = np.asarray(curve.voxels, dtype=float).reshape(-1, 3)
    if len(voxels):
        at, x, y = view.locate(voxels.mean(axis=0), result.grid.shape)
        if 0 <= at < view.total:
            source = result.maps.get("mip", result.mean_ct)
            window = QUANTITIES["mip"].display_range if "mip" in result.maps else None
            tile = view.smooth_tiles(source.data, np.array([at]))[0]
            index = colours.levels(tile, window or figures.CT_WINDOW_HU)
            entry["thumbnail"] = figures.png_uri(index, colours.colour_palette("gray"))
            entry |= {"slice": f"{at + 1} of {view.total}", "x": round(x, 1), "y": round(y, 1)}
    time, used = np.asarray(result.curves.time_s), np.asarray(curve.curve_hu)
    peak = int(np.nanargmax(used)) if np.isfinite(used).any() else None
    arrival = mapping(mapping(mapping(result.summary).get("method")).get(key)).get("arrival_s")
    entry["rows"] = [
        ("Position", position(curve.position_mm)),
        ("Slice", entry["slice"]),
        ("Peak", MISSING if peak is None else f"{number(used[peak], 0)} HU at {time[peak]:.0f} s"),
        ("Arrival", MISSING if number(arrival) == MISSING else f"{number(arrival)} s"),
        ("Scale factor", number(curve.scale, 2)),
        ("Confidence", number(curve.confidence, 2)),
        ("Source", text(curve.source)),
        ("Voxels", str(len(voxels))),
    ]
    return entry


def _motion(result: PerfusionResult) -> dict[str, Any] | None:
    """Panels of translation, rotation and displacement; None where motion was not estimated."""
    motion = result.motion
    if motion is None:
        return None
    time = np.asarray(motion.time_s, dtype=float)
    values = np.asarray(motion.parameters, dtype=float).reshape(len(time), 6)
    replaced = [int(f) for f in motion.replaced if 0 <= int(f) < len(time)]
    along, about = ("x, right", "y, front", "z, up"), ("x", "y", "z")

    def axes(first: int, labels: tuple[str, ...]) -> list[figures.Curve]:
        return [(values[:, first + k], f"axis-{k}", label) for k, label in enumerate(labels)]

    plot: Callable[..., figures.Panel] = figures.panel
    at = time[replaced]
    displacement: list[figures.Curve] = [(motion.displacement_mm, "axis-0", "")]
    return {
        "panels": [
            plot("Translation", "mm", time, axes(0, along), marks_s=at),
            plot("Rotation", "°", time, axes(3, about), marks_s=at),
            plot("Displacement", "mm", time, displacement, marks_s=at),
        ],
        "largest": number(np.nanmax(motion.displacement_mm)) if len(time) else MISSING,
        "replaced": [f + 1 for f in replaced],
        "frames": len(time),
    }
