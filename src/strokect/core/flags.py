"""Codes of quality findings, as written to ``summary.json`` and shown in the report.

A code is stable; its message carries the numbers of the scan at hand.
"""

from __future__ import annotations

from strokect.core.types import Level, QualityFlag

CODES: dict[str, str] = {
    "NO_BOLUS": "no contrast passage found",
    "LATE_BOLUS": "the bolus arrives late in the scan",
    "TRUNCATED_WASHOUT": "the scan ends before the contrast has washed out",
    "WEAK_ENHANCEMENT": "low enhancement: low dose, slow injection or low cardiac output",
    "POOR_AIF": "low confidence in the arterial input function",
    "MANUAL_AIF": "the arterial input function was given by the user",
    "NO_VOF": "no venous output function; the arterial curve is not scaled",
    "AIF_NOT_SCALED": "the vein has a much larger area than the artery, beyond what is corrected",
    "AIF_SCALED": "the area of the arterial curve was scaled to the venous curve",
    "MOTION": "the head moved during the scan",
    "FRAMES_REPLACED": "frames were replaced by interpolation in time",
    "COVERAGE": "the scan covers little of the brain",
    "FEW_FRAMES": "few time points",
    "COARSE_SAMPLING": "long sampling interval",
    "IRREGULAR_TIMES": "irregular or per-slice times, resampled to a uniform interval",
    "HIGH_NOISE": "high noise",
    "FILLED_IMAGES": "missing images were filled from neighbouring times",
    "DUPLICATE_IMAGES": "duplicate images were dropped",
    "SLICES_RESAMPLED": "varying slice distance, resampled to a regular one",
    "GANTRY_TILT": "tilted gantry",
    "CONTENT_TIMES": "times are from Content Time, which may be the time of reconstruction",
    "SERIES_CHOSEN": "one of several series was read",
    "NON_FINITE": "values that are no number were set to air",
    "BRAIN_MASK": "the brain mask has an unusual volume",
    "NO_REFERENCE": "little unaffected tissue: relative values are uncertain",
    "NO_CLINICAL": "clinical scores that the network was trained with are not known",
    "OTHER_MAPS": "maps are of another method than those that the network was trained on",
    "NO_DICOM": "the results could not be written as DICOM",
}


def flag(code: str, message: str, level: Level = "warning") -> QualityFlag:
    """A QualityFlag with a known code. Raises KeyError for an unknown one."""
    if code not in CODES:
        raise KeyError(f"unknown quality code {code!r}; add it to core.flags.CODES")
    return QualityFlag(code, level, message)
