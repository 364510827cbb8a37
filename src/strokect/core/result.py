"""What an analysis of a CT perfusion scan yields, before it is written or drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from strokect.core.types import FloatArray, Grid, Map, Mask, QualityFlag, Volume


@dataclass(frozen=True, eq=False)
class InputCurve:
    """An arterial or venous input function and where it was taken.

    curve_hu : (T,) enhancement used, HU. raw_hu : (T,) before partial-volume scaling.
    voxels : (N, 3) int, indices (z, y, x) averaged. position_mm : their centre, RAS mm.
    scale : curve_hu / raw_hu. confidence : 0 to 1. source : "automatic", "mask" or "voxel".
    """

    curve_hu: FloatArray
    raw_hu: FloatArray
    voxels: npt.NDArray[np.intp]
    position_mm: tuple[float, float, float]
    scale: float = 1.0
    confidence: float = 1.0
    source: str = "automatic"


@dataclass(frozen=True, eq=False)
class Curves:
    """Input functions on the uniform time axis of the analysis.

    time_s : (T,), s. vof : None where none was found. aif_candidates : runners-up, best first.
    tissue_hu : (T,) mean enhancement of brain tissue.
    """

    time_s: npt.NDArray[np.float64]
    aif: InputCurve
    vof: InputCurve | None
    tissue_hu: FloatArray
    aif_candidates: tuple[InputCurve, ...] = ()


@dataclass(frozen=True, eq=False)
class Motion:
    """Rigid head motion per frame, relative to the first good frame.

    time_s : (T,) frame times, s. parameters : (T, 6), translation x, y, z in mm and rotation about
    x, y, z in degrees (RAS), turning about centre_mm. displacement_mm : (T,) mean displacement of
    the head.
    replaced : frames beyond repair, interpolated in time.
    """

    time_s: npt.NDArray[np.float64]
    parameters: FloatArray
    displacement_mm: FloatArray
    replaced: tuple[int, ...] = ()
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class PerfusionResult:
    """Maps, masks, curves and findings of one scan, all on the scan's own grid.

    mean_ct : temporal mean, HU. maps : by quantity key. masks : "brain", "hypoperfusion", "core",
    "penumbra", "aif", "vof". summary : the content of summary.json (see docs/summary.md).
    """

    grid: Grid
    mean_ct: Volume
    maps: dict[str, Map]
    masks: dict[str, Mask]
    curves: Curves
    motion: Motion | None
    flags: tuple[QualityFlag, ...]
    summary: dict[str, Any]


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """What a network found in one scan, all on the scan's own grid.

    mean_ct : temporal mean, HU. masks : "brain" and the classes that the network knows of "core",
    "penumbra", "hypoperfusion" (both together). probabilities : by the same names, 0 to 1 (no
    "brain"). uncertainty : by the same names, SD of the probability over draws; empty where none
    were drawn. labels : (Z, Y, X) house labels, see ``core.classes``. summary : the content of
    summary.json.
    """

    grid: Grid
    mean_ct: Volume
    masks: dict[str, Mask]
    probabilities: dict[str, Volume]
    uncertainty: dict[str, Volume]
    labels: npt.NDArray[np.uint8]
    flags: tuple[QualityFlag, ...]
    summary: dict[str, Any]
