"""A trained model on one CT perfusion scan: labels, probabilities, volumes, report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from strokect import pipeline
from strokect.core.classes import (
    BACKGROUND,
    BRAIN,
    CLASS_NAMES,
    CORE,
    LABELS,
    PENUMBRA,
    from_classes,
)
from strokect.core.clinical import SCORES, UNKNOWN, Clinical
from strokect.core.errors import StrokeCTError
from strokect.core.flags import flag
from strokect.core.mapset import MapSet
from strokect.core.result import SegmentationResult
from strokect.core.types import FloatArray, Grid, Mask, Progress, QualityFlag, Volume
from strokect.io import nifti
from strokect.io.nifti_maps import read_result_maps
from strokect.io.outputs import check_output_folder, result_folder, write_json
from strokect.learn.map_inputs import MapInputOptions, clinical_vector, missing_scores
from strokect.learn.predict import Prediction, UncertaintyOptions, predict_with_uncertainty
from strokect.learn.scan_input import ScanInput
from strokect.map_input import other_maps, source_of
from strokect.models import Model
from strokect.network_input import Study, study_input
from strokect.pipeline import Stages
from strokect.provenance import provenance
from strokect.report.segmentation import write_segmentation_report
from strokect.training_processes import same_threads
from strokect.training_settings import PRIVATE, needs_of

SCHEMA = "strokect.segmentation/1"
FLIP = UncertaintyOptions("flip")


@dataclass(frozen=True)
class PredictOptions:
    """How a scan is read and its prediction written; see ``study.StudyOptions``.

    clinical : what is known beside the images, for networks that ask for it.
    """

    interval_s: float | None = None
    times_file: Path | None = None
    uncertainty: UncertaintyOptions = FLIP
    clinical: Clinical = UNKNOWN
    report: bool = True
    overwrite: bool = False


def predict_study(
    model: Model,
    source: Path,
    out: Path,
    options: PredictOptions = PredictOptions(),
    listener: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Read, segment and write one study; ``out`` appears when it is whole.

    source : NIfTI file, DICOM folder or patient folder; for a network that looks at maps also a
    result folder of ``strokect perfusion``. Returns the content of summary.json.
    """
    wanted = model.settings.input
    names = wanted.maps if isinstance(wanted, MapInputOptions) else ()

    def read(progress: Progress) -> Study:
        if names and (source / "maps").is_dir():
            return read_result_maps(source, names)
        return pipeline.read_scan(source, options.interval_s, options.times_file, progress)

    return predict_scan(model, read, out, options, listener)


def predict_scan(
    model: Model,
    read: Callable[[Progress], Study],
    out: Path,
    options: PredictOptions = PredictOptions(),
    listener: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, Any]:
    """As ``predict_study``, of a scan, or of maps, that ``read`` gives."""
    check_output_folder(out, options.overwrite)
    stages = Stages(listener)
    with stages("reading") as progress:
        study = read(progress)
    result = segment(model, study, options.uncertainty, stages, options.clinical)
    with result_folder(out, options.overwrite) as folder:
        with stages("writing"):
            _write(result, folder)
        summary = {**result.summary, **pipeline.cost(stages)}
        if options.report:
            with stages("report"):
                report = replace(result, summary=summary)
                write_segmentation_report(report, folder / "report.html")
            summary |= pipeline.cost(stages)
        write_json(folder / "summary.json", summary)
    return summary


def segment(
    model: Model,
    study: Study,
    uncertainty: UncertaintyOptions = FLIP,
    stages: Stages | None = None,
    clinical: Clinical = UNKNOWN,
) -> SegmentationResult:
    """Labels and probabilities of one scan, or of its maps, on its own grid.

    Raises ScanError (no head), CurveError (no bolus), GeometryError (fewer slices than the network
    looks at).
    """
    stages = stages or Stages()
    made_by = provenance(study)
    options = model.settings.input
    with stages("preparing") as progress, same_threads():
        seen = study_input(study, options, progress)
    beside = np.zeros(0, np.float32)
    if isinstance(options, MapInputOptions):
        beside = clinical_vector(clinical, options.scores)
        computed = source_of(options.estimator, options.denoise)
        other = other_maps(study.source if isinstance(study, MapSet) else computed, options)
        more = [*_missing(clinical, options), *([] if other is None else [other])]
        seen = replace(seen, flags=(*seen.flags, *more))
    with stages("network") as progress:
        found = _found(model, seen, beside, uncertainty, progress)
    return _result(model, study.grid, seen, found, uncertainty, made_by)


def unused_scores(model: Model, clinical: Clinical) -> list[str]:
    """Clinical scores that are known and that the network does not ask for."""
    options = model.settings.input
    asked = options.scores if isinstance(options, MapInputOptions) else ()
    return [n for n in SCORES if n not in asked and getattr(clinical, n) is not None]


def _missing(clinical: Clinical, options: MapInputOptions) -> list[QualityFlag]:
    lacking = missing_scores(clinical, options.scores)
    if not lacking:
        return []
    names = ", ".join("NIHSS" if name == "nihss" else name for name in lacking)
    return [flag("NO_CLINICAL", f"The network was trained with {names}, which is not known here")]


