"""Structural similarity of two maps within a mask."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from strokect.core.errors import GeometryError, SettingsError
from strokect.core.types import BoolArray, FloatArray

_SIGMA = 1.5  # voxels
_RADIUS = 5  # voxels: a window of 11 x 11
_K1, _K2 = 0.01, 0.03


def ssim_map(found: FloatArray, true: FloatArray, inside: BoolArray, span: float) -> FloatArray:
    """Structural similarity of every voxel in a mask, slice by slice [1]_.

    found, true : (Z, Y, X), one unit. inside : (Z, Y, X). span : the range of values that counts
    as full (L in [1]_), in that unit; nothing is clipped to it.
    Gaussian windows of 11 x 11 voxels, SD 1.5, K1 = 0.01, K2 = 0.03. A window's weights are set to
    0 outside the mask and the rest brought to a sum of 1: what lies outside (NaN, 0, bone) does
    not count, and neither does the edge of the image. In a full mask away from the edges it is
    [1]_ as it stands.

    Returns (Z, Y, X) float64, NaN outside the mask.
    Raises GeometryError for unequal shapes, SettingsError for a span that is not positive.

    .. [1] Wang Z et al., IEEE Trans Image Process 2004;13:600-612.
    """
    mask = np.asarray(inside) != 0
    if mask.ndim != 3 or not np.shape(found) == np.shape(true) == mask.shape:
        raise GeometryError(
            f"maps of shapes {np.shape(found)} and {np.shape(true)}, mask {mask.shape}",
            fix="Give all three on one grid (Z, Y, X)",
        )
    if not 0 < span < np.inf:
        raise SettingsError(f"a span of {span} for the similarity", fix="Give a positive one")
    x, y = (np.where(mask, values, 0.0).astype(float) for values in (found, true))
    weight = np.maximum(_blurred(mask.astype(float)), 1e-300)  # not 0 where the mask is near

    def local(values: FloatArray) -> FloatArray:
        out: FloatArray = _blurred(values) / weight
        return out

    mean_x, mean_y = local(x), local(y)
    var_x, var_y = (np.maximum(local(v * v) - m**2, 0) for v, m in ((x, mean_x), (y, mean_y)))
    shared = local(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * span) ** 2, (_K2 * span) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * shared + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    out: FloatArray = np.where(mask, similarity, np.nan)
    return out


def ssim(found: FloatArray, true: FloatArray, inside: BoolArray, span: float) -> float:
    """Mean of ``ssim_map`` over the mask; NaN for an empty one. Arguments and errors as there."""
    values = ssim_map(found, true, inside, span)[np.asarray(inside) != 0]
    return float(values.mean()) if values.size else float("nan")


def _blurred(values: FloatArray) -> FloatArray:
    out: FloatArray = ndimage.gaussian_filter(
        values, (0, _SIGMA, _SIGMA), mode="constant", radius=(0, _RADIUS, _RADIUS)
    )
    return out
