"""UniToBrain: a scan and its maps as DICOM folders, written as published and read back."""

import numpy as np
import pydicom
import pytest

from strokect.core.errors import (
    GeometryError,
    OutputExistsError,
    ScanError,
    SettingsError,
    TimingError,
)
from strokect.core.types import CTSeries, Grid
from strokect.io import dicom_maps
from strokect.io.datasets import UniToBrainDataset, guess_layout, write_unitobrain

SHAPE = (3, 8, 6)
UPRIGHT = np.array([[-2.0, 0, 0, 10], [0, -2, 0, 8], [0, 0, 5, -20], [0, 0, 0, 1]])
TILTED = np.array([[-2.0, 0, 0, 10], [0, -1.9, 0.4, 8], [0, -0.6, 5, -20], [0, 0, 0, 1]])
TILTED[:3, 1] *= 2 / np.linalg.norm(TILTED[:3, 1])
BRAIN = np.zeros(SHAPE, bool)
BRAIN[:, 2:6, 1:5] = True
NAMES = ("cbf", "cbv", "ttp", "mtt")


def series(affine=UPRIGHT, frames=5, interval_s=0.5, shape=SHAPE):
    rng = np.random.default_rng(3)
    data = rng.integers(-900, 400, (frames, *shape)).astype(np.float32)
    times = np.arange(frames)[:, None] * interval_s + np.arange(shape[0]) * 0.02
    return CTSeries(data, times, Grid(shape, affine))


def maps(shape=SHAPE, brain=BRAIN, names=NAMES):
    rng = np.random.default_rng(4)
    top = {"cbf": 80.0, "cbv": 6.0, "ttp": 25.0, "mtt": 15.0, "delay": 3.0}
    drawn = {n: rng.uniform(0.1, top[n], shape).astype(np.float32) for n in names}
    return {n: np.where(brain, v, np.nan).astype(np.float32) for n, v in drawn.items()}


def written(root, patients=("MOL-001",), layout=None, **options):
    for patient in patients:
        write_unitobrain(root, patient, series(), maps(), **options)
    layout = layout or UniToBrainDataset()
    return layout, layout.cases(root)[0]


def edit(folder, change):
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)


@pytest.mark.parametrize("affine", [UPRIGHT, TILTED], ids=["upright", "tilted"])
def test_scan_and_maps_come_back(tmp_path, affine):
    made, drawn = series(affine), maps()
    write_unitobrain(tmp_path, "MOL-001", made, drawn)
    layout = UniToBrainDataset()
    (case,) = layout.cases(tmp_path)
    scan = layout.scan(case)
    assert np.array_equal(scan.data_hu, made.data_hu)
    assert np.allclose(scan.times_s, made.times_s, atol=1e-5)
    assert scan.grid.same_as(made.grid)
    found = layout.maps(case, NAMES)
    assert list(found.maps) == list(NAMES)
    assert found.grid.same_as(scan.grid)
    for name, values in found.maps.items():
        assert values.dtype == np.float32
        assert np.array_equal(np.isfinite(values), BRAIN)
        assert np.abs(values - drawn[name])[BRAIN].max() <= 0.0051
    assert layout.map_files(case, ("cbv", "tmax", "delay")) == [
        tmp_path / "MOL-001_Registered_Filtered_3mm_20HU_Maps" / "NLR_CBV"
    ]
    assert layout.truth_files(case) == []


def test_cases_are_patients_in_order_under_the_folder_of_the_archive(tmp_path):
    inner = tmp_path / "DeepHealth_IEEE"
    for name in (
        "MOL-010",
        "MOL-002_Registered",
        "MOL-002",
        "MOL-1000_Registered_Filtered_3mm_20HU_Maps",
    ):
        (inner / name).mkdir(parents=True)
    (inner / "MOL-003_Notes").mkdir()
    assert guess_layout(tmp_path) == guess_layout(inner) == "unitobrain"
    for version in ("filtered", "registered", "raw"):
        found = UniToBrainDataset(version).cases(tmp_path)
        assert [c.patient for c in found] == ["MOL-002", "MOL-010", "MOL-1000"]
        assert found == UniToBrainDataset(version).cases(inner)
    assert found[0].scan == inner / "MOL-002"
    assert found[0].labels is None


def test_one_version_of_the_scan_is_read_for_all_patients(tmp_path):
    other = CTSeries(series().data_hu + 7, series().times_s, series().grid)
    write_unitobrain(tmp_path, "MOL-001", series(), maps())
    write_unitobrain(tmp_path, "MOL-001", other, {}, version="raw")
    for version, made in (("filtered", series()), ("raw", other)):
        layout = UniToBrainDataset(version)
        (case,) = layout.cases(tmp_path)
        assert np.array_equal(layout.scan(case).data_hu, made.data_hu)
        assert np.isfinite(layout.maps(case, ["cbf"]).maps["cbf"]).any()
    layout = UniToBrainDataset("registered")
    (case,) = layout.cases(tmp_path)
    with pytest.raises(ScanError, match=r"no registered scan of MOL-001.*to filtered or raw"):
        layout.scan(case)


def test_maps_alone_are_a_case_without_a_scan(tmp_path):
    layout, case = written(tmp_path)
    case.scan.rename(tmp_path / "elsewhere")
    assert layout.cases(tmp_path) == [case]
    assert layout.maps(case, NAMES).grid.same_as(series().grid)
    with pytest.raises(ScanError, match=r"no filtered scan of MOL-001.*leave the patient out"):
        layout.scan(case)


