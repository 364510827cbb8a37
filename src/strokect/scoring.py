"""Predictions scored against the truth, and several models compared: folders in, folders out."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from strokect import RESEARCH_USE_ONLY, __version__
from strokect.core.errors import OutputExistsError, ScanError, SettingsError
from strokect.core.types import Progress, no_progress
from strokect.evaluate import paired, tables
from strokect.evaluate.tables import Score, ScoreOptions, score_masks
from strokect.io import nifti
from strokect.io.cases import Layout
from strokect.io.outputs import (
    DONE_FILE,
    check_output_folder,
    result_folder,
    write_json,
    write_text,
    write_tsv,
)
from strokect.report import score_tables
from strokect.report.comparison import write_comparison_page, write_figure
from strokect.scoring_inputs import Choice, plan

SCHEMA = "strokect.evaluation/1"
COMPARISON_SCHEMA = "strokect.comparison/1"


def evaluate(
    pred: Path,
    truth: Path,
    out: Path,
    overwrite: bool = False,
    split: str | None = None,
    progress: Progress = no_progress,
    *,
    classes: int | None = None,
    only: Collection[str] | None = None,
    layout: tuple[str, Layout] | None = None,
    options: ScoreOptions = ScoreOptions(),
) -> dict[str, Any]:
    """Score predictions against the truth; ``out`` appears when it is whole.

    pred : a folder of study folders, named as ``layouts.find_studies`` does, each with
    ``masks/core.nii.gz`` and ``masks/penumbra.nii.gz`` (in it, its ``studies`` or its
    ``predictions``); one such study folder; or a NIfTI file of labels or of a mask.
    truth : a data set of any layout of ``catalog``, for study folders; or a NIfTI file, for one
    study. split, only : scored are the patients of this split of participants.tsv, the studies
    of these names. classes : 2, 3 or 4: of label files (``scoring_inputs.LABELS``), where their
    values do not tell; with 2 the core alone is scored. layout : of the data set, see
    ``scoring_inputs.Choice``. progress : called with studies done and in all. Writes
    patients.tsv, summary.json (SCHEMA), table.md; returns the content of the summary.

    Raises ScanError for a study without a prediction, a prediction without a truth, and a missing
    mask; GeometryError for grids that differ; SettingsError for an unknown split or classes;
    OutputExistsError, OutputError for ``out``.
    """
    _check_apart(out, (pred, truth))
    check_output_folder(out, overwrite)
    found = plan(pred, truth, Choice(split, only, classes, layout))
    scores: list[Score] = []
    progress(0, len(found.tasks))
    for done, task in enumerate(found.tasks, 1):
        masks, grid = task.load()
        scores += [
            score_masks(task.case, region, mask, true, grid, options.lesions)
            for region, (mask, true) in masks.items()
        ]
        progress(done, len(found.tasks))
    # Summed up as they are written, so that ``compare``, which reads them, finds the same figures.
    scores = [tables.from_row(tables.to_row(score)) for score in scores]
    summary = _summary(scores, split, found.not_evaluated, options)
    with result_folder(out, overwrite) as folder:
        write_tsv(folder / "patients.tsv", tables.COLUMNS, map(tables.to_row, scores))
        write_text(folder / "table.md", score_tables.evaluation_markdown(summary))
        write_json(folder / DONE_FILE, summary)
    return summary


def _summary(
    scores: Sequence[Score],
    split: str | None,
    not_evaluated: Mapping[str, str],
    options: ScoreOptions,
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "strokect": __version__,
        "research_use_only": RESEARCH_USE_ONLY,
        "split": split,
        "studies": len({s.case.study for s in scores}),
        "patients": len({s.case.patient for s in scores}),
        "classes": tables.classes_of(scores),
        "not_evaluated": dict(not_evaluated),
        "options": tables.options_json(options),
        "definitions": tables.DEFINITIONS,
        "groups": tables.summarise(scores, options),
    }


# Several models


def compare(
    runs: Sequence[Path],
    out: Path,
    overwrite: bool = False,
    options: ScoreOptions = ScoreOptions(),
) -> dict[str, Any]:
    """Compare models over the studies that all of them were evaluated on.

    runs : folders of ``evaluate``, or with such a folder called ``evaluation`` in them; or
    ``name=PATH``. A model is called as its folder, with a number where that is taken. Models are
    tested against the first one. Writes comparison.json (COMPARISON_SCHEMA), table.md, table.tsv,
    figure.png, index.html and a short summary.json; returns the content of comparison.json.

    Raises ScanError for a folder without an evaluation, no common study, and truths that differ;
    SettingsError for no run, and evaluations of other lesion settings; OutputExistsError.
    """
    named = dict(_named(runs))
    _check_apart(out, named.values())
    check_output_folder(out, overwrite)
    _check_same_lesions(named)
    models = {name: _read_scores(folder) for name, folder in named.items()}
    head = {
        "schema": COMPARISON_SCHEMA, "strokect": __version__,
        "research_use_only": RESEARCH_USE_ONLY,
    }  # fmt: skip
    content = {
        **head, **paired.compare_models(models, options),
        "options": tables.options_json(options), "definitions": tables.DEFINITIONS,
    }  # fmt: skip
    with result_folder(out, overwrite) as folder:
        write_json(folder / "comparison.json", content)
        write_text(folder / "table.md", score_tables.comparison_markdown(content))
        write_tsv(folder / "table.tsv", *score_tables.comparison_tsv(content))
        write_figure(folder / "figure.png", paired.common(models), content)
        write_comparison_page(folder / "index.html", content, folder / "figure.png")
        short = {k: content[k] for k in ("reference", "studies", "patients", "left_out")}
        write_json(folder / DONE_FILE, {**head, **short, "models": list(models)})
    return content


def read_runs(runs: Sequence[Path]) -> dict[str, list[Score]]:
    """Scores of evaluations by the names that ``compare`` gives them; errors as there."""
    return {name: _read_scores(folder) for name, folder in _named(runs)}


def _named(runs: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Name and evaluation folder of each run, every name once."""
    if not runs:
        raise SettingsError("nothing to compare", fix="Give folders of `strokect evaluate`")
    taken: set[str] = set()
    for run in runs:
        path, wanted = run, ""
        if not run.exists() and "=" in str(run):
            wanted, _, rest = str(run).partition("=")
            path = Path(rest)
        folder = _evaluation(path)
        place = folder.absolute()
        name = wanted or (place.parent if place.name == "evaluation" else place).name
        number, unique = 1, name
        while unique in taken:
            number += 1
            unique = f"{name}-{number}"
        taken.add(unique)
        yield unique, folder


