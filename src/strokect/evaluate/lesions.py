"""Which single lesions were found, and which found ones are not there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokect.core.errors import GeometryError, SettingsError
from strokect.core.types import BoolArray, Grid

_RANK = {6: 1, 18: 2, 26: 3}  # neighbours of a voxel -> rank of scipy's structuring element


@dataclass(frozen=True)
class LesionOptions:
    """What counts as one lesion, and as one that was found.

    connectivity : voxels that touch by a face (6), also an edge (18), also a corner (26) are one
    lesion; 26 as in ISLES'22 [1]_. least_overlap : share of a true lesion's voxels that must be
    found for it to be detected, 0.1 as in the MSSEG challenge [2]_; at 0 one voxel is enough, as
    in ISLES'22, which in slices of 5 to 10 mm often happens by chance. least_ml : smaller lesions,
    true or found, are not counted (their volume still counts in every other measure).
    Raises SettingsError for values outside their ranges.

    .. [1] de la Rosa E et al., Nat Commun 2025;16:7357; data: Sci Data 2022;9:762.
    .. [2] Commowick O et al., Sci Rep 2018;8:13650.
    """

    connectivity: int = 26
    least_overlap: float = 0.1
    least_ml: float = 0.1

    def __post_init__(self) -> None:
        if self.connectivity not in _RANK:
            raise SettingsError(
                f"lesions cannot be {self.connectivity}-connected", fix="Choose 6, 18 or 26"
            )
        if not 0 <= self.least_overlap <= 1:
            raise SettingsError(
                f"least overlap of a lesion {self.least_overlap}", fix="Choose a share, 0 to 1"
            )
        if not 0 <= self.least_ml < np.inf:
            raise SettingsError(
                f"smallest lesion of {self.least_ml} ml", fix="Choose 0 ml or a little more"
            )


@dataclass(frozen=True)
class LesionCount:
    """Lesions of one study.

    true : in the truth. found : in the prediction. detected : true ones that were found.
    false : found ones that touch no true voxel.
    """

    true: int
    found: int
    detected: int
    false: int


def count_lesions(
    found: BoolArray, true: BoolArray, grid: Grid, options: LesionOptions = LesionOptions()
) -> LesionCount:
    """Count true, found, detected and false lesions of two masks (Z, Y, X) on ``grid``.

    A true lesion is detected by the whole found mask, whatever the number of pieces that cover
    it; one found lesion may detect several true ones. A found lesion is false where it shares no
    voxel with the true mask, so that a lesion found too large is no false one.
    Raises GeometryError where a mask does not fit the grid.
    """
    first, second = np.asarray(found) != 0, np.asarray(true) != 0
    if first.shape != grid.shape or second.shape != grid.shape:
        raise GeometryError(
            f"masks of shapes {first.shape} and {second.shape} on a grid {grid.shape}",
            fix="Resample one onto the other",
        )
    least = options.least_ml / grid.voxel_ml - 1e-6  # in voxels; a sum of ml is never quite round
    covered, size = _pieces(second, first, options.connectivity, least)
    touched, _ = _pieces(first, second, options.connectivity, least)
    detected = (covered > 0) & (covered >= options.least_overlap * size - 1e-9)
    return LesionCount(
        true=len(size),
        found=len(touched),
        detected=int(detected.sum()),
        false=int((touched == 0).sum()),
    )


def _pieces(
    mask: BoolArray, other: BoolArray, connectivity: int, least: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Per lesion of ``mask`` of ``least`` voxels or more: voxels in ``other``, and in all."""
    labels, n = ndimage.label(mask, ndimage.generate_binary_structure(3, _RANK[connectivity]))
    size = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    shared = np.bincount(labels[other], minlength=n + 1)[1:]
    counted = size >= least
    return shared[counted], size[counted]
