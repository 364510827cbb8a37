"""Between the grid of a scan and that of a network."""

import numpy as np
import pytest

from strokect.learn.spacing import regrid

SHAPE, SPACING = (6, 40, 48), (5.0, 1.0, 0.8)


def _smooth(shape, spacing):
    """A wave of 100 mm and more, at the centres of voxels."""
    z, y, x = ((i + 0.5) * s for i, s in zip(np.indices(shape), spacing, strict=True))
    return (np.sin(z / 20) + np.cos(y / 18) + np.sin(x / 16 + 1)).astype(np.float32)


@pytest.mark.parametrize("wanted", [None, SPACING, (5.2, 1.05, 0.75)])
def test_alike_sizes_are_left_as_they_are(wanted):
    grids, values = regrid(SHAPE, SPACING, wanted), _smooth(SHAPE, SPACING)
    mask, labels = values > 0, (values > 1).astype(np.uint8)
    assert (grids.to_network(values) == values).all()
    assert (grids.to_scan(values) == values).all()
    assert (grids.mask_to_network(mask) == mask).all()
    assert (grids.labels_to_network(labels) == labels).all()


@pytest.mark.parametrize("wanted", [(5.0, 2.0, 2.0), (10.0, 1.0, 0.8), (3.0, 0.5, 1.6)])
def test_a_smooth_image_is_the_same_image_on_the_other_grid_and_back(wanted):
    grids, values = regrid(SHAPE, SPACING, wanted), _smooth(SHAPE, SPACING)
    seen = grids.to_network(np.stack([values, -values]))
    shape = tuple(max(1, round(n * s / w)) for n, s, w in zip(SHAPE, SPACING, wanted, strict=True))
    assert seen.shape == (2, *shape)
    spacing = [n * s / m for n, s, m in zip(SHAPE, SPACING, shape, strict=True)]
    truth = _smooth(shape, spacing)
    inner = (slice(1, -1),) * 3
    assert seen[0][inner] == pytest.approx(truth[inner], abs=0.06)
    assert seen[1] == pytest.approx(-seen[0], abs=1e-6)
    back = grids.to_scan(seen)[0]
    assert back[:, 2:-2, 2:-2] == pytest.approx(values[:, 2:-2, 2:-2], abs=0.2)


def test_towards_larger_voxels_noise_is_averaged():
    noise = np.random.default_rng(0).normal(size=(4, 60, 60)).astype(np.float32)
    seen = regrid(noise.shape, (5.0, 1.0, 1.0), (5.0, 4.0, 4.0)).to_network(noise)
    assert seen.shape == (4, 15, 15)
    assert seen.std() < 0.32  # 16 voxels in each: 0.25


def test_constants_stay_and_volumes_agree():
    grids = regrid(SHAPE, SPACING, (7.0, 3.0, 2.0))
    ones = np.ones(SHAPE, np.float32)
    assert grids.to_network(ones) == pytest.approx(1, abs=1e-6)
    assert grids.to_scan(grids.to_network(ones)) == pytest.approx(1, abs=1e-6)
    mask = np.zeros(SHAPE, bool)
    mask[1:5, 8:32, 10:40] = True
    seen = regrid(SHAPE, SPACING, (5.0, 2.0, 1.6)).mask_to_network(mask)
    assert seen.mean() == pytest.approx(mask.mean(), rel=0.02)


def test_a_voxel_has_the_label_that_fills_most_of_it():
    labels = np.zeros((1, 8, 8), np.uint8)
    labels[:, :4, :4] = 3
    labels[:, 4:, 4:] = 1
    labels[:, 4, 4] = 2  # one of many
    seen = regrid((1, 8, 8), (5.0, 1.0, 1.0), (5.0, 4.0, 4.0)).labels_to_network(labels)
    assert seen.tolist() == [[[3, 0], [0, 1]]]
    assert seen.dtype == np.uint8
