"""Bayesian estimation over a grid of transit times, delays and residue shapes.

After Boutelier 2012 (IEEE Trans Med Imaging 31:1381) and Mouridsen 2006 (NeuroImage 33:570): the
tissue curve is flow times a known response plus Gaussian noise. Flow and the baseline are
integrated out in closed form; what remains is a sum over a grid, and the fit of a whole scan to
the whole grid is one matrix product. Marginalising over residue shapes too keeps the estimate
from inheriting the bias of any one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba
import numpy as np
from scipy.interpolate import CubicSpline

from strokect.core.types import FloatArray
from strokect.perfusion.convolution import ResidueShape, response_table
from strokect.perfusion.curves import noise_sd
from strokect.perfusion.deconvolution import ResidueFit, check_aif

#: Voxels at a time.
BLOCK = 2048
#: Fields of ResidueFit in the order of the kernel's output.
FIELDS = ("flow", "volume", "delay_s", "tmax_s", "flow_sd", "tmax_sd_s", "hypoperfusion")
FINE_STEP_S = 0.1
#: Least norm of a response, as a share of the same residue's at the best delay.
MIN_SEEN = 0.1


@dataclass(frozen=True)
class BayesOptions:
    """Grid and priors.

    mtt_s, n_mtt : range and number of transit times, geometric. delay_s, delay_step_s : range and
    step of delays. shapes : residue families; how common each is, is learnt from the scan itself.
    min_shape : families rarer than this are left out. prior_mtt_s, prior_mtt_log_sd : log-normal
    prior on MTT. noise_floor_hu : curves are never believed better than this. noise_factor : the
    noise counts for this many times what is measured in time; above 1 for denoised curves, whose
    neighbours share their noise and whose borders blur.
    """

    mtt_s: tuple[float, float] = (1.0, 40.0)
    n_mtt: int = 44
    delay_s: tuple[float, float] = (-5.0, 14.0)
    delay_step_s: float = 0.5
    shapes: tuple[ResidueShape, ...] = ("box", "gamma", "linear", "exponential")
    min_shape: float = 0.02
    prior_mtt_s: float = 5.0
    prior_mtt_log_sd: float = 0.8
    noise_floor_hu: float = 0.2
    noise_factor: float = 1.0


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Responses of the grid, centred in time, of unit norm.

    atoms : (K, T). norm : (K,) HU s per unit flow. mtt_s, delay_s, log_prior : (K,). shape : (K,)
    int, which residue family.
    """

    atoms: FloatArray
    norm: FloatArray
    mtt_s: FloatArray
    delay_s: FloatArray
    log_prior: FloatArray
    shape: FloatArray

    def only(self, chosen: FloatArray, log_prior: FloatArray) -> Dictionary:
        """The chosen (K,) points of the grid, with another prior (K,)."""
        return Dictionary(
            self.atoms[chosen], self.norm[chosen], self.mtt_s[chosen], self.delay_s[chosen],
            log_prior[chosen], self.shape[chosen],
        )  # fmt: skip


def bayes(
    curves: FloatArray, aif: FloatArray, interval_s: float, options: BayesOptions
) -> ResidueFit:
    """Posterior means of volume, delay and Tmax, flow as volume over mean transit time, and SDs.

    curves : (T, V) float32, HU, any baseline. aif : (T,) HU above baseline.
    interval_s : sampling interval, s; uniform. Noise is measured from the curves themselves.
    Tmax is delay + MTT / 2, the middle of the transit. Raises CurveError for an empty AIF.
    """
    sigma = max(options.noise_factor * noise_level(curves), options.noise_floor_hu)
    grid = learn_shapes(dictionary(aif, interval_s, options), curves, sigma, options)
    scale, tmax = sigma / grid.norm, grid.delay_s + grid.mtt_s / 2
    table = np.stack(
        [grid.log_prior, scale, scale**2, scale * grid.mtt_s, grid.delay_s, tmax, tmax > 6.0]
    ).astype(np.float32)
    projector = np.ascontiguousarray(grid.atoms.T / np.float32(sigma))
    out = np.empty((len(FIELDS), curves.shape[1]), np.float32)
    for start in range(0, curves.shape[1], BLOCK):
        block = slice(start, min(start + BLOCK, curves.shape[1]))
        # (B, K): each voxel's scores lie together, as the sums run over the grid.
        _posterior(curves[:, block].T @ projector, table, out[:, block])
    fit = ResidueFit(**dict(zip(FIELDS, out, strict=True)))
    # Flow as mean volume over mean transit time: the mean of flow itself would lean to the few
    # residues with a short transit and a very high flow.
    mtt = np.maximum(2 * (fit.tmax_s - fit.delay_s), options.mtt_s[0])
    return replace(fit, flow=fit.volume / mtt)


