"""The one forward model of indicator dilution, and its units.

    C_t(t) = (rho / k_H) * CBF * integral C_a(u) R(t - delay - u) du,   R(0) = 1

after Ostergaard 1996 (MRM 36:715). Enhancement is in HU above baseline, which is proportional to
the iodine concentration, so that it stands for C. The transit-time families are those of
Mouridsen 2006 (NeuroImage 33:570): box, exponential, linear, and the gamma family between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numba
import numpy as np
import numpy.typing as npt
from scipy import special

from strokect.core.errors import SettingsError
from strokect.core.types import FloatArray

ResidueShape = Literal["box", "exponential", "linear", "gamma"]
RESIDUE_SHAPES: tuple[str, ...] = get_args(ResidueShape)

#: Shape number of the "gamma" family: variance of the transit times = MTT^2 / GAMMA_SHAPE.
GAMMA_SHAPE = 3.0
#: From ml/g/s to ml/100g/min.
PER_100G_PER_MIN = 6000.0


@dataclass(frozen=True)
class BloodConstants:
    """Haematocrit of large and small vessels and density of brain tissue (g/ml).

    Defaults: Calamante 1999 (J Cereb Blood Flow Metab 19:701), Rempp 1994 (Radiology 193:637).
    """

    haematocrit_large: float = 0.45
    haematocrit_small: float = 0.25
    density: float = 1.04

    @property
    def k_h(self) -> float:
        """Haematocrit factor (1 - H_large) / (1 - H_small), 0.733 by default."""
        return (1 - self.haematocrit_large) / (1 - self.haematocrit_small)

    @property
    def flow_to_cbf(self) -> float:
        """CBF [ml/100g/min] per flow-scaled residue [1/s]."""
        return PER_100G_PER_MIN * self.k_h / self.density

    @property
    def volume_to_cbv(self) -> float:
        """CBV [ml/100g] per ratio of areas (tissue to artery)."""
        return 100.0 * self.k_h / self.density


BLOOD = BloodConstants()


def residue(shape: ResidueShape, time_s: npt.ArrayLike, mtt_s: float) -> FloatArray:
    """Residue function R(t) with R(0) = 1 and area ``mtt_s``; 0 before t = 0.

    time_s : any shape, s. Raises SettingsError for an unknown shape.
    """
    t = np.asarray(time_s, float)
    u = np.maximum(t, 0.0) / mtt_s
    if shape == "box":
        r = (u < 1.0).astype(float)
    elif shape == "exponential":
        r = np.exp(-u)
    elif shape == "linear":  # falls to 0 at 2 MTT, so that its area is the MTT
        r = np.maximum(1.0 - u / 2.0, 0.0)
    elif shape == "gamma":  # 1 - cumulative gamma distribution of the transit times
        r = special.gammaincc(GAMMA_SHAPE, GAMMA_SHAPE * u)
    else:
        raise SettingsError(f"unknown residue shape {shape!r}", fix=f"Use one of {RESIDUE_SHAPES}")
    return np.where(t < 0, 0.0, r)


@dataclass(frozen=True, eq=False)
class ResponseTable:
    """Arterial curve convolved with residues of many transit times, finely sampled.

    values : (M, N) float32, HU s. mtt_s : (M,) geometric. start_s, step_s : the time axis.
    """

    values: FloatArray
    mtt_s: FloatArray
    start_s: float
    step_s: float


def response_table(
    aif_hu: npt.ArrayLike,
    start_s: float,
    step_s: float,
    shape: ResidueShape = "gamma",
    mtt_range_s: tuple[float, float] = (0.5, 60.0),
    n_mtt: int = 160,
) -> ResponseTable:
    """Tabulate integral C_a(u) R_MTT(t - u) du on a fine time axis.

    aif_hu : (N,) arterial enhancement at start_s + n * step_s, HU; take a step of 0.1 s or less.
    The residue enters as its exact mean over each step, so that a box edge between two samples
    keeps its area.
    """
    aif = np.asarray(aif_hu, float)
    n_fft = 2 * aif.size
    spectra = _residue_spectra(shape, aif.size, step_s, mtt_range_s, n_mtt)
    rows = np.fft.irfft(np.fft.rfft(aif, n_fft) * spectra, n_fft)[:, : aif.size] * step_s
    mtts = np.geomspace(*mtt_range_s, n_mtt)
    # A mean over [n, n+1] steps stands for the lag n + 1/2: the table starts half a step later.
    return ResponseTable(np.asarray(rows, np.float32), mtts, start_s + step_s / 2, step_s)


@lru_cache(maxsize=4)
def _residue_spectra(
    shape: ResidueShape, n: int, step_s: float, mtt_range_s: tuple[float, float], n_mtt: int
) -> npt.NDArray[np.complex128]:
    """Spectra (n_mtt, n + 1) of residues averaged over each step; the same for every patient."""
    oversample = 8  # means over a step, by midpoints
    mids = (np.arange(n * oversample) + 0.5) * step_s / oversample
    steps = [
        residue(shape, mids, float(mtt)).reshape(-1, oversample).mean(axis=1)
        for mtt in np.geomspace(*mtt_range_s, n_mtt)
    ]
    return np.fft.rfft(np.asarray(steps), 2 * n)


def tissue_curves(
    table: ResponseTable,
    times_s: npt.ArrayLike,
    cbf: FloatArray,
    mtt_s: FloatArray,
    delay_s: FloatArray,
    blood: BloodConstants = BLOOD,
) -> FloatArray:
    """Noise-free tissue enhancement.

    times_s : (T,) acquisition times, s. cbf : (V,) ml/100g/min. mtt_s, delay_s : (V,) s.
    Returns (T, V) float32, HU. CBV is the central volume, CBF * MTT / 60.
    """
    flow = (np.asarray(cbf, np.float32) / np.float32(blood.flow_to_cbf)).ravel()
    position = np.log(np.clip(mtt_s, table.mtt_s[0], table.mtt_s[-1]) / table.mtt_s[0])
    position = position.ravel() / np.log(table.mtt_s[1] / table.mtt_s[0])
    times = np.asarray(times_s, np.float32)
    out = np.empty((times.size, flow.size), np.float32)
    _interpolate_table(
        table.values, np.float32(table.start_s), np.float32(1 / table.step_s), times,
        flow, position.astype(np.float32), np.asarray(delay_s, np.float32).ravel(), out,
    )  # fmt: skip
    return out


@numba.njit(parallel=True, cache=True)
def _interpolate_table(values, start, per_step, times, flow, row, delay, out):
    n_rows, n = values.shape
    for t in numba.prange(times.size):
        for v in range(flow.size):
            x = (times[t] - delay[v] - start) * per_step
            if x <= 0 or flow[v] == 0:
                out[t, v] = 0.0
                continue
            i = min(int(x), n - 2)
            fx = min(x - i, np.float32(1.0))
            j = min(int(row[v]), n_rows - 2)
            fr = row[v] - j
            low = values[j, i] * (1 - fx) + values[j, i + 1] * fx
            high = values[j + 1, i] * (1 - fx) + values[j + 1, i + 1] * fx
            out[t, v] = flow[v] * (low * (1 - fr) + high * fr)
