"""Non-linear regression of a box-shaped residue: flow, mean transit time and delay of each voxel.

With a box residue the tissue curve is flow * [A1(t - delay) - A1(t - delay - MTT)], A1 the running
integral of the arterial curve (Bennink 2016, J Med Imaging 3:026003). Flow and the baseline enter
linearly and are solved exactly at every step (variable projection); Levenberg-Marquardt moves the
other two from the best point of a coarse grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from scipy.interpolate import CubicSpline

from strokect.core.types import FloatArray
from strokect.perfusion.deconvolution import ResidueFit, check_aif, project

#: Voxels at a time: their scores over the coarse grid stay in the cache.
BLOCK = 2048
#: Arterial samples per frame; linear between them.
PHASES = 16
#: Steps below this (s of delay, log of MTT) end the search.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class NlrOptions:
    """Bounds of the fit, and its search.

    mtt_s, delay_s : bounds. n_mtt, delay_step_s : coarse grid of starting points, geometric in
    MTT. iterations : at most so many steps of Levenberg-Marquardt.
    """

    mtt_s: tuple[float, float] = (0.5, 40.0)
    delay_s: tuple[float, float] = (-5.0, 15.0)
    n_mtt: int = 12
    delay_step_s: float = 1.0
    iterations: int = 15


@dataclass(frozen=True, eq=False)
class Artery:
    """Arterial curve and its running integral, cubic between samples, 0 before the scan.

    After the scan the curve stays at its last value. interval_s : of the samples.
    """

    curve: CubicSpline
    integral: CubicSpline
    end_s: float

    @classmethod
    def of(cls, aif: FloatArray, interval_s: float) -> Artery:
        """aif : (T,). Raises CurveError where it is empty."""
        check_aif(aif)
        curve = CubicSpline(np.arange(len(aif)) * interval_s, np.asarray(aif, float))
        return cls(curve, curve.antiderivative(), (len(aif) - 1) * interval_s)

    def at(self, time_s: FloatArray) -> FloatArray:
        """HU; any shape."""
        return np.where(time_s < 0, 0.0, self.curve(np.clip(time_s, 0.0, self.end_s)))

    def area_until(self, time_s: FloatArray) -> FloatArray:
        """Integral from 0, HU s; any shape."""
        beyond = np.maximum(time_s - self.end_s, 0.0) * self.curve(self.end_s)
        return self.integral(np.clip(time_s, 0.0, self.end_s)) + beyond

    def box_response(
        self, time_s: FloatArray, mtt_s: FloatArray, delay_s: FloatArray
    ) -> FloatArray:
        """Tissue curve of unit flow with a box residue, HU s; arguments broadcast."""
        after = time_s - delay_s
        return self.area_until(after) - self.area_until(after - mtt_s)


def nlr(curves: FloatArray, aif: FloatArray, interval_s: float, options: NlrOptions) -> ResidueFit:
    """Least-squares fit of a box residue, delay-insensitive [1]_.

    curves : (T, V) float32, HU, any baseline. aif : (T,) HU above baseline.
    interval_s : sampling interval, s; uniform. Raises CurveError where the AIF is empty.
    Tmax is delay + MTT / 2, the middle of the transit. Where nothing follows the artery, all is 0.

    .. [1] Bennink E et al., J Med Imaging 2016;3:026003.
    """
    n, v = curves.shape
    artery = Artery.of(aif, interval_s)
    mtts = np.geomspace(*options.mtt_s, options.n_mtt)
    delays = np.arange(options.delay_s[0], options.delay_s[1] + 1e-6, options.delay_step_s)
    mtt, delay = (grid.ravel() for grid in np.meshgrid(mtts, delays))
    atoms = artery.box_response(np.arange(n)[:, None] * interval_s, mtt, delay)  # (T, K)
    atoms -= atoms.mean(axis=0)
    atoms = (atoms / np.maximum(np.linalg.norm(atoms, axis=0), 1e-9)).astype(np.float32)
    starts = np.stack([delay, np.log(mtt)]).astype(np.float32)
    bounds = np.array([options.delay_s, np.log(options.mtt_s)], np.float32)
    early = int(np.ceil(max(-options.delay_s[0], 0.0) / interval_s))
    tables = _edge_tables(artery, n, early, interval_s)
    out = np.empty((3, v), np.float32)
    for first in range(0, v, BLOCK):
        block = slice(first, min(first + BLOCK, v))
        centred = curves[:, block] - curves[:, block].mean(axis=0)  # else float32 runs short
        _fit(
            np.ascontiguousarray(centred.T), project(centred, atoms), starts, bounds, tables,
            np.float32(interval_s), early, options.iterations, out[:, block],
        )  # fmt: skip
    flow, transit, lag = out
    return ResidueFit(flow, flow * transit, lag, lag + transit / 2)


def _edge_tables(artery: Artery, n: int, early: int, interval_s: float) -> FloatArray:
    """(2, PHASES + 1, W): curve and integral at each phase between frames -n-1 .. n + early.

    A row holds one phase at every frame, so that the samples of a shifted curve lie together.
    """
    frames = np.arange(-n - 1, n + early + 1)
    time = (frames + np.arange(PHASES + 1)[:, None] / PHASES) * interval_s
    return np.stack([artery.at(time), artery.area_until(time)]).astype(np.float32)


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _fit(curves, scores, starts, bounds, tables, interval, early, iterations, out):
    """Flow, MTT and delay, rows of out (3, B), from curves (B, T) and scores (B, K)."""
    for i in numba.prange(curves.shape[0]):
        k = np.argmax(scores[i])
        if not scores[i, k] > 0:
            out[:, i] = np.float32(0.0)
            continue
        out[0, i], log_mtt, out[2, i] = _search(
            curves[i], starts[0, k], starts[1, k], bounds, tables, interval, early, iterations
        )
        out[1, i] = np.exp(log_mtt)


@numba.njit(cache=True, error_model="numpy")
def _search(curve, delay, log_mtt, bounds, tables, interval, early, iterations):
    """Levenberg-Marquardt on (delay, log MTT). The fit is (y.g)^2 / (g.g), to be made largest."""
    now = _products(curve, delay, log_mtt, tables, interval, early)
    damping = 1e-2
    for _ in range(iterations):
        step_d, step_m = _step(now, damping, delay, log_mtt, bounds)
        if abs(step_d) < TOLERANCE and abs(step_m) < TOLERANCE:
            break
        new_d, new_m = np.float32(delay + step_d), np.float32(log_mtt + step_m)
        new = _products(curve, new_d, new_m, tables, interval, early)
        if new[0] > 0 and new[0] ** 2 * now[3] > now[0] ** 2 * new[3]:
            now, delay, log_mtt = new, new_d, new_m
            damping *= 0.2
        else:
            damping *= 10.0
    return max(now[0] / now[3], 0.0), log_mtt, delay


@numba.njit(cache=True, error_model="numpy")
def _step(products, damping, delay, log_mtt, bounds):
    """Gauss-Newton step, damped, inside the bounds; flow is projected out of the derivatives."""
    yg, yb, yc, gg, gb, gc, bb, bc, cc = products
    flow = yg / gg
    slope_d, slope_m = flow * (yb - flow * gb), flow * (yc - flow * gc)
    h_dd = flow * flow * (bb - gb * gb / gg) * (1 + damping) + 1e-12
    h_mm = flow * flow * (cc - gc * gc / gg) * (1 + damping) + 1e-12
    h_dm = flow * flow * (bc - gb * gc / gg)
    det = h_dd * h_mm - h_dm * h_dm
    if not det > 0:
        return 0.0, 0.0
    low_d, high_d = bounds[0, 0] - delay, bounds[0, 1] - delay
    low_m, high_m = bounds[1, 0] - log_mtt, bounds[1, 1] - log_mtt
    step_d = (slope_d * h_mm - slope_m * h_dm) / det
    step_m = (slope_m * h_dd - slope_d * h_dm) / det
    if step_m < low_m or step_m > high_m:  # on the bound, the best delay for it
        step_m = min(max(step_m, low_m), high_m)
        step_d = (slope_d - h_dm * step_m) / h_dd
    if step_d < low_d or step_d > high_d:
        step_d = min(max(step_d, low_d), high_d)
        step_m = min(max((slope_m - h_dm * step_d) / h_mm, low_m), high_m)
    return step_d, step_m


@numba.njit(cache=True, error_model="numpy", fastmath=True)
def _products(curve, delay, log_mtt, tables, interval, early):
    """Inner products of the curve y, the response g and its derivatives b (by delay) and c (by
    log MTT), all about their means: yg yb yc gg gb gc bb bc cc."""
    n = len(curve)
    mtt = np.exp(log_mtt)
    row, first, share = _locate(delay, n, interval, early)
    curve_1, next_1, area_1 = tables[0, row], tables[0, row + 1], tables[1, row]
    in_1 = np.float32(0.5 / PHASES) * share * interval
    row, second, share_2 = _locate(delay + mtt, n, interval, early)
    curve_2, next_2, area_2 = tables[0, row], tables[0, row + 1], tables[1, row]
    in_2 = np.float32(0.5 / PHASES) * share_2 * interval
    zero = np.float32(0.0)
    y, g, b, c, yg, yb, yc = zero, zero, zero, zero, zero, zero, zero
    gg, gb, gc, bb, bc, cc = zero, zero, zero, zero, zero, zero
    for t in range(n):
        p, q = curve_1[first + t], curve_2[second + t]
        at_1 = p + (next_1[first + t] - p) * share
        at_2 = q + (next_2[second + t] - q) * share_2
        g_t = area_1[first + t] + in_1 * (p + at_1) - area_2[second + t] - in_2 * (q + at_2)
        b_t = at_2 - at_1
        c_t = mtt * at_2
        y_t = curve[t]
        y += y_t
        g += g_t
        b += b_t
        c += c_t
        yg += y_t * g_t
        yb += y_t * b_t
        yc += y_t * c_t
        gg += g_t * g_t
        gb += g_t * b_t
        gc += g_t * c_t
        bb += b_t * b_t
        bc += b_t * c_t
        cc += c_t * c_t
    m = 1.0 / n
    return (
        yg - m * y * g, yb - m * y * b, yc - m * y * c, gg - m * g * g, gb - m * g * b,
        gc - m * g * c, bb - m * b * b, bc - m * b * c, cc - m * c * c,
    )  # fmt: skip


@numba.njit(cache=True)
def _locate(shift, n, interval, early):
    """Row and column of the tables for frame 0 moved by ``shift`` s, and the share of the next
    row."""
    frames = min(max(shift / interval, np.float32(-early)), np.float32(n))
    whole = int(np.floor(frames))
    phase = (np.float32(1.0) - (frames - np.float32(whole))) * np.float32(PHASES)
    row = min(int(phase), PHASES - 1)
    return row, n - whole, phase - np.float32(row)
