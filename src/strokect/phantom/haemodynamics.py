"""Contrast bolus and normal perfusion of a virtual patient.

The arterial curve is a gamma variate (Thompson 1964, Circ Res 14:502), the form used for simulated
inputs by Ostergaard 1996 (MRM 36:715), Calamante 2003 (MRM 50:1237) and Mouridsen 2006 (NeuroImage
33:570), broadened to a 40-50 ml injection at 5 ml/s (width about 9 s), with a recirculation and a
slowly falling tail. The venous curve is the arterial one convolved with a transit-time density of
area 1: contrast is conserved. Normal flow and volume are assumed: within the ranges of the phantom
of Kudo 2013 (Radiology 267:201: 2.5-87.5 ml/100g/min, 1-5 ml/100g), volume near PET (Ito 2004, Eur
J Nucl Med Mol Imaging 31:635), grey flow above it, as PET averages cortex with its surroundings.
Thompson, Ostergaard, Ito and what the simulated inputs were are cited from memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from strokect.core.types import FloatArray
from strokect.phantom.template import smooth_field
from strokect.phantom.vessels import Tube, distance_to

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

#: Step of the dense time axis, s.
DENSE_STEP_S = 0.05


@dataclass(frozen=True)
class Bolus:
    """The contrast passage. Times in s after the start of the scan, heights in HU.

    arrival_s : in the internal carotid arteries. alpha, beta_s : gamma variate t^alpha e^(-t/beta).
    recirculation : share of the first pass that comes round again. tail : level after mixing,
    relative to the peak. tail_decay_s : its time constant.
    venous_delay_s, venous_transit_s : arterial to sinus delay, then mean of the transit density.
    collateral_delay_s, collateral_transit_s : the same for arteries beyond an occlusion.
    """

    arrival_s: float
    peak_hu: float
    alpha: float = 3.0
    beta_s: float = 2.0
    recirculation: float = 0.15
    tail: float = 0.09
    tail_decay_s: float = 300.0
    venous_delay_s: float = 2.5
    venous_transit_s: float = 4.5
    collateral_delay_s: float = 3.0
    collateral_transit_s: float = 3.0


def draw_bolus(rng: np.random.Generator, arrival_s: float | None, peak_hu: float | None) -> Bolus:
    """Draw a bolus: arrival 8-12 s and peak 220-340 HU unless given."""
    arrival, peak = float(rng.uniform(8, 12)), float(rng.uniform(220, 340))
    return Bolus(
        arrival_s=arrival if arrival_s is None else arrival_s,
        peak_hu=peak if peak_hu is None else peak_hu,
        alpha=float(rng.uniform(2.7, 3.3)),
        beta_s=float(rng.uniform(1.8, 2.2)),
        recirculation=float(rng.uniform(0.1, 0.2)),
        tail=float(rng.uniform(0.07, 0.11)),
        venous_delay_s=float(rng.uniform(2.0, 3.0)),
        venous_transit_s=float(rng.uniform(4.0, 5.0)),
        collateral_delay_s=float(rng.uniform(2.5, 4.0)),
        collateral_transit_s=float(rng.uniform(2.5, 4.0)),
    )


def gamma_density(time_s: FloatArray, mean_s: float, shape: float = 3.0) -> Float64:
    """Transit-time density (1/s) with the given mean; 0 before 0."""
    t = np.maximum(np.asarray(time_s, float), 0) * shape / mean_s
    return t ** (shape - 1) * np.exp(-t) * shape / (mean_s * special.gamma(shape))


def convolve_density(curve: FloatArray, step_s: float, delay_s: float, mean_s: float) -> Float64:
    """Curve (N,) delayed and convolved with a gamma density of area 1."""
    time = np.arange(len(curve)) * step_s
    density = gamma_density(time + step_s / 2 - delay_s, mean_s)
    density /= density.sum()  # midpoints: keeps the area exactly
    n = 2 * len(curve)
    shifted = np.fft.irfft(np.fft.rfft(curve, n) * np.fft.rfft(density, n), n)[: len(curve)]
    return np.interp(time - step_s / 2, time, shifted, left=0.0)


def arterial_curve(bolus: Bolus, time_s: FloatArray) -> Float64:
    """True undamped arterial enhancement (N,) at uniform ``time_s``, HU; its maximum is peak_hu."""
    step = float(time_s[1] - time_s[0])
    u = np.maximum(np.asarray(time_s, float) - bolus.arrival_s, 0.0)
    top = bolus.alpha * bolus.beta_s
    first = (u / top) ** bolus.alpha * np.exp(bolus.alpha - u / bolus.beta_s)
    again = bolus.recirculation * convolve_density(first, step, 9.0, 8.0)
    passed = special.gammainc(bolus.alpha + 1, u / bolus.beta_s)  # share of the first pass gone by
    late = bolus.tail * np.exp(-u / bolus.tail_decay_s)
    total = first + again + late * convolve_density(passed, step, 4.0, 6.0)
    return bolus.peak_hu * np.where(u > 0, total, 0.0) / total.max()


@dataclass(frozen=True, eq=False)
class BloodCurves:
    """Dense curves, HU on ``time_s`` (N,): artery, collateral-fed artery, vein."""

    time_s: Float64
    artery: Float64
    collateral: Float64
    vein: Float64

    def at(self, curve: Float64, time_s: npt.ArrayLike) -> Float64:
        """Linear interpolation; 0 before the axis."""
        return np.interp(np.asarray(time_s, float), self.time_s, curve, left=0.0)


def blood_curves(bolus: Bolus, end_s: float) -> BloodCurves:
    """Curves from 0 to ``end_s``."""
    time = np.arange(0.0, end_s + DENSE_STEP_S, DENSE_STEP_S)
    artery = arterial_curve(bolus, time)
    return BloodCurves(
        time,
        artery,
        convolve_density(
            artery, DENSE_STEP_S, bolus.collateral_delay_s, bolus.collateral_transit_s
        ),
        convolve_density(artery, DENSE_STEP_S, bolus.venous_delay_s, bolus.venous_transit_s),
    )


@dataclass(frozen=True)
class NormalPerfusion:
    """Mean values of healthy tissue: CBF ml/100g/min, CBV ml/100g, delay s.

    variation : SD of the smooth relative variation of flow and of volume.
    """

    grey_cbf: float = 60.0
    grey_cbv: float = 4.0
    white_cbf: float = 24.0
    white_cbv: float = 2.0
    variation: float = 0.08
    delay_per_mm: float = 0.018
    delay_range_s: tuple[float, float] = (0.0, 2.0)


def draw_normal(rng: np.random.Generator) -> NormalPerfusion:
    """Draw a patient's normal perfusion: flow SD 4 %, volume SD 4 % (assumed)."""
    flow, volume = np.clip(rng.normal(1, 0.04, 2), 0.92, 1.08)
    return NormalPerfusion(60 * flow, 4 * volume, 24 * flow, 2 * volume)


