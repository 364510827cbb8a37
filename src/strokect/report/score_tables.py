"""Scores as tables for people (Markdown) and for other programs (TSV)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import strokect
from strokect.evaluate.tables import ALL, cell, lesion_classes
from strokect.report.cohort_page import interval
from strokect.report.text import number

Json = Mapping[str, Any]

_EVALUATION_HEAD = (
    "Group", "Class", "n", "With lesion", "Dice (95 % interval)", "Dice, median", "Dice, all",
    "Dice, pooled", "HD95, mm", "ASSD, mm", "Precision", "Recall", "Error, ml",
    "Absolute error, ml", "ICC(2,1) of volume", "Lesions detected", "False lesions",
    "False volume, ml: mean, median, max", "False alarms",
)  # fmt: skip


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(c.replace("|", "\\|").split()) for c in line) + " |"
        for line in lines
    )


def evaluation_markdown(summary: Json) -> str:
    """table.md of one evaluation. summary : content of its summary.json."""
    limit = summary["options"]["false_ml"]
    notes = "\n".join(f"- {name}: {words}" for name, words in summary["definitions"].items())
    table = markdown_table(
        _EVALUATION_HEAD,
        [
            [group, region, *_evaluation_row(found)]
            for group, content in summary["groups"].items()
            for region, found in content["classes"].items()
        ],
    )
    split = f", split {summary['split']}" if summary["split"] else ""
    return (
        f"# Agreement with truth\n\n{strokect.RESEARCH_USE_ONLY}\n\n"
        f"{_people(summary)}{split}. False alarms: "
        f"patients without a true lesion in whom more than {limit:g} ml is found.\n\n"
        f"{table}\n\n{notes}\n"
    )


def _evaluation_row(found: Json) -> list[str]:
    lesions, false = found["lesions"], found["false_volume_ml"]
    volumes = ", ".join(number(false[k]) for k in ("value", "median", "max"))
    return [
        str(found["studies"]),
        str(found["with_lesion"]),
        interval(found["dice"], 2),
        number(found["dice"]["median"], 2),
        number(found["dice_all"]["value"], 2),
        number(found["dice_pooled"]["value"], 2),
        *(number(found[k]["value"]) for k in ("hd95_mm", "assd_mm")),
        *(number(found[k]["value"], 2) for k in ("precision", "recall")),
        *(number(found[k]["value"]) for k in ("error_ml", "absolute_error_ml")),
        number(found["volume_agreement"]["icc_2_1"]["value"], 2),
        f"{lesions['detected']} of {lesions['true']}",
        str(lesions["false"]),
        volumes if false["n"] else "n/a",
        f"{false['above_limit']} of {false['n']}",
    ]


# Several models


@dataclass(frozen=True)
class Column:
    """One measure of the table of models: where it lies in a summary, and how it is shown.

    measure : key of the class summary. wide : shown with its interval. most : key of what is
    shown behind it in words, "" for none.
    """

    title: str
    group: str
    region: str
    measure: str
    digits: int
    wide: bool = False
    most: str = ""

    @property
    def key(self) -> str:
        """Name of the column in table.tsv."""
        return f"{self.measure}_{self.region}_{self.group}".replace(" ", "_")

    def of(self, summary: Json) -> Json | None:
        """The measure of one model, None where it has no such class or group."""
        classes = summary.get(self.group, {}).get("classes", {})
        found: Json | None = classes.get(self.region, {}).get(self.measure)
        return found


def columns(content: Json) -> list[Column]:
    """Columns of the table of models. content : of comparison.json."""
    regions = lesion_classes(content["classes"])
    groups = [*(g for g in content["groups"] if g != ALL), ALL]
    out = [
        Column(f"Dice {r}, {g}", g, r, "dice", 2, wide=True) for r in regions for g in groups
    ]  # fmt: skip
    out += [Column(f"Dice {r}, pooled", ALL, r, "dice_pooled", 2) for r in regions]
    out += [Column(f"HD95 {r}, mm", ALL, r, "hd95_mm", 1) for r in regions]
    out += [Column(f"Volume error {r}, ml", ALL, r, "absolute_error_ml", 1) for r in regions]
    free = "WIS" if "WIS" in groups else ALL
    out += [
        Column(f"False {r}, {free}, ml", free, r, "false_volume_ml", 1, most="max")
        for r in regions
    ]  # fmt: skip
    return [c for c in out if any(_defined(c, m) for m in content["models"].values())]


def _defined(column: Column, summary: Json) -> bool:
    found = column.of(summary)
    return found is not None and found["n"] > 0


def comparison_rows(content: Json) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of models, for people."""
    shown = columns(content)
    rows = [[name, *(_shown(c, m) for c in shown)] for name, m in content["models"].items()]
    return ["Model", *(c.title for c in shown)], rows


