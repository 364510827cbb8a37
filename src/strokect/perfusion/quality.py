"""Quality findings of a scan and its analysis. Limits are named here, nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strokect.core.errors import ScanError
from strokect.core.flags import flag
from strokect.core.result import Curves, Motion
from strokect.core.types import CTSeries, Grid, QualityFlag
from strokect.perfusion.curves import arrival_s

#: Fewer frames cannot hold a baseline and a passage; few are a quality finding, not an error.
MIN_FRAMES = 5
#: Soft tissue in stored values, HU + 1024. In HU only dense bone lies there, in few voxels.
STORED_TISSUE = (1000.0, 1150.0)
MAX_STORED_SHARE = 0.1


@dataclass(frozen=True)
class QualityLimits:
    """Limits beyond which a finding is reported. Scan lengths follow the acquisition advice of
    Christensen 2019 (Neuroimaging Clin N Am 29:2) and the ASNR/ASFNR guidelines: at least 60 s,
    sampling of 3 s or better in the first pass, 40 mm or more of coverage.
    """

    late_arrival_share: float = 0.4
    min_after_arrival_s: float = 30.0
    washout_share: float = 0.5
    weak_artery_hu: float = 100.0
    weak_tissue_hu: float = 3.0
    poor_aif: float = 0.4
    unscaled_ratio: float = 1.5
    motion_mm: float = 1.5
    severe_motion_mm: float = 5.0
    min_coverage_mm: float = 40.0
    min_frames: int = 20
    max_interval_s: float = 3.0
    high_noise_hu: float = 12.0
    brain_ml_per_mm: tuple[float, float] = (4.0, 20.0)
    min_reference_share: float = 0.25


LIMITS = QualityLimits()


def check_values(series: CTSeries) -> None:
    """Refuse, before any work, what can be no CT perfusion scan of a head in HU (ScanError)."""
    data = series.data_hu
    if len(data) < MIN_FRAMES:
        raise ScanError(
            f"{len(data)} time points, but perfusion needs at least {MIN_FRAMES}",
            fix="Give the whole dynamic series",
        )
    low, high = float(data.min()), float(data.max())
    if low == high:
        raise ScanError(f"every voxel is {low:g}", fix="Check the series and its rescale values")
    low, high = STORED_TISSUE
    if float(((data[0] > low) & (data[0] < high)).mean()) > MAX_STORED_SHARE:
        raise ScanError(
            "the values are not HU: soft tissue lies near 1050, as in stored values without the "
            "rescale intercept",
            fix="Convert the scan again with its rescale intercept (often -1024)",
        )


def curve_flags(curves: Curves, limits: QualityLimits = LIMITS) -> list[QualityFlag]:
    """Findings on bolus timing, enhancement and input functions."""
    out = []
    time, aif = curves.time_s, curves.aif
    step = float(time[1] - time[0])
    length = float(time[-1] - time[0])
    arrival = arrival_s(aif.curve_hu, step)
    if arrival > limits.late_arrival_share * length:
        out.append(
            flag("LATE_BOLUS", f"The bolus arrives {arrival:.0f} s into a {length:.0f} s scan")
        )
    last = curves.vof if curves.vof is not None else aif
    remaining = float(last.raw_hu[-3:].mean() / max(last.raw_hu.max(), 1e-6))
    after = length - arrival
    if remaining > limits.washout_share or after < limits.min_after_arrival_s:
        out.append(
            flag(
                "TRUNCATED_WASHOUT",
                f"The scan ends {after:.0f} s after the bolus arrives, with {remaining:.0%} of the "
                "peak left in the draining vessel; CBV and MTT are too low in delayed tissue",
            )
        )
    peak, tissue = float(aif.curve_hu.max()), float(curves.tissue_hu.max())
    if peak < limits.weak_artery_hu or tissue < limits.weak_tissue_hu:
        out.append(
            flag(
                "WEAK_ENHANCEMENT",
                f"Low enhancement: artery {peak:.0f} HU, brain tissue {tissue:.1f} HU",
            )
        )
    if aif.source != "automatic":
        out.append(flag("MANUAL_AIF", f"The artery was given by the user ({aif.source})", "info"))
    elif aif.confidence < limits.poor_aif:
        out.append(
            flag(
                "POOR_AIF",
                f"Low confidence in the arterial input function ({aif.confidence:.2f}); check its "
                "location and shape",
            )
        )
    if curves.vof is None:
        out.append(flag("NO_VOF", "No draining vein was found; the arterial curve is not scaled"))
    elif aif.scale == 1.0 and curves.vof.raw_hu.sum() > limits.unscaled_ratio * aif.raw_hu.sum():
        ratio = float(curves.vof.raw_hu.sum() / aif.raw_hu.sum())
        out.append(
            flag(
                "AIF_NOT_SCALED",
                f"The vein has {ratio:.1f} times the area of the artery, more than partial volume "
                "is corrected for; CBF and CBV are too high",
            )
        )
    elif aif.scale != 1.0:
        out.append(
            flag(
                "AIF_SCALED",
                f"The arterial curve was scaled by {aif.scale:.2f} to the venous area "
                "(partial volume)",
                "info",
            )
        )
    return out


def motion_flags(motion: Motion, limits: QualityLimits = LIMITS) -> list[QualityFlag]:
    """Findings on head motion."""
    out = []
    worst = float(motion.displacement_mm.max())
    if worst > limits.motion_mm:
        severe = worst > limits.severe_motion_mm
        out.append(
            flag(
                "MOTION",
                f"The head moved by up to {worst:.1f} mm; corrected",
                "critical" if severe else "warning",
            )
        )
    if motion.replaced:
        frames = ", ".join(str(t + 1) for t in motion.replaced)
        out.append(flag("FRAMES_REPLACED", f"Frames beyond repair, interpolated in time: {frames}"))
    return out


def scan_flags(
    times_s: np.ndarray, grid: Grid, brain_ml: float, noise_hu: float,
    exact_times: bool, limits: QualityLimits = LIMITS,
) -> list[QualityFlag]:  # fmt: skip
    """Findings on coverage, sampling and noise."""
    out = []
    coverage = grid.shape[0] * grid.spacing_mm[0]
    if coverage < limits.min_coverage_mm:
        out.append(flag("COVERAGE", f"The scan covers {coverage:.0f} mm of the head"))
    low, high = limits.brain_ml_per_mm
    if not low * coverage <= brain_ml <= high * coverage:
        out.append(
            flag(
                "BRAIN_MASK",
                f"Unusual brain volume, {brain_ml:.0f} ml in {coverage:.0f} mm; check it",
            )
        )
    if len(times_s) < limits.min_frames:
        out.append(flag("FEW_FRAMES", f"{len(times_s)} time points"))
    interval = float(np.median(np.diff(times_s, axis=0)))
    if interval > limits.max_interval_s:
        out.append(flag("COARSE_SAMPLING", f"One frame every {interval:.1f} s"))
    if not exact_times:
        out.append(
            flag(
                "IRREGULAR_TIMES",
                "Acquisition times are sparse, irregular or differ between slices; curves were "
                "resampled",
                "info",
            )
        )
    if noise_hu > limits.high_noise_hu:
        out.append(flag("HIGH_NOISE", f"Noise of {noise_hu:.1f} HU per voxel"))
    return out


def reference_flags(
    reference_ml: float, tissue_ml: float, limits: QualityLimits = LIMITS
) -> list[QualityFlag]:
    """A finding where little unaffected tissue is left to compare with."""
    if reference_ml >= limits.min_reference_share * tissue_ml:
        return []
    return [
        flag(
            "NO_REFERENCE",
            f"Only {reference_ml:.0f} ml of {tissue_ml:.0f} ml is unaffected; relative values are "
            "uncertain",
        )
    ]
