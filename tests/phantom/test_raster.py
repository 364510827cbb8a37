"""Drawn vessels keep their volume, on any grid."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from strokect.core.types import Grid
from strokect.phantom import raster, vessels
from strokect.phantom.raster import occupancy
from strokect.phantom.vessels import Tube


def straight(direction, radius, half_mm=15.0, cut=(True, True), segment="M1", shift=0.3):
    unit = np.array(direction, float) / np.linalg.norm(direction)
    points = unit[:, None] * np.linspace(-half_mm, half_mm, 76) + shift
    return Tube("t", segment, "mca", "left", points, points, np.full(76, float(radius)), None, cut)


def grid_of(shape, spacing_mm, shear=0.0):
    dz, dy, dx = spacing_mm
    affine = np.diag([-dx, -dy, dz, 1.0])
    affine[1, 2] = shear * dz  # a tilted gantry: slices slide along y
    centre = affine[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
    affine[:3, 3] = -centre
    return Grid(shape, affine)


FINE = grid_of((64, 100, 100), (0.7, 0.45, 0.45))
THICK = grid_of((10, 50, 50), (5.0, 0.9, 0.9))
TILTED = grid_of((10, 64, 64), (5.0, 0.9, 0.9), shear=0.35)


@pytest.mark.parametrize("grid", [FINE, THICK, TILTED], ids=["fine", "thick", "tilted"])
@pytest.mark.parametrize("radius", [0.4, 0.7, 1.4, 3.5])
@pytest.mark.parametrize("direction", [(1, 2, 1), (0.2, 0.1, 1), (3, -1, 0.4)])
def test_a_straight_tube_fills_the_volume_of_its_cylinder(grid, radius, direction):
    share = occupancy(grid, [straight(direction, radius)])
    assert share.dtype == np.float32 and share.shape == grid.shape
    assert share.min() >= 0 and share.max() <= 1 + 1e-5
    volume = np.pi * radius**2 * 30.0
    assert share.sum() * grid.voxel_ml * 1000 == pytest.approx(volume, rel=0.03)


def test_uncut_ends_are_round():
    tube = straight((1, 2, 1), 2.0, cut=(False, False))
    volume = np.pi * 4 * 30 + 4 / 3 * np.pi * 8
    assert occupancy(FINE, [tube]).sum() * FINE.voxel_ml * 1000 == pytest.approx(volume, rel=0.03)


def test_the_cross_section_lies_where_the_tube_is():
    """Every point of the axis is full, and no voxel beyond the radius is touched."""
    tube = straight((1, 2, 1), 1.5)
    for grid in (FINE, TILTED):
        share = occupancy(grid, [tube])
        z, y, x = np.nonzero(share)
        mm = grid.affine[:3, :3] @ np.stack([x, y, z]) + grid.affine[:3, 3:]
        weight = share[z, y, x]
        np.testing.assert_allclose((mm * weight).sum(1) / weight.sum(), 0.3, atol=0.06)
        away = np.linalg.norm(mm[:, :, None] - tube.points[:, None, ::4], axis=0).min(1)
        corner = np.linalg.norm(np.abs(grid.affine[:3, :3]).sum(axis=1)) / 2
        assert away.max() < 1.5 + raster.EDGE_MM + corner + 0.5
    inside = occupancy(FINE, [tube])[np.linalg.norm(_points(FINE) - 0.3, axis=0) < 0.6]
    assert inside.size and inside.min() > 0.99


def _points(grid):
    z, y, x = np.indices(grid.shape)
    return np.einsum("ij,jzyx->izyx", grid.affine[:3, :3], np.stack([x, y, z])) + grid.affine[
        :3, 3
    ].reshape(3, 1, 1, 1)


def test_pieces_add_up_and_overlaps_count_once():
    tube = straight((1, 2, 1), 1.4, cut=(False, False))
    whole = occupancy(FINE, [tube])
    np.testing.assert_allclose(occupancy(FINE, [tube, tube]), whole)
    parts = []
    for a, b, cut in ((0, 30, (False, True)), (29, 55, (True, True)), (54, 76, (True, False))):
        parts.append(
            dataclasses.replace(
                tube, points=tube.points[:, a:b], radius_mm=tube.radius_mm[a:b], cut=cut
            )
        )
    summed = sum(occupancy(FINE, [p]) for p in parts)
    assert np.abs(summed - whole).max() < 0.12  # the fading edge of two flat ends
    assert summed.sum() == pytest.approx(whole.sum(), rel=0.01)


def test_a_coarse_grid_is_the_average_of_a_fine_one():
    tube = straight((1, 2, 0.5), 1.2)
    fine = occupancy(grid_of((60, 96, 96), (0.75, 0.5, 0.5)), [tube])
    coarse = occupancy(grid_of((10, 48, 48), (4.5, 1.0, 1.0)), [tube])
    mean = fine.reshape(10, 6, 48, 2, 48, 2).mean(axis=(1, 3, 5))
    assert np.abs(mean - coarse).max() < 0.03


def test_outside_the_grid_and_empty_groups_leave_nothing():
    far = straight((0, 0, 1), 2.0, shift=400.0)
    ghost = straight((0, 0, 1), 0.0)
    assert not occupancy(THICK, []).any()
    assert not occupancy(THICK, [far, ghost]).any()
    half = occupancy(THICK, [straight((1, 0, 0), 1.0, half_mm=60.0)])
    assert half[:, :, 0].any() and half[:, :, -1].any()


def test_the_sparse_form_agrees():
    tubes = [straight((1, 2, 1), 1.0), straight((1, -1, 0), 0.6)]
    index, share = raster.filled(FINE, tubes)
    assert (np.diff(index) > 0).all()
    np.testing.assert_array_equal(occupancy(FINE, tubes).ravel()[index], share)


def test_segment_labels_name_the_vessel_that_fills_most():
    thick = straight((1, 0, 0), 2.0, segment="ICA")
    thin = straight((0, 1, 0), 0.8, segment="PCOM")
    labels = raster.segment_image(FINE, [thin, thick])
    share = {s.segment: occupancy(FINE, [s]) for s in (thick, thin)}
    ica, pcom = vessels.SEGMENT_LABELS["ICA"], vessels.SEGMENT_LABELS["PCOM"]
    assert labels.dtype == np.uint8 and set(np.unique(labels)) == {0, ica, pcom}
    assert (labels[(share["ICA"] > 0.3) & (share["ICA"] > share["PCOM"])] == ica).all()
    assert (labels[np.maximum(*share.values()) < 0.29] == 0).all()


def test_the_table_of_centre_lines():
    tube = straight((1, 2, 1), 1.0)
    table = raster.centrelines_table([tube, dataclasses.replace(tube, segment="M2")])
    assert {len(v) for v in table.values()} == {62}
    xyz = np.stack([table[k] for k in "xyz"])[:, :31]
    np.testing.assert_allclose(np.linalg.norm(np.diff(xyz, axis=1), axis=0), 1.0, atol=0.45)
    np.testing.assert_allclose(xyz[:, [0, -1]], tube.points[:, [0, -1]])
    assert list(table["segment"][[0, -1]]) == ["M1", "M2"]
    assert (table["radius_mm"] == 1.0).all()
