"""Noise, hardening, holder and metal against the physics they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from strokect.core.errors import SettingsError
from strokect.core.types import Grid
from strokect.phantom import artefacts
from strokect.phantom.reconstruction import coarse, projector

KERNELS = ("smooth", "standard", "sharp")


def grid_of(shape, spacing_mm):
    """Axial, as scans are stored: x to the left, y to the back, centred at 0."""
    dz, dy, dx = spacing_mm
    affine = np.diag([-dx, -dy, dz, 1.0])
    affine[:3, 3] = [(shape[2] - 1) / 2 * dx, (shape[1] - 1) / 2 * dy, -(shape[0] - 1) / 2 * dz]
    return Grid(shape, affine)


def plane_mm(grid):
    """x and y (Y, X), mm RAS, of the voxels of a slice."""
    _, ny, nx = grid.shape
    y, x = np.meshgrid(np.arange(ny), np.arange(nx), indexing="ij")
    return (grid.affine[i, 0] * x + grid.affine[i, 1] * y + grid.affine[i, 3] for i in (0, 1))


def skull(grid, radius_mm=80.0, bone_mm=7.0):
    """A round head: brain of 35 HU, bone of 1000 HU, air. The same in every slice."""
    x, y = plane_mm(grid)
    inner = radius_mm - bone_mm - np.hypot(x, y)
    plane = np.where(inner > 0, 35.0, np.where(inner > -bone_mm, 1000.0, -1000.0))
    return np.repeat(plane[None], grid.shape[0], 0).astype(np.float32), inner


def expected_correlation(distance_mm, kernel):
    """Hankel transform of f exp(-a f^2), in closed form: negative beyond about one FWHM."""
    fwhm = artefacts.KERNEL_FWHM_MM[kernel]
    return special.hyp1f1(1.5, 1.0, -2 * np.log(2) * (distance_mm / fwhm) ** 2)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("step_mm", [0.45, 0.9, 2.3])
def test_noise_has_the_autocorrelation_of_filtered_back_projection(kernel, step_mm):
    grid = grid_of((24, 160, 176), (5.0, step_mm, step_mm))
    n = artefacts.noise(np.random.default_rng(1), grid, 5.0, kernel).astype(np.float64)
    assert n.std() == pytest.approx(5.0, rel=0.01)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 1), (3, 0), (4, 3)):
        found = (n * np.roll(n, (dy, dx), (1, 2))).mean() / n.var()
        expected = expected_correlation(step_mm * np.hypot(dy, dx), kernel)
        assert found == pytest.approx(expected, abs=0.012)
    assert (n[1:] * n[:-1]).mean() / n.var() == pytest.approx(0, abs=0.01)


def test_noise_spectrum_vanishes_at_zero_and_peaks_between():
    """In fine images; the peak moves up with sharpness."""
    peaks = []
    for kernel in KERNELS:
        grid = grid_of((40, 128, 128), (5.0, 0.4, 0.4))
        n = artefacts.noise(np.random.default_rng(2), grid, 1.0, kernel)
        power = (np.abs(np.fft.fft2(n)) ** 2).mean(0)
        f = np.hypot(np.fft.fftfreq(128, 0.4)[:, None], np.fft.fftfreq(128, 0.4))
        bins = np.digitize(f, np.arange(0, 1.25, 0.05))
        radial = np.bincount(bins.ravel(), power.ravel()) / np.maximum(np.bincount(bins.ravel()), 1)
        assert power[0, 0] < 0.01 * radial[1:].max()
        peaks.append(0.05 * np.argmax(radial[1:]) + 0.025)
    assert peaks == pytest.approx([0.265 / artefacts.KERNEL_FWHM_MM[k] for k in KERNELS], abs=0.06)


def test_noise_repeats_and_follows_the_profile():
    grid = grid_of((5, 64, 64), (5.0, 0.9, 0.9))  # odd: the last pair is half used
    a, b = (artefacts.noise(np.random.default_rng(3), grid, 4.0, "smooth") for _ in range(2))
    assert a.tobytes() == b.tobytes()
    assert a.dtype == np.float32
    rng = np.random.default_rng(3)
    profile = np.linspace(0.5, 1.5, 64, dtype=np.float32) * np.ones(grid.shape, np.float32)
    many = np.stack([artefacts.noise(rng, grid, 4.0, "smooth", profile) for _ in range(60)])
    np.testing.assert_allclose(many.std((0, 1, 2)), 4 * profile[0, 0], rtol=0.05)
    # slices 0 and 3 share one transform, as its real and imaginary part
    flat = many.transpose(1, 0, 2, 3).reshape(5, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(5)).max() < 0.02
    assert np.abs(np.corrcoef(many[:, 0].reshape(60, -1))[0, 1:]).max() < 0.15
    with pytest.raises(SettingsError, match="kernel"):
        artefacts.noise(rng, grid, 4.0, "bone")  # type: ignore[arg-type]


def test_noise_profile_of_a_head():
    grid = grid_of((6, 128, 128), (5.0, 1.8, 1.8))
    hu, inner = skull(grid)
    profile = artefacts.noise_profile(hu, grid)
    assert profile[:, inner > 0].mean() == pytest.approx(1.0, abs=0.03)
    middle, rim = profile[3][inner > 55].mean(), profile[3][(inner > 2) & (inner < 8)].mean()
    assert 1.1 < middle / rim < 1.6
    # thick bone on both sides of the lower half: noisier, most of all between it
    x, y = plane_mm(grid)
    thick = hu.copy()
    thick[:3, (np.abs(x) > 25) & (np.abs(x) < 73) & (np.abs(y) < 10)] = 1200
    changed = artefacts.noise_profile(thick, grid)
    between = (np.abs(x) < 15) & (np.abs(y) < 6)
    beside = (np.abs(x) < 15) & (np.abs(y - 55) < 6)
    assert changed[1][between].mean() > 1.3 * changed[5][between].mean()
    assert changed[1][between].mean() > 1.3 * changed[1][beside].mean()


def test_noise_profile_without_a_skull_or_a_head():
    grid = grid_of((2, 40, 40), (5.0, 4.0, 4.0))
    air = artefacts.noise_profile(np.full(grid.shape, -1000, np.float32), grid)
    assert np.isfinite(air).all()
    assert air.mean() == pytest.approx(1, abs=0.05)
    water = artefacts.noise_profile(np.zeros(grid.shape, np.float32), grid)
    assert water[0, 20, 20] > 1.2 * water[0, 1, 20]


@pytest.mark.parametrize("kernel", KERNELS)
def test_blur_has_the_width_of_the_kernel_and_keeps_the_sum(kernel):
    grid = grid_of((2, 65, 65), (5.0, 0.3, 0.25))
    volume = np.zeros(grid.shape, np.float32)
    volume[0, 32, 32] = 1000
    out = artefacts.blur(volume, grid, kernel)
    assert out is volume
    assert out[0].sum() == pytest.approx(1000, rel=1e-4)
    assert (out[1] == 0).all()
    at = np.arange(65) - 32
    for axis, step in ((1, 0.3), (0, 0.25)):
        line = out[0].sum(axis)
        fwhm = 2.3548 * step * np.sqrt((line * at**2).sum() / line.sum())
        assert fwhm == pytest.approx(artefacts.KERNEL_FWHM_MM[kernel], rel=0.05)


def test_filtered_back_projection_returns_what_was_projected():
    lines = projector((64, 64), (3.6, 3.6), 60)
    y, x = np.mgrid[-31.5:32, -31.5:32] * 3.6
    disc = ((x - 20) ** 2 + y**2 < 60**2).astype(np.float32)[None]
    p = lines.forward(disc)
    assert p.sum(-1) * lines.width_mm == pytest.approx(disc.sum() * 3.6**2, rel=1e-4)
    assert p.max() == pytest.approx(120, rel=0.03)
    found = lines.reconstruct(p)[0]
    assert found[(x - 20) ** 2 + y**2 < 50**2].mean() == pytest.approx(1, abs=0.02)
    assert np.abs(found[(x - 20) ** 2 + y**2 > 72**2]).mean() < 0.02


def test_beam_hardening_brightens_the_rim_under_the_vault():
    grid = grid_of((3, 256, 256), (5.0, 0.9, 0.9))
    hu, inner = skull(grid)
    added = artefacts.beam_hardening(hu, grid)
    level = [added[1][(inner > a) & (inner < a + 4)].mean() for a in (4, 12, 24, 50)]
    assert 2 < level[0] < 4.5
    assert level[0] > level[1] > level[2] > level[3]
    assert level[3] < 0.5 * level[0]
    assert level[2] - level[3] < 0.5 * (level[0] - level[3])  # half gone after 20 mm
    soft = artefacts.beam_hardening(np.where(hu > 100, 40, hu), grid)
    assert (soft == 0).all()  # water-corrected: no bone, no error


def test_beam_hardening_darkens_between_the_petrous_bones():
    grid = grid_of((3, 256, 256), (5.0, 0.9, 0.9))
    hu, inner = skull(grid)
    x, y = plane_mm(grid)
    petrous = (np.abs(x) > 22) & (inner > 0) & (np.abs(y) < 9)
    hu[:, petrous] = 1300
    added = artefacts.beam_hardening(hu, grid)
    between = added[1][(np.abs(x) < 14) & (np.abs(y) < 5)]
    assert -10 < between.mean() < -3
    # the bar is narrow: 25 mm in front of it the brain is not dark
    assert added[1][(np.abs(x) < 14) & (np.abs(y - 30) < 5)].mean() > -1


def test_holder_lies_behind_the_head_and_is_made_of_thin_walls():
    grid = grid_of((4, 256, 256), (5.0, 1.0, 1.0))
    hu, _ = skull(grid)
    holder = artefacts.draw_holder(np.random.default_rng(4), hu, grid)
    assert -88 < holder.apex_y_mm < -80  # 2 to 6 mm behind the scalp
    holder = artefacts.HeadHolder(holder.apex_y_mm, shell_hu=100.0, pillow_hu=-950.0)
    shell = artefacts.table(grid, holder)
    before = hu.copy()
    out = artefacts.add_holder(hu, shell)
    assert out is hu
    x, y = plane_mm(grid)
    assert (hu[:, before[0] > -1000] == before[:, before[0] > -1000]).all()  # the head is whole
    midline = shell[1][np.abs(x) < 0.6].reshape(256, -1).mean(1)
    y_mid = y[:, 0]
    wall = (y_mid < holder.apex_y_mm) & (y_mid > holder.apex_y_mm - holder.thickness_mm)
    assert midline[wall].max() == pytest.approx(100, abs=60)
    assert np.median(midline[wall]) == pytest.approx(holder.foam_hu, abs=2)
    assert (midline[y_mid < holder.apex_y_mm - holder.thickness_mm - 2] == -1000).all()
    assert -960 < midline[(y_mid < -60) & (y_mid > -75)].mean() < -940
    assert (shell[:, y > 40] == -1000).all()  # nothing in front of the head
    # walls keep their mass whatever the voxel
    large = artefacts.table(grid_of((1, 64, 64), (5.0, 4.0, 4.0)), holder)
    assert (large + 1000).sum() * 16 == pytest.approx((shell[1] + 1000).sum(), rel=0.06)


def test_holder_of_a_tilted_scan_stays_along_the_table():
    grid = grid_of((5, 128, 128), (5.0, 2.0, 2.0))
    affine = grid.affine.copy()
    angle = np.radians(15)
    affine[1:3, 1] = [-2 * np.cos(angle), -2 * np.sin(angle)]
    tilted = Grid(grid.shape, affine)
    holder = artefacts.HeadHolder(-90.0)
    out = artefacts.table(tilted, holder)
    assert np.array_equal(out[0], out[4])  # steps go along z, as the holder does
    wall_y = tilted.affine[1, 1] * np.flatnonzero(out[0, :, 64] > -500)[0] + tilted.affine[1, 3]
    assert wall_y == pytest.approx(-90, abs=2.5)


@pytest.mark.parametrize("place", ["clip", "coil", (10.0, -5.0, 3.0)])
def test_metal_saturates_and_streaks_fall_off(place):
    grid = grid_of((14, 128, 128), (3.0, 1.8, 1.8))
    hu = np.full(grid.shape, 35, np.float32)
    rng = np.random.default_rng(5)
    added = artefacts.metal_streaks(rng, hu, grid, place)
    assert (hu == 35).all()
    z, y, x = np.unravel_index(np.argmax(added), grid.shape)
    assert 2000 < (hu + added)[z, y, x] <= 3072
    if not isinstance(place, str):
        point = grid.affine[:3, :3] @ [x, y, z] + grid.affine[:3, 3]
        assert np.linalg.norm(point - place) < 4
    iy, ix = np.indices((128, 128))
    r = 1.8 * np.hypot(iy - y, ix - x)
    near, far = (added[z][(r > a) & (r < b)] for a, b in ((10, 25), (60, 80)))
    assert near.std() > 1.8 * far.std() > 0
    assert near.min() < -60  # photon starvation
    assert near.max() > 20
    held = np.abs(added).max((1, 2)) > 0
    assert 1 <= held.sum() <= 4  # only slices that hold it


def test_metal_outside_the_scan_adds_nothing_and_unknown_metal_is_refused():
    grid = grid_of((4, 32, 32), (5.0, 6.0, 6.0))
    hu = np.zeros(grid.shape, np.float32)
    rng = np.random.default_rng(0)
    assert (artefacts.metal_streaks(rng, hu, grid, "dental") == 0).all()
    with pytest.raises(SettingsError, match="metal"):
        artefacts.metal_streaks(rng, hu, grid, "gold")  # type: ignore[arg-type]


def test_coarse_blocks_keep_the_mean_and_come_back():
    grid = grid_of((5, 33, 30), (5.0, 0.9, 0.9))
    ramp = np.indices(grid.shape).sum(0).astype(np.float32)
    low = coarse(ramp, grid)
    assert low.data.shape == (5, 9, 8)
    assert low.step_mm == pytest.approx((5.0, 3.6, 3.6))
    back = low.fine(low.data)
    np.testing.assert_allclose(back[:, 2:30, 2:26], ramp[:, 2:30, 2:26], atol=1e-4)


def test_artefacts_repeat_byte_for_byte():
    grid = grid_of((4, 96, 96), (10.0, 2.3, 2.3))
    hu, _ = skull(grid)
    make = (
        lambda: artefacts.beam_hardening(hu, grid),
        lambda: artefacts.noise_profile(hu, grid),
        lambda: artefacts.metal_streaks(np.random.default_rng(1), hu, grid, "coil"),
        lambda: artefacts.table(grid, artefacts.draw_holder(np.random.default_rng(1), hu, grid)),
    )
    for f in make:
        assert f().tobytes() == f().tobytes()
        assert f().dtype == np.float32
