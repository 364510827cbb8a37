"""The maps of one scan, as networks and slice folders take them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from strokect.core.errors import GeometryError
from strokect.core.types import BoolArray, FloatArray, Grid, QualityFlag


@dataclass(frozen=True, eq=False)
class MapSet:
    """Maps on one grid, by key of ``core.quantities``.

    maps : each (Z, Y, X) float32 in the quantity's unit, NaN where not known; or (Z, Y, X, 3)
    uint8, the colours in which readers saw it. brain : (Z, Y, X), None where not known. mean_hu :
    (Z, Y, X) temporal mean CT, HU, None where not known. flags : of quality. source : in a few
    words, where the maps came from.
    Raises GeometryError for a map off the grid.
    """

    grid: Grid
    maps: dict[str, npt.NDArray[Any]]
    brain: BoolArray | None = None
    mean_hu: FloatArray | None = None
    flags: tuple[QualityFlag, ...] = field(default=())
    source: str = ""

    def __post_init__(self) -> None:
        for name, values in self.maps.items():
            colours = values.dtype == np.uint8
            wanted = (*self.grid.shape, 3) if colours else self.grid.shape
            if values.shape != wanted:
                raise GeometryError(
                    f"a map of shape {values.shape} on a grid of {self.grid.shape}", name,
                    "Give all maps of a scan on one grid",
                )  # fmt: skip
