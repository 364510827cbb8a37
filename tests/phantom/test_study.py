"""One patient, three scans: consistent with each other, plausible, and the same every time."""

import dataclasses

import numpy as np
import pytest

from strokect.core.errors import SettingsError
from strokect.core.geometry import resample
from strokect.core.types import Volume
from strokect.phantom import scans
from strokect.phantom.clinical import DEFAULT_GROUPS
from strokect.phantom.study import draw_study, make_study
from strokect.phantom.vessels import SEGMENT_LABELS


def _number(site):
    """First patient of cohort 1 with this occlusion."""
    for number in range(1, 60):
        config = draw_study(1, number, DEFAULT_GROUPS, "small")
        if config.case.site == site:
            return config
    raise AssertionError(site)


@pytest.fixture(scope="module", params=["M1", "ICA", "M2", "ACA", "PCA", None])
def study(request):
    return make_study(_number(request.param))


@pytest.fixture(scope="module")
def m1():
    return make_study(_number("M1"))


def _on(volume, grid, order=1):
    return resample(volume.data, volume.grid, grid, order=order, fill=-1000.0)


def test_lesion_clot_and_side_agree(study):
    case, patient = study.config.case, study.ctp
    ml = patient.info["volumes_ml"]["hypoperfusion"]
    if case.site is None:
        assert ml == 0 and not study.cta.clot.data.any() and not study.ncct.clot.data.any()
        return
    assert ml > 10
    if case.site == "M1":
        assert 80 <= ml <= 250
    sign = 1 if case.side == "right" else -1
    for mask in (patient.masks["hypoperfusion"], study.cta.clot, study.ncct.clot):
        z, y, x = np.nonzero(mask.data)
        assert x.size, "nothing there"
        where = mask.grid.affine[:3] @ np.stack([x, y, z, np.ones_like(x)])
        assert sign * where[0].mean() > 0.5
    expected = study.info["clot"]["volume_ml"]
    assert study.cta.clot.volume_ml == pytest.approx(expected, rel=0.15, abs=0.003)


def test_the_clot_is_dense_without_and_dark_with_contrast(m1):
    clot = m1.cta.clot.data
    labels, image = m1.cta.vessels, m1.cta.image.data
    open_m1 = (labels == SEGMENT_LABELS["M1"]) & ~clot
    assert np.median(image[open_m1]) > np.median(image[clot]) + 60
    assert 55 <= m1.info["clot"]["hu"] <= 80


def test_a_clot_is_hyperdense_on_ncct(m1):
    """By its share of thick voxels: against the same vessel open, without noise."""
    quiet = dataclasses.replace(
        m1.config.ncct, noise_hu=0.0, slice_mm=1.0, matrix=256, pixel_mm=0.9
    )
    found = scans.ncct(m1.subject, dataclasses.replace(quiet, coverage_mm=150.0))
    inside = found.image.data[found.clot.data]
    assert 55 <= np.percentile(inside, 90) <= 80


def test_arteries_of_cta_are_bright_and_lie_where_perfusion_shows_them(m1):
    image, grid = m1.cta.image.data, m1.cta.image.grid
    artery = (m1.cta.vessels == SEGMENT_LABELS["ICA"]) | (m1.cta.vessels == SEGMENT_LABELS["BA"])
    assert np.median(image[artery]) > 180
    there = _on(Volume(m1.ctp.masks["artery"].data.astype(np.float32), m1.ctp.ctp.grid), grid) > 0.7
    assert np.median(image[there]) > np.median(image[there.shape[0] // 2]) + 30


def test_scans_show_one_head(m1):
    """Skull and brain of NCCT, CTA and CTP overlap in the common frame."""
    grid = m1.ctp.ctp.grid
    plain = _on(m1.ncct.image, grid) > 250
    bone = m1.ctp.baseline.data > 250
    inner = slice(1, -1)  # NCCT slices are thinner: the ends of thick ones differ
    both = (plain & bone)[inner].sum()
    assert 2 * both / (plain[inner].sum() + bone[inner].sum()) > 0.85


def test_the_same_config_gives_the_same_bytes(m1):
    again = make_study(m1.config)
    for one, two in ((m1.ncct, again.ncct), (m1.cta, again.cta)):
        assert one.image.data.tobytes() == two.image.data.tobytes()
        assert one.vessels.tobytes() == two.vessels.tobytes()
    assert m1.ctp.ctp.data_hu.tobytes() == again.ctp.ctp.data_hu.tobytes()
    assert m1.info == again.info


def test_a_patient_does_not_depend_on_which_others_are_drawn():
    alone = draw_study(1, 3, DEFAULT_GROUPS, "small")
    cohort = {k: draw_study(1, k, DEFAULT_GROUPS, "small") for k in (7, 5, 3, 2, 6, 1, 4)}
    assert cohort[3] == alone
    assert len({c.patient.seed for c in cohort.values()}) == len(cohort)
    assert len({c.case.age for c in cohort.values()}) == len(cohort)


def test_noise_that_is_given_changes_nothing_else():
    drawn, quiet = (draw_study(1, 3, DEFAULT_GROUPS, "small", n) for n in (None, 0.0))
    assert drawn.ctp.noise_hu > 0 and quiet.ctp.noise_hu == quiet.patient.noise_hu == 0
    assert quiet == dataclasses.replace(
        drawn,
        ctp=dataclasses.replace(drawn.ctp, noise_hu=0.0),
        patient=dataclasses.replace(drawn.patient, noise_hu=0.0),
    )


def test_sizes(m1):
    assert m1.ctp.ctp.data_hu.shape == (24, 8, 96, 96)
    with pytest.raises(SettingsError, match="tiny"):
        draw_study(1, 1, DEFAULT_GROUPS, "tiny")
