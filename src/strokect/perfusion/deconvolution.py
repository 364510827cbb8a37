"""Deconvolution of tissue curves by the arterial curve: truncated SVD, block-circulant forms.

A block-circulant matrix is diagonal in the Fourier basis, with the spectrum of the zero-padded
arterial curve as its singular values; truncating its SVD (Wu 2003, MRM 50:164) is therefore
dropping frequencies where that spectrum is small. The pseudo-inverse of a scan is one small
matrix, and a solve one matrix product over all voxels. Residues are kept as rows, one voxel's
samples together, for the kernels that read them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numba
import numpy as np
import numpy.typing as npt
from scipy import linalg

from strokect.core.errors import CurveError
from strokect.core.types import FloatArray

#: Voxels solved at a time: their residues stay in the cache.
BLOCK = 4096
#: osvd tries thresholds in this range of shares of the largest singular value. Lower ones let the
#: residue of a quiet scan ring, so that flow depends on the delay (6 % at 0.03, 2.6 % at 0.05).
OSVD_LEVELS = (0.05, 0.95)


class MeasureOptions(Protocol):
    """What measuring residues needs to know."""

    @property
    def earliest_s(self) -> float: ...


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
    rows = rows_needed(len(aif), interval_s, options)
    inverse = circulant_inverse(aif, interval_s, options.threshold)[rows].T.copy()
    return measured(lambda block: project(block, inverse), curves, aif, interval_s, options)


def osvd(
    curves: FloatArray, aif: FloatArray, interval_s: float, options: DeconvolutionOptions
) -> ResidueFit:
    """Block-circulant SVD with the threshold of each voxel set by its oscillation index [1]_.

    Shapes, units and errors as in ``bsvd``. The smallest threshold at which the residue oscillates
    less than ``options.oscillation_index`` is found per voxel by bisection.

    .. [1] Wu O et al., Magn Reson Med 2003;50:164-174.
    """
    svd = CirculantSVD.of(aif, interval_s)
    counts = svd.counts(*OSVD_LEVELS)
    used = counts[-1]
    analysis = svd.left[:, :used].astype(np.float32)
    parts = np.ascontiguousarray((svd.right[:, :used] / svd.values[:used]).T, np.float32)
    limit = np.float32(options.oscillation_index)

    def solve(block: FloatArray) -> FloatArray:
        residues = np.zeros((block.shape[1], 2 * len(aif)), np.float32)
        _most_detailed(project(block, analysis), parts, counts, limit, residues)
        return residues

    return measured(solve, curves, aif, interval_s, options)


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
    inverse = ((u[:, keep] / s[keep]) @ vt[keep]).astype(np.float32)  # transposed
    return measured(lambda block: project(block, inverse), curves, aif, interval_s, options)


@dataclass(frozen=True, eq=False)
class CirculantSVD:
    """SVD of the block-circulant matrix of a curve: real Fourier vectors, in pairs.

    values : (2T,) falling. left : (T, 2T), without the rows of the zero padding, where curves are
    0. right : (2T, 2T); the second half of the rows holds negative times.
    """

    values: FloatArray
    left: FloatArray
    right: FloatArray

    @classmethod
    def of(cls, aif: FloatArray, interval_s: float) -> CirculantSVD:
        """aif : (T,). Raises CurveError where it is empty."""
        check_aif(aif)
        n = len(aif)
        spectrum = np.fft.rfft(np.asarray(aif, float), 2 * n)
        frequency = np.r_[np.arange(n + 1), np.arange(1, n)]  # cosines, then sines
        turn = np.where(np.arange(2 * n) <= n, 0.0, -np.pi / 2)
        size, phase = np.abs(spectrum)[frequency], np.angle(spectrum)[frequency]
        scale = np.where(frequency % n == 0, 1.0, np.sqrt(2.0)) / np.sqrt(2 * n)
        angle = np.pi / n * np.outer(np.arange(2 * n), frequency) + turn
        order = np.lexsort((frequency, -size))
        return cls(
            np.maximum(size * interval_s, 1e-12)[order],
            (scale * np.cos(angle[:n] + phase))[:, order],
            (scale * np.cos(angle))[:, order],
        )

    def counts(self, lowest: float, highest: float) -> npt.NDArray[np.intp]:
        """How many singular values each truncation level keeps, rising.

        A level stands between one pair of values and the next; thresholds are shares of the
        largest value.
        """
        share = self.values / self.values[0]
        ends = np.flatnonzero(np.diff(share, append=0.0) < -1e-9) + 1
        inside = (share[ends - 1] >= lowest) & (share[ends - 1] <= highest)
        return ends[inside] if inside.any() else ends[:1]


def circulant_inverse(aif: FloatArray, interval_s: float, threshold: float) -> FloatArray:
    """Truncated pseudo-inverse (2T, T) of the block-circulant matrix of a curve (T,).

    Column t is the response to a unit sample at frame t; the second half of the rows holds
    negative times. threshold : share of the largest singular value.
    """
    svd = CirculantSVD.of(aif, interval_s)
    kept = svd.values >= threshold * svd.values[0]
    return ((svd.right[:, kept] / svd.values[kept]) @ svd.left[:, kept].T).astype(np.float32)


def oscillation_index(residues: FloatArray) -> FloatArray:
    """Oscillation index (V,) of residues (V, L): sum |second difference| / (L max) [Wu 2003]."""
    return np.array([_oscillation(row) for row in np.ascontiguousarray(residues)], np.float32)


def check_aif(aif: FloatArray) -> None:
    """Raises CurveError for an arterial curve that cannot be deconvolved by."""
    if not np.isfinite(aif).all() or aif.max() <= 0 or aif.sum() <= 0:
        raise CurveError("the arterial curve never rises above its baseline")


def rows_needed(n: int, interval_s: float, options: MeasureOptions) -> npt.NDArray[np.intp]:
    """Rows of circulant residues (2T, V) that measuring looks at: T + 2 and the early ones."""
    early = _early_frames(n, interval_s, options)
    return np.r_[: n + 1, max(n + 1, 2 * n - early - 1) : 2 * n]


def _early_frames(n: int, interval_s: float, options: MeasureOptions) -> int:
    return max(min(round(options.earliest_s / interval_s), n - 2), 0)


def measured(
    solve: Callable[[FloatArray], FloatArray],
    curves: FloatArray,
    aif: FloatArray,
    interval_s: float,
    options: MeasureOptions,
) -> ResidueFit:
    """Solve for residues block by block, and keep what they tell.

    solve : from curves (T, B) to residues (B, L): times 0 .. and, last, those before 0. L = T for
    Toeplitz, more for circulant methods: 2T or the ``rows_needed``.
    """
    n, v = curves.shape
    early = _early_frames(n, interval_s, options)
    area = np.float32(np.sum(aif, dtype=float))
    flow, volume, delay, tmax = np.empty((4, v), np.float32)
    for start in range(0, v, BLOCK):
        block = slice(start, min(start + BLOCK, v))
        residues = solve(curves[:, block])
        _measure(
            residues, n, early if residues.shape[1] > n else 0, np.float32(interval_s),
            flow[block], tmax[block], delay[block],
        )  # fmt: skip
        _total(curves[:, block], area, volume[block])
    return ResidueFit(flow, volume, delay, tmax)


def project(curves: FloatArray, matrix: FloatArray) -> FloatArray:
    """curves.T @ matrix: (T, B), (T, L) -> (B, L).

    In the threads of the other kernels: the threads of a BLAS would wake and sleep at every
    block, and fight with them for the cores (10 x slower beside other work, measured).
    """
    out = np.empty((curves.shape[1], matrix.shape[1]), np.float32)
    _project(curves, np.ascontiguousarray(matrix, np.float32), out)
    return out


@numba.njit(parallel=True, cache=True, fastmath=True)
def _project(curves, matrix, out):
    chunk = 64
    n, length = matrix.shape
    v = curves.shape[1]
    for c in numba.prange((v + chunk - 1) // chunk):
        first = c * chunk
        end = min(first + chunk, v)
        rows = np.zeros((chunk, (n + 3) // 4 * 4), np.float32)
        for t in range(n):
            for i in range(end - first):
                rows[i, t] = curves[t, first + i]
        sums = np.empty((4, length), np.float32)
        for i in range(0, end - first, 4):
            _four_rows(rows[i : i + 4], matrix, sums)
            out[first + i : min(first + i + 4, end)] = sums[: end - first - i]


@numba.njit(cache=True, fastmath=True)
def _four_rows(rows, matrix, sums):
    """rows (4, n) @ matrix (n, L), in tiles of 4 x 4 numbers held in registers."""
    n, length = matrix.shape
    sums[:] = np.float32(0.0)
    s0, s1, s2, s3 = sums[0], sums[1], sums[2], sums[3]
    for t in range(0, n, 4):
        # Past the last row of the matrix the rows are 0.
        m0, m1 = matrix[t], matrix[min(t + 1, n - 1)]
        m2, m3 = matrix[min(t + 2, n - 1)], matrix[min(t + 3, n - 1)]
        a0, a1, a2, a3 = rows[0, t], rows[0, t + 1], rows[0, t + 2], rows[0, t + 3]
        b0, b1, b2, b3 = rows[1, t], rows[1, t + 1], rows[1, t + 2], rows[1, t + 3]
        c0, c1, c2, c3 = rows[2, t], rows[2, t + 1], rows[2, t + 2], rows[2, t + 3]
        d0, d1, d2, d3 = rows[3, t], rows[3, t + 1], rows[3, t + 2], rows[3, t + 3]
        for k in range(length):
            x0, x1, x2, x3 = m0[k], m1[k], m2[k], m3[k]
            s0[k] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
            s1[k] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
            s2[k] += c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3
            s3[k] += d0 * x0 + d1 * x1 + d2 * x2 + d3 * x3


@numba.njit(parallel=True, cache=True, fastmath=True)
def _total(curves, area, out):
    for c in numba.prange((curves.shape[1] + 255) // 256):
        part = out[c * 256 : (c + 1) * 256]
        part[:] = np.float32(0.0)
        for t in range(curves.shape[0]):
            for i in range(len(part)):
                part[i] += curves[t, c * 256 + i]
        part /= area


@numba.njit(parallel=True, cache=True, fastmath=True)
def _measure(residues, n_frames, early, interval, flow, tmax, delay):
    """Height and time of the maximum (parabola), and the half-height on the way up.

    residues : (B, L). Regularisation smooths the step at the arrival symmetrically, so that the
    half-height of the flank marks the delay.
    """
    length = residues.shape[1]
    for i in numba.prange(residues.shape[0]):
        row = residues[i]
        best = row[0]
        for t in range(n_frames):
            best = max(best, row[t])
        for t in range(length - early, length):
            best = max(best, row[t])
        top = -early
        while row[top % length] < best:
            top += 1
        a = row[(top - 1) % length]
        c = row[(top + 1) % length]
        bend = a - 2 * best + c
        offset = np.float32(0.0)
        if bend < 0 and top > -early and top < n_frames - 1:
            offset = np.float32(0.5) * (a - c) / bend
        flow[i] = max(best - np.float32(0.25) * (a - c) * offset, np.float32(0.0))
        tmax[i] = (top + offset) * interval
        half = np.float32(0.5) * best
        t = top
        while t > -early and row[(t - 1) % length] > half:
            t -= 1
        low = row[(t - 1) % length]
        high = row[t % length]
        share = (half - low) / (high - low) if high > low else np.float32(1.0)
        delay[i] = (t - 1 + min(max(share, np.float32(0.0)), np.float32(1.0))) * interval


@numba.njit(parallel=True, cache=True)
def _most_detailed(coefficients, parts, counts, limit, residues):
    """The residue of each voxel at the smallest threshold that keeps it calm.

    coefficients : (B, K), projections on singular vectors, from the largest value down.
    parts : (K, L), what a unit of each adds to the residue. counts : (N,) rising, how many each
    level adds up. residues : (B, L), zeros; filled.
    Bisection; a level is built on the largest calm one below it, so that nothing is taken back.
    """
    n, length = residues.shape
    chunk = 64
    for c in numba.prange((n + chunk - 1) // chunk):
        trial = np.empty(length, np.float32)
        for i in range(c * chunk, min((c + 1) * chunk, n)):
            calm = residues[i]
            _add(calm, coefficients[i], parts, 0, counts[0])
            low, high = 0, len(counts) - 1
            while low < high:
                middle = (low + high + 1) // 2
                trial[:] = calm
                _add(trial, coefficients[i], parts, counts[low], counts[middle])
                if _oscillation(trial) < limit:
                    low = middle
                    calm[:] = trial
                else:
                    high = middle - 1


@numba.njit(cache=True, fastmath=True)
def _add(residue, coefficients, parts, first, end):
    """Add parts first .. end - 1; four at a time, to load and store the residue less often."""
    k = first
    while k + 4 <= end:
        a, b = coefficients[k], coefficients[k + 1]
        c, d = coefficients[k + 2], coefficients[k + 3]
        for t in range(len(residue)):
            residue[t] += (a * parts[k, t] + b * parts[k + 1, t]) + (
                c * parts[k + 2, t] + d * parts[k + 3, t]
            )
        k += 4
    while k < end:
        a = coefficients[k]
        for t in range(len(residue)):
            residue[t] += a * parts[k, t]
        k += 1


@numba.njit(cache=True, fastmath=True)
def _oscillation(row):
    total = np.float32(0.0)
    best = row[0]
    for t in range(len(row)):
        best = max(best, row[t])
    for t in range(1, len(row) - 1):
        total += abs(row[t - 1] - np.float32(2.0) * row[t] + row[t + 1])
    return total / (np.float32(len(row)) * best) if best > 0 else np.float32(1e9)
