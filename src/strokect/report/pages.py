"""What every page shares: the templates, how they are filled, and what each page shows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

import strokect
from strokect.core.errors import OutputError
from strokect.core.types import QualityFlag
from strokect.report import figures
from strokect.report.text import MISSING, clean, mapping, number, text

#: How the slices of a mosaic lie, for texts in place of pictures.
SIDES = "axial slices from below to above, patient's left on the right of each slice"


class Picture(NamedTuple):
    """A mosaic: id, heading, caption, data URI; its colour bar is None for tissue and CT.

    outlines : per tile an SVG path in pixels of the tile, "" for none.
    """

    key: str
    title: str
    caption: str
    alt: str
    uri: str
    bar: dict[str, Any] | None
    outlines: tuple[str, ...] = ()


def environment() -> Environment:
    """Templates of the pages; values are escaped, a missing one is an error."""
    made = Environment(
        loader=PackageLoader("strokect.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["clean"] = clean
    return made


def constants() -> dict[str, str]:
    """Version, research-use-only note, and the colours of core and penumbra."""
    return {
        "version": strokect.__version__,
        "research_use_only": strokect.RESEARCH_USE_ONLY,
        "core_rgb": f"rgb{figures.CORE_RGB}",
        "penumbra_rgb": f"rgb{figures.PENUMBRA_RGB}",
    }


def write_page(page: str, path: Path) -> None:
    """Write a page whole or not at all. Raises OutputError where it cannot be written."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(page, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"the report cannot be written ({error.strerror})", path, "Check the folder."
        ) from error


def volume_bar(core: Any, penumbra: Any) -> tuple[float, float] | None:
    """Percent of core and penumbra in their sum; None where either is unknown."""
    if MISSING in (number(core), number(penumbra)) or core + penumbra <= 0:
        return None
    share = round(100 * core / (core + penumbra), 2)
    return share, round(100 - share, 2)


def findings(summary: Any, flags: Iterable[QualityFlag]) -> dict[str, list[dict[str, str]]]:
    """Quality findings by level; an unknown level counts as a warning.

    summary : its list "quality" is taken, or ``flags`` where it has none.
    """
    listed = mapping(summary).get("quality")
    if not isinstance(listed, list | tuple):
        listed = [vars(f) for f in flags]
    found: dict[str, list[dict[str, str]]] = {"critical": [], "warning": [], "info": []}
    for row in map(mapping, listed):
        level = str(row.get("level"))
        level = level if level in found else "warning"
        found[level].append({"code": text(row.get("code")), "message": text(row.get("message"))})
    return found


def hashes(found: Any) -> list[str]:
    """Hashes alone: the names of the files they belong to are left out."""
    values = found.values() if isinstance(found, Mapping) else found
    if isinstance(values, str) or values is None:
        values = [values]
    return [text(v) for v in values]


def slices_note(view: figures.View) -> str:
    """How many of the slices a mosaic shows."""
    shown = len(view.slices)
    if shown == view.total:
        return f"All {view.total} slices"
    return f"{shown} of {view.total} slices, evenly spaced (volumes use all slices)"
