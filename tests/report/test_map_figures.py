"""Figures of volumes and of less and less: drawn, in their colours, the same each time."""

import math

import numpy as np
import pytest
from PIL import Image

from strokect.core.errors import OutputError
from strokect.evaluate.agreement import Estimate
from strokect.evaluate.levels import LevelPoint
from strokect.evaluate.tables import Case, Score
from strokect.report.map_figures import write_levels_figure, write_volume_figure

NAN = math.nan
BLUE, RED, GREEN = (0, 114, 178), (213, 94, 0), (0, 158, 115)
EVIL = "<b>$x_1^ " + "long " * 12


def model(shift, regions=("core",), groups=("LVO", "non-LVO", "WIS", "LVO"), n=8):
    out = []
    for k in range(n):
        group = groups[k % len(groups)]
        true = 0.0 if group == "WIS" else 10.0 + 9 * k
        found = max(0.0, true + shift * (1 + (-1) ** k * 0.4))
        case = Case(f"s{k}", f"p{k}", group)
        out += [
            Score(case, r, 0.5, NAN, NAN, NAN, NAN, found, true, 0.0, 1, 1, 1, 0) for r in regions
        ]
    return out


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def has_colour(image, rgb):
    return bool((np.abs(image - rgb).max(axis=2) <= 12).any())


def volumes(tmp_path, models, name="v.png", regions=()):
    write_volume_figure(tmp_path / name, models, regions)
    return pixels(tmp_path / name)


def test_volume_figure_grows_with_methods_and_classes(tmp_path):
    both = ("core", "hypoperfusion")
    one = volumes(tmp_path, {"a": model(3)})
    more = volumes(tmp_path, {"a": model(3, both), "b": model(-4, both)})
    assert more.shape[0] > 1.5 * one.shape[0] and more.shape[1] > 1.7 * one.shape[1]
    chosen = volumes(tmp_path, {"a": model(3, both)}, regions=["core"])
    assert np.array_equal(chosen, one)


def test_groups_have_their_colours(tmp_path):
    three = volumes(tmp_path, {"a": model(3)})
    assert all(has_colour(three, c) for c in (BLUE, RED, GREEN))
    one = volumes(tmp_path, {"a": model(3, groups=("LVO",))})
    assert not has_colour(one, RED) and has_colour(one, np.array(BLUE) * 0.75 + 255 * 0.25)


@pytest.mark.parametrize(
    "models",
    [
        {"a": model(0)},
        {EVIL: model(3, groups=("n/a",), n=1)},
        {"a": model(2, groups=("WIS",))},
        {"a": model(2), "b": model(3, ("penumbra",))},
    ],
    ids=["exact", "one odd patient", "no lesion", "other classes"],
)
def test_odd_volumes_are_drawn(tmp_path, models):
    assert (volumes(tmp_path, models) < 250).any(axis=2).mean() > 0.005


def points(methods=("a", "b"), levels=("all", "1/2"), regions=("core", "hypoperfusion"), ci=True):
    return [
        LevelPoint(
            level, method, region,
            *(Estimate(v, (v * 0.9, v * 1.1) if ci else (NAN, NAN), 7)
              for v in (0.8 - 0.1 * i - 0.05 * j, 5.0 + i)),
        )
        for i, level in enumerate(levels)
        for j, method in enumerate(methods)
        for region in regions
    ]  # fmt: skip


def levels(tmp_path, given, name="l.png"):
    write_levels_figure(tmp_path / name, given, "time points")
    return pixels(tmp_path / name)


def test_every_method_is_drawn_in_its_colour_with_its_bars(tmp_path):
    core = ("core",)
    one = levels(tmp_path, points(("a",), regions=core))
    bare = levels(tmp_path, points(("a",), regions=core, ci=False))
    two = levels(tmp_path, points(("a", "b"), regions=core))
    assert has_colour(one, BLUE) and not has_colour(one, RED) and has_colour(two, RED)
    blue = [(np.abs(x - BLUE).max(axis=2) <= 12).sum() for x in (bare, one)]
    assert blue[1] > 1.1 * blue[0]


@pytest.mark.parametrize(
    "given",
    [
        points(tuple("abcdefghijk"), tuple("1234"), ("mask",)),
        points((EVIL, "b"), ("$1/2$ of everything",))[:-1],
        [LevelPoint("all", "a", "core", Estimate(NAN, (NAN, NAN), 0), Estimate(0, (NAN, NAN), 1))],
    ],
    ids=["many", "odd names and a gap", "no lesion"],
)
def test_odd_levels_are_drawn(tmp_path, given):
    assert (levels(tmp_path, given) < 250).any(axis=2).mean() > 0.002


def test_same_bytes(tmp_path):
    for name in ("1", "2"):
        volumes(tmp_path, {"a": model(3)}, f"v{name}.png")
        levels(tmp_path, points(("a",), regions=("core",)), f"l{name}.png")
    for kind in "vl":
        first, second = (tmp_path / f"{kind}{n}.png" for n in "12")
        assert first.read_bytes() == second.read_bytes()
        assert b"matplotlib" not in first.read_bytes().lower()


def test_a_figure_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_levels_figure(tmp_path / "file" / "l.png", points(("a",), ("x",)), "dose")
