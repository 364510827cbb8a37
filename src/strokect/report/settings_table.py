"""The table of settings: what each gives its network, how it is trained, what comes of it.

Rows are settings, columns groups by classes, as in the table of the multi-input models whose F1
is that of all voxels of a group together. With it, what each factor adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import strokect
from strokect.evaluate.factors import SettingRow
from strokect.evaluate.paired import Models, common
from strokect.evaluate.tables import ALL, cell, classes_of, groups_of, lesion_classes
from strokect.report.score_tables import counts_text, markdown_table, p_text
from strokect.report.text import number

Json = Mapping[str, Any]
#: Model -> group -> class -> standard deviation of the Dice, None where it is undefined.
Deviations = Mapping[str, Mapping[str, Mapping[str, float | None]]]

NO_INFO = "–"
_TICK = "✓"
_DIGITS = 3
_INFO = ("Setting", "PMs", "MIP", "NIHSS", "Layer weights")
_INFO_KEYS = ("setting", "maps", "scores", "layer_weights")


def dice_deviations(models: Models) -> dict[str, dict[str, dict[str, float | None]]]:
    """Standard deviation (n - 1) of the Dice over patients with a true lesion, for the table.

    models : name -> scores. Only studies common to all count, as in a comparison; the Dice of a
    patient is the mean over the studies. None below two patients.
    Raises ScanError as ``paired.common`` does.
    """
    out: dict[str, dict[str, dict[str, float | None]]] = {}
    for name, scores in common(models).items():
        for group in groups_of(scores):
            for region in classes_of(scores):
                by_patient: dict[str, list[float]] = {}
                for s in scores:
                    if s.region == region and s.affected and group in (ALL, s.case.group):
                        by_patient.setdefault(s.case.patient, []).append(s.dice)
                means = [float(np.mean(values)) for values in by_patient.values()]
                sd = round(float(np.std(means, ddof=1)), 4) if len(means) > 1 else None
                out.setdefault(name, {}).setdefault(group, {})[region] = sd
    return out


@dataclass(frozen=True)
class _Place:
    """A group and a class of the table."""

    group: str
    region: str

    @property
    def title(self) -> str:
        return f"{self.group} {self.region}"

    def of(self, summary: Json) -> Json | None:
        """The class summary of one model, None where it has no such class or group."""
        found: Json | None = summary.get(self.group, {}).get("classes", {}).get(self.region)
        return found


def _places(content: Json) -> list[_Place]:
    """Groups with a true lesion by classes; all patients as one where they have no groups."""
    regions = lesion_classes(content["classes"])
    groups = [g for g in content["groups"] if g != ALL] or [ALL]
    places = [_Place(g, r) for g in groups for r in regions]
    return [p for p in places if any(_with_lesion(p, m) for m in content["models"].values())]


def _with_lesion(place: _Place, summary: Json) -> int:
    return int((place.of(summary) or {}).get("with_lesion", 0))


def _lines(content: Json, rows: Iterable[SettingRow]) -> dict[str, SettingRow | None]:
    """The settings in their order, and then the models that are none."""
    lines: dict[str, SettingRow | None] = {row.name: row for row in rows}
    return lines | {name: None for name in content["models"] if name not in lines}


def settings_markdown(
    content: Json, rows: Sequence[SettingRow], deviations: Deviations | None = None
) -> str:
    """The table of settings for people, the best of each column in bold.

    content : of comparison.json. rows : of the settings, in the order of the table; models that
    are no setting follow without ticks, settings without a model have no figures. deviations : as
    of ``dice_deviations``; without them the Dice stands alone.
    """
    places, lines = _places(content), _lines(content, rows)
    head = [*_INFO, *(f"{m}, {p.title}" for m in ("F1", "Dice") for p in places)]
    found = [
        [_f1(content, name, p) for p in places] + [_dice(content, name, p) for p in places]
        for name in lines
    ]
    best = [max((x for x in c if x is not None), default=None) for c in zip(*found, strict=True)]
    body = []
    for (name, row), values in zip(lines.items(), found, strict=True):
        spread = [*[""] * len(places), *(_plus_minus(deviations, name, p) for p in places)]
        shown = [
            number(x, _DIGITS) + ("" if x is None else more)
            for x, more in zip(values, spread, strict=True)
        ]
        bold = [
            len(lines) > 1 and x is not None and x == b for x, b in zip(values, best, strict=True)
        ]
        cells = [f"**{t}**" if b else t for t, b in zip(shown, bold, strict=True)]
        body.append([name, *_ticks(row), *cells])
    return (
        f"# Settings compared\n\n{strokect.RESEARCH_USE_ONLY}\n\n{counts_text(content)} "
        f"With a true lesion: {_lesion_counts(content, places)}. {NOTE}\n\n"
        f"{markdown_table(head, body)}\n"
    )


NOTE = (
    "F1: Dice of all voxels of the group's patients together. Dice: mean over the group's "
    "patients with a true lesion of the class, ± its standard deviation. PMs: parametric maps. "
    "Bold: the best of the column."
)


def _lesion_counts(content: Json, places: Sequence[_Place]) -> str:
    counts = {p.title: max(_with_lesion(p, m) for m in content["models"].values()) for p in places}
    return ", ".join(f"{title} {n}" for title, n in counts.items()) or "none"


def _ticks(row: SettingRow | None) -> list[str]:
    if row is None:
        return [NO_INFO] * (len(_INFO) - 1)
    there = (set(row.maps) - {"mip"}, "mip" in row.maps, "nihss" in row.scores)
    return [*(_TICK if x else "" for x in there), row.weights]


def _measure(content: Json, name: str, place: _Place, key: str) -> Json:
    found = place.of(content["models"].get(name, {})) or {}
    return found.get(key) or {"value": None, "ci95": [None, None], "n": 0}


def _f1(content: Json, name: str, place: _Place) -> float | None:
    return _rounded(_measure(content, name, place, "dice_pooled"))


def _dice(content: Json, name: str, place: _Place) -> float | None:
    return _rounded(_measure(content, name, place, "dice"))


def _rounded(found: Json) -> float | None:
    """As it is shown, so that what looks the same is equally good."""
    return None if found["value"] is None else round(float(found["value"]), _DIGITS)


def _deviation(deviations: Deviations | None, name: str, place: _Place) -> float | None:
    return (deviations or {}).get(name, {}).get(place.group, {}).get(place.region)


def _plus_minus(deviations: Deviations | None, name: str, place: _Place) -> str:
    sd = _deviation(deviations, name, place)
    return "" if sd is None else f" ± {number(sd, _DIGITS)}"


def settings_tsv(
    content: Json, rows: Sequence[SettingRow], deviations: Deviations | None = None
) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of the table of settings for programs: every figure with interval and n.

    Arguments as of ``settings_markdown``. Of F1, n are the group's studies; of Dice those with a
    true lesion. Undefined is "n/a".
    """
    places = _places(content)
    keys: list[str] = []
    out = []
    for name, row in _lines(content, rows).items():
        info = [NO_INFO] * 3
        if row is not None:
            info = [",".join(row.maps), ",".join(row.scores), row.weights]
        line = dict(zip(_INFO_KEYS, (name, *info), strict=True))
        for place in places:
            f1, dice = (_measure(content, name, place, k) for k in ("dice_pooled", "dice"))
            end = f"{place.region}_{place.group}".replace(" ", "_")
            line |= _figures(f"f1_{end}", f1)
            line |= _figures(f"dice_{end}", dice)
            line[f"dice_{end}_sd"] = cell(_deviation(deviations, name, place), 4)
        keys = list(line)
        out.append(line)
    return keys or list(_INFO_KEYS), out


