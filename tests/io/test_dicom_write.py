"""Writing DICOM: valid CT images, and results that lie where the scan lies."""

from __future__ import annotations

import builtins
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import dicom_fixtures as fx

from strokect.core.errors import GeometryError, OutputExistsError, ScanError, SettingsError
from strokect.core.quantities import QUANTITIES
from strokect.core.result import PerfusionResult
from strokect.core.types import CTSeries, Grid, Map, Mask, Volume
from strokect.io.dicom import read_ct_folder, read_ctp_folder
from strokect.io.dicom_results import write_result_dicom
from strokect.io.dicom_vendors import STYLES, outside_circle
from strokect.io.dicom_write import write_ct_series, write_ct_volume

#: Type 1 attributes of the CT image IOD (PS3.3 A.3.3): present with a value.
TYPE_1 = """SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality
    FrameOfReferenceUID ImageType SamplesPerPixel PhotometricInterpretation Rows Columns
    BitsAllocated BitsStored HighBit PixelRepresentation PixelData PixelSpacing
    ImageOrientationPatient ImagePositionPatient RescaleIntercept RescaleSlope RescaleType"""
#: Type 2: present, perhaps empty.
TYPE_2 = """PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime
    ReferringPhysicianName StudyID AccessionNumber SeriesNumber PatientPosition Manufacturer
    PositionReferenceIndicator InstanceNumber SliceThickness KVP AcquisitionNumber"""


