"""The lesion: extent by collaterals and time, depth by construction, maps by severity."""

import numpy as np
import pytest

from strokect.phantom import stroke
from strokect.phantom.haemodynamics import NormalPerfusion, scaled


def draws(collateral, onset_h, n=200, territory_ml=250.0):
    rng = np.random.default_rng(3)
    return [stroke.draw_stroke(rng, territory_ml, collateral, onset_h) for _ in range(n)]


def test_poor_collaterals_make_larger_lesions_and_larger_faster_cores():
    extent = [np.mean([m.hypoperfusion_ml for m in draws(g, 3.0)]) for g in range(4)]
    core = [np.mean([m.core_ml for m in draws(g, 3.0)]) for g in range(4)]
    assert extent == sorted(extent, reverse=True) and core == sorted(core, reverse=True)
    assert 80 <= extent[3] < extent[0] <= 230
    for grade in range(4):
        early, late = (np.mean([m.core_ml for m in draws(grade, h)]) for h in (1.0, 6.0))
        assert early < late


def test_the_core_darkens_with_time():
    hu = [draws(1, h, 1)[0].core_hu for h in (1, 3, 6, 24)]
    assert hu == sorted(hu) and hu[0] >= 1 and hu[-1] <= 9


@pytest.fixture
def field():
    """A 60 mm cube of tissue with the territory x > 0."""
    axis = np.arange(-30, 30, 2.0)
    points = np.stack([a.ravel() for a in np.meshgrid(axis, axis, axis)])
    return points, np.full(points.shape[1], 0.008), points[0]


def test_volumes_are_met_and_the_core_lies_within(field):
    points, ml, territory = field
    model = stroke.StrokeModel(core_ml=10.0, hypoperfusion_ml=40.0)
    where = stroke.lesion(
        np.random.default_rng(0), model, points, ml, territory,
        np.abs(points[1]), np.array([15.0, 0.0, 0.0]),
    )  # fmt: skip
    inside, core = where.depth_mm > 0, where.core_mm > 0
    assert ml[inside].sum() == pytest.approx(40, rel=0.15)
    assert ml[core].sum() == pytest.approx(10, rel=0.25)
    assert inside[core].all()
    assert points[0][inside].min() > -12  # the border of a territory is irregular, not ignored


def test_severity_at_depth():
    model = stroke.StrokeModel(core_ml=10.0, hypoperfusion_ml=40.0)
    healthy = scaled(NormalPerfusion(), *np.ones((3, 3), np.float32))
    where = stroke.Lesion(*np.array([[-20, 9, 9], [-20, -9, 9], [-20, 9, 9]], np.float32))
    found = stroke.apply(model, where, healthy)
    np.testing.assert_allclose(
        found.grey_cbf / healthy.grey_cbf, [1, model.penumbra_grey_cbf, model.core_cbf], rtol=1e-3
    )
    assert found.delay_s[0] == pytest.approx(1.0)
    assert found.delay_s[0] < found.delay_s[1] < found.delay_s[2]
    mtt = 60 * found.grey_cbv / found.grey_cbf
    late = stroke.true_tmax(found.delay_s, mtt) > 6
    assert late.tolist() == [False, True, True]
    hu = stroke.hypodensity(model, where)
    assert hu[0] < 0.01 < hu[1] < hu[2] == pytest.approx(model.core_hu, rel=0.01)
