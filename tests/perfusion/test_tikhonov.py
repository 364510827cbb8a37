"""Known truth, and what a ridge must do at its limits."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from strokect.perfusion.convolution import BLOOD, response_table, tissue_curves
from strokect.perfusion.deconvolution import CirculantSVD, project
from strokect.perfusion.tikhonov import (
    TikhonovOptions,
    gcv_choice,
    l_curve_choice,
    penalty_weights,
    ridge_factors,
    tikhonov,
)

OSIPI = Path(__file__).parents[2].parent / "shared" / "data" / "osipi_dsc" / "dsc_data.csv"
CHOICES = ["gcv", "l-curve"]


def scan(noise_hu, n=400, seed=0):
    """AIF (T,), curves (T, V) of one tissue with noise."""
    fine = np.arange(0, 50, 0.05)
    t = np.maximum(fine - 8, 0)
    aif = 300 * (t / 4.5) ** 3 * np.exp(3 * (1 - t / 4.5))
    table = response_table(aif, 0.0, 0.05, "gamma")
    truth = (np.full(n, x, np.float32) for x in (50, 5, 1))
    curves = tissue_curves(table, np.arange(50.0), *truth)
    noise = np.random.default_rng(seed).normal(0, noise_hu, curves.shape)
    return aif[::20].astype(np.float32), (curves + noise).astype(np.float32)


@pytest.mark.skipif(not OSIPI.exists(), reason="shared/data/osipi_dsc is not here")
@pytest.mark.parametrize("choice", CHOICES)
def test_osipi_cases_lie_within_the_osipi_tolerance(choice):
    with OSIPI.open() as file:
        cases = list(csv.DictReader(file))
    assert len(cases) == 14
    for case in cases:
        tissue, aif = (np.array(case[k].split(), np.float32) for k in ("C_tis", "C_aif"))
        fit = tikhonov(tissue[:, None], aif, float(case["tr"]), TikhonovOptions(choice=choice))
        cbv, cbf = 100 * fit.volume[0], 6000 * fit.flow[0]
        assert cbv == pytest.approx(float(case["cbv"]), abs=0.1 * float(case["cbv"]) + 1)
        assert cbf == pytest.approx(float(case["cbf"]), abs=0.1 * float(case["cbf"]) + 15)


def test_misfit_and_size_are_those_of_the_ridge_solution():
    """Against the normal equations of the whole circulant matrix, written out."""
    aif, curves = scan(2.0, n=1)
    svd = CirculantSVD.of(aif, 1.0)
    options = TikhonovOptions(weights=(0.1, 0.1001), n_weights=2)
    weight = penalty_weights(svd, options)[0]
    padded = np.r_[aif, np.zeros_like(aif)].astype(float)
    matrix = np.stack([np.roll(padded, t) for t in range(len(padded))], axis=1)
    target = np.r_[curves[:, 0], np.zeros(len(aif))]
    normal = matrix.T @ matrix + weight**2 * np.eye(len(padded))
    expected = np.linalg.solve(normal, matrix.T @ target)
    factors = ridge_factors(svd, np.array([weight]))[0]
    found = svd.right @ (factors / svd.values * (svd.left.T @ curves[:, 0]))
    assert found == pytest.approx(expected, abs=1e-6)
    window = np.r_[expected[-5:], expected[: len(aif)]]
    fit = tikhonov(curves, aif, 1.0, options)
    assert fit.flow[0] == pytest.approx(window.max(), rel=0.03)


def test_no_penalty_inverts_and_a_huge_one_leaves_nothing():
    svd = CirculantSVD.of(scan(0.0, 1)[0], 1.0)
    none, huge = ridge_factors(svd, np.array([0.0, 1e6 * svd.values[0]]))
    assert none == pytest.approx(1.0)
    assert huge.max() < 1e-6


@pytest.mark.parametrize("choose", [gcv_choice, l_curve_choice])
def test_more_noise_asks_for_a_larger_penalty(choose):
    means = []
    for noise in (0.3, 1.0, 3.0, 10.0):
        aif, curves = scan(noise)
        svd = CirculantSVD.of(aif, 1.0)
        weights = penalty_weights(svd, TikhonovOptions(weights=(0.005, 1.0)))
        kept = ridge_factors(svd, weights)
        power = np.square(project(curves, svd.left))
        misfit, size = power @ np.square(1 - kept).T, power @ np.square(kept / svd.values).T
        means.append(choose(misfit, size, (1 - kept).sum(axis=1)).mean())
    assert means[0] < means[-1]
    assert np.corrcoef(np.arange(4), means)[0, 1] > 0.9


@pytest.mark.parametrize("choice", CHOICES)
def test_flow_is_recovered_and_scales(choice):
    options = TikhonovOptions(choice=choice)
    aif, curves = scan(1.0)
    fit = tikhonov(curves, aif, 1.0, options)
    assert np.median(fit.flow) * BLOOD.flow_to_cbf == pytest.approx(50, rel=0.2)
    assert np.median(fit.delay_s) == pytest.approx(1.0, abs=1.0)
    assert np.median(fit.delay_s) < np.median(fit.tmax_s)
    doubled = tikhonov(2 * curves, aif, 1.0, options)
    same = np.isclose(doubled.flow, 2 * fit.flow, rtol=1e-3)
    assert same.mean() > 0.99, "rounding may tip the choice of single voxels only"


def test_a_choice_per_voxel_beats_one_small_weight_for_all():
    aif, curves = scan(4.0)
    options = TikhonovOptions()
    fixed = tikhonov(curves, aif, 1.0, replace(options, weights=(0.02, 0.0201), n_weights=2))
    assert tikhonov(curves, aif, 1.0, options).flow.std() < 0.7 * fixed.flow.std()