def test_missing_maps_are_named(tmp_path):
    layout, case = written(tmp_path)
    with pytest.raises(ScanError, match=r"no Delay map.*NLR_Delay.*Add the folder, or set input"):
        layout.maps(case, ["cbf", "delay"])
    with pytest.raises(ScanError, match=r"no Tmax map.*the data set has none"):
        layout.maps(case, ["tmax"])
    with pytest.raises(ScanError, match="no map is asked for"):
        layout.maps(case, [])


def test_maps_that_do_not_fit_together(tmp_path):
    layout, case = written(tmp_path)
    folder = layout.map_files(case, ["mtt"])[0]
    sorted(folder.iterdir())[-1].unlink()
    with pytest.raises(GeometryError, match=r"\(2, 8, 6\) beside others of \(3, 8, 6\).*NLR_MTT"):
        layout.maps(case, NAMES)
    assert layout.maps(case, ["mtt"]).grid.shape == (2, 8, 6)

    def beside(dataset):
        dataset.ImagePositionPatient[0] += 3

    edit(layout.map_files(case, ["ttp"])[0], beside)
    with pytest.raises(GeometryError, match=r"lies elsewhere.*NLR_TTP"):
        layout.maps(case, ["cbf", "ttp"])


def test_slope_intercept_and_padding_are_those_of_the_files(tmp_path):
    layout, case = written(tmp_path)

    def other(dataset):
        stored = dataset.pixel_array.copy()
        stored[3, 3] = 4000
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.5", "-10"
        dataset.add_new("PixelPaddingValue", "SS", 4000)
        dataset.PixelData = stored.tobytes()
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"  # secondary capture

    edit(layout.map_files(case, ["cbf"])[0], other)
    found = layout.maps(case, ["cbf"]).maps["cbf"]
    expected = np.rint(maps()["cbf"] / 0.01) * 0.5 - 10
    inside = BRAIN.copy()
    inside[:, 3, 3] = False
    assert np.array_equal(np.isfinite(found), inside)  # the background is -10 now
    assert np.allclose(found[inside], expected[inside])


def test_known_where_any_map_is_and_zero_where_no_corners_agree():
    values = np.zeros((1, 4, 4), np.float32)
    values[0, 1, 1] = 2
    values[0, 0, 0] = 5
    assert dicom_maps.known_values(values).sum() == 2
    values[0, 0, 0] = 0
    assert dicom_maps.known_values(values + 3).sum() == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda d: d.__delattr__("RescaleSlope"), ScanError, "no known unit"),
        (lambda d: d.__delattr__("ImagePositionPatient"), GeometryError, "no Image Position"),
        (lambda d: d.__setattr__("ImagePositionPatient", [0, 0, 0]), ScanError, "of one slice"),
        (lambda d: d.__delattr__("PixelData"), ScanError, "damaged"),
    ],
)
def test_bad_images_of_a_map_are_named(tmp_path, change, error, message):
    layout, case = written(tmp_path)
    edit(layout.map_files(case, ["cbv"])[0], change)
    with pytest.raises(error, match=rf"{message}.*NLR_CBV0000"):
        layout.maps(case, NAMES)


def same_times(dataset):
    dataset.AcquisitionTime = dataset.ContentTime = "120000"


def content_times(dataset):
    """Images are made one after another, slice by slice, when the scan is over."""
    dataset.AcquisitionTime = "120000"
    dataset.ContentTime = f"1210{dataset.InstanceNumber // 10:02d}.{dataset.InstanceNumber % 10}"


@pytest.mark.parametrize("change", [same_times, content_times])
def test_cine_scans_without_the_scanners_times(tmp_path, change):
    made = series(frames=89, shape=(1, 3, 4))
    write_unitobrain(tmp_path, "MOL-002", made, {}, version="raw")
    edit(tmp_path / "MOL-002", change)
    layout = UniToBrainDataset("raw")
    scan = layout.scan(layout.cases(tmp_path)[0])
    assert np.allclose(np.diff(scan.times_s, axis=0), 0.5)
    assert "0.5 s assumed" in scan.notes[0]
    assert np.array_equal(scan.data_hu, made.data_hu)


def test_no_interval_is_assumed_for_other_scans(tmp_path):
    layout, case = written(tmp_path)
    edit(case.scan, same_times)
    with pytest.raises(TimingError, match=r"5 time points.*layout_options\.default_interval_s"):
        layout.scan(case)
    assert UniToBrainDataset(default_interval_s=2).scan(case).interval_s == pytest.approx(2)


def test_there_is_no_truth(tmp_path):
    layout, case = written(tmp_path)
    with pytest.raises(ScanError, match="no truth for the case 'MOL-001'"):
        layout.labels(case, series().grid)


def test_options_and_names_that_cannot_be(tmp_path):
    with pytest.raises(SettingsError, match="filtered, registered, raw"):
        UniToBrainDataset("smoothed")
    with pytest.raises(SettingsError, match="default_interval_s"):
        UniToBrainDataset(default_interval_s=0)
    with pytest.raises(SettingsError, match="MOL-001"):
        write_unitobrain(tmp_path, "sub-1", series(), {})
    with pytest.raises(SettingsError, match="no map 'tmax'"):
        write_unitobrain(tmp_path, "MOL-001", series(), {"tmax": maps()["cbf"]})
    with pytest.raises(GeometryError, match=r"\(3, 8, 6\) on a grid of \(2, 8, 6\)"):
        write_unitobrain(tmp_path, "MOL-001", series(shape=(2, 8, 6)), maps())
    assert not list(tmp_path.iterdir())
    written(tmp_path)
    with pytest.raises(OutputExistsError):
        written(tmp_path)
