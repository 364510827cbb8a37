"""Brain, CSF and the space inside the skull, from the temporal mean of a CT scan.

All lengths are in mm. Thresholds in HU follow textbook attenuation: CSF 0-15, white matter 25-33,
grey matter 35-42, blood 50-70, bone above 250 (Kamalian 2016, Handb Clin Neurol 135:3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from strokect.core.errors import ScanError
from strokect.core.geometry import ball, smoothing_sigma_voxels
from strokect.core.types import BoolArray, FloatArray, Grid

BONE_HU = 200.0
SOFT_HU = (-20.0, 130.0)
#: Pure CSF lies below the first value. Below the second, and beside pure CSF, a voxel holds much of
#: it; away from CSF such attenuation is oedema or leukoaraiosis, which is tissue.
CSF_HU, MIXED_HU = 16.0, 25.0
MIXED_MM = 2.5
#: Wide enough to cut the foramina and sutures that join brain to scalp, orbit and neck.
OPENING_MM = 7.0
#: CSF between brain and skull is peeled off no deeper than this.
RIM_MM = 6.0
WORKING_MM = 1.5
#: A part of a slice is brain if its median differs from the brain's by no more than this.
OTHER_HU = (-20.0, 10.0)
#: The skull base lies this far below the widest slice; only there muscle touches the brain.
BASE_MM = 35.0


@dataclass(frozen=True, eq=False)
class BrainMasks:
    """brain : without skull and outer CSF; ventricles and sulci inside. inside : all within the
    skull. csf : CSF within ``inside``. All (Z, Y, X) bool."""

    brain: BoolArray
    inside: BoolArray
    csf: BoolArray


def brain_masks(mean_hu: FloatArray, grid: Grid) -> BrainMasks:
    """Skull-strip the temporal mean (Z, Y, X) of a head CT, HU.

    Raises ScanError where there is no head or no brain in the scan.
    """
    if not (mean_hu > -300).any():
        raise ScanError("the scan is all air", fix="Check the series and its rescale values")
    step = max(1, round(WORKING_MM / min(grid.spacing_mm[1:])))
    small, small_grid = _downsample(mean_hu, grid, step)
    inside = _upsample(_inside_skull(small, small_grid), mean_hu.shape, step)
    if np.count_nonzero(inside) * grid.voxel_ml < 20.0:
        raise ScanError(
            "no brain found inside a skull",
            fix="Check that this is a head scan in HU, or give --brain-mask",
        )
    csf = inside & _csf(mean_hu, grid)
    return BrainMasks(_without_rim(inside, csf, grid), inside, csf)


def _csf(mean_hu: FloatArray, grid: Grid) -> BoolArray:
    """CSF and voxels that hold much of it; unsmoothed, as sulci are about one voxel wide."""
    pure = mean_hu < CSF_HU
    return pure | ((mean_hu < MIXED_HU) & (distance_mm(~pure, grid) <= MIXED_MM))


def given_brain(mean_hu: FloatArray, brain: BoolArray, grid: Grid) -> BrainMasks:
    """Masks from a brain that the user drew. Vessels are still sought in the whole skull."""
    try:
        inside = brain | brain_masks(mean_hu, grid).inside
    except ScanError:  # a head that cannot be stripped is why users draw masks
        inside = brain
    return BrainMasks(brain, inside, brain & _csf(mean_hu, grid))


def _inside_skull(mean_hu: FloatArray, grid: Grid) -> BoolArray:
    """The largest soft-tissue body that remains once openings in the skull are cut."""
    bone = mean_hu > BONE_HU
    smooth = ndimage.gaussian_filter(mean_hu, smoothing_sigma_voxels(grid, 1.0, in_plane=True))
    soft = (smooth > SOFT_HU[0]) & (smooth < SOFT_HU[1]) & ~bone
    soft &= _enclosed(bone, grid)
    distance = distance_mm(soft, grid)
    core, n = ndimage.label(distance > OPENING_MM)
    if n == 0:
        return np.zeros_like(soft)
    sizes = ndimage.sum_labels(np.ones_like(core), core, np.arange(1, n + 1))
    largest = core == 1 + int(np.argmax(sizes))
    # Grow back by what the erosion took, within soft tissue.
    reach = distance_mm(~largest, grid) <= OPENING_MM + 1.0
    body = soft & reach
    body = ndimage.binary_opening(body, _disc(grid, 2.0)) | largest
    body = _fill_slices(ndimage.binary_closing(body, _disc(grid, 3.0)) & ~bone)
    return _of_brain_density(body, smooth, grid)


def _of_brain_density(body: BoolArray, smooth: FloatArray, grid: Grid) -> BoolArray:
    """Without the parts of slices below the brain that are muscle, or a globe.

    Masticator and neck muscles lie right under the temporal fossae and the foramen magnum, and
    thick slices hide the bone between; they are denser than brain by 15-20 HU.
    """
    areas = body.sum(axis=(1, 2))
    if not areas.any():
        return body
    widest = int(np.argmax(ndimage.median_filter(areas, 3)))
    near = slice(max(0, widest - 1), widest + 2)
    brain_hu = float(np.median(smooth[near][body[near]]))
    height = grid.affine[2, 2] * (np.arange(len(body)) - widest)  # mm above the widest slice
    out = np.zeros_like(body)
    for z in np.flatnonzero(areas):
        part = body[z]
        if height[z] < -BASE_MM:
            soft = np.where(ndimage.binary_erosion(part), smooth[z], brain_hu)  # no edge of bone
            wide = ndimage.gaussian_filter(
                soft, smoothing_sigma_voxels(grid, 2.0, in_plane=True)[1:]
            )
            dense = ndimage.binary_opening(wide > brain_hu + OTHER_HU[1], _disc(grid, 4.0)[0])
            part = part & ~ndimage.binary_dilation(dense, _disc(grid, 2.0)[0])
            part = ndimage.binary_opening(part, _disc(grid, 4.0)[0])
        parts, n = ndimage.label(part)
        if n:
            hu = ndimage.median(smooth[z], parts, np.arange(1, n + 1)) - brain_hu
            out[z] = np.isin(parts, 1 + np.flatnonzero((hu > OTHER_HU[0]) & (hu < OTHER_HU[1])))
    return _fill_slices(out)


def _enclosed(bone: BoolArray, grid: Grid) -> BoolArray:
    """What bone surrounds in its slice, small gaps closed; everything where no skull is seen."""
    closed = np.zeros_like(bone)
    disc = _disc(grid, 6.0)[0]
    pad = max(disc.shape)
    for z in range(bone.shape[0]):
        padded = np.pad(bone[z], pad)
        ring = ndimage.binary_closing(padded, disc)
        closed[z] = ndimage.binary_fill_holes(ring)[pad:-pad, pad:-pad]
    has_ring = closed.sum(axis=(1, 2)) > 2.0 * bone.sum(axis=(1, 2))
    # An open skull (cropped field of view) encloses nothing: leave the erosion to find the brain.
    closed[~has_ring] = True
    return closed


def _without_rim(inside: BoolArray, csf: BoolArray, grid: Grid) -> BoolArray:
    """Peel CSF off the outside: low attenuation that reaches the boundary and is near to it."""
    near = inside & (distance_mm(inside, grid) <= RIM_MM)
    outside = ~inside
    peel = ndimage.binary_propagation(outside, structure=_cross(), mask=outside | (csf & near))
    brain = inside & ~peel
    brain = ndimage.binary_opening(brain, _disc(grid, 2.0))
    brain = ndimage.binary_closing(brain, _disc(grid, 4.0)) & inside
    label, n = ndimage.label(brain)
    if n > 1:
        sizes = ndimage.sum_labels(np.ones_like(label), label, np.arange(1, n + 1))
        brain = np.isin(label, 1 + np.flatnonzero(sizes > 0.02 * sizes.max()))
    return _fill_slices(brain) & inside


def distance_mm(mask: BoolArray, grid: Grid) -> FloatArray:
    """In-plane distance to the nearest voxel outside the mask, mm (slices are thick and few)."""
    _, dy, dx = grid.spacing_mm
    out = np.zeros(mask.shape, np.float32)
    for z in range(mask.shape[0]):
        if mask[z].all():
            out[z] = np.inf
        elif mask[z].any():
            out[z] = ndimage.distance_transform_edt(mask[z], (dy, dx))
    return out


def _disc(grid: Grid, radius_mm: float) -> BoolArray:
    element = ball(grid, radius_mm)
    return element[element.shape[0] // 2][None]


def _cross() -> BoolArray:
    return ndimage.generate_binary_structure(2, 1)[None]


def _fill_slices(mask: BoolArray) -> BoolArray:
    return np.stack([ndimage.binary_fill_holes(s) for s in mask])


def _downsample(image: FloatArray, grid: Grid, step: int) -> tuple[FloatArray, Grid]:
    """Block means in plane; edges that do not fill a block are repeated."""
    if step == 1:
        return image, grid
    z, y, x = image.shape
    pad_y, pad_x = -y % step, -x % step
    padded = np.pad(image, ((0, 0), (0, pad_y), (0, pad_x)), mode="edge")
    blocks = padded.reshape(z, (y + pad_y) // step, step, (x + pad_x) // step, step)
    affine = grid.affine.copy()
    affine[:, :2] *= step
    affine[:3, 3] += (grid.affine[:3, 0] + grid.affine[:3, 1]) * (step - 1) / 2
    small = blocks.mean(axis=(2, 4))
    return small, Grid(small.shape, affine)


def _upsample(mask: BoolArray, shape: tuple[int, ...], step: int) -> BoolArray:
    """Bring a block-wise mask back to full size with a smooth outline."""
    if step == 1:
        return mask
    big = np.repeat(np.repeat(mask, step, axis=1), step, axis=2)[:, : shape[1], : shape[2]]
    return ndimage.uniform_filter(big.astype(np.float32), (0, step + 1, step + 1)) > 0.5
