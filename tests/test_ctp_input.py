"""From a CT perfusion scan to what networks are given, on a head whose truth is known."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from strokect import network_input
from strokect.core.errors import CurveError, GeometryError, ScanError
from strokect.core.types import CTSeries, Grid
from strokect.ctp_input import scan_input
from strokect.io import nifti
from strokect.io.datasets import OwnDataset
from strokect.io.layouts import OwnLayout
from strokect.learn.inputs import InputOptions
from strokect.network_input import CaseLoader

SHAPE, SPACING = (3, 64, 72), (8.0, 3.0, 2.5)
ARRIVAL_S, RISE_S = 14.0, 8.0
OPTIONS = InputOptions(
    time_points=12, interval_s=2.0, before_s=6.0, window_hu=(-20.0, 150.0), crop_mm=6.0,
    zscore=False, outside=None, motion_correction=False,
)  # fmt: skip


def _inside(margin_mm):
    """An ellipse of 63 x 54 mm half axes, less a margin."""
    _, y, x = np.indices(SHAPE)
    y, x = (y - 33) * SPACING[1], (x - 36) * SPACING[2]
    return (y / (76 - margin_mm)) ** 2 + (x / (66 - margin_mm)) ** 2 < 1


def _bolus(t):
    """0 before ARRIVAL_S, 1 at its peak."""
    s = np.maximum(t - ARRIVAL_S, 0) / RISE_S
    return s**2 * np.exp(2 * (1 - s))


def _head(arrives=True, frames=40, slice_s=0.25):
    rng = np.random.default_rng(0)
    times = np.arange(frames, dtype=float)[:, None] + slice_s * np.arange(SHAPE[0])
    still = np.where(_inside(10), 35.0, np.where(_inside(0), 900.0, -1000.0)).astype(np.float32)
    gain = np.where(_inside(10), 8.0, 0.0)
    gain[:, 30:32, 30:32] = 250.0  # an artery
    curve = _bolus(times) if arrives else np.zeros_like(times)
    data = still + gain * curve[:, :, None, None] + rng.normal(0, 2.0, (frames, *SHAPE))
    affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
    return CTSeries(data.astype(np.float32), times, Grid(SHAPE, affine))


@pytest.fixture(scope="module")
def head():
    return _head()


@pytest.fixture(scope="module")
def seen(head):
    return scan_input(head, OPTIONS)


def _overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_brain_and_box_are_those_of_the_head(head, seen):
    assert _overlap(seen.brain, _inside(10)) > 0.95
    rows, columns = (np.flatnonzero(seen.brain.any((0, axis))) for axis in (2, 1))
    margin = (2, 2)  # 6 mm of 3 and 2.5 mm
    assert seen.box == (
        slice(rows[0] - margin[0], rows[-1] + 1 + margin[0]),
        slice(columns[0] - margin[1], columns[-1] + 1 + margin[1]),
    )
    assert (seen.image_brain == seen.brain[:, *seen.box]).all()
    assert seen.image.shape == (1, 12, *seen.image_brain.shape)
    assert seen.image.dtype == np.float32
    assert seen.mean_hu == pytest.approx(head.data_hu.mean(axis=0), abs=1e-3)


def test_times_are_counted_from_the_arrival_of_contrast(seen):
    """Noise apart, the curve of every slice is the truth at the same times."""
    mean = np.stack([seen.image[0, :, z, seen.image_brain[z]].mean(0) for z in range(3)])
    mean -= mean[:, :2].mean()
    assert np.ptp(mean, axis=0).max() < 0.35
    arrived = ARRIVAL_S + RISE_S * 0.13  # where the curve leaves a tenth of its peak
    truth = _bolus(arrived - 6.0 + 2.0 * np.arange(12))
    found = mean.mean(axis=0)
    assert found / found.max() == pytest.approx(truth / truth.max(), abs=0.1)


def test_attenuation_lies_in_the_window(seen):
    assert seen.image.min() >= -20 and seen.image.max() <= 150
    options = replace(OPTIONS, zscore=True, outside=0.0)
    found = scan_input(_head(), options)
    values = found.image[0][:, found.image_brain]
    assert (values.mean(), values.std()) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-3))
    assert (found.image[0][:, ~found.image_brain] == 0).all()


def test_values_are_put_back_where_they_came_from(head, seen):
    whole = seen.on_scan(seen.image[0])
    assert whole.shape == (12, *SHAPE)
    assert (whole[:, :, *seen.box] == seen.image[0]).all()
    outside = np.ones(SHAPE, bool)
    outside[:, *seen.box] = False
    assert (whole[:, outside] == 0).all()


def test_no_margin_asked_for_keeps_the_slice(head):
    found = scan_input(head, replace(OPTIONS, crop_mm=None))
    assert found.box == (slice(0, SHAPE[1]), slice(0, SHAPE[2]))
    assert found.image.shape == (1, 12, *SHAPE)


def test_another_voxel_size_and_back(head):
    found = scan_input(head, replace(OPTIONS, spacing_mm=(8.0, 6.0, 5.0)))
    fine = scan_input(head, OPTIONS)
    rows, columns = fine.image.shape[-2:]
    assert found.image.shape[2:] == (3, round(rows / 2), round(columns / 2))
    share = fine.brain[:, *found.box].size / found.image_brain.size
    volume = head.grid.voxel_ml * share * found.image_brain.sum()
    assert volume == pytest.approx(head.grid.voxel_ml * fine.brain.sum(), rel=0.03)
    back = found.on_scan(found.image_brain.astype(np.float32)) > 0.5
    assert _overlap(back, found.brain) > 0.97


def test_a_scan_without_bolus_or_head_is_told():
    with pytest.raises(CurveError, match="NO_BOLUS"):
        scan_input(_head(arrives=False), OPTIONS)
    air = _head()
    with pytest.raises(ScanError):
        scan_input(replace(air, data_hu=np.full_like(air.data_hu, -1000.0)), OPTIONS)


CORE, PENUMBRA = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
CORE[1, 30:36, 40:46] = True
PENUMBRA[1:, 26:40, 38:50] = True


def _write(layout: OwnLayout, series: CTSeries) -> None:
    layout.scan_folder.mkdir(parents=True)
    layout.truth_folder.mkdir(parents=True)
    nifti.write_ctp(layout.scan("ctp"), series)
    for name, mask in (("brain", _inside(10)), ("penumbra", PENUMBRA), ("core", CORE)):
        nifti.write_volume(layout.truth_mask(name), mask.astype(np.uint8), series.grid, name)


@pytest.fixture
def dataset(tmp_path, head) -> Path:
    root = tmp_path / "data"
    for label in ("0001", "0002"):
        _write(OwnLayout(root, label), head)
    return root


def _loader(root, classes=4, options=OPTIONS, **more):
    cases = OwnDataset().cases(root)
    return CaseLoader(tuple(cases), OwnDataset(), options, classes, root.parent / "cache", **more)


@pytest.fixture
def prepared(monkeypatch):
    """The scans that were prepared, one by one."""
    made = []

    def counted(*args):
        made.append(args)
        return scan_input(*args)

    monkeypatch.setattr(network_input, "scan_input", counted)
    return made


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_labels_lie_on_the_image_and_are_the_classes(dataset, seen, classes):
    example = _loader(dataset, classes)(0)
    assert example.image.shape[2:] == example.labels.shape == example.brain.shape
    core, penumbra = CORE[:, *seen.box], PENUMBRA[:, *seen.box]
    assert ((example.labels == classes - 1) == core).all()
    if classes > 2:
        assert ((example.labels == classes - 2) == (penumbra & ~core)).all()
    rest = example.labels[~core & ~penumbra]
    assert set(np.unique(rest)) == ({0, 1} if classes == 4 else {0})
    if classes == 4:
        known = (_inside(10) | seen.brain)[:, *seen.box]
        assert ((example.labels > 0) == known).all()
    assert np.abs(example.image.astype(np.float32) - seen.image).max() < 0.6  # half precision


def test_a_scan_is_prepared_once(dataset, prepared):
    first = _loader(dataset)(0)
    again = _loader(dataset, classes=2)(0)
    assert len(prepared) == 1
    # What is used at once is what is read later, to the bit.
    assert first.image.dtype == again.image.dtype and (first.image == again.image).all()
    _loader(dataset)(1)
    assert len(prepared) == 2


def test_what_changed_is_prepared_anew(dataset, prepared):
    layout = OwnLayout(dataset, "0001")
    _loader(dataset)(0)
    os.utime(layout.scan("ctp"), (1, 1))
    _loader(dataset)(0)
    os.utime(layout.truth_mask("core"), (1, 1))
    _loader(dataset)(0)
    assert len(prepared) == 3
    _loader(dataset, options=replace(OPTIONS, before_s=4.0))(0)
    assert len(prepared) == 4
    _loader(dataset)(0)
    assert len(prepared) == 4


def test_a_broken_cache_is_mended(dataset, prepared):
    loader = _loader(dataset)
    first = np.array(loader(0).image)
    for file in (dataset.parent / "cache").glob("sub-0001*/image.npy"):
        file.write_bytes(b"")
    assert (loader(0).image == first).all()
    assert len(prepared) == 2


def test_a_loader_can_be_sent_to_another_process(dataset):
    loader = _loader(dataset)
    sent = pickle.loads(pickle.dumps(loader))
    assert (sent(0).image == loader(0).image).all()


def test_a_case_without_truth_has_no_labels(dataset):
    loader = _loader(dataset)
    bare = replace(loader, cases=(replace(loader.cases[0], labels=None),))
    assert bare(0).labels is None


def test_errors_name_the_case(dataset, head):
    loader = _loader(dataset)
    layout = OwnLayout(dataset, "0002")
    smaller = Grid((2, 64, 72), head.grid.affine)
    nifti.write_volume(layout.truth_mask("core"), CORE[:2].astype(np.uint8), smaller, "core")
    with pytest.raises(GeometryError, match="sub-0002_ses-01: ") as error:
        loader(1)
    assert "\n" not in str(error.value)
    nifti.write_ctp(OwnLayout(dataset, "0001").scan("ctp"), _head(arrives=False))
    with pytest.raises(CurveError, match="sub-0001_ses-01: no contrast bolus"):
        loader(0)
    layout.scan("ctp").write_bytes(b"junk")
    with pytest.raises(ScanError, match="sub-0002_ses-01: "):
        loader(1)