def _shown(column: Column, summary: Json) -> str:
    found = column.of(summary)
    if found is None or not found["n"]:
        return "n/a"
    text = interval(found, column.digits) if column.wide else number(found["value"], column.digits)
    if column.most:
        text += f" ({column.most} {number(found[column.most], column.digits)})"
    expected = summary[column.group]["classes"][column.region]["with_lesion"]
    if column.measure == "hd95_mm" and found["n"] != expected:
        text += f", n = {found['n']} of {expected}"
    return text


def comparison_tsv(content: Json) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of table.tsv: every measure with its interval and n."""
    shown = columns(content)
    keys = ("", "_low", "_high", "_n")
    rows = []
    for name, summary in content["models"].items():
        row = {"model": name}
        for column in shown:
            found = column.of(summary) or {"value": None, "ci95": [None, None], "n": 0}
            texts = (*(cell(x, 4) for x in (found["value"], *found["ci95"])), str(found["n"]))
            row |= {column.key + k: text for k, text in zip(keys, texts, strict=True)}
        rows.append(row)
    return ["model", *(c.key + k for c in shown for k in keys)], rows


def paired_rows(content: Json) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the paired tests, for people."""
    head = [
        "Model",
        "Against",
        "Class",
        "Difference of Dice",
        "n",
        "Better",
        "Worse",
        "p",
        "p, Holm",
    ]
    return head, [
        [
            t["model"], t["reference"], t["class"], interval(t["difference"], 3),
            str(t["difference"]["n"]), str(t["better"]), str(t["worse"]),
            p_text(t["p"]), p_text(t["p_holm"]),
        ]
        for t in content["tests"]
    ]  # fmt: skip


def p_text(p: float | None) -> str:
    """A p value for people."""
    return "n/a" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def comparison_markdown(content: Json) -> str:
    """table.md of a comparison. content : of comparison.json."""
    tests = ""
    if content["tests"]:
        tests = f"\n## Paired tests\n\n{TEST_NOTE}\n\n{markdown_table(*paired_rows(content))}\n"
    return (
        f"# Models compared\n\n{strokect.RESEARCH_USE_ONLY}\n\n{counts_text(content)} "
        f"{TABLE_NOTE}\n\n{markdown_table(*comparison_rows(content))}\n{tests}"
    )


TABLE_NOTE = (
    "Dice: mean over patients with a true lesion, in brackets the 95 % interval; pooled: of all "
    "volumes together, false ones in patients without a lesion included. HD95 where something was "
    "found. Volume error: mean of the absolute error over all patients. False: mean volume found "
    "in patients without a true lesion."
)
TEST_NOTE = (
    "Dice of the model minus that of the one it is compared with, over patients with a true "
    "lesion: mean with its bootstrap interval, patients with a better and a worse one, "
    "and p of the Wilcoxon signed-rank test, as it is and by Holm's correction for all rows."
)


def counts_text(content: Json) -> str:
    """How many studies are compared, and how many are not."""
    lost = [f"{n} of {name}" for name, n in content["left_out"].items() if n]
    rest = f" Left out, as others lack them: {', '.join(lost)}." if lost else ""
    return f"{_people(content)}, common to all models ({len(content['models'])}).{rest}"


def _people(content: Json) -> str:
    """E.g. "31 studies of 30 patients"."""
    studies, patients = content["studies"], content["patients"]
    return (
        f"{studies} {'study' if studies == 1 else 'studies'} of "
        f"{patients} {'patient' if patients == 1 else 'patients'}"
    )
