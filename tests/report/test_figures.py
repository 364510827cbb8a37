"""Pictures: the patient's left on the right, true values, right outlines and axes."""

from __future__ import annotations

import base64
import io
from itertools import permutations, product

import numpy as np
import pytest
from PIL import Image

from strokect.core import colours
from strokect.core.quantities import QUANTITIES
from strokect.core.types import Grid
from strokect.report import figures
from strokect.report.html import _pictures


def decoded(uri: str) -> np.ndarray:
    """(height, width, 3) of a data URI."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def tile_of(picture: np.ndarray, view: figures.View, number: int) -> np.ndarray:
    x, y = view.corner(number)
    height, width = view.tile
    return picture[y : y + height, x : x + width]


@pytest.mark.parametrize("x_sign", [-1, 1])
def test_lesion_on_the_patients_left_is_on_the_right_of_the_tile(x_sign, make_result):
    result = make_result(x_sign)
    view = figures.view_of(result.grid, result.masks["brain"].data)
    context = _pictures(result, view)
    tissue = tile_of(decoded(context["mosaics"]["tissue"].uri), view, context["start"])
    magenta = (tissue[..., 0] > tissue[..., 1] + 60) & (tissue[..., 2] > tissue[..., 1] + 30)
    green = (tissue[..., 1] > tissue[..., 0] + 30) & (tissue[..., 1] > tissue[..., 2] + 30)
    for found in (magenta, green):
        assert found.sum() > 100
        assert np.argwhere(found)[:, 1].mean() > 0.6 * view.tile[1]


def test_both_directions_give_the_same_picture(make_result):
    views = []
    for x_sign in (-1, 1):
        result = make_result(x_sign)
        view = figures.view_of(result.grid)
        views.append(view.tiles(result.masks["hypoperfusion"].data))
    assert np.array_equal(*views)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((-1, 1), repeat=3)))
def test_any_orientation(order, signs):
    """A dot at left, anterior, superior lands top right in the last tile, in every grid."""
    shape_xyz = (9, 11, 13)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * 2.0
    affine[:3, :3] += 0.05  # a little oblique
    corner = np.array([-100.0, 100.0, 100.0])  # RAS: left, anterior, superior
    ends = np.array(list(product(*[(0, n - 1) for n in shape_xyz])))
    nearest = ends[np.argmin(np.linalg.norm(ends @ affine[:3, :3].T - corner, axis=1))]
    data = np.zeros(shape_xyz[::-1])
    voxel = tuple(nearest[::-1])
    data[voxel] = 1
    view = figures.view_of(Grid(data.shape, affine))
    tiles = view.tiles(data)
    at = np.argwhere(tiles == 1)
    assert at.tolist() == [[len(tiles) - 1, 0, view.tile[1] - 1]]
    number, x, y = view.locate(voxel, data.shape)
    assert (number, int(x), int(y)) == (len(tiles) - 1, view.tile[1] - 1, 0)


def test_a_marker_lies_on_its_voxel(make_result):
    result = make_result(shape=(12, 512, 512))
    view = figures.view_of(result.grid, result.masks["brain"].data)
    assert max(view.tile) <= figures.MAX_TILE_PX
    voxel = (7, 200, 180)
    data = np.zeros(result.grid.shape)
    data[7, 196:205, 176:185] = 1
    number, x, y = view.locate(voxel, result.grid.shape)
    centre = np.argwhere(view.tiles(data)[number]).mean(axis=0)
    assert np.allclose(centre + 0.5, (y, x), atol=1.0)


def test_pixels_are_square_in_mm():
    grid = Grid((3, 60, 30), np.diag([-4.0, 2.0, 5.0, 1.0]))
    height, width = figures.view_of(grid).tile
    assert height == width == 60


def test_many_slices_are_thinned_and_all_parts_of_the_brain_kept():
    grid = Grid((320, 64, 64), np.diag([-3.0, 3.0, 0.5, 1.0]))
    brain = np.zeros(grid.shape, bool)
    brain[40:300, 10:50, 10:50] = True
    view = figures.view_of(grid, brain)
    assert len(view.slices) == figures.MAX_SLICES and view.total == 320
    assert view.slices[0] == 40 and view.slices[-1] == 299


def test_a_map_pixel_has_the_colour_of_its_value(make_result):
    """Values come back from the picture within one step of the palette; outside is black."""
    result = make_result()
    view = figures.view_of(result.grid, result.masks["brain"].data)
    context = _pictures(result, view)
    picture = decoded(context["mosaics"]["tmax"].uri)
    low, high = QUANTITIES["tmax"].display_range
    palette = colours.colour_palette("turbo").astype(int)
    tile = tile_of(picture, view, 6)
    values = view.tiles(result.maps["tmax"].data)[6]
    brain = view.tiles(result.masks["brain"].data)[6]
    assert (tile[~brain] == 0).all()
    inside = brain & (values > low) & (values < high)
    distance = np.abs(tile[inside][:, None] - palette[None, 1:]).sum(-1)
    recovered = low + distance.argmin(1) * (high - low) / 254
    assert np.abs(recovered - values[inside]).max() <= (high - low) / 254


def test_core_and_penumbra_stay_apart_for_the_colour_blind():
    """Simulated dichromacy (Vienot 1999, linear RGB): the two differ clearly in all forms."""
    lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.03, 0.184, 1.467]])
    forms = {
        "protan": [[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]],
        "deutan": [[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]],
        "tritan": [[1, 0, 0], [0, 1, 0], [-0.395913, 0.801109, 0]],
    }
    linear = (np.array([figures.CORE_RGB, figures.PENUMBRA_RGB]) / 255) ** 2.2
    for name, loss in forms.items():
        seen = np.linalg.inv(lms) @ np.array(loss) @ lms @ linear.T
        seen = np.clip(seen, 0, 1) ** (1 / 2.2)
        assert np.linalg.norm(seen[:, 0] - seen[:, 1]) > 0.3, name


def test_outline_encloses_the_mask():
    """Each edge between a pixel in and a pixel out is drawn once: total length = perimeter."""
    mask = np.zeros((20, 30), bool)
    mask[5:10, 3:17] = True
    mask[7, 8] = False
    path = figures.outline(mask)
    lengths = [int(p.split(c)[1]) for p in path.split("M")[1:] for c in "hv" if c in p]
    assert sum(lengths) == 2 * (5 + 14) + 4
    assert "M3 5h14" in path and "M3 5v5" in path
    assert figures.outline(np.zeros((4, 4), bool)) == ""


def test_specks_are_dropped_in_plane():
    masks = np.zeros((2, 10, 10), bool)
    masks[0, 2:5, 2:5] = masks[1, 8, 8] = masks[0, 8, 8] = True
    kept = figures.without_specks(masks, 4)
    assert kept[0].sum() == 9 and kept[1].sum() == 0


def test_panel_scales_curves_and_breaks_at_gaps():
    values = np.array([0.0, 10.0, np.nan, 5.0, 0.0])
    panel = figures.panel("t", "HU", np.arange(5.0), [(values, "a", "A")], marks_s=[2.0])
    ticks = {label: at for at, label in panel.y_ticks}
    path = panel.lines[0].path
    assert path.count("M") == 2 and "nan" not in path
    points = [p.split() for p in path.replace("M", "L").split("L")[1:]]
    assert float(points[0][1]) == pytest.approx(10 * ticks["0"], abs=0.1)
    assert float(points[1][1]) == pytest.approx(10 * ticks["10"], abs=0.1)
    assert [float(p[0]) for p in points] == [0, 250, 750, 1000] and panel.marks == (50.0,)


@pytest.mark.parametrize("values", [[0.0] * 4, [np.nan] * 4, [-3.0] * 4, [1e-9] * 4, [1e6] * 4])
def test_panel_of_odd_curves(values):
    panel = figures.panel("t", "mm", np.arange(4.0), [(values, "a", "A")])
    assert len(panel.y_ticks) >= 2 and all(0 <= at <= 100 for at, _ in panel.y_ticks)


@pytest.mark.parametrize("key", list(QUANTITIES))
def test_colour_bars_end_at_the_display_range(key):
    quantity = QUANTITIES[key]
    ticks = figures.bar_ticks(quantity)
    assert (ticks[0], ticks[-1]) == (
        (0.0, f"{quantity.display_range[0]:g}"),
        (100.0, f"{quantity.display_range[1]:g}"),
    )
    assert [at for at, _ in ticks] == sorted({at for at, _ in ticks})
