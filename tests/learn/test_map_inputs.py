"""From maps and clinical scores to the arrays that a network sees."""

import numpy as np
import pytest

from strokect.core.clinical import UNKNOWN, Clinical
from strokect.core.colours import colour_coded, colour_palette
from strokect.core.errors import SettingsError
from strokect.core.mapset import MapSet
from strokect.core.quantities import QUANTITIES
from strokect.core.types import Grid
from strokect.learn.map_inputs import (
    MapInputOptions,
    brain_of,
    clinical_vector,
    map_channels,
    missing_scores,
)

GRID = Grid((2, 5, 6), np.diag([-2.0, -2.0, 8.0, 1.0]))
BRAIN = np.zeros(GRID.shape, bool)
BRAIN[:, 1:4, 1:5] = True
#: Shares of the luminance, ITU-R BT.601.
RED, GREEN, BLUE = 0.299, 0.587, 0.114


def _values(name):
    """From below to above the display range, over the whole grid."""
    low, high = QUANTITIES[name].display_range
    share = np.linspace(-0.2, 1.2, int(np.prod(GRID.shape))).reshape(GRID.shape)
    return (low + share * (high - low)).astype(np.float32)


def _set(*names, brain=BRAIN, colours=False):
    made = {n: _values(n) for n in names}
    if colours:
        made = {n: colour_coded(v, QUANTITIES[n], brain) for n, v in made.items()}
        brain = None
    return MapSet(GRID, made, brain)


def _options(*names, form="colour", **more):
    return MapInputOptions(maps=names, form=form, **more)


def _seen(found, *names, form):
    image = map_channels(found, _options(*names, form=form))
    assert image.dtype == np.float32 and image.shape[1:] == (1, *GRID.shape)
    assert len(image) == _options(*names, form=form).channels
    return image[:, 0]


def test_colours_are_those_of_readers_image_after_image():
    image = _seen(_set("tmax", "cbf", "mtt"), "cbf", "tmax", form="colour")
    for first, name in ((0, "cbf"), (3, "tmax")):
        quantity = QUANTITIES[name]
        palette = colour_palette(quantity.colour_map) / 255
        low, high = quantity.display_range
        share = np.clip((_values(name) - low) / (high - low), 0, 1)
        expected = palette[np.round(share * 254).astype(int) + 1]
        found = np.moveaxis(image[first : first + 3], 0, -1)
        assert found[BRAIN] == pytest.approx(expected[BRAIN], abs=1e-6)
        assert (found[~BRAIN] == 0).all()


def test_grey_is_the_luminance_of_the_colours():
    found = _set("cbf", "mip")
    r, g, b, *mip = _seen(found, "cbf", "mip", form="colour")
    grey = _seen(found, "cbf", "mip", form="grey")
    assert grey[0] == pytest.approx(RED * r + GREEN * g + BLUE * b, abs=1e-6)
    assert grey[1] == pytest.approx(mip[0], abs=1e-6)  # grey already
    assert grey.min() >= 0 and grey.max() <= 1 + 1e-6


def test_scalars_are_shares_of_the_display_range_cut_to_it():
    image = _seen(_set("ttp"), "ttp", form="scalar")[0]
    low, high = QUANTITIES["ttp"].display_range
    share = ((_values("ttp") - low) / (high - low)).clip(0, 1)
    assert image[BRAIN] == pytest.approx(share[BRAIN], abs=1e-6)
    assert (image[~BRAIN] == 0).all()
    assert share[~BRAIN].max() == 1  # so that this says something


@pytest.mark.parametrize("form", ["colour", "grey", "scalar"])
def test_the_projection_shows_the_skull_too(form):
    image = _seen(_set("mip", "cbv"), "mip", "cbv", form=form)
    half = len(image) // 2
    mip, cbv = image[:half], image[half:]
    shown = _values("mip") > 2
    assert (mip[0][shown & ~BRAIN] > 0).all() and (shown & ~BRAIN).any()
    assert (cbv[:, ~BRAIN] == 0).all()


@pytest.mark.parametrize("form", ["colour", "grey", "scalar"])
def test_values_that_are_no_numbers_are_not_shown(form):
    values = np.full(GRID.shape, 10.0, np.float32)
    places = ((0, 1, 1), (0, 2, 2), (1, 3, 4))
    for place, value in zip(places, (np.nan, np.inf, -np.inf), strict=True):
        values[place] = value
    image = _seen(MapSet(GRID, {"tmax": values}, BRAIN), "tmax", form=form)
    shown = image.any(axis=0)
    assert not any(shown[place] for place in places)
    assert shown.sum() == BRAIN.sum() - 3


