"""Writing results so that nothing half-made ever stands under a final name."""

from __future__ import annotations

import csv
import errno
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from strokect.core.errors import OutputError, OutputExistsError
from strokect.core.result import Curves, InputCurve
from strokect.core.signals import uninterrupted
from strokect.io.layouts import COHORT_FOLDER

#: A folder with this file in it is a finished result.
DONE_FILE = "summary.json"
SCHEMA = "strokect.summary/1"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` with the same ending; renamed when the block succeeds.

    Raises OutputError where it cannot be written.
    """
    with _writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        endings = "".join(path.suffixes[-2:])
        temporary = path.with_name(f".partial-{uuid.uuid4().hex}{endings}")
        try:
            temporary.touch(exist_ok=False)
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def check_output_folder(folder: Path, overwrite: bool) -> None:
    """Refuse, before any work, a folder that holds something that must not be lost.

    A finished result is replaced only with ``overwrite``; a folder with other things in it never.
    Raises OutputExistsError; OutputError where the place cannot be written to.
    """
    with _writing_to(folder):
        if folder.exists():
            _check_replaceable(folder, overwrite)
        folder.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder.parent).close()


def check_writable(folder: Path) -> None:
    """Make ``folder`` and a file in it that is gone at once. Raises OutputError."""
    with _writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def result_folder(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``folder``, renamed to it when the block succeeds.

    On any error or interrupt the temporary folder is removed and an older result stays as it was.
    """
    check_output_folder(folder, overwrite)
    folder = folder.absolute()
    mark = f"{folder.name[:50]}.{uuid.uuid4().hex}"
    temporary, old = (folder.with_name(f".{mark}.{kind}") for kind in ("partial", "old"))
    with _writing_to(folder):
        try:
            temporary.mkdir()
            yield temporary
            with uninterrupted():
                if folder.exists():
                    folder.replace(old)
                try:
                    temporary.replace(folder)
                except OSError:
                    if old.exists():
                        old.replace(folder)
                    raise
        except OutputError as error:  # name the folder that the user knows
            raise OutputError(error.what, folder, error.fix) from error
        finally:
            with uninterrupted():
                shutil.rmtree(temporary, ignore_errors=True)
                shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if not folder.is_dir():
        raise OutputExistsError(
            "a file stands where the output folder should be", folder, "Choose another name"
        )
    if (folder / COHORT_FOLDER).exists():
        raise OutputExistsError(
            "the results of a whole cohort are there", folder, "Choose another folder"
        )
    if (folder / DONE_FILE).exists():
        if not overwrite:
            raise OutputExistsError(
                "a finished result is there already",
                folder,
                "Choose another folder or add --overwrite",
            )
    elif any(folder.iterdir()):
        raise OutputExistsError(
            "the folder is not empty and holds no strokect result", folder, "Choose a new one"
        )


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; numpy scalars and arrays become numbers and lists."""
    with atomic_file(path) as temporary:
        temporary.write_text(to_json(content) + "\n", encoding="utf-8")


def to_json(content: Any) -> str:
    """JSON text of ``content``; a number that is not finite becomes null,
    others keep ten digits."""
    return json.dumps(_plain(content), indent=2, ensure_ascii=False)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, its lines ended as on any machine."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_tsv(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write rows as tab-separated values with a header, atomically."""
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(columns), delimiter="\t", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def write_curves(path: Path, curves: Curves) -> None:
    """Write the curves as CSV: time_s, aif_hu, aif_raw_hu, vof_hu, tissue_hu, aif_candidate_*."""
    columns: dict[str, Any] = {"time_s": curves.time_s, "aif_hu": curves.aif.curve_hu}
    columns["aif_raw_hu"] = curves.aif.raw_hu
    if curves.vof is not None:
        columns["vof_hu"] = curves.vof.curve_hu
    columns["tissue_hu"] = curves.tissue_hu
    for n, candidate in enumerate(curves.aif_candidates, 1):
        columns[f"aif_candidate_{n}_hu"] = candidate.raw_hu
    write_table(path, columns)


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length as CSV with a header, atomically; numbers to 4 decimals."""
    arrays = [np.asarray(c) for c in columns.values()]
    table = np.column_stack([a.astype(object) for a in arrays])
    kinds = ["%.4f" if a.dtype.kind in "fiub" else "%s" for a in arrays]
    with atomic_file(path) as temporary:
        np.savetxt(temporary, table, fmt=",".join(kinds), header=",".join(columns), comments="")


def describe_input(curve: InputCurve, time_s: np.ndarray, arrival_s: float) -> dict[str, Any]:
    """What summary.json says of an input function."""
    return {
        "position_mm": [round(x, 2) for x in curve.position_mm],
        "n_voxels": len(curve.voxels),
        "peak_hu": round(float(curve.curve_hu.max()), 2),
        "peak_s": round(float(time_s[int(np.argmax(curve.curve_hu))]), 2),
        "arrival_s": round(arrival_s, 2),
        "scale": round(curve.scale, 4),
        "confidence": round(curve.confidence, 3),
        "source": curve.source,
    }


@contextmanager
def _writing_to(path: Path) -> Iterator[None]:
    """Turn an OSError of the file system into an OutputError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError("the disk is full", path, "Free some space and run again") from error
        reason = error.strerror or str(error)
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            reason = "a file stands where a folder is needed"
        raise OutputError(
            f"cannot write the output ({reason})", path, "Choose another folder"
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):  # ten digits, so that sums do not show their rounding
        return float(f"{value:.10g}") if np.isfinite(value) else None
    return value
