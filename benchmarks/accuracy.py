"""Accuracy against known truth: virtual patients, tiles, the OSIPI curves.

    python benchmarks/accuracy.py [--quick] [--only NAME ...]

The method is the default one unless a figure names another.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from common import (
    DELAY_SENSITIVE,
    Report,
    Section,
    aif_area_ratio,
    figures,
    grey_bias_percent,
    note,
    run,
    solver,
    stroke_of,
)
from strokect import catalog
from strokect.core.result import PerfusionResult
from strokect.core.types import CTSeries, FloatArray, Mask
from strokect.perfusion.prepare import Given
from strokect.phantom.patient import PatientConfig, VirtualPatient, make_patient
from strokect.phantom.scanner import MotionSpec, move
from strokect.phantom.truth import VESSEL_SHARE
from strokect.pipeline import analyse
from strokect.settings import load_settings
from tiles import SHAPES, Tiles, make_tiles

OSIPI = Path(__file__).parents[2] / "shared" / "data" / "osipi_dsc" / "dsc_data.csv"
DEFAULT = load_settings(None)
#: Seconds-long patients of full extent, for what takes many analyses.
MEDIUM = PatientConfig(shape=(16, 192, 192), spacing_mm=(5.0, 1.2, 1.2))
CROP = PatientConfig(shape=(10, 192, 192), spacing_mm=(6.0, 1.2, 1.2))
#: 7 HU, a frame every 1.5 s, thick slices.
COARSE = PatientConfig(
    shape=(12, 200, 200), spacing_mm=(6.0, 1.1, 1.1), interval_s=1.5, noise_hu=7.0
)
#: Maps of probability and the mask of the truth that each is about.
PROBABILITIES = {"p_core": "core", "p_hypoperfusion": "hypoperfusion"}
BINS = 10


@dataclass(frozen=True)
class Finding:
    """One patient analysed. found : common.figures. bins : per probability map (3, BINS): voxels,
    sum of probabilities, voxels where the truth holds."""

    seed: int
    found: dict[str, Any]
    bins: dict[str, FloatArray]


@lru_cache(maxsize=8)  # the same patients serve several figures
def cohort(config: PatientConfig, seeds: tuple[int, ...]) -> list[Finding]:
    """Patients of these seeds, strokes on alternating sides, by the default method."""
    out = []
    for n, seed in enumerate(seeds):
        note(f"  seed {seed}, {config.noise_hu:g} HU, occlusion {config.occlusion}")
        side = None if config.occlusion == "none" else ("left", "right")[n % 2]
        patient = make_patient(stroke_of(replace(config, seed=seed, side=side)))
        result = analyse(patient.ctp, DEFAULT)
        out.append(Finding(seed, figures(patient, result), _bins(patient, result)))
    return out


def _bins(patient: VirtualPatient, result: PerfusionResult) -> dict[str, FloatArray]:
    among = patient.masks["tissue"].data & result.masks["brain"].data
    out = {}
    for key, name in PROBABILITIES.items():
        if key in result.maps:
            out[key] = bin_counts(
                result.maps[key].data[among], patient.masks[name].data[among], BINS
            )
    return out


def bin_counts(predicted: FloatArray, truth: FloatArray, n_bins: int) -> FloatArray:
    """(3, n_bins): voxels, sum of predicted probabilities, voxels where the truth holds."""
    where = np.clip((predicted * n_bins).astype(int), 0, n_bins - 1)
    return np.stack([np.bincount(where, weights, n_bins) for weights in
                     (np.ones(where.shape), predicted, truth)])  # fmt: skip


def patients(report: Report, quick: bool) -> None:
    """Lesions at 5 HU, 2.5 HU and 7 HU."""
    seeds = (11, 12) if quick else (11, 12, 13, 14, 15)
    rows = cohort(PatientConfig(), seeds)
    _lesions(report, rows, 5.0, 0.95, 0.85)
    for name, limit in (("core", 15.0), ("hypoperfusion", 8.0)):
        errors = [abs(row.found[f"{name}_error_percent"]) for row in rows]
        report.at_most(f"{name}_volume_error_percent", statistics.mean(errors), limit,
                       noise_hu=5.0, n=len(rows), min=min(errors), max=max(errors))  # fmt: skip
    few = seeds[: 1 if quick else 3]
    _lesions(report, cohort(replace(PatientConfig(), noise_hu=2.5), few), 2.5, 0.97, 0.92)
    _lesions(report, cohort(COARSE, few), 7.0, 0.93, 0.75)


def _lesions(
    report: Report, rows: list[Finding], noise_hu: float, hypoperfusion: float, core: float
) -> None:
    for row in rows:
        report.info("patient", None, noise_hu=noise_hu, seed=row.seed, **row.found)
    for name, limit in (("hypoperfusion", hypoperfusion), ("core", core)):
        values = [row.found[f"dice_{name}"] for row in rows]
        report.at_least(f"dice_{name}", statistics.mean(values), limit, noise_hu=noise_hu,
                        n=len(values), min=min(values), max=max(values))  # fmt: skip


def no_stroke(report: Report, quick: bool) -> None:
    """Lesions found where there is none."""
    rows = cohort(replace(PatientConfig(), occlusion="none"), (21,) if quick else (21, 22, 23))
    for name, limit in (("core", 1.0), ("hypoperfusion", 3.0)):
        values = [row.found[f"{name}_ml"] for row in rows]
        report.at_most(f"false_{name}_ml", max(values), limit, noise_hu=5.0, n=len(values),
                       values=values)  # fmt: skip


def sites(report: Report, quick: bool) -> None:
    """Occlusions of every site with the lesion that collaterals and time make of them, 5 HU."""
    for n, site in enumerate(("M1", "ICA", "M2", "ACA", "PCA")):
        for seed in (601 + n,) if quick else (601 + n, 611 + n, 621 + n):
            patient = make_patient(replace(PatientConfig(), seed=seed, occlusion=site))
            found = figures(patient, analyse(patient.ctp, DEFAULT))
            context = {key: found.get(key) for key in ("dice_core", "core_true_ml", "core_ml")}
            context["hypoperfusion_true_ml"] = found["hypoperfusion_true_ml"]
            report.info("dice_hypoperfusion_by_site", found["dice_hypoperfusion"], site=site,
                        seed=seed, collateral=patient.info["collateral"], **context)  # fmt: skip


def calibration(report: Report, quick: bool) -> None:
    """Probabilities against how often the truth holds, in ten bins over the 5 HU patients."""
    rows = cohort(PatientConfig(), (11, 12) if quick else (11, 12, 13, 14, 15))
    for key in PROBABILITIES:
        if not all(key in row.bins for row in rows):
            report.skip(f"calibration_{key}", f"the pipeline has no map {key!r}")
            continue
        voxels, predicted, observed = sum(row.bins[key] for row in rows)
        full = voxels >= 500
        gap = np.abs(observed - predicted)[full] / voxels[full]
        report.at_most(
            f"calibration_{key}", gap.max(), 0.1, n=len(rows),
            weighted_mean=float((gap * voxels[full]).sum() / voxels[full].sum()),
            voxels=list(voxels), predicted=list(predicted / np.maximum(voxels, 1)),
            observed=list(observed / np.maximum(voxels, 1)),
        )  # fmt: skip


def tiles(report: Report, quick: bool) -> None:
    """Tile phantom: correlation of every map, slope of CBF for each residue."""
    repeats = 2 if quick else 8
    scans = {"all": make_tiles(repeats=repeats)}
    scans |= {s: make_tiles((s,), repeats=repeats) for s in SHAPES}
    limits = {"cbv": 0.995, "cbf": 0.98, "mtt": 0.98, "delay": 0.99}
    for name in catalog.ESTIMATORS:
        solve = solver(name, DEFAULT)
        for scan, phantom in scans.items():
            found = phantom.maps(solve(phantom.curves, phantom.aif, phantom.interval_s))
            true, context = phantom.true_maps(), {"estimator": name, "residues": scan}
            for key, limit in limits.items():
                r = float(np.corrcoef(found[key], true[key])[0, 1])
                if name == DEFAULT.estimator:
                    report.at_least(f"tile_r_{key}", r, limit, **context)
                else:
                    report.info(f"tile_r_{key}", r, **context)
            for shape in SHAPES if scan == "all" else (scan,):
                _slope(report, found["cbf"], true["cbf"], phantom.of_shape(shape), shape, context)


def _slope(
    report: Report, found: FloatArray, true: FloatArray, among: FloatArray, shape: str,
    context: dict[str, str],
) -> None:  # fmt: skip
    slope, intercept = np.polyfit(true[among], found[among], 1)
    context = {**context, "shape": shape, "slope": slope, "intercept": intercept}
    if context["estimator"] == DEFAULT.estimator:  # 0.8 to 1.2
        report.at_most("tile_cbf_slope_off_by", abs(slope - 1), 0.2, **context)
    else:
        report.info("tile_cbf_slope_off_by", abs(slope - 1), **context)


def delays(report: Report, quick: bool) -> None:
    """Change of CBF over arterial-tissue delays of -3 to +3 s, relative to none."""
    step = 1.0 if quick else 0.5
    lags = [float(d) for d in np.arange(-3, 3 + step, step)]
    phantom = make_tiles(noise_hu=0.0, delays_s=lags, repeats=1)
    for name in catalog.ESTIMATORS:
        if name in DELAY_SENSITIVE:
            continue
        fit = solver(name, DEFAULT)(phantom.curves, phantom.aif, phantom.interval_s)
        change = _change(phantom, phantom.maps(fit)["cbf"], lags)
        mean = change.mean(axis=0)
        worst = np.abs(change).max(axis=1)
        report.at_most(
            "cbf_change_with_delay_percent", np.abs(mean).max(), 3.0, estimator=name,
            mean_by_delay=dict(zip(map(str, lags), map(float, mean), strict=True)),
            median_tile=float(np.median(worst)), worst_tile=float(worst.max()),
        )  # fmt: skip


def _change(phantom: Tiles, cbf: FloatArray, lags: Sequence[float]) -> FloatArray:
    """Percent change (tiles at no delay, delays) of CBF (N,) relative to no delay."""
    delay = phantom.true_maps()["delay"]
    by_delay = np.stack([cbf[np.isclose(delay, lag)] for lag in lags], axis=1)
    return 100 * (by_delay / by_delay[:, [list(lags).index(0.0)]] - 1)


def true_aif(report: Report, quick: bool) -> None:
    """Bias of grey-matter CBF and CBV where the arterial curve is the true one.

    The true curve is painted into five voxels of an artery, which are then given as the AIF.
    """
    names = [DEFAULT.estimator] if quick else [n for n in catalog.ESTIMATORS
                                               if n not in DELAY_SENSITIVE]  # fmt: skip
    patient = make_patient(replace(PatientConfig(), seed=11, side="left"))
    series, given = paint_aif(patient)
    for name in names:
        settings = load_settings(None, estimator=name, motion_correction=False,
                                 inputs={"scale_to_vof": False})  # fmt: skip
        result = analyse(series, settings, given)
        for key in ("cbf", "cbv"):
            median, bias = grey_bias_percent(patient, result, key)
            context = {"estimator": name, "median": median, "noise_hu": 5.0, "bias": bias}
            if name == DEFAULT.estimator:
                report.at_most(f"grey_{key}_bias_percent", abs(bias), 10.0, **context)
            else:
                report.info(f"grey_{key}_bias_percent", abs(bias), **context)


def paint_aif(patient: VirtualPatient) -> tuple[CTSeries, Given]:
    """The patient's scan with its true arterial curve in five voxels, and these as the AIF."""
    series, grid = patient.ctp, patient.ctp.grid
    chosen = np.argwhere(patient.masks["artery"].data)[:5]
    mask = np.zeros(grid.shape, bool)
    mask[tuple(chosen.T)] = True
    data = series.data_hu.copy()
    data[:, mask] = 40.0 + patient.curves["aif_hu"][:, None]
    return replace(series, data_hu=data), Given(aif=Mask(mask, grid, "aif"))


