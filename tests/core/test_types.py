import numpy as np
import pytest

from strokect.core.errors import GeometryError, TimingError
from strokect.core.types import CTSeries, Grid, Mask, Volume

AFFINE = np.diag([-0.5, 0.5, 4.0, 1.0])


def test_spacing_follows_the_array_order_and_volume_the_determinant():
    sheared = AFFINE.copy()
    sheared[1, 2] = 1.0  # gantry tilt: same volume, longer slanted step
    assert Grid((2, 3, 4), AFFINE).spacing_mm == (4.0, 0.5, 0.5)
    assert Grid((2, 3, 4), sheared).voxel_ml == pytest.approx(0.001)
    assert Grid((2, 3, 4), sheared).spacing_mm[0] == pytest.approx(np.hypot(4, 1))


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((2, 3), AFFINE),
        ((0, 3, 4), AFFINE),
        ((2, 3, 4), np.zeros((4, 4))),
        ((2, 3, 4), np.full((4, 4), np.nan)),
        ((2, 3, 4), np.eye(3)),
    ],
)
def test_impossible_grids_are_refused(shape, affine):
    with pytest.raises(GeometryError):
        Grid(shape, affine)


def test_a_grid_does_not_follow_its_source_array():
    affine = AFFINE.copy()
    grid = Grid((2, 3, 4), affine)
    affine[0, 0] = 9
    assert grid.affine[0, 0] == -0.5
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 9


def test_grids_are_compared_at_the_far_corners():
    grid, turned = Grid((10, 200, 200), AFFINE), AFFINE.copy()
    turned[1, 0] = 0.001  # 0.2 mm at the far side
    assert grid.same_as(Grid((10, 200, 200), AFFINE + 1e-9))
    assert not grid.same_as(Grid((10, 200, 200), turned))
    assert grid.same_as(Grid((10, 200, 200), turned), tolerance_mm=0.3)
    assert not grid.same_as(Grid((10, 200, 199), AFFINE))


def test_data_must_fit_the_grid():
    grid = Grid((2, 3, 4), AFFINE)
    for make in (Volume, Mask):
        with pytest.raises(GeometryError, match="does not fit"):
            make(np.zeros((4, 3, 2), bool), grid)
    mask = Mask(np.ones((2, 3, 4), bool), grid)
    assert mask.volume_ml == pytest.approx(24 * 0.001)


class TestSeries:
    grid = Grid((2, 3, 4), AFFINE)

    def make(self, times):
        return CTSeries(np.zeros((3, 2, 3, 4), np.float32), np.array(times), self.grid)

    def test_frame_times_hold_for_every_slice_and_start_at_0(self):
        series = self.make([5.0, 6, 8])
        assert np.array_equal(series.times_s, [[0, 0], [1, 1], [3, 3]])
        assert series.interval_s == 1.5

    def test_slice_times_keep_their_offsets(self):
        assert np.array_equal(self.make([[1.5, 1], [2.5, 2], [3.5, 3]]).times_s[0], [0.5, 0])

    @pytest.mark.parametrize(
        "times", [[0, 1], [0, 1, 1], [2, 1, 0], [0, np.nan, 1], [[0, 1], [1, 1], [2, 2]]]
    )
    def test_unusable_times_are_refused(self, times):
        with pytest.raises(TimingError):
            self.make(times)
