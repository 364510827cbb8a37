"""Tables of the people of a data set: group, split, clinical scores."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from strokect.core.clinical import UNKNOWN, Clinical, parse_clinical
from strokect.core.errors import InputError, ScanError

GROUPS = {name.lower(): name for name in ("LVO", "non-LVO", "WIS")}
SPLITS = ("train", "val", "test")
_UNKNOWN = ("", "n/a")


@dataclass(frozen=True)
class Person:
    """What a table says of a patient; see ``io.cases.Case``. cells : all of it, by column."""

    group: str = ""
    split: str = ""
    clinical: Clinical = UNKNOWN
    cells: dict[str, str] = field(default_factory=dict)


def read_people(path: Path) -> dict[str, Person]:
    """People by id of a table with a header; empty where there is no such file.

    path : tab-separated, or with commas or semicolons where it ends in .csv. Its columns are
    called participant_id or patient, and as wanted group, split, nihss, age, sex or gender; case
    does not matter. A group that is none of ours counts as not known.
    Raises ScanError for a table without participants, a participant named twice, a value that
    cannot be, and a split that is none of ours: leaving it out in silence could put a test
    patient into training.
    """
    if not path.exists():
        return {}
    found: dict[str, Person] = {}
    for line, cells in enumerate(_rows(path), 2):
        person = cells.get("participant_id") or cells.get("patient", "")
        split = cells.get("split", "")
        if not person:
            raise ScanError(f"no participant_id in line {line}", path, "Correct or remove it")
        if person in found:
            raise ScanError(f"{person} stands there twice", path, "Remove one of its lines")
        if split not in (*SPLITS, *_UNKNOWN):
            fix = f"Use one of {', '.join(SPLITS)}, or n/a"
            raise ScanError(f"split {split!r} in line {line}", path, fix)
        try:
            clinical = parse_clinical(cells)
        except InputError as error:
            what = f"{error.where} {error.what} in line {line}"
            raise ScanError(what, path, error.fix) from error
        group = GROUPS.get(cells.get("group", "").lower(), "")
        found[person] = Person(group, "" if split in _UNKNOWN else split, clinical, cells)
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    """Cells of each line that is not empty, by column in lower case."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        mark = "\t"
        if path.suffix.lower() == ".csv":
            mark = max(",;\t", key=text.partition("\n")[0].count)
        rows = list(csv.DictReader(text.splitlines(), delimiter=mark))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScanError(f"unreadable table ({error})", path, "Correct or remove it") from error
    return [{k.strip().lower(): (v or "").strip() for k, v in row.items() if k} for row in rows]
