import numpy as np
import pytest

from strokect.core.errors import GeometryError
from strokect.evaluate.overlap import dice


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
