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
    """What is known of a scan before its curves are fitted. mip_hu, mean_hu : (Z, Y, X).

    given : curves (N, V) of the voxels that the user chose, HU, on the axis, by "aif" and "vof".
    """

    mip_hu: FloatArray
    mean_hu: FloatArray
    masks: brains.BrainMasks
    axis: sampling.UniformAxis
    given: dict[str, _Picked]
    last_baseline: int
    noise_hu: float


@dataclass(frozen=True, eq=False)
class _Picked:
    """Voxels (V, 3) that the user chose, from what source, and their curves (N, V), HU."""

    index: npt.NDArray[np.intp]
    source: str
    curves: FloatArray


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
    rule = catalog.load("rules", settings.rule)
    quality.check_values(series)
    made_by = provenance(series)
    with stages("motion") as progress:
        series, moved = _motion(series, settings, progress)
    with stages("brain"):
        prepared, raw = _prepare(series, given)
        # Curves inside the skull are all that is needed now, and a whole scan fills the memory.
        series = replace(series, data_hu=np.broadcast_to(np.float32(0), series.data_hu.shape))
    with stages("input functions"):
        steady = _steady(prepared.masks.inside, moved, series.grid, settings)
        prepared, curves = _settled_inputs(prepared, raw, steady, series.grid, settings)
    with stages("denoising"):
        vessels = _large_vessels(prepared, raw, curves.aif, settings)
        raw = raw[:, prepared.masks.brain[prepared.masks.inside]]
        brain_curves = _denoised(raw, prepared, vessels, series.grid, settings)
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
        **_cost(stages),
        "provenance": made_by,
    }
    return replace(result, summary=summary)


def flagged(result: PerfusionResult, found: QualityFlag) -> PerfusionResult:
    """The result with one more quality finding, in its summary too."""
    flags = _by_rank([*result.flags, found])
    return replace(result, flags=flags, summary={**result.summary, "quality": _listed(flags)})


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
) -> tuple[CTSeries, Motion | None]:
    """The scan with its frames aligned, and the motion found."""
    if not settings.motion_correction:
        return series, None
    data, moved = motion.correct_motion(series, settings.motion, progress)
    return replace(series, data_hu=data), moved


def _prepare(series: CTSeries, given: Given) -> tuple[_Prepared, FloatArray]:
    """Masks, uniform axis, baseline and noise; and the curves (N, V) inside the skull, HU."""
    data, grid = series.data_hu, series.grid
    mean = data.mean(axis=0)
    if given.brain is None:
        masks = brains.brain_masks(mean, grid)
    else:
        masks = brains.given_brain(mean, given.brain.data, grid)
    axis = sampling.uniform_axis(series.times_s)
    within = data[:, masks.inside]
    noise = float(np.median(enhancement.noise_sd(within[:, masks.brain[masks.inside]])))
    raw = sampling.to_uniform(within, np.nonzero(masks.inside)[0], series.times_s, axis)
    last = enhancement.last_baseline_frame(raw, noise)
    picked = {name: _pick(series, axis, *p) for name, p in _given_voxels(given, grid).items()}
    return _Prepared(data.max(axis=0), mean, masks, axis, picked, last, noise), raw


def _given_voxels(given: Given, grid: Grid) -> dict[str, tuple[npt.NDArray[np.intp], str]]:
    """Indices (V, 3) of what the user gave as "aif" and "vof", and how."""
    out = {}
    if given.aif is not None:
        out["aif"] = (np.argwhere(given.aif.data), "mask")
    elif given.aif_voxels:
        index = np.array(given.aif_voxels, dtype=np.intp)
        if (index < 0).any() or (index >= np.array(grid.shape)).any():
            z, y, x = grid.shape
            raise GeometryError(
                "a voxel outside the scan",
                "--aif-voxel",
                f"Give x,y,z below {x},{y},{z}, counted from 0",
            )
        out["aif"] = (index, "voxel")
    if given.vof is not None:
        out["vof"] = (np.argwhere(given.vof.data), "mask")
    return out


def _pick(
    series: CTSeries, axis: sampling.UniformAxis, index: npt.NDArray[np.intp], source: str
) -> _Picked:
    curves = series.data_hu[(slice(None), *index.T)]
    return _Picked(index, source, sampling.to_uniform(curves, index[:, 0], series.times_s, axis))


def _steady(
    inside: npt.NDArray[np.bool_], moved: Motion | None, grid: Grid, settings: PerfusionSettings
) -> npt.NDArray[np.bool_]:
    """Where an AIF may lie (Z, Y, X): off the skull, the further the more the head moved.

    An edge of bone dragged over a voxel, in its slice or from the next, looks like a bolus.
    """
    margin = settings.inputs.off_bone_mm
    shift = 0.0 if moved is None else float(moved.displacement_mm.max())
    if moved is None or shift <= settings.motion.ignore_mm:
        return brains.distance_mm(inside, grid) > margin
    above, below = (np.concatenate(p) for p in ((inside[1:], inside[-1:]),
                                                (inside[:1], inside[:-1])))  # fmt: skip
    clear = brains.distance_mm(inside & above & below, grid) > margin + shift
    return clear & motion.always_seen(moved, grid, settings.motion)


