"""Known truth: OSIPI's third-party curves, and our own forward model."""

import csv
from pathlib import Path

import numpy as np
import pytest

from strokect.perfusion.convolution import BLOOD, response_table, tissue_curves
from strokect.perfusion.deconvolution import (
    DeconvolutionOptions,
    bsvd,
    circulant_inverse,
    oscillation_index,
    osvd,
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


def test_osvd_residues_oscillate_less_than_the_limit():
    fine = np.arange(0, 60, 0.05)
    t = np.maximum(fine - 8, 0)
    aif_fine = 300 * (t / 4.5) ** 3 * np.exp(3 * (1 - t / 4.5))
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
    residue = np.array([0, 1, 0, 1, 0], np.float32)[:, None]
    assert oscillation_index(residue)[0] == pytest.approx(6 / 5)
    assert oscillation_index(np.zeros((5, 1), np.float32))[0] > 1e6


@pytest.mark.parametrize("estimator", [bsvd, osvd])
@pytest.mark.parametrize("true_delay", [0.0, 1.0, 2.5, 5.0])
def test_delay_is_recovered_and_is_not_tmax(estimator, true_delay):
    fine = np.arange(0, 60, 0.05)
    t = np.maximum(fine - 8, 0)
    aif_fine = 300 * (t / 4.5) ** 3 * np.exp(3 * (1 - t / 4.5))
    table = response_table(aif_fine, 0.0, 0.05, "box")
    one = (np.array([x], np.float32) for x in (30, 8, true_delay))
    curves = tissue_curves(table, np.arange(60.0), *one)
    fit = estimator(curves, aif_fine[::20].astype(np.float32), 1.0, DeconvolutionOptions())
    assert fit.delay_s[0] == pytest.approx(true_delay, abs=0.8)
    # The top of a box of 8 s is flat: its maximum lies on it, away from the arrival.
    assert true_delay + 0.5 < fit.tmax_s[0] < true_delay + 8.0
    assert BLOOD.flow_to_cbf * fit.flow[0] == pytest.approx(30, rel=0.2)
