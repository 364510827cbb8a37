"""The report of a network's segmentation: one HTML file, the sibling of the perfusion report.

Nothing that could name a patient is printed: no input path, no file name. Any number of the
summary may be missing: it is "n/a" then, and what the network does not know is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from strokect import VIRTUAL_ONLY
from strokect.core import colours
from strokect.core.quantities import Quantity
from strokect.core.result import SegmentationResult
from strokect.core.types import BoolArray, Volume
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
from strokect.report.text import MISSING, mapping, number, rows, text

#: Regions in the order of the page, and what each is.
REGIONS = {
    "core": "dead or dying tissue",
    "penumbra": "hypoperfused, not core",
    "hypoperfusion": "core and penumbra",
}
_PROBABILITY = Quantity("p", "P", "Probability", "probability", "1", (0, 1), "viridis")
_SD = Quantity("sd", "SD", "SD of the probability", "SD", "1", (0, 0.3), "plasma")
_SMALLEST_ISLAND_MM2 = 10.0  # outlined; a mask full of specks would outgrow the page


def write_segmentation_report(result: SegmentationResult, path: Path) -> None:
    """Write the report of ``result`` to ``path``, whole or not at all.

    The same result gives the same bytes. Raises OutputError where the file cannot be written.
    """
    write_page(render(result), path)


def render(result: SegmentationResult) -> str:
    """The report as one HTML text."""
    brain = result.masks.get("brain")
    view = figures.view_of(result.grid, None if brain is None else brain.data)
    context = _numbers(result) | _record(mapping(result.summary)) | _pictures(result, view)
    page = environment().get_template("segmentation.html").render(constants(), **context)
    return page.lstrip() + "\n"


# Numbers and texts


def _known(result: SegmentationResult) -> list[str]:
    """Regions that the network knows of; core where nothing tells."""
    volumes = mapping(mapping(result.summary).get("volumes_ml"))
    sources = (result.masks, result.probabilities, volumes)
    return [name for name in REGIONS if any(name in s for s in sources)] or ["core"]


def _numbers(result: SegmentationResult) -> dict[str, Any]:
    """Volumes, the sentence, findings and the model."""
    summary = mapping(result.summary)
    volumes, intervals = (mapping(summary.get(k)) for k in ("volumes_ml", "volume_range_ml"))
    known = _known(result)
    model = mapping(summary.get("model"))
    return {
        "headline": [(k, k.capitalize(), number(volumes.get(k)), "ml", REGIONS[k]) for k in known],
        "bar": volume_bar(volumes.get("core"), volumes.get("penumbra")),
        "sentence": _sentence(volumes, known),
        "volumes": [
            (k.capitalize(), number(volumes.get(k)), _interval(intervals.get(k))) for k in known
        ],
        "with_intervals": any(_interval(intervals.get(k)) != MISSING for k in known),
        "findings": findings(summary, result.flags),
        "model": _model(model, drawn=bool(result.uncertainty)),
        "weights": text(model.get("weights_sha256")),
        "virtual_warning": VIRTUAL_ONLY if model.get("virtual_only") is True else "",
    }


def _record(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, time and memory, versions and hashes."""
    provenance = mapping(summary.get("provenance"))
    return {
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


def _sentence(volumes: Mapping[str, Any], known: list[str]) -> str:
    """One plain sentence with the finding; empty where a number of it is missing."""
    found = [volumes.get(k) for k in known]
    if MISSING in map(number, found):
        return ""
    parts = [k for k in known if k != "hypoperfusion"]
    if not any(found):
        return f"No {' or '.join(parts or known)} found."
    words = " and ".join(f"{k} of {number(volumes[k])} ml" for k in parts)
    if "hypoperfusion" in known:
        both = f"hypoperfusion of {number(volumes['hypoperfusion'])} ml"
        words = f"{both}: {words}" if parts else both
    return words[0].upper() + words[1:] + "."


def _interval(found: Any) -> str:
    """ "12.1 to 18.3", or "n/a" for anything that is no pair of numbers."""
    if not isinstance(found, list | tuple) or len(found) != 2:
        return MISSING
    low, high = map(number, found)
    return MISSING if MISSING in (low, high) else f"{low} to {high}"


def _model(model: Mapping[str, Any], drawn: bool) -> list[tuple[str, str]]:
    """What made the segmentation. drawn : whether the result has maps of uncertainty."""
    known = ("name", "network", "parameters", "trained_on", "virtual_only", "uncertainty",
             "weights_sha256")  # fmt: skip
    parameters = number(model.get("parameters"), 0)
    return [
        ("Name", text(model.get("name"))),
        ("Network", text(model.get("network"))),
        ("Parameters", parameters if parameters == MISSING else f"{model['parameters']:,.0f}"),
        ("Trained on", text(model.get("trained_on"))),
        ("Virtual patients only", text(model.get("virtual_only"))),
        ("Uncertainty", _uncertainty(mapping(model.get("uncertainty")), drawn)),
        *((name.replace("_", " "), value) for name, value in rows(model, skip=known)),
    ]


def _uncertainty(found: Mapping[str, Any], drawn: bool) -> str:
    method, draws = found.get("method"), number(found.get("draws"), 0)
    if method is None:
        return MISSING if drawn else "none"
    return text(method) if draws == MISSING else f"{text(method)}, {draws} draws"


# Pictures


def _pictures(result: SegmentationResult, view: View) -> dict[str, Any]:
    """Mosaics and the geometry of their tiles."""
    inside = {k: view.tiles(result.masks[k].data) for k in REGIONS if k in result.masks}
    smallest = _smallest_island(result, view)
    outlines = {
        k: tuple(figures.outline(m) for m in figures.without_specks(found, smallest))
        for k, found in inside.items()
    }
    brain = result.masks.get("brain")
    shown = None if brain is None else view.tiles(brain.data)
    if shown is not None:
        for found in inside.values():
            shown = shown | found

    def maps(kind: str, of: Mapping[str, Volume], quantity: Quantity) -> list[Picture]:
        return [
            _map(f"{kind}-{k}", quantity, k, of[k], view, shown)._replace(
                outlines=outlines.get(k, ())
            )
            for k in REGIONS
            if k in of
        ]

    probabilities = maps("p", result.probabilities, _PROBABILITY)
    return {
        "view": view,
        "mosaics": [_tissue(result, view, inside), *probabilities],
        "uncertainties": maps("sd", result.uncertainty, _SD),
        "with_penumbra": "penumbra" in _known(result),
        "corners": [view.corner(n) for n in range(len(view.slices))],
        "slice_numbers": [int(s) + 1 for s in view.slices],
        "every": slices_note(view),
    }


def _smallest_island(result: SegmentationResult, view: View) -> int:
    """Pixels of the smallest part of a mask that is outlined; at least 1."""
    step = float(np.diff(view.rows).mean()) if len(view.rows) > 1 else 1.0
    pixel_mm = result.grid.spacing_mm[view.axes[1]] * step
    return max(1, round(_SMALLEST_ISLAND_MM2 / pixel_mm**2))


def _tissue(result: SegmentationResult, view: View, inside: dict[str, BoolArray]) -> Picture:
    """Mean CT with core and penumbra over it, in the colours of the perfusion report."""
    ct = view.smooth_tiles(result.mean_ct.data)
    empty = np.zeros(ct.shape, bool)
    core = inside.get("core", empty)
    index = figures.tissue_levels(ct, core, inside.get("penumbra", empty) & ~core)
    uri = figures.png_uri(figures.mosaic(index, view), figures.tissue_palette())
    title = "Core and penumbra" if "penumbra" in _known(result) else "Core"
    caption = "Over mean CT, window 0 to 80 HU"
    return Picture("tissue", title, caption, f"{title} on mean CT: {SIDES}", uri, None)


def _map(
    key: str, quantity: Quantity, region: str, found: Volume, view: View, shown: BoolArray | None
) -> Picture:
    palette = colours.colour_palette(quantity.colour_map)
    index = colours.levels(view.tiles(found.data), quantity.display_range, shown)
    bar = {
        "gradient": figures.gradient(palette),
        "ticks": figures.bar_ticks(quantity),
        "unit": quantity.unit,
    }
    caption = f"{quantity.long_name} of {region}"
    uri = figures.png_uri(figures.mosaic(index, view), palette)
    return Picture(key, f"{quantity.label}({region})", caption, f"{caption}: {SIDES}", uri, bar)
