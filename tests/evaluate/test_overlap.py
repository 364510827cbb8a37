import numpy as np
import pytest

from strokect.core.errors import GeometryError
from strokect.core.types import Grid
from strokect.evaluate.overlap import dice, hd95_mm


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
