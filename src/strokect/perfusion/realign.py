"""Bringing moved frames back to the pose of the frames at rest.

Slices of 5 mm cannot be moved by a fraction of a slice without loss, and the loss at edges of
bone, CSF and vessels is tens of HU: more than tissue enhances. Three steps keep it out of curves:

1. Only the change is resampled. The anatomy (mean of the frames at rest) is carried to the moved
   pose, subtracted there, and what is left is carried back: whatever resampling does to the
   anatomy cancels (iterative back-projection, Irani 1991, CVGIP 53:231, a single step).
2. The same is done to the bolus: its leading components at rest hold the arteries, whose curves
   lose height by resampling otherwise.
3. What remains, as partial volume is not resampling, stays the same while the pose is held: a step
   in time. It is the best linear prediction from each curve, given how curves covary where the
   anatomy is smooth; its size is measured, not assumed, by classes of how rough the anatomy is.
   In vessels it is a gain as well, which only a short excursion lets one tell from the bolus.

Indices of voxels are (x, y, z) where a matrix takes them; arrays are (T, Z, Y, X) float32, HU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokect.core.types import BoolArray, FloatArray

Float64 = npt.NDArray[np.float64]
Frames = npt.NDArray[np.intp]

#: Steps 2 and 3 need poses that are held: more of them can no longer be told from the bolus.
FEW_POSES = 4
#: Components of the bolus, and by how much they stand out of noise.
COMPONENTS, STANDS_OUT = 3, 4.0
#: Frames at rest that step 2 needs.
LEAST_AT_REST = 8
#: Attenuation of soft tissue at rest, HU; vessels within the second range.
SOFT_HU, BLOOD_HU = (0.0, 100.0), (-50.0, 200.0)
#: Classes of roughness: quantiles among soft tissue. The lowest class is the standard.
ROUGHNESS = (0.30, 0.45, 0.60, 0.70, 0.80, 0.88, 0.94, 0.98)
#: A vessel varies in time by this many times the usual; its curve is like no other.
VESSEL = 3.0
#: A pose held for at most this share of the scan is a short excursion.
SHORT = 0.2
#: Voxels that statistics are taken from, at most and at least.
MOST, LEAST = 30_000, 500
#: Error of whole HU, and what keeps a noise-free scan from dividing by 0, HU squared.
LEAST_VARIANCE = 0.1


@dataclass(frozen=True, eq=False)
class Pose:
    """A pose that was held. frames : (N,). index : (4, 4), voxel at rest to voxel in the frame."""

    frames: Frames
    index: Float64


@dataclass(frozen=True, eq=False)
class _Harm:
    """What a pose does to the anatomy. rough : (Z, Y, X), HU. unseen : outside the moved slab."""

    rough: FloatArray
    unseen: BoolArray


def realign(data: FloatArray, at_rest: Frames, poses: Sequence[Pose]) -> FloatArray:
    """The scan (T, Z, Y, X) with the frames of all poses brought back; the rest is copied."""
    out = data.copy()
    anatomy = _weighted_sum(data, at_rest, np.full(len(at_rest), 1.0 / len(at_rest)))
    few = len(poses) <= FEW_POSES
    bolus = _bolus(data, anatomy, at_rest) if few and len(at_rest) >= LEAST_AT_REST else []
    harm = [_bring_back(data, anatomy, bolus, pose, out) for pose in poses]
    if few:
        _remove_steps(out, anatomy, at_rest, poses, harm)
    return out


def resampled(frame: FloatArray, index: FloatArray) -> FloatArray:
    """``frame`` at index @ (x, y, z, 1) by cubic splines; beyond its edge the edge is repeated."""
    coefficients = ndimage.spline_filter(frame, 3, output=np.float32, mode="mirror")
    out = np.empty(frame.shape, np.float32)
    _spline(coefficients, index.astype(np.float32), out)
    return out


def _weighted_sum(data: FloatArray, frames: Frames, weights: FloatArray) -> FloatArray:
    # Frame by frame: a fancy index would copy most of the scan.
    out = np.zeros(data.shape[1:], np.float32)
    for t, w in zip(frames, weights, strict=True):
        out += np.float32(w) * data[t]
    return out


def _bolus(data: FloatArray, anatomy: FloatArray, at_rest: Frames) -> list[FloatArray]:
    """Leading components (Z, Y, X) of enhancement at rest."""
    where = np.flatnonzero((anatomy > BLOOD_HU[0]) & (anatomy < BLOOD_HU[1]))
    if where.size < LEAST:
        return []
    where = where[:: max(1, where.size // MOST)]
    rows = []
    for t in at_rest:
        smooth = ndimage.gaussian_filter(data[t] - anatomy, (0.0, 0.8, 0.8))
        rows.append(smooth.reshape(-1)[where])
    curves = np.stack(rows)
    values, vectors = np.linalg.eigh(_products(curves, curves))
    strong = values > STANDS_OUT * np.median(values)
    chosen = np.flatnonzero(strong)[::-1][:COMPONENTS]
    total = vectors.sum(axis=0)
    return [
        _weighted_sum(data, at_rest, vectors[:, k]) - np.float32(total[k]) * anatomy for k in chosen
    ]


def _bring_back(
    data: FloatArray, anatomy: FloatArray, bolus: list[FloatArray], pose: Pose, out: FloatArray
) -> _Harm:
    """Steps 1 and 2 for the frames of a pose, into ``out``."""
    away = np.linalg.inv(pose.index)
    known = _inside(away, anatomy.shape)  # the rest of a moved frame was never seen at rest
    expected = resampled(anatomy, away)
    moved = [resampled(b, away) for b in bolus]
    lost = [b - resampled(_filled(m, known), pose.index) for b, m in zip(bolus, moved, strict=True)]
    fit = known & (expected > BLOOD_HU[0]) & (expected < BLOOD_HU[1])
    fit[:, 1::2] = fit[:, :, 1::2] = False
    basis = np.stack([m[fit] for m in moved]).astype(float) if moved else np.zeros((0, 0))
    for t in pose.frames:
        change = data[t] - expected
        out[t] = anatomy + resampled(_filled(change, known), pose.index)
        if lost and basis.shape[1] >= LEAST:
            for amount, image in zip(_amounts(basis, change[fit]), lost, strict=True):
                out[t] += np.float32(amount) * image
    rough = resampled(expected, pose.index) - anatomy
    rough = np.sqrt(ndimage.gaussian_filter(rough**2, (0.0, 1.0, 1.0)))
    return _Harm(rough, ~_inside(pose.index, anatomy.shape))


def _amounts(basis: Float64, values: FloatArray) -> Float64:
    """How much of each component (K, N) there is in values (N,), Huber weights at edges."""
    scale = max(4.0 * float(np.median(np.abs(values))), 1.0)
    weighted = basis / np.maximum(np.abs(values) / scale, 1.0)
    normal = _products(weighted, basis)
    ridge = 1e-9 * np.trace(normal) * np.eye(len(basis))
    return np.linalg.solve(normal + ridge, _products(weighted, values[None])[:, 0])


def _inside(index: FloatArray, shape: tuple[int, ...]) -> BoolArray:
    """Whether voxels (Z, Y, X) fall into the slab, which a head leaves through top and bottom."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    at = index[2, 0] * x + index[2, 1] * y + index[2, 2] * z + index[2, 3]
    return (at >= -0.5) & (at <= shape[0] - 0.5)


