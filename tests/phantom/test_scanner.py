"""Noise, times and motion by their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from strokect.core.errors import SettingsError
from strokect.core.types import Grid
from strokect.phantom import scanner

GRID = Grid((6, 128, 128), np.diag([-0.9, -0.9, 5.0, 1.0]))


def test_noise_keeps_its_sd_and_has_the_autocorrelation_of_its_kernel():
    """White noise through a Gaussian of width s correlates as exp(-d^2 / (4 s^2))."""
    rng = np.random.default_rng(0)
    n = np.stack([scanner.noise(rng, GRID, 5.0, 0.8) for _ in range(8)]).astype(np.float64)
    assert n.std() == pytest.approx(5.0, rel=0.01)
    for axis in (-1, -2):
        for lag in (1, 2):
            found = (n * np.roll(n, lag, axis)).mean() / n.var()
            assert found == pytest.approx(np.exp(-((0.9 * lag) ** 2) / (4 * 0.8**2)), abs=0.02)
    assert (n * np.roll(n, 1, -3)).mean() / n.var() == pytest.approx(0, abs=0.02)  # slices
    assert (n[1:] * n[:-1]).mean() / n.var() == pytest.approx(0, abs=0.02)  # frames


def test_frame_times():
    same = scanner.frame_times(3, 2.0, 4, "simultaneous")
    assert same.tolist() == [[0.0] * 4, [2.0] * 4, [4.0] * 4]
    assert scanner.frame_times(2, 2.0, 4, "sequential")[1].tolist() == [2.0, 2.5, 3.0, 3.5]
    assert scanner.frame_times(2, 2.0, 4, "shuttle")[0].tolist() == [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(SettingsError):
        scanner.frame_times(2, 2.0, 4, "spiral")  # type: ignore[arg-type]


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


@pytest.mark.parametrize("kind", ["jump", "drift", "nod"])
def test_motion_is_zero_in_the_reference_frame(kind):
    spec = scanner.MotionSpec(kind, translation_mm=(0.0, 3.0, 4.0))
    motion = scanner.motion_of(spec, np.arange(20.0), np.ones(GRID.shape, bool), GRID)
    assert (motion.parameters[0] == 0).all()
    assert motion.displacement_mm.max() == pytest.approx(5.0)
    moved = np.flatnonzero(motion.displacement_mm > 0)
    assert len(moved) == {"jump": 12, "drift": 19, "nod": 3}[kind]
