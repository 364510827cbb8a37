"""Parametric maps from the fit of an estimator."""

from __future__ import annotations

import numpy as np
from scipy import ndimage, special

from strokect.core.types import BoolArray, FloatArray, Grid
from strokect.perfusion.convolution import BLOOD, BloodConstants
from strokect.perfusion.curves import parabolic_peak
from strokect.perfusion.deconvolution import ResidueFit

#: Upper limits of what is still physiology; beyond them lies noise over a near-zero flow.
MAX_MTT_S = 60.0
CORE_RCBF = 0.30
#: Calibration of the probability of core on virtual patients (docs/results.md): share of the
#: posterior's spread, and shift in units of it, as near the threshold penumbra outnumbers core.
CORE_SPREAD, CORE_SHIFT = 0.385, 0.885


def voxel_maps(
    fit: ResidueFit,
    curves: FloatArray,
    arterial_arrival_s: float,
    interval_s: float,
    blood: BloodConstants = BLOOD,
) -> dict[str, FloatArray]:
    """Maps CBF, CBV, MTT, Tmax, TTP, delay as (V,) float32, in their units.

    curves : (T, V) enhancement. TTP counts from the arterial arrival. MTT = 60 CBV / CBF.
    """
    cbf = fit.flow * np.float32(blood.flow_to_cbf)
    cbv = np.maximum(fit.volume, 0) * np.float32(blood.volume_to_cbv)
    mtt = np.minimum(60.0 * cbv / np.maximum(cbf, 1e-3), MAX_MTT_S)
    ttp = parabolic_peak(curves, np.argmax(curves, axis=0)) * interval_s - arterial_arrival_s
    maps = {
        "cbf": cbf, "cbv": cbv, "mtt": mtt, "tmax": fit.tmax_s, "ttp": np.maximum(ttp, 0),
        "delay": fit.delay_s,
    }  # fmt: skip
    return {name: values.astype(np.float32) for name, values in maps.items()}


def uncertainty_maps(
    fit: ResidueFit, reference_cbf: float, blood: BloodConstants = BLOOD
) -> dict[str, FloatArray]:
    """Posterior SDs and probabilities, (V,) float32; empty for a method that knows none.

    reference_cbf : mean CBF of unaffected tissue. p_core is the probability of a CBF below 0.30 of
    it, by a log-normal with the posterior's spread, and of Tmax > 6 s.
    """
    if fit.flow_sd is None or fit.tmax_sd_s is None or fit.hypoperfusion is None:
        return {}
    cbf, sd = fit.flow * blood.flow_to_cbf, fit.flow_sd * blood.flow_to_cbf
    cbf = np.maximum(cbf, 1e-3)
    spread = np.maximum(CORE_SPREAD * np.sqrt(np.log1p((sd / cbf) ** 2)), 1e-3)
    z = (np.log(CORE_RCBF * reference_cbf) - np.log(cbf)) / spread
    below = special.ndtr(z - CORE_SHIFT)
    maps = {
        "cbf_sd": sd, "tmax_sd": fit.tmax_sd_s, "p_hypoperfusion": fit.hypoperfusion,
        "p_core": below * fit.hypoperfusion,
    }  # fmt: skip
    return {name: values.astype(np.float32) for name, values in maps.items()}


def to_volume(values: FloatArray, mask: BoolArray) -> FloatArray:
    """Put (V,) values into (Z, Y, X); 0 outside the mask."""
    out = np.zeros(mask.shape, np.float32)
    out[mask] = values
    return out


def median_in_mask(volume: FloatArray, mask: BoolArray, grid: Grid, size_mm: float) -> FloatArray:
    """In-plane median over a square of about ``size_mm``, taken within the mask only.

    Outside voxels are filled from their nearest inside neighbour first, so that the border of the
    brain is not drawn to 0.
    """
    _, dy, dx = grid.spacing_mm
    size = (1, *(2 * max(round((size_mm / d - 1) / 2), 0) + 1 for d in (dy, dx)))
    if max(size) == 1 or not mask.any():
        return volume
    filled = volume.copy()
    for z in range(len(volume)):
        if mask[z].any() and not mask[z].all():
            nearest = ndimage.distance_transform_edt(
                ~mask[z], return_distances=False, return_indices=True
            )
            filled[z] = volume[z][tuple(nearest)]
    return np.where(mask, ndimage.median_filter(filled, size), volume)
