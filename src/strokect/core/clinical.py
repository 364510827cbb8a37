"""What is known of the patient beside the images: NIHSS, age, sex. Any of it may be missing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from strokect.core.errors import InputError

Score = Literal["nihss", "age", "sex"]
SCORES: tuple[Score, ...] = ("nihss", "age", "sex")
_RANGES = {"nihss": (0, 42), "age": (0, 120)}
_SEXES: dict[str, Literal["F", "M"] | None] = {
    "f": "F", "female": "F", "m": "M", "male": "M", "": None,
}  # fmt: skip


@dataclass(frozen=True)
class Clinical:
    """nihss : National Institutes of Health Stroke Scale, 0 to 42. age : years. sex : "F" or "M".

    None where not known. Raises InputError for what cannot be.
    """

    nihss: float | None = None
    age: float | None = None
    sex: Literal["F", "M"] | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise InputError(f"{value}", name, f"Give {low} to {high}")
        if self.sex not in ("F", "M", None):
            raise InputError(f"{self.sex!r}", "sex", "Give F or M")


#: A patient of whom only the images are known.
UNKNOWN = Clinical()


def parse_clinical(values: dict[str, str]) -> Clinical:
    """From the cells of a table (participants.tsv), by column name in any case.

    Empty, "n/a" and "unknown" are not known; sex may be F, M, female, male, and its column may be
    called gender. Raises InputError for what cannot be read.
    """
    cells = {k.strip().lower(): (v or "").strip() for k, v in values.items() if k}
    known = {k: v for k, v in cells.items() if v.lower() not in ("", "n/a", "na", "unknown", "nan")}
    sex = known.get("sex", known.get("gender", ""))
    if sex.lower() not in _SEXES:
        raise InputError(f"{sex!r}", "sex", "Give F, M or n/a")
    return Clinical(_number(known, "nihss"), _number(known, "age"), _SEXES[sex.lower()])


def _number(cells: dict[str, str], name: str) -> float | None:
    if name not in cells:
        return None
    try:
        return float(cells[name])
    except ValueError as error:
        raise InputError(f"{cells[name]!r}", name, "Give a number or n/a") from error