def _figures(key: str, found: Json) -> dict[str, str]:
    low, high = found["ci95"]
    values = {key: found["value"], f"{key}_low": low, f"{key}_high": high}
    return {k: cell(v, 4) for k, v in values.items()} | {f"{key}_n": str(found["n"])}


# Factors


FACTOR_NOTE = (
    "Dice with the factor minus that without it, everything else the same: per patient with a true "
    "lesion, averaged over the pairs of settings that differ in the factor alone. Mean with its "
    "bootstrap interval over patients, patients better and worse, and p of the Wilcoxon "
    "signed-rank test, as it is and by Holm's correction for all rows. A factor adds where the "
    "interval lies above 0. Each setting was trained once: the interval tells what to expect in "
    "other patients, not after another training."
)


def factors_markdown(effects: Sequence[Json]) -> str:
    """What each factor adds, as a sentence per factor and class and a table, for people.

    effects : as of ``evaluate.factors.factor_effects``.
    """
    if not effects:
        return "## What each factor adds\n\nNo two settings differ in one factor alone.\n"
    head = (
        "Factor", "Class", "Group", "Pairs", "Difference of Dice", "n", "Better", "Worse", "p",
        "p, Holm", "Effect",
    )  # fmt: skip
    body = [
        [
            e["factor"], e["class"], e["group"], str(e["pairs"]), _signed(e["difference"]),
            str(e["difference"]["n"]), str(e["better"]), str(e["worse"]), p_text(e["p"]),
            p_text(e["p_holm"]), e["effect"],
        ]
        for e in effects
    ]  # fmt: skip
    sentences = "\n".join(f"- {s}" for s in factor_sentences(effects))
    table = markdown_table(head, body)
    return f"## What each factor adds\n\n{sentences}\n\n{FACTOR_NOTE}\n\n{table}\n"


def factor_sentences(effects: Sequence[Json]) -> list[str]:
    """One sentence per factor and class: all patients first, then the groups."""
    by_both: dict[tuple[str, str], list[Json]] = {}
    for effect in effects:
        by_both.setdefault((effect["factor"], effect["class"]), []).append(effect)
    return [
        f"{factor}, {region}: " + "; ".join(_clause(e) for e in found) + "."
        for (factor, region), found in by_both.items()
    ]


def _clause(effect: Json) -> str:
    n = effect["difference"]["n"]
    where = "" if effect["group"] == ALL else f"{effect['group']} "
    figure = f"{_signed(effect['difference'])}, " if n else ""
    return f"{where}{effect['effect']} ({figure}{n} {'patient' if n == 1 else 'patients'})"


def _signed(found: Json) -> str:
    """A difference with its sign and interval: "+0.012 (−0.004 to +0.027)"."""
    value, low, high = (_plus(x) for x in (found["value"], *found["ci95"]))
    return value if found["ci95"][0] is None else f"{value} ({low} to {high})"


def _plus(value: float | None) -> str:
    if value is None:
        return number(value)
    shown = round(value, _DIGITS) + 0.0  # no "−0.000"
    return ("+" if shown > 0 else "") + number(shown, _DIGITS)
