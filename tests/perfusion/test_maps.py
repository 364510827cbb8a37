import numpy as np
import pytest

from strokect.core.types import Grid
from strokect.perfusion.convolution import BLOOD
from strokect.perfusion.deconvolution import ResidueFit
from strokect.perfusion.maps import median_in_mask, to_volume, uncertainty_maps, voxel_maps

GRID = Grid((1, 9, 9), np.diag([1.0, 1, 5, 1]))


def fit(cbf, cbv, **known):
    cbf, cbv = np.asarray(cbf, np.float32), np.asarray(cbv, np.float32)
    zero = np.zeros_like(cbf)
    return ResidueFit(cbf / BLOOD.flow_to_cbf, cbv / BLOOD.volume_to_cbv, zero, zero, **known)


def test_units_and_the_central_volume_theorem():
    """CBF 60 and CBV 4 give MTT 4 s; TTP counts from the arterial arrival."""
    time = np.arange(40.0)
    curves = np.exp(-0.5 * ((time - 18.3) / 4) ** 2)[:, None].astype(np.float32)
    found = voxel_maps(fit([60.0], [4.0]), curves, 8.0, 1.0)
    assert found["cbf"][0] == pytest.approx(60)
    assert found["cbv"][0] == pytest.approx(4)
    assert found["mtt"][0] == pytest.approx(4)
    assert found["ttp"][0] == pytest.approx(10.3, abs=0.05)


def test_probability_of_core():
    cbf = np.array([2.0, 8.0, 15.0, 40.0])
    sure = {"flow_sd": (0.1 * cbf / BLOOD.flow_to_cbf).astype(np.float32)}
    late = {"tmax_sd_s": np.ones(4, np.float32), "hypoperfusion": np.ones(4, np.float32)}
    p = uncertainty_maps(fit(cbf, cbf, **sure, **late), 45.0)["p_core"]
    assert (np.diff(p) <= 0).all()
    assert p[0] > 0.99
    assert p[-1] < 0.01
    early = {**late, "hypoperfusion": np.zeros(4, np.float32)}
    assert not uncertainty_maps(fit(cbf, cbf, **sure, **early), 45.0)["p_core"].any()


def test_a_method_without_posterior_has_no_uncertainty():
    assert uncertainty_maps(fit([50.0], [4.0]), 45.0) == {}


def test_median_stays_within_the_mask_and_removes_specks():
    mask = np.zeros(GRID.shape, bool)
    mask[:, 1:8, 1:8] = True
    volume = to_volume(np.full(49, 5.0, np.float32), mask)
    volume[0, 4, 4] = 100
    out = median_in_mask(volume, mask, GRID, 3.0)
    assert (out[mask] == 5).all(), "the border was drawn to 0, or the speck stayed"
    assert not out[~mask].any()
