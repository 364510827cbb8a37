"""Head map, shells and tissues, by properties that hold for every head."""

from __future__ import annotations

import dataclasses

import numba
import numpy as np
import pytest

from strokect.core.errors import SettingsError
from strokect.core.types import Grid
from strokect.phantom import anatomy
from strokect.phantom.haemodynamics import convolve_density, gamma_density
from strokect.phantom.pathology import Pathology


@pytest.fixture(scope="module")
def head() -> anatomy.Head:
    return anatomy.make_head(np.random.default_rng(4))


def _points(grid: Grid) -> np.ndarray:
    z, y, x = np.indices(grid.shape).reshape(3, -1)
    return grid.affine[:3, :3] @ np.stack([x, y, z]) + grid.affine[:3, 3:]


def _hu_at(head: anatomy.Head, *mni: tuple[float, float, float]) -> np.ndarray:
    """HU at single MNI points."""
    found = []
    for point in head.map.from_mni(np.array(mni, float).T).T:
        affine = np.diag([0.1, 0.1, 0.1, 1.0])
        affine[:3, 3] = point
        found.append(float(anatomy.render(head, Grid((1, 1, 1), affine)).static_hu[0, 0, 0]))
    return np.array(found)


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


def test_a_tilted_grid_sees_the_same_head(head):
    """The same points give the same values, whatever the order and shear of the axes."""
    grid = anatomy.scan_grid((6, 40, 40), (8.0, 5.0, 5.0), 0.0)
    upright = anatomy.render(head, grid, fine_mm=10).static_hu
    shear = grid.affine.copy()
    shear[1, 2] = -5.0  # one row further per slice
    tilted = anatomy.render(head, Grid(grid.shape, shear), fine_mm=10).static_hu
    np.testing.assert_allclose(tilted[2, :-2], upright[2, 2:], atol=1e-3)
    assert np.abs(tilted[2] - upright[2]).max() > 100
    turned = grid.affine[:, [2, 1, 0, 3]]
    swapped = anatomy.render(head, Grid(grid.shape[::-1], turned), fine_mm=10).static_hu
    np.testing.assert_allclose(swapped.transpose(2, 1, 0), upright, atol=1e-3)


