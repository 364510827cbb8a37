"""Bayesian estimation over a grid of transit times, delays and residue shapes.

After Boutelier 2012 (IEEE Trans Med Imaging 31:1381) and Mouridsen 2006 (NeuroImage 33:570): the
tissue curve is flow times a known response plus Gaussian noise. Flow and the baseline are
integrated out in closed form; what remains is a sum over a grid, and the fit of a whole scan to
the whole grid is one matrix product. Marginalising over residue shapes too keeps the estimate
from inheriting the bias of any one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numba
import numpy as np
from scipy.interpolate import CubicSpline

from strokect.core.types import FloatArray
from strokect.perfusion.convolution import ResidueShape, response_table
from strokect.perfusion.curves import noise_sd
from strokect.perfusion.deconvolution import ResidueFit, check_aif

#: Voxels at a time: their likelihoods over the whole grid stay in the cache.
BLOCK = 512
FINE_STEP_S = 0.1


@dataclass(frozen=True)
class BayesOptions:
    """Grid and priors.

    mtt_s, n_mtt : range and number of transit times, geometric. delay_s, delay_step_s : range and
    step of delays. shapes : residue families, equally likely. prior_mtt_s, prior_mtt_log_sd :
    log-normal prior on MTT. noise_floor_hu : curves are never believed better than this.
    """

    mtt_s: tuple[float, float] = (1.0, 40.0)
    n_mtt: int = 24
    delay_s: tuple[float, float] = (-3.0, 14.0)
    delay_step_s: float = 0.5
    shapes: tuple[ResidueShape, ...] = ("box", "gamma", "exponential")
    prior_mtt_s: float = 5.0
    prior_mtt_log_sd: float = 0.8
    noise_floor_hu: float = 0.2


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Responses of the grid, centred in time, of unit norm.

    atoms : (K, T). norm : (K,) HU s per unit flow. mtt_s, delay_s, log_prior : (K,).
    """

    atoms: FloatArray
    norm: FloatArray
    mtt_s: FloatArray
    delay_s: FloatArray
    log_prior: FloatArray


def bayes(
    curves: FloatArray, aif: FloatArray, interval_s: float, options: BayesOptions
) -> ResidueFit:
    """Posterior means (and SDs) of flow, volume, delay and Tmax.

    curves : (T, V) float32, HU, any baseline. aif : (T,) HU above baseline.
    interval_s : sampling interval, s; uniform. Noise is measured from the curves themselves.
    Tmax is delay + MTT / 2, the middle of the transit. Raises CurveError for an empty AIF.
    """
    grid = dictionary(aif, interval_s, options)
    sigma = np.maximum(noise_level(curves), options.noise_floor_hu)
    out = {f.name: np.empty(curves.shape[1], np.float32) for f in fields(ResidueFit)}
    for start in range(0, curves.shape[1], BLOCK):
        block = slice(start, min(start + BLOCK, curves.shape[1]))
        # (B, K): each voxel's scores lie together, as the sums below run over the grid.
        scores = (curves[:, block].T / sigma) @ grid.atoms.T
        _posterior(
            scores, grid.norm, grid.mtt_s, grid.delay_s, grid.log_prior, np.float32(sigma),
            out["flow"][block], out["volume"][block], out["delay_s"][block], out["tmax_s"][block],
            out["flow_sd"][block], out["tmax_sd_s"][block], out["hypoperfusion"][block],
        )  # fmt: skip
    return ResidueFit(**out)


def noise_level(curves: FloatArray) -> float:
    """Noise SD of the curves (T, V), HU, as a median over voxels."""
    return float(np.median(noise_sd(curves)))


def dictionary(aif: FloatArray, interval_s: float, options: BayesOptions) -> Dictionary:
    """Responses of the arterial curve (T,) for every point of the grid."""
    check_aif(aif)
    n = len(aif)
    time = np.arange(n) * interval_s
    fine = np.arange(0, time[-1] + FINE_STEP_S, FINE_STEP_S)
    artery = CubicSpline(time, aif)(fine)
    delays = np.arange(options.delay_s[0], options.delay_s[1] + 1e-6, options.delay_step_s)
    atoms, mtts, lags, prior = [], [], [], []
    for shape in options.shapes:
        table = response_table(artery, 0.0, FINE_STEP_S, shape, options.mtt_s, options.n_mtt)
        axis = table.start_s + table.step_s * np.arange(table.values.shape[1])
        for mtt, row in zip(table.mtt_s, table.values, strict=True):
            for delay in delays:
                atoms.append(np.interp(time - delay, axis, row, left=0.0))
                mtts.append(mtt)
                lags.append(delay)
                z = np.log(mtt / options.prior_mtt_s) / options.prior_mtt_log_sd
                prior.append(-0.5 * z * z)
    g = np.array(atoms)
    g -= g.mean(axis=1, keepdims=True)  # integrates a flat-prior baseline out
    norm = np.linalg.norm(g, axis=1)
    mtt = np.array(mtts)
    # Flow has a prior flat in blood volume, so the Gaussian integral leaves MTT / norm.
    log_prior = np.array(prior) + np.log(mtt / norm)
    f32 = np.float32
    return Dictionary(
        (g / norm[:, None]).astype(f32), norm.astype(f32), mtt.astype(f32),
        np.array(lags, f32), (log_prior - log_prior.max()).astype(f32),
    )  # fmt: skip


@numba.njit(parallel=True, cache=True, fastmath=True)
def _posterior(
    scores, norm, mtt, delay, log_prior, sigma,
    flow, volume, delay_out, tmax, flow_sd, tmax_sd, hypoperfusion,
):  # fmt: skip
    """Moments of the posterior. scores : (B, K), projections in units of the noise."""
    n_voxels, n_atoms = scores.shape
    for i in numba.prange(n_voxels):
        best = np.float32(-1e30)
        for k in range(n_atoms):
            s = max(scores[i, k], np.float32(0.0))
            best = max(best, np.float32(0.5) * s * s + log_prior[k])
        total, f1, f2, v1, d1, t1, t2, h = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for k in range(n_atoms):
            s = max(scores[i, k], np.float32(0.0))
            level = np.float32(0.5) * s * s + log_prior[k] - best
            if level < -12.0:
                continue
            w = np.exp(level)
            scale = sigma / norm[k]
            f = s * scale
            t = delay[k] + np.float32(0.5) * mtt[k]
            total += w
            f1 += w * f
            f2 += w * (f * f + scale * scale)
            v1 += w * f * mtt[k]
            d1 += w * delay[k]
            t1 += w * t
            t2 += w * t * t
            if t > 6.0:
                h += w
        flow[i] = f1 / total
        volume[i] = v1 / total
        delay_out[i] = d1 / total
        tmax[i] = t1 / total
        flow_sd[i] = np.sqrt(max(f2 / total - (f1 / total) ** 2, 0.0))
        tmax_sd[i] = np.sqrt(max(t2 / total - (t1 / total) ** 2, 0.0))
        hypoperfusion[i] = h / total
