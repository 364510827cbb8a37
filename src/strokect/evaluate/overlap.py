"""How far two masks agree."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from strokect.core.errors import GeometryError
from strokect.core.types import BoolArray, FloatArray, Grid


def dice(a: BoolArray, b: BoolArray) -> float:
    """Dice coefficient, 2 |a and b| / (|a| + |b|) [1]_.

    a, b : masks of one shape; non-zero is inside. Two empty masks agree: 1.0.
    Raises GeometryError where the shapes differ.

    .. [1] Dice LR, Ecology 1945;26:297-302.
    """
    first, second = np.asarray(a) != 0, np.asarray(b) != 0
    if first.shape != second.shape:
        raise GeometryError(
            f"masks of shapes {first.shape} and {second.shape} cannot be compared",
            fix="Resample one onto the other",
        )
    both = np.count_nonzero(first) + np.count_nonzero(second)
    return float(2.0 * np.count_nonzero(first & second) / both) if both else 1.0


def hd95_mm(a: BoolArray, b: BoolArray, grid: Grid) -> float:
    """95th percentile Hausdorff distance of two masks (Z, Y, X), mm; NaN where one is empty.

    The greater of the two directed 95th percentiles, over voxel centres of the surfaces
    (face-connected), in world coordinates, so that it holds on a sheared grid too.
    Raises GeometryError where the shapes differ.

    .. [1] Huttenlocher DP et al., IEEE TPAMI 1993;15:850-863.
    """
    if np.shape(a) != np.shape(b):
        raise GeometryError(
            f"masks of shapes {np.shape(a)} and {np.shape(b)} cannot be compared",
            fix="Resample one onto the other",
        )
    first, second = (_surface_mm(np.asarray(m) != 0, grid) for m in (a, b))
    if not len(first) or not len(second):
        return float("nan")
    there, _ = KDTree(second).query(first)
    back, _ = KDTree(first).query(second)
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _surface_mm(mask: BoolArray, grid: Grid) -> FloatArray:
    """Positions (N, 3) of the voxels of a mask that have a face outside it, mm."""
    inner = ndimage.binary_erosion(mask, border_value=0)
    index = np.argwhere(mask & ~inner)[:, ::-1]  # x, y, z
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
