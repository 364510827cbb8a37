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
from strokect.core.types import Grid, Map, Mask, Volume
from strokect.io.dicom import read_ct_folder, read_ctp_folder
from strokect.io.dicom_results import write_result_dicom
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
