"""From maps, computed or read, to what networks that look at maps are given."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from strokect import map_input as module
from strokect.core.colours import colour_coded
from strokect.core.errors import CurveError, SettingsError
from strokect.core.flags import flag
from strokect.core.mapset import MapSet
from strokect.core.quantities import QUANTITIES
from strokect.core.types import CTSeries, Grid, Map, Mask, Volume
from strokect.learn.map_inputs import MapInputOptions, map_channels
from strokect.map_input import computed_maps, map_input, other_maps

sys.path.insert(0, str(Path(__file__).parent))
from tiny_head import inside, make_head

SHAPE = (2, 20, 24)
GRID = Grid(SHAPE, np.diag([-2.0, -4.0, 8.0, 1.0]))
BRAIN = np.zeros(SHAPE, bool)
BRAIN[:, 4:16, 6:18] = True
OPTIONS = MapInputOptions(maps=("tmax", "mip"))
FAST = MapInputOptions(estimator="bsvd", denoise="none", motion_correction=False)


def _maps(**more):
    rng = np.random.default_rng(0)
    maps = {
        name: rng.uniform(*QUANTITIES[name].display_range, SHAPE).astype(np.float32)
        for name in ("cbf", "tmax", "mip")
    }
    mean = rng.normal(35, 5, SHAPE).astype(np.float32)
    return MapSet(GRID, maps, BRAIN, mean, (flag("MOTION", "The head moved."),), **more)


def test_images_of_the_maps_in_the_box_of_the_brain():
    found, maps = map_input(_maps(), replace(OPTIONS, crop_mm=4.0)), _maps()
    assert found.box == (slice(3, 17), slice(4, 20))  # 4 mm are 1 row, 2 columns
    assert found.image.shape == (6, 1, 2, 14, 16) and found.image.dtype == np.float32
    assert (found.image == map_channels(maps, OPTIONS)[..., 3:17, 4:20]).all()
    assert (found.image_brain == BRAIN[:, 3:17, 4:20]).all()
    assert (found.brain == BRAIN).all() and (found.mean_hu == maps.mean_hu).all()
    assert found.flags == maps.flags
    back = found.on_scan(found.image)
    assert (back[..., 3:17, 4:20] == found.image).all() and not back[..., :3, :].any()


def test_nothing_asked_for_keeps_the_slice():
    found = map_input(_maps(), replace(OPTIONS, form="scalar"))
    assert found.image.shape == (2, 1, *SHAPE) and (found.image_brain == BRAIN).all()


@pytest.mark.parametrize(
    ("size", "shape"), [({"pixels": 40}, (2, 40, 24)), ({"spacing_mm": (8, 8, 8)}, (2, 10, 6))]
)
def test_another_size_and_back(size, shape):
    values = np.full(SHAPE, 6.0, np.float32)
    maps = replace(_maps(), maps={"tmax": values})
    found = map_input(maps, MapInputOptions(maps=("tmax",), form="scalar", **size))
    assert found.image.shape == (1, 1, *shape) and found.image.flags.c_contiguous
    assert found.image.min() >= 0 and found.image.max() == pytest.approx(0.5)
    assert found.image_brain.shape == shape
    back = found.on_scan(found.image)[0, 0] > 0.25
    assert 2 * (back & BRAIN).sum() / (back.sum() + BRAIN.sum()) > 0.95


def test_colours_without_brain_or_ct_show_what_the_colours_show():
    maps = _maps()
    colours = {k: colour_coded(maps.maps[k], QUANTITIES[k], BRAIN) for k in ("tmax", "cbf")}
    found = map_input(MapSet(GRID, colours), MapInputOptions(maps=("tmax", "cbf"), crop_mm=0.0))
    assert (found.brain == BRAIN).all()
    assert found.box == (slice(4, 16), slice(6, 18))
    # The report needs something to draw on: the brain's outline.
    assert set(np.unique(found.mean_hu[BRAIN])) == {40.0}
    assert (found.mean_hu[~BRAIN] < -500).all()


@pytest.fixture
def analysed(monkeypatch):
    """The settings of each analysis, which is not made."""
    asked = []

    def analyse(series, settings, given, stages):
        asked.append((settings, stages))
        maps = {k: Map(v.astype(float), GRID) for k, v in _maps().maps.items()}
        return SimpleNamespace(
            grid=GRID,
            maps=maps,
            masks={"brain": Mask(BRAIN, GRID)},
            mean_ct=Volume(_maps().mean_hu, GRID),
            flags=_maps().flags,
        )

    monkeypatch.setattr(module.pipeline, "analyse", analyse)
    return asked


def test_maps_are_those_of_the_perfusion_analysis_with_these_options(analysed):
    series, stages = CTSeries(np.zeros((2, *SHAPE)), np.arange(2.0), GRID), object()
    found = computed_maps(series, FAST, stages)
    ((settings, passed),) = analysed
    assert passed is stages
    assert (settings.estimator, settings.denoise, settings.motion_correction) == (
        "bsvd", "none", False,
    )  # fmt: skip
    computed_maps(series, MapInputOptions())
    assert analysed[1][0] == module.load_settings(None)
    maps = _maps()
    assert found.maps.keys() == maps.maps.keys()
    assert all(v.dtype == np.float32 and (v == maps.maps[k]).all() for k, v in found.maps.items())
    assert (found.brain == BRAIN).all() and (found.mean_hu == maps.mean_hu).all()
    assert found.flags == maps.flags and "bsvd" in found.source


@pytest.mark.parametrize("key", ["estimator", "denoise"])
def test_an_unknown_method_is_told(analysed, key):
    with pytest.raises(SettingsError, match=r"no .* is called 'bst'"):
        computed_maps(None, replace(FAST, **{key: "bst"}))


def test_maps_of_a_head():
    """Every map that settings may ask for is there, right where the head is."""
    found = computed_maps(make_head(), FAST)
    assert found.maps.keys() >= {"cbf", "cbv", "mtt", "tmax", "ttp", "delay", "mip"}
    assert (found.brain & inside(10)).sum() > 0.9 * inside(10).sum()
    assert np.median(found.maps["mip"][inside(12)]) == pytest.approx(47, abs=4)  # 35 + 8, noise
    assert np.abs(np.median(found.mean_hu[inside(12)]) - 37) < 2
    with pytest.raises(CurveError, match="NO_BOLUS"):
        computed_maps(make_head(arrives=False), FAST)


@pytest.mark.parametrize(
    ("options", "source", "told"),
    [
        ({}, "computed by bayes, nonlocal", ""),
        ({}, "computed by bsvd, nonlocal", "trained on maps computed by bayes, nonlocal"),
        ({"denoise": "none"}, "computed by bayes, nonlocal", "these are computed by bayes"),
        ({}, "of an unknown method", "these are of an unknown method"),
        ({"source": "files"}, "files of perfusion", ""),
        ({"source": "files"}, "computed by bayes, nonlocal", "trained on maps read from files"),
    ],
)
def test_maps_of_another_method_are_told(options, source, told):
    found = other_maps(source, MapInputOptions(**options))
    assert (found is not None) == bool(told)
    if found is not None:
        assert found.code == "OTHER_MAPS" and told in found.message
