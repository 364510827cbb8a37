"""Denoising of dynamic scans within a mask, so that skull and air do not bleed into tissue.

Each denoiser is ``f(data_hu, mask, grid, options) -> data_hu`` on (T, Z, Y, X) float32; voxels
outside the mask are returned as they came. Widths are in mm, strengths in HU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from scipy import ndimage

from strokect.core.geometry import smoothing_sigma_voxels
from strokect.core.types import BoolArray, FloatArray, Grid


@dataclass(frozen=True)
class DenoiseOptions:
    """sigma_mm : spatial width. range_hu : difference of profiles that still counts as alike
    (bilateral, tips)."""

    sigma_mm: float = 2.5
    range_hu: float = 20.0


def none(data_hu: FloatArray, mask: BoolArray, grid: Grid, options: DenoiseOptions) -> FloatArray:
    """Return the data as they are."""
    return data_hu


def gaussian(
    data_hu: FloatArray, mask: BoolArray, grid: Grid, options: DenoiseOptions
) -> FloatArray:
    """In-plane Gaussian, normalised within the mask."""
    sigma = smoothing_sigma_voxels(grid, options.sigma_mm, in_plane=True)
    weight = np.maximum(ndimage.gaussian_filter(mask.astype(np.float32), sigma), 1e-6)
    out = np.empty_like(data_hu)
    for t, frame in enumerate(data_hu):
        smooth = ndimage.gaussian_filter(np.where(mask, frame, 0.0).astype(np.float32), sigma)
        out[t] = np.where(mask, smooth / weight, frame)
    return out


def bilateral(
    data_hu: FloatArray, mask: BoolArray, grid: Grid, options: DenoiseOptions
) -> FloatArray:
    """Bilateral filter per frame, in plane, within the mask (Tomasi 1998, ICCV p. 839)."""
    offsets, weights = _neighbourhood(grid, options.sigma_mm)
    scale = np.float32(-0.5 / options.range_hu**2)
    out = data_hu.copy()
    _bilateral(data_hu, mask, offsets, weights, scale, out)
    return out


def _neighbourhood(grid: Grid, sigma_mm: float) -> tuple[FloatArray, FloatArray]:
    """In-plane offsets (N, 2) within 2.5 sigma and their Gaussian weights (N,)."""
    _, dy, dx = grid.spacing_mm
    radius = 2.5 * sigma_mm
    hy, hx = int(radius / dy), int(radius / dx)
    y, x = np.mgrid[-hy : hy + 1, -hx : hx + 1]
    distance2 = (y * dy) ** 2 + (x * dx) ** 2
    near = distance2 <= radius**2
    offsets = np.stack([y[near], x[near]], axis=1).astype(np.int64)
    return offsets, np.exp(-0.5 * distance2[near] / sigma_mm**2).astype(np.float32)


@numba.njit(parallel=True, cache=True, fastmath=True)
def _bilateral(data, mask, offsets, weights, scale, out):
    n_t, n_z, n_y, n_x = data.shape
    for row in numba.prange(n_t * n_z):
        t, z = row // n_z, row % n_z
        for y in range(n_y):
            for x in range(n_x):
                if not mask[z, y, x]:
                    continue
                centre = data[t, z, y, x]
                total, norm = np.float32(0.0), np.float32(0.0)
                for k in range(len(weights)):
                    j, i = y + offsets[k, 0], x + offsets[k, 1]
                    if j < 0 or j >= n_y or i < 0 or i >= n_x or not mask[z, j, i]:
                        continue
                    value = data[t, z, j, i]
                    w = weights[k] * np.exp(scale * (value - centre) ** 2)
                    total += w * value
                    norm += w
                out[t, z, y, x] = total / norm
