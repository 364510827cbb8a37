"""The virtual patient against what it claims: truth, units, sides, times, determinism."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from strokect.core.errors import SettingsError
from strokect.perfusion.convolution import BLOOD
from strokect.phantom.patient import SMALL, PatientConfig, VirtualPatient, make_patient
from strokect.phantom.scanner import MotionSpec

QUIET = dataclasses.replace(SMALL, seed=3, noise_hu=0.0, whole_hu=False, side="left")


@pytest.fixture(scope="module")
def quiet() -> VirtualPatient:
    """No noise, no rounding, stroke on the left."""
    return make_patient(QUIET)


@pytest.fixture(scope="module")
def healthy() -> VirtualPatient:
    return make_patient(dataclasses.replace(QUIET, occlusion="none"))


def _mask(patient: VirtualPatient, name: str) -> np.ndarray:
    return patient.masks[name].data


def _map(patient: VirtualPatient, name: str) -> np.ndarray:
    return np.asarray(patient.maps[name].data, np.float64)


def _enhancement(patient: VirtualPatient) -> np.ndarray:
    return patient.ctp.data_hu - patient.baseline.data


def _mean_x(patient: VirtualPatient, name: str) -> float:
    _, _, x = np.nonzero(_mask(patient, name))
    affine = patient.ctp.grid.affine
    return float((affine[0, 0] * x + affine[0, 3]).mean())


def test_same_config_gives_the_same_bytes_and_another_seed_does_not():
    config = dataclasses.replace(SMALL, seed=7, n_times=3)
    one, two = make_patient(config), make_patient(config)
    other = make_patient(dataclasses.replace(config, seed=8))
    assert one.ctp.data_hu.tobytes() == two.ctp.data_hu.tobytes()
    for name in one.maps:
        assert one.maps[name].data.tobytes() == two.maps[name].data.tobytes()
    assert json.dumps(one.info) == json.dumps(two.info)
    assert np.abs(one.baseline.data - other.baseline.data).max() > 100  # another head


def test_the_stroke_lies_on_its_side(quiet):
    right = make_patient(dataclasses.replace(QUIET, n_times=2, side="right"))
    for patient, side, sign in ((quiet, "left", -1), (right, "right", 1)):
        assert patient.side == side == patient.info["side"]
        for name in ("core", "penumbra", "clot"):
            assert sign * _mean_x(patient, name) > 10


def test_without_a_stroke_nothing_is_hypoperfused_and_the_head_is_the_same(quiet, healthy):
    assert healthy.side is None
    for name in ("hypoperfusion", "core", "penumbra", "clot"):
        assert not _mask(healthy, name).any()
    assert _map(healthy, "tmax").max() < 6
    assert np.array_equal(_mask(quiet, "brain"), _mask(healthy, "brain"))
    for name in ("aif_hu", "vof_hu"):
        assert np.array_equal(quiet.curves[name], healthy.curves[name])


def test_tissue_curves_equal_a_direct_convolution_of_the_truth(quiet):
    """Independent of tissue_curves: trapezoids in float64, closed form of the gamma residue."""
    clean = _mask(quiet, "brain") & (quiet.fractions["vessel"].data == 0)
    rng = np.random.default_rng(0)
    flow_to_cbf = 6000 * (0.55 / 0.75) / 1.04
    assert BLOOD.flow_to_cbf == pytest.approx(flow_to_cbf)
    fine, aif = quiet.curves["dense_time_s"], quiet.curves["dense_aif_hu"]
    times = quiet.ctp.times_s[:, 0]
    for name in ("core", "penumbra", "grey", "white"):
        where = np.argwhere(_mask(quiet, name) & clean)
        for z, y, x in where[rng.choice(len(where), 6, replace=False)]:
            cbf, mtt, delay = (_map(quiet, m)[z, y, x] for m in ("cbf", "mtt", "delay"))
            lag = times[:, None] - delay - fine[None, :]
            u = 3 * np.maximum(lag, 0) / mtt
            residue = np.where(lag >= 0, np.exp(-u) * (1 + u + u**2 / 2), 0)
            expected = cbf / flow_to_cbf * np.trapezoid(aif * residue, fine, axis=1)
            found = _enhancement(quiet)[:, z, y, x]
            np.testing.assert_allclose(found, expected, atol=0.01 * expected.max() + 0.01)


def test_maps_obey_the_central_volume_theorem_and_the_stated_tmax(quiet):
    tissue = _mask(quiet, "tissue")
    cbf, cbv, mtt, delay, tmax = (
        _map(quiet, n)[tissue] for n in ("cbf", "cbv", "mtt", "delay", "tmax")
    )
    np.testing.assert_allclose(mtt, 60 * cbv / cbf, rtol=1e-4)
    np.testing.assert_allclose(tmax, delay + mtt / 2, rtol=1e-5)
    for name in quiet.maps:
        assert (_map(quiet, name)[quiet.fractions["brain"].data == 0] == 0).all()


@pytest.mark.parametrize(
    ("tissue", "quantity", "low", "high"),
    [
        ("grey", "cbf", 46, 72),
        ("grey", "cbv", 3, 5),
        ("grey", "mtt", 3, 5.5),
        ("white", "cbf", 18, 30),
        ("white", "cbv", 1.5, 2.5),
        ("white", "mtt", 4, 6.5),
    ],
)
def test_healthy_tissue_has_normal_perfusion(healthy, tissue, quantity, low, high):
    pure = (healthy.fractions[tissue].data > 0.93) & _mask(healthy, tissue)
    assert pure.sum() > 100
    values = _map(healthy, quantity)[pure]
    assert low <= np.percentile(values, 2) and np.percentile(values, 98) <= high


def test_delays_are_normal_outside_the_stroke(healthy):
    delay = _map(healthy, "delay")[_mask(healthy, "tissue")]
    assert delay.min() >= 0 and delay.max() <= 2 and np.ptp(delay) > 1


def test_the_stroke_is_as_described(quiet, healthy):
    core, penumbra = _mask(quiet, "core"), _mask(quiet, "penumbra")
    for name, mask, low, high in (
        ("cbf", core, 0.05, 0.3),
        ("cbv", core, 0.3, 0.6),
        ("cbf", penumbra, 0.35, 0.75),
        ("cbv", penumbra, 0.85, 1.25),
    ):
        ratio = np.median(_map(quiet, name)[mask] / _map(healthy, name)[mask])
        assert low < ratio < high, (name, ratio)
    assert 6 <= np.median(_map(quiet, "delay")[core]) <= 9
    assert 4.5 <= np.median(_map(quiet, "delay")[penumbra]) <= 7
    assert 7 < np.median(_map(quiet, "tmax")[penumbra]) < np.median(_map(quiet, "tmax")[core])


def test_masks_follow_the_rule_from_the_maps(quiet):
    """Hypoperfusion Tmax > 6 s, core CBF < 0.30 of the other hemisphere's mean in it."""
    tissue, hypoperfusion = _mask(quiet, "tissue"), _mask(quiet, "hypoperfusion")
    cbf, tmax = _map(quiet, "cbf"), _map(quiet, "tmax")
    x = np.arange(tissue.shape[2])
    right = quiet.ctp.grid.affine[0, 0] * x + quiet.ctp.grid.affine[0, 3] > 5
    reference = cbf[tissue & right].mean()
    late = tissue & (tmax > 6)
    assert (late & hypoperfusion).sum() == hypoperfusion.sum() > 0.97 * late.sum()
    rule = hypoperfusion & (cbf < 0.30 * reference)
    core = _mask(quiet, "core")
    assert 2 * (rule & core).sum() / (rule.sum() + core.sum()) > 0.95
    assert np.array_equal(_mask(quiet, "penumbra"), hypoperfusion & ~core)


