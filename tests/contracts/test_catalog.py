"""Contracts that every entry of the catalog keeps; a new entry is tested unasked."""

import numpy as np
import pytest

from strokect import catalog
from strokect.core.errors import CurveError, SettingsError
from strokect.core.types import Grid
from strokect.perfusion.convolution import BLOOD, response_table, tissue_curves
from strokect.perfusion.denoise import DenoiseOptions
from strokect.perfusion.tissue import TissueRule
from strokect.settings import PerfusionSettings

DELAY_SENSITIVE = {"ssvd"}
#: A method that fits one residue family measures areas right for that family only.
OWN_SHAPE = {"nlr": "box"}
ESTIMATORS = sorted(catalog.ESTIMATORS)


def artery(time_s, arrival_s=8.0):
    t = np.maximum(time_s - arrival_s, 0.0)
    return 300.0 * (t / 4.5) ** 3 * np.exp(3 * (1 - t / 4.5))


def scan(cbf, mtt, delay, interval_s=1.0, n=60, shape="exponential"):
    """AIF (T,) and tissue (T, V) sampled from the fine forward model."""
    fine = np.arange(0, n * interval_s, 0.05)
    table = response_table(artery(fine), 0.0, 0.05, shape)
    time_s = np.arange(n) * interval_s
    curves = tissue_curves(
        table,
        time_s,
        *(np.broadcast_to(np.asarray(x, np.float32), (len(cbf),)) for x in (cbf, mtt, delay)),
    )
    return artery(time_s).astype(np.float32), curves, interval_s


@pytest.mark.parametrize(("table", "name"), [(t, n) for t, e in catalog.TABLES.items() for n in e])
def test_every_entry_loads(table, name):
    assert catalog.load(table, name) is not None


def test_unknown_name_names_the_nearest():
    with pytest.raises(SettingsError, match="Did you mean 'bsvd'"):
        catalog.load("estimators", "bsdv")


@pytest.mark.parametrize("name", ESTIMATORS)
class TestEstimators:
    def run(self, name, curves, aif, interval_s):
        options = getattr(PerfusionSettings(), catalog.ESTIMATORS[name].options)
        return catalog.load("estimators", name)(curves, aif, interval_s, options)

    def test_linear_in_flow(self, name):
        aif, curves, step = scan([60.0], 4.0, 1.0)
        one, two = (self.run(name, curves * k, aif, step) for k in (1, 2))
        assert two.flow == pytest.approx(2 * one.flow, rel=0.02)
        assert two.tmax_s == pytest.approx(one.tmax_s, abs=0.05)

    def test_volume_is_the_ratio_of_areas(self, name):
        shape = OWN_SHAPE.get(name, "exponential")
        aif, curves, step = scan([60.0, 25.0], [4.0, 5.0], 0.0, shape=shape)
        cbv = self.run(name, curves, aif, step).volume * BLOOD.volume_to_cbv
        assert cbv == pytest.approx([4.0, 25 * 5 / 60], rel=0.05)

    def test_more_flow_reads_as_more_flow(self, name):
        flows = np.array([10.0, 20, 40, 60, 80])
        aif, curves, step = scan(flows, 60 * 4.0 / flows, 0.0)
        assert (np.diff(self.run(name, curves, aif, step).flow) > 0).all()

    def test_later_tissue_reads_as_later(self, name):
        aif, curves, step = scan([50.0] * 4, 5.0, [0.0, 2.0, 4.0, 8.0])
        fit = self.run(name, curves, aif, step)
        assert np.diff(fit.tmax_s) == pytest.approx([2, 2, 4], abs=0.6)
        assert np.diff(fit.delay_s) == pytest.approx([2, 2, 4], abs=0.6)

    def test_delay_does_not_change_flow(self, name):
        if name in DELAY_SENSITIVE:
            pytest.skip("a delay-sensitive method")
        aif, curves, step = scan([50.0] * 7, 5.0, [-4.0, -3, -1.5, 0, 1.5, 3, 4])
        flow = self.run(name, curves, aif, step).flow
        assert np.abs(flow / flow[3] - 1).max() < 0.03

    def test_shapes_types_and_finite(self, name):
        aif, curves, step = scan([50.0, 0.0, 5.0], 5.0, 1.0)
        fit = self.run(name, curves, aif, step)
        for values in (fit.flow, fit.volume, fit.delay_s, fit.tmax_s, fit.mtt_s):
            assert values.shape == (3,)
            assert values.dtype == np.float32
            assert np.isfinite(values).all()
        assert fit.flow[1] == 0

    def test_same_bits_twice(self, name):
        rng = np.random.default_rng(0)
        aif, curves, step = scan([50.0] * 3000, 5.0, 1.0)
        curves = curves + rng.normal(0, 2, curves.shape).astype(np.float32)
        one, two = (self.run(name, curves, aif, step) for _ in range(2))
        assert np.array_equal(one.flow, two.flow)
        assert np.array_equal(one.tmax_s, two.tmax_s)

    def test_empty_artery_is_refused(self, name):
        aif, curves, step = scan([50.0], 5.0, 1.0)
        with pytest.raises(CurveError):
            self.run(name, curves, np.zeros_like(aif), step)


@pytest.mark.parametrize("name", sorted(catalog.DENOISERS))
class TestDenoisers:
    grid = Grid((2, 40, 40), np.diag([1.0, 1, 5, 1]))

    def run(self, name, curves, mask):
        return catalog.load("denoisers", name)(curves, mask, self.grid, DenoiseOptions())

    def test_a_constant_stays(self, name):
        mask = np.zeros(self.grid.shape, bool)
        mask[:, 8:30, 8:30] = True
        curves = np.full((3, np.count_nonzero(mask)), 40.0, np.float32)
        assert self.run(name, curves, mask) == pytest.approx(40.0, abs=1e-3)

    def test_noise_does_not_grow_and_input_is_kept(self, name):
        rng = np.random.default_rng(1)
        mask = np.ones(self.grid.shape, bool)
        curves = (40 + rng.normal(0, 5, (6, mask.size))).astype(np.float32)
        before = curves.copy()
        out = self.run(name, curves, mask)
        assert np.array_equal(curves, before)
        assert out.shape == curves.shape
        assert out.dtype == np.float32
        assert out.std() <= curves.std() * (1.0001 if name == "none" else 0.6)
        assert out.mean() == pytest.approx(40, abs=0.3)


@pytest.mark.parametrize("name", sorted(catalog.RULES))
def test_rules_cite_their_source(name):
    rule = catalog.load("rules", name)
    assert isinstance(rule, TissueRule)
    assert rule.name == name
    assert rule.source
