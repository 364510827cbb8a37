import numpy as np
import pytest

from strokect.core.classes import CLASS_NAMES, CORE, PENUMBRA, from_classes, to_classes
from strokect.core.errors import InputError, SettingsError

HOUSE = np.array([[0, 1], [2, 3]], np.uint8)


@pytest.mark.parametrize(
    ("classes", "expected"), [(4, [0, 1, 2, 3]), (3, [0, 0, 1, 2]), (2, [0, 0, 0, 1])]
)
def test_each_problem_numbers_its_classes(classes, expected):
    found = to_classes(HOUSE, classes)
    assert found.ravel().tolist() == expected
    assert found.dtype == np.uint8
    assert found.shape == HOUSE.shape
    assert found.max() + 1 == len(CLASS_NAMES[classes])


@pytest.mark.parametrize("classes", [4, 3, 2])
def test_there_and_back(classes):
    numbers = np.arange(classes, dtype=np.uint8)
    assert np.array_equal(to_classes(from_classes(numbers, classes), classes), numbers)
    back = from_classes(to_classes(HOUSE, classes), classes)
    assert np.array_equal(back == CORE, HOUSE == CORE)
    if classes > 2:
        assert np.array_equal(back == PENUMBRA, HOUSE == PENUMBRA)


def test_the_input_is_kept():
    before = HOUSE.copy()
    to_classes(HOUSE, 2)[...] = 9
    assert np.array_equal(HOUSE, before)


def test_bad_input_is_refused():
    with pytest.raises(SettingsError, match="5 classes"):
        to_classes(HOUSE, 5)
    with pytest.raises(InputError, match="house label 4"):
        to_classes(np.array([0, 4], np.uint8), 4)
    with pytest.raises(InputError, match="class number 2"):
        from_classes(np.array([0, 2], np.uint8), 2)
    with pytest.raises(InputError, match="float"):
        to_classes(np.array([0.5]), 4)
