"""What a network sees of a scan: resampling in time, normalisation, cropping."""

import numpy as np
import pytest

from strokect.core.errors import SettingsError
from strokect.learn.inputs import (
    InputOptions,
    brain_box,
    network_input,
    normalised,
    resampling_matrix,
)

RAW = InputOptions(
    time_points=20, interval_s=2.0, before_s=6.0, window_hu=(-1000, 3000), zscore=False,
    outside=None,
)  # fmt: skip
IRREGULAR = np.array([0.0, 0.9, 2.1, 3.0, 3.4, 5.0, 8.1, 11.0, 12.0, 15.5])


@pytest.mark.parametrize(
    "source", [np.arange(0, 40, 0.4), np.arange(0, 40, 1.5), np.arange(0, 40, 6.0), IRREGULAR]
)
def test_straight_lines_stay_straight(source):
    target = np.arange(source[0], source[-1], 1.5)
    found = resampling_matrix(source, target) @ (3 - 2 * source)
    assert found == pytest.approx(3 - 2 * target, abs=1e-4)


def test_coarse_samples_are_interpolated_linearly():
    source = np.array([0.0, 3.0, 5.0, 9.0])
    target = np.arange(0, 9, 1.0)
    curve = np.array([1.0, 7.0, -2.0, 4.0])
    found = resampling_matrix(source, target) @ curve
    assert found == pytest.approx(np.interp(target, source, curve), abs=1e-6)


def test_samples_at_the_targets_are_kept():
    at = np.arange(0, 30, 2.0)
    assert resampling_matrix(at, at) == pytest.approx(np.eye(len(at)), abs=1e-6)


def test_dense_samples_are_averaged_and_none_is_thrown_away():
    source, target = np.arange(0, 60, 0.25), np.arange(2, 58, 2.0)
    weights = resampling_matrix(source, target)
    inner = (source > 2) & (source < 56)
    assert weights.sum(axis=0)[inner] == pytest.approx(0.125, abs=0.02)  # all alike
    assert weights.sum(axis=1) == pytest.approx(1.0)
    noise = np.random.default_rng(0).normal(size=(len(source), 500))
    assert (weights @ noise).std() < 0.38  # eight samples a target: 0.354


def test_ends_are_held_and_one_sample_serves_all():
    source, target = np.array([4.0, 5.0, 6.0]), np.array([0.0, 3.0, 6.0, 9.0])
    curve = np.array([1.0, 2.0, 5.0])
    assert resampling_matrix(source, target) @ curve == pytest.approx([1, 1, 5, 5])
    assert (resampling_matrix(source[:1], target) == 1).all()


def _bolus(t):
    return 40.0 + 30.0 * np.exp(-0.5 * ((t - 22.0) / 5.0) ** 2)


def test_slices_of_other_times_show_the_same_curve():
    times = np.arange(0, 60, 1.0)[:, None] + np.array([0.0, 0.3, 0.8])
    data = np.broadcast_to(_bolus(times)[..., None, None], (60, 3, 4, 5))
    found = network_input(data.astype(np.float32), times, 10.0, RAW)[0]
    target = 4.0 + 2.0 * np.arange(20)
    assert found.shape == (20, 3, 4, 5)
    truth = np.broadcast_to(_bolus(target)[:, None, None, None], found.shape)
    assert found == pytest.approx(truth, abs=0.5)  # curvature only; the slope is 4 HU/s
    assert np.ptp(found, axis=1).max() < 0.5


def test_attenuation_is_cut_to_the_window_before_anything_is_averaged():
    times = np.arange(0, 60, 0.5)[:, None]
    data = np.zeros((120, 1, 1, 2), np.float32)
    data[:, :, :, 0] = np.where(np.arange(120) % 2, 2000, 0)[:, None, None]
    data[:, :, :, 1] = -1000
    options = InputOptions(
        time_points=5, interval_s=4.0, window_hu=(-20, 150), zscore=False, outside=None
    )
    found = network_input(data, times, 20.0, options)[0]
    assert found[..., 0] == pytest.approx(75, abs=8)
    assert (found[..., 1] == -20).all()


def test_channels_are_the_scan_above_its_baseline_and_the_baseline():
    times = np.arange(0, 60, 1.0)[:, None]
    data = np.where(times < 10, 30.0, 80.0)[..., None, None].astype(np.float32)
    options = InputOptions(
        time_points=20, interval_s=2.0, window_hu=(-1000, 3000), zscore=False, outside=None,
        channels=("baseline", "enhancement", "hu"),
    )  # fmt: skip
    baseline, above, hu = network_input(data, times, 10.0, options)[..., 0, 0, 0]
    assert (baseline == 30).all()
    assert above[:3] == pytest.approx(0) and above[5:] == pytest.approx(50)
    assert hu == pytest.approx(above + baseline)


def test_a_scan_that_starts_late_has_its_first_frame_as_baseline():
    times = 20.0 + np.arange(0, 40, 1.0)[:, None]
    data = (times - 20.0)[..., None, None].astype(np.float32) + 60
    options = InputOptions(
        time_points=10, interval_s=2.0, window_hu=(-1000, 3000), zscore=False, outside=None,
        channels=("enhancement",),
    )  # fmt: skip
    found = network_input(data, times, 15.0, options)[0, :, 0, 0, 0]
    first = 15.0 - 6.0 + 2.0 * np.arange(10)
    assert found == pytest.approx(np.maximum(first - 20, 0), abs=1e-4)


def test_normalised_over_brain_and_time_and_the_rest_set_apart():
    rng = np.random.default_rng(0)
    image = rng.normal([[30.0]], [[5.0]], (2, 300)).reshape(2, 6, 2, 5, 5).astype(np.float32)
    image[1] *= 7
    brain = rng.random((2, 5, 5)) < 0.5
    before = image.copy()
    found = normalised(image, brain, InputOptions(outside=-9.0))
    assert (image == before).all()
    for channel in found:
        assert channel[:, brain].mean() == pytest.approx(0, abs=1e-5)
        assert channel[:, brain].std() == pytest.approx(1, abs=1e-4)
    assert (found[:, :, ~brain] == -9).all()


def test_outside_can_be_kept_and_no_brain_is_no_division_by_zero():
    image = np.full((1, 3, 1, 2, 2), 5.0, np.float32)
    nothing, flat = np.zeros((1, 2, 2), bool), np.ones((1, 2, 2), bool)
    assert (normalised(image, nothing, InputOptions(outside=None)) == 5).all()
    assert (normalised(image, flat, InputOptions()) == 0).all()


def test_box_holds_the_brain_of_every_slice_with_its_margin():
    brain = np.zeros((3, 20, 30), bool)
    brain[0, 5, 10] = brain[2, 8, 25] = True
    assert brain_box(brain, (2, 7)) == (slice(3, 11), slice(3, 30))
    assert brain_box(np.zeros((3, 20, 30), bool), (2, 2)) == (slice(0, 20), slice(0, 30))


@pytest.mark.parametrize(
    "wrong",
    [
        {"time_points": 1},
        {"interval_s": 0.0},
        {"interval_s": float("nan")},
        {"interval_s": float("inf")},
        {"before_s": float("nan")},
        {"window_hu": (10.0, 10.0)},
        {"window_hu": (0.0, float("inf"))},
        {"channels": ()},
        {"crop_mm": -1.0},
        {"spacing_mm": (5.0, 0.0, 1.0)},
    ],
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(SettingsError, match=r"input"):
        InputOptions(**wrong)
