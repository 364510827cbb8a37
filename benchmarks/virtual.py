"""Virtual patients: time to make them, plausibility, and agreement with a noise-free analysis.

    python benchmarks/virtual.py
    python benchmarks/virtual.py --only time plausible --quick

Standard output: one JSON line per figure. Exit code 1 where a limit is missed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

from common import Report, note, run
from strokect.evaluate.overlap import dice
from strokect.phantom import clinical
from strokect.phantom.config import PatientConfig
from strokect.phantom.patient import VirtualPatient, make_patient
from strokect.phantom.study import VirtualStudy, draw_study, make_study
from strokect.pipeline import analyse
from strokect.settings import PerfusionSettings

ALL = clinical.DEFAULT_GROUPS


def times(report: Report, quick: bool) -> None:
    """Seconds of the command per patient of a cohort, its start and the writing included."""
    for size, limit, n in (("full", 60.0, 1 if quick else 2), ("small", 3.0, 8 if quick else 24)):
        with tempfile.TemporaryDirectory() as folder:
            code = "from strokect.cli import main; main()"
            make = [sys.executable, "-c", code, "phantom", "-o", folder, "--size", size]
            subprocess.run([*make, "-n", "1"], check=True, capture_output=True)  # compile once
            start = time.perf_counter()
            subprocess.run([*make, "-n", "1", "--overwrite"], check=True, capture_output=True)
            report.info(f"{size}_patient_alone_s", time.perf_counter() - start)
            start = time.perf_counter()
            subprocess.run([*make, "-n", str(n + 1)], check=True, capture_output=True)
            seconds = (time.perf_counter() - start) / n
        report.at_most(f"{size}_patient_s", seconds, limit, n=n)


def plausible(report: Report, quick: bool) -> None:
    """Values of healthy tissue, CT numbers and lesions over the groups, small patients."""
    studies = []
    for number in range(1, 11 if quick else 41):
        studies.append(make_study(draw_study(2026, number, ALL, "small")))
        if number % 10 == 0:
            note(f"{number} patients made")
    grey, white = _tissue(studies, "grey"), _tissue(studies, "white")
    for name, values, low, high in (
        ("grey_cbf", grey["cbf"], 50, 70),
        ("white_cbf", white["cbf"], 18, 30),
        ("grey_cbv", grey["cbv"], 3, 5),
        ("white_cbv", white["cbv"], 1.5, 2.5),
        ("enhancement_hu", grey["peak"], 5, 20),
    ):
        report.at_least(f"{name}_least", min(values), low, median=float(np.median(values)))
        report.at_most(f"{name}_most", max(values), high)
    for study in studies:
        volumes, case = study.ctp.info["volumes_ml"], study.config.case
        context = {"number": study.config.number, "site": case.site, "collateral": case.collateral}
        if case.site == "M1":
            report.at_least("m1_hypoperfusion_ml", volumes["hypoperfusion"], 80, **context)
            report.at_most("m1_hypoperfusion_ml", volumes["hypoperfusion"], 250, **context)
        elif case.group == "WIS":
            report.at_most("wis_hypoperfusion_ml", volumes["hypoperfusion"], 0, **context)
        else:
            report.info(
                "hypoperfusion_ml", volumes["hypoperfusion"], core=volumes["core"], **context
            )
    strokes = [s for s in studies if s.config.case.site]
    score = [s.info["nihss"] for s in strokes]
    volume = [s.ctp.info["volumes_ml"]["hypoperfusion"] for s in strokes]
    report.info("nihss_volume_r", float(np.corrcoef(score, volume)[0, 1]), n=len(strokes))


def _tissue(studies: list[VirtualStudy], name: str) -> dict[str, list[float]]:
    """Medians per patient of almost pure, healthy tissue."""
    found: dict[str, list[float]] = {"cbf": [], "cbv": [], "peak": []}
    for study in studies:
        patient = study.ctp
        pure = (patient.fractions[name].data > 0.9) & patient.masks[name].data
        pure &= patient.maps["tmax"].data < 4
        for key in ("cbf", "cbv"):
            found[key].append(float(np.median(patient.maps[key].data[pure])))
        curve = patient.ctp.data_hu[:, pure].mean(axis=1)
        found["peak"].append(float(curve.max() - curve[0]))
    return found


def noise_free(report: Report, quick: bool) -> None:
    """Truth against what the default pipeline finds without noise, 256 x 256 x 16."""
    sites: dict[str, Callable[[int], VirtualPatient]] = {
        site: lambda seed, site=site: make_patient(
            PatientConfig(seed=seed, occlusion=site, noise_hu=0.0, whole_hu=False)
        )
        for site in ("M1", "ICA", "M2", "ACA", "PCA")
    }
    for k, (site, make) in enumerate(sites.items()):
        for seed in (501 + k,) if quick else (501 + k, 511 + k):
            patient = make(seed)
            result = analyse(patient.ctp, PerfusionSettings())
            score = {
                name: dice(result.masks[name].data, patient.masks[name].data)
                for name in ("hypoperfusion", "core")
            }
            report.at_least(
                "noise_free_dice_tmax6", score["hypoperfusion"], 0.97, site=site, seed=seed,
                dice_core=score["core"], ml=patient.masks["hypoperfusion"].volume_ml,
            )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run({"time": times, "plausible": plausible, "noise_free": noise_free}, __doc__ or ""))
