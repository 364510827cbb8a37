"""Affines, LPS and RAS, resampling between grids. Pure functions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokect.core.types import FloatArray, Grid

#: DICOM's patient coordinates are LPS, NIfTI's RAS: x and y change sign.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_from_dicom(
    orientation: npt.ArrayLike,
    first_position: npt.ArrayLike,
    slice_step: npt.ArrayLike,
    pixel_spacing: npt.ArrayLike,
) -> npt.NDArray[np.float64]:
    """RAS affine of a stack of DICOM slices (PS3.3 C.7.6.2.1.1).

    orientation : (6,) ImageOrientationPatient. first_position : (3,) ImagePositionPatient of slice
    0, mm LPS. slice_step : (3,) from each slice's position to the next, mm LPS; it need not be
    parallel to the slice normal (gantry tilt). pixel_spacing : (2,) mm, (between rows, between
    columns) as in the standard. Returns (4, 4), voxel index (x, y, z) to RAS mm.
    """
    row, column = np.asarray(orientation, float).reshape(2, 3)
    between_rows, between_columns = np.asarray(pixel_spacing, float)
    lps = np.eye(4)
    lps[:3, 0] = row * between_columns
    lps[:3, 1] = column * between_rows
    lps[:3, 2] = np.asarray(slice_step, float)
    lps[:3, 3] = np.asarray(first_position, float)
    return LPS_TO_RAS @ lps


def grid_points_mm(grid: Grid) -> npt.NDArray[np.float64]:
    """RAS position of every voxel centre, (3, Z, Y, X), mm."""
    z, y, x = np.indices(grid.shape, dtype=np.float64)
    a = grid.affine
    return np.stack([a[r, 0] * x + a[r, 1] * y + a[r, 2] * z + a[r, 3] for r in range(3)])


def resample(
    data: FloatArray, source: Grid, target: Grid, order: int = 1, fill: float = 0.0
) -> FloatArray:
    """Resample (Z, Y, X) ``data`` from one grid to another; ``fill`` outside the source.

    order : 0 nearest (labels), 1 linear, 3 cubic. Returns target.shape, dtype of ``data``.
    """
    target_to_source = np.linalg.inv(source.affine) @ target.affine  # (x, y, z) -> (x, y, z)
    flip = np.eye(4)[[2, 1, 0, 3]]  # scipy indexes (z, y, x)
    matrix = flip @ target_to_source @ flip
    return ndimage.affine_transform(
        data,
        matrix[:3, :3],
        matrix[:3, 3],
        output_shape=target.shape,
        order=order,
        cval=fill,
        mode="constant",
        prefilter=order > 1,
    )


def smoothing_sigma_voxels(grid: Grid, sigma_mm: float, in_plane: bool) -> tuple[float, ...]:
    """Gaussian sigma along (z, y, x) in voxels, for a width in mm."""
    dz, dy, dx = grid.spacing_mm
    return (0.0 if in_plane else sigma_mm / dz, sigma_mm / dy, sigma_mm / dx)


def ball(grid: Grid, radius_mm: float) -> npt.NDArray[np.bool_]:
    """Structuring element of all voxels within ``radius_mm``; at least the centre."""
    steps = grid.affine[:3, :3]
    half = [int(radius_mm / s) for s in grid.spacing_mm]
    offsets = np.indices([2 * h + 1 for h in half], dtype=float)
    z, y, x = (o - h for o, h in zip(offsets, half, strict=True))
    mm = steps @ np.stack([x.ravel(), y.ravel(), z.ravel()])
    return (np.linalg.norm(mm, axis=0) <= radius_mm + 1e-6).reshape(x.shape)
