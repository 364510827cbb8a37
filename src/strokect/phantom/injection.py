"""The arterial bolus that an injection into an arm vein makes.

Stewart-Hamilton: the area of the arterial curve is the iodine over the cardiac output. Kidoh 2017
(J Comput Assist Tomogr 41:349; phantom, 4 ml/s, checked): in long injections a lower cardiac
output raises the peak, in short ones it widens the bolus and hardly changes the peak (10 ml: 36-55
HU; 80 ml: 420, 365 and 291 HU at 2.8, 4.2 and 5.6 l/min). Bae 2010 (Radiology 256:32; memory).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol as Structure

import numpy as np
from scipy import special

from strokect.core.errors import SettingsError

#: Enhancement of blood, HU per mg iodine / ml: about 20 at 120 kVp, and 1.25, 1.65 and
#: 2.0 times as much at 100, 80 and 70 kVp (ratios near those of Bae 2010; from memory).
HU_PER_MG_ML = {70: 40.0, 80: 33.0, 100: 25.0, 120: 20.0}
#: Share of it that is left behind a skull, which hardens the beam (assumed: grey matter then
#: enhances by 8-18 HU, as in scans).
BEHIND_SKULL = 0.72
#: Cardiac output, ml/s, at factor 1 (5.4 l/min). Share of the iodine that reaches the heart within
#: the bolus. Volume, ml, that it has mixed with a minute later (blood and early interstitium).
CARDIAC_OUTPUT_ML_S, DELIVERED, MIXING_ML = 90.0, 0.85, 10_000.0
#: From the arm to the internal carotid, s; and the transit's spread (SD of a gamma density of
#: shape 2), s; at factor 1, both inverse to the cardiac output.
ARM_TO_BRAIN_S, TRANSIT_SD_S = 14.0, 4.8


@dataclass(frozen=True)
class Injection:
    """Contrast into an arm vein, chased by saline. 300-400 mg iodine per ml."""

    contrast_ml: float
    rate_ml_s: float
    iodine_mg_ml: float = 350.0

    @property
    def duration_s(self) -> float:
        """Length of the injection, s."""
        return self.contrast_ml / self.rate_ml_s


class Injected(Structure):
    """What determines a bolus: a perfusion or angiography protocol. delay_s : see Protocol."""

    @property
    def kvp(self) -> int: ...
    @property
    def injection(self) -> Injection: ...
    @property
    def cardiac_output(self) -> float: ...
    @property
    def delay_s(self) -> float: ...


def bolus_from(protocol: Injected, behind: float = BEHIND_SKULL) -> dict[str, float]:
    """Arterial bolus of an injection: alpha, beta_s, peak_hu, arrival_s, recirculation, tail.

    The injection, a box, is convolved with the transit through heart and lungs, a gamma density
    whose times are inverse to the cardiac output. A gamma variate t^alpha e^(-t/beta) of the same
    mean and variance describes the result; its area is the iodine over the cardiac output
    (Stewart-Hamilton), times ``HU_PER_MG_ML``. peak_hu, HU. arrival_s, after the start of the
    scan, at least 2. tail : level after mixing, relative to the peak.
    """
    injection, output = protocol.injection, protocol.cardiac_output
    if protocol.kvp not in HU_PER_MG_ML or output <= 0 or injection.rate_ml_s <= 0:
        raise SettingsError(
            f"no bolus for {protocol.kvp} kVp, cardiac output {output}, {injection}",
            fix=f"Use a voltage of {sorted(HU_PER_MG_ML)} and values above 0",
        )
    spread = TRANSIT_SD_S / output
    mean = injection.duration_s / 2 + np.sqrt(2.0) * spread
    variance = injection.duration_s**2 / 12 + spread**2
    beta = variance / mean
    alpha = mean / beta - 1
    height = np.exp(alpha * np.log(alpha) - alpha - special.gammaln(alpha + 1)) / beta  # 1/s
    iodine = DELIVERED * injection.contrast_ml * injection.iodine_mg_ml
    iodine *= behind * HU_PER_MG_ML[protocol.kvp]
    peak = iodine / (CARDIAC_OUTPUT_ML_S * output) * height
    return {
        "alpha": float(alpha),
        "beta_s": float(beta),
        "peak_hu": float(peak),
        "arrival_s": float(max(2.0, ARM_TO_BRAIN_S / output - protocol.delay_s)),
        "recirculation": 0.15,
        "tail": float(iodine / MIXING_ML / peak),
    }
