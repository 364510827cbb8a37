"""Head map, shells, vessels and territories, by properties that hold for every head."""

from __future__ import annotations

import numpy as np
import pytest

from strokect.phantom import anatomy, vessels
from strokect.phantom.haemodynamics import convolve_density, gamma_density


@pytest.fixture(scope="module")
def head() -> anatomy.Head:
    return anatomy.make_head(np.random.default_rng(4))


def test_the_head_map_inverts(head):
    points = np.random.default_rng(0).uniform(-70, 70, (3, 500))
    back = head.map.to_mni(head.map.from_mni(points))
    assert np.abs(back - points).max() < 0.05
    assert np.abs(head.map.to_mni(points) - points).max() > 1  # it does deform


def test_sample_is_exact_for_a_linear_function():
    affine = np.array([[2.0, 0, 0, -10], [0, 1.5, 0, 4], [0, 0, 3, 1], [0, 0, 0, 1]])
    z, y, x = np.indices((5, 6, 7)).astype(float)
    mm = np.stack([2 * x - 10, 1.5 * y + 4, 3 * z + 1])
    volume = (mm[0] + 2 * mm[1] - mm[2])[None].astype(np.float32)
    points = np.array([[-7.3, 0.1], [5.2, 9.9], [2.5, 11.0]])
    found = anatomy.sample(volume, affine, points)[0]
    np.testing.assert_allclose(found, points[0] + 2 * points[1] - points[2], atol=1e-3)


def test_the_head_is_the_same_on_every_grid(head):
    """Averaging a finer rendering gives the coarse one: partial volume is an average."""
    fine_grid = anatomy.scan_grid((4, 64, 64), (2.5, 3.0, 3.0), 15.0)
    coarse_grid = anatomy.scan_grid((2, 32, 32), (5.0, 6.0, 6.0), 15.0)
    fine = anatomy.render(head, fine_grid).grey
    coarse = anatomy.render(head, coarse_grid).grey
    mean = fine.reshape(2, 2, 32, 2, 32, 2).mean(axis=(1, 3, 5))
    assert np.abs(mean - coarse).max() < 0.05


def test_fractions_are_fractions(head):
    grid = anatomy.scan_grid((4, 64, 64), (20.0, 3.4, 3.4), 15.0)
    found = anatomy.render(head, grid)
    for part in (found.grey, found.white, found.csf, found.brain):
        assert part.min() >= 0 and part.max() <= 1 + 1e-5
    whole = found.grey + found.white + found.csf
    np.testing.assert_allclose(whole, found.brain, atol=0.02)


@pytest.mark.parametrize(
    ("mni", "inside"),
    [
        ((40, 0, 0), True),  # insula
        ((25, 0, 2), True),  # lentiform nucleus
        ((55, -5, 20), True),  # operculum
        ((50, -50, 25), True),  # angular region
        ((5, 40, 20), False),  # medial frontal: ACA
        ((5, -20, 55), False),  # paracentral: ACA
        ((10, -80, 5), False),  # calcarine: PCA
        ((10, -20, 8), False),  # thalamus: PCA
        ((-40, 0, 0), False),  # other side
    ],
)
def test_territories_of_known_places(head, mni, inside):
    point = head.map.from_mni(np.array(mni, float)[:, None])
    margin = vessels.mca_margin(vessels.tubes(head.map), "right", point)[0]
    assert (margin > 0) == inside


def test_transit_densities_conserve_contrast():
    time = np.arange(0, 200, 0.05)
    density = gamma_density(time, 4.5)
    assert np.trapezoid(density, time) == pytest.approx(1, abs=1e-4)
    assert np.trapezoid(density * time, time) == pytest.approx(4.5, abs=1e-3)
    pulse = np.exp(-(((time - 20) / 4) ** 2))
    out = convolve_density(pulse, 0.05, 2.5, 4.5)
    assert out.sum() == pytest.approx(pulse.sum(), rel=1e-4)
    assert (out * time).sum() / out.sum() - 20 == pytest.approx(7.0, abs=0.02)