def _filled(image: FloatArray, known: BoolArray) -> FloatArray:
    """Unknown voxels hold what the nearest known slice does."""
    out = image.copy()
    n = len(image)
    have = known.copy()
    for before, after in ((range(n - 1), range(1, n)), (range(n - 1, 0, -1), range(n - 2, -1, -1))):
        for a, z in zip(before, after, strict=True):
            take = have[a] & ~have[z]
            out[z][take] = out[a][take]
            have[z] |= take
    return out


def _remove_steps(
    out: FloatArray,
    anatomy: FloatArray,
    at_rest: Frames,
    poses: Sequence[Pose],
    harm: Sequence[_Harm],
) -> None:
    """Step 3, in place."""
    soft = (anatomy > SOFT_HU[0]) & (anatomy < SOFT_HU[1])
    groups = [at_rest, *(p.frames for p in poses)]
    vessels = soft & _vessels(out, soft, groups)
    soft &= ~vessels
    grade = _grades(harm, soft)
    standard = _some(out, anatomy, soft & (grade == 0))
    if standard.shape[1] < max(LEAST, 10 * len(out)):
        return
    mean, covariance = _moments(standard)
    standard -= mean
    steps = _step_shapes(len(out), poses, harm)
    found = _unbiased(steps, covariance)
    by_chance = _spread(_products(found, standard.T))
    for g in range(1, int(grade.max()) + 1):
        curves = _some(out, anatomy, soft & (grade == g))
        if curves.shape[1] < LEAST // 2:
            continue
        excess = float(np.mean(_spread(_products(found, (curves - mean).T)) - by_chance))
        if excess <= 0:
            continue
        total = covariance + excess * steps @ steps.T
        predict = (steps, excess * steps.T @ np.linalg.inv(total))
        _subtract_prediction(out, anatomy, soft & (grade == g), predict, mean)
    short = [k for k, p in enumerate(poses) if len(p.frames) <= SHORT * len(out)]
    curves = _some(out, anatomy, vessels)
    if short and curves.shape[1] >= max(LEAST, 10 * len(out)):
        mean, covariance = _moments(curves)
        gains = steps[:, short] * mean / np.abs(mean).max()
        shapes = np.hstack([steps[:, short], gains])
        predict = (shapes, _unbiased(shapes, covariance))
        _subtract_prediction(out, anatomy, vessels, predict, mean)


