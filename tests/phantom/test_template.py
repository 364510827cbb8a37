"""The template, its sampling, and the map between head and template."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from strokect.phantom import anatomy, template


@pytest.fixture(scope="module", params=[4, 11])
def head_map(request) -> template.HeadMap:
    return anatomy.make_head(np.random.default_rng(request.param), 60 + request.param).map


def test_the_head_map_inverts(head_map):
    points = np.random.default_rng(0).uniform(-70, 70, (3, 500))
    back = head_map.to_mni(head_map.from_mni(points))
    assert np.abs(back - points).max() < 0.05
    assert np.abs(head_map.to_mni(points) - points).max() > 1  # it does deform


@pytest.mark.parametrize("size_mm", [-1.5, 2.0, 4.8])
def test_the_widest_ventricles_still_invert(head_map, size_mm):
    wide = dataclasses.replace(head_map, ventricles_mm=size_mm)
    points = np.random.default_rng(1).uniform([-40, -60, -20], [40, 40, 40], (4000, 3)).T
    assert np.abs(wide.to_mni(wide.from_mni(points)) - points).max() < 0.05


def test_the_warp_moves_ventricle_walls_out_and_leaves_the_cortex(head_map):
    wall = np.array([[-17.0, 17.0], [-20.0, -20.0], [24.0, 24.0]])
    cortex = np.array([[60.0, -60.0], [-10.0, -10.0], [30.0, 30.0]])
    still = dataclasses.replace(head_map, ventricles_mm=0.0)
    wide = dataclasses.replace(head_map, ventricles_mm=4.0)
    moved = wide.from_mni(wall) - still.from_mni(wall)
    assert moved[0, 0] < -0.8 and moved[0, 1] > 0.8
    assert np.abs(wide.from_mni(cortex) - still.from_mni(cortex)).max() < 0.05


def test_sample_is_exact_for_a_linear_function():
    affine = np.array([[2.0, 0, 0, -10], [0, 1.5, 0, 4], [0, 0, 3, 1], [0, 0, 0, 1]])
    z, y, x = np.indices((5, 6, 7)).astype(float)
    mm = np.stack([2 * x - 10, 1.5 * y + 4, 3 * z + 1])
    volume = (mm[0] + 2 * mm[1] - mm[2])[None].astype(np.float32)
    points = np.array([[-7.3, 0.1], [5.2, 9.9], [2.5, 11.0]])
    found = template.sample(volume, affine, points)[0]
    np.testing.assert_allclose(found, points[0] + 2 * points[1] - points[2], atol=1e-3)


def test_a_smooth_field_has_its_length_and_unit_spread():
    field = template.smooth_field(np.random.default_rng(3), 20.0)
    points = np.random.default_rng(4).uniform(-80, 80, (3, 4000))
    values = field(points)[0]
    assert 0.8 < values.std() < 1.2

    def likeness(mm):
        return np.corrcoef(values, field(points + np.array([[mm], [0], [0]]))[0])[0, 1]

    assert likeness(4.0) > 0.85 and likeness(45.0) < 0.35


def test_the_ventricles_of_the_template_are_where_they_should_be():
    deep = template.load_template().deep
    inside = np.array([[9.0, -9, 25], [5.0, 5, -42], [18.0, 18, 9]])  # bodies, right atrium
    outside = np.array([[0.0, 30, 0], [-45.0, 0, 60], [-6, 0, 0]])  # cistern, insula, frontal
    assert (deep(inside)[0] < 0).all()
    assert (deep(outside)[0] > 3).all()