def test_an_unknown_brain_hides_nothing():
    image = _seen(_set("cbf", brain=None), "cbf", form="colour")
    assert image.any(axis=0).all()


@pytest.mark.parametrize("form", ["colour", "grey", "scalar"])
def test_pictures_of_maps_are_seen_as_the_maps_themselves(form):
    """To one step of the palette, where a scalar must be read off the colour."""
    values = _seen(_set("cbf", "tmax"), "cbf", "tmax", form=form)
    colours = _seen(_set("cbf", "tmax", colours=True), "cbf", "tmax", form=form)
    assert colours == pytest.approx(values, abs=1.5 / 254 if form == "scalar" else 1e-6)


def test_the_brain_is_given_or_all_that_any_perfusion_map_shows():
    assert brain_of(_set("cbf")) is BRAIN
    first, second = np.zeros((2, *GRID.shape), np.float32)
    first[0, 1, 2], second[1, 3, 4], first[0, 0, 0] = 5.0, -2.0, np.nan
    projection = np.full(GRID.shape, 40.0, np.float32)
    found = brain_of(MapSet(GRID, {"cbf": first, "tmax": second, "mip": projection}))
    assert np.argwhere(found).tolist() == [[0, 1, 2], [1, 3, 4]]
    assert (brain_of(_set("cbf", "tmax", colours=True)) == BRAIN).all()
    assert brain_of(MapSet(GRID, {"mip": projection})).all()  # better all than nothing
    assert brain_of(MapSet(GRID, {"cbf": first * 0})).all()


def test_scores_are_scaled_and_say_whether_they_are_known():
    patient = Clinical(nihss=18, age=40, sex="F")
    scores = ("nihss", "age", "sex")
    assert clinical_vector(patient, scores).tolist() == [1.0, 1.0, -2.0, 1.0, 1.0, 1.0]
    assert clinical_vector(patient, ("sex", "nihss")).tolist() == [1.0, 1.0, 1.0, 1.0]
    assert clinical_vector(Clinical(sex="M"), ("sex",)).tolist() == [-1.0, 1.0]
    found = clinical_vector(Clinical(nihss=10), scores)
    assert found.dtype == np.float32
    # The mean and nothing known are told apart.
    assert found.tolist() == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert clinical_vector(UNKNOWN, scores).tolist() == [0.0] * 6
    assert clinical_vector(patient, ()).shape == (0,)


def test_a_score_of_nothing_is_known():
    assert clinical_vector(Clinical(nihss=0), ("nihss",)).tolist() == [-1.25, 1.0]
    assert missing_scores(Clinical(nihss=0), ("nihss",)) == []


def test_scores_that_are_asked_for_and_not_known():
    assert missing_scores(Clinical(age=50), ("sex", "nihss", "age")) == ["nihss", "sex"]
    assert missing_scores(UNKNOWN, ()) == []


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"maps": ()}, "input.maps"),
        ({"maps": ("cbf", "cbf")}, "input.maps"),
        ({"scores": ("age", "nihss", "age")}, "input.scores"),
        ({"spacing_mm": (5.0, 0.0, 1.0)}, "input.spacing_mm"),
        ({"pixels": 0}, "input.pixels"),
        ({"pixels": 64, "spacing_mm": (5.0, 1.0, 1.0)}, "spacing_mm and pixels"),
        ({"crop_mm": -1.0}, "input.crop_mm"),
        ({"crop_mm": float("nan")}, "input.crop_mm"),
    ],
)
def test_impossible_options_are_refused_by_name(wrong, key):
    with pytest.raises(SettingsError, match=key):
        MapInputOptions(**wrong)


def test_a_hole_in_every_map_is_brain_all_the_same():
    values = np.where(BRAIN, 5.0, 0.0).astype(np.float32)
    middle = tuple(int(i) for i in np.argwhere(BRAIN).mean(axis=0))
    values[middle] = 0.0  # no flow at all
    assert BRAIN[middle]
    assert (brain_of(MapSet(GRID, {"cbf": values})) == BRAIN).all()