def _moments(curves: Float64) -> tuple[Float64, Float64]:
    """Mean (T, 1) and covariance (T, T) of curves (T, V)."""
    mean = curves.mean(axis=1, keepdims=True)
    off = curves - mean
    return mean, _products(off, off) / off.shape[1] + LEAST_VARIANCE * np.eye(len(curves))


def _products(a: FloatArray, b: FloatArray) -> Float64:
    """a @ b.T, (K, L), of (K, N) and (L, N): the same bits with any number of BLAS threads."""
    left, right = (np.asarray(m, np.float64) for m in (a, b))
    return np.einsum("kn,ln->kl", left, right, optimize=False)


def _unbiased(shapes: Float64, covariance: Float64) -> Float64:
    """(K, T) that estimates the amounts of shapes (T, K) in a curve; generalised least squares."""
    weighted = np.linalg.solve(covariance, shapes).T
    normal = weighted @ shapes
    # A shape may vanish, as a gain does before the bolus: its amount is then 0.
    return np.linalg.pinv(normal, rcond=1e-9, hermitian=True) @ weighted


def _vessels(out: FloatArray, soft: BoolArray, groups: Sequence[Frames]) -> BoolArray:
    """Voxels that vary within poses far more than tissue does."""
    total = np.zeros(soft.shape, np.float32)
    for frames in groups:
        mean = _weighted_sum(out, frames, np.full(len(frames), 1.0 / len(frames)))
        for t in frames:
            total += (out[t] - mean) ** 2
    usual = float(np.median(total[soft])) if soft.any() else 0.0
    return total > VESSEL**2 * usual


def _grades(harm: Sequence[_Harm], soft: BoolArray) -> npt.NDArray[np.intp]:
    """Class of roughness (Z, Y, X); the last is of voxels that some pose did not see."""
    rough = np.sqrt(np.mean([h.rough**2 for h in harm], axis=0))
    unseen = np.any([h.unseen for h in harm], axis=0)
    seen = soft & ~unseen
    edges = np.quantile(rough[seen], ROUGHNESS) if seen.any() else np.zeros(len(ROUGHNESS))
    return np.where(unseen, len(ROUGHNESS) + 1, np.digitize(rough, edges))


