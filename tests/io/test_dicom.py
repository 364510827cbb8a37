"""Reading DICOM scans: every alteration keeps the known truth or is refused by name."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

sys.path.insert(0, str(Path(__file__).parent))
import dicom_fixtures as fx

from strokect.core.errors import GeometryError, ScanError, TimingError
from strokect.core.types import CTSeries
from strokect.io.dicom import find_series, read_ct_folder, read_ctp_folder, stack_ct, stack_ctp

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no third-party data at {DATA}")


def codes(scan) -> set[str]:
    return {f.code for f in scan.flags}


def assert_same(read: CTSeries, truth: CTSeries, time_tolerance: float = 1e-5) -> None:
    assert read.data_hu.dtype == np.float32
    np.testing.assert_allclose(read.data_hu, truth.data_hu, atol=0.5)
    np.testing.assert_allclose(read.times_s, truth.times_s, atol=time_tolerance)
    assert read.grid.same_as(truth.grid, 0.001)


@pytest.mark.parametrize("affine", [fx.upright(), fx.tilted(18.5), fx.tilted(-24.0)])
def test_round_trip(tmp_path, affine):
    truth = fx.make_series(affine)
    fx.write(tmp_path / "scan", truth)
    calls = []
    read = read_ctp_folder(tmp_path / "scan", progress=lambda *a: calls.append(a))
    assert_same(read, truth)
    assert calls[-1] == (24, 24)
    tilt = [f for f in read.flags if f.code == "GANTRY_TILT"]
    assert bool(tilt) == (affine[2, 1] != 0)
    if tilt:
        assert tilt[0].level == "info"
        degrees = abs(np.rad2deg(np.arctan2(affine[2, 1], affine[1, 1]) + np.pi))
        assert f"{min(degrees, 360 - degrees):.1f}" in tilt[0].message


def test_left_handed_grid_keeps_every_voxel_in_place(tmp_path):
    affine = fx.upright()
    affine[:3, 2], affine[2, 3] = [0, 0, -5], 40
    truth = fx.make_series(affine)
    fx.write(tmp_path / "scan", truth)
    read = read_ctp_folder(tmp_path / "scan")
    np.testing.assert_allclose(read.data_hu, truth.data_hu[:, ::-1], atol=0.5)
    last = truth.grid.affine @ [0, 0, 3, 1]
    np.testing.assert_allclose(read.grid.affine[:, 3], last, atol=1e-6)


def test_shuffled_names_nested_folders_and_other_files(tmp_path):
    truth = fx.make_series()
    paths = fx.write(tmp_path / "scan", truth)
    order = np.random.default_rng(0).permutation(len(paths))
    for i, path in zip(order, paths, strict=True):
        place = tmp_path / "in" / f"d{i % 3}" / "x"
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / f"IM{i}")
    (tmp_path / "in" / "readme.txt").write_text("no image")
    (tmp_path / "in" / "empty").touch()
    read = read_ctp_folder(tmp_path / "in")
    assert_same(read, truth)
    assert any("2 files that are not DICOM" in note for note in read.notes)


def test_affine_reproduces_every_position(tmp_path):
    paths = fx.write(tmp_path / "scan", fx.make_series(fx.tilted()))
    stack = stack_ctp(tmp_path / "scan")
    affine = stack.geometry.grid.affine
    for path in paths[:4]:
        position = np.array(pydicom.dcmread(path).ImagePositionPatient, float) * [-1, -1, 1]
        nearest = np.abs(affine[:3, 3] + np.arange(4)[:, None] * affine[:3, 2] - position)
        assert nearest.max(axis=1).min() < 0.01


def test_midnight_with_and_without_dates(tmp_path):
    truth = fx.make_series()
    paths = fx.write(tmp_path / "a", truth, start="20000131235956")
    assert_same(read_ctp_folder(tmp_path / "a"), truth)
    fx.edit(paths, fx.without("AcquisitionDateTime", "AcquisitionDate"))
    assert_same(read_ctp_folder(tmp_path / "a"), truth)

    def same_date(dataset):
        dataset.AcquisitionDate = "20000131"

    fx.edit(paths, same_date)
    assert_same(read_ctp_folder(tmp_path / "a"), truth)


def _frame(dataset) -> int:
    return (dataset.InstanceNumber - 1) // 4


KEYS = {
    "Acquisition DateTime": lambda d, m: setattr(d, "AcquisitionDateTime", m),
    "Acquisition Time": lambda d, m: setattr(d, "AcquisitionTime", m[8:]),
    "Content Time": lambda d, m: setattr(d, "ContentTime", m[8:]),
    "Trigger Time": lambda d, m: setattr(d, "TriggerTime", str(_frame(d) * 1500.0)),
}


@pytest.mark.parametrize("key", KEYS)
def test_each_time_key(tmp_path, key):
    truth = fx.make_series(slice_s=0.0)
    paths = fx.write(tmp_path / "scan", truth)

    def change(dataset):
        moment = dataset.AcquisitionDateTime
        fx.ALL_TIMES(dataset)
        dataset.AcquisitionNumber = 1
        KEYS[key](dataset, moment)

    fx.edit(paths, change)
    read = read_ctp_folder(tmp_path / "scan")
    assert_same(read, truth)
    assert any(f"times from {key}" in note for note in read.notes)
    assert ("CONTENT_TIMES" in codes(read)) == (key == "Content Time")


INDEX_KEYS = {
    "Temporal Position Identifier": "TemporalPositionIdentifier",
    "Temporal Position Index": "TemporalPositionIndex",
    "Acquisition Number": "AcquisitionNumber",
    "Instance Number": None,
}


@pytest.mark.parametrize("key", INDEX_KEYS)
def test_frame_numbers_need_given_times(tmp_path, key):
    truth = fx.make_series(interval_s=2.0, slice_s=0.0)
    paths = fx.write(tmp_path / "scan", truth)

    def change(dataset):
        fx.ALL_TIMES(dataset)
        dataset.AcquisitionNumber = 1
        if INDEX_KEYS[key]:
            setattr(dataset, INDEX_KEYS[key], _frame(dataset) + 1)

    fx.edit(paths, change)
    with pytest.raises(TimingError, match=r"Acquisition Time is missing.*--interval"):
        read_ctp_folder(tmp_path / "scan")
    read = read_ctp_folder(tmp_path / "scan", interval_s=2.0)
    assert_same(read, truth)
    assert any(f"told apart by {key};" in note for note in read.notes)
    assert_same(read_ctp_folder(tmp_path / "scan", times_s=np.arange(6) * 2.0), truth)


@pytest.mark.parametrize(
    "options",
    [{"interval_s": 0.0}, {"times_s": [0, 1]}, {"times_s": [0, 1, 2, 2, 3, 4]}],
)
def test_unusable_given_times(tmp_path, options):
    fx.write(tmp_path / "scan")
    with pytest.raises(TimingError):
        read_ctp_folder(tmp_path / "scan", **options)


def test_identical_times(tmp_path):
    paths = fx.write(tmp_path / "scan")

    def change(dataset):
        fx.ALL_TIMES(dataset)
        dataset.AcquisitionDate, dataset.AcquisitionTime = "20000101", "120000"

    fx.edit(paths, change)
    with pytest.raises(TimingError, match="Acquisition Time does not change"):
        read_ctp_folder(tmp_path / "scan")


def _delete(paths: list[Path], *places: tuple[int, int]) -> None:
    for t, z in places:
        paths[t * 4 + z].unlink()


def test_duplicates_dropped(tmp_path):
    truth = fx.make_series()
    paths = fx.write(tmp_path / "scan", truth)
    shutil.copy(paths[3], tmp_path / "scan" / "same_uid")
    fx.add_map(tmp_path / "scan", paths[9], "same_time", SeriesNumber=1, InstanceNumber=90)
    uid = pydicom.dcmread(paths[0]).SeriesInstanceUID
    fx.edit([tmp_path / "scan" / "same_time"], lambda d: setattr(d, "SeriesInstanceUID", uid))
    read = read_ctp_folder(tmp_path / "scan")
    assert_same(read, truth)
    message = next(f.message for f in read.flags if f.code == "DUPLICATE_IMAGES")
    assert message.startswith("2 duplicate")


def test_one_missing_image_is_filled(tmp_path):
    truth = fx.make_series()
    _delete(fx.write(tmp_path / "scan", truth), (2, 1))
    read = read_ctp_folder(tmp_path / "scan")
    np.testing.assert_allclose(read.data_hu, truth.data_hu, atol=1.0)
    np.testing.assert_allclose(read.times_s, truth.times_s, atol=1e-5)
    assert "FILLED_IMAGES" in codes(read)


@pytest.mark.parametrize("places", [[(2, 1), (3, 1)], [(2, 1), (3, 2), (4, 0)]])
def test_many_missing_images_are_listed(tmp_path, places):
    _delete(fx.write(tmp_path / "scan"), *places)
    with pytest.raises(ScanError) as error:
        read_ctp_folder(tmp_path / "scan")
    assert f"{len(places)} of 24 images are missing" in str(error.value)
    for t, z in places:
        assert f"time point {t + 1} at {-20 + 5 * z:.2f} mm" in str(error.value)


@pytest.mark.parametrize("lost", [0, 5])
def test_incomplete_end_is_dropped(tmp_path, lost):
    truth = fx.make_series()
    _delete(fx.write(tmp_path / "scan", truth), (lost, 2))
    read = read_ctp_folder(tmp_path / "scan")
    kept = slice(1, None) if lost == 0 else slice(None, -1)
    np.testing.assert_allclose(read.data_hu, truth.data_hu[kept], atol=0.5)
    assert any("dropped 1 incomplete" in note for note in read.notes)
    assert "FILLED_IMAGES" not in codes(read)


@pytest.mark.parametrize("extra", [False, True])
def test_shuttle_positions_have_their_own_times(tmp_path, extra):
    """Two table positions, half a cycle apart; one may have one more pass than the other."""
    truth = fx.make_series(interval_s=3.0, slice_s=0.0)
    times = np.arange(6)[:, None] * 3.0 + np.array([0, 0, 1.5, 1.5])
    shuttle = CTSeries(truth.data_hu, times, truth.grid)
    paths = fx.write(tmp_path / "scan", shuttle)
    fx.edit(paths, fx.without("AcquisitionNumber"))
    kept = 6
    if extra:
        _delete(paths, (5, 2), (5, 3))
        kept = 5
    read = read_ctp_folder(tmp_path / "scan")
    np.testing.assert_allclose(read.data_hu, truth.data_hu[:kept], atol=0.5)
    np.testing.assert_allclose(read.times_s, times[:kept], atol=1e-5)


def test_one_series_per_time_point(tmp_path):
    truth = fx.make_series()
    paths = fx.write(tmp_path / "scan", truth)
    uids = [generate_uid() for _ in range(6)]

    def change(dataset):
        frame = _frame(dataset)
        dataset.SeriesInstanceUID, dataset.SeriesNumber = uids[frame], 10 + frame
        dataset.SeriesDescription = f"CTP {1.5 * frame:.1f} s"

    fx.edit(paths, change)
    read = read_ctp_folder(tmp_path / "scan")
    assert_same(read, truth)
    assert any("joined 6 series" in note for note in read.notes)
    for path in paths[12:]:
        path.unlink()
    with pytest.raises(ScanError, match="one time point only"):  # as a CTA of three phases
        read_ctp_folder(tmp_path / "scan")


def _move(offsets: list[float]):
    def change(dataset):
        x, y, _ = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, offsets[(dataset.InstanceNumber - 1) % 4]]

    return change


@pytest.mark.parametrize("affine", [fx.upright(), fx.tilted()])
def test_irregular_slice_distance_is_resampled_in_place(tmp_path, affine):
    """Values linear in z stay linear: each slice has the value of its own position."""
    truth = fx.make_series(affine)
    offsets = [-20.0, -15.0, -10.0, -2.0]
    ramp = 10.0 * np.array(offsets) - 300
    data = np.broadcast_to(ramp[:, None, None], fx.SHAPE).astype(np.float32)
    paths = fx.write(tmp_path / "scan", CTSeries(data, truth.times_s, truth.grid))
    fx.edit(paths, _move(offsets))
    stack = stack_ctp(tmp_path / "scan")
    np.testing.assert_allclose(stack.geometry.positions_mm[:, 2], offsets, atol=1e-6)
    read = read_ctp_folder(tmp_path / "scan")
    assert "SLICES_RESAMPLED" in codes(read)
    z_mm = read.grid.affine[2, 3] + read.grid.affine[2, 2] * np.arange(read.grid.shape[0])
    assert (z_mm[0], z_mm[-1]) == pytest.approx((-20, -2))
    np.testing.assert_allclose(read.data_hu[0, :, 0, 0], 10.0 * z_mm - 300, atol=1e-3)
    np.testing.assert_allclose(
        read.times_s[0], np.interp(z_mm, offsets, truth.times_s[0]), atol=1e-5
    )


def test_lost_slice_position_is_resampled_with_a_flag_and_a_large_gap_refused(tmp_path):
    paths = fx.write(tmp_path / "scan")
    fx.edit(paths, _move([-20.0, -15.0, -5.0, 0.0]))
    read = read_ctp_folder(tmp_path / "scan")
    assert read.grid.shape[0] == 5
    assert "SLICES_RESAMPLED" in codes(read)
    fx.edit(paths, _move([-20.0, -15.0, -10.0, 30.0]))
    with pytest.raises(GeometryError, match=r"gap of 40\.0 mm"):
        read_ctp_folder(tmp_path / "scan")


def test_one_image_oriented_otherwise_is_named(tmp_path):
    paths = fx.write(tmp_path / "scan")
    c, s = np.cos(0.05), np.sin(0.05)
    orientation = [f"{v:.8f}" for v in (c, s, 0, -s, c, 0)]
    fx.edit(paths[7:8], lambda d: setattr(d, "ImageOrientationPatient", orientation))
    with pytest.raises(GeometryError, match=paths[7].name):
        read_ctp_folder(tmp_path / "scan")


def test_one_image_beside_its_slice_is_named(tmp_path):
    paths = fx.write(tmp_path / "scan")
    fx.edit(paths[6:7], lambda d: setattr(d, "ImagePositionPatient", [3.0, -9.0, -10.0]))
    with pytest.raises(GeometryError, match=paths[6].name):
        read_ctp_folder(tmp_path / "scan")


def test_rescale_of_each_image(tmp_path):
    truth = fx.make_series()
    paths = fx.write(tmp_path / "scan", truth)

    def change(dataset):
        shift = dataset.InstanceNumber * 3
        stored = (dataset.pixel_array.astype(int) - shift) * 2
        dataset.PixelData = stored.astype("<i2").tobytes()
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.5", str(shift - 1024)

    fx.edit(paths, change)
    assert_same(read_ctp_folder(tmp_path / "scan"), truth)
    fx.edit(paths[4:5], fx.without("RescaleIntercept"))
    with pytest.raises(ScanError, match=paths[4].name):
        read_ctp_folder(tmp_path / "scan")


@pytest.mark.parametrize(
    ("stored", "attributes"),
    [
        (-2000, {}),
        (-1500, {"PixelPaddingValue": -1500}),
        (5500, {"PixelPaddingValue": 5500}),
        (5500, {"PixelPaddingValue": 5490, "PixelPaddingRangeLimit": 5510}),
    ],
)
def test_padding_becomes_air(tmp_path, stored, attributes):
    truth = fx.make_series()
    paths = fx.write(tmp_path / "scan", truth)

    def change(dataset):
        pixels = dataset.pixel_array.copy()
        pixels[:3] = stored
        dataset.PixelData = pixels.tobytes()
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
            dataset[keyword].VR = "SS"

    fx.edit(paths, change)
    read = read_ctp_folder(tmp_path / "scan")
    assert (read.data_hu[:, :, :3] == -1000).all()
    np.testing.assert_allclose(read.data_hu[:, :, 3:], truth.data_hu[:, :, 3:], atol=0.5)


def test_padding_value_within_tissue_is_not_believed(tmp_path):
    truth = fx.make_series()
    paths = fx.write(tmp_path / "scan", truth)

    def change(dataset):
        dataset.PixelPaddingValue = 1064  # 40 HU
        dataset["PixelPaddingValue"].VR = "SS"

    fx.edit(paths, change)
    read = read_ctp_folder(tmp_path / "scan")
    np.testing.assert_allclose(read.data_hu, truth.data_hu, atol=0.5)
    assert any("Padding" in note for note in read.notes)


def test_volume_round_trip_and_refusal_of_a_dynamic_scan(tmp_path):
    truth = fx.make_series(fx.tilted())
    paths = fx.write(tmp_path / "scan", truth)
    with pytest.raises(ScanError, match="6 time points"):
        read_ct_folder(tmp_path / "scan")
    for path in paths[4:]:
        path.unlink()
    volume = read_ct_folder(tmp_path / "scan")
    np.testing.assert_allclose(volume.data, truth.data_hu[0], atol=0.5)
    assert volume.grid.same_as(truth.grid, 0.001)
    with pytest.raises(ScanError, match="one time point"):
        read_ctp_folder(tmp_path / "scan")


def test_series_number_chooses(tmp_path):
    for number in (3, 8):
        truth = fx.make_series()
        fx.write(tmp_path / f"s{number}", truth, series_number=number)
    assert any("series 8" in n for n in read_ctp_folder(tmp_path, series_number=8).notes)
    with pytest.raises(ScanError, match="no series 5"):
        read_ctp_folder(tmp_path, series_number=5)
    assert [s.number for s in find_series(tmp_path)] == [3, 8]
    assert [s.time_points for s in find_series(tmp_path)] == [6, 6]


@needs_data
def test_ge_tilted_head(tmp_path):
    """+18.5 degrees, slices 1.1 to 7.4 mm apart along the table, values from -1500."""
    folder = DATA / "ge_tilted_ncct"
    headers = [pydicom.dcmread(p, stop_before_pixels=True) for p in sorted(folder.glob("*.dcm"))]
    expected = np.array([h.ImagePositionPatient for h in headers], float) * [-1, -1, 1]
    stack = stack_ct(folder)
    np.testing.assert_allclose(stack.geometry.positions_mm, expected, atol=0.01)
    assert stack.geometry.tilt_deg == pytest.approx(18.5, abs=0.05)
    volume = read_ct_folder(folder)
    assert {"GANTRY_TILT", "SLICES_RESAMPLED"} <= codes(volume)
    affine = volume.grid.affine
    ends = affine[:3, 3] + np.array([[0], [volume.grid.shape[0] - 1]]) * affine[:3, 2]
    np.testing.assert_allclose(ends, expected[[0, -1]], atol=0.01)
    assert volume.data.min() >= -1024
    # a grid slice has the mean of its two neighbours in the ratio of the distances
    z_mm = float(affine[2, 3] + 20 * affine[2, 2])
    k = int(np.searchsorted(expected[:, 2], z_mm)) - 1
    w = (z_mm - expected[k, 2]) / (expected[k + 1, 2] - expected[k, 2])
    pixels = [
        np.maximum(pydicom.dcmread(folder / f"{i:02d}.dcm").pixel_array, -1500)
        for i in (k + 1, k + 2)
    ]
    a, b = (np.where(p < -1024, -1000, p).astype(float) for p in pixels)
    np.testing.assert_allclose(volume.data[20], (1 - w) * a + w * b, atol=0.01)
    # bone and brain are where a head has them: brain in the middle of the volume in RAS
    assert 0 < np.median(volume.data[20, 200:300, 200:300]) < 60