def _evaluation(path: Path) -> Path:
    for folder in (path, path / "evaluation"):
        file = folder / DONE_FILE
        if file.is_file() and nifti.read_json(file).get("schema") == SCHEMA:
            return folder
    raise ScanError("no evaluation there", path, "Run `strokect evaluate` first")


def _check_same_lesions(named: Mapping[str, Path]) -> None:
    found = {
        name: nifti.read_json(folder / DONE_FILE).get("options", {}).get("lesions")
        for name, folder in named.items()
    }
    first = next(iter(found))
    for name, lesions in found.items():
        if lesions != found[first]:
            raise SettingsError(
                f"{name} and {first} were evaluated with different lesion settings",
                fix="Evaluate both with the same",
            )


def _read_scores(folder: Path) -> list[Score]:
    path = folder / "patients.tsv"
    if not path.is_file():
        raise ScanError("the evaluation lacks its table", path, "Run `strokect evaluate` again")
    with path.open(newline="", encoding="utf-8") as file:
        return [tables.from_row(row) for row in csv.DictReader(file, delimiter="\t")]


def _check_apart(out: Path, sources: Iterable[Path]) -> None:
    """Refuse to replace what is read."""
    place = out.resolve()
    for source in sources:
        if source.resolve().is_relative_to(place):
            raise OutputExistsError(
                "the output cannot take the place of what is read", out, "Choose another folder"
            )
