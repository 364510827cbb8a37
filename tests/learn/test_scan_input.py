"""Where a network looks, and the way back to the scan."""

import numpy as np
import pytest

from strokect.core.types import Grid
from strokect.learn.scan_input import ScanInput, field_of

SHAPE, SPACING = (4, 40, 50), (5.0, 2.0, 1.0)
GRID = Grid(SHAPE, np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0]))
BRAIN = np.zeros(SHAPE, bool)
BRAIN[1:, 10:30, 5:45] = True
WHOLE = (slice(0, 40), slice(0, 50))


def _input(where, image=None):
    if image is None:
        image = where.grids.to_network(BRAIN[None, None, :, *where.box].astype(np.float32))
    brain = where.grids.mask_to_network(BRAIN[:, *where.box])
    return ScanInput(image, brain, where.grids, where.box, BRAIN, np.zeros(SHAPE, np.float32))


def _shape(where):
    return where.grids.to_network(np.zeros((1, 1, *SHAPE))[..., *where.box]).shape[2:]


def test_nothing_asked_for_is_the_scan_itself():
    where = field_of(BRAIN, GRID, None, None, None)
    values = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    assert where.box == WHOLE
    assert (where.grids.to_network(values) == values).all()
    assert (_input(where).on_scan(values) == values).all()


@pytest.mark.parametrize(
    ("crop_mm", "box"),
    [
        (0.0, (slice(10, 30), slice(5, 45))),
        (4.0, (slice(8, 32), slice(1, 49))),  # 2 rows, 4 columns
        (7.0, (slice(6, 34), slice(0, 50))),  # no farther than the slice: 3.5 rows are 4
        (1000.0, WHOLE),
    ],
)
def test_a_margin_is_in_mm_and_ends_with_the_slice(crop_mm, box):
    assert field_of(BRAIN, GRID, None, None, crop_mm).box == box


def test_no_brain_is_the_whole_slice():
    assert field_of(BRAIN & False, GRID, None, None, 2.0).box == WHOLE


def test_a_voxel_size():
    where = field_of(BRAIN, GRID, (5.0, 4.0, 4.0), None, None)
    assert _shape(where) == (4, 20, 12)
    assert _shape(field_of(BRAIN, GRID, (10.0, 2.0, 1.0), None, 0.0)) == (2, 20, 40)


@pytest.mark.parametrize(
    ("pixels", "crop_mm", "shape"),
    [
        (40, None, (4, 40, 25)),  # 80 mm of rows are the longer side; 50 mm of columns
        (20, None, (4, 20, 12)),
        (38, None, (4, 38, 24)),  # exactly so many, near as that is to what there is
        (160, None, (4, 160, 100)),
        (20, 0.0, (4, 20, 20)),  # 40 mm x 40 mm of brain
    ],
)
def test_pixels_are_those_of_the_longer_side(pixels, crop_mm, shape):
    assert _shape(field_of(BRAIN, GRID, None, pixels, crop_mm)) == shape


@pytest.mark.parametrize(
    ("spacing_mm", "pixels", "crop_mm"),
    [(None, None, 4.0), ((5.0, 1.0, 1.0), None, 4.0), (None, 80, 4.0), (None, 20, None)],
)
def test_there_and_back(spacing_mm, pixels, crop_mm):
    where = field_of(BRAIN, GRID, spacing_mm, pixels, crop_mm)
    found = _input(where)
    back = found.on_scan(found.image)[0, 0]
    assert back.shape == SHAPE and back.dtype == np.float32
    assert 2 * ((back > 0.5) & BRAIN).sum() / ((back > 0.5).sum() + BRAIN.sum()) > 0.93
    outside = np.ones(SHAPE, bool)
    outside[:, *where.box] = False
    assert (back[outside] == 0).all()


def test_labels_are_brain_where_the_truth_says_nothing():
    where = field_of(BRAIN, GRID, None, None, 2.0)
    truth = np.zeros(SHAPE, np.uint8)
    truth[2, 12:20, 10:20], truth[2, 14:16, 12:14] = 2, 3
    truth[0, 20, 20] = 1  # a brain that the truth knows and the scan's own mask does not
    found = _input(where).labels_for_network(truth)
    expected = np.where(BRAIN & (truth == 0), 1, truth)[:, *where.box]
    assert found.dtype == np.uint8 and (found == expected).all()
    coarse = _input(field_of(BRAIN, GRID, (5.0, 4.0, 4.0), None, None)).labels_for_network(truth)
    assert coarse.shape == (4, 20, 12) and set(np.unique(coarse)) <= {0, 1, 2, 3}
    assert (coarse == 2).any()
