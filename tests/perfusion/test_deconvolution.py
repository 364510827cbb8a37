"""Known truth: OSIPI's third-party curves, and our own forward model."""

import csv
from pathlib import Path

import numpy as np
import pytest

from strokect.perfusion.convolution import BLOOD, response_table, tissue_curves
from strokect.perfusion.deconvolution import (
    OSVD_LEVELS,
    CirculantSVD,
    DeconvolutionOptions,
    bsvd,
    circulant_inverse,
    oscillation_index,
    osvd,
    project,
    ssvd,
)

OSIPI = Path(__file__).parents[2].parent / "shared" / "data" / "osipi_dsc" / "dsc_data.csv"


def osipi_cases():
    if not OSIPI.exists():
        return []
    with OSIPI.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(not OSIPI.exists(), reason="shared/data/osipi_dsc is not here")
@pytest.mark.parametrize("estimator", [ssvd, bsvd, osvd])
def test_osipi_cases_lie_within_the_osipi_tolerance(estimator):
    """CBV within 10 % + 1, CBF within 10 % + 15; concentrations, so no haematocrit factor."""
    cases = osipi_cases()
    assert len(cases) == 14
    for case in cases:
        tissue, aif = (np.array(case[k].split(), np.float32) for k in ("C_tis", "C_aif"))
        fit = estimator(tissue[:, None], aif, float(case["tr"]), DeconvolutionOptions())
        cbv, cbf = 100 * fit.volume[0], 6000 * fit.flow[0]
        assert cbv == pytest.approx(float(case["cbv"]), abs=0.1 * float(case["cbv"]) + 1)
        assert cbf == pytest.approx(float(case["cbf"]), abs=0.1 * float(case["cbf"]) + 15)


def test_circulant_inverse_inverts_a_circular_convolution():
    rng = np.random.default_rng(0)
    n, step = 40, 0.7
    aif = np.exp(-0.5 * ((np.arange(n) - 5) / 0.6) ** 2)  # narrow: well conditioned
    inverse = circulant_inverse(aif, step, 0.0)
    k = np.r_[rng.uniform(0, 1, n // 2), np.zeros(2 * n - n // 2)]
    padded = np.r_[aif, np.zeros(n)]
    curve = step * np.array(
        [sum(padded[(i - j) % (2 * n)] * k[j] for j in range(2 * n)) for i in range(n)]
    )
    assert inverse @ curve == pytest.approx(k, abs=0.05)


def bolus(time_s):
    t = np.maximum(time_s - 8, 0)
    return 300 * (t / 4.5) ** 3 * np.exp(3 * (1 - t / 4.5))


def test_circulant_svd_is_that_of_the_matrix():
    aif = bolus(np.arange(30.0))
    svd = CirculantSVD.of(aif, 0.5)
    padded = np.r_[aif, np.zeros(30)]
    matrix = 0.5 * np.stack([np.roll(padded, t) for t in range(60)], axis=1)
    assert (np.diff(svd.values) <= 0).all()
    assert svd.values == pytest.approx(np.linalg.svd(matrix, compute_uv=False), abs=1e-6)
    assert svd.right.T @ svd.right == pytest.approx(np.eye(60), abs=1e-9)
    assert (svd.left * svd.values) @ svd.right.T == pytest.approx(matrix[:30], abs=1e-6)


@pytest.mark.parametrize(("frames", "voxels"), [(45, 1000), (44, 63), (7, 1), (1, 5)])
def test_project_is_a_matrix_product(frames, voxels):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(frames, voxels)), rng.normal(size=(frames, 2 * frames + 1))
    out = project(a.astype(np.float32), b.astype(np.float32))
    assert out == pytest.approx(a.T @ b, abs=1e-4)


def test_osvd_takes_the_level_that_bisection_finds():
    rng = np.random.default_rng(2)
    aif = bolus(np.arange(45.0)).astype(np.float32)
    curves = np.convolve(aif, np.exp(-np.arange(45) / 5.0))[:45, None] * rng.uniform(
        0.002, 0.02, 80
    )
    curves = (curves + rng.normal(0, 2, curves.shape)).astype(np.float32)
    svd = CirculantSVD.of(aif, 1.0)
    residues = []  # per level, fewest singular values first
    for count in svd.counts(*OSVD_LEVELS):
        inverse = (svd.right[:, :count] / svd.values[:count]) @ svd.left[:, :count].T
        residues.append((inverse @ curves).T)
    calm = np.stack([oscillation_index(r) < 0.065 for r in residues])
    fit = osvd(curves, aif, 1.0, DeconvolutionOptions())
    tops = []
    for i in range(80):
        low, high = 0, len(calm) - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if calm[middle, i] else (low, middle - 1)
        tops.append(np.r_[residues[low][i, -5:], residues[low][i, :45]].max())
    assert len(set(np.round(tops, 9))) > 1
    # The parabola through the maximum lifts it by little.
    assert fit.flow == pytest.approx(np.array(tops), rel=0.05)
    assert np.median(np.abs(fit.flow / tops - 1)) < 0.01


def test_osvd_residues_oscillate_less_than_the_limit():
    fine = np.arange(0, 60, 0.05)
    aif_fine = bolus(fine)
    table = response_table(aif_fine, 0.0, 0.05, "exponential")
    v = 400
    rng = np.random.default_rng(1)
    curves = tissue_curves(table, np.arange(60.0), *(np.full(v, x, np.float32) for x in (50, 5, 1)))
    noisy = (curves + rng.normal(0, 1.0, curves.shape)).astype(np.float32)
    aif = aif_fine[::20].astype(np.float32)
    spread_fixed = bsvd(noisy, aif, 1.0, DeconvolutionOptions(threshold=0.02)).flow.std()
    spread_adaptive = osvd(noisy, aif, 1.0, DeconvolutionOptions()).flow.std()
    assert spread_adaptive < 0.7 * spread_fixed


def test_oscillation_index_by_hand():
    residue = np.array([0, 1, 0, 1, 0], np.float32)[None]
    assert oscillation_index(residue)[0] == pytest.approx(6 / 5)
    assert oscillation_index(np.zeros((1, 5), np.float32))[0] > 1e6


@pytest.mark.parametrize("estimator", [bsvd, osvd])
@pytest.mark.parametrize("true_delay", [0.0, 1.0, 2.5, 5.0])
def test_delay_is_recovered_and_is_not_tmax(estimator, true_delay):
    fine = np.arange(0, 60, 0.05)
    aif_fine = bolus(fine)
    table = response_table(aif_fine, 0.0, 0.05, "box")
    one = (np.array([x], np.float32) for x in (30, 8, true_delay))
    curves = tissue_curves(table, np.arange(60.0), *one)
    fit = estimator(curves, aif_fine[::20].astype(np.float32), 1.0, DeconvolutionOptions())
    assert fit.delay_s[0] == pytest.approx(true_delay, abs=0.8)
    # The top of a box of 8 s is flat: its maximum lies on it, away from the arrival.
    assert true_delay + 0.5 < fit.tmax_s[0] < true_delay + 8.0
    assert BLOOD.flow_to_cbf * fit.flow[0] == pytest.approx(30, rel=0.2)
