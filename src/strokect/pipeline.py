"""The main job: read -> prepare -> maps -> tissue -> write. Calls only; the science is below."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from strokect import catalog
from strokect.core.errors import ScanError
from strokect.core.quantities import QUANTITIES, UNCERTAINTIES
from strokect.core.result import Curves, Motion, PerfusionResult
from strokect.core.types import (
    CTSeries,
    FloatArray,
    Grid,
    Map,
    Mask,
    Progress,
    QualityFlag,
    Volume,
    no_progress,
)
from strokect.io import nifti, outputs
from strokect.perfusion import curves as enhancement
from strokect.perfusion import maps, motion, quality, sampling, tissue
from strokect.perfusion.bayes import BayesOptions
from strokect.perfusion.prepare import (
    Given,
    Prepared,
    denoised,
    large_vessels,
    prepare,
    settled_inputs,
    steady_voxels,
)
from strokect.provenance import provenance
from strokect.settings import PerfusionSettings


@dataclass
class Stages:
    """Times the stages of a job and tells a listener how far each has come.

    listener : called as listener(stage, done, total).
    """

    listener: Callable[[str, int, int], None] = lambda stage, done, total: None
    timing_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[Progress]:
        start = time.perf_counter()
        self.listener(name, 0, 1)
        yield lambda done, total: self.listener(name, done, total)
        self.timing_s[name] = round(time.perf_counter() - start, 3)
        self.listener(name, 1, 1)


def read_scan(
    path: Path,
    interval_s: float | None = None,
    times_file: Path | None = None,
    progress: Progress = no_progress,
) -> CTSeries:
    """Read a CT perfusion scan from a NIfTI file, a DICOM folder, or a folder of the own layout.

    Raises ScanError for anything else, TimingError for missing times.
    """
    if not path.exists():
        raise ScanError("no such file or folder", path, "Check the path")
    if path.is_file():
        if not nifti.is_nifti(path):
            raise ScanError(
                "not a NIfTI file (.nii, .nii.gz)", path, "For DICOM, give the folder of the images"
            )
        return nifti.read_ctp(path, interval_s=interval_s, times_file=times_file)
    scans = _nifti_scans(path)
    if len(scans) == 1:
        return nifti.read_ctp(scans[0], interval_s=interval_s, times_file=times_file)
    if len(scans) > 1:
        raise ScanError(f"{len(scans)} CT perfusion scans in the folder", path, "Give one of them")
    from strokect.io import dicom

    times = None if times_file is None else nifti.read_times_file(times_file)
    return dicom.read_ctp_folder(path, interval_s=interval_s, times_s=times, progress=progress)


def is_dicom(path: Path) -> bool:
    """Whether ``read_scan`` reads this path as a folder of DICOM images."""
    return path.is_dir() and not _nifti_scans(path)


def _nifti_scans(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*_ctp.nii*"))


def analyse(
    series: CTSeries,
    settings: PerfusionSettings,
    given: Given = Given(),
    stages: Stages | None = None,
) -> PerfusionResult:
    """Maps, core, penumbra and quality findings of one scan.

    The scan's voxels are let go of once they are aligned: a caller who keeps no reference to
    ``series`` saves their memory.
    Raises ScanError (no head), CurveError (no bolus), SettingsError (unknown name).
    """
    stages = stages or Stages()
    estimator = catalog.load("estimators", settings.estimator)
    denoiser = catalog.load("denoisers", settings.denoise)
    rule = catalog.load("rules", settings.rule)
    quality.check_values(series)
    made_by = provenance(series)
    with stages("motion") as progress:
        series, moved = _motion(series, settings, progress)
    with stages("brain"):
        prepared, raw = prepare(series, given)
        # Curves inside the skull are all that is needed now, and a whole scan fills the memory.
        series = replace(series, data_hu=np.broadcast_to(np.float32(0), series.data_hu.shape))
    with stages("input functions"):
        inside, off_bone_mm = prepared.masks.inside, settings.inputs.off_bone_mm
        steady = steady_voxels(inside, moved, series.grid, off_bone_mm, settings.motion)
        prepared, curves = settled_inputs(prepared, raw, steady, series.grid, settings.inputs)
    with stages("denoising"):
        vessels = large_vessels(prepared, raw, curves.aif, settings.blood)
        raw = raw[:, prepared.masks.brain[inside]]
        brain_curves = denoised(raw, prepared, vessels, series.grid, denoiser, settings.denoising)
        del raw
    with stages("deconvolution"):
        step = prepared.axis.interval_s
        options = _estimator_options(brain_curves, series, settings, prepared.axis)
        fit = estimator(brain_curves, curves.aif.curve_hu, step, options)
        arrival = enhancement.arrival_s(curves.aif.curve_hu, step)
        flat = maps.voxel_maps(fit, brain_curves, arrival, step, settings.blood)
        volumes = {k: maps.to_volume(v, prepared.masks.brain) for k, v in flat.items()}
        curves = replace(curves, tissue_hu=brain_curves.mean(axis=1))
        del brain_curves
    with stages("tissue"):
        solid = prepared.masks.brain & ~prepared.masks.csf & ~vessels
        size = settings.tissue.smooth_mm
        smoothed = {k: maps.median_in_mask(v, solid, series.grid, size) for k, v in volumes.items()}
        lesion = tissue.segment(smoothed, solid, series.grid, rule, settings.tissue)
        unsure = maps.uncertainty_maps(fit, lesion.reference["cbf"], settings.blood)
        volumes |= {k: maps.to_volume(v, prepared.masks.brain) for k, v in unsure.items()}
    masks = _masks(lesion, prepared, curves, series.grid)
    flags = _flags(series, prepared, curves, moved, lesion)
    result = PerfusionResult(
        grid=series.grid,
        mean_ct=Volume(prepared.mean_hu, series.grid),
        maps={
            k: Map(v, series.grid, quantity=QUANTITIES[k])
            for k, v in {**volumes, "mip": prepared.mip_hu}.items()
        },
        masks=masks,
        curves=curves,
        motion=moved,
        flags=flags,
        summary={},
    )
    summary = {
        **_summary(result, series, settings, lesion, smoothed, rule),
        "settings": settings.model_dump(mode="json"),
        **cost(stages),
        "provenance": made_by,
    }
    return replace(result, summary=summary)


def flagged(result: PerfusionResult, found: QualityFlag) -> PerfusionResult:
    """The result with one more quality finding, in its summary too."""
    flags = by_rank([*result.flags, found])
    return replace(result, flags=flags, summary={**result.summary, "quality": listed(flags)})


def write_result(result: PerfusionResult, folder: Path, progress: Progress = no_progress) -> None:
    """Write maps, masks and curves into ``folder``; the summary goes last (``finish``)."""
    total = len(result.maps) + len(result.masks)
    for n, (name, image) in enumerate(result.maps.items(), 1):
        unit = QUANTITIES[name].unit
        path = folder / ("uncertainty" if name in UNCERTAINTIES else "maps") / f"{name}.nii.gz"
        nifti.write_volume(path, image.data, image.grid, f"{name} [{unit}], research use only")
        progress(n, total)
    for n, (name, mask) in enumerate(result.masks.items(), 1 + len(result.maps)):
        nifti.write_volume(folder / "masks" / f"{name}.nii.gz", mask.data, mask.grid, name)
        progress(n, total)
    outputs.write_curves(folder / "curves.csv", result.curves)


def finish(result: PerfusionResult, stages: Stages, folder: Path) -> dict[str, Any]:
    """Write ``summary.json`` with the final timing; its presence marks a finished result."""
    summary = {**result.summary, **cost(stages)}
    outputs.write_json(folder / outputs.DONE_FILE, summary)
    return summary


def _motion(
    series: CTSeries, settings: PerfusionSettings, progress: Progress
) -> tuple[CTSeries, Motion | None]:
    """The scan with its frames aligned, and the motion found."""
    if not settings.motion_correction:
        return series, None
    data, moved = motion.correct_motion(series, settings.motion, progress)
    return replace(series, data_hu=data), moved


def _estimator_options(
    curves: FloatArray, series: CTSeries, settings: PerfusionSettings, axis: sampling.UniformAxis
) -> Any:
    """Options of the chosen estimator; what it believes of noise is fitted to these curves."""
    options = getattr(settings, catalog.ESTIMATORS[settings.estimator].options)
    if not isinstance(options, BayesOptions):
        return options
    factor = 1.0 if settings.denoise == "none" else options.noise_factor
    correction = sampling.noise_correction(curves, series.times_s, axis)
    return replace(options, noise_factor=factor * correction)


def _masks(
    lesion: tissue.Tissue, prepared: Prepared, curves: Curves, grid: Grid
) -> dict[str, Mask]:
    out = {
        "brain": prepared.masks.brain,
        "hypoperfusion": lesion.hypoperfusion,
        "core": lesion.core,
        "penumbra": lesion.penumbra,
    }
    for name, curve in (("aif", curves.aif), ("vof", curves.vof)):
        out[name] = np.zeros(grid.shape, bool)
        if curve is not None:
            out[name][tuple(curve.voxels.T)] = True
    return {name: Mask(data, grid, name) for name, data in out.items()}


def _flags(
    series: CTSeries,
    prepared: Prepared,
    curves: Curves,
    moved: Motion | None,
    lesion: tissue.Tissue,
) -> tuple[QualityFlag, ...]:
    grid = series.grid
    brain_ml = float(np.count_nonzero(prepared.masks.brain) * grid.voxel_ml)
    tissue_ml = float(np.count_nonzero(lesion.parenchyma) * grid.voxel_ml)
    found = [
        *series.flags,
        *quality.scan_flags(series.times_s, grid, brain_ml, prepared.noise_hu, prepared.axis.exact),
        *(quality.motion_flags(moved) if moved is not None else []),
        *quality.curve_flags(curves),
        *quality.reference_flags(lesion.reference_ml, tissue_ml),
    ]
    return by_rank(found)


def by_rank(flags: list[QualityFlag]) -> tuple[QualityFlag, ...]:
    """The most severe first."""
    rank = {"critical": 0, "warning": 1, "info": 2}
    return tuple(sorted(flags, key=lambda f: rank[f.level]))


def listed(flags: tuple[QualityFlag, ...]) -> list[dict[str, str]]:
    """Quality findings as ``summary.json`` holds them."""
    return [{"code": f.code, "level": f.level, "message": f.message} for f in flags]


def _summary(
    result: PerfusionResult, series: CTSeries, settings: PerfusionSettings, lesion: tissue.Tissue,
    smoothed: dict[str, FloatArray], rule: tissue.TissueRule,
) -> dict[str, Any]:  # fmt: skip
    """The findings part of summary.json (docs/summary.md)."""
    grid, curves = result.grid, result.curves
    volumes = tissue.volumes_ml(lesion, smoothed["tmax"], grid, settings.tissue.min_island_ml)
    step = float(curves.time_s[1] - curves.time_s[0])
    described = {
        name: None
        if curve is None
        else outputs.describe_input(
            curve, curves.time_s, enhancement.arrival_s(curve.curve_hu, step)
        )
        for name, curve in (("aif", curves.aif), ("vof", curves.vof))
    }
    return {
        "schema": outputs.SCHEMA,
        "volumes_ml": volumes,
        **tissue.indices(volumes, lesion, smoothed["tmax"], smoothed["cbv"]),
        "side": tissue.side_of(lesion.hypoperfusion, result.masks["brain"].data, grid),
        "criteria": tissue.trial_criteria(volumes["core"], volumes["hypoperfusion"]),
        "quality": listed(result.flags),
        "method": {
            "estimator": settings.estimator,
            "denoise": settings.denoise,
            "rule": rule.name,
            "rule_source": rule.source,
            "thresholds": {"hypoperfusion": str(rule.hypoperfusion), "core": str(rule.core)},
            "reference": {k: round(v, 3) for k, v in lesion.reference.items()},
            "motion_correction": settings.motion_correction,
            "interval_s": round(series.interval_s, 4),
            "analysis_interval_s": round(step, 4),
            "frames": len(series.data_hu),
            "reader_notes": list(series.notes),
            "motion": None if result.motion is None else _describe_motion(result.motion),
            **described,
        },
    }


def _describe_motion(moved: Motion) -> dict[str, Any]:
    """Motion per frame: translation x, y, z (mm) and rotation about x, y, z (degrees), RAS."""
    return {
        "centre_mm": np.round(moved.centre_mm, 3),
        "parameters": np.round(moved.parameters, 4),
        "displacement_mm": np.round(moved.displacement_mm, 3),
        "replaced_frames": [t + 1 for t in moved.replaced],
    }


def cost(stages: Stages) -> dict[str, Any]:
    """Seconds by stage and the peak memory of this process, for ``summary.json``."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    timing = {**stages.timing_s, "total": round(sum(stages.timing_s.values()), 3)}
    return {"timing_s": timing, "peak_memory_mb": round(peak)}
