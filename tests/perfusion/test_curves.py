import numpy as np
import pytest

from strokect.core.errors import CurveError
from strokect.perfusion.curves import (
    arrival_s,
    last_baseline_frame,
    noise_sd,
    parabolic_peak,
    shape_of,
    subtract_baseline,
)

TIME = np.arange(0, 50, 1.0)


def bolus(arrival=10.0, peak=200.0):
    t = np.maximum(TIME - arrival, 0)
    return (peak * (t / 4.5) ** 3 * np.exp(3 * (1 - t / 4.5))).astype(np.float32)


def test_noise_is_measured_under_a_bolus():
    rng = np.random.default_rng(0)
    curves = bolus(peak=15)[:, None] + rng.normal(0, 5, (50, 4000)).astype(np.float32)
    assert np.median(noise_sd(curves)) == pytest.approx(5.0, rel=0.06)


@pytest.mark.parametrize("arrival", [5.0, 10.0, 20.0])
def test_last_baseline_frame(arrival):
    rng = np.random.default_rng(1)
    curves = 40 + np.repeat(bolus(arrival)[:, None], 3000, axis=1) * rng.uniform(0, 1, 3000) ** 8
    curves = (curves + rng.normal(0, 5, curves.shape)).astype(np.float32)
    assert arrival - 2 <= last_baseline_frame(curves, 5.0) <= arrival


def test_baseline_ends_with_the_few_arteries_not_the_many_veins():
    curves = np.repeat(bolus(18.0, 250)[:, None], 5000, axis=1)
    curves[:, :200] = bolus(9.0, 250)[:, None]
    curves = (curves + np.random.default_rng(4).normal(40, 5, curves.shape)).astype(np.float32)
    assert 6 <= last_baseline_frame(curves, 5.0) <= 9


def test_no_contrast_is_refused():
    noise = np.random.default_rng(2).normal(40, 5, (50, 5000)).astype(np.float32)
    with pytest.raises(CurveError, match="no contrast bolus"):
        last_baseline_frame(noise, 5.0)


def test_a_single_spike_is_no_bolus():
    curves = np.random.default_rng(3).normal(40, 2, (50, 5000)).astype(np.float32)
    curves[20] += 150
    with pytest.raises(CurveError):
        last_baseline_frame(curves, 2.0)


def test_shape_of_a_known_curve():
    sigma = 3.0
    curve = (100 * np.exp(-0.5 * ((TIME - 20.3) / sigma) ** 2))[:, None]
    s = shape_of(curve, 1.0)
    width = 2 * sigma * np.sqrt(2 * np.log(2))
    assert s.peak_s[0] == pytest.approx(20.3, abs=0.05)
    assert s.width_s[0] == pytest.approx(width, abs=0.1)
    assert s.half_rise_s[0] == pytest.approx(20.3 - width / 2, abs=0.1)
    assert s.area[0] == pytest.approx(100 * sigma * np.sqrt(2 * np.pi), rel=1e-3)


def test_a_curve_that_never_falls_is_as_wide_as_the_scan():
    ramp = np.maximum(TIME - 10, 0)[:, None]
    assert shape_of(ramp, 1.0).width_s[0] > 15


def test_parabola_finds_the_vertex():
    x = np.arange(9.0)
    curve = (-((x - 4.3) ** 2))[:, None]
    assert parabolic_peak(curve, np.array([4])) == pytest.approx(4.3)
    assert parabolic_peak(curve, np.array([0])) == 0  # no vertex at an end


def test_arrival_and_baseline():
    assert arrival_s(bolus(12.0), 1.0) == pytest.approx(13.0, abs=1.0)
    curves = np.stack([bolus() + 37, bolus() + 5], axis=1)
    assert subtract_baseline(curves, 9)[:9] == pytest.approx(0, abs=1e-4)
