import numpy as np
import pytest

from strokect.core.geometry import affine_from_dicom, ball, grid_points_mm, resample
from strokect.core.types import Grid


def test_dicom_axes_become_ras():
    # Axial, feet to head: columns run to the patient's left, rows to the back.
    affine = affine_from_dicom([1, 0, 0, 0, 1, 0], [-100, -120, 30], [0, 0, 5], [0.7, 0.5])
    x, y, z = 10, 20, 3
    lps = np.array([-100 + 0.5 * x, -120 + 0.7 * y, 30 + 5 * z])
    assert (affine @ [x, y, z, 1])[:3] == pytest.approx(lps * [-1, -1, 1])


def test_points_are_the_affine_times_the_index():
    rng = np.random.default_rng(0)
    grid = Grid((3, 4, 5), np.r_[rng.normal(size=(3, 4)), [[0, 0, 0, 1]]])
    assert grid_points_mm(grid)[:, 2, 1, 4] == pytest.approx((grid.affine @ [4, 1, 2, 1])[:3])


def test_resampling_keeps_positions():
    fine = Grid((12, 40, 44), np.diag([1.0, 1, 2, 1]))
    turned = np.array([[0, -2.0, 0, 36], [2.0, 0, 0, 2], [0, 0, 4, 4], [0, 0, 0, 1]])
    coarse = Grid((4, 14, 15), turned)
    x, y, z = grid_points_mm(fine)
    out = resample((x + 2 * y - 3 * z).astype(np.float32), fine, coarse, fill=np.nan)
    x, y, z = grid_points_mm(coarse)
    inside = np.isfinite(out)
    assert inside.mean() > 0.8
    assert out[inside] == pytest.approx((x + 2 * y - 3 * z)[inside], abs=1e-3)


def test_labels_stay_labels_and_outside_is_filled():
    grid = Grid((2, 8, 8), np.eye(4))
    label = np.zeros(grid.shape, np.uint8)
    label[:, :4] = 7
    moved = np.eye(4)
    moved[0, 3] = 100
    assert set(np.unique(resample(label, grid, grid, order=0))) == {0, 7}
    assert (resample(label, grid, Grid(grid.shape, moved), order=0, fill=3) == 3).all()


def test_a_ball_is_measured_in_mm():
    grid = Grid((9, 9, 9), np.diag([1.0, 2.0, 5.0, 1]))
    z, y, x = np.nonzero(ball(grid, 4.0))
    assert (np.ptp(z), np.ptp(y), np.ptp(x)) == (0, 4, 8)
    assert ball(grid, 0.1).sum() == 1
