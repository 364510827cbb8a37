"""Agreement of a found map of one scan with the true one; summed up in ``map_summary``.

Everything is counted inside a mask (the brain), in voxels whose truth is known. What each measure
is, and where it is undefined, is said in ``DEFINITIONS``, which belong into every result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy import stats

from strokect.core.errors import GeometryError, ScanError, SettingsError
from strokect.core.mapset import MapSet
from strokect.core.quantities import QUANTITIES, UNCERTAINTIES
from strokect.core.types import BoolArray, FloatArray
from strokect.evaluate.ssim import ssim
from strokect.evaluate.tables import MISSING, Case

#: Nominal levels of intervals whose coverage is counted; 0.9 is the one that is asked for.
LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95)
_NAN = float("nan")
_SPANS = ", ".join(
    f"{q.label} {q.display_range[1] - q.display_range[0]:g} {q.unit}"
    for q in QUANTITIES.values()
    if q.key not in UNCERTAINTIES
)

DEFINITIONS = {
    "voxels": "voxels of the mask whose truth is known; every other measure is over those of them "
    "that also have a found value",
    "known": "share of them that have a found value",
    "bias": "mean of found minus true, in the unit of the map",
    "mae": "mean of |found - true|, in the unit of the map",
    "mse": "mean of (found - true)^2, in the unit of the map squared",
    "nmse": "mse divided by the square of the span of the map's display range; nothing is clipped "
    f"to the range. Spans: {_SPANS}",
    "psnr_db": "10 log10(1 / nmse): the peak is the span of the display range; undefined where "
    "found and true are the same",
    "ssim": "structural similarity (Wang 2004), Gaussian windows of 11 x 11 voxels in the slice, "
    "of which only voxels in the mask count; L is the span of the display range; mean over the "
    "mask",
    "cosine": "sum(found true) / sqrt(sum(found^2) sum(true^2)); undefined where one is 0 all over",
    "pearson": "correlation of found with true over voxels; undefined where one does not vary",
    "mean_sd": "mean of the standard deviations that were given with the map",
    "coverage_90": "share of voxels whose truth lies within the central 90 % of a normal "
    "distribution of the mean and standard deviation found; so for other levels; n/a without "
    "standard deviations",
    "summary": "mean over scans, its interval by bootstrap (BCa) over patients; a scan without a "
    "measure is left out of that measure",
}


@dataclass(frozen=True)
class MapScore:
    """Agreement of one found map of one scan with its truth; NaN where a measure is undefined.

    quantity : key of ``core.quantities``. Measures as in ``DEFINITIONS``. true_mean : of the truth
    over the same voxels. coverage : one share per level of ``LEVELS``.
    """

    case: Case
    quantity: str
    voxels: int
    known: float
    true_mean: float
    bias: float = _NAN
    mae: float = _NAN
    mse: float = _NAN
    nmse: float = _NAN
    psnr_db: float = _NAN
    ssim: float = _NAN
    cosine: float = _NAN
    pearson: float = _NAN
    mean_sd: float = _NAN
    coverage: tuple[float, ...] = (_NAN,) * len(LEVELS)


#: Measures that are one figure per map, and the names of the coverages, in the order of tables.
MEASURES = tuple(
    f.name for f in fields(MapScore) if f.name not in ("case", "quantity", "voxels", "coverage")
)
COVERAGES = tuple(f"coverage_{round(100 * level)}" for level in LEVELS)


def score_map(
    case: Case,
    quantity: str,
    found: FloatArray,
    true: FloatArray,
    inside: BoolArray,
    sd: FloatArray | None = None,
) -> MapScore:
    """Score a found map against the true one.

    quantity : key of ``core.quantities``. found, true : (Z, Y, X) in its unit, not finite where
    not known. inside : (Z, Y, X), where to look. sd : (Z, Y, X), standard deviation of ``found``
    in its unit; voxels in which it is not finite do not count for the coverage.
    Raises SettingsError for an unknown quantity, GeometryError for unequal shapes, ScanError for
    a negative standard deviation.
    """
    if quantity not in QUANTITIES:
        raise SettingsError(
            f"no such map: {quantity}", fix=f"Choose of {', '.join(sorted(QUANTITIES))}"
        )
    arrays = (found, true, inside) if sd is None else (found, true, inside, sd)
    if np.ndim(inside) != 3 or len({np.shape(a) for a in arrays}) != 1:
        raise GeometryError(
            f"found, true map, mask (and SD) have shapes {[np.shape(a) for a in arrays]}",
            quantity, "Give all on one grid (Z, Y, X)",
        )  # fmt: skip
    counted = (np.asarray(inside) != 0) & np.isfinite(true)
    used = counted & np.isfinite(found)
    n, n_used = int(np.count_nonzero(counted)), int(np.count_nonzero(used))
    if not n_used:
        mean = float(np.mean(true[counted], dtype=float)) if n else _NAN
        return MapScore(case, quantity, n, 0.0 if n else _NAN, mean)
    low, high = QUANTITIES[quantity].display_range
    span = float(high - low)
    x, y = (np.asarray(a[used], float) for a in (found, true))
    error = x - y
    mse = float(np.mean(error**2))
    nmse = mse / span**2
    spread = None if sd is None else np.asarray(sd[used], float)
    return MapScore(
        case, quantity, n, n_used / n, float(np.mean(true[counted], dtype=float)),
        bias=float(error.mean()),
        mae=float(np.abs(error).mean()),
        mse=mse,
        nmse=nmse,
        psnr_db=-10 * math.log10(nmse) if nmse > 0 else _NAN,
        ssim=ssim(found, true, used, span),
        cosine=cosine_similarity(x, y),
        pearson=_correlation(x, y),
        mean_sd=_NAN if spread is None else _mean_finite(spread),
        coverage=(_NAN,) * len(LEVELS) if spread is None else coverage(x, spread, y),
    )  # fmt: skip


def score_map_set(
    case: Case, found: MapSet, true: MapSet, inside: BoolArray | None = None
) -> list[MapScore]:
    """Scores of every map that both sets have, in the order of ``core.quantities``.

    inside : (Z, Y, X), the brain of ``true`` if None. Standard deviations are those maps of
    ``found`` that are called as the map and "_sd" (``cbf_sd``).
    Raises GeometryError where the grids differ, SettingsError for colours or without a mask,
    and as ``score_map``.
    """
    if not found.grid.same_as(true.grid):
        raise GeometryError(
            "found and true maps lie on different grids", case.study, "Resample one onto the other"
        )
    mask = true.brain if inside is None else inside
    if mask is None:
        raise SettingsError("no mask to compare maps in", case.study, "Give one")
    shared = [
        k for k in QUANTITIES if k in found.maps and k in true.maps and k not in UNCERTAINTIES
    ]
    for key in shared:
        if found.maps[key].dtype == np.uint8 or true.maps[key].dtype == np.uint8:
            raise SettingsError(
                f"{key} is given in colours", case.study, "Bring it to values with core.colours"
            )
    return [
        score_map(case, k, found.maps[k], true.maps[k], mask, found.maps.get(f"{k}_sd"))
        for k in shared
    ]


def coverage(
    mean: FloatArray, sd: FloatArray, true: FloatArray, levels: Sequence[float] = LEVELS
) -> tuple[float, ...]:
    """Share of voxels whose truth lies in the central interval of each nominal level.

    mean, sd, true : of one shape; the interval is mean -/+ z sd of a normal distribution. levels :
    each between 0 and 1. Voxels in which one of the three is not finite do not count; NaN where
    none does. A well calibrated map gives back the levels.
    Raises ScanError for a negative standard deviation, SettingsError for a level out of range.
    """
    if not all(0 < level < 1 for level in levels):
        raise SettingsError(f"levels {list(levels)} of intervals", fix="Choose between 0 and 1")
    m, s, t = (np.asarray(a, float) for a in (mean, sd, true))
    fit = np.isfinite(m) & np.isfinite(s) & np.isfinite(t)
    if (s[fit] < 0).any():
        raise ScanError(
            f"standard deviations down to {s[fit].min():g}", fix="Give none below 0 (or NaN)"
        )
    if not fit.any():
        return (_NAN,) * len(levels)
    distance = np.abs(t[fit] - m[fit])
    z = (float(stats.norm.ppf(0.5 + level / 2)) for level in levels)
    return tuple(float(np.mean(distance <= k * s[fit])) for k in z)


def cosine_similarity(first: FloatArray, second: FloatArray) -> float:
    """Cosine of the angle between two arrays taken as vectors; NaN where one is 0 all over."""
    x, y = np.asarray(first, float).ravel(), np.asarray(second, float).ravel()
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size > 0 else _NAN


def _correlation(x: FloatArray, y: FloatArray) -> float:
    """Pearson's; no interval, as neighbouring voxels are not independent."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return _NAN
    return float(np.corrcoef(x, y)[0, 1])


