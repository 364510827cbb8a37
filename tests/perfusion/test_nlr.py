"""Box curves give back what they were made of; other residues give what a box must say of them."""

import csv
from pathlib import Path

import numpy as np
import pytest

from strokect.perfusion.convolution import BLOOD, response_table, tissue_curves
from strokect.perfusion.nlr import Artery, NlrOptions, nlr

OSIPI = Path(__file__).parents[2].parent / "shared" / "data" / "osipi_dsc" / "dsc_data.csv"


def bolus(time_s):
    t = np.maximum(time_s - 8, 0)
    return 300 * (t / 4.5) ** 3 * np.exp(3 * (1 - t / 4.5))


def scan(cbf, mtt, delay, interval_s=1.0, noise_hu=0.0, shape="box"):
    fine = np.arange(0, 60, 0.05)
    table = response_table(bolus(fine), 0.0, 0.05, shape)
    times = np.arange(0, 60, interval_s)
    truth = np.broadcast_arrays(*(np.asarray(x, np.float32) for x in (cbf, mtt, delay)))
    curves = tissue_curves(table, times, *truth)
    noise = np.random.default_rng(0).normal(0, noise_hu, curves.shape)
    return (curves + noise).astype(np.float32), bolus(times).astype(np.float32), interval_s


GRID = [x.ravel() for x in np.meshgrid([10.0, 60], [3.0, 5, 12, 20], [-3.0, -0.4, 0, 1.7, 6, 9])]


@pytest.mark.parametrize("interval_s", [0.5, 1.0, 1.5])
def test_box_curves_are_recovered(interval_s):
    cbf, mtt, delay = GRID
    fit = nlr(*scan(cbf, mtt, delay, interval_s), NlrOptions())
    seen = delay + mtt + 15 < 60  # its washout is within the scan
    assert seen.sum() > 30
    flow = fit.flow * BLOOD.flow_to_cbf
    assert flow[seen] == pytest.approx(cbf[seen], rel=0.02)
    assert fit.mtt_s[seen] == pytest.approx(mtt[seen], rel=0.02)
    assert fit.delay_s[seen] == pytest.approx(delay[seen], abs=0.05)
    volume = fit.volume * BLOOD.volume_to_cbv
    assert volume[seen] == pytest.approx((cbf * mtt / 60)[seen], rel=0.02)
    assert fit.tmax_s == pytest.approx(fit.delay_s + fit.mtt_s / 2, abs=1e-4)


def test_low_noise_leaves_the_mean_within_two_percent():
    n = 500
    fit = nlr(*scan(np.full(n, 50.0), 5.0, 2.3, noise_hu=0.5), NlrOptions())
    assert fit.flow.mean() * BLOOD.flow_to_cbf == pytest.approx(50, rel=0.02)
    assert fit.delay_s.mean() == pytest.approx(2.3, abs=0.05)
    assert fit.delay_s.std() < 0.3


def test_a_baseline_changes_nothing():
    curves, aif, step = scan(GRID[0], GRID[1], GRID[2])
    plain, lifted = (nlr(curves + k, aif, step, NlrOptions()) for k in (0, 35))
    assert lifted.flow == pytest.approx(plain.flow, rel=5e-3)
    assert lifted.delay_s == pytest.approx(plain.delay_s, abs=0.02)


def test_the_fit_is_the_least_squares_optimum():
    """No neighbour in (MTT, delay) fits a noisy curve better."""
    curves, aif, step = scan(np.full(50, 40.0), 6.0, 1.0, noise_hu=2.0)
    fit = nlr(curves, aif, step, NlrOptions(iterations=40))
    artery, time = Artery.of(aif, step), np.arange(len(aif))[:, None] * step

    def misfit(mtt, delay):
        g = artery.box_response(time, mtt, delay)
        g, y = g - g.mean(axis=0), curves - curves.mean(axis=0)
        return np.square(y).sum(axis=0) - (y * g).sum(axis=0) ** 2 / np.square(g).sum(axis=0)

    best = misfit(fit.mtt_s, fit.delay_s)
    for scale, shift in ((1.05, 0), (0.95, 0), (1, 0.1), (1, -0.1), (1.03, -0.1), (0.97, 0.1)):
        mtt, delay = fit.mtt_s * scale, fit.delay_s + shift
        allowed = (mtt > 0.5) & (delay > -5)
        assert (misfit(mtt, delay) > best - 0.05)[allowed].all()


def test_bounds_hold():
    rng = np.random.default_rng(3)
    curves, aif, step = scan(np.zeros(2000), 5.0, 0.0)
    fit = nlr(curves + rng.normal(0, 3, curves.shape).astype(np.float32), aif, step, NlrOptions())
    found = fit.flow > 0
    assert found.mean() > 0.5
    assert (fit.mtt_s[found] > 0.499).all()
    assert (fit.mtt_s[found] < 40.01).all()
    assert (fit.delay_s >= -5.001).all()
    assert (fit.delay_s <= 15.001).all()


@pytest.mark.parametrize("shape", ["exponential", "gamma", "linear"])
def test_another_residue_reads_as_a_longer_and_lower_box(shape):
    """The known price of a one-shape model: flow about half for an exponential residue."""
    curves, aif, step = scan([50.0], 5.0, 0.0, shape=shape)
    fit = nlr(curves, aif, step, NlrOptions())
    assert 0.4 < fit.flow[0] * BLOOD.flow_to_cbf / 50 < 0.8
    assert fit.volume[0] * BLOOD.volume_to_cbv == pytest.approx(50 * 5 / 60, rel=0.2)


@pytest.mark.skipif(not OSIPI.exists(), reason="shared/data/osipi_dsc is not here")
def test_osipi_cases():
    """OSIPI's residues are exponential: volume is within its tolerance, flow is low and ordered."""
    with OSIPI.open() as file:
        cases = list(csv.DictReader(file))
    flows = []
    for case in cases:
        tissue, aif = (np.array(case[k].split(), np.float32) for k in ("C_tis", "C_aif"))
        fit = nlr(tissue[:, None], aif, float(case["tr"]), NlrOptions())
        truth = float(case["cbv"])
        assert 100 * fit.volume[0] == pytest.approx(truth, abs=0.1 * truth + 1)
        flows.append(6000 * fit.flow[0])
        assert 0.4 < flows[-1] / float(case["cbf"]) < 0.7
    for same_volume in (flows[:7], flows[7:]):
        assert (np.diff(same_volume) > 0).all()
