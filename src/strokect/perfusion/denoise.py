"""Denoising of dynamic scans within a mask, so that skull and air do not bleed into tissue.

Each denoiser is ``f(curves, mask, grid, options) -> curves``: curves (T, V) float32, HU, of the
voxels in ``mask`` (Z, Y, X), in its order, on simultaneous times; the input is kept. What lies
outside the mask is never seen, and needs no memory. Widths are in mm, strengths in HU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from scipy import ndimage

from strokect.core.geometry import smoothing_sigma_voxels
from strokect.core.types import BoolArray, FloatArray, Grid
from strokect.perfusion.curves import noise_sd

#: Neighbours averaged at most.
MAX_NEIGHBOURS = 1500
#: Least energy of a component that holds noise, as a share of that of one that surely does.
HELD_SHARE = 0.25


@dataclass(frozen=True)
class DenoiseOptions:
    """sigma_mm : spatial width (gaussian, bilateral, tips). range_hu : difference of attenuation
    that still counts as alike (bilateral); profile_hu : the same for whole profiles, as a root
    mean square above the noise (tips).

    nonlocal: window_mm, window_z_mm : spatial widths in plane and across slices; radius_mm : reach.
    alike_hu : difference of mean attenuation that counts as alike. alike_noise : difference of
    bolus features that does, in units of their noise. features : how many of them. presmooth_mm :
    width at which features are compared first. passes : each compares by the result of the last.
    """

    sigma_mm: float = 2.0
    range_hu: float = 20.0
    profile_hu: float = 3.0
    window_mm: float = 3.5
    window_z_mm: float = 5.0
    radius_mm: float = 8.0
    alike_hu: float = 4.0
    alike_noise: float = 2.0
    features: int = 4
    presmooth_mm: float = 1.5
    passes: int = 2


def none(curves: FloatArray, mask: BoolArray, grid: Grid, options: DenoiseOptions) -> FloatArray:
    """Return the curves as they are."""
    return curves


def gaussian(
    curves: FloatArray, mask: BoolArray, grid: Grid, options: DenoiseOptions
) -> FloatArray:
    """In-plane Gaussian, normalised within the mask."""
    sigma = smoothing_sigma_voxels(grid, options.sigma_mm, in_plane=True)
    smooth = _masked_gaussian(mask, sigma)
    out = np.empty(curves.shape, np.float32)
    for t, frame in enumerate(curves):
        out[t] = smooth(frame)
    return out


def bilateral(
    curves: FloatArray, mask: BoolArray, grid: Grid, options: DenoiseOptions
) -> FloatArray:
    """Bilateral filter per frame, in plane, within the mask (Tomasi 1998, ICCV p. 839)."""
    offsets, weights = _window(grid, options.sigma_mm, 1.0, 2.5 * options.sigma_mm)
    flat = offsets[:, 0] == 0
    offsets, weights = offsets[flat, 1:], weights[flat]
    scale = np.float32(-0.5 / options.range_hu**2)
    image, smooth = np.zeros((2, *mask.shape), np.float32)
    out = np.empty(curves.shape, np.float32)
    for t, frame in enumerate(curves):
        image[mask] = frame
        _bilateral(image, mask, offsets, weights, scale, smooth)
        out[t] = smooth[mask]
    return out


def tips(curves: FloatArray, mask: BoolArray, grid: Grid, options: DenoiseOptions) -> FloatArray:
    """Time-intensity-profile similarity filter (Mendrik 2011, Phys Med Biol 56:3857), in 4D.

    A neighbour weighs by its distance and by the mean squared difference of the two profiles, less
    what noise alone makes of it.
    """
    window = _window(grid, options.sigma_mm, options.sigma_mm, 2.5 * options.sigma_mm)
    n, noise = len(curves), float(np.median(noise_sd(curves)))
    features = np.array(curves.T, np.float32, order="C")
    features /= np.float32(options.profile_hu * np.sqrt(n))
    free = 2 * noise**2 / options.profile_hu**2
    return _average(curves, mask, features, window, free)


def nonlocal_means(
    curves: FloatArray, mask: BoolArray, grid: Grid, options: DenoiseOptions
) -> FloatArray:
    """Average of voxels around that look alike in mean attenuation and in bolus shape.

    Comparing whole profiles compares mostly noise. Here a voxel is its temporal mean, which tells
    grey from white matter, and its share of the leading principal components of the brain's
    curves, which hold the bolus (as in guided or joint non-local means; Buades 2005, CVPR 2:60).
    Profiles are averaged in full, so that their noise stays white and can be measured.
    """
    window = _window(grid, options.window_mm, options.window_z_mm, options.radius_mm)
    sigma = smoothing_sigma_voxels(grid, options.presmooth_mm, in_plane=True)
    guide = _features(curves, _masked_gaussian(mask, sigma), options)
    out = _average(curves, mask, guide, window, 0.0)
    for _ in range(options.passes - 1):
        # The average shows borders that the noise hid: average the raw profiles again by it.
        guide = _features(out, lambda values: values, options)
        del out  # a large part of a scan
        out = _average(curves, mask, guide, window, 0.0)
    return out


def _features(
    profiles: FloatArray, smooth: Callable[[FloatArray], FloatArray], options: DenoiseOptions
) -> FloatArray:
    """What voxels are compared by, (V, F), scaled so that alike means within 1."""
    mean = profiles.mean(axis=0)
    curves = profiles - mean
    some = curves[:, :: max(1, curves.shape[1] // 30_000)]
    energy, vectors = np.linalg.eigh((some @ some.T).astype(float))
    energy, components = energy[::-1], vectors[:, ::-1].astype(np.float32)
    # A late component holds noise only: its spread after smoothing is the noise of all of them.
    # Curves interpolated between their samples have fewer components than points and the rest
    # nearly empty: late among those that hold noise, and the one that the mean took.
    n_held = 1 + np.count_nonzero(energy > HELD_SHARE * energy[len(energy) // 4])
    only_noise = smooth(components[:, n_held // 2] @ curves)
    spread = 1.4826 * float(np.median(np.abs(only_noise))) * np.sqrt(2.0) * options.alike_noise
    spread = max(spread, 1e-3)  # a scan without noise
    features = [smooth(mean) / options.alike_hu]
    for k in range(min(options.features, len(components) // 3)):
        features.append(smooth(components[:, k] @ curves) / spread)
    return np.stack(features, axis=1)


def _masked_gaussian(
    mask: BoolArray, sigma: tuple[float, ...]
) -> Callable[[FloatArray], FloatArray]:
    """Gaussian of values (V,) within the mask, normalised."""
    weight = np.maximum(ndimage.gaussian_filter(mask.astype(np.float32), sigma), 1e-3)[mask]

    def smooth(values: FloatArray) -> FloatArray:
        image = np.zeros(mask.shape, np.float32)
        image[mask] = values
        return ndimage.gaussian_filter(image, sigma)[mask] / weight

    return smooth


def _window(
    grid: Grid, sigma_mm: float, sigma_z_mm: float, radius_mm: float
) -> tuple[FloatArray, FloatArray]:
    """Offsets (N, 3) in voxels within a radius, and their Gaussian weights (N,)."""
    spacing = np.array(grid.spacing_mm)
    half = (radius_mm / spacing).astype(np.int64)
    offsets = np.indices(tuple(2 * half + 1)).reshape(3, -1).T - half
    mm2 = (offsets * spacing) ** 2
    near = np.flatnonzero(mm2.sum(axis=1) <= radius_mm**2)
    # Small voxels would make the cost grow without bound: evenly chosen neighbours say the same.
    near = near[:: max(1, near.size // MAX_NEIGHBOURS)]
    exponent = mm2[near] @ np.array([sigma_z_mm, sigma_mm, sigma_mm]) ** -2.0
    return offsets[near], np.exp(-0.5 * exponent).astype(np.float32)


def _average(
    curves: FloatArray,
    mask: BoolArray,
    features: FloatArray,
    window: tuple[FloatArray, FloatArray],
    free: float,
) -> FloatArray:
    """Weighted means of curves (T, V) by distance and by features (V, F)."""
    number = np.full(mask.shape, -1, np.int32)
    number[mask] = np.arange(curves.shape[1], dtype=np.int32)
    result = np.empty(curves.shape[::-1], np.float32)
    _weighted_means(
        number, np.argwhere(mask).astype(np.int32), np.ascontiguousarray(features, np.float32),
        np.ascontiguousarray(curves.T), *window, np.float32(free), result,
    )  # fmt: skip
    return result.T


@numba.njit(parallel=True, cache=True, fastmath=True)
def _weighted_means(number, position, features, profiles, offsets, spatial, free, out):
    n_features, n_times = features.shape[1], profiles.shape[1]
    n_z, n_y, n_x = number.shape
    for i in numba.prange(len(position)):
        total = np.zeros(n_times, np.float32)
        norm = np.float32(0.0)
        for k in range(len(spatial)):
            z = position[i, 0] + offsets[k, 0]
            y = position[i, 1] + offsets[k, 1]
            x = position[i, 2] + offsets[k, 2]
            if z < 0 or z >= n_z or y < 0 or y >= n_y or x < 0 or x >= n_x:
                continue
            j = number[z, y, x]
            if j < 0:
                continue
            distance = np.float32(0.0)
            for f in range(n_features):
                difference = features[i, f] - features[j, f]
                distance += difference * difference
            distance = max(distance - free, np.float32(0.0))
            if distance > 20:
                continue
            weight = spatial[k] * np.exp(np.float32(-0.5) * distance)
            norm += weight
            for t in range(n_times):
                total[t] += weight * profiles[j, t]
        for t in range(n_times):
            out[i, t] = total[t] / norm


@numba.njit(parallel=True, cache=True, fastmath=True)
def _bilateral(image, mask, offsets, weights, scale, out):
    """One frame; image, mask and out (Z, Y, X)."""
    n_z, n_y, n_x = image.shape
    for row in numba.prange(n_z * n_y):
        z, y = row // n_y, row % n_y
        for x in range(n_x):
            if not mask[z, y, x]:
                continue
            centre = image[z, y, x]
            total, norm = np.float32(0.0), np.float32(0.0)
            for k in range(len(weights)):
                j, i = y + offsets[k, 0], x + offsets[k, 1]
                if j < 0 or j >= n_y or i < 0 or i >= n_x or not mask[z, j, i]:
                    continue
                value = image[z, j, i]
                w = weights[k] * np.exp(scale * (value - centre) ** 2)
                total += w * value
                norm += w
            out[z, y, x] = total / norm