def _mean_finite(values: FloatArray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else _NAN


# Tables


_CASE = [f.name for f in fields(Case)]
#: Columns of maps.tsv.
COLUMNS = (*_CASE, "map", "voxels", *MEASURES, *COVERAGES)


def to_row(score: MapScore) -> dict[str, str]:
    """One line of maps.tsv."""
    row = {name: getattr(score.case, name) for name in _CASE}
    row |= {"map": score.quantity, "voxels": str(score.voxels)}
    row |= {name: _cell(getattr(score, name)) for name in MEASURES}
    return row | dict(zip(COVERAGES, map(_cell, score.coverage), strict=True))


def from_row(row: Mapping[str, str | None]) -> MapScore:
    """A score from a line of maps.tsv. Raises ScanError where it is none."""
    try:
        words = {name: row[name] for name in COLUMNS}
        if (short := [k for k, v in words.items() if v is None]) != []:
            raise ValueError(f"no {short[0]}")
        text = {k: str(v) for k, v in words.items()}
        return MapScore(
            Case(*(text[name] for name in _CASE)), text["map"], int(text["voxels"]),
            **{name: _value(text[name]) for name in MEASURES},
            coverage=tuple(_value(text[name]) for name in COVERAGES),
        )  # fmt: skip
    except (KeyError, ValueError) as error:
        raise ScanError(
            f"a line of maps.tsv cannot be used ({type(error).__name__}: {error})",
            fix="Compare the maps again",
        ) from error


def _value(text: str) -> float:
    return _NAN if text == MISSING else float(text)


def _cell(value: float) -> str:
    return MISSING if not math.isfinite(value) else f"{rounded(value):g}"


def rounded(value: float) -> float:
    """Six digits, none below 1e-9: the last ones are not the same on every machine."""
    return float(f"{round(value, 9) + 0.0:.6g}")
