"""Denoisers against two tissues of known curves, with bone and vessels around."""

import numpy as np
import pytest

from strokect import catalog
from strokect.core.types import Grid
from strokect.perfusion.curves import noise_sd
from strokect.perfusion.denoise import DenoiseOptions

NAMES = sorted(set(catalog.DENOISERS) - {"none"})
SHAPE = (3, 48, 48)
GRID = Grid(SHAPE, np.diag([1.0, 1.0, 5.0, 1.0]))
TIME_S = np.arange(30.0)
NOISE_HU = 5.0
#: Enhancement of healthy and of badly perfused tissue: later, lower, wider.
HEALTHY = 10 * np.exp(-0.5 * ((TIME_S - 12) / 3) ** 2)
LESION = 4 * np.exp(-0.5 * ((TIME_S - 18) / 5) ** 2)

pytestmark = pytest.mark.parametrize("name", NAMES)


def denoise(name, data, mask, grid=GRID, **options):
    """Denoised curves (T, V) of the voxels of a scan (T, Z, Y, X) in the mask."""
    f = catalog.load("denoisers", name)
    return f(data[:, mask].astype(np.float32), mask, grid, DenoiseOptions(**options))


def volume(curves, mask):
    """Curves (T, V) as a scan (T, Z, Y, X), 0 outside the mask."""
    out = np.zeros((len(curves), *mask.shape), np.float32)
    out[:, mask] = curves
    return out


def two_tissues(noise_hu=NOISE_HU, shape=SHAPE, seed=0):
    """Grey matter of 38 HU that enhances, left of x = 24; a lesion of 30 HU right of it."""
    left = np.arange(shape[2]) < shape[2] // 2
    curve = np.where(left, (38 + HEALTHY)[:, None], (30 + LESION)[:, None])
    data = np.broadcast_to(curve[:, None, None], (TIME_S.size, *shape))
    noise = np.random.default_rng(seed).normal(0, noise_hu, data.shape) if noise_hu else 0.0
    return (data + noise).astype(np.float32), left


def round_brain():
    _, y, x = np.indices(SHAPE)
    return (y - 24) ** 2 + (x - 24) ** 2 < 18**2


def test_noise_falls_on_constant_tissue(name):
    data = 35 + np.random.default_rng(3).normal(0, NOISE_HU, (TIME_S.size, *SHAPE))
    out = denoise(name, data, np.ones(SHAPE, bool))
    assert np.median(noise_sd(out)) < 0.5 * NOISE_HU
    assert out.std() < 0.5 * NOISE_HU, "the mean over time is smoothed too"
    assert out.mean() == pytest.approx(35, abs=0.1)


def test_edge_keeps_its_contrast(name):
    """Away from the edge each tissue keeps its curve; across it, the step stays."""
    data, left = two_tissues()
    mask = np.ones(SHAPE, bool)
    out = volume(denoise(name, data, mask), mask)
    inner = out[:, :, 6:-6].mean(axis=(1, 2))  # (T, X)
    far = np.r_[6:20, 28:42]
    expected = np.where(left, (38 + HEALTHY)[:, None], (30 + LESION)[:, None])
    assert np.abs(inner - expected)[:, far].max() < 1.2
    # Two voxels from the edge, at the peak of healthy tissue.
    kept = (inner[12, 21] - inner[12, 26]) / (expected[12, 0] - expected[12, -1])
    assert kept > (0.95 if name == "nonlocal" else 0.7)


def test_the_default_keeps_the_edge_itself(name):
    """Guided averaging is there for the voxels right at the border of a lesion."""
    data, _ = two_tissues()
    mask = np.ones(SHAPE, bool)
    out = volume(denoise(name, data, mask), mask)[:, :, 6:-6].mean(axis=(1, 2))
    kept = (out[12, 23] - out[12, 24]) / (38 + HEALTHY[12] - 30 - LESION[12])
    assert kept > (0.85 if name == "nonlocal" else 0.1)
    assert kept < 1.1


def test_nothing_bleeds_across_the_mask(name):
    """Bone and a vessel outside the mask change no voxel of the brain."""
    data, _ = two_tissues()
    brain = round_brain()
    brain[:, 20:23, 20:23] = False  # the vessel
    bright = data.copy()
    bright[:, ~brain] = 1200.0
    bright[:, :, 20:23, 20:23] = 300.0 + 20 * HEALTHY[:, None, None, None]
    one, two = denoise(name, data, brain), denoise(name, bright, brain)
    assert np.array_equal(one, two)
    assert two.max() < 80


def test_border_and_lone_voxels_are_finite(name):
    data, _ = two_tissues()
    mask = round_brain()
    mask[0] = False
    mask[0, 1, 1] = True  # alone in its slice, nothing within reach
    mask[2, 0, 0] = True  # in the corner of the scan
    out = denoise(name, data, mask)
    assert np.isfinite(out).all()
    alone = volume(out, mask)[:, 0, 1, 1]
    assert alone == pytest.approx(data[:, 0, 1, 1], abs=1e-3)


def test_flat_scan_without_noise_stays(name):
    """No noise to measure is no reason to divide by it."""
    data, _ = two_tissues(noise_hu=0.0)
    flat = np.broadcast_to(data[:, :, :, :1], data.shape)
    mask = np.ones(SHAPE, bool)
    assert denoise(name, flat, mask) == pytest.approx(flat[:, mask], abs=1e-3)


def test_widths_are_in_mm(name):
    """A bright voxel spreads as far in mm on voxels of half the size."""
    reach = []
    for step_mm, n in ((2.0, 33), (1.0, 65)):
        grid = Grid((1, n, n), np.diag([step_mm, step_mm, 5.0, 1.0]))
        data = np.full((TIME_S.size, *grid.shape), 35.0)
        data[:, 0, n // 2, n // 2] += 1.0  # alike enough to be averaged by all
        mask = np.ones(grid.shape, bool)
        out = volume(denoise(name, data, mask, grid, range_hu=1e3, profile_hu=1e3, alike_hu=1e3),
                     mask)  # fmt: skip
        extra = out[0, 0] - 35.0
        extra[extra < 1e-4] = 0  # rounding
        y, x = (np.indices((n, n)) - n // 2) * step_mm
        reach.append(np.sqrt((extra * (y**2 + x**2)).sum() / extra.sum()))
    assert reach[0] > 2.0
    assert reach[1] == pytest.approx(reach[0], rel=0.15)


def test_same_bits_twice(name):
    data, _ = two_tissues()
    mask = round_brain()
    assert np.array_equal(denoise(name, data, mask), denoise(name, data, mask))


def test_interpolated_curves_are_denoised_as_well(name):
    """A shuttle scan has twice the points of its samples; their noise falls as much."""
    if name == "tips":
        pytest.skip("judges noise by second differences, and averages less there")
    data, left = two_tissues()
    coarse = data[::3]
    double = np.repeat(coarse, 2, axis=0)[:-1]
    double[1::2] = (coarse[:-1] + coarse[1:]) / 2
    mask = np.ones(SHAPE, bool)
    inner = (np.arange(SHAPE[2]) < 18) & left
    spread, expected = (
        volume(denoise(name, d, mask), mask)[::n, :, 6:-6, inner].std(axis=(1, 2, 3)).mean()
        for d, n in ((double, 2), (coarse, 1))
    )
    assert spread < 1.25 * expected
