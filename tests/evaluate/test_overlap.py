import numpy as np
import pytest

from strokect.core.errors import GeometryError
from strokect.core.types import Grid
from strokect.evaluate.overlap import (
    assd_mm,
    dice,
    hd95_mm,
    precision,
    recall,
    surface_distances,
)


def boxes(low, high, n=12):
    mask = np.zeros((2, n, n), bool)
    mask[:, :, low:high] = True
    return mask


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (boxes(0, 6), boxes(0, 6), 1.0),
        (boxes(0, 6), boxes(6, 12), 0.0),
        (boxes(0, 6), boxes(3, 9), 0.5),
        (boxes(0, 2), boxes(0, 6), 0.5),
        (boxes(0, 0), boxes(0, 0), 1.0),
        (boxes(0, 0), boxes(0, 1), 0.0),
    ],
)
def test_known_overlaps(a, b, expected):
    assert dice(a, b) == pytest.approx(expected)
    assert dice(b, a) == dice(a, b)


def test_labels_count_as_inside():
    assert dice(boxes(0, 6).astype(np.uint8) * 200, boxes(0, 6)) == 1.0


def test_other_shapes_are_refused_not_broadcast():
    with pytest.raises(GeometryError, match="cannot be compared"):
        dice(boxes(0, 6), boxes(0, 6)[:1])


GRID = Grid((2, 12, 12), np.diag([2.0, 1.0, 5.0, 1.0]))


def test_hausdorff_distance_is_in_mm():
    assert hd95_mm(boxes(2, 6), boxes(2, 6), GRID) == 0.0
    # Moved by three voxels of 2 mm: one face is 6 mm off, the rim 0 to 6 mm.
    assert hd95_mm(boxes(1, 5), boxes(4, 8), GRID) == pytest.approx(6.0)
    assert hd95_mm(boxes(0, 1), boxes(5, 6), GRID) == pytest.approx(10.0)


def test_hausdorff_distance_drops_five_percent_of_outliers():
    one = np.zeros((1, 60, 60), bool)
    one[0, :, 20:40] = True
    speck = one.copy()
    speck[0, 30, 59] = True
    grid = Grid(one.shape, np.eye(4))
    assert hd95_mm(one, speck, grid) == 0.0


def test_hausdorff_distance_to_nothing_is_undefined():
    assert np.isnan(hd95_mm(boxes(0, 0), boxes(0, 6), GRID))
    with pytest.raises(GeometryError, match="cannot be compared"):
        hd95_mm(boxes(0, 6), boxes(0, 6)[:1], GRID)


def test_precision_and_recall():
    found, true = boxes(0, 6), boxes(3, 5)
    assert precision(found, true) == pytest.approx(2 / 6)
    assert recall(found, true) == 1.0
    assert recall(true, found) == precision(found, true)


def test_precision_of_nothing_found_and_recall_of_nothing_there_are_undefined():
    nothing, some = boxes(0, 0), boxes(0, 2)
    assert np.isnan(precision(nothing, some))
    assert recall(nothing, some) == 0.0
    assert precision(some, nothing) == 0.0
    assert np.isnan(recall(some, nothing))


ANISOTROPIC = Grid((6, 12, 12), np.diag([2.0, 1.0, 5.0, 1.0]))


def slab(z, y=slice(None), x=slice(None)):
    """One slice thick at most, so that every voxel of it is surface."""
    mask = np.zeros(ANISOTROPIC.shape, bool)
    mask[z, y, x] = True
    return mask


@pytest.mark.parametrize(
    ("shifted", "expected_mm"),
    [(slab(4, 5, slice(2, 8)), 15.0), (slab(1, 8, slice(2, 8)), 3.0), (slab(2, 5, slice(2, 8)), 5)],
)
def test_surface_distance_of_parallel_lines_is_their_distance_in_mm(shifted, expected_mm):
    line = slab(1, 5, slice(2, 8))
    assert assd_mm(line, shifted, ANISOTROPIC) == pytest.approx(expected_mm)
    assert assd_mm(shifted, line, ANISOTROPIC) == pytest.approx(expected_mm)
    assert hd95_mm(line, shifted, ANISOTROPIC) == pytest.approx(expected_mm)


def test_surface_distance_averages_over_both_surfaces():
    # A line of 3 voxels along x (2 mm) and one of 1: 0, 2 and 4 mm there, 0 mm back.
    long, short = slab(1, 5, slice(2, 5)), slab(1, 5, slice(2, 3))
    assert assd_mm(long, short, ANISOTROPIC) == pytest.approx((0 + 2 + 4 + 0) / 4)
    assert surface_distances(long, short, ANISOTROPIC).there.tolist() == [0.0, 2.0, 4.0]


def test_surface_distance_holds_on_a_sheared_grid():
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    affine[1, 2] = 3.0  # a tilted gantry: each slice lies 3 mm further forward
    grid = Grid((2, 12, 12), affine)
    low, high = np.zeros((2, *grid.shape), bool)
    low[0, 2, 2], high[1, 2, 2] = True, True
    assert assd_mm(low, high, grid) == pytest.approx(5.0)


def test_inner_voxels_are_no_surface():
    grid = Grid((7, 7, 7), np.eye(4))
    solid = np.zeros(grid.shape, bool)
    solid[1:6, 1:6, 1:6] = True
    hollow = solid.copy()
    hollow[3, 3, 3] = False
    assert surface_distances(solid, solid, grid).there.size == 5**3 - 3**3
    assert assd_mm(solid, hollow, grid) > 0  # the hole has a surface


def test_surface_distance_to_nothing_is_undefined():
    nothing, some = np.zeros(ANISOTROPIC.shape, bool), slab(1)
    for a, b in ((nothing, some), (some, nothing), (nothing, nothing)):
        assert np.isnan(assd_mm(a, b, ANISOTROPIC))
