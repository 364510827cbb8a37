"""Virtual patients to disk: make -> write, one patient at a time, resumable."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from strokect.core.errors import OutputExistsError, SettingsError
from strokect.core.types import Progress
from strokect.io import nifti
from strokect.io.layouts import OwnLayout
from strokect.io.outputs import (
    atomic_file,
    check_writable,
    result_folder,
    to_json,
    write_json,
    write_table,
)
from strokect.phantom.patient import SMALL, PatientConfig, VirtualPatient, make_patient

Stroke = Literal["mca", "none"]
SIZES = {"full": PatientConfig(), "small": SMALL}


@dataclass(frozen=True)
class VirtualOptions:
    """What ``strokect phantom`` makes. seed : of the first patient; the next have seed + 1, ..."""

    n: int = 1
    seed: int = 1
    size: str = "full"
    stroke: Stroke = "mca"
    noise_hu: float = 5.0
    dicom: bool = False
    overwrite: bool = False


def make_patients(
    root: Path, options: VirtualOptions, listener: Callable[[str, int, int], None]
) -> list[tuple[Path, bool]]:
    """Make patients sub-0001 ... under ``root``. Patients that are there already are kept.

    Returns (scan folder, whether it was made now). Raises SettingsError for an unknown size or
    stroke, OutputExistsError where a patient of other settings is in the way.
    """
    if options.size not in SIZES:
        raise SettingsError(
            f"no size is called {options.size!r}", "--size", f"Use {', '.join(SIZES)}"
        )
    if options.stroke not in get_args(Stroke):
        choices = ", ".join(get_args(Stroke))
        raise SettingsError(f"no stroke is called {options.stroke!r}", "--stroke", f"Use {choices}")
    if not math.isfinite(options.noise_hu):
        raise SettingsError(f"noise of {options.noise_hu} HU", "--noise", "Give a number, e.g. 5")
    _check_root(root)
    made = []
    for k in range(options.n):
        config = replace(
            SIZES[options.size],
            seed=options.seed + k,
            stroke=options.stroke,
            noise_hu=options.noise_hu,
        )
        layout = OwnLayout(root, f"{k + 1:04d}")
        stage = f"patient {layout.label}"
        done = _is_done(layout, config, options)
        if not done:
            patient = make_patient(config, _steps_of(stage, listener))
            write_patient(patient, layout, options.dicom)
        listener(stage, 1, 1)
        made.append((layout.scan_folder, not done))
    _write_index(root, options.n)
    return made


def write_patient(patient: VirtualPatient, layout: OwnLayout, dicom: bool) -> None:
    """Write scan, truth and (on request) DICOM of one patient; the scan folder comes last."""
    layout.scan("ctp").unlink(missing_ok=True)  # from here on the old patient is not whole
    for folder in (layout.scan_folder, layout.dicom_folder, layout.truth_folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
    with result_folder(layout.truth_folder) as folder:
        for name, image in patient.maps.items():
            nifti.write_volume(folder / layout.truth_map(name).name, image.data, image.grid, name)
        for name, mask in patient.masks.items():
            nifti.write_volume(folder / layout.truth_mask(name).name, mask.data, mask.grid, name)
        sampled = ("time_s", "aif_hu", "vof_hu")
        write_table(folder / layout.truth_curves.name, {k: patient.curves[k] for k in sampled})
        dense = {k.removeprefix("dense_"): v for k, v in patient.curves.items() if k not in sampled}
        write_table(folder / f"{layout.stem}_densecurves.csv", dense)
        write_json(folder / f"{layout.stem}_truth.json", patient.info)
    if dicom:
        from strokect.io.dicom_write import write_ct_series

        write_ct_series(
            patient.ctp, layout.dicom_folder, seed=patient.config.seed, series_description="CTP"
        )
    with result_folder(layout.scan_folder) as folder:
        nifti.write_ctp(folder / layout.scan("ctp").name, patient.ctp)


def _steps_of(stage: str, listener: Callable[[str, int, int], None]) -> Progress:
    """Progress of one patient; writing it is the step that remains."""
    return lambda done, total: listener(stage, done, total + 1)


def _check_root(root: Path) -> None:
    """Refuse a place that cannot be written to before any work."""
    if root.exists() and not root.is_dir():
        raise OutputExistsError(
            "a file stands where the output folder should be", root, "Choose another name"
        )
    check_writable(root)


def _is_done(layout: OwnLayout, config: PatientConfig, options: VirtualOptions) -> bool:
    """Whether the very patient that is asked for stands there. The scan is written last.

    Raises OutputExistsError for a patient of other settings (without ``overwrite``), and for one
    that has no truth: it is not virtual and is never replaced.
    """
    truth = layout.truth_folder / f"{layout.stem}_truth.json"
    if not truth.exists():
        for folder in (layout.scan_folder, layout.dicom_folder, layout.truth_folder):
            if folder.exists() and any(folder.iterdir()):
                raise OutputExistsError(
                    "the folder holds something that strokect did not make",
                    folder,
                    "Choose another folder",
                )
        return False
    if options.overwrite or not layout.scan("ctp").exists():
        return False
    if options.dicom and not layout.dicom_folder.exists():
        return False
    if nifti.read_json(truth).get("config") != json.loads(to_json(dataclasses.asdict(config))):
        raise OutputExistsError(
            "a patient made with other settings is there already",
            layout.scan_folder,
            "Choose another folder or add --overwrite",
        )
    return True


def _write_index(root: Path, n: int) -> None:
    """The files that a BIDS-like data set has at its top."""
    write_json(
        root / "dataset_description.json",
        {
            "Name": "strokect virtual patients",
            "BIDSVersion": "1.9.0",
            "DatasetType": "raw",
            "GeneratedBy": [{"Name": "strokect phantom"}],
            "Description": "Simulated CT perfusion with known truth. No patient data.",
        },
    )
    with (
        atomic_file(root / "participants.tsv") as path,
        path.open("w", newline="", encoding="utf-8") as file,
    ):
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow(["participant_id", "side", "core_ml", "hypoperfusion_ml"])
        for k in range(n):
            layout = OwnLayout(root, f"{k + 1:04d}")
            info = nifti.read_json(layout.truth_folder / f"{layout.stem}_truth.json")
            volumes = info.get("volumes_ml", {})
            rows.writerow(
                [f"sub-{layout.label}", info.get("side", "n/a"),
                 *(f"{volumes.get(v, 0.0):.2f}" for v in ("core", "hypoperfusion"))]
            )  # fmt: skip
