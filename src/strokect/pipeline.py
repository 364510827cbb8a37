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
import numpy.typing as npt

from strokect import catalog
from strokect.core.errors import CurveError, GeometryError, ScanError
from strokect.core.quantities import QUANTITIES, UNCERTAINTIES
from strokect.core.result import Curves, InputCurve, Motion, PerfusionResult
from strokect.core.types import (
    BoolArray,
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
from strokect.perfusion import brain as brains
from strokect.perfusion import curves as enhancement
from strokect.perfusion import inputs, maps, motion, quality, sampling, tissue
from strokect.perfusion.bayes import BayesOptions
from strokect.provenance import provenance
from strokect.settings import PerfusionSettings


@dataclass(frozen=True)
class Given:
    """What the user gives instead of letting it be found. aif_voxels : indices (z, y, x)."""

    aif: Mask | None = None
    vof: Mask | None = None
    brain: Mask | None = None
    aif_voxels: tuple[tuple[int, int, int], ...] = ()


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


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Curves of the brain, ready for an estimator. raw : (T, V') undenoised, inside the skull."""

    data: FloatArray
    mean_hu: FloatArray
    masks: brains.BrainMasks
    axis: sampling.UniformAxis
    raw: FloatArray
    raw_index: npt.NDArray[np.intp]
    last_baseline: int
    noise_hu: float
    times_s: FloatArray


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

    Raises ScanError (no head), CurveError (no bolus), SettingsError (unknown name).
    """
    stages = stages or Stages()
    estimator = catalog.load("estimators", settings.estimator)
    rule = catalog.load("rules", settings.rule)
    quality.check_values(series)
    with stages("motion") as progress:
        data, moved = _motion(series, settings, progress)
    with stages("brain"):
        prepared = _prepare(data, series, given)
    mip = data.max(axis=0)
    with stages("input functions"):
        prepared, curves = _settled_inputs(prepared, series.grid, settings, given)
    with stages("denoising"):
        vessels = _large_vessels(prepared, curves.aif, settings)
        brain_curves = _denoised_curves(prepared, vessels, series, settings)
    with stages("deconvolution"):
        step = prepared.axis.interval_s
        options = _estimator_options(series, settings, prepared.axis)
        fit = estimator(brain_curves, curves.aif.curve_hu, step, options)
        arrival = enhancement.arrival_s(curves.aif.curve_hu, step)
        flat = maps.voxel_maps(fit, brain_curves, arrival, step, settings.blood)
        volumes = {k: maps.to_volume(v, prepared.masks.brain) for k, v in flat.items()}
        curves = replace(curves, tissue_hu=brain_curves.mean(axis=1))
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
            for k, v in {**volumes, "mip": mip}.items()
        },
        masks=masks,
        curves=curves,
        motion=moved,
        flags=flags,
        summary={},
    )
    summary = _summary(result, series, settings, lesion, smoothed, rule)
    return replace(result, summary={**summary, **_run_facts(series, settings, stages)})


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
    summary = {**result.summary, **_cost(stages)}
    outputs.write_json(folder / outputs.DONE_FILE, summary)
    return summary


def _motion(
    series: CTSeries, settings: PerfusionSettings, progress: Progress
) -> tuple[FloatArray, Motion | None]:
    if not settings.motion_correction:
        return series.data_hu, None
    return motion.correct_motion(series, settings.motion, progress)


def _prepare(data: FloatArray, series: CTSeries, given: Given) -> _Prepared:
    """Masks, uniform axis, curves inside the skull as acquired, baseline and noise."""
    grid = series.grid
    mean = data.mean(axis=0)
    if given.brain is None:
        masks = brains.brain_masks(mean, grid)
    else:
        masks = brains.given_brain(mean, given.brain.data, grid)
    axis = sampling.uniform_axis(series.times_s)
    noise = float(np.median(enhancement.noise_sd(data[:, masks.brain])))
    raw = _uniform_curves(data, masks.inside, series.times_s, axis)
    last = enhancement.last_baseline_frame(raw, noise)
    raw = enhancement.subtract_baseline(raw, last)
    index = np.argwhere(masks.inside)
    return _Prepared(data, mean, masks, axis, raw, index, last, noise, series.times_s)


def _uniform_curves(
    data: FloatArray, mask: BoolArray, times_s: FloatArray, axis: sampling.UniformAxis
) -> FloatArray:
    """Curves (N, V) of the voxels in ``mask`` on the uniform axis."""
    return sampling.to_uniform(data[:, mask], np.nonzero(mask)[0], times_s, axis)


def _settled_inputs(
    prepared: _Prepared, grid: Grid, settings: PerfusionSettings, given: Given
) -> tuple[_Prepared, Curves]:
    """Input functions, on a baseline that ends before the artery itself fills."""
    curves = _input_functions(prepared, grid, settings, given)
    first = int(enhancement.frames_before_arrival(curves.aif.raw_hu[:, None])[0]) - 1
    if not 0 <= first < prepared.last_baseline:
        return prepared, curves
    # The few arteries filled before the many vessels that the baseline was judged by.
    raw = enhancement.subtract_baseline(prepared.raw, first)
    prepared = replace(prepared, raw=raw, last_baseline=first)
    return prepared, _input_functions(prepared, grid, settings, given)


def _input_functions(
    prepared: _Prepared, grid: Grid, settings: PerfusionSettings, given: Given
) -> Curves:
    """AIF and VOF: the user's where given, else found; the AIF scaled to the VOF."""
    options, step = settings.inputs, prepared.axis.interval_s
    vessels = inputs.vessel_voxels(prepared.raw, prepared.raw_index, step, options)
    manual = _manual_artery(prepared, grid, given)
    if manual is None:
        depth = brains.distance_mm(prepared.masks.inside, grid)
        allowed = depth[tuple(vessels.index.T)] > options.off_bone_mm
        aif, *others = inputs.arterial_candidates(vessels, allowed, grid, step, options)
    else:
        aif, others = manual, []
    if given.vof is not None:
        vof: InputCurve | None = _given_curve(prepared, np.argwhere(given.vof.data), grid, "mask")
    else:
        vof = inputs.venous_input(vessels, aif, grid, step, options)
    if vof is not None and options.scale_to_vof:
        aif = inputs.scale_to_vein(aif, vof, step, options)
    nothing = np.zeros_like(prepared.axis.time_s)
    return Curves(prepared.axis.time_s, aif, vof, nothing, tuple(others))


def _large_vessels(prepared: _Prepared, aif: InputCurve, settings: PerfusionSettings) -> BoolArray:
    """Voxels (Z, Y, X) whose undenoised curve holds more blood than tissue can."""
    area = float(aif.curve_hu.sum(dtype=float)) / settings.blood.volume_to_cbv
    cbv = prepared.raw.sum(axis=0) / area
    noise = prepared.noise_hu * np.sqrt(len(prepared.raw)) / area
    out = np.zeros(prepared.masks.inside.shape, bool)
    out[prepared.masks.inside] = cbv > tissue.VESSEL_CBV + 2.0 * noise
    return out


def _denoised_curves(
    prepared: _Prepared, vessels: BoolArray, series: CTSeries, settings: PerfusionSettings
) -> FloatArray:
    """Enhancement (N, V) of the brain, tissue and CSF denoised apart, large vessels left alone."""
    denoiser = catalog.load("denoisers", settings.denoise)
    brain, csf = prepared.masks.brain, prepared.masks.csf
    smooth = sampling.scan_to_uniform(prepared.data, series.times_s, prepared.axis)
    for part in (brain & ~csf & ~vessels, brain & csf & ~vessels):
        if part.any():
            smooth = denoiser(smooth, part, series.grid, settings.denoising)
    return enhancement.subtract_baseline(smooth[:, brain], prepared.last_baseline)


def _estimator_options(
    series: CTSeries, settings: PerfusionSettings, axis: sampling.UniformAxis
) -> Any:
    """Options of the chosen estimator; what it believes of noise is fitted to these curves."""
    options = getattr(settings, catalog.ESTIMATORS[settings.estimator].options)
    if not isinstance(options, BayesOptions):
        return options
    factor = 1.0 if settings.denoise == "none" else options.noise_factor
    correction = sampling.noise_correction(series.times_s, axis)
    return replace(options, noise_factor=factor * correction)


def _manual_artery(prepared: _Prepared, grid: Grid, given: Given) -> InputCurve | None:
    if given.aif is not None:
        return _given_curve(prepared, np.argwhere(given.aif.data), grid, "mask")
    if not given.aif_voxels:
        return None
    index = np.array(given.aif_voxels, dtype=np.intp)
    if (index < 0).any() or (index >= np.array(grid.shape)).any():
        z, y, x = grid.shape
        raise GeometryError(
            "a voxel outside the scan",
            "--aif-voxel",
            f"Give x,y,z below {x},{y},{z}, counted from 0",
        )
    return _given_curve(prepared, index, grid, "voxel")


def _given_curve(
    prepared: _Prepared, index: npt.NDArray[np.intp], grid: Grid, source: str
) -> InputCurve:
    picked = prepared.data[(slice(None), *index.T)]
    picked = sampling.to_uniform(picked, index[:, 0], prepared.times_s, prepared.axis)
    picked = enhancement.subtract_baseline(picked, prepared.last_baseline)
    peak, noise = float(picked.mean(axis=1).max()), prepared.noise_hu / np.sqrt(len(index))
    if not peak > 4 * noise:
        raise CurveError(
            f"the vessel given as {source} rises by {peak:.0f} HU only, no more than noise",
            fix="Choose voxels inside a vessel",
        )
    return inputs.given_input(picked, index, grid, source)


def _masks(
    lesion: tissue.Tissue, prepared: _Prepared, curves: Curves, grid: Grid
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
    prepared: _Prepared,
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
    rank = {"critical": 0, "warning": 1, "info": 2}
    return tuple(sorted(found, key=lambda f: rank[f.level]))


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
        "quality": [{"code": f.code, "level": f.level, "message": f.message} for f in result.flags],
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


def _run_facts(series: CTSeries, settings: PerfusionSettings, stages: Stages) -> dict[str, Any]:
    return {
        "settings": settings.model_dump(mode="json"),
        **_cost(stages),
        "provenance": provenance(series),
    }


def _cost(stages: Stages) -> dict[str, Any]:
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    timing = {**stages.timing_s, "total": round(sum(stages.timing_s.values()), 3)}
    return {"timing_s": timing, "peak_memory_mb": round(peak)}