def _settled_inputs(
    prepared: _Prepared,
    raw: FloatArray,
    steady: npt.NDArray[np.bool_],
    grid: Grid,
    settings: PerfusionSettings,
) -> tuple[_Prepared, Curves]:
    """Input functions, on a baseline that ends before the artery itself fills."""
    curves = _input_functions(prepared, raw, steady, grid, settings)
    first = int(enhancement.frames_before_arrival(curves.aif.raw_hu[:, None])[0]) - 1
    if not 0 <= first < prepared.last_baseline:
        return prepared, curves
    # The few arteries filled before the many vessels that the baseline was judged by.
    prepared = replace(prepared, last_baseline=first)
    return prepared, _input_functions(prepared, raw, steady, grid, settings)


def _input_functions(
    prepared: _Prepared,
    raw: FloatArray,
    steady: npt.NDArray[np.bool_],
    grid: Grid,
    settings: PerfusionSettings,
) -> Curves:
    """AIF and VOF: the user's where given, else found; the AIF scaled to the VOF.

    raw : (N, V) inside the skull, HU.
    """
    options, step = settings.inputs, prepared.axis.interval_s
    enhanced = enhancement.subtract_baseline(raw, prepared.last_baseline)
    index = np.argwhere(prepared.masks.inside)
    vessels = inputs.vessel_voxels(enhanced, index, step, options)
    if "aif" in prepared.given:
        aif, others = _given_curve(prepared, "aif", grid), []
    else:
        allowed = steady[tuple(vessels.index.T)]
        aif, *others = inputs.arterial_candidates(vessels, allowed, grid, step, options)
    if "vof" in prepared.given:
        vof: InputCurve | None = _given_curve(prepared, "vof", grid)
    else:
        vof = inputs.venous_input(vessels, aif, grid, step, options)
    if vof is not None and options.scale_to_vof:
        aif = inputs.scale_to_vein(aif, vof, step, options)
    nothing = np.zeros_like(prepared.axis.time_s)
    return Curves(prepared.axis.time_s, aif, vof, nothing, tuple(others))


def _given_curve(prepared: _Prepared, name: str, grid: Grid) -> InputCurve:
    picked = prepared.given[name]
    curves = enhancement.subtract_baseline(picked.curves, prepared.last_baseline)
    peak = float(curves.mean(axis=1).max())
    if not peak > 4 * prepared.noise_hu / np.sqrt(len(picked.index)):
        raise CurveError(
            f"the vessel given as {picked.source} rises by {peak:.0f} HU only, no more than noise",
            fix="Choose voxels inside a vessel",
        )
    return inputs.given_input(curves, picked.index, grid, picked.source)


def _large_vessels(
    prepared: _Prepared, raw: FloatArray, aif: InputCurve, settings: PerfusionSettings
) -> BoolArray:
    """Voxels (Z, Y, X) whose undenoised curve holds more blood than tissue can."""
    area = float(aif.curve_hu.sum(dtype=float)) / settings.blood.volume_to_cbv
    cbv = enhancement.subtract_baseline(raw, prepared.last_baseline).sum(axis=0) / area
    noise = prepared.noise_hu * np.sqrt(len(raw)) / area
    out = np.zeros(prepared.masks.inside.shape, bool)
    out[prepared.masks.inside] = cbv > tissue.VESSEL_CBV + 2.0 * noise
    return out


def _denoised(
    curves: FloatArray, prepared: _Prepared, vessels: BoolArray, grid: Grid,
    settings: PerfusionSettings,
) -> FloatArray:  # fmt: skip
    """Enhancement of the brain, tissue and CSF denoised apart, large vessels left alone.

    curves : (N, V) of the brain, HU; overwritten.
    """
    denoiser = catalog.load("denoisers", settings.denoise)
    brain, csf = prepared.masks.brain, prepared.masks.csf
    for part in (brain & ~csf & ~vessels, brain & csf & ~vessels):
        if part.any():
            chosen = part[brain]
            curves[:, chosen] = denoiser(curves[:, chosen], part, grid, settings.denoising)
    curves -= enhancement.baseline(curves, prepared.last_baseline)
    return curves


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
    return _by_rank(found)


def _by_rank(flags: list[QualityFlag]) -> tuple[QualityFlag, ...]:
    rank = {"critical": 0, "warning": 1, "info": 2}
    return tuple(sorted(flags, key=lambda f: rank[f.level]))


def _listed(flags: tuple[QualityFlag, ...]) -> list[dict[str, str]]:
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
        "quality": _listed(result.flags),
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


def _cost(stages: Stages) -> dict[str, Any]:
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    timing = {**stages.timing_s, "total": round(sum(stages.timing_s.values()), 3)}
    return {"timing_s": timing, "peak_memory_mb": round(peak)}
