import numpy as np
import pytest

from strokect.perfusion.bayes import BayesOptions, bayes, dictionary, learn_shapes, noise_level
from strokect.perfusion.convolution import BLOOD, response_table, tissue_curves

OPTIONS = BayesOptions(n_mtt=20, delay_step_s=1.0)


def artery(time_s, arrival_s=10.0):
    t = np.maximum(time_s - arrival_s, 0.0)
    return 300.0 * (t / 4.5) ** 3 * np.exp(3 * (1 - t / 4.5)) + 20 * (1 - np.exp(-t / 10))


def scan(cbf, mtt, delay, shape="gamma", noise=0.5, n=50, arrival_s=10.0, seed=0):
    """AIF (T,) and noisy tissue curves (T, V)."""
    fine = np.arange(0, n, 0.05)
    table = response_table(artery(fine, arrival_s), 0.0, 0.05, shape)
    sizes = np.broadcast_arrays(*(np.asarray(v, np.float32) for v in (cbf, mtt, delay)))
    curves = tissue_curves(table, np.arange(n), *sizes)
    curves += np.random.default_rng(seed).normal(0, noise, curves.shape).astype(np.float32)
    return artery(np.arange(n), arrival_s).astype(np.float32), curves


def test_posterior_equals_the_sum_over_the_grid():
    """The kernel against plain float64 sums, true exponential included."""
    cbf = np.linspace(5, 70, 300)
    aif, curves = scan(cbf, 60 * 4 / cbf, 2.0, noise=1.0)
    sigma = noise_level(curves)
    grid = learn_shapes(dictionary(aif, 1.0, OPTIONS), curves, sigma, OPTIONS)
    score = np.maximum(curves.T.astype(float) @ grid.atoms.T.astype(float) / sigma, 0)
    level = 0.5 * score**2 + grid.log_prior
    weight = np.exp(level - level.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    volume = (weight * score * sigma / grid.norm * grid.mtt_s).sum(axis=1)
    tmax = grid.delay_s + grid.mtt_s / 2
    mean = weight @ tmax
    fit = bayes(curves, aif, 1.0, OPTIONS)
    assert fit.volume == pytest.approx(volume, rel=0.01)
    assert fit.delay_s == pytest.approx(weight @ grid.delay_s, abs=0.03)
    assert fit.tmax_s == pytest.approx(mean, abs=0.03)
    assert fit.tmax_sd_s == pytest.approx(np.sqrt(weight @ tmax**2 - mean**2), abs=0.05)
    assert fit.hypoperfusion == pytest.approx(weight @ (tmax > 6.0), abs=0.01)
    assert fit.flow == pytest.approx(fit.volume / (weight @ grid.mtt_s), rel=0.02)


@pytest.mark.parametrize("shape", ["box", "gamma", "linear", "exponential"])
def test_the_residue_family_is_learnt_from_all_curves(shape):
    cbf = np.tile(np.linspace(15, 70, 50), 30)
    aif, curves = scan(cbf, 60 * 4 / cbf, np.repeat(np.linspace(0, 3, 30), 50), shape)
    fit = bayes(curves, aif, 1.0, BayesOptions())
    slope = np.polyfit(cbf, fit.flow * BLOOD.flow_to_cbf, 1)[0]
    assert 0.8 < slope < 1.2
    assert np.median(fit.volume) * BLOOD.volume_to_cbv == pytest.approx(4.0, rel=0.05)


def test_a_constant_added_to_curves_changes_nothing():
    aif, curves = scan(np.full(200, 40.0), 6.0, 1.0)
    one, two = (bayes(c, aif, 1.0, OPTIONS) for c in (curves, curves + np.float32(37)))
    assert two.flow == pytest.approx(one.flow, rel=0.01)
    assert two.tmax_s == pytest.approx(one.tmax_s, abs=0.02)


def test_probability_and_spread_follow_the_evidence():
    aif, curves = scan(
        [50.0] * 100 + [20.0] * 100, [4.8] * 100 + [10.0] * 100, [0.5] * 100 + [6.0] * 100
    )
    fit = bayes(curves, aif, 1.0, BayesOptions())
    assert fit.hypoperfusion[:100].max() < 0.05
    assert fit.hypoperfusion[100:].min() > 0.95
    _, noisy = scan([50.0] * 200, 4.8, 0.5, noise=3.0)
    assert np.median(bayes(noisy, aif, 1.0, BayesOptions()).tmax_sd_s) > 2 * np.median(
        fit.tmax_sd_s[:100]
    )


def test_dead_tissue_at_the_end_of_a_short_scan_holds_no_blood():
    """A response beyond the end of the scan must not explain noise by an enormous flow."""
    cbf = np.r_[np.full(300, 50.0), np.zeros(100)]
    aif, curves = scan(cbf, 4.8, 0.5, noise=1.0, n=36, arrival_s=22.0)
    fit = bayes(curves, aif, 1.0, BayesOptions())
    assert np.quantile(fit.volume[300:], 0.9) * BLOOD.volume_to_cbv < 4.0
