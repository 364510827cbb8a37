"""What a worker of a cohort is asked to do, does, and answers."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strokect import __version__
from strokect.core.errors import InputError, StrokeCTError
from strokect.io.layouts import Study
from strokect.io.nifti import read_json
from strokect.io.outputs import DONE_FILE, write_json
from strokect.report.text import clean
from strokect.settings import PerfusionSettings
from strokect.study import StudyOptions, run_study, score_study

#: Files of a result folder that a cohort adds: what it was made from, how far it agrees with truth.
STUDY_FILE = "study.json"
SCORE_FILE = "agreement.json"


@dataclass(frozen=True)
class Failure:
    """Why a study failed. error : class. final : the same input would fail the same way."""

    name: str
    error: str
    message: str
    fix: str
    final: bool = False


@dataclass(frozen=True)
class Task:
    """What one worker is asked to do; plain values, so that it travels to another machine."""

    study: Study
    folder: Path
    settings: PerfusionSettings
    stamp: str
    truth_stamp: str
    report: bool
    analyse: bool


@dataclass(frozen=True)
class Outcome:
    """What became of a task. brief : core and hypoperfusion, ml, of a study that is done."""

    name: str
    failure: Failure | None = None
    brief: tuple[float, float] | None = None


def work(task: Task) -> Outcome:
    """Analyse and score one study, on a worker. Every error becomes a failure."""
    name = task.study.name
    try:
        if task.analyse:
            record = {"study": name, "stamp": task.stamp, "strokect": __version__}
            options = StudyOptions(
                report=task.report, overwrite=True, beside={STUDY_FILE: record}
            )  # fmt: skip
            run_study(task.study.source, task.folder, task.settings, options)
        _score(task)
        volumes = read_json(task.folder / DONE_FILE)["volumes_ml"]
        return Outcome(name, brief=(volumes["core"], volumes["hypoperfusion"]))
    except StrokeCTError as error:
        return Outcome(name, failure_of(error, task.study))
    except MemoryError:
        fix = "Use fewer --workers or a machine with more memory"
        return Outcome(name, Failure(name, "MemoryError", "out of memory", fix))
    except Exception as error:
        # The message of a foreign error may quote the data: only its kind and place are kept.
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"unexpected error in {Path(last.filename).name}, line {last.lineno}"
        fix = "Please report it with what `strokect --debug perfusion` prints for this study"
        return Outcome(name, Failure(name, type(error).__name__, where, fix))


def _score(task: Task) -> None:
    """Measure agreement with the truth, where there is one."""
    path = task.folder / SCORE_FILE
    if not task.truth_stamp or task.study.layout is None:
        path.unlink(missing_ok=True)
        return
    try:
        agreement: dict[str, Any] = score_study(task.folder, task.study.layout)
    except InputError as error:  # the result stands, whatever is wrong with the truth
        agreement = {"error": error.what}
    write_json(path, {"stamp": task.truth_stamp, "agreement": agreement})


def failure_of(error: StrokeCTError, study: Study) -> Failure:
    """A failure without the paths of this machine: only what lies within the study is named."""
    where = "" if error.where is None else error.where
    source = str(study.source)
    where = "" if where == source else where.replace(source + "/", "")
    message = error.what if not where else f"{error.what}: {Path(where).name}"
    message, fix = (" ".join(clean(t.replace(source, "the scan")).split())
                    for t in (message, error.fix or ""))  # fmt: skip
    return Failure(study.name, type(error).__name__, message, fix, isinstance(error, InputError))