def osipi(report: Report, quick: bool) -> None:
    """OSIPI's synthetic DSC curves: CBV within 10 % + 1, CBF within 10 % + 15."""
    if not OSIPI.exists():
        report.skip("osipi", f"{OSIPI} is not here")
        return
    with OSIPI.open() as file:
        cases = list(csv.DictReader(file))
    for name in catalog.ESTIMATORS:
        failed = {}
        for case in cases:
            tissue, aif = (np.array(case[k].split(), np.float32) for k in ("C_tis", "C_aif"))
            scale = np.float32(300 / aif.max())  # concentrations; estimators expect HU
            fit = solver(name, DEFAULT)(scale * tissue[:, None], scale * aif, float(case["tr"]))
            found = {"cbv": 100 * float(fit.volume[0]), "cbf": 6000 * float(fit.flow[0])}
            off = {k: [found[k], float(case[k])] for k, extra in (("cbv", 1), ("cbf", 15))
                   if abs(found[k] - float(case[k])) > 0.1 * float(case[k]) + extra}  # fmt: skip
            if off:
                failed[case["label"]] = off
        passed = len(cases) - len(failed)
        report.at_least("osipi", passed, 14, estimator=name, n=len(cases), found_and_true=failed)


def aif(report: Report, quick: bool) -> None:
    """The AIF of varied patients: in an artery, its area within 10 % of the truth."""
    settings = load_settings(None, estimator="bsvd", denoise="none")  # what comes later is not used
    good, ratios, n = 0, [], 8 if quick else 40
    for seed in range(n):
        config = varied(100 + seed)
        patient = make_patient(config)
        row: dict[str, Any] = {"seed": config.seed, "noise_hu": config.noise_hu,
            "interval_s": config.interval_s, "scan_s": config.n_times * config.interval_s,
            "arrival_s": config.arrival_s, "peak_hu": config.peak_hu, "occlusion": config.occlusion,
            "slice_times": config.slice_times, "motion": config.motion.kind}  # fmt: skip
        try:
            result = analyse(patient.ctp, settings)
        except Exception as problem:  # a patient without an AIF is a failed one
            report.info("aif_failed", None, problem=f"{type(problem).__name__}: {problem}", **row)
            continue
        shares = _artery_shares(patient, result)
        inside = min(shares) >= VESSEL_SHARE - 1e-6
        ratio = aif_area_ratio(patient, result)
        ratios.append(ratio)
        if inside and abs(ratio - 1) <= 0.1:
            good += 1
        else:
            found = result.curves.aif
            report.info("aif_failed", ratio, in_artery=inside, shares=shares, scale=found.scale,
                        raw_ratio=ratio / found.scale, vof=result.curves.vof is not None,
                        confidence=found.confidence, **row)  # fmt: skip
    report.at_least("aif_in_artery_and_area", good, n, n=n, area_ratio_min=min(ratios),
                    area_ratio_median=statistics.median(ratios),
                    area_ratio_max=max(ratios))  # fmt: skip


