"""Noise, times and motion by their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from strokect.core.errors import SettingsError
from strokect.core.types import Grid
from strokect.phantom import protocols, scanner
from strokect.phantom.reconstruction import gaussian_noise

GRID = Grid((6, 128, 128), np.diag([-0.9, -0.9, 5.0, 1.0]))


def test_noise_keeps_its_sd_and_has_the_autocorrelation_of_its_kernel():
    """White noise through a Gaussian of width s correlates as exp(-d^2 / (4 s^2))."""
    rng = np.random.default_rng(0)
    n = np.stack([gaussian_noise(rng, GRID, 5.0, 0.8) for _ in range(8)]).astype(np.float64)
    assert n.std() == pytest.approx(5.0, rel=0.01)
    for axis in (-1, -2):
        for lag in (1, 2):
            found = (n * np.roll(n, lag, axis)).mean() / n.var()
            assert found == pytest.approx(np.exp(-((0.9 * lag) ** 2) / (4 * 0.8**2)), abs=0.02)
    assert (n * np.roll(n, 1, -3)).mean() / n.var() == pytest.approx(0, abs=0.02)  # slices
    assert (n[1:] * n[:-1]).mean() / n.var() == pytest.approx(0, abs=0.02)  # frames


def test_slice_offsets():
    assert protocols.slice_offsets(2.0, 4, "simultaneous").tolist() == [0.0] * 4
    assert protocols.slice_offsets(2.0, 4, "sequential").tolist() == [0.0, 0.5, 1.0, 1.5]
    assert protocols.slice_offsets(2.0, 4, "shuttle").tolist() == [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(SettingsError):
        protocols.slice_offsets(2.0, 4, "spiral")  # type: ignore[arg-type]


def test_rigid_turns_about_the_centre_of_the_grid():
    transform = scanner.rigid(np.array([1.0, 2.0, 3.0, 10.0, -5.0, 20.0]), GRID)
    centre = scanner.centre_mm(GRID)
    np.testing.assert_allclose(transform @ [*centre, 1], [*(centre + np.array([1, 2, 3])), 1])
    np.testing.assert_allclose(transform[:3, :3] @ transform[:3, :3].T, np.eye(3), atol=1e-12)
    turn = scanner.rigid(np.array([0, 0, 0, 0, 0, 90.0]), GRID)[:3, :3]
    np.testing.assert_allclose(turn @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_move_carries_a_blob_to_where_the_transform_says():
    z, y, x = np.indices(GRID.shape)
    at = np.array([40, 80, 3])
    blob = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 18 - (z - at[2]) ** 2 / 2)
    parameters = np.array([4.0, -3.0, 2.0, 2.0, 1.0, 8.0])
    moved = scanner.move(blob.astype(np.float32), GRID, parameters)
    centre = [float((moved * g).sum() / moved.sum()) for g in (x, y, z)]
    expected = np.linalg.inv(GRID.affine) @ scanner.rigid(parameters, GRID) @ GRID.affine
    np.testing.assert_allclose(centre, (expected @ [*at, 1])[:3], atol=0.15)


def ellipsoid(grid, fine=4):
    """An ellipsoid of 100 in 0, averaged over ``fine`` points along each edge of a voxel."""
    axes, centre = np.array([38.0, 26.0, 11.0]), np.array([4.0, -6.0, 1.0])
    nz, ny, nx = grid.shape
    out = np.zeros(grid.shape)
    z, y, x = np.indices(grid.shape)
    for oz, oy, ox in np.ndindex(fine, fine, fine):
        index = np.stack(
            [x + (ox + 0.5) / fine - 0.5, y + (oy + 0.5) / fine - 0.5, z + (oz + 0.5) / fine - 0.5]
        ).reshape(3, -1)
        points = grid.affine[:3, :3] @ index + grid.affine[:3, 3:]
        inside = (((points - centre[:, None]) / axes[:, None]) ** 2).sum(0) < 1
        out += 100 / fine**3 * inside.reshape(nz, ny, nx)
    return out.astype(np.float32)


def centred(shape, spacing_mm):
    dz, dy, dx = spacing_mm
    affine = np.diag([-dx, -dy, dz, 1.0])
    affine[:3, 3] = [(shape[2] - 1) / 2 * dx, (shape[1] - 1) / 2 * dy, -(shape[0] - 1) / 2 * dz]
    return Grid(shape, affine)


def test_rendering_on_the_moved_grid_is_the_moved_image_but_for_interpolation():
    parameters = np.array([3.0, -2.0, 1.5, 6.0, -3.0, 10.0])
    errors = []
    for spacing in ((3.0, 2.0, 2.0), (1.5, 1.0, 1.0)):
        shape = tuple(round(s / d) for s, d in zip((36, 96, 96), spacing, strict=True))
        grid = centred(shape, spacing)
        still = ellipsoid(grid)
        rendered = ellipsoid(scanner.moved_grid(grid, parameters))
        moved = scanner.move(still, grid, parameters)
        assert np.abs(rendered - still).mean() > 4 * np.abs(rendered - moved).mean()
        errors.append(np.abs(rendered - moved).mean())
        # centre of mass where the transform takes it
        at = [
            np.array([(v * g).sum() / v.sum() for g in np.indices(shape)[::-1]])
            for v in (still, rendered)
        ]
        mm = [grid.affine[:3, :3] @ a + grid.affine[:3, 3] for a in at]
        expected = (scanner.rigid(parameters, grid) @ [*mm[0], 1])[:3]
        np.testing.assert_allclose(mm[1], expected, atol=0.05)
    assert errors[1] < 0.6 * errors[0]  # interpolation error, so it falls with the voxel


def test_moved_grid_at_rest_is_the_grid():
    assert scanner.moved_grid(GRID, np.zeros(6)).same_as(GRID, 1e-9)


@pytest.mark.parametrize("kind", ["jump", "drift", "nod"])
def test_motion_is_zero_in_the_reference_frame(kind):
    spec = scanner.MotionSpec(kind, translation_mm=(0.0, 3.0, 4.0))
    motion = scanner.motion_of(spec, np.arange(20.0), np.ones(GRID.shape, bool), GRID)
    assert (motion.parameters[0] == 0).all()
    assert motion.displacement_mm.max() == pytest.approx(5.0)
    moved = np.flatnonzero(motion.displacement_mm > 0)
    assert len(moved) == {"jump": 12, "drift": 18, "nod": 3}[kind]
