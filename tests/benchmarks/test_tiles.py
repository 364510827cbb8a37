"""The benchmark's own helpers: what is measured with has to be right."""

import dataclasses
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from strokect.perfusion.convolution import BLOOD
from strokect.perfusion.deconvolution import ResidueFit
from strokect.phantom.patient import SMALL

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def helper(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in ("tiles", "common", "accuracy"):
        sys.modules.pop(name, None)


def test_area_of_a_tile_is_its_blood_volume(helper):
    tiles = helper("tiles").make_tiles(noise_hu=0.0, repeats=1, n_times=400)
    assert tiles.curves.shape == (400, 3 * 7 * 7 * 5)
    ratio = tiles.curves.sum(axis=0) / tiles.aif.sum()
    assert ratio * BLOOD.volume_to_cbv == pytest.approx(tiles.truth["cbv"], rel=0.03)
    assert tiles.truth["cbf"] * tiles.truth["mtt"] / 60 == pytest.approx(tiles.truth["cbv"])


def test_a_perfect_fit_gives_back_the_truth_tile_by_tile(helper):
    tiles = helper("tiles").make_tiles(repeats=3, shapes=("box", "linear"))
    true = tiles.truth
    fit = ResidueFit(
        true["cbf"] / BLOOD.flow_to_cbf, true["cbv"] / BLOOD.volume_to_cbv, true["delay"],
        true["delay"] + true["mtt"] / 2,
    )  # fmt: skip
    found, expected = tiles.maps(fit), tiles.true_maps()
    assert len(expected["cbf"]) == 2 * 7 * 7 * 5
    for key in ("cbf", "cbv", "mtt", "delay"):
        assert found[key] == pytest.approx(expected[key], rel=1e-4)
    assert np.count_nonzero(tiles.of_shape("box")) == 7 * 7 * 5
    assert not tiles.of_shape("exponential").any()


def test_a_later_tile_of_one_residue_differs_by_its_delay_alone(helper):
    one = helper("tiles").make_tiles(("box",), noise_hu=0.0, delays_s=(0.0, 2.0), repeats=1)
    delay = one.truth["delay"]
    early, late = one.curves[:, delay == 0.0], one.curves[:, delay == 2.0]
    assert late[2:] == pytest.approx(early[:-2], abs=1e-2)
    assert np.abs(late - early).max() > 3


def test_bins_of_probability_by_hand(helper):
    predicted = np.array([0.02, 0.04, 0.95, 1.0])
    counts = helper("accuracy").bin_counts(predicted, np.array([0, 1, 1, 1]), 10)
    assert counts[:, 0] == pytest.approx([2, 0.06, 1])
    assert counts[:, 9] == pytest.approx([2, 1.95, 2])
    assert not counts[:, 1:9].any()


def test_a_missed_limit_is_told(helper, capsys):
    common = helper("common")

    def section(report, quick):
        report.at_least("good", 0.9, 0.8)
        report.at_most("bad", 2.0, 1.0)

    assert common.run({"a": section}, "doc", []) == 1
    good, bad = capsys.readouterr().out.splitlines()
    assert '"ok": true' in good
    assert '"ok": false' in bad
    assert common.run({"a": lambda report, quick: report.at_most("x", 1, 1)}, "", []) == 0
    nan = float("nan")
    assert common.run({"a": lambda report, quick: report.at_most("x", nan, 1)}, "", []) == 1
    assert common.run({"a": lambda report, quick: int("no number")}, "", []) == 1


def test_odd_slices_of_an_interleaved_scan_are_taken_later(helper):
    accuracy = helper("accuracy")
    config = dataclasses.replace(SMALL, seed=3, n_times=12, noise_hu=0.0)
    patient, series = accuracy.interleaved(config)
    assert (series.times_s[:, 1] - series.times_s[:, 0] == config.interval_s / 2).all()
    assert (series.data_hu[:, ::2] == patient.ctp.data_hu[:, ::2]).all()
    artery = patient.masks["artery"].data
    for z in np.flatnonzero(artery.sum(axis=(1, 2)) > 5):
        mean = series.data_hu[:, z, artery[z]].mean(axis=1)
        simultaneous = patient.ctp.data_hu[:, z, artery[z]].mean(axis=1)
        rising = slice(None, int(simultaneous.argmax()))
        later = (mean - simultaneous)[rising].max()
        assert later > 20 if z % 2 else later == 0
