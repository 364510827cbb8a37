import numpy as np
import pytest

from strokect.core.errors import CurveError
from strokect.core.types import Grid
from strokect.perfusion import inputs
from strokect.perfusion.curves import shape_of
from strokect.perfusion.inputs import InputOptions

GRID = Grid((3, 40, 40), np.diag([1.0, 1, 5, 1]))
TIME = np.arange(50.0)
ARTERY, SINUS, TISSUE = (
    (slice(1, 2), slice(10, 13), slice(10, 13)),
    (slice(0, 3), slice(34, 39), slice(18, 23)),
    None,
)


def bolus(arrival, beta=1.6, peak=300.0):
    t = np.maximum(TIME - arrival, 0)
    return peak * (t / (3 * beta)) ** 3 * np.exp(3 - t / beta)


def vein_of(artery, mtt=5.0, lag=3):
    transit = np.exp(-TIME / mtt)
    return np.r_[np.zeros(lag), np.convolve(artery, transit / transit.sum())[: 50 - lag]]


def scan(noise=5.0, damping=0.6, late_artery=False, end=50):
    """Tissue, a partial-volumed artery, a large sinus, a late (collateral) artery."""
    rng = np.random.default_rng(0)
    true = bolus(9.0)
    data = np.zeros((50, *GRID.shape))
    data += 8 * vein_of(true, 4.0, 1)[:, None, None, None] / vein_of(true, 4.0, 1).max()
    data[(slice(None), *ARTERY)] = damping * true[:, None, None, None]
    data[(slice(None), *SINUS)] = vein_of(true)[:, None, None, None]
    if late_artery:
        data[:, 1, 25:28, 30:33] = bolus(13.0, 2.2, 300 * 1.6 / 2.2)[:, None, None]
    data += rng.normal(0, noise, data.shape)
    index = np.argwhere(np.ones(GRID.shape, bool))
    return true[:end], data[:end].reshape(end, -1).astype(np.float32), index


def find(noise=5.0, **kwargs):
    true, curves, index = scan(noise, **kwargs)
    options = InputOptions()
    vessels = inputs.vessel_voxels(curves, index, 1.0, options)
    aif, *others = inputs.arterial_candidates(
        vessels, np.ones(len(vessels.index), bool), GRID, 1.0, options
    )
    vof = inputs.venous_input(vessels, aif, GRID, 1.0, options)
    return true, aif, others, vof, options


def inside(voxels, region):
    return all(r.start <= i < r.stop for v in voxels for i, r in zip(v, region, strict=True))


@pytest.mark.parametrize("noise", [2.0, 5.0, 8.0])
@pytest.mark.parametrize("late_artery", [False, True])
def test_artery_and_vein_are_told_apart(noise, late_artery):
    _, aif, _, vof, _ = find(noise, late_artery=late_artery)
    assert inside(aif.voxels, ARTERY)
    assert inside(vof.voxels, SINUS)
    assert aif.confidence > 0.7


@pytest.mark.parametrize("damping", [0.35, 0.6, 0.95])
@pytest.mark.parametrize("end", [50, 34])
def test_scaling_restores_the_area_even_when_the_scan_is_cut(damping, end):
    true, aif, _, vof, options = find(damping=damping, end=end)
    scaled = inputs.scale_to_vein(aif, vof, 1.0, options)
    assert scaled.curve_hu.sum() / true.sum() == pytest.approx(1.0, abs=0.08)
    assert np.array_equal(scaled.raw_hu, aif.raw_hu)


def test_candidates_are_apart_and_ranked():
    _, aif, others, _, options = find(late_artery=True)
    assert others
    for other in others:
        assert np.linalg.norm(np.subtract(other.position_mm, aif.position_mm)) > 5
        assert other.confidence <= aif.confidence
    assert len(others) <= options.n_candidates


def test_position_is_where_the_voxels_are():
    _, aif, _, _, _ = find()
    z, y, x = aif.voxels.mean(axis=0)
    assert aif.position_mm == pytest.approx((x, y, 5 * z))


def test_without_vessels_there_is_no_artery():
    noise = np.random.default_rng(0).normal(0, 5, (50, 4800)).astype(np.float32)
    index = np.argwhere(np.ones(GRID.shape, bool))
    with pytest.raises(CurveError, match="no artery"):
        inputs.vessel_voxels(noise, index, 1.0, InputOptions())


def test_a_step_is_motion_not_a_bolus():
    _, curves, index = scan()
    edge = np.flatnonzero((index == [1, 20, 20]).all(axis=1))[0]
    curves[:, edge] = np.where(TIME > 12, 700.0, 0.0)
    vessels = inputs.vessel_voxels(curves, index, 1.0, InputOptions())
    aif = inputs.arterial_candidates(
        vessels, np.ones(len(vessels.index), bool), GRID, 1.0, InputOptions()
    )[0]
    assert inside(aif.voxels, ARTERY)


def test_no_vein_no_scaling():
    _, curves, index = scan()
    tissue = (index[:, 1] < 30).nonzero()[0]
    options = InputOptions()
    vessels = inputs.vessel_voxels(curves[:, tissue], index[tissue], 1.0, options)
    aif = inputs.arterial_candidates(
        vessels, np.ones(len(vessels.index), bool), GRID, 1.0, options
    )[0]
    assert inputs.venous_input(vessels, aif, GRID, 1.0, options) is None


def test_given_voxels_are_used_as_they_are():
    true, curves, index = scan(noise=0.0)
    chosen = np.array([[1, 11, 11]])
    at = np.flatnonzero((index == chosen[0]).all(axis=1))
    given = inputs.given_input(curves[:, at], chosen, GRID, "voxel")
    assert given.curve_hu == pytest.approx(0.6 * true, abs=1e-3)
    assert given.source == "voxel"
    with pytest.raises(CurveError, match="do not enhance"):
        inputs.given_input(np.zeros((50, 1), np.float32), chosen, GRID, "mask")


@pytest.mark.parametrize(
    "pulse",
    [
        (0, 0, 0, 0, 160, 180, 150, 250, 310, 360, 70, 60, 50, 15, 10, 180, 180, 260, 290, 70),
        (0, 0, 0, 0, 0, 0, 0, 500, 540, 590, 110, 40, 30, 30, 20, 30, 10, 20, 10, 0),
        (0, 0, 250, 260, 20, 10, 40, 120, 280, 330, 320, 260, 190, 130, 100, 90, 80, 70, 60, 50),
    ],
    ids=["comes back", "ends within a frame", "came before"],
)
def test_an_edge_dragged_over_a_voxel_is_no_bolus(pulse):
    time = np.arange(20) * 2.0
    u = np.maximum(time - 8, 0) / 8
    bolus = 300 * u**3 * np.exp(3 - 3 * u) + 40 * (u > 2)
    curves = np.stack([np.asarray(pulse, float), bolus], axis=1).astype(np.float32)
    vessels = inputs.VesselVoxels(
        np.zeros((2, 3), np.intp), curves, shape_of(curves, 2.0), np.full(2, 4.0, np.float32)
    )
    assert inputs._one_passage(vessels, 2.0).tolist() == [False, True]