def test_attributes_of_the_ct_iod(tmp_path):
    paths = fx.write(tmp_path / "scan", fx.make_series(fx.tilted()))
    uids = set()
    for i, path in enumerate(paths):
        ds = pydicom.dcmread(path)
        assert [k for k in TYPE_1.split() if ds.get(k) in (None, "")] == []
        assert [k for k in TYPE_2.split() if k not in ds] == []
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        assert (ds.BurnedInAnnotation, ds.PatientIdentityRemoved) == ("NO", "YES")
        assert (ds.InstanceNumber, ds.AcquisitionNumber) == (i + 1, i // 4 + 1)
        uids.add(ds.SOPInstanceUID)
    assert len(uids) == len(paths)
    # tilted slices 5 mm apart along the table are closer along their normal
    assert float(ds.SliceThickness) == pytest.approx(5 * np.cos(np.deg2rad(18.5)), abs=1e-6)


def test_same_seed_same_bytes_and_other_seed_other_uids(tmp_path):
    series = fx.make_series()
    a = write_ct_series(series, tmp_path / "a", seed=5)
    b = write_ct_series(series, tmp_path / "b", seed=5)
    c = write_ct_series(series, tmp_path / "c", seed=6)
    assert all(x.read_bytes() == y.read_bytes() for x, y in zip(a, b, strict=True))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert pydicom.dcmread(a[0])[keyword].value != pydicom.dcmread(c[0])[keyword].value


def test_volume_shares_the_study_but_not_the_series(tmp_path):
    series = fx.make_series(fx.tilted())
    volume = Volume(series.data_hu[2], series.grid)
    a = write_ct_series(series, tmp_path / "ctp", seed=5)
    b = write_ct_volume(volume, tmp_path / "ncct", seed=5)
    x, y = pydicom.dcmread(a[0]), pydicom.dcmread(b[0])
    assert x.StudyInstanceUID == y.StudyInstanceUID
    assert x.SeriesInstanceUID != y.SeriesInstanceUID
    read = read_ct_folder(tmp_path)  # beside the perfusion scan
    np.testing.assert_allclose(read.data, volume.data, atol=0.5)
    assert read.grid.same_as(volume.grid, 0.001)


def test_nothing_is_overwritten_and_nothing_left_behind(tmp_path):
    series = fx.make_series()
    write_ct_series(series, tmp_path / "a", seed=5)
    with pytest.raises(OutputExistsError):
        write_ct_series(series, tmp_path / "a", seed=5)

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_ct_series(series, tmp_path / "b", seed=5, progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(SettingsError):
        write_ct_series(series, tmp_path / "b", seed=5, start="yesterday")


def test_shear_within_slices_is_refused(tmp_path):
    affine = fx.upright()
    affine[0, 1] = 0.1
    with pytest.raises(GeometryError, match="Resample"):
        write_ct_series(fx.make_series(affine), tmp_path / "a", seed=5)


VENDORS = ["siemens", "ge", "philips", "canon"]


def _head_scan(affine: np.ndarray, **options: float) -> CTSeries:
    """A scan with air outside the circle of reconstruction, as every scan has."""
    series = fx.make_series(affine, **options)
    data = series.data_hu.copy()
    data[..., outside_circle(*data.shape[2:])] = -1000
    return CTSeries(data, series.times_s, series.grid)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("affine", [fx.upright(), fx.tilted()])
@pytest.mark.parametrize("slice_s", [0.0, 0.02, 0.3])
def test_every_vendor_reads_back(tmp_path, vendor, affine, slice_s):
    series = _head_scan(affine, slice_s=slice_s)
    paths = write_ct_series(series, tmp_path / "a", seed=5, vendor=vendor, kvp=70)
    read = read_ctp_folder(tmp_path)
    np.testing.assert_array_equal(read.data_hu, series.data_hu)
    np.testing.assert_allclose(read.times_s, series.times_s, atol=2e-6)
    assert read.grid.same_as(series.grid, 0.001)
    codes = {f.code for f in read.flags}
    assert codes == ({"GANTRY_TILT"} if affine[2, 1] else set())
    uids = {pydicom.dcmread(p).SOPInstanceUID for p in paths}
    assert len(uids) == len(paths) == 24
    for ds in (pydicom.dcmread(p) for p in paths):
        assert [k for k in TYPE_1.split() if ds.get(k) in (None, "")] == []
        assert [k for k in TYPE_2.split() if k not in ds] == []
        assert (ds.Manufacturer, ds.KVP) == (STYLES[vendor].manufacturer, 70)
        assert (ds.PatientName, ds.PatientIdentityRemoved) == ("VIRTUAL^PATIENT", "YES")
        assert abs(float(ds.GantryDetectorTilt)) == pytest.approx(18.5 * bool(affine[2, 1]))


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_vendors_volume_reads_back(tmp_path, vendor):
    series = _head_scan(fx.tilted())
    volume = Volume(series.data_hu[3], series.grid)
    write_ct_volume(volume, tmp_path / "ncct", seed=5, vendor=vendor)
    write_ct_series(series, tmp_path / "ctp", seed=5, vendor=vendor, series_number=40)
    read = read_ct_folder(tmp_path / "ncct")
    np.testing.assert_array_equal(read.data, volume.data)
    assert read.grid.same_as(volume.grid, 0.001)
    both = read_ctp_folder(tmp_path)  # the plain CT beside the perfusion scan is not part of it
    np.testing.assert_array_equal(both.data_hu, series.data_hu)


def test_vendors_differ_in_what_readers_trip_over(tmp_path):
    series = _head_scan(fx.tilted())
    made = {}
    for vendor in VENDORS:
        paths = write_ct_series(series, tmp_path / vendor, seed=5, vendor=vendor)
        made[vendor] = [pydicom.dcmread(p) for p in paths]
    siemens, ge, philips, canon = (made[v] for v in VENDORS)
    # first slice at the second time point is image 5 or, slice by slice, image 2
    assert [d[4].InstanceNumber for d in (siemens, ge, philips, canon)] == [5, 2, 5, 1]
    assert [len({d.SeriesInstanceUID for d in m}) for m in made.values()] == [1, 1, 1, 6]
    assert len({d.SeriesNumber for d in canon}) == 6
    assert not {d.SeriesInstanceUID for d in canon} & {d.SOPInstanceUID for d in canon}
    assert len({d.AcquisitionTime for d in philips}) == 1  # of the whole scan
    assert float(philips[4].TriggerTime) == pytest.approx(1500)
    assert philips[4].TemporalPositionIndex == 2
    assert {d.AcquisitionNumber for d in ge} == {1}
    assert "AcquisitionDateTime" in siemens[0]
    assert "AcquisitionDateTime" not in ge[0]
    assert [d[0].RescaleIntercept for d in made.values()] == [-1024, -1024, -1024, 0]
    assert [d[0].PixelRepresentation for d in made.values()] == [0, 1, 0, 1]
    assert ge[0].PixelPaddingValue == ge[0].pixel_array[0, 0] == -2000
    assert float(ge[0].GantryDetectorTilt) == pytest.approx(-18.5)  # the front of the slice is up
    with pytest.raises(SettingsError, match="vendor"):
        write_ct_series(series, tmp_path / "x", seed=5, vendor="acme")  # type: ignore[arg-type]


def test_twelve_bits_saturate_and_do_not_wrap(tmp_path):
    data = np.array([-5000.0, -1024, 0, 3071, 9000, np.nan, np.inf, -1000], np.float32)
    volume = Volume(np.tile(data, (2, 8, 1)), Grid((2, 8, 8), fx.upright()))
    write_ct_volume(volume, tmp_path / "a", seed=5, vendor="siemens")
    read = read_ct_folder(tmp_path / "a").data[0, 0]
    assert read.tolist() == [-1024, -1024, 0, 3071, 3071, -1000, 3071, -1000]


def _result(grid: Grid) -> PerfusionResult:
    rng = np.random.default_rng(3)
    maps = {
        k: Map(rng.uniform(-1, 90, grid.shape).astype(np.float32), grid, quantity=q)
        for k, q in QUANTITIES.items()
    }
    maps["cbf"].data[0, 0, 0] = np.nan
    hypo = rng.random(grid.shape) > 0.6
    core = hypo & (rng.random(grid.shape) > 0.7)
    masks = {"core": core, "penumbra": hypo & ~core, "hypoperfusion": hypo}
    fields: dict[str, object] = {f.name: None for f in dataclasses.fields(PerfusionResult)}
    fields |= {
        "grid": grid,
        "mean_ct": Volume(np.zeros(grid.shape, np.float32), grid),
        "maps": maps,
        "masks": {k: Mask(m, grid, k) for k, m in masks.items()},
        "flags": (),
        "summary": {},
    }
    return PerfusionResult(**fields)  # type: ignore[arg-type]


def _positions(dataset) -> np.ndarray:
    frames = dataset.PerFrameFunctionalGroupsSequence
    return np.array([f.PlanePositionSequence[0].ImagePositionPatient for f in frames], float)


@pytest.mark.parametrize("with_source", [True, False])
@pytest.mark.parametrize("affine", [fx.upright(), fx.tilted()])
def test_results(tmp_path, with_source, affine):
    pytest.importorskip("highdicom")
    series = fx.make_series(affine)
    paths = fx.write(tmp_path / "scan", series)
    fx.edit(paths, fx.identify)
    result = _result(series.grid)
    source = tmp_path / "scan" if with_source else None
    written = write_result_dicom(result, source, tmp_path / "out")
    assert {p.name for p in written} == {"seg.dcm", *(f"{k}.dcm" for k in QUANTITIES)}
    expected = [np.array(pydicom.dcmread(p).ImagePositionPatient, float) for p in paths[:4]]

    seg = pydicom.dcmread(tmp_path / "out" / "seg.dcm")
    assert seg.SegmentSequence[0].SegmentLabel == "Ischaemic core"
    names = ["core", "penumbra", "hypoperfusion"]
    for frame, position, groups in zip(
        seg.pixel_array, _positions(seg), seg.PerFrameFunctionalGroupsSequence, strict=True
    ):
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        z = int(np.argmin(np.linalg.norm(np.array(expected) - position, axis=1)))
        np.testing.assert_allclose(position, expected[z], atol=1e-4)
        np.testing.assert_array_equal(frame, result.masks[names[number - 1]].data[z])

    for key, quantity in QUANTITIES.items():
        made = pydicom.dcmread(tmp_path / "out" / f"{key}.dcm")
        order = np.argsort(_positions(made)[:, 2])  # highdicom orders the planes its own way
        np.testing.assert_allclose(_positions(made)[order], expected, atol=1e-4)
        values = np.nan_to_num(result.maps[key].data)
        np.testing.assert_array_equal(made.pixel_array[order], values)
        shared = made.SharedFunctionalGroupsSequence[0]
        mapping = shared.RealWorldValueMappingSequence[0]
        unit = mapping.MeasurementUnitsCodeSequence[0]
        assert (unit.CodeValue, unit.CodingSchemeDesignator) == (quantity.ucum, "UCUM")
        assert mapping.RealWorldValueSlope == 1
        assert mapping.RealWorldValueIntercept == 0
        assert "Research use only" in made.ContentDescription

    for made in map(pydicom.dcmread, written):
        if with_source:  # files with the patient's study
            assert (made.PatientName, made.PatientID) == ("Geheim^Person", "ID4711")
            assert made.StudyInstanceUID == "1.2.3.999.1"
            referenced = made.ReferencedSeriesSequence[0]
            assert referenced.SeriesInstanceUID == "1.2.3.999.2"
        else:
            assert (made.PatientName, made.PatientID) == ("VIRTUAL^ANONYMOUS", "")
    assert len({pydicom.dcmread(p).StudyInstanceUID for p in written}) == 1
    assert len({pydicom.dcmread(p).SeriesInstanceUID for p in written}) == len(written)


def test_results_after_resampling_of_slices(tmp_path):
    pytest.importorskip("highdicom")
    paths = fx.write(tmp_path / "scan")

    def move(dataset):
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, -1.0 if z > -6 else z]

    fx.edit(paths, move)
    grid = read_ctp_folder(tmp_path / "scan").grid
    write_result_dicom(_result(grid), tmp_path / "scan", tmp_path / "out")
    made = pydicom.dcmread(tmp_path / "out" / "cbf.dcm")
    z_mm = grid.affine[2, 3] + grid.affine[2, 2] * np.arange(grid.shape[0])
    np.testing.assert_allclose(np.sort(_positions(made)[:, 2]), z_mm, atol=1e-4)


def test_results_on_another_grid_are_refused(tmp_path):
    pytest.importorskip("highdicom")
    fx.write(tmp_path / "scan")
    with pytest.raises(ScanError, match="grid"):
        write_result_dicom(
            _result(Grid((4, 32, 32), fx.tilted())), tmp_path / "scan", tmp_path / "o"
        )
    assert not (tmp_path / "o").exists()


def test_without_highdicom_the_message_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name == "highdicom":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(SettingsError, match=r"pip install 'strokect\[dicom\]'"):
        write_result_dicom(_result(Grid((4, 32, 32), fx.upright())), None, tmp_path / "o")
