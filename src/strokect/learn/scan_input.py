"""A scan as a network is given it, and the way back to the scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from strokect.core.classes import BACKGROUND, BRAIN
from strokect.core.types import BoolArray, FloatArray, Grid, QualityFlag
from strokect.learn.inputs import brain_box
from strokect.learn.spacing import Regrid, regrid


@dataclass(frozen=True, eq=False)
class ScanInput:
    """A scan as a network is given it.

    image : (C, T, z, y, x) float32, cut to ``box`` in the plane and at the network's voxel size.
    image_brain : (z, y, x). regrid : between the box and the image. brain, mean_hu : (Z, Y, X) of
    the whole scan. flags : quality findings.
    """

    image: npt.NDArray[np.float32]
    image_brain: BoolArray
    regrid: Regrid
    box: tuple[slice, slice]
    brain: BoolArray
    mean_hu: FloatArray
    flags: tuple[QualityFlag, ...] = ()

    def on_scan(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Values (..., z, y, x) of the image on the scan (..., Z, Y, X), 0 outside the box."""
        found = self.regrid.to_scan(values)
        out = np.zeros((*found.shape[:-2], *self.brain.shape[1:]), np.float32)
        out[..., self.box[0], self.box[1]] = found
        return out

    def labels_for_network(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """House labels (Z, Y, X) of the scan on the image; brain where the truth says nothing."""
        known = np.where((labels == BACKGROUND) & self.brain, BRAIN, labels).astype(np.uint8)
        return self.regrid.labels_to_network(known[:, *self.box])


@dataclass(frozen=True, eq=False)
class Field:
    """The part of a scan that a network sees. box : rows and columns. grids : to its voxels."""

    box: tuple[slice, slice]
    grids: Regrid


def field_of(
    brain: BoolArray,
    grid: Grid,
    spacing_mm: tuple[float, float, float] | None,
    pixels: int | None,
    crop_mm: float | None,
) -> Field:
    """Where the network looks, cut to the brain (Z, Y, X) with a margin, and its voxel size."""
    dz, dy, dx = grid.spacing_mm
    box: tuple[slice, slice] = (slice(0, brain.shape[1]), slice(0, brain.shape[2]))
    if crop_mm is not None:
        box = brain_box(brain, (round(crop_mm / dy), round(crop_mm / dx)))
    shape = brain[:, *box].shape
    if pixels is None:
        return Field(box, regrid(shape, grid.spacing_mm, spacing_mm))
    size = max(shape[1] * dy, shape[2] * dx) / pixels
    # So many pixels, not about so many: 500 are brought to 512.
    return Field(box, regrid(shape, grid.spacing_mm, (dz, size, size), alike=0.0))
