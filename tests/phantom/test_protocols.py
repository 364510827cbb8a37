"""Protocols stay within practice; boluses follow the physiology they claim."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from strokect.core.errors import SettingsError
from strokect.core.geometry import LPS_TO_RAS
from strokect.core.types import Grid
from strokect.perfusion import inputs
from strokect.phantom import haemodynamics, protocols
from strokect.phantom.clinical import DEFAULT_GROUPS
from strokect.phantom.injection import Injection, bolus_from
from strokect.phantom.protocols import CtaProtocol
from strokect.phantom.study import draw_study


def centred(shape, spacing_mm):
    dz, dy, dx = spacing_mm
    affine = np.diag([-dx, -dy, dz, 1.0])
    affine[:3, 3] = [(shape[2] - 1) / 2 * dx, (shape[1] - 1) / 2 * dy, -(shape[0] - 1) / 2 * dz]
    return Grid(shape, affine)


def times_of(protocol):
    """Acquisition times (T, Z) and their offsets (Z,) within a frame, s."""
    offsets = protocols.slice_offsets(
        protocol.interval_s, protocol.shape[0], protocol.slice_times
    )  # fmt: skip
    return protocol.frames_s[:, None] + offsets, offsets


def many(draw, count=400, **options):
    rng = np.random.default_rng(0)
    return [draw(rng, **options) for _ in range(count)]


def test_perfusion_protocols_are_those_of_practice():
    drawn = many(protocols.draw_protocol)
    share = {k: v / 400 for k, v in Counter(p.mode for p in drawn).items()}
    assert share == pytest.approx({"uniform": 0.5, "two-phase": 0.3, "shuttle": 0.2}, abs=0.08)
    assert Counter(p.kvp for p in drawn).most_common(1)[0][0] == 80
    for p in drawn:
        assert 3 <= p.slice_mm <= 10
        assert 40 <= p.coverage_mm <= 160
        assert 2.5 <= p.noise_hu <= 9.5
        assert 35 <= p.injection.contrast_ml <= 50
        assert 4 <= p.injection.rate_ml_s <= 7
        assert 210 < p.matrix * p.pixel_mm < 245
        assert 3 <= p.shape[0] <= 40
        assert p.shape[0] * p.slice_mm == pytest.approx(p.coverage_mm, abs=p.slice_mm / 2)
        (times, offsets), steps = times_of(p), np.diff(p.frames_s)
        assert times.shape == (len(p.frames_s), p.shape[0])
        assert (np.diff(times, axis=0) > 0).all()
        assert 25 - 3 < times[-1, 0] <= 90
        if p.truncated:
            assert times[-1, 0] < 38
        elif p.mode == "two-phase":
            early = p.frames_s[:-1] < 40 - 1e-6
            assert set(steps[early].round(6)) == {1.0}
            assert set(steps[~early].round(6)) == {3.0}
            assert 66 < times[-1, 0] <= 90
        else:
            assert np.ptp(steps) < 1e-9
            assert 42 < times[-1, 0] <= 65
        apart = np.unique(offsets)
        assert len(apart) == (2 if p.mode == "shuttle" else 1)
        assert apart[-1] <= p.interval_s / 2
    assert 2 <= sum(p.truncated for p in drawn) <= 35


def test_the_same_seed_draws_the_same_and_sizes_share_their_draws():
    full = many(protocols.draw_protocol, 30)
    assert full == many(protocols.draw_protocol, 30)
    small = many(protocols.draw_protocol, 30, size="small")
    assert [p.kvp for p in small] == [p.kvp for p in full]
    for p in small:
        assert p.shape == (8, 96, 96)
        assert p.spacing_mm == (10.0, 2.3, 2.3)
        assert np.array_equal(times_of(p)[0], np.repeat(np.arange(24.0)[:, None] * 2, 8, 1))
        assert p.cardiac_output >= 0.8
    assert protocols.draw_protocol(np.random.default_rng(1), "small", 0.6).cardiac_output == 0.6
    with pytest.raises(SettingsError, match="size"):
        protocols.draw_protocol(np.random.default_rng(1), "huge")  # type: ignore[arg-type]


def test_plain_ct_and_angiography():
    plain = many(protocols.draw_ncct_protocol)
    assert {p.kvp for p in plain} == {120}
    assert np.mean([p.tilt_deg != 0 for p in plain]) == pytest.approx(0.3, abs=0.07)
    assert max(abs(p.tilt_deg) for p in plain) <= 20
    assert all(2.5 <= p.noise_hu * np.sqrt(p.slice_mm / 5) <= 4 for p in plain)
    assert all(220 <= p.pixel_mm * p.matrix <= 251 and p.matrix == 512 for p in plain)
    angio = many(protocols.draw_cta_protocol, cardiac_output=0.9)
    assert all(0.5 <= p.slice_mm <= 1 and p.coverage_mm >= 190 for p in angio)
    assert all(10.8 <= p.noise_hu <= 23 and -4 <= p.after_peak_s <= 8 for p in angio)
    assert {p.cardiac_output for p in angio} == {0.9}
    assert {p.bottom for p in angio} == {"c2"}  # the virtual head ends at the neck
    rng = np.random.default_rng(0)
    assert protocols.draw_ncct_protocol(rng, "small").shape == (28, 128, 128)
    assert protocols.draw_cta_protocol(rng, "small").shape == (100, 160, 160)


def bolus(contrast_ml=40.0, rate=5.0, kvp=80, output=1.0, delay_s=4.0):
    protocol = protocols.draw_protocol(np.random.default_rng(0), "small", output)
    injection = Injection(contrast_ml, rate, 350.0)
    return bolus_from(dataclasses.replace(protocol, kvp=kvp, injection=injection, delay_s=delay_s))


def test_the_peak_follows_iodine_flux_and_voltage():
    base = bolus()
    assert 180 < base["peak_hu"] < 450
    assert bolus(kvp=120)["peak_hu"] == pytest.approx(base["peak_hu"] / 1.65)
    assert bolus(kvp=70)["peak_hu"] == pytest.approx(base["peak_hu"] * 2.0 / 1.65, rel=0.01)
    # the same injection time at twice the rate: twice the iodine, the same shape
    twice = bolus(contrast_ml=80.0, rate=10.0)
    assert twice["peak_hu"] == pytest.approx(2 * base["peak_hu"])
    assert (twice["alpha"], twice["beta_s"]) == (base["alpha"], base["beta_s"])
    # the same iodine given more slowly: lower and wider
    slow = bolus(rate=2.5)
    assert slow["peak_hu"] < base["peak_hu"]
    assert width_s(slow) > width_s(base) + 1


def width_s(found):
    """Full width at half maximum of the gamma variate, s."""
    t = np.arange(0.01, 120, 0.01)
    curve = found["alpha"] * np.log(t) - t / found["beta_s"]
    return 0.01 * (curve > curve.max() - np.log(2)).sum()


def test_a_weak_heart_delays_and_widens_the_bolus():
    weak, strong = bolus(output=0.6), bolus(output=1.3)
    assert weak["arrival_s"] > strong["arrival_s"] + 8
    assert width_s(weak) > 1.5 * width_s(strong)
    # first-pass area: iodine over cardiac output
    areas = [b["peak_hu"] * area_of(b) for b in (weak, strong)]
    assert areas[0] / areas[1] == pytest.approx(1.3 / 0.6, rel=1e-3)
    assert bolus(delay_s=40.0)["arrival_s"] == 2.0


def area_of(found):
    t = np.arange(0, 400, 0.02)
    u = t / (found["alpha"] * found["beta_s"])
    return 0.02 * (u ** found["alpha"] * np.exp(found["alpha"] - t / found["beta_s"])).sum()


def test_peaks_agree_with_a_flow_phantom():
    """Kidoh 2017: 4 ml/s, 120 kVp; HU at 2.8 and 5.6 l/min. Long: falls; short: hardly changes."""

    def peak(litres_min, seconds):
        injection = Injection(4.0 * seconds, 4.0, 370.0)
        return bolus_from(
            CtaProtocol(120, 15, "smooth", 1, 190, 0.45, 512, injection, litres_min / 5.4, 0.0),
            behind=1.0,
        )["peak_hu"]

    assert peak(2.8, 20) == pytest.approx(420, rel=0.15)
    assert peak(5.6, 20) == pytest.approx(291, rel=0.15)
    assert peak(5.6, 2.5) == pytest.approx(55, rel=0.3)
    assert 0.8 < peak(2.8, 2.5) / peak(5.6, 2.5) < 1.2


def test_a_bolus_fits_the_haemodynamic_model():
    found = haemodynamics.Bolus(**bolus())
    time = np.arange(0, 90, 0.05)
    curve = haemodynamics.arterial_curve(found, time)
    assert curve.max() == pytest.approx(found.peak_hu)
    assert curve[time < found.arrival_s].max() == 0
    width = 0.05 * (curve > curve.max() / 2).sum()
    assert 8 < width < 14  # arterial first pass in CT perfusion
    with pytest.raises(SettingsError, match="kVp"):
        bolus(kvp=140)


def test_drawn_boluses_are_what_an_input_function_is_taken_for():
    """The true curve falls no faster, and comes back no higher, than what is told from motion."""
    time = np.arange(0, 150, 0.05)
    fastest, again = [], []
    for size in ("full", "small"):
        for number in range(1, 151):
            drawn = draw_study(1, number, DEFAULT_GROUPS, size).patient.bolus
            curve = haemodynamics.arterial_curve(drawn, time)
            fastest.append(-np.diff(curve).min() / 0.05 / curve.max())
            after = curve[np.argmax(curve) :]
            again.append((after - np.minimum.accumulate(after)).max() / curve.max())
    assert 0.1 < max(fastest) < inputs.FASTEST_FALL
    assert max(again) < inputs.SECOND_PASS


def test_tilted_grid_is_sheared_about_the_middle_of_its_slices():
    grid = centred((6, 100, 120), (5.0, 2.0, 1.5))
    found = protocols.tilted(grid, 18.0)
    assert found.spacing_mm == pytest.approx(grid.spacing_mm)
    for z in (0, 5):
        middle = [59.5, 49.5, z, 1]
        np.testing.assert_allclose(found.affine @ middle, grid.affine @ middle, atol=1e-9)
    front, back = (found.affine @ [59.5, y, 3, 1] for y in (0, 99))
    assert front[1] > back[1]
    assert front[2] - back[2] == pytest.approx(99 * 2 * np.sin(np.radians(18)))
    assert found.voxel_ml == pytest.approx(grid.voxel_ml * np.cos(np.radians(18)))
    assert protocols.tilted(grid, 0.0).same_as(grid, 1e-9)
    row, column, step = (LPS_TO_RAS @ found.affine)[:3, :3].T
    assert row @ column == pytest.approx(0)
    assert step[:2] == pytest.approx([0, 0])
