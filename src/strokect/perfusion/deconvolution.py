"""Deconvolution of tissue curves by the arterial curve: truncated SVD, block-circulant forms.

A block-circulant matrix is diagonal in the Fourier basis, with the spectrum of the zero-padded
arterial curve as its singular values; truncating its SVD (Wu 2003, MRM 50:164) is therefore
dropping frequencies where that spectrum is small. The pseudo-inverse of a scan is one small
matrix, and a solve one matrix product over all voxels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np
from scipy import linalg

from strokect.core.errors import CurveError
from strokect.core.types import FloatArray

#: Voxels solved at a time: their residues stay in the cache.
BLOCK = 8192


@dataclass(frozen=True)
class DeconvolutionOptions:
    """Regularisation of the SVD estimators.

    threshold : singular values below this share of the largest are dropped (bsvd, ssvd).
    oscillation_index : osvd raises the threshold of a voxel until its residue oscillates less.
    earliest_s : residues may peak this much before the arterial curve (delay-insensitive methods).
    """

    threshold: float = 0.1
    oscillation_index: float = 0.065
    earliest_s: float = 5.0


@dataclass(frozen=True, eq=False)
class ResidueFit:
    """What an estimator yields; each (V,) float32.

    flow : maximum of the flow-scaled residue, 1/s. volume : ratio of areas, tissue to artery.
    delay_s : arterial-tissue delay. tmax_s : time of the maximum of the residue.
    MTT follows from the central volume theorem, volume / flow. Where the method knows them:
    flow_sd, tmax_sd_s : posterior SDs. hypoperfusion : probability of Tmax > 6 s.
    """

    flow: FloatArray
    volume: FloatArray
    delay_s: FloatArray
    tmax_s: FloatArray
    flow_sd: FloatArray | None = None
    tmax_sd_s: FloatArray | None = None
    hypoperfusion: FloatArray | None = None

    @property
    def mtt_s(self) -> FloatArray:
        return self.volume / np.maximum(self.flow, 1e-9)


def bsvd(
    curves: FloatArray, aif: FloatArray, interval_s: float, options: DeconvolutionOptions
) -> ResidueFit:
    """Delay-insensitive deconvolution by block-circulant SVD [1]_.

    curves : (T, V) float32, HU above baseline. aif : (T,), same unit.
    interval_s : sampling interval, s; uniform.
    Raises CurveError where the arterial curve is empty.
    Example: CBF 60 ml/100g/min peaks at 0.01419 1/s.

    .. [1] Wu O et al., Magn Reson Med 2003;50:164-174.
    """
    inverse = circulant_inverse(aif, interval_s, options.threshold)
    fit = _Collector(curves, aif, interval_s, options)
    for block in fit.blocks():
        fit.store(block, inverse @ curves[:, block])
    return fit.result()


def osvd(
    curves: FloatArray, aif: FloatArray, interval_s: float, options: DeconvolutionOptions
) -> ResidueFit:
    """Block-circulant SVD with the threshold of each voxel set by its oscillation index [1]_.

    Shapes, units and errors as in ``bsvd``. The smallest threshold at which the residue oscillates
    less than ``options.oscillation_index`` is found per voxel by bisection.

    .. [1] Wu O et al., Magn Reson Med 2003;50:164-174.
    """
    levels = _threshold_levels(aif)
    inverses = [circulant_inverse(aif, interval_s, level) for level in levels]
    fit = _Collector(curves, aif, interval_s, options)
    for block in fit.blocks():
        fit.store(block, _least_oscillating(curves[:, block], inverses, options.oscillation_index))
    return fit.result()


def ssvd(
    curves: FloatArray, aif: FloatArray, interval_s: float, options: DeconvolutionOptions
) -> ResidueFit:
    """Standard truncated SVD of the lower-triangular Toeplitz matrix [1]_; delay-sensitive.

    Shapes, units and errors as in ``bsvd``. The arterial and residue functions are taken linear
    between samples. Tissue that leads the artery cannot be described.

    .. [1] Ostergaard L et al., Magn Reson Med 1996;36:715-725.
    """
    check_aif(aif)
    a = np.asarray(aif, float)
    before, after = np.r_[0.0, a[:-1]], np.r_[a[1:], a[-1]]
    matrix = interval_s * linalg.toeplitz((before + 4 * a + after) / 6, np.zeros_like(a))
    u, s, vt = linalg.svd(matrix)
    keep = s > options.threshold * s[0]
    inverse = ((vt[keep].T / s[keep]) @ u[:, keep].T).astype(np.float32)
    fit = _Collector(curves, aif, interval_s, options)
    for block in fit.blocks():
        fit.store(block, inverse @ curves[:, block])
    return fit.result()


def circulant_inverse(aif: FloatArray, interval_s: float, threshold: float) -> FloatArray:
    """Truncated pseudo-inverse (2T, T) of the block-circulant matrix of a curve (T,).

    Column t is the response to a unit sample at frame t; the second half of the rows holds
    negative times. threshold : share of the largest singular value.
    """
    check_aif(aif)
    n = len(aif)
    spectrum = np.fft.fft(np.asarray(aif, float), 2 * n)
    size = np.abs(spectrum)
    kept = size >= threshold * size.max()
    inverse = np.where(kept, spectrum.conj() / np.maximum(size, 1e-12) ** 2, 0.0)
    kernel = np.fft.ifft(inverse).real / interval_s  # circulant: column t is the kernel moved by t
    return np.stack([np.roll(kernel, t) for t in range(n)], axis=1).astype(np.float32)


def oscillation_index(residues: FloatArray) -> FloatArray:
    """Oscillation index (V,) of residues (L, V): sum |second difference| / (L max) [Wu 2003]."""
    out = np.empty(residues.shape[1], np.float32)
    _oscillation(np.ascontiguousarray(residues), out)
    return out


def check_aif(aif: FloatArray) -> None:
    """Raises CurveError for an arterial curve that cannot be deconvolved by."""
    if not np.isfinite(aif).all() or aif.max() <= 0 or aif.sum() <= 0:
        raise CurveError("the arterial curve never rises above its baseline")


def _threshold_levels(aif: FloatArray) -> FloatArray:
    """Truncation levels, ascending, one per pair of singular values up to 95 % of the largest."""
    check_aif(aif)
    size = np.abs(np.fft.rfft(np.asarray(aif, float), 2 * len(aif)))
    share = np.unique(np.round(size / size.max(), 9))
    return share[(share >= 0.01) & (share <= 0.95)]


def _least_oscillating(curves: FloatArray, inverses: list[FloatArray], limit: float) -> FloatArray:
    """Residues (2T, B) at the first level whose oscillation index is below the limit."""
    v = curves.shape[1]
    low = np.zeros(v, np.intp)  # the answer lies in low .. high
    high = np.full(v, len(inverses) - 1)
    out = np.empty((inverses[0].shape[0], v), np.float32)
    while (open_ := np.flatnonzero(low < high)).size:
        middle = (low[open_] + high[open_]) // 2
        for level in np.unique(middle):
            here = open_[middle == level]
            calm = oscillation_index(inverses[level] @ curves[:, here]) < limit
            high[here[calm]] = level
            low[here[~calm]] = level + 1
    for level in np.unique(high):
        here = np.flatnonzero(high == level)
        out[:, here] = inverses[level] @ curves[:, here]
    return out


class _Collector:
    """Walks over blocks of voxels and keeps what the residues tell."""

    def __init__(
        self, curves: FloatArray, aif: FloatArray, interval_s: float, options: DeconvolutionOptions
    ):
        self._interval_s = np.float32(interval_s)
        self._earliest = round(options.earliest_s / interval_s)
        self._n_frames, v = curves.shape
        self._flow, self._tmax, self._delay = (np.empty(v, np.float32) for _ in range(3))
        area = np.float32(np.sum(aif, dtype=float))
        self._volume = curves.sum(axis=0, dtype=np.float32) / area

    def blocks(self) -> Iterator[slice]:
        for start in range(0, self._flow.size, BLOCK):
            yield slice(start, min(start + BLOCK, self._flow.size))

    def store(self, block: slice, residues: FloatArray) -> None:
        """Measure residues (L, B): L = 2T for circulant methods, T for Toeplitz."""
        circulant = residues.shape[0] == 2 * self._n_frames
        early = min(self._earliest, self._n_frames - 1) if circulant else 0
        _measure(
            np.ascontiguousarray(residues), self._n_frames, early, self._interval_s,
            self._flow[block], self._tmax[block], self._delay[block],
        )  # fmt: skip

    def result(self) -> ResidueFit:
        return ResidueFit(self._flow, self._volume, self._delay, self._tmax)


@numba.njit(parallel=True, cache=True)
def _measure(residues, n_frames, early, interval, flow, tmax, delay):
    """Height and time of the maximum (parabola), and the half-height on the way up.

    Regularisation smooths the step at the arrival symmetrically, so that the half-height of the
    flank marks the delay.
    """
    length, v = residues.shape
    for i in numba.prange(v):
        best = np.float32(-1e30)
        top = 0
        for t in range(-early, n_frames):
            value = residues[t % length, i]
            if value > best:
                best = value
                top = t
        a = residues[(top - 1) % length, i]
        c = residues[(top + 1) % length, i]
        bend = a - 2 * best + c
        offset = np.float32(0.0)
        if bend < 0 and top > -early and top < n_frames - 1:
            offset = np.float32(0.5) * (a - c) / bend
        flow[i] = max(best - np.float32(0.25) * (a - c) * offset, np.float32(0.0))
        tmax[i] = (top + offset) * interval
        half = np.float32(0.5) * best
        t = top
        while t > -early and residues[(t - 1) % length, i] > half:
            t -= 1
        low = residues[(t - 1) % length, i]
        high = residues[t % length, i]
        share = (half - low) / (high - low) if high > low else np.float32(1.0)
        delay[i] = (t - 1 + min(max(share, np.float32(0.0)), np.float32(1.0))) * interval


@numba.njit(parallel=True, cache=True)
def _oscillation(residues, out):
    length, v = residues.shape
    for i in numba.prange(v):
        total = np.float32(0.0)
        best = residues[0, i]
        for t in range(length):
            best = max(best, residues[t, i])
        for t in range(1, length - 1):
            total += abs(residues[t - 1, i] - 2 * residues[t, i] + residues[t + 1, i])
        out[i] = total / (length * best) if best > 0 else np.float32(1e9)