@pytest.mark.parametrize("seed", [1, 2])
def test_volumes_come_near_the_ones_asked_for(seed):
    config = dataclasses.replace(SMALL, n_times=2, core_ml=40.0, hypoperfusion_ml=140.0)
    volumes = make_patient(dataclasses.replace(config, seed=seed)).info["volumes_ml"]
    assert volumes["core"] == pytest.approx(40, rel=0.3)
    assert volumes["hypoperfusion"] == pytest.approx(140, rel=0.2)


def test_arteries_and_veins_enhance_as_the_true_curves_damped_by_partial_volume(healthy):
    share = healthy.fractions["vessel"].data
    for name, curve in (("artery", "aif_hu"), ("vein", "vof_hu")):
        mask = _mask(healthy, name)
        truth = healthy.curves[curve]
        for z, y, x in np.argwhere(mask)[:: max(1, mask.sum() // 10)]:
            area = _enhancement(healthy)[:, z, y, x].sum() / truth.sum()
            assert area == pytest.approx(share[z, y, x], rel=0.12)


def test_contrast_is_conserved_between_artery_and_vein(quiet):
    """The venous area lags by its mean transit time and is otherwise equal."""
    time, aif, vof = (quiet.curves[f"dense_{n}"] for n in ("time_s", "aif_hu", "vof_hu"))
    bolus = quiet.info["bolus"]
    lag = bolus["venous_delay_s"] + bolus["venous_transit_s"]
    until = time <= time[-1] - lag
    assert np.trapezoid(vof, time) == pytest.approx(
        np.trapezoid(aif[until], time[until]), rel=0.005
    )
    assert time[vof.argmax()] - time[aif.argmax()] == pytest.approx(lag, abs=2.5)


def test_the_bolus_is_realistic(quiet):
    time, aif = quiet.curves["dense_time_s"], quiet.curves["dense_aif_hu"]
    assert 8 <= quiet.info["arrival_s"] <= 12
    assert (aif[time < quiet.info["arrival_s"]] == 0).all()
    assert 200 <= aif.max() <= 350
    width = np.ptp(time[aif > aif.max() / 2])
    assert 6 <= width <= 11
    peaks = _enhancement(quiet).max(axis=0)
    clean = quiet.fractions["vessel"].data == 0
    grey = clean & _mask(quiet, "grey") & ~_mask(quiet, "hypoperfusion")
    assert 5 < np.median(peaks[grey]) < 20


def test_ct_numbers_of_tissues(quiet):
    hu, part = quiet.baseline.data, {k: v.data for k, v in quiet.fractions.items()}
    away = part["vessel"] == 0
    healthy = away & ~_mask(quiet, "hypoperfusion")
    assert 37 <= np.median(hu[healthy & (part["grey"] > 0.93)]) <= 41
    assert 27 <= np.median(hu[healthy & (part["white"] > 0.95)]) <= 31
    assert 4 <= np.median(hu[away & (part["csf"] > 0.97)]) <= 9
    assert (hu[:, :3, :3] == -1000).all()
    for z in range(2, hu.shape[0]):  # a closed skull above the frontal sinus, in rows and columns
        inside = part["brain"][z] > 0.9
        bone = hu[z] > 200
        for axis in (0, 1):
            before = np.maximum.accumulate(bone, axis=axis)
            after = np.flip(np.maximum.accumulate(np.flip(bone, axis), axis=axis), axis)
            assert (before & after)[inside].mean() > 0.999


def test_slices_are_seen_at_their_own_times(quiet):
    late = make_patient(dataclasses.replace(QUIET, slice_times="sequential"))
    times = late.ctp.times_s
    assert times[0, -1] == pytest.approx(2.0 * 7 / 8)
    np.testing.assert_array_equal(late.ctp.data_hu[:, 0], quiet.ctp.data_hu[:, 0])
    top = _mask(quiet, "grey")[-1] & (quiet.fractions["vessel"].data[-1] == 0)
    shifted = _enhancement(late)[:, -1][:, top].mean(axis=1)
    reference = _enhancement(quiet)[:, -1][:, top].mean(axis=1)
    expected = np.interp(times[:, -1], quiet.ctp.times_s[:, 0], reference)
    assert np.abs(shifted - expected)[:-1].max() < 0.05 * reference.max()
    assert np.abs(shifted - reference).max() > 0.2 * reference.max()


def test_irregular_frames_are_taken_as_given():
    frames = (0.0, 5.0, 12.0, 14.0, 16.0, 30.0)
    patient = make_patient(dataclasses.replace(SMALL, frame_times_s=frames))
    assert patient.ctp.data_hu.shape[0] == 6
    np.testing.assert_allclose(patient.ctp.times_s[:, 0], frames)


def test_noise_has_the_sd_asked_for(quiet):
    noisy = make_patient(dataclasses.replace(QUIET, noise_hu=7.0))
    difference = (noisy.ctp.data_hu - quiet.ctp.data_hu)[:, _mask(quiet, "brain")]
    assert difference.std() == pytest.approx(7.0, rel=0.02)
    assert abs(difference.mean()) < 0.1


def test_whole_hu_like_a_scanner():
    data = make_patient(dataclasses.replace(SMALL, n_times=2)).ctp.data_hu
    assert np.array_equal(data, np.rint(data)) and data.min() >= -1024


def test_a_jump_moves_the_later_frames_by_the_stated_shift(quiet):
    spacing = QUIET.spacing_mm[2]
    spec = MotionSpec("jump", translation_mm=(2 * spacing, 0.0, 0.0), at=0.5)
    moved = make_patient(dataclasses.replace(QUIET, motion=spec))
    n = QUIET.n_times // 2
    np.testing.assert_array_equal(moved.ctp.data_hu[:n], quiet.ctp.data_hu[:n])
    # The x index runs to the patient's left, against RAS x: +x moves the head to lower indices.
    step = int(np.sign(quiet.ctp.grid.affine[0, 0])) * 2
    expected = np.roll(quiet.ctp.data_hu[n:], step, axis=3)
    assert np.abs(moved.ctp.data_hu[n:] - expected)[..., 4:-4].max() < 1
    assert moved.motion.displacement_mm[n:] == pytest.approx(2 * spacing)
    assert (moved.motion.parameters[:n] == 0).all()


@pytest.mark.parametrize(
    "bad",
    [
        {"side": "up"},
        {"occlusion": "mca"},
        {"collateral": 4},
        {"noise_hu": -1.0},
        {"interval_s": 0.0},
        {"n_times": 0},
    ],
)
def test_bad_configs_are_refused(bad):
    with pytest.raises(SettingsError):
        PatientConfig(**bad)
