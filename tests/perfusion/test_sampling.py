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


@pytest.mark.parametrize(
    "frames", [np.arange(0, 64, 3.2), np.r_[np.arange(30), np.arange(32, 60, 3)]]
)
def test_noise_is_known_after_resampling(frames):
    """What is measured on resampled curves, corrected, is the noise of as many free samples."""
    times = frames[:, None].astype(float)
    axis = uniform_axis(times)
    noise = np.random.default_rng(0).normal(0, 2.0, (len(frames), 4000)).astype(np.float32)
    seen = np.median(noise_sd(to_uniform(noise, np.zeros(4000, int), times, axis)))
    expected = 2.0 * np.sqrt(axis.time_s.size / len(frames))
    assert seen < 1.0
    assert seen * noise_correction(times, axis) == pytest.approx(expected, rel=0.35)
