"""What is no scan is ignored with a note, or refused with a line that helps; nothing is leaked."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    EnhancedCTImageStorage,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

sys.path.insert(0, str(Path(__file__).parent))
import dicom_fixtures as fx

from strokect.core.errors import GeometryError, ScanError, StrokeCTError, TimingError
from strokect.io.dicom import find_series, read_ct_folder, read_ctp_folder

DATA = Path(__file__).parents[2].parent / "shared" / "data"
XRAY_DOSE_SR = "1.2.840.10008.5.1.4.1.1.88.67"

OTHERS = {
    "localiser": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    "derived map": {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CBF"]},
    "derived map by its unit": {"RescaleType": "ML/100G"},
    "colour image": {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
    "inverted": {"PhotometricInterpretation": "MONOCHROME1"},
    "secondary capture": {"SOPClassUID": SecondaryCaptureImageStorage},
    "report": {"SOPClassUID": XRAY_DOSE_SR, "Modality": "SR"},
    "enhanced": {"SOPClassUID": EnhancedCTImageStorage},
    "not a CT image": {"Modality": "MR"},
}


@pytest.mark.parametrize("what", OTHERS)
def test_others_are_ignored_with_a_note_and_refused_alone(tmp_path, what):
    truth = fx.make_series()
    paths = fx.write(tmp_path / "scan", truth)
    other = fx.add_map(tmp_path / "scan" / "more", paths[0], "x", **OTHERS[what])
    read = read_ctp_folder(tmp_path / "scan")
    np.testing.assert_allclose(read.data_hu, truth.data_hu, atol=0.5)
    notes = [n for n in read.notes if "series 77" in n]
    assert len(notes) == 1
    assert what.split(" by ")[0] in notes[0]
    for reader in (read_ctp_folder, read_ct_folder):
        with pytest.raises(ScanError, match="no CT scan"):
            reader(other.parent)


def test_map_in_the_series_of_the_scan(tmp_path):
    truth = fx.make_series()
    paths = fx.write(tmp_path / "scan", truth)
    uid = pydicom.dcmread(paths[0]).SeriesInstanceUID
    fx.add_map(
        tmp_path / "scan",
        paths[0],
        "m",
        ImageType=["DERIVED", "PRIMARY", "PERFUSION"],
        SeriesInstanceUID=uid,
    )
    read = read_ctp_folder(tmp_path / "scan")
    np.testing.assert_allclose(read.data_hu, truth.data_hu, atol=0.5)
    assert any("derived map" in n for n in read.notes)


def test_derived_thick_slices_are_a_scan(tmp_path):
    truth = fx.make_series()
    paths = fx.write(tmp_path / "scan", truth)
    fx.edit(paths, lambda d: setattr(d, "ImageType", ["DERIVED", "PRIMARY", "AXIAL", "AVERAGE"]))
    np.testing.assert_allclose(read_ctp_folder(tmp_path / "scan").data_hu, truth.data_hu, atol=0.5)


def test_image_of_the_scan_without_position_is_named(tmp_path):
    paths = fx.write(tmp_path / "scan")
    fx.edit(paths[5:6], fx.without("ImagePositionPatient"))
    with pytest.raises(GeometryError, match=paths[5].name):
        read_ctp_folder(tmp_path / "scan")


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no third-party data at {DATA}")
def test_enhanced_map_is_recognised(tmp_path):
    (tmp_path / "map.dcm").symlink_to(DATA / "eCT_Supplemental.dcm")
    assert [s.kind for s in find_series(tmp_path)] == ["derived map"]
    for reader in (read_ctp_folder, read_ct_folder):
        with pytest.raises(ScanError, match="derived map"):
            reader(tmp_path)


def test_folders_without_images(tmp_path):
    with pytest.raises(ScanError, match="no such folder"):
        read_ctp_folder(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match="empty"):
        read_ctp_folder(tmp_path / "empty")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.dcm").write_text("not DICOM, whatever the name says")
    with pytest.raises(ScanError, match="none of the 1 files is DICOM"):
        read_ctp_folder(tmp_path / "text")
    with pytest.raises(ScanError, match="not a folder"):
        read_ctp_folder(tmp_path / "text" / "a.dcm")


@pytest.mark.parametrize("size", [140, 500, -700, -1])
def test_truncated_file_is_named(tmp_path, size):
    paths = fx.write(tmp_path / "scan")
    content = paths[10].read_bytes()
    paths[10].write_bytes(content[:size])
    with pytest.raises(ScanError, match=paths[10].name):
        read_ctp_folder(tmp_path / "scan")


def _compress(path: Path, syntax: str) -> None:
    dataset = pydicom.dcmread(path)
    if syntax == JPEGLosslessSV1:  # pydicom has no encoder for it
        gdcm = pytest.importorskip("gdcm")
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return
    try:
        dataset.compress(syntax, generate_instance_uid=False)
    except RuntimeError as error:
        pytest.skip(f"no encoder: {error}")
    dataset.save_as(path)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless])
def test_compressed(tmp_path, syntax):
    truth = fx.make_series()
    paths = fx.write(tmp_path / "scan", truth)
    for path in paths[:12]:
        _compress(path, syntax)
    assert pydicom.dcmread(paths[0]).file_meta.TransferSyntaxUID == syntax
    read = read_ctp_folder(tmp_path / "scan")
    np.testing.assert_allclose(read.data_hu, truth.data_hu, atol=0.5)


def test_corrupt_compressed_pixels_are_named(tmp_path):
    paths = fx.write(tmp_path / "scan")
    _compress(paths[3], JPEG2000Lossless)
    content = paths[3].read_bytes()
    paths[3].write_bytes(content[: len(content) - 900] + bytes(900))
    with pytest.raises(ScanError, match=paths[3].name):
        read_ctp_folder(tmp_path / "scan")


def test_unknown_syntax_is_named_with_the_fix(tmp_path, monkeypatch):
    paths = fx.write(tmp_path / "scan")
    _compress(paths[2], RLELossless)
    dataset = pydicom.dcmread(paths[2])
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG2
    dataset.save_as(paths[2])
    with pytest.raises(ScanError, match=r"cannot decode MPEG2.*Install a decoder"):
        read_ctp_folder(tmp_path / "scan")


def _leaks(text: str) -> list[str]:
    return [secret for secret in fx.SECRETS if secret in text]


def test_nothing_about_the_patient_leaks(tmp_path, caplog, recwarn):
    caplog.set_level(logging.DEBUG)
    paths = fx.write(tmp_path / "scan", fx.make_series(fx.tilted()))
    fx.add_map(tmp_path / "scan", paths[0], "m", ImageType=["DERIVED", "PRIMARY", "PERFUSION"])
    fx.edit([*paths, tmp_path / "scan" / "m"], fx.identify)
    paths[9].unlink()
    read = read_ctp_folder(tmp_path / "scan")
    assert {f.code for f in read.flags} == {"FILLED_IMAGES", "GANTRY_TILT"}
    text = " ".join([*read.notes, *(f.message for f in read.flags), repr(find_series(tmp_path))])
    assert not _leaks(text)
    spoils = {
        paths[0]: fx.without("RescaleIntercept"),
        paths[1]: lambda d: setattr(d, "PixelData", d.PixelData[:-300]),
        paths[4]: fx.without("ImagePositionPatient"),
        paths[5]: lambda d: setattr(d, "ImagePositionPatient", [50.0, 50.0, -15.0]),
    }
    for path, spoil in spoils.items():
        content = path.read_bytes()
        fx.edit([path], spoil)
        with pytest.raises(StrokeCTError, match=path.name) as error:
            read_ctp_folder(tmp_path / "scan")
        assert not _leaks(str(error.value))
        path.write_bytes(content)
    fx.edit([p for p in paths if p.exists()], fx.ALL_TIMES)
    with pytest.raises(TimingError) as timing:
        read_ctp_folder(tmp_path / "scan")
    assert not _leaks(str(timing.value))
    assert not _leaks(caplog.text + " ".join(str(w) for w in recwarn))


def test_two_reconstructions_in_one_series_are_refused(tmp_path):
    """The same positions and times twice, with other pixels: neither may win silently."""
    paths = fx.write(tmp_path / "scan")
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = generate_uid()
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.InstanceNumber += 100
        dataset.ConvolutionKernel = "BONE"
        dataset.save_as(path.with_name("bone" + path.name))
    with pytest.raises(StrokeCTError):
        read_ctp_folder(tmp_path / "scan")
