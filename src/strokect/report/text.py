"""Values of the summary as words for people; paths and file names, which may name a patient, go."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from strokect.core.quantities import QUANTITIES

MISSING = "n/a"
_ABSOLUTE_PATH = re.compile(  # folders may hold spaces; a slash between words is no path
    r"(?<!\w)(?:file:|[A-Za-z]:|~)?[/\\]+(?=\S)(?:[^/\\:;\n]+[/\\]+)+[^\s/\\:;,'\"]*"
)
_FILE_NAME = re.compile(r"[^\s'\"=]+\.(?:nii|gz|dcm|ima|json|npy|npz|tiff?|png|zip)\b", re.I)
#: Names of keys and columns whose values may name a patient, a place or a file.
PRIVATE_KEY = re.compile(
    r"patient|birth|accession|(^|_)(path|paths|file|files|folder|dir|directory|input|output|"
    r"source_file|label|date|subject|session|study|series|user|host|hostname)$",
    re.I,
)


def number(value: Any, digits: int = 1) -> str:
    """A number for people; "n/a" for anything that is none."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return MISSING
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else MISSING


def ratio_text(value: Any) -> str:
    """A ratio with three significant digits at most: 1.82, 18.2, 182."""
    size = abs(value) if number(value) != MISSING else 0.0
    return number(value, 2 if size < 10 else 1 if size < 100 else 0)


def text(value: Any) -> str:
    """Any value of the summary for people, without paths and file names."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(text(v) for v in value) or "none"
    return clean(str(value))


def clean(words: str) -> str:
    """Text with paths and file names taken out, as either may name a patient."""
    return _FILE_NAME.sub("[file]", _ABSOLUTE_PATH.sub("[path]", words))


def rows(table: Any, skip: Iterable[str] = (), prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as (dotted name, text), without keys that may name a patient."""
    found: list[tuple[str, str]] = []
    for key, value in mapping(table).items():
        name = str(key)
        if name in skip or PRIVATE_KEY.search(name) or clean(name) != name:
            continue
        if isinstance(value, Mapping):
            found += rows(value, skip, f"{prefix}{name}.")
        else:
            found.append((prefix + name, text(value)))
    return found


def condition(rule: Any) -> str:
    """A threshold such as "TMAX > 6" with the label and unit of its quantity: "Tmax > 6 s"."""
    words = "" if rule is None else text(rule)
    found = re.fullmatch(r"(r?)([A-Z]+) ([<>] [\d.]+)", words)
    if not found or found[2].lower() not in QUANTITIES:
        return words
    quantity = QUANTITIES[found[2].lower()]
    return f"{found[1]}{quantity.label} {found[3]}" + ("" if found[1] else f" {quantity.unit}")


def position(position_mm: Iterable[float]) -> str:
    """A RAS position with the patient's directions, e.g. "L 38, A 12, S 24 mm"."""
    parts = []
    for value, (plus, minus) in zip(position_mm, (("R", "L"), ("A", "P"), ("S", "I")), strict=True):
        if not math.isfinite(value):
            return MISSING
        parts.append(f"{plus if value >= 0 else minus} {abs(value):.0f}")
    return ", ".join(parts) + " mm"


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one: any key of a summary may be missing."""
    return value if isinstance(value, Mapping) else {}
