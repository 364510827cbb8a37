"""Denoisers of the catalog with the default estimator, over patients, noise levels and sampling.

    python benchmarks/denoisers.py                # 8 patients in 6 conditions, about 10 minutes
    python benchmarks/denoisers.py --estimator osvd

Standard output: one JSON line per condition and denoiser (mean over patients), then one per
denoiser over all conditions. For information: nothing here has a limit.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

import numpy as np

from common import Report, figures, note, stroke_of
from strokect import catalog
from strokect.phantom.patient import PatientConfig, make_patient
from strokect.pipeline import analyse
from strokect.settings import load_settings

BASE = PatientConfig(shape=(8, 128, 128), spacing_mm=(6.0, 1.8, 1.8), n_times=46)
_TWO_PHASE = (*np.arange(0.0, 40.0), *np.arange(40.0, 71.0, 3.0))
CONDITIONS = {
    "1 s, 2.5 HU": replace(BASE, noise_hu=2.5),
    "1 s, 5 HU": replace(BASE, noise_hu=5.0),
    "1 s, 8 HU": replace(BASE, noise_hu=8.0),
    "2 s, 5 HU": replace(BASE, n_times=24, interval_s=2.0),
    "two-phase, 5 HU": replace(BASE, frame_times_s=tuple(map(float, _TWO_PHASE))),
    "3 s shuttle, 5 HU": replace(BASE, n_times=20, interval_s=3.0, slice_times="shuttle"),
}
MEASURES = ("dice_hypoperfusion", "dice_core", "core_error_percent")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--estimator", choices=catalog.ESTIMATORS, default=None)
    parser.add_argument("--patients", type=int, default=8)
    options = parser.parse_args()
    report = Report()
    rows: dict[str, list[tuple[float, ...]]] = {}
    for condition, config in CONDITIONS.items():
        note(condition)
        found: dict[str, list[tuple[float, ...]]] = {}
        for seed in range(701, 701 + options.patients):
            patient = make_patient(stroke_of(replace(config, seed=seed)))
            for name in catalog.DENOISERS:
                settings = load_settings(None, denoise=name, estimator=options.estimator,
                                         motion_correction=False)  # fmt: skip
                one = figures(patient, analyse(patient.ctp, settings))
                found.setdefault(name, []).append(tuple(abs(one[m]) for m in MEASURES))
        for name, values in found.items():
            _line(report, "denoiser", values, condition=condition, denoiser=name)
            rows.setdefault(name, []).extend(values)
    for name, values in rows.items():
        _line(report, "denoiser_overall", values, denoiser=name)


def _line(report: Report, figure: str, values: list[tuple[float, ...]], **context: str) -> None:
    means = dict(zip(MEASURES, map(statistics.mean, zip(*values, strict=True)), strict=True))
    report.info(figure, means["dice_core"], n=len(values), **means, **context)


if __name__ == "__main__":
    main()
