"""Known lesions, found and not."""

import numpy as np
import pytest

from strokect.core.errors import GeometryError, SettingsError
from strokect.core.types import Grid
from strokect.evaluate.lesions import LesionCount, LesionOptions, count_lesions

GRID = Grid((4, 20, 20), np.diag([1.0, 1.0, 10.0, 1.0]))  # 0.01 ml a voxel
ANY = LesionOptions(least_overlap=0.0, least_ml=0.0)


def mask(*boxes):
    """boxes : (z, y, x) slices."""
    out = np.zeros(GRID.shape, bool)
    for box in boxes:
        out[box] = True
    return out


A = np.s_[0, 0:5, 0:5]  # 25 voxels
B = np.s_[2, 10:15, 10:15]
C = np.s_[3, 0:4, 15:19]  # 16 voxels


def test_known_counts():
    found = mask(A, np.s_[3, 16:20, 0:4])
    assert count_lesions(found, mask(A, B, C), GRID) == LesionCount(3, 2, 1, 1)


def test_nothing():
    nothing = mask()
    assert count_lesions(nothing, nothing, GRID) == LesionCount(0, 0, 0, 0)
    assert count_lesions(nothing, mask(A, B), GRID) == LesionCount(2, 0, 0, 0)
    assert count_lesions(mask(A, B), nothing, GRID) == LesionCount(0, 2, 0, 2)


@pytest.mark.parametrize(("connectivity", "expected"), [(6, 3), (18, 2), (26, 1)])
def test_connectivity(connectivity, expected):
    """One voxel, another that touches by an edge, another by a corner."""
    true = mask(np.s_[0, 0, 0], np.s_[0, 1, 1], np.s_[1, 2, 2])
    options = LesionOptions(connectivity, least_ml=0.0)
    assert count_lesions(true, true, GRID, options).true == expected


@pytest.mark.parametrize(
    ("covered", "least", "detected"), [(2, 0.1, 0), (3, 0.1, 1), (1, 0.0, 1), (0, 0.0, 0)]
)
def test_least_overlap_is_a_share_of_the_true_lesion(covered, least, detected):
    options = LesionOptions(least_overlap=least, least_ml=0.0)
    found = mask(np.s_[0, 0, 0:covered])
    assert count_lesions(found, mask(A), GRID, options).detected == detected


def test_one_found_lesion_detects_several_and_several_detect_one():
    wide = mask(np.s_[0:4, 0:20, 0:20])
    assert count_lesions(wide, mask(A, B, C), GRID) == LesionCount(3, 1, 3, 0)
    pieces = mask(np.s_[0, 0:5, 0:2], np.s_[0, 0:5, 3:5])
    assert count_lesions(pieces, mask(A), GRID, ANY) == LesionCount(1, 2, 1, 0)


def test_a_lesion_found_too_large_is_not_false():
    assert count_lesions(mask(np.s_[0, 0:20, 0:20]), mask(A), GRID).false == 0


@pytest.mark.parametrize(("least_ml", "expected"), [(0.25, 3), (0.26, 0), (0.0, 4)])
def test_small_lesions_are_not_counted(least_ml, expected):
    """Three lesions of 25 voxels, 0.25 ml, and a speck of one."""
    true = mask(A, B, np.s_[3, 0:5, 15:20], np.s_[0, 19, 19])
    count = count_lesions(true, true, GRID, LesionOptions(least_ml=least_ml))
    assert (count.true, count.found, count.detected) == (expected,) * 3


def test_a_small_found_piece_still_detects():
    found = mask(np.s_[0, 0, 0:3])
    count = count_lesions(found, mask(A), GRID, LesionOptions(least_ml=0.1))
    assert count == LesionCount(true=1, found=0, detected=1, false=0)


def test_refused():
    with pytest.raises(SettingsError, match="6, 18 or 26"):
        LesionOptions(connectivity=8)
    with pytest.raises(SettingsError, match="0 to 1"):
        LesionOptions(least_overlap=1.5)
    with pytest.raises(SettingsError, match="smallest lesion"):
        LesionOptions(least_ml=-1.0)
    with pytest.raises(GeometryError, match="Resample"):
        count_lesions(mask(A)[:2], mask(A), GRID)
