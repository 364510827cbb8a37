"""A synthetic PerfusionResult: an ellipsoid head with a lesion on the patient's left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from strokect.core.geometry import grid_points_mm
from strokect.core.quantities import QUANTITIES
from strokect.core.result import Curves, InputCurve, Motion, PerfusionResult
from strokect.core.types import Grid, Map, Mask, QualityFlag, Volume


def summary_of(volumes: dict[str, float]) -> dict[str, Any]:
    """A full summary.json content around measured volumes."""
    return {
        "schema": "strokect.summary/1",
        "volumes_ml": volumes,
        "mismatch": {"volume_ml": volumes["penumbra"], "ratio": 3.27},
        "hir": 0.41,
        "cbv_index": 0.83,
        "side": "left",
        "criteria": [
            {
                "name": "DEFUSE 3",
                "status": "met",
                "detail": "core < 70 ml, ratio >= 1.8, mismatch >= 15 ml",
            },
            {
                "name": "EXTEND",
                "status": "not met",
                "detail": "core < 70 ml, ratio > 1.2, mismatch > 10 ml",
            },
            {"name": "DAWN", "status": "needs age, NIHSS", "detail": "core < 21, 31 or 51 ml"},
        ],
        "quality": [
            {
                "code": "TRUNCATED_WASHOUT",
                "level": "critical",
                "message": "The scan ends 4.0 s after the venous peak.",
            },
            {"code": "MOTION", "level": "warning", "message": "The head moved by up to 3.1 mm."},
            {"code": "AIF_SCALED", "level": "info", "message": "Arterial area scaled by 1.31."},
        ],
        "method": {
            "estimator": "bayes",
            "denoise": "tips",
            "rule": "rapid",
            "rule_source": "Albers 2018, NEJM 378:708",
            "thresholds": {"hypoperfusion": "TMAX > 6", "core": "rCBF < 0.3"},
            "reference": {"cbf": 41.27, "tmax": 1.9},
            "reader_notes": ["read series 4: DOE JANE"],
            "motion_correction": True,
            "interval_s": 1.5,
            "frames": 40,
            "aif": {"arrival_s": 8.2, "confidence": 0.91},
            "vof": {"arrival_s": 12.1},
        },
        "settings": {
            "seed": 0,
            "input": {"path": "/data/DOE_JANE/ctp"},
            "estimator": {"name": "bayes", "options": {"mtt_centre_s": 5.0, "shapes": 3}},
            "tissue": {"rule": "rapid", "smallest_island_ml": 1.0, "median": True},
            "inputs": {"aif": None, "candidates": 5, "mask": "/data/DOE_JANE/aif.nii.gz"},
        },
        "timing_s": {"read": 1.2, "motion": 2.31, "maps": 3.05, "total": 8.9},
        "peak_memory_mb": 812.4,
        "provenance": {
            "strokect": "0.1.0",
            "python": "3.11.2",
            "numpy": "2.1.0",
            "input_sha256": {"/data/DOE_JANE/ctp.nii.gz": "ab12" * 16},
            "seed": 0,
            "machine": "x86_64, 2 cores",
        },
    }


def gamma(time: np.ndarray, arrival: float, height: float, width: float) -> np.ndarray:
    """A gamma-variate bolus, HU."""
    u = np.clip(time - arrival, 0, None) / width
    return height * u**2 * np.exp(2 * (1 - u)) * (u > 0)


def build_result(
    x_sign: int = -1, shape: tuple[int, int, int] = (12, 128, 128), **summary: Any
) -> PerfusionResult:
    """A result whose lesion lies on the patient's LEFT, whatever way the grid runs.

    x_sign : sign of the x step of the affine; -1 as in most NIfTI CT. summary : replaced keys.
    """
    rng = np.random.default_rng(0)
    nz, ny, nx = shape
    dz, dy, dx = 120 / nz, 230 / ny, 230 / nx
    affine = np.diag([x_sign * dx, dy, dz, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array([nx, ny, nz]) - 1) / 2
    grid = Grid(shape, affine)
    x, y, z = grid_points_mm(grid)
    radius = np.sqrt((x / 70) ** 2 + (y / 88) ** 2 + (z / 75) ** 2)
    brain = radius < 1
    skull = (radius >= 1.02) & (radius < 1.12)
    ventricle = ((np.abs(x) - 9) / 7) ** 2 + (y / 26) ** 2 + (z / 22) ** 2 < 1
    lesion = ((x + 45) / 27) ** 2 + ((y + 2) / 36) ** 2 + ((z - 4) / 34) ** 2
    hypo = (lesion < 1) & brain
    core = (lesion < 0.3) & brain
    noise = rng.normal(size=shape)
    grey = 0.5 + 0.5 * np.tanh(6 * (radius - 0.72 + 0.06 * np.sin(x / 6) * np.cos(y / 7)))

    ct = np.where(brain, 30 + 7 * grey - 20 * ventricle + 2.5 * noise, -1000.0)
    ct = np.where(skull, 900.0, ct)
    cbf = (22 + 38 * grey) * np.where(core, 0.2, np.where(hypo, 0.5, 1)) * (1 - 0.85 * ventricle)
    cbv = (1.8 + 2.2 * grey) * np.where(core, 0.35, np.where(hypo, 1.1, 1)) * (1 - 0.8 * ventricle)
    tmax = 1.6 + 10.5 * np.clip(1.25 - lesion, 0, 1) + 0.6 * noise
    vessels = np.exp(-(((x - 8) / 3) ** 2 + ((y - 35) / 3) ** 2)) + np.exp(
        -((x / 3) ** 2 + ((y + 78) / 4) ** 2)
    )
    fields = {
        "cbf": cbf * (1 + 0.1 * noise),
        "cbv": cbv * (1 + 0.08 * noise),
        "mtt": 60 * cbv / np.maximum(cbf, 1),
        "tmax": tmax,
        "ttp": tmax + 6,
        "delay": np.clip(tmax - 1.5, 0, None),
        "mip": ct + 12 * grey * brain + 180 * vessels * brain,
    }
    maps = {
        k: Map(
            (v if k == "mip" else np.where(brain, v, 0)).astype(np.float32),
            grid,
            quantity=QUANTITIES[k],
        )
        for k, v in fields.items()
    }
    inside = {"brain": brain, "hypoperfusion": hypo, "core": core, "penumbra": hypo & ~core}
    masks = {k: Mask(v, grid, k) for k, v in inside.items()}

    volumes = {k: round(masks[k].volume_ml, 3) for k in ("core", "penumbra", "hypoperfusion")}
    volumes |= {
        f"tmax_gt_{t}": round(float((brain & (tmax > t)).sum() * grid.voxel_ml), 3)
        for t in (4, 8, 10)
    }
    flags = (QualityFlag("MOTION", "warning", "The head moved by up to 3.1 mm."),)
    return PerfusionResult(
        grid, Volume(ct.astype(np.float32), grid), maps, masks, _curves(grid, rng), _motion(rng),
        flags, summary_of(volumes) | summary,
    )  # fmt: skip


def _curves(grid: Grid, rng: np.random.Generator) -> Curves:
    time = np.arange(40) * 1.5

    def at(position: tuple[float, float, float], raw: np.ndarray, scale: float) -> InputCurve:
        x, y, z = np.linalg.inv(grid.affine)[:3] @ (*position, 1.0)
        voxel = np.rint([z, y, x]).astype(np.intp)
        voxels = voxel + np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1]])
        return InputCurve(raw * scale, raw, voxels, position, scale, 0.91)

    aif = at((8.0, 35.0, -12.0), gamma(time, 8, 210, 7) + rng.normal(0, 3, 40), 1.31)
    vof = at((0.0, -78.0, 20.0), gamma(time, 12, 330, 9) + rng.normal(0, 3, 40), 1.0)
    others = tuple(
        at((-20.0 + 9 * k, 20.0, -12.0), gamma(time, 8 + k, 170 - 25 * k, 7), 1.0) for k in range(3)
    )
    return Curves(time, aif, vof, gamma(time, 11, 7.5, 10), others)


def _motion(rng: np.random.Generator) -> Motion:
    drift = np.cumsum(rng.normal(0, 0.12, (40, 6)), axis=0)
    drift[21:23, :3] += 2.4
    displacement = np.linalg.norm(drift[:, :3], axis=1)
    return Motion(np.arange(40) * 1.5, drift.astype(np.float32), displacement, (21, 22))


@pytest.fixture(scope="session")
def result() -> PerfusionResult:
    """The usual result: negative x step."""
    return build_result()


@pytest.fixture(scope="session")
def make_result() -> Callable[..., PerfusionResult]:
    """``build_result``, as a fixture."""
    return build_result
