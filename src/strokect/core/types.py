"""Frozen records that keep images together with geometry, times and units.

Conventions
-----------
Arrays are ``(T, Z, Y, X)`` or ``(Z, Y, X)``, C order. An affine is ``(4, 4)`` float64 and takes
the *voxel index* ``(x, y, z, 1)``, in that order, to RAS millimetres, as in NIfTI, so that
``data[z, y, x]`` lies at ``affine @ (x, y, z, 1)``. A tilted gantry is a shear in the affine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from strokect.core.errors import GeometryError, TimingError
from strokect.core.quantities import Quantity

FloatArray = npt.NDArray[Any]  # of floats; numpy cannot yet say "any width" and stay readable
BoolArray = npt.NDArray[np.bool_]
Level = Literal["info", "warning", "critical"]

#: Called as ``progress(done, total)`` by work that takes long.
Progress = Callable[[int, int], None]


def no_progress(done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular, possibly sheared, voxel grid.

    shape : (Z, Y, X). affine : (4, 4), voxel index (x, y, z) to RAS mm.
    Raises GeometryError for a singular or non-finite affine, or an empty shape.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise GeometryError(f"a grid needs three positive sizes, found {self.shape}")
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError("the affine is not a finite 4x4 matrix")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise GeometryError(f"the affine is singular (columns {affine[:3, :3].tolist()})")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "affine", affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel along (z, y, x), mm; along the shear for a tilted gantry."""
        dx, dy, dz = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(dz), float(dy), float(dx)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel, ml; right for sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000.0)

    def same_as(self, other: Grid, tolerance_mm: float = 0.01) -> bool:
        """Whether every voxel centre of both grids agrees within ``tolerance_mm``."""
        if self.shape != other.shape:
            return False
        z, y, x = (n - 1 for n in self.shape)
        corners = np.array([[i, j, k, 1] for i in (0, x) for j in (0, y) for k in (0, z)], float).T
        return bool(np.abs((self.affine - other.affine) @ corners).max() <= tolerance_mm)


@dataclass(frozen=True)
class QualityFlag:
    """One quality finding: a code of ``core.flags.CODES``, its level, one sentence."""

    code: str
    level: Level
    message: str


@dataclass(frozen=True, eq=False)
class Volume:
    """One 3D image. data : (Z, Y, X) on ``grid``; CT in HU."""

    data: FloatArray
    grid: Grid
    flags: tuple[QualityFlag, ...] = ()

    def __post_init__(self) -> None:
        _check_shape(self.data.shape, self.grid.shape, "volume")


@dataclass(frozen=True, eq=False)
class Map(Volume):
    """A parametric map: a volume with its quantity."""

    quantity: Quantity | None = None


@dataclass(frozen=True, eq=False)
class Mask:
    """A binary mask. data : (Z, Y, X) bool on ``grid``."""

    data: BoolArray
    grid: Grid
    name: str = ""

    def __post_init__(self) -> None:
        _check_shape(self.data.shape, self.grid.shape, "mask")

    @property
    def volume_ml(self) -> float:
        return float(np.count_nonzero(self.data) * self.grid.voxel_ml)


@dataclass(frozen=True, eq=False)
class CTSeries:
    """A dynamic CT scan.

    data_hu : (T, Z, Y, X) float32, HU. times_s : (T, Z) float64, acquisition time of every slice
    of every frame, s, increasing along T; the earliest is 0. grid : its geometry.
    flags : findings of the reader. notes : what the reader chose and ignored, for the log.
    Raises TimingError for times that do not increase.
    """

    data_hu: FloatArray
    times_s: npt.NDArray[np.float64]
    grid: Grid
    flags: tuple[QualityFlag, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.data_hu.ndim != 4:
            raise GeometryError(
                f"a CT series has 4 dimensions (T, Z, Y, X), found {self.data_hu.ndim}"
            )
        _check_shape(self.data_hu.shape[1:], self.grid.shape, "CT series")
        times = np.array(self.times_s, dtype=np.float64)
        if times.ndim == 1:  # one time per frame: the same for every slice
            times = np.repeat(times[:, None], self.grid.shape[0], axis=1)
        expected = (self.data_hu.shape[0], self.grid.shape[0])
        if times.shape != expected:
            raise TimingError(f"times have shape {times.shape}, the scan needs (T, Z) = {expected}")
        if not np.isfinite(times).all():
            raise TimingError("acquisition times are not finite")
        if times.shape[0] > 1 and not (np.diff(times, axis=0) > 0).all():
            raise TimingError("acquisition times do not increase from frame to frame")
        times -= times.min()
        times.setflags(write=False)
        object.__setattr__(self, "times_s", times)

    @property
    def interval_s(self) -> float:
        """Median time between frames, s (0 for a single frame)."""
        if self.times_s.shape[0] < 2:
            return 0.0
        return float(np.median(np.diff(self.times_s, axis=0)))


@dataclass(frozen=True)
class Patient:
    """One patient: the scans that exist, on their own grids, and clinical scores."""

    label: str
    ncct: Volume | None = None
    cta: Volume | None = None
    ctp: CTSeries | None = None
    nihss: float | None = None
    age_years: float | None = None
    sex: str | None = None


def _check_shape(found: tuple[int, ...], expected: tuple[int, ...], what: str) -> None:
    if tuple(found) != tuple(expected):
        raise GeometryError(
            f"{what} of shape {tuple(found)} does not fit its grid {tuple(expected)}"
        )