def varied(seed: int) -> PatientConfig:
    """A patient drawn wide: bolus, noise, timing, scan length, with or without stroke, motion."""
    rng = np.random.default_rng(seed)
    interval = float(rng.choice([1.0, 1.5, 2.0]))
    arrival = float(rng.uniform(6, 20))
    length = float(rng.uniform(45, 60))
    spec = MotionSpec()
    if seed % 8 == 0:
        spec = MotionSpec("jump" if seed % 16 else "nod", (2.0, 1.0, 1.0), (1.0, 0.0, 2.0))
    return replace(
        CROP, seed=seed, side=("left", "right")[seed % 2], noise_hu=float(rng.uniform(3, 8)),
        interval_s=interval, n_times=int(length / interval), arrival_s=arrival,
        peak_hu=float(rng.uniform(120, 350)), occlusion="none" if seed % 4 == 3 else "M1",
        slice_times=("simultaneous", "sequential", "shuttle")[int(rng.integers(3))], motion=spec,
    )  # fmt: skip


def _artery_shares(patient: VirtualPatient, result: PerfusionResult) -> list[float]:
    """How far each AIF voxel is artery: 0 or 1 from the mask, or between with motion, where the
    mask is moved to the pose of the reference frame."""
    artery = patient.masks["artery"].data.astype(np.float32)
    if result.motion is not None and patient.config.motion.kind != "none":
        still = int(np.argmin(np.abs(result.motion.parameters).sum(axis=1)))
        artery = move(artery, patient.ctp.grid, patient.motion.parameters[still])
    return [float(v) for v in artery[tuple(result.curves.aif.voxels.T)]]


