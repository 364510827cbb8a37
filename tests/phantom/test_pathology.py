"""Old findings: how often they are drawn, and what they do to the image."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

from strokect.core.types import Grid
from strokect.phantom import anatomy, pathology


@pytest.fixture(scope="module")
def head() -> anatomy.Head:
    return anatomy.make_head(np.random.default_rng(4), 60)


def _with(head: anatomy.Head, found: pathology.Pathology) -> anatomy.Head:
    return dataclasses.replace(head, pathology=found)


def _around(head: anatomy.Head, mni, shape=(9, 9, 9), step=1.0) -> Grid:
    centre = head.map.from_mni(np.array(mni, float)[:, None])[:, 0]
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = centre - step * (np.array(shape[::-1]) - 1) / 2
    return Grid(shape, affine)


def test_leukoaraiosis_grows_with_age_and_the_rest_is_drawn_at_its_rate():
    young, old = (
        [pathology.draw_pathology(np.random.default_rng(s), age) for s in range(300)]
        for age in (50, 80)
    )
    assert np.mean([p.periventricular for p in young]) < 0.6
    assert np.mean([p.periventricular for p in old]) > 1.3
    assert {p.deep for p in young + old} == {0, 1, 2, 3}
    assert 0.07 < np.mean([p.infarct is not None for p in young + old]) < 0.18
    pineal = [any(s.kind == "pineal" for s in p.calcifications) for p in old]
    assert 0.6 < np.mean(pineal) < 0.8
    spots = [s for p in old for s in p.calcifications]
    assert all(100 <= s.hu <= 500 and max(s.radii_mm) < 6.5 for s in spots)


def test_a_seed_gives_the_same_findings_and_a_json_summary():
    one, two = (pathology.draw_pathology(np.random.default_rng(8), 75) for _ in range(2))
    assert one == two
    assert set(json.loads(json.dumps(one.summary))) >= {"fazekas_deep", "old_infarct"}


def test_leukoaraiosis_grows_with_its_grade_and_darkens_white_matter(head):
    grid = anatomy.scan_grid((14, 60, 60), (6.0, 3.4, 3.4), 20.0)
    grades = [
        anatomy.render(_with(head, pathology.Pathology(g, g, white_loss_hu=7.0)), grid, fine_mm=3.5)
        for g in range(4)
    ]
    volumes = [a.leukoaraiosis.sum() * grid.voxel_ml for a in grades]
    assert volumes[0] == 0
    assert all(b > 2 * a + 0.5 for a, b in itertools.pairwise(volumes))
    assert volumes[3] < 130
    worst = grades[3]
    assert (worst.leukoaraiosis <= worst.white + 1e-5).all()
    change = worst.static_hu - grades[0].static_hu
    np.testing.assert_allclose(change, -7 * worst.leukoaraiosis, atol=0.6)  # the tentorium hides


def test_an_old_infarct_is_fluid_with_a_rim(head):
    centre = (48.0, -10.0, 20.0)
    old = pathology.OldInfarct("cortical", centre, (14.0, 14.0, 14.0), 10.0)
    grid = _around(head, centre, (41, 41, 41))
    before = anatomy.render(_with(head, pathology.Pathology()), grid)
    after = anatomy.render(_with(head, pathology.Pathology(infarct=old)), grid)
    middle = np.s_[16:25, 16:25, 16:25]
    assert (after.grey + after.white)[middle].max() < 0.01
    assert 8 < after.static_hu[middle].mean() < 12
    lost = ((before.grey + before.white) - (after.grey + after.white)).sum() * grid.voxel_ml
    gained = (after.csf - before.csf).sum() * grid.voxel_ml
    assert gained == pytest.approx(lost, rel=0.01)
    assert 4 < lost < 14
    rim = (after.white > 0.8 * before.white) & (before.white > 0.9)
    assert (after.static_hu - before.static_hu)[rim].min() < -3


def test_a_calcification_is_dense_small_and_where_it_should_be(head):
    spot = pathology.Spot("pineal", (0.0, -29.0, 1.0), (2.0, 2.0, 2.0), 300.0)
    grid = _around(head, spot.centre_mm, (17, 17, 17))
    calm = _with(head, pathology.Pathology())
    before = anatomy.render(calm, grid, fine_mm=0.5).static_hu
    after = anatomy.render(
        _with(head, pathology.Pathology(calcifications=(spot,))), grid, fine_mm=0.5
    ).static_hu
    assert after[8, 8, 8] > 280
    changed = np.abs(after - before) > 100
    assert 20 < changed.sum() * grid.voxel_ml * 1000 < 60  # mm3; the ellipsoid has 34
