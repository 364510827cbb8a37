"""From a CT perfusion scan to what networks are given, on a head whose truth is known."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from strokect.core.errors import CurveError, ScanError
from strokect.ctp_input import scan_input

sys.path.insert(0, str(Path(__file__).parent))
from tiny_head import ARRIVAL_S, OPTIONS, RISE_S, SHAPE, bolus, inside, make_head


@pytest.fixture(scope="module")
def head():
    return make_head()


@pytest.fixture(scope="module")
def seen(head):
    return scan_input(head, OPTIONS)


def _overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_brain_and_box_are_those_of_the_head(head, seen):
    assert _overlap(seen.brain, inside(10)) > 0.95
    rows, columns = (np.flatnonzero(seen.brain.any((0, axis))) for axis in (2, 1))
    margin = (2, 2)  # 6 mm of 3 and 2.5 mm
    assert seen.box == (
        slice(rows[0] - margin[0], rows[-1] + 1 + margin[0]),
        slice(columns[0] - margin[1], columns[-1] + 1 + margin[1]),
    )
    assert (seen.image_brain == seen.brain[:, *seen.box]).all()
    assert seen.image.shape == (1, 12, *seen.image_brain.shape)
    assert seen.image.dtype == np.float32
    assert seen.mean_hu == pytest.approx(head.data_hu.mean(axis=0), abs=1e-3)


def test_times_are_counted_from_the_arrival_of_contrast(seen):
    """Noise apart, the curve of every slice is the truth at the same times."""
    mean = np.stack([seen.image[0, :, z, seen.image_brain[z]].mean(0) for z in range(3)])
    mean -= mean[:, :2].mean()
    assert np.ptp(mean, axis=0).max() < 0.35
    arrived = ARRIVAL_S + RISE_S * 0.13  # where the curve leaves a tenth of its peak
    truth = bolus(arrived - 6.0 + 2.0 * np.arange(12))
    found = mean.mean(axis=0)
    assert found / found.max() == pytest.approx(truth / truth.max(), abs=0.1)


def test_attenuation_lies_in_the_window(seen):
    assert seen.image.min() >= -20 and seen.image.max() <= 150
    options = replace(OPTIONS, zscore=True, outside=0.0)
    found = scan_input(make_head(), options)
    values = found.image[0][:, found.image_brain]
    assert (values.mean(), values.std()) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-3))
    assert (found.image[0][:, ~found.image_brain] == 0).all()


def test_values_are_put_back_where_they_came_from(head, seen):
    whole = seen.on_scan(seen.image[0])
    assert whole.shape == (12, *SHAPE)
    assert (whole[:, :, *seen.box] == seen.image[0]).all()
    outside = np.ones(SHAPE, bool)
    outside[:, *seen.box] = False
    assert (whole[:, outside] == 0).all()


def test_no_margin_asked_for_keeps_the_slice(head):
    found = scan_input(head, replace(OPTIONS, crop_mm=None))
    assert found.box == (slice(0, SHAPE[1]), slice(0, SHAPE[2]))
    assert found.image.shape == (1, 12, *SHAPE)


def test_another_voxel_size_and_back(head):
    found = scan_input(head, replace(OPTIONS, spacing_mm=(8.0, 6.0, 5.0)))
    fine = scan_input(head, OPTIONS)
    rows, columns = fine.image.shape[-2:]
    assert found.image.shape[2:] == (3, round(rows / 2), round(columns / 2))
    share = fine.brain[:, *found.box].size / found.image_brain.size
    volume = head.grid.voxel_ml * share * found.image_brain.sum()
    assert volume == pytest.approx(head.grid.voxel_ml * fine.brain.sum(), rel=0.03)
    back = found.on_scan(found.image_brain.astype(np.float32)) > 0.5
    assert _overlap(back, found.brain) > 0.97


def test_a_scan_without_bolus_or_head_is_told():
    with pytest.raises(CurveError, match="NO_BOLUS"):
        scan_input(make_head(arrives=False), OPTIONS)
    air = make_head()
    with pytest.raises(ScanError):
        scan_input(replace(air, data_hu=np.full_like(air.data_hu, -1000.0)), OPTIONS)
