"""Accuracy, time and memory on virtual patients with known truth.

    python benchmarks/patients.py --seeds 11 12 13 14 15
    python benchmarks/patients.py --size small --estimator osvd --denoise bilateral

Standard output: one JSON line per figure and patient, then one per figure with minimum, median and
maximum. Standard error: progress. Exit code 1 where a figure misses its limit (``LIMITS``).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common import figures, short
from strokect import catalog
from strokect.core.errors import StrokeCTError
from strokect.core.geometry import resample
from strokect.io import nifti
from strokect.io.dicom_write import write_ct_series
from strokect.phantom.config import SMALL, PatientConfig
from strokect.phantom.patient import VirtualPatient, make_patient
from strokect.phantom.vessels import Side
from strokect.pipeline import analyse, read_scan
from strokect.settings import PerfusionSettings, load_settings

SIZES = {"full": PatientConfig(), "small": SMALL}
#: What every patient has to reach, lowest and highest allowed value.
LIMITS: dict[str, tuple[float, float]] = {
    "aif_in_artery": (1, 1),
    "aif_area_ratio": (0.85, 1.15),
    "dice_brain": (0.95, 1),
    "dice_hypoperfusion": (0.85, 1),
    "dicom_volume_difference_percent": (0, 1),
    "dicom_map_correlation_min": (0.999, 1.0001),
}


def dicom_figures(patient: VirtualPatient, settings: PerfusionSettings) -> dict[str, Any]:
    """How far a DICOM folder and a NIfTI file of one scan agree, through temporary files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nifti.write_ctp(folder / "scan.nii.gz", patient.ctp)
        write_ct_series(patient.ctp, folder / "dicom", seed=patient.config.seed)
        one, two = (
            analyse(read_scan(folder / source), settings) for source in ("scan.nii.gz", "dicom")
        )
    volumes = [r.summary["volumes_ml"] for r in (one, two)]
    worst = max(
        100 * abs(volumes[1][k] - v) / v if v else 100.0 * (volumes[1][k] != 0)
        for k, v in volumes[0].items()
    )
    correlations = {}
    for key, image in one.maps.items():
        other = resample(two.maps[key].data, two.grid, one.grid, order=0)
        correlations[key] = float(np.corrcoef(image.data.ravel(), other.ravel())[0, 1])
    return {
        "dicom_volume_difference_percent": worst,
        "dicom_map_correlation_min": min(correlations.values()),
    }


def misses(rows: list[dict[str, Any]]) -> list[str]:
    """What lies outside ``LIMITS``, in words."""
    out = []
    for row in rows:
        low, high = LIMITS.get(row["figure"], (-np.inf, np.inf))
        if row["value"] is not None and not low <= row["value"] <= high:
            out.append(f"{row['figure']} of seed {row['seed']}: {row['value']:.4g}, not {low:g} "
                       f"to {high:g}")  # fmt: skip
    return out


def totals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Minimum, median and maximum of every figure."""
    out = []
    for figure in dict.fromkeys(row["figure"] for row in rows):
        values = [
            float(r["value"]) for r in rows if r["figure"] == figure and r["value"] is not None
        ]
        if values:
            low, middle, high = min(values), statistics.median(values), max(values)
            out.append({"figure": figure, "n": len(values), "min": short(low),
                        "median": short(middle), "max": short(high)})  # fmt: skip
    return out


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    parser.add_argument("--noise", type=float, default=5.0, help="SD of a voxel, HU")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--estimator", choices=catalog.ESTIMATORS)
    parser.add_argument("--denoise", choices=catalog.DENOISERS)
    parser.add_argument("--rule", choices=catalog.RULES)
    parser.add_argument("--no-dicom", action="store_true", help="skip NIfTI against DICOM")
    parser.add_argument("--json-only", action="store_true", help="no progress on standard error")
    return parser.parse_args(arguments)


def measure(
    options: argparse.Namespace, settings: PerfusionSettings, note: Callable[[str], None]
) -> list[dict[str, Any]]:
    """All figures of all patients, printed as they come."""
    rows: list[dict[str, Any]] = []
    for n, seed in enumerate(options.seeds):
        note(f"patient {n + 1} of {len(options.seeds)}, seed {seed}")
        side: Side = "left" if n % 2 == 0 else "right"
        config = replace(SIZES[options.size], seed=seed, noise_hu=options.noise, side=side)
        patient = make_patient(config)
        start = time.perf_counter()
        result = analyse(patient.ctp, settings)
        seconds = time.perf_counter() - start
        found = figures(patient, result)
        found["seconds"] = seconds
        del result
        if n == 0 and not options.no_dicom:
            note("the same patient as NIfTI and as DICOM")
            found |= dicom_figures(patient, settings)
        # Making the patient is part of the process and of its peak.
        unit = 1 if sys.platform == "darwin" else 1024
        found["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
        for figure, value in found.items():
            rows.append({"figure": figure, "seed": seed, "value": short(value)})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)

    def note(text: str) -> None:
        if not options.json_only:
            print(text, file=sys.stderr, flush=True)

    try:
        settings = load_settings(
            None, estimator=options.estimator, denoise=options.denoise, rule=options.rule
        )
        rows = measure(options, settings, note)
    except StrokeCTError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return error.exit_code
    for total in totals(rows):
        print(json.dumps(total))
    missed = misses(rows)
    for line in missed:
        note(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