#: Jumps and nods of up to 5 mm and 5 degrees.
MOTIONS = {
    "in plane": MotionSpec("jump", (3.0, 4.0, 0.0), (0.0, 0.0, 5.0)),
    "mixed": MotionSpec("jump", (2.0, 2.0, 4.0), (3.0, 2.0, 3.5)),
    "nod": MotionSpec("nod", (0.0, 0.0, 5.0), (5.0, 0.0, 0.0)),
}


def motion(report: Report, quick: bool) -> None:
    """Lesion volumes of a patient who moves, relative to the same patient lying still."""
    for seed in (11,) if quick else (11, 12):
        config = stroke_of(replace(MEDIUM, seed=seed, side=("left", "right")[seed % 2]))
        still = analyse(make_patient(config).ctp, DEFAULT)
        for kind, spec in MOTIONS.items():
            note(f"  seed {seed}, {kind}")
            moved = analyse(make_patient(replace(config, motion=spec)).ctp, DEFAULT)
            for name in ("core", "hypoperfusion"):
                a, b = (r.masks[name].volume_ml for r in (moved, still))
                report.at_most(
                    f"motion_{name}_change_percent", 100 * abs(a / b - 1), 10.0, motion=kind,
                    seed=seed, volume_ml=a, still_ml=b,
                )  # fmt: skip


