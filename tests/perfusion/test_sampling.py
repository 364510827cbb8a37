import numpy as np
import pytest

from strokect.perfusion.curves import noise_sd
from strokect.perfusion.sampling import (
    interpolation_matrix,
    noise_correction,
    to_uniform,
    uniform_axis,
)


def bolus(t):
    return 100 * np.exp(-0.5 * ((t - 20) / 4) ** 2)


def test_uniform_simultaneous_scans_are_left_alone():
    times = np.arange(45.0)[:, None].repeat(3, axis=1)
    axis = uniform_axis(times)
    curves = np.random.default_rng(0).normal(size=(45, 6)).astype(np.float32)
    assert axis.exact
    assert to_uniform(curves, np.zeros(6, int), times, axis) is curves


@pytest.mark.parametrize(
    "frames",
    [
        np.r_[np.arange(0, 40, 1.0), np.arange(40, 70, 3.0)],  # two-phase
        np.cumsum(np.r_[0, np.random.default_rng(1).uniform(0.8, 1.2, 50)]),  # irregular
    ],
)
def test_irregular_times_give_the_same_bolus(frames):
    times = frames[:, None]
    axis = uniform_axis(times)
    assert not axis.exact
    out = to_uniform(bolus(frames)[:, None].astype(np.float32), np.zeros(1, int), times, axis)
    assert out[:, 0] == pytest.approx(bolus(axis.time_s), abs=1.0)


def test_shuttle_slices_agree_after_resampling():
    """Two table positions 1.5 s apart see the same bolus: no stripes may remain."""
    times = np.arange(0, 60, 3.0)[:, None] + np.array([0.0, 1.5])
    axis = uniform_axis(times)
    curves = bolus(times).astype(np.float32)
    out = to_uniform(curves, np.array([0, 1]), times, axis)
    inner = (axis.time_s > 2) & (axis.time_s < 55)
    assert np.abs(out[inner, 0] - out[inner, 1]).max() < 3.0
    assert np.abs(curves[:, 0] - curves[:, 1]).max() > 20.0  # what it would be unhandled


def test_operator_is_exact_for_quadratics_and_constants():
    t = np.array([0, 1, 2.5, 3, 5, 6, 8.0])
    x = np.linspace(0, 8, 50)
    w = interpolation_matrix(t, x)
    assert w.sum(axis=1) == pytest.approx(1.0)
    inner = (x >= 1) & (x <= 6)
    assert (w @ (t**2 - t))[inner] == pytest.approx((x**2 - x)[inner])


def test_held_constant_outside():
    w = interpolation_matrix(np.array([1.0, 2, 3]), np.array([0.0, 4]))
    assert w @ np.array([5.0, 6, 9]) == pytest.approx([5, 9])


SHUTTLE_3 = np.arange(0, 60, 3.0)[:, None] + np.array([0.0, 1.5])
SHUTTLE_2 = np.arange(0, 60, 2.0)[:, None] + np.array([0.0, 1.0])
SPARSE = np.arange(0, 64, 3.2)[:, None]
TWO_PHASE = np.r_[np.arange(0, 40, 1.0), np.arange(40, 61, 3.0)][:, None]


@pytest.mark.parametrize("times", [SHUTTLE_3, SHUTTLE_2, SPARSE, TWO_PHASE])
@pytest.mark.parametrize("height_hu", [0.0, 8.0])
def test_noise_of_interpolated_curves_is_known(times, height_hu):
    """Believed to hold as many samples as were acquired, each with its own noise, bolus or not."""
    axis = uniform_axis(times)
    slice_of = np.arange(4000) % times.shape[1]
    noise = np.random.default_rng(2).normal(0, 2.0, (len(times), slice_of.size))
    curves = (height_hu / 100 * bolus(times)[:, slice_of] + noise).astype(np.float32)
    curves = to_uniform(curves, slice_of, times, axis)
    seen = float(np.median(noise_sd(curves)))
    expected = 2.0 * np.sqrt(axis.time_s.size / len(times))
    assert seen < 0.8 * expected, "second differences alone see too little"
    found = seen * noise_correction(curves, times, axis)
    assert found == pytest.approx(expected, rel=0.2)


def test_no_correction_where_samples_lie_on_the_axis():
    times = np.arange(45.0)[:, None]
    curves = np.random.default_rng(0).normal(size=(45, 6)).astype(np.float32)
    assert noise_correction(curves, times, uniform_axis(times)) == 1.0
