"""Structural similarity against the formulas of Wang 2004 written out, window by window."""

import numpy as np
import pytest

from strokect.core.errors import GeometryError, SettingsError
from strokect.evaluate.ssim import ssim, ssim_map

SPAN = 80.0


def window_by_window(x, y, mask, span):
    """Equations 13 to 16 of Wang 2004 for every voxel of one slice, weights kept to the mask."""
    offsets = np.arange(-5, 6)
    kernel = np.exp(-(offsets**2) / (2 * 1.5**2))
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    out = np.full(x.shape, np.nan)
    for i, j in np.argwhere(mask):
        total, picked = 0.0, []
        for a, wa in zip(offsets, kernel, strict=True):
            for b, wb in zip(offsets, kernel, strict=True):
                p, q = i + a, j + b
                if 0 <= p < x.shape[0] and 0 <= q < x.shape[1] and mask[p, q]:
                    picked.append((wa * wb, x[p, q], y[p, q]))
                    total += wa * wb
        w, u, v = np.array(picked).T
        w = w / total
        mu, mv = (w * u).sum(), (w * v).sum()
        su, sv = (w * (u - mu) ** 2).sum(), (w * (v - mv) ** 2).sum()
        suv = (w * (u - mu) * (v - mv)).sum()
        out[i, j] = ((2 * mu * mv + c1) * (2 * suv + c2)) / (
            (mu**2 + mv**2 + c1) * (su + sv + c2)
        )  # fmt: skip
    return out


@pytest.fixture
def pair():
    rng = np.random.default_rng(5)
    true = rng.gamma(2, 20, (2, 18, 15))
    return true + rng.normal(0, 10, true.shape), true


def test_as_wang_has_it_in_a_mask_with_a_hole(pair):
    found, true = pair
    mask = np.ones(true.shape, bool)
    mask[:, :4, :6] = False
    mask[1, 9:12, 9:12] = False
    got = ssim_map(found, true, mask, SPAN)
    for z in range(2):
        wanted = window_by_window(found[z], true[z], mask[z], SPAN)
        np.testing.assert_allclose(got[z], wanted, rtol=1e-9, equal_nan=True)
    assert ssim(found, true, mask, SPAN) == pytest.approx(np.nanmean(got))


def test_constant_maps_differ_in_luminance_alone():
    a, b, c1 = 40.0, 20.0, (0.01 * SPAN) ** 2
    ones = np.ones((1, 12, 12))
    wanted = (2 * a * b + c1) / (a**2 + b**2 + c1)
    assert ssim(a * ones, b * ones, ones > 0, SPAN) == pytest.approx(wanted)


def test_equal_maps_are_1_and_slices_do_not_touch(pair):
    found, true = pair
    mask = np.ones(true.shape, bool)
    assert ssim(true, true, mask, SPAN) == pytest.approx(1.0)
    mixed = np.stack([found[0], true[1]])
    got = ssim_map(mixed, true, mask, SPAN)
    assert np.allclose(got[1], 1.0) and got[0].max() < 1


def test_what_lies_outside_the_mask_does_not_count(pair):
    found, true = pair
    mask = np.zeros(true.shape, bool)
    mask[:, 3:12, 4:11] = True
    bare = ssim_map(found, true, mask, SPAN)
    odd = np.where(mask, found, np.nan), np.where(mask, true, 1e9)
    np.testing.assert_array_equal(ssim_map(*odd, mask, SPAN), bare)


def test_empty_mask_and_refusals(pair):
    found, true = pair
    empty = np.zeros(true.shape, bool)
    assert np.isnan(ssim(found, true, empty, SPAN))
    with pytest.raises(GeometryError):
        ssim(found[:1], true, empty, SPAN)
    with pytest.raises(SettingsError):
        ssim(found, true, empty, 0.0)
