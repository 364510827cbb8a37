"""The maps of one scan lie on one grid."""

import numpy as np
import pytest

from strokect.core.errors import GeometryError
from strokect.core.mapset import MapSet
from strokect.core.types import Grid

GRID = Grid((2, 4, 5), np.diag([-2.0, -2.0, 8.0, 1.0]))
VALUES = np.zeros(GRID.shape, np.float32)


def test_values_and_colours_lie_side_by_side():
    found = MapSet(GRID, {"cbf": VALUES, "tmax": np.zeros((*GRID.shape, 3), np.uint8)})
    assert found.brain is None and found.mean_hu is None and found.flags == ()


@pytest.mark.parametrize(
    "wrong",
    [
        VALUES[:1],
        VALUES[..., None],
        np.zeros((*GRID.shape, 3), np.float32),  # three values a voxel are no colours
        np.zeros(GRID.shape, np.uint8),  # nor are bytes values
        np.zeros((*GRID.shape, 4), np.uint8),
    ],
)
def test_a_map_off_the_grid_is_named(wrong):
    with pytest.raises(GeometryError, match="tmax") as error:
        MapSet(GRID, {"cbf": VALUES, "tmax": wrong})
    assert str(wrong.shape) in str(error.value) and "\n" not in str(error.value)
