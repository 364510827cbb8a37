"""Between the grid of a scan and the voxel size that a network was trained at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from strokect.learn.inputs import resampling_matrix

#: Voxel sizes that differ by less than this share are taken as they are.
ALIKE = 0.1


@dataclass(frozen=True, eq=False)
class Regrid:
    """The two ways between grids that cover the same field: (Z, Y, X) there and back.

    there, back : per axis the weights (n_out, n_in), None where the axis stays as it is. Towards
    larger voxels they average, towards smaller ones they interpolate.
    """

    there: tuple[npt.NDArray[np.float32] | None, ...]
    back: tuple[npt.NDArray[np.float32] | None, ...]

    def to_network(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Values (..., Z, Y, X) of the scan on the network's grid."""
        return _along_axes(values, self.there)

    def to_scan(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Values (..., Z, Y, X) of the network's grid on the scan's."""
        return _along_axes(values, self.back)

    def mask_to_network(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Voxels at least half of which lie in the mask (Z, Y, X)."""
        if not any(m is not None for m in self.there):
            return mask
        return self.to_network(mask.astype(np.float32)) >= 0.5

    def labels_to_network(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The label (Z, Y, X) that fills most of each voxel."""
        if not any(m is not None for m in self.there):
            return labels
        found = np.unique(labels)
        shares = np.stack([self.to_network((labels == n).astype(np.float32)) for n in found])
        return found[shares.argmax(axis=0)].astype(np.uint8)


def regrid(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    wanted_mm: Sequence[float] | None,
    alike: float = ALIKE,
) -> Regrid:
    """From voxels of ``spacing_mm`` (z, y, x) to about ``wanted_mm``; None keeps them.

    alike : an axis whose voxels differ from that by less than this share stays as it is.
    """
    there: list[npt.NDArray[np.float32] | None] = []
    back: list[npt.NDArray[np.float32] | None] = []
    for n, size, wanted in zip(shape, spacing_mm, wanted_mm or spacing_mm, strict=True):
        count = max(1, round(n * size / wanted))
        if count == n or abs(wanted / size - 1) < alike:
            there.append(None)
            back.append(None)
            continue
        fine, coarse = _centres(n, n * size), _centres(count, n * size)
        there.append(resampling_matrix(fine, coarse))
        back.append(resampling_matrix(coarse, fine))
    return Regrid(tuple(there), tuple(back))


def _centres(n: int, extent_mm: float) -> npt.NDArray[np.float64]:
    return (np.arange(n) + 0.5) * extent_mm / n


def _along_axes(
    values: npt.NDArray[Any], matrices: Sequence[npt.NDArray[np.float32] | None]
) -> npt.NDArray[Any]:
    out = values
    for axis, matrix in zip((-3, -2, -1), matrices, strict=True):
        if matrix is not None:
            out = np.moveaxis(np.moveaxis(out, axis, -1) @ matrix.T, -1, axis)
    return np.ascontiguousarray(out)
