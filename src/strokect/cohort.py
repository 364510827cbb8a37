"""Many studies on dask.distributed: plan -> run -> tables; resumable at any moment.

A study is done when its result folder stands (it appears whole, by renaming) and was made from
the same files, settings and version. What has failed is written down in ``OUT/.cohort/failed``.
There is no other state, so a run that was killed is resumed by the same command. Whether a failure
is tried again: input that cannot be used (``InputError``) fails the same way each time and is not,
until its files change or ``retry_failed`` is given; all else (a full disk, a killed worker) is.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from strokect import __version__
from strokect.cohort_tables import write_tables
from strokect.cohort_tasks import SCORE_FILE, STUDY_FILE, Failure, Outcome, Task, work
from strokect.core.errors import OutputError, OutputExistsError, SettingsError
from strokect.io.layouts import COHORT_FOLDER, Study, find_studies
from strokect.io.nifti import read_json
from strokect.io.outputs import DONE_FILE, check_writable, write_json
from strokect.io.stamp import stamp
from strokect.settings import PerfusionSettings

SCHEMA = "strokect.cohort/1"


@dataclass(frozen=True)
class CohortOptions:
    """scheduler : address of a dask scheduler, None for processes on this machine. workers : how
    many processes; None for as many as cores and memory allow."""

    scheduler: str | None = None
    workers: int | None = None
    reports: bool = True
    retry_failed: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class CohortReport:
    """done, failed : studies in the tables. ran : how many were worked on by this call."""

    done: int
    failed: int
    ran: int


#: Called as listener(outcome or None at the start, studies settled, studies in all).
Listener = Callable[[Outcome | None, int, int], None]


def run_cohort(
    root: Path,
    out: Path,
    settings: PerfusionSettings,
    options: CohortOptions = CohortOptions(),
    listener: Listener = lambda outcome, settled, total: None,
) -> CohortReport:
    """Analyse every study of ``root`` into ``out`` and write the tables.

    root : see ``layouts.find_studies``. out : see docs/cohort.md. A study that fails is written
    down and the others go on.
    Raises ScanError where there is no study, OutputExistsError where ``out`` holds a cohort of
    other settings (without ``overwrite``) or anything else, OutputError where the scheduler is
    lost. After an interrupt or ``kill -9`` the same call goes on where it was.
    """
    root, out = root.absolute(), out.absolute()
    studies = find_studies(root)
    if out.resolve() == root.resolve():
        raise OutputExistsError("the results cannot go where the scans are", out, "Choose another")
    _check_free(out)
    identity = {
        "schema": SCHEMA, "strokect": __version__, "settings": settings.model_dump(mode="json"),
    }  # fmt: skip
    with _alone(out):
        _claim(out, identity, options.overwrite)
        _sweep(out)
        tasks, failed = _plan(studies, out, settings, options)
        settled = len(studies) - len(tasks)
        by_name = {t.study.name: t for t in tasks}
        listener(None, settled, len(studies))
        try:
            for outcome in _outcomes(tasks, options) if tasks else ():
                settled += 1
                if outcome.failure is not None:
                    failed[outcome.name] = outcome.failure
                _note(outcome, out, by_name[outcome.name])
                listener(outcome, settled, len(studies))
        finally:
            _sweep(out)
        done = [s for s in studies if s.name not in failed]
        write_tables(out, done, list(failed.values()), identity)
    return CohortReport(len(done), len(failed), len(tasks))


def _check_free(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise OutputExistsError(
            "a file stands where the output folder should be", out, "Choose another name"
        )
    if out.exists() and not (out / COHORT_FOLDER).exists() and any(out.iterdir()):
        raise OutputExistsError(
            "the folder is not empty and holds no strokect cohort", out, "Choose a new one"
        )
    check_writable(out / COHORT_FOLDER)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """No two runs write to one folder. The system frees the lock of a process that is killed."""
    with (out / COHORT_FOLDER / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                "another `strokect cohort` is writing there", out, "Wait for it or stop it"
            ) from error
        except OSError:  # some network file systems know no locks
            pass
        yield


def _claim(out: Path, identity: dict[str, Any], overwrite: bool) -> None:
    """Write down what this cohort is; refuse one of other settings."""
    path = out / COHORT_FOLDER / "cohort.json"
    before = read_json(path) if path.exists() else identity
    if before != identity and not overwrite:
        change = next(_differences("", before, identity), "its record differs")
        raise OutputExistsError(
            f"a cohort made differently is there ({change})",
            out,
            "Choose another folder, or add --overwrite to analyse all studies again",
        )
    write_json(path, identity)


def _differences(key: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            inner = f"{key}.{name}" if key else name
            yield from _differences(inner, old.get(name), new.get(name))
    elif old != new:
        yield f"{key.removeprefix('settings.')} was {old!r}, is now {new!r}"


def _sweep(out: Path) -> None:
    """Remove what killed workers left half-written."""
    for pattern in (".*.partial", ".*.old", ".partial-*"):
        for path in out.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


# Plan


def _plan(
    studies: list[Study], out: Path, settings: PerfusionSettings, options: CohortOptions
) -> tuple[list[Task], dict[str, Failure]]:
    """Tasks that are left, and failures that stand as they are."""
    tasks, failed = [], {}
    wanted = settings.model_dump(mode="json")
    for study in studies:
        folder = out / study.name
        made_from = stamp(study.source)
        layout = study.layout
        truth = "" if layout is None else stamp(layout.truth_folder)
        done = _is_done(folder, made_from, wanted, options.reports)
        if done and _is_scored(folder, truth):
            continue
        if not done and not options.retry_failed:
            record = _record(out, study.name)
            known = read_json(record) if record.exists() else {}
            now = {"stamp": made_from, "strokect": __version__, "settings": wanted, "final": True}
            if all(known.get(k) == v for k, v in now.items()):
                failed[study.name] = Failure(**known["failure"])
                continue
        tasks.append(
            Task(study, folder, settings, made_from, truth, options.reports, not done)
        )  # fmt: skip
    return tasks, failed


def _is_done(folder: Path, made_from: str, settings: dict[str, Any], report: bool) -> bool:
    if not (folder / DONE_FILE).exists() or not (folder / STUDY_FILE).exists():
        return False
    if report and not (folder / "report.html").exists():
        return False
    summary, record = read_json(folder / DONE_FILE), read_json(folder / STUDY_FILE)
    return (
        record.get("stamp") == made_from
        and record.get("strokect") == __version__
        and summary.get("settings") == settings
    )


def _is_scored(folder: Path, truth: str) -> bool:
    path = folder / SCORE_FILE
    if not path.exists():
        return not truth
    return bool(read_json(path).get("stamp") == truth)


def _record(out: Path, name: str) -> Path:
    return out / COHORT_FOLDER / "failed" / f"{name}.json"


def _note(outcome: Outcome, out: Path, task: Task) -> None:
    """Write a failure down, or forget an earlier one."""
    record = _record(out, outcome.name)
    if outcome.failure is None:
        record.unlink(missing_ok=True)
        return
    if task.analyse:  # an older result of other files or settings would pass for this one
        shutil.rmtree(task.folder, ignore_errors=True)
    content = {
        "failure": asdict(outcome.failure),
        "final": outcome.failure.final,
        "stamp": task.stamp,
        "strokect": __version__,
        "settings": task.settings.model_dump(mode="json"),
    }
    write_json(record, content)


# Run


def _outcomes(tasks: list[Task], options: CohortOptions) -> Iterator[Outcome]:
    try:
        from strokect import cohort_workers
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"`strokect cohort` needs {error.name}", fix="Run: pip install 'strokect[cohort]'"
        ) from error
    yield from cohort_workers.run_all(work, tasks, options.scheduler, options.workers)
