"""Time points from numbers alone: what belongs together, what is missing."""

from __future__ import annotations

import numpy as np
import pytest

from strokect.core.errors import ScanError
from strokect.io.dicom_frames import (
    Frames,
    check_missing,
    drop_incomplete_ends,
    fill_times,
    match_frames,
)
from strokect.io.dicom_headers import clock_s


def index_of(times: np.ndarray, lost: list[tuple[int, int]]) -> np.ndarray:
    """match_frames of times (T, Z) without the lost ones, as the frame of each image kept."""
    kept = np.ones(times.shape, bool)
    for place in lost:
        kept[place] = False
    return match_frames([times[kept[:, z], z] for z in range(times.shape[1])]) >= 0


DENSE_THEN_SPARSE = np.cumsum([0, *[1.0] * 12, *[3.0] * 7])
OFFSETS = {
    "volume": np.linspace(0, 0.1, 8),
    "shuttle": np.repeat([0.0, 0.5], 4),
    "cine, far apart": np.repeat([0.0, 60.0], 4),
}


@pytest.mark.parametrize("offsets", OFFSETS.values(), ids=OFFSETS)
@pytest.mark.parametrize("frame", [1, 5, 12, 18])
def test_a_lost_image_is_found_where_it_was(offsets, frame):
    times = DENSE_THEN_SPARSE[:, None] + offsets
    found = index_of(times, [(frame, 5)])
    expected = np.ones(times.shape, bool)
    expected[frame, 5] = False
    np.testing.assert_array_equal(found, expected)


def test_every_position_lacks_another_frame():
    """No position is complete, yet the shared times tell the frames apart."""
    times = np.arange(8)[:, None] * 2.0 + np.linspace(0, 0.3, 4)
    lost = [(1, 0), (3, 1), (4, 2), (6, 3)]
    found = index_of(times, lost)
    assert found.shape == (8, 4)
    assert sorted(zip(*np.nonzero(~found), strict=True)) == lost


def _frames(missing: list[tuple[int, int]], shape: tuple[int, int] = (40, 8)) -> Frames:
    index = np.arange(shape[0] * shape[1]).reshape(shape)
    for place in missing:
        index[place] = -1
    return Frames(index, "Acquisition Time", 0, slice(0, shape[0]), shape[0])


def test_few_missing_images_pass():
    check_missing(_frames([(3, 2), (20, 7), (22, 7)]), np.arange(8.0), "scan")


@pytest.mark.parametrize(
    "missing",
    [
        [(3, 2), (4, 2)],  # two in a row: nothing to interpolate between
        [(2 * i + 2, 5) for i in range(5)],  # 12 % of one position
        [(2 * i + 2, z) for i in range(3) for z in range(6)],  # 5.6 % of all
        [(0, 0)],  # no earlier neighbour
        [(39, 0)],
    ],
)
def test_unsafe_missing_images_are_refused(missing):
    with pytest.raises(ScanError, match=f"{len(missing)} of 320 images are missing"):
        check_missing(_frames(missing), np.arange(8.0), "scan")


def test_only_few_incomplete_ends_are_dropped():
    few = drop_incomplete_ends(_frames([(0, 1), (39, 2), (38, 2)]))
    assert few.index.shape[0] == 37
    assert few.kept == slice(1, 38)
    many = _frames([(t, 1) for t in range(34, 40)])
    assert drop_incomplete_ends(many) is many


def test_filled_times_follow_the_other_slices():
    times = np.array([0.0, 1.0, 4.0])[:, None] + np.array([0.0, 0.2, 0.4])
    holed = times.copy()
    holed[1, 2] = np.nan
    np.testing.assert_allclose(fill_times(holed), times, atol=1e-12)


def test_clock():
    assert clock_s("120000.5") - clock_s("115959.25") == pytest.approx(1.25)
    assert clock_s("000001", "20240301") - clock_s("235959", "20240229") == pytest.approx(2.0)
    assert clock_s("12:00:01") == clock_s("120001")
    assert clock_s("1200") == clock_s("120000")
    assert clock_s("120000", "00000000") == clock_s("120000")
    assert clock_s("") is None