def sampling(report: Report, quick: bool) -> None:
    """No stripes of Tmax from an interleaved shuttle; no shift from irregular frames."""
    for seed, interval in ((11, 2.0),) if quick else ((11, 2.0), (12, 3.0)):
        config = replace(MEDIUM, seed=seed, side="left", interval_s=interval, n_times=30)
        patient, series = interleaved(config)
        error = _tmax_error(patient, analyse(series, DEFAULT))
        even, odd = (float(np.nanmean(error[z::2])) for z in (0, 1))
        report.at_most("shuttle_tmax_stripe_s", abs(odd - even), 0.3, interval_s=interval,
                       seed=seed, error_even_s=even, error_odd_s=odd)  # fmt: skip
    times = (*np.arange(0.0, 40.0, 1.0), *np.arange(40.0, 61.0, 3.0))
    config = replace(MEDIUM, seed=11, side="left")
    means = []
    for frames in (None, tuple(map(float, times))):
        patient = make_patient(replace(config, frame_times_s=frames, n_times=60))
        result = analyse(patient.ctp, DEFAULT)
        means.append(float(np.nanmean(_tmax_error(patient, result))))
    found = figures(patient, result)
    report.at_most("irregular_tmax_shift_s", abs(means[1] - means[0]), 0.3, seed=11,
                   dice_hypoperfusion=found["dice_hypoperfusion"],
                   dice_core=found["dice_core"])  # fmt: skip


def interleaved(config: PatientConfig) -> tuple[VirtualPatient, CTSeries]:
    """A patient whose odd slices are taken half an interval after the even ones."""
    frames = np.arange(config.n_times) * config.interval_s
    patient, late = (
        make_patient(replace(config, frame_times_s=tuple(map(float, frames + shift))))
        for shift in (0.0, config.interval_s / 2)
    )
    data, times = patient.ctp.data_hu.copy(), patient.ctp.times_s.copy()
    data[:, 1::2] = late.ctp.data_hu[:, 1::2]
    times[:, 1::2] += config.interval_s / 2  # a series counts its times from its own first slice
    return patient, CTSeries(data, times, patient.ctp.grid)


def _tmax_error(patient: VirtualPatient, result: PerfusionResult) -> FloatArray:
    """Tmax found minus true (Z,), s: the mean over healthy tissue of each slice."""
    true = patient.maps["tmax"].data
    healthy = patient.masks["tissue"].data & (true < 4) & result.masks["brain"].data
    off = np.where(healthy, result.maps["tmax"].data - true, 0.0)
    n = np.count_nonzero(healthy, axis=(1, 2))
    return np.where(n > 100, off.sum(axis=(1, 2)) / np.maximum(n, 1), np.nan)


def bits(report: Report, quick: bool) -> None:
    """The same maps, bit for bit, from run to run and from one thread to two."""
    runs = [digest(threads) for threads in ("2", "2", "1")]
    for figure, other in (("same_bits_twice", runs[1]), ("same_bits_one_thread", runs[2])):
        different = sorted(k for k, v in runs[0].items() if other[k] != v)
        report.at_least(figure, not different, 1, identical=not different, different=different)


def digest(threads: str) -> dict[str, str]:
    """Hash of every map and mask of one patient, analysed in a process of its own."""
    found = subprocess.run(
        [sys.executable, __file__, "--digest"], capture_output=True, text=True, check=True,
        env={**os.environ, "NUMBA_NUM_THREADS": threads},
    )  # fmt: skip
    return json.loads(found.stdout)


def _print_digest() -> int:
    result = analyse(make_patient(replace(CROP, seed=11, side="left")).ctp, DEFAULT)
    images = {**result.maps, **result.masks}
    print(json.dumps({k: hashlib.sha256(np.ascontiguousarray(v.data)).hexdigest()
                      for k, v in images.items()}))  # fmt: skip
    return 0


SECTIONS: dict[str, Section] = {
    "patients": patients, "no_stroke": no_stroke, "sites": sites, "calibration": calibration,
    "tiles": tiles, "delays": delays, "true_aif": true_aif, "osipi": osipi, "aif": aif,
    "motion": motion, "sampling": sampling, "bits": bits,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(_print_digest() if sys.argv[1:] == ["--digest"] else run(SECTIONS, __doc__ or ""))