@dataclass(frozen=True, eq=False)
class TissueFields:
    """Perfusion of pure grey and pure white matter at each voxel, (V,) float32.

    cbf ml/100g/min, cbv ml/100g; delay s, shared by both.
    """

    grey_cbf: Float32
    grey_cbv: Float32
    white_cbf: Float32
    white_cbv: Float32
    delay_s: Float32


def normal_fields(
    rng: np.random.Generator, normal: NormalPerfusion, all_tubes: list[Tube], points: FloatArray
) -> FloatArray:
    """Healthy variation at head points (3, V): (3, V) relative flow, relative volume, delay in s.

    Flow and volume vary smoothly (30 mm) and together (correlation about 0.7). The delay grows
    with the distance from the circle of Willis.
    """
    field = smooth_field(rng, 30.0, 3)(points)
    limit = 2.0 * normal.variation
    flow = np.exp(np.clip(normal.variation * field[0], -limit, limit))
    both = 0.7 * field[0] + 0.7 * field[1]
    volume = np.exp(np.clip(0.8 * normal.variation * both, -limit, limit))
    proximal = [t for t in all_tubes if t.segment in ("ICA", "M1", "A1", "P1", "BA")]
    delay = 0.1 + normal.delay_per_mm * distance_to(proximal, points) + 0.15 * field[2]
    return np.stack([flow, volume, np.clip(delay, *normal.delay_range_s)]).astype(np.float32)


def scaled(
    normal: NormalPerfusion, flow: FloatArray, volume: FloatArray, delay_s: FloatArray
) -> TissueFields:
    """Perfusion of healthy tissue from its relative flow and volume, (V,) each."""
    arrays = (
        normal.grey_cbf * flow,
        normal.grey_cbv * volume,
        normal.white_cbf * flow,
        normal.white_cbv * volume,
        delay_s,
    )
    return TissueFields(*(np.asarray(a, np.float32) for a in arrays))
