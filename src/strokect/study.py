"""One study from scan to result folder, and how far the result agrees with known truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from strokect import pipeline
from strokect.core.errors import GeometryError, OutputError, StrokeCTError
from strokect.core.flags import flag
from strokect.core.result import PerfusionResult
from strokect.core.types import BoolArray, CTSeries, FloatArray, Grid
from strokect.evaluate.overlap import dice, hd95_mm
from strokect.io import nifti
from strokect.io.layouts import OwnLayout
from strokect.io.outputs import check_output_folder, result_folder, write_json
from strokect.perfusion.prepare import Given
from strokect.pipeline import Stages
from strokect.report.html import write_report
from strokect.settings import PerfusionSettings

#: Masks whose agreement is measured; "tmax6" is Tmax > 6 s in the true tissue, whatever the rule.
REGIONS = ("core", "penumbra", "hypoperfusion", "tmax6")


def _nothing_given(series: CTSeries) -> Given:
    return Given()


@dataclass(frozen=True)
class StudyOptions:
    """How one study is read and written.

    interval_s, times_file : times that the scan itself lacks. given : from the scan just read to
    what the user gives. beside : further JSON files of the result folder, name to content.
    """

    interval_s: float | None = None
    times_file: Path | None = None
    given: Callable[[CTSeries], Given] = _nothing_given
    report: bool = True
    dicom_out: bool = False
    overwrite: bool = False
    beside: Mapping[str, Any] = field(default_factory=dict)


def run_study(
    source: Path,
    out: Path,
    settings: PerfusionSettings,
    options: StudyOptions = StudyOptions(),
    listener: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> tuple[dict[str, Any], StrokeCTError | None]:
    """Read, analyse and write one study; ``out`` appears when it is whole.

    source : NIfTI file, DICOM folder or patient folder. listener : see ``pipeline.Stages``.
    Returns the content of ``summary.json``, and why there are no DICOM results where they were
    asked for. Raises any other StrokeCTError; ``out`` is then untouched.
    """
    check_output_folder(out, options.overwrite)
    if options.dicom_out:
        from strokect.io.dicom_results import check_available

        check_available()
    stages = Stages(listener)
    problem = None
    with stages("reading") as progress:
        scan = [pipeline.read_scan(source, options.interval_s, options.times_file, progress)]
        given = options.given(scan[0])
    result = pipeline.analyse(scan.pop(), settings, given, stages)  # which may let go of it
    with result_folder(out, options.overwrite) as folder:
        with stages("writing") as progress:
            pipeline.write_result(result, folder, progress)
            for name, content in options.beside.items():
                write_json(folder / name, content)
            if options.dicom_out:
                images = source if pipeline.is_dicom(source) else None
                result, problem = _with_dicom(result, images, folder / "dicom")
        if options.report:
            with stages("report"):
                write_report(result, folder / "report.html")
        return pipeline.finish(result, stages, folder), problem


def _with_dicom(
    result: PerfusionResult, images: Path | None, folder: Path
) -> tuple[PerfusionResult, StrokeCTError | None]:
    """Write DICOM results; where their source does not allow it, a flagged result and why.

    A finished analysis is not thrown away for that. OutputError passes: nothing can be written.
    """
    from strokect.io.dicom_results import write_result_dicom

    try:
        write_result_dicom(result, images, folder)
    except OutputError:
        raise
    except StrokeCTError as problem:  # its place is left out: results name no paths
        return pipeline.flagged(
            result, flag("NO_DICOM", f"No DICOM results: {problem.what}")
        ), problem
    return result, None


def score_study(folder: Path, layout: OwnLayout) -> dict[str, Any]:
    """Agreement of a result folder with the truth of the same patient, on the scan's grid.

    Returns per region of REGIONS that has a truth: ``dice``, ``hd95_mm`` (None where one of the
    masks is empty), ``found_ml``, ``true_ml``; and ``side``, the true one. Empty without truth.
    Raises GeometryError where truth and result lie on different grids.
    """
    out: dict[str, Any] = {}
    for name in REGIONS:
        pair = _late(folder, layout) if name == "tmax6" else _masks(name, folder, layout)
        if pair is None:
            continue
        found, true, grid = pair
        distance = hd95_mm(found, true, grid)
        out[name] = {
            "dice": dice(found, true),
            "hd95_mm": distance if math.isfinite(distance) else None,
            "found_ml": float(np.count_nonzero(found) * grid.voxel_ml),
            "true_ml": float(np.count_nonzero(true) * grid.voxel_ml),
        }
    record = layout.truth_folder / f"{layout.stem}_truth.json"
    if record.exists():
        side = nifti.read_json(record).get("side")
        out["side"] = side if isinstance(side, str) else None
    return out


def _masks(name: str, folder: Path, layout: OwnLayout) -> tuple[BoolArray, BoolArray, Grid] | None:
    truth = layout.truth_mask(name)
    if not truth.exists():
        return None
    found = nifti.read_volume(folder / "masks" / f"{name}.nii.gz")
    return found.data != 0, _on(found.grid, truth) != 0, found.grid


def _late(folder: Path, layout: OwnLayout) -> tuple[BoolArray, BoolArray, Grid] | None:
    """Tmax > 6 s, found and true, within the true tissue."""
    truth, tissue = layout.truth_map("tmax"), layout.truth_mask("tissue")
    if not truth.exists() or not tissue.exists():
        return None
    found = nifti.read_volume(folder / "maps" / "tmax.nii.gz")
    where = _on(found.grid, tissue) != 0
    true = np.nan_to_num(_on(found.grid, truth)) > 6.0
    return (np.nan_to_num(found.data) > 6.0) & where, true & where, found.grid


def _on(grid: Grid, path: Path) -> FloatArray:
    volume = nifti.read_volume(path)
    if not volume.grid.same_as(grid, tolerance_mm=0.1):
        raise GeometryError("the truth lies on another grid than the result", path.name)
    return volume.data
