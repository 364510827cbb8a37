import numpy as np
import pytest

from strokect.core.errors import SettingsError
from strokect.perfusion.convolution import (
    BLOOD,
    RESIDUE_SHAPES,
    residue,
    response_table,
    tissue_curves,
)

STEP = 0.05
TIME = np.arange(0, 120, STEP)


def artery():
    t = np.maximum(TIME - 8, 0)
    return 300 * (t / 4.5) ** 3 * np.exp(3 * (1 - t / 4.5))


def test_worked_number_of_the_units():
    """CBF 60 and CBV 4 give MTT 4 s and a maximum of 0.01419 1/s (perfusion.md)."""
    assert 60 / BLOOD.flow_to_cbf == pytest.approx(0.01419, abs=1e-5)
    assert BLOOD.k_h == pytest.approx(0.7333, abs=1e-4)


@pytest.mark.parametrize("shape", RESIDUE_SHAPES)
@pytest.mark.parametrize("mtt", [2.0, 4.0, 12.0])
def test_residue_starts_at_one_and_has_the_area_mtt(shape, mtt):
    fine = np.arange(0, 200, 0.001)
    values = residue(shape, fine, mtt)
    assert values[0] == 1
    assert (np.diff(values) <= 1e-12).all()
    assert values.sum() * 0.001 == pytest.approx(mtt, rel=2e-3)
    assert residue(shape, -1.0, mtt) == 0


def test_unknown_shape():
    with pytest.raises(SettingsError, match="triangle"):
        residue("triangle", 0.0, 4.0)


@pytest.mark.parametrize("shape", RESIDUE_SHAPES)
def test_curves_equal_direct_convolution(shape):
    """Against a plain float64 Riemann sum that shares no code with the table."""
    cbf, mtt, delay = 47.0, 5.3, 1.7
    table = response_table(artery(), 0.0, STEP, shape)
    times = np.arange(0, 60, 1.5)
    one = (np.array([v], np.float32) for v in (cbf, mtt, delay))
    found = tissue_curves(table, times, *one)[:, 0]
    fine = 0.01
    u = np.arange(0, 70, fine)
    ca = np.interp(u, TIME, artery())
    expected = [
        cbf / 6000 / 0.7333333 * 1.04 * (ca * residue(shape, t - delay - u, mtt)).sum() * fine
        for t in times
    ]
    assert found == pytest.approx(expected, abs=0.01 * max(expected))


def test_area_is_blood_volume_and_delay_moves_the_curve():
    table = response_table(artery(), 0.0, STEP, "gamma")
    cbf, mtt = np.full(2, 60, np.float32), np.full(2, 4, np.float32)
    curves = tissue_curves(table, TIME, cbf, mtt, np.array([0, 3], np.float32))
    cbv = BLOOD.volume_to_cbv * curves.sum(axis=0) / artery().sum()
    assert cbv == pytest.approx(4.0, rel=5e-3)
    lag = round(3 / STEP)
    assert curves[lag:, 1] == pytest.approx(curves[:-lag, 0], abs=0.02)
