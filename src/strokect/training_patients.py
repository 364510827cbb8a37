"""Who takes part in a training: the cases of a data set, and how they are shared out."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from strokect.core.errors import ScanError, SettingsError
from strokect.io.cases import no_truth
from strokect.io.datasets import Case, Layout
from strokect.learn.splits import k_folds, parts_of_fold, split_patients
from strokect.training_settings import TrainingSettings, build_layout


@dataclass(frozen=True)
class Patients:
    """The cases of a data set, and the part ("train", "val", "test") of each by name."""

    layout: Layout
    cases: Sequence[Case]
    parts: Mapping[str, str]

    def of(self, part: str) -> list[Case]:
        return [case for case in self.cases if self.parts.get(case.name) == part]


def find_patients(settings: TrainingSettings) -> Patients:
    """The cases of the data set, by names alone, and how they are shared out."""
    layout, cases = find_cases(settings)
    return Patients(layout, cases, parts_of(cases, settings))


def find_cases(settings: TrainingSettings) -> tuple[Layout, list[Case]]:
    """The cases of the data set, by names alone."""
    if not settings.data.folder:
        raise SettingsError("no data set", "data.folder", "Give --data DIR")
    layout: Layout = build_layout(settings)
    if settings.data.classes not in layout.classes:
        raise SettingsError(
            f"{settings.data.classes} classes of a data set in layout {settings.data.layout!r}",
            "data.classes",
            f"Its truth gives {' or '.join(map(str, layout.classes))}",
        )
    return layout, layout.cases(Path(settings.data.folder))


def parts_of(cases: Sequence[Case], settings: TrainingSettings) -> dict[str, str]:
    """Part ("train", "val", "test") of every case by name; a patient's cases go together.

    Raises SettingsError where the data set's own split leaves some patients out.
    """
    data = settings.data
    groups = {case.patient: case.group for case in cases}
    if data.folds is not None:
        by_patient = parts_of_fold(k_folds(groups, data.folds, data.seed), data.fold)
    elif data.split == "given" and any(case.split for case in cases):
        without = [case.patient for case in cases if not case.split]
        if without:
            raise SettingsError(
                f"the data set gives a split, but none for {without[0]}",
                data.folder,
                'Complete participants.tsv, or set data.split to "random"',
            )
        return {case.name: case.split for case in cases}
    elif data.split == "listed":
        return _listed_parts(cases, settings)
    else:
        by_patient = split_patients(groups, data.fractions, data.seed)
    return {case.name: by_patient[case.patient] for case in cases}


def _listed_parts(cases: Sequence[Case], settings: TrainingSettings) -> dict[str, str]:
    """Parts of the patients that the settings list; cases that are in no list are left out."""
    data = settings.data
    groups = {case.patient: case.group for case in cases}
    tests = _named(data.test_patients, groups, settings)
    learn = _named(data.train_patients, groups, settings) or set(groups)
    rest = {p: g for p, g in groups.items() if p in learn - tests}
    shares = data.fractions[:2]
    if not sum(shares) > 0:
        raise SettingsError("no share to train with", "data.fractions", "Give train and val more")
    if data.validation_patients is not None:
        if data.validation_patients >= len(rest):
            raise SettingsError(
                f"{data.validation_patients} of {len(rest)} patients to validate",
                "data.validation_patients",
                "Give fewer",
            )
        shares = (len(rest) - data.validation_patients, data.validation_patients)
    fractions = (shares[0] / sum(shares), shares[1] / sum(shares), 0.0)
    parts = {**dict.fromkeys(tests, "test"), **split_patients(rest, fractions, data.seed)}
    return {case.name: parts[case.patient] for case in cases if case.patient in parts}


def _named(ids: Sequence[str], patients: Mapping[str, str], settings: TrainingSettings) -> set[str]:
    """The patients that ids name, in full or by their end. Raises SettingsError for another id."""
    found = set()
    for name in ids:
        matches = {p for p in patients if p == name} or {p for p in patients if p.endswith(name)}
        if len(matches) != 1:
            what = "no patient is" if not matches else f"{len(matches)} patients are"
            raise SettingsError(
                f"{what} called {name!r}", settings.data.folder, "Correct the lists in data"
            )
        found |= matches
    return found


def check_patients(patients: Patients, settings: TrainingSettings) -> None:
    """Refuse parts without patients, and cases that lack a file of their truth."""
    for part in ("train", "val"):
        chosen = patients.of(part)
        if not chosen:
            raise SettingsError(
                f"no patients in the part {part!r}",
                settings.data.folder,
                'Give more, other data.fractions, or data.split "random"',
            )
        for case in chosen:
            files = patients.layout.truth_files(case)
            if not files:
                raise no_truth(case)
            for path in files:
                if not path.exists():
                    raise ScanError(
                        "a file of the truth is missing", path, "Add it or leave the case out"
                    )


def split_table(patients: Patients) -> str:
    """Content of split.tsv."""
    out = io.StringIO()
    table = csv.writer(out, delimiter="\t", lineterminator="\n")
    table.writerow(("case", "patient", "group", "part"))
    table.writerows(
        (c.name, c.patient, c.group, patients.parts.get(c.name, "")) for c in patients.cases
    )
    return out.getvalue()
