"""How far two masks agree."""

from __future__ import annotations

from dataclasses import dataclass

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
    first, second = _same_shape(a, b)
    both = np.count_nonzero(first) + np.count_nonzero(second)
    return float(2.0 * np.count_nonzero(first & second) / both) if both else 1.0


def precision(found: BoolArray, true: BoolArray) -> float:
    """Share of a found mask that is true; NaN where nothing was found.

    Raises GeometryError where the shapes differ.
    """
    first, second = _same_shape(found, true)
    n = np.count_nonzero(first)
    return float(np.count_nonzero(first & second) / n) if n else float("nan")


def recall(found: BoolArray, true: BoolArray) -> float:
    """Share of a true mask that was found; NaN where there is nothing to find.

    Raises GeometryError where the shapes differ.
    """
    return precision(true, found)


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distances between the surfaces of two masks, mm.

    there, back : (N,) of every surface voxel of the first mask to the nearest one of the second,
    and (M,) the other way; both empty where one of the masks is.
    """

    there: FloatArray
    back: FloatArray

    @property
    def hd95_mm(self) -> float:
        """95th percentile Hausdorff distance: the greater of the two directed ones; or NaN."""
        if not self.there.size:
            return float("nan")
        return float(max(np.percentile(self.there, 95), np.percentile(self.back, 95)))

    @property
    def assd_mm(self) -> float:
        """Average symmetric surface distance: the mean over both surfaces together [1]_; or NaN.

        .. [1] Heimann T et al., IEEE TMI 2009;28:1251-1265.
        """
        if not self.there.size:
            return float("nan")
        return float((self.there.sum() + self.back.sum()) / (self.there.size + self.back.size))


def surface_distances(a: BoolArray, b: BoolArray, grid: Grid) -> SurfaceDistances:
    """Distances between the surfaces of two masks (Z, Y, X) on ``grid``.

    Over voxel centres of the surfaces (voxels with a face outside the mask), in world
    coordinates, so that it holds on a sheared grid too.
    Raises GeometryError where the shapes differ.
    """
    first, second = (_surface_mm(m, grid) for m in _same_shape(a, b))
    if not len(first) or not len(second):
        return SurfaceDistances(np.empty(0), np.empty(0))
    there, _ = KDTree(second).query(first)
    back, _ = KDTree(first).query(second)
    return SurfaceDistances(there, back)


def hd95_mm(a: BoolArray, b: BoolArray, grid: Grid) -> float:
    """95th percentile Hausdorff distance of two masks (Z, Y, X), mm [1]_; NaN where one is empty.

    The greater of the two directed 95th percentiles; see ``surface_distances``.
    Raises GeometryError where the shapes differ.

    .. [1] Huttenlocher DP et al., IEEE TPAMI 1993;15:850-863.
    """
    return surface_distances(a, b, grid).hd95_mm


def assd_mm(a: BoolArray, b: BoolArray, grid: Grid) -> float:
    """Average symmetric surface distance of two masks (Z, Y, X), mm; NaN where one is empty.

    See ``SurfaceDistances.assd_mm``. Raises GeometryError where the shapes differ.
    """
    return surface_distances(a, b, grid).assd_mm


def _same_shape(a: BoolArray, b: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Both as masks (non-zero is inside), refused rather than broadcast."""
    first, second = np.asarray(a) != 0, np.asarray(b) != 0
    if first.shape != second.shape:
        raise GeometryError(
            f"masks of shapes {first.shape} and {second.shape} cannot be compared",
            fix="Resample one onto the other",
        )
    return first, second


def _surface_mm(mask: BoolArray, grid: Grid) -> FloatArray:
    """Positions (N, 3) of the voxels of a mask that have a face outside it, mm."""
    inner = ndimage.binary_erosion(mask, border_value=0)
    index = np.argwhere(mask & ~inner)[:, ::-1]  # x, y, z
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