def _found(
    model: Model,
    seen: ScanInput,
    clinical: npt.NDArray[np.float32],
    uncertainty: UncertaintyOptions,
    progress: Progress,
) -> Prediction:
    """What the network says of a scan, on a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    turned = model.settings.augment  # only what the network has seen mirrored is mirrored
    axes = tuple(a for a, p in ((-1, turned.flip_x_p), (-2, turned.flip_y_p)) if p > 0)

    def volumes(chance: torch.Tensor) -> torch.Tensor:
        labels = _labels(model, seen, chance.cpu())
        return torch.from_numpy(np.bincount(labels.ravel(), minlength=len(LABELS)))

    try:
        found = predict_with_uncertainty(
            model.network.to(device),
            torch.from_numpy(seen.image).to(device),
            volumes,
            needs_of(model.network),
            model.settings.tiling,
            replace(uncertainty, axes=axes or (-1,)),
            progress,
            torch.from_numpy(clinical).to(device),
        )
    except torch.OutOfMemoryError as error:
        raise StrokeCTError(
            "out of GPU memory", fix="Set CUDA_VISIBLE_DEVICES= to do without the GPU"
        ) from error
    return Prediction(found.mean.cpu(), found.sd.cpu(), found.counts)


def _labels(model: Model, seen: ScanInput, chance: torch.Tensor) -> npt.NDArray[np.uint8]:
    """House labels (Z, Y, X) of the likeliest classes, on the scan."""
    best = seen.on_scan(chance.numpy()).argmax(axis=0).astype(np.uint8)
    labels = np.maximum(from_classes(best, model.settings.data.classes), BRAIN)
    labels[~seen.brain] = BACKGROUND  # what lies outside the brain is no lesion
    return labels


def _result(
    model: Model,
    grid: Grid,
    seen: ScanInput,
    found: Prediction,
    uncertainty: UncertaintyOptions,
    made_by: dict[str, Any],
) -> SegmentationResult:
    classes = model.settings.data.classes
    labels = _labels(model, seen, found.mean)
    masks = {"brain": Mask(seen.brain, grid, "brain"), "core": Mask(labels == CORE, grid, "core")}
    if classes > 2:
        masks["penumbra"] = Mask(labels == PENUMBRA, grid, "penumbra")
        masks["hypoperfusion"] = Mask(labels >= PENUMBRA, grid, "hypoperfusion")
    names = CLASS_NAMES[classes]
    lesions: list[str] = [name for name in ("core", "penumbra") if name in names]
    chance = {n: _on_scan(seen, found.mean[names.index(n)]) for n in lesions}
    spread = {n: _on_scan(seen, found.sd[names.index(n)]) for n in lesions}
    if classes > 2:
        chance["hypoperfusion"] = np.minimum(chance["core"] + chance["penumbra"], 1.0)
    drawn = len(found.counts) > 1
    flags = pipeline.by_rank(list(seen.flags))
    counts = {n: found.counts[:, LABELS[n]] for n in lesions}
    if classes > 2:
        counts["hypoperfusion"] = counts["core"] + counts["penumbra"]
    volumes = {n: m.volume_ml for n, m in masks.items() if n != "brain"}
    ranges = {n: _range(counts[n].numpy() * grid.voxel_ml, volumes[n]) for n in counts}
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "volumes_ml": volumes,
        **({"volume_range_ml": ranges} if drawn else {}),
        "quality": pipeline.listed(flags),
        "model": {
            **model.described(),
            "uncertainty": {"method": uncertainty.method, "draws": len(found.counts)},
        },
        "settings": model.settings.model_dump(mode="json", exclude=PRIVATE),
        "provenance": {**made_by, "torch": torch.__version__},
    }
    return SegmentationResult(
        grid,
        Volume(seen.mean_hu, grid),
        masks,
        {n: Volume(v, grid) for n, v in chance.items()},
        {n: Volume(v, grid) for n, v in spread.items()} if drawn else {},
        labels,
        tuple(flags),
        summary,
    )


def _range(draws_ml: FloatArray, volume_ml: float) -> list[float]:
    """Of the draws and of what their mean gives, which need not lie between them."""
    return [float(min(draws_ml.min(), volume_ml)), float(max(draws_ml.max(), volume_ml))]


def _on_scan(seen: ScanInput, values: torch.Tensor) -> FloatArray:
    """Values (Z, y, x) of the box on the whole scan, 0 outside the brain."""
    out = seen.on_scan(values.numpy().astype(np.float32))
    out[~seen.brain] = 0.0
    return out


def _write(result: SegmentationResult, folder: Path) -> None:
    for name, mask in result.masks.items():
        nifti.write_volume(folder / "masks" / f"{name}.nii.gz", mask.data, mask.grid, name)
    for room, volumes in (
        ("probabilities", result.probabilities),
        ("uncertainty", result.uncertainty),
    ):
        for name, volume in volumes.items():
            path = folder / room / f"{name}.nii.gz"
            nifti.write_volume(
                path, volume.data, volume.grid, f"{room} of {name}, research use only"
            )
    nifti.write_labels(folder / "labels.nii.gz", result.labels, result.grid, "tissue class")
