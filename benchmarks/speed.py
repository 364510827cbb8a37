"""Time and memory of the analysis and of its estimators.

python benchmarks/speed.py [--quick] [--only NAME ...]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common import DELAY_SENSITIVE, Report, Section, note, run, solver
from strokect import catalog
from strokect.core.types import Grid
from strokect.io import nifti
from strokect.phantom.patient import PatientConfig, make_patient
from strokect.settings import load_settings
from tiles import realistic_curves

N_VOXELS = 330_000
TOTAL_S, MEMORY_GB = 15.0, 1.2
#: Limits, s, for N_VOXELS curves of 45 points. Others are measured for information.
SOLVE_S = {"osvd": 1.0, "bayes": 2.0, "nlr": 10.0}
#: Voxels of the smallest scan where cost is measured against size.
BASE_VOXELS = {"nlr": 20_000}
#: Per-voxel cost at four times the voxels, relative to that at one time.
GROWTH_LIMIT = 1.3

#: Run apart: a child counts the peak of the process that forked it, so that one has to be small.
_WATCH = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps([seconds, peak * unit / 1e9, done.returncode, done.stderr[-2000:]]))
"""


def whole(report: Report, quick: bool) -> None:
    """``strokect perfusion`` from a NIfTI file to the report, 256 x 256 x 16 x 45."""
    command = str(Path(sys.executable).parent / "strokect")
    with tempfile.TemporaryDirectory() as name:
        scan, out = Path(name) / "scan.nii.gz", Path(name) / "out"
        nifti.write_ctp(scan, make_patient(PatientConfig(seed=11)).ctp)
        runs = []
        for n in range(1 if quick else 2):  # the first may compile
            note(f"  run {n + 1}")
            found = subprocess.run(
                [sys.executable, "-c", _WATCH, command, "perfusion", str(scan), "-o", str(out),
                 "--overwrite"], capture_output=True, text=True, check=True,
            )  # fmt: skip
            seconds, memory, code, problem = json.loads(found.stdout)
            if code:
                raise RuntimeError(f"strokect perfusion ended with {code}: {problem}")
            runs.append((seconds, memory))
        timing = json.loads((out / "summary.json").read_text())["timing_s"]
    seconds = min(r[0] for r in runs)
    report.at_most("whole_seconds", seconds, TOTAL_S, runs=[r[0] for r in runs],
                   load=_load())  # fmt: skip
    report.at_most("whole_memory_gb", max(r[1] for r in runs), MEMORY_GB)
    for stage, value in timing.items():
        report.info("stage_seconds", value, stage=stage)


def bsvd_ratio(report: Report, quick: bool) -> None:
    """A whole bsvd solve against the one matrix product in it, taken in turns."""
    curves, aif = realistic_curves(N_VOXELS)
    n = len(aif)
    matrix = np.random.default_rng(0).standard_normal((2 * n, n), dtype=np.float32)
    solve = solver("bsvd", load_settings(None))
    pairs = []
    solve(curves[:, :1000], aif, 1.0)
    for _ in range(5 if quick else 9):
        pairs.append((_seconds(lambda: solve(curves, aif, 1.0)), _seconds(lambda: matrix @ curves)))
    ratios = [a / b for a, b in pairs]
    report.at_most(
        "bsvd_over_product", statistics.median(ratios), 3.0, min=min(ratios), max=max(ratios),
        n=len(pairs), solve_s=statistics.median(p[0] for p in pairs),
        product_s=statistics.median(p[1] for p in pairs), load=_load(),
        of_the_best=min(p[0] for p in pairs) / min(p[1] for p in pairs),
    )  # fmt: skip


def solves(report: Report, quick: bool) -> None:
    """Seconds of every estimator on one scan."""
    curves, aif = realistic_curves(N_VOXELS)
    settings = load_settings(None)
    for name in catalog.ESTIMATORS:
        solve = solver(name, settings)
        solve(curves[:, :1000], aif, 1.0)
        times = [_seconds(lambda s=solve: s(curves, aif, 1.0)) for _ in range(1 if quick else 3)]
        context: dict[str, Any] = {
            "estimator": name, "voxels": N_VOXELS, "n": len(times), "min": min(times),
            "max": max(times), "load": _load(),
        }  # fmt: skip
        value = statistics.median(times)
        if name in SOLVE_S:
            report.at_most("solve_seconds", value, SOLVE_S[name], **context)
        else:
            report.info("solve_seconds", value, **context)


def growth(report: Report, quick: bool) -> None:
    """Cost per voxel at two and four times the voxels, relative to one time."""
    settings = load_settings(None)
    every, aif = realistic_curves(320_000)
    repeats = 2 if quick else 3
    for name in [n for n in catalog.ESTIMATORS if n not in DELAY_SENSITIVE]:
        solve, base = solver(name, settings), BASE_VOXELS.get(name, 80_000)
        parts = [np.ascontiguousarray(every[:, : k * base]) for k in (1, 2, 4)]
        jobs = [lambda s=solve, c=c: s(c, aif, 1.0) for c in parts]
        _growth(report, name, jobs, repeats, base)
    denoiser = catalog.load("denoisers", settings.denoise)
    z, y = 8, 96
    jobs = []
    for k in (1, 2, 4):
        grid = Grid((z, y, 96 * k), np.diag([0.9, 0.9, 5.0, 1.0]))
        curves = every[:, : z * y * 96 * k] + np.float32(35)
        mask = np.ones(grid.shape, bool)
        jobs.append(lambda c=curves, m=mask, g=grid: denoiser(c, m, g, settings.denoising))
    _growth(report, settings.denoise, jobs, repeats, z * y * 96)


def _growth(
    report: Report, name: str, jobs: list[Callable[[], Any]], repeats: int, base: int
) -> None:
    jobs[0]()
    repeats = max(repeats, min(20, round(1.0 / _seconds(jobs[0]))))  # short ones are noisy
    times = np.array([[_seconds(job) for job in jobs] for _ in range(repeats)])
    best = times.min(axis=0)  # other work on the machine only adds
    per_voxel = best / np.array([1, 2, 4]) / best[0]
    report.at_most("growth", per_voxel[2], GROWTH_LIMIT, step=name, voxels=base,
                   per_voxel_2x=per_voxel[1], seconds=list(best), load=_load())  # fmt: skip


def _load() -> float:
    """Load average of the last minute; above the number of cores, times are too long."""
    return os.getloadavg()[0]


def _seconds(job: Callable[[], Any]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


SECTIONS: dict[str, Section] = {
    "whole": whole, "bsvd": bsvd_ratio, "solves": solves, "growth": growth,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(run(SECTIONS, __doc__ or ""))
