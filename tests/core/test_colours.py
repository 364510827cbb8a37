"""Colours of maps: right steps, black outside, and the way back to values."""

import matplotlib
import numpy as np
import pytest

from strokect.core.colours import colour_coded, colour_palette, from_colours, levels
from strokect.core.quantities import QUANTITIES

KEYS = list(QUANTITIES)


def _values(quantity, n=401):
    return np.linspace(*quantity.display_range, n).astype(np.float32)


def test_levels_clip_and_hide():
    values = np.array([-5.0, 0.0, 6.0, 12.0, 99.0, np.nan, np.inf, -np.inf])
    assert levels(values, (0, 12)).tolist() == [1, 1, 128, 255, 255, 0, 0, 0]
    assert levels(np.array([6.0]), (0, 12), np.array([False])).tolist() == [0]
    assert levels(np.array([np.nan, 6.0]), (0, 12), np.array([True, True])).tolist() == [0, 128]


def test_levels_are_the_nearest_of_255_steps():
    values = np.linspace(-3, 9, 2000)
    steps = levels(values, (-3, 9)).astype(int) - 1
    assert np.abs(steps * 12 / 254 - 3 - values).max() <= 12 / 254 / 2 + 1e-9
    assert (np.bincount(steps, minlength=255) > 0).all()


@pytest.mark.parametrize("name", sorted({q.colour_map for q in QUANTITIES.values()}))
def test_a_palette_is_black_and_then_the_colours_of_the_map(name):
    palette = colour_palette(name)
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    assert palette[0].tolist() == [0, 0, 0]
    ends = matplotlib.colormaps[name]([0.0, 1.0], bytes=True)[:, :3]
    assert palette[[1, 255]].tolist() == ends.tolist()


def test_grey_rises_in_even_steps_from_black_to_white():
    grey = colour_palette("gray").astype(int)
    assert (grey == grey[:, :1]).all()
    assert (grey[1, 0], grey[255, 0]) == (0, 255)
    assert set(np.diff(grey[1:, 0])) <= {1, 2}


@pytest.mark.parametrize("key", KEYS)
def test_colours_come_back_as_the_values_within_half_a_step(key):
    quantity = QUANTITIES[key]
    low, high = quantity.display_range
    values = _values(quantity)
    values = values[values > low + (high - low) / 254] if key == "mip" else values
    found = from_colours(colour_coded(values, quantity), quantity)
    assert found.dtype == np.float32
    # Neighbouring colours of a map may be the same, or nearer to each other than bytes can say.
    assert np.abs(found - values).max() <= 1.5 * (high - low) / 254


@pytest.mark.parametrize("key", ["cbf", "tmax", "mip"])
def test_values_beyond_the_display_range_come_back_as_its_ends(key):
    quantity = QUANTITIES[key]
    low, high = quantity.display_range
    found = from_colours(colour_coded(np.array([low - 50, high + 50]), quantity), quantity)
    assert found[1] == pytest.approx(high)
    # The darkest grey is black, and black is nothing.
    assert np.isnan(found[0]) if key == "mip" else found[0] == pytest.approx(low)


def test_black_is_not_known_nor_are_colours_far_from_all_of_the_map():
    quantity, strange = QUANTITIES["cbv"], np.array([[0, 0, 0], [9, 6, 9], [255, 255, 255]])
    assert np.isnan(from_colours(strange.astype(np.uint8), quantity)).all()
    assert np.isnan(from_colours(np.array([200, 20, 200], np.uint8), QUANTITIES["mip"]))


def test_colours_that_were_compressed_come_back_nearly():
    """JPEG and resampling change each byte by a few."""
    quantity = QUANTITIES["tmax"]
    values = _values(quantity)
    off = np.random.default_rng(0).integers(-6, 7, (len(values), 3))
    colours = np.clip(colour_coded(values, quantity).astype(int) + off, 0, 255).astype(np.uint8)
    assert np.abs(from_colours(colours, quantity) - values).max() < 0.3


def test_a_map_keeps_its_shape_and_is_black_where_not_shown():
    values = np.full((2, 3, 4), 6.0, np.float32)
    values[1, 2, 3] = np.nan
    shown = np.ones(values.shape, bool)
    shown[0] = False
    colours = colour_coded(values, QUANTITIES["tmax"], shown)
    assert colours.shape == (2, 3, 4, 3) and colours.dtype == np.uint8
    assert (colours.any(axis=-1) == (shown & np.isfinite(values))).all()
    back = from_colours(colours, QUANTITIES["tmax"])
    assert (np.isfinite(back) == (shown & np.isfinite(values))).all()