def test_a_seed_gives_the_same_bytes_on_any_number_of_threads():
    grid = anatomy.scan_grid((4, 40, 40), (20.0, 5.0, 5.0), -10.0)
    threads = numba.get_num_threads()
    first = anatomy.render(anatomy.make_head(np.random.default_rng(9)), grid)
    try:
        numba.set_num_threads(1)
        again = anatomy.render(anatomy.make_head(np.random.default_rng(9)), grid)
    finally:
        numba.set_num_threads(threads)
    for name in ("grey", "white", "csf", "brain", "static_hu", "leukoaraiosis"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()


def test_age_changes_only_what_ages():
    young, old = (anatomy.make_head(np.random.default_rng(6), age) for age in (45, 85))
    assert young.variation.scale == old.variation.scale
    assert young.variation.skull_mm == old.variation.skull_mm
    assert old.variation.atrophy > young.variation.atrophy
    drawn = anatomy.make_head(np.random.default_rng(6))
    assert 40 <= drawn.variation.age <= 90
    assert drawn.variation.rotation_deg == young.variation.rotation_deg
    with pytest.raises(SettingsError):
        anatomy.make_head(np.random.default_rng(6), 7.0)


def test_brains_have_human_volumes_and_fluid_grows_with_age():
    grid = anatomy.scan_grid((40, 52, 52), (4.4, 4.2, 4.2), 0.0)
    points = _points(grid)
    fluid = {}
    for age in (45.0, 85.0):
        for seed in (0, 1, 2):
            head = anatomy.make_head(np.random.default_rng(seed), age)
            found = anatomy.render(head, grid, fine_mm=4.5)
            tissue_ml = (found.grey + found.white).sum() * grid.voxel_ml
            assert 1000 < tissue_ml < 1500
            centre = head.map.from_mni(np.array([[0.0], [-20.0], [10.0]]))
            near = np.linalg.norm(points - centre, axis=0).reshape(grid.shape) < 35
            fluid[age, seed] = found.csf[near].sum() * grid.voxel_ml
    assert all(10 < v < 80 for v in fluid.values())
    assert all(fluid[85.0, s] > 1.2 * fluid[45.0, s] for s in (0, 1, 2))


def test_tissues_have_their_ct_numbers(head):
    grid = anatomy.scan_grid((20, 80, 80), (7.0, 2.4, 2.4), 15.0)
    found = anatomy.render(dataclasses.replace(head, pathology=Pathology()), grid, fine_mm=2.5)
    for share, low, high in ((found.grey, 36, 40), (found.white, 26, 31), (found.csf, 2, 10)):
        values = found.static_hu[share > 0.98]
        assert values.size > 50
        assert low < np.median(values) < high
        assert np.mean((values > low) & (values < high)) > 0.9  # the rest touches the falx
    inside = found.static_hu[found.brain > 0.99]
    assert np.mean((inside > 4) & (inside < 47)) > 0.995


def test_skull_base_face_and_neck_are_in_their_places(head):
    cord, medulla = _hu_at(head, (0, -46, -95), (0, -43, -66))
    assert 28 < cord < 40 and 25 < medulla < 42
    assert 0 < _hu_at(head, (0, -54, -76))[0] < 25  # CSF in the foramen magnum
    air = _hu_at(head, (26, 52, -68), (8.5, 14, -46), (0, -7, -104), (70, -22, -47.5), (0, 0, 200))
    assert (air < -950).all()
    assert (_hu_at(head, (33, 62, -42), (-33, 62, -42)) < 25).all()  # vitreous
    fat = _hu_at(head, (26, 44, -46), (27, 4, -86))
    assert ((fat > -110) & (fat < -70)).all()
    assert (_hu_at(head, (33, -24, -42), (28, 44, -98), (28, 52, -98)) > 1400).all()
    assert 150 < _hu_at(head, (0, -31, -121))[0] < 800  # cancellous bone of C3


def test_the_vault_is_closed_and_has_two_tables(head):
    """Along every ray from the middle of the brain: bone, with its cortex above 700 HU."""
    centre = head.map.from_mni(np.array([[8.0], [-25.0], [30.0]]))[:, 0]
    calm = dataclasses.replace(head, pathology=Pathology())
    rng = np.random.default_rng(2)
    for _ in range(25):
        way = rng.normal(size=3) * [1, 1, 0.5]
        way[2] = abs(way[2])
        way /= np.linalg.norm(way)
        affine = np.eye(4)
        affine[:3, :3] = 0.5 * np.linalg.qr(np.column_stack([way, np.eye(3)[:, :2]]))[0]
        affine[:3, 0] = 0.5 * way
        affine[:3, 3] = centre
        line = anatomy.render(calm, Grid((1, 1, 280), affine)).static_hu[0, 0]
        assert line.max() > 900
        bone = np.flatnonzero(line > 300)
        assert 2.0 < 0.5 * (bone[-1] - bone[0]) < 25
        assert line[-1] < -950
        within = line[: bone[0] - 4]
        assert within.max() < 50 and within.min() > 4


def test_transit_densities_conserve_contrast():
    time = np.arange(0, 200, 0.05)
    density = gamma_density(time, 4.5)
    assert np.trapezoid(density, time) == pytest.approx(1, abs=1e-4)
    assert np.trapezoid(density * time, time) == pytest.approx(4.5, abs=1e-3)
    pulse = np.exp(-(((time - 20) / 4) ** 2))
    out = convolve_density(pulse, 0.05, 2.5, 4.5)
    assert out.sum() == pytest.approx(pulse.sum(), rel=1e-4)
    assert (out * time).sum() / out.sum() - 20 == pytest.approx(7.0, abs=0.02)