def learn_shapes(
    grid: Dictionary, curves: FloatArray, sigma: float, options: BayesOptions
) -> Dictionary:
    """Weigh residue families by how common they are in the scan (empirical Bayes, by EM).

    A single noisy curve cannot tell its residue family, and averaging over all of them biases
    flow; all curves together can.
    """
    sample = curves[:, :: max(1, curves.shape[1] // 2000)]
    score = np.maximum(sample.T @ (grid.atoms.T / np.float32(sigma)), 0.0)
    level = np.float32(0.5) * score**2 + grid.log_prior
    level -= level.max(axis=1, keepdims=True)
    families = np.arange(len(options.shapes))
    evidence = np.stack(
        [np.exp(level[:, grid.shape == f]).sum(axis=1, dtype=float) for f in families], axis=1
    )
    share = np.full(len(families), 1 / len(families))
    for _ in range(100):
        member = share * evidence
        share = (member / member.sum(axis=1, keepdims=True)).mean(axis=0)
    kept = share >= options.min_shape
    log_prior = grid.log_prior + np.log(np.maximum(share, 1e-9)).astype(np.float32)[grid.shape]
    return grid.only(kept[grid.shape], log_prior)


def noise_level(curves: FloatArray) -> float:
    """Noise SD of the curves (T, V), HU, as a median over (at most 20,000) voxels."""
    return float(np.median(noise_sd(curves[:, :: max(1, curves.shape[1] // 20_000)])))


def dictionary(aif: FloatArray, interval_s: float, options: BayesOptions) -> Dictionary:
    """Responses of the arterial curve (T,) for every point of the grid."""
    check_aif(aif)
    n = len(aif)
    time = np.arange(n) * interval_s
    fine = np.arange(0, time[-1] + FINE_STEP_S, FINE_STEP_S)
    artery = CubicSpline(time, aif)(fine)
    delays = np.arange(options.delay_s[0], options.delay_s[1] + 1e-6, options.delay_step_s)
    atoms, mtts, lags, prior, family = [], [], [], [], []
    for number, shape in enumerate(options.shapes):
        table = response_table(artery, 0.0, FINE_STEP_S, shape, options.mtt_s, options.n_mtt)
        axis = table.start_s + table.step_s * np.arange(table.values.shape[1])
        for mtt, row in zip(table.mtt_s, table.values, strict=True):
            for delay in delays:
                atoms.append(np.interp(time - delay, axis, row, left=0.0))
                mtts.append(mtt)
                lags.append(delay)
                z = np.log(mtt / options.prior_mtt_s) / options.prior_mtt_log_sd
                prior.append(-0.5 * z * z)
                family.append(number)
    g = np.array(atoms)
    g -= g.mean(axis=1, keepdims=True)  # integrates a flat-prior baseline out
    norm = np.linalg.norm(g, axis=1)
    # A response that the scan hardly sees would explain any noise by an enormous flow.
    by_residue = norm.reshape(-1, len(delays))
    seen = (by_residue > MIN_SEEN * by_residue.max(axis=1, keepdims=True)).ravel()
    g, norm, mtt = g[seen], norm[seen], np.array(mtts)[seen]
    # Flow has a prior flat in blood volume, so the Gaussian integral leaves MTT / norm.
    log_prior = np.array(prior)[seen] + np.log(mtt / norm)
    f32 = np.float32
    return Dictionary(
        (g / norm[:, None]).astype(f32), norm.astype(f32), mtt.astype(f32),
        np.array(lags, f32)[seen], (log_prior - log_prior.max()).astype(f32),
        np.array(family)[seen],
    )  # fmt: skip


@numba.njit(parallel=True, cache=True, fastmath=True)
def _posterior(scores, table, out):
    """Moments of the posterior of each voxel.

    scores : (B, K), projections in units of the noise. table : (7, K), rows log prior, flow per
    score, its square, volume per score, delay, Tmax, Tmax > 6. out : (7, B).
    """
    for i in numba.prange(scores.shape[0]):
        moments = _moments(
            scores[i], table[0], table[1], table[2], table[3], table[4], table[5], table[6]
        )
        for k in range(7):
            out[k, i] = moments[k]


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _moments(score, log_prior, flow, flow2, volume, delay, tmax, late):
    """One voxel: all float32 and free of branches, so that the loops run in vector registers."""
    n = len(score)
    zero, half, one = np.float32(0), np.float32(0.5), np.float32(1)
    share = np.float32(1 / 1024)
    best = np.float32(-1e30)
    for k in range(n):
        s = max(score[k], zero)
        best = max(best, half * s * s + log_prior[k])
    total, f1, f2, f3, v1, d1, t1, t2, h = zero, zero, zero, zero, zero, zero, zero, zero, zero
    for k in range(n):
        s = max(score[k], zero)
        # exp(x) as (1 + x / 1024)^1024: ten squarings, 0.05 % off at x = -1.
        w = max(one + share * (half * s * s + log_prior[k] - best), zero)
        w *= w
        w *= w
        w *= w
        w *= w
        w *= w
        w *= w
        w *= w
        w *= w
        w *= w
        w *= w
        total += w
        f1 += w * s * flow[k]
        f2 += w * s * s * flow2[k]
        f3 += w * flow2[k]
        v1 += w * s * volume[k]
        d1 += w * delay[k]
        t1 += w * tmax[k]
        t2 += w * tmax[k] * tmax[k]
        h += w * late[k]
    each = one / total
    mean = f1 * each
    late_by = t1 * each
    return (
        mean, v1 * each, d1 * each, late_by,
        np.sqrt(max((f2 + f3) * each - mean * mean, zero)),
        np.sqrt(max(t2 * each - late_by * late_by, zero)),
        h * each,
    )  # fmt: skip