def _step_shapes(n_frames: int, poses: Sequence[Pose], harm: Sequence[_Harm]) -> Float64:
    """(T, poses): each step in time, as high as its pose is harmful (1 the worst)."""
    size = np.array([np.sqrt(np.mean(np.minimum(h.rough, 50.0) ** 2, dtype=float)) for h in harm])
    size = np.maximum(size / max(float(size.max()), 1e-6), 0.05)
    out = np.zeros((n_frames, len(poses)))
    for k, pose in enumerate(poses):
        out[pose.frames, k] = size[k]
    return out


def _some(out: FloatArray, anatomy: FloatArray, where: BoolArray) -> Float64:
    """Change (T, V) since rest, of up to MOST voxels."""
    at = np.flatnonzero(where)
    at = at[:: max(1, at.size // MOST)]
    level = anatomy.reshape(-1)[at]
    return np.stack([frame.reshape(-1)[at] - level for frame in out]).astype(np.float64)


def _spread(values: Float64) -> Float64:
    """Variance of each row; the median keeps out what is not of the crowd."""
    return (1.4826 * np.median(np.abs(values), axis=1)) ** 2


def _subtract_prediction(
    out: FloatArray,
    anatomy: FloatArray,
    where: BoolArray,
    prediction: tuple[Float64, Float64],
    mean: Float64,
) -> None:
    """prediction : shapes (T, K) and what tells their amounts from a curve, (K, T)."""
    shapes, tells = (m.astype(np.float32) for m in prediction)
    middle = mean.astype(np.float32)
    for z in range(len(anatomy)):
        if where[z].any():
            curves = out[:, z, where[z]]
            amounts = _products(tells, (curves - anatomy[z, where[z]] - middle).T)
            for shape, amount in zip(shapes.T, amounts.astype(np.float32), strict=True):
                moved = np.flatnonzero(shape)
                curves[moved] -= shape[moved, None] * amount
            out[:, z, where[z]] = curves


@numba.njit(cache=True, inline="always")
def _weights(u):
    """Cubic B-spline weights of the four samples around a position u in 0..1."""
    sixth, half, two_thirds = np.float32(1 / 6), np.float32(0.5), np.float32(2 / 3)
    v = np.float32(1) - u
    return (
        sixth * v * v * v,
        two_thirds - u * u * (np.float32(1) - half * u),
        two_thirds - v * v * (np.float32(1) - half * v),
        sixth * u * u * u,
    )


@numba.njit(cache=True, inline="always")
def _mirrored(i, n):
    if i < 0:
        i = -i
    if i > n - 1:
        i = 2 * (n - 1) - i
    return max(min(i, n - 1), 0)


@numba.njit(parallel=True, cache=True)
def _spline(c, m, out):
    """out[z, y, x] = spline of coefficients c at m @ (x, y, z, 1), edges repeated."""
    n_z, n_y, n_x = c.shape
    zero = np.float32(0.0)
    for row in numba.prange(n_z * n_y):
        z, y = row // n_y, row % n_y
        for x in range(n_x):
            px = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]
            py = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]
            pz = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
            px = np.float32(min(max(px, zero), np.float32(n_x - 1)))
            py = np.float32(min(max(py, zero), np.float32(n_y - 1)))
            pz = np.float32(min(max(pz, zero), np.float32(n_z - 1)))
            i, j, k = int(px), int(py), int(pz)
            wx = _weights(np.float32(px - i))
            wy = _weights(np.float32(py - j))
            wz = _weights(np.float32(pz - k))
            total = zero
            for a in range(4):
                kz = _mirrored(k - 1 + a, n_z)
                for b in range(4):
                    jy = _mirrored(j - 1 + b, n_y)
                    w = wz[a] * wy[b]
                    if 1 <= i <= n_x - 3:
                        part = (
                            wx[0] * c[kz, jy, i - 1]
                            + wx[1] * c[kz, jy, i]
                            + wx[2] * c[kz, jy, i + 1]
                            + wx[3] * c[kz, jy, i + 2]
                        )
                    else:
                        part = zero
                        for d in range(4):
                            part += wx[d] * c[kz, jy, _mirrored(i - 1 + d, n_x)]
                    total += w * part
            out[z, y, x] = total
