"""What a new user does wrong, and the one line that answers."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from strokect import cli

from .conftest import COMMAND, in_a_shell, refused, strokect


@pytest.fixture(scope="session")
def scan(patient):
    loaded = nib.load(patient.scan)
    return np.asarray(loaded.dataobj), loaded.affine


@pytest.fixture
def analyse(tmp_path):
    """Runs `strokect perfusion` and checks that a refusal leaves nothing behind."""

    def run(source, *options):
        out = tmp_path / "results" / "out"
        done = strokect("perfusion", source, "-o", out, "--no-motion", *options)
        if done.code:
            assert not out.parent.exists() or list(out.parent.iterdir()) == []
        return done

    return run


def save(path, data, affine, interval_s=2.0, unit="sec"):
    made = nib.Nifti1Image(data, affine)
    made.header.set_xyzt_units("mm", unit)
    if data.ndim == 4:
        made.header["pixdim"][4] = interval_s
    nib.save(made, path)
    return path


class TestNoScan:
    def test_missing(self, analyse):
        refused(analyse("nowhere"), 2, "no such file or folder", "nowhere")

    def test_empty_folder(self, analyse, tmp_path):
        (tmp_path / "empty").mkdir()
        refused(analyse(tmp_path / "empty"), 2, "empty", "DICOM")

    @pytest.mark.parametrize("name", ["note.txt", "head.jpg"])
    def test_other_files(self, analyse, tmp_path, name):
        (tmp_path / "in").mkdir()
        path = tmp_path / "in" / name
        path.write_bytes(b"\xff\xd8\xff hello")
        refused(analyse(path), 2, "not a NIfTI file", name)
        refused(analyse(tmp_path / "in"), 2, "DICOM")

    @pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.99])
    def test_truncated(self, analyse, patient, tmp_path, keep):
        whole = patient.scan.read_bytes()
        path = tmp_path / "cut.nii.gz"
        path.write_bytes(whole[: int(keep * len(whole))])
        refused(analyse(path, "--interval", 2), 2, "cut.nii.gz", "Copy it again")

    def test_colour_maps(self, analyse, tmp_path):
        series = generate_uid()
        for number in range(3):
            made = pydicom.Dataset()
            made.file_meta = pydicom.dataset.FileMetaDataset()
            made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            made.SOPClassUID = SecondaryCaptureImageStorage
            made.SOPInstanceUID = generate_uid()
            made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
            made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
            made.SeriesInstanceUID, made.StudyInstanceUID = series, series
            made.Modality, made.ImageType = "CT", ["DERIVED", "SECONDARY"]
            made.Rows = made.Columns = 8
            made.SamplesPerPixel, made.PlanarConfiguration = 3, 0
            made.PhotometricInterpretation = "RGB"
            made.BitsAllocated = made.BitsStored = 8
            made.HighBit, made.PixelRepresentation = 7, 0
            made.PixelData = bytes(8 * 8 * 3)
            (tmp_path / "maps").mkdir(exist_ok=True)
            made.save_as(tmp_path / "maps" / f"{number}.dcm", enforce_file_format=True)
        refused(analyse(tmp_path / "maps"), 2, "secondary capture", "original CT images")

    def test_one_volume_as_dicom(self, analyse, patient, tmp_path):
        (tmp_path / "few").mkdir()
        for path in sorted(patient.layout.dicom_folder.rglob("*.dcm"))[:8]:
            (tmp_path / "few" / path.name).write_bytes(path.read_bytes())
        refused(analyse(tmp_path / "few"), 2, "one time point")


class TestWrongImage:
    """Images that can be read and cannot be analysed."""

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda d: d[..., 0], ["3D", "4D"]),
            (lambda d: d[..., :1], ["one time point"]),
            (lambda d: d[..., :3], ["3 time points", "at least 5"]),
            (lambda d: np.full(d.shape, -1000, np.int16), ["every voxel is -1000"]),
            (lambda d: np.full(d.shape, np.nan, np.float32), ["100% of the values"]),
            (lambda d: d + np.int16(1024), ["not HU", "rescale intercept"]),
            (lambda d: d.astype(np.complex64), ["complex", "CT images"]),
        ],
    )
    def test_content(self, analyse, scan, tmp_path, change, words):
        path = save(tmp_path / "x.nii.gz", change(scan[0]), scan[1])
        refused(analyse(path), 2, *words)

    @pytest.mark.parametrize("head", [True, False])
    def test_noise_without_contrast(self, analyse, scan, tmp_path, head):
        rng = np.random.default_rng(0)
        still = scan[0][..., :1] if head else np.zeros_like(scan[0][..., :1])
        data = (still + rng.normal(0, 5, scan[0].shape)).astype(np.float32)
        refused(analyse(save(tmp_path / "x.nii", data, scan[1])), 2, "no contrast bolus")

    def test_air_with_noise(self, analyse, scan, tmp_path):
        noise = np.random.default_rng(0).normal(-1000, 5, scan[0].shape)
        path = save(tmp_path / "x.nii", noise.astype(np.float32), scan[1])
        refused(analyse(path), 2, "all air")

    def test_some_values_that_are_no_number(self, analyse, scan, tmp_path):
        data = scan[0].astype(np.float32)
        data[40:42, 40:42, 3] = np.nan
        run = analyse(save(tmp_path / "x.nii", data, scan[1]))
        assert (run.code, run.err) == (0, "")
        assert "NON_FINITE" in run.out

    def test_no_orientation(self, analyse, scan, tmp_path):
        refused(analyse(save(tmp_path / "x.nii", scan[0], None)), 2, "no orientation")


class TestTimes:
    @pytest.mark.parametrize(("interval_s", "unit"), [(0.0, "sec"), (1.0, "unknown")])
    def test_none(self, analyse, scan, tmp_path, interval_s, unit):
        path = save(tmp_path / "x.nii", scan[0], scan[1], interval_s, unit)
        refused(analyse(path), 2, "no acquisition times", "--interval")
        assert analyse(path, "--interval", 2).code == 0

    @pytest.mark.parametrize(
        "content",
        ["{oops", "[1]", '{"FrameTimesStart": ["a"]}', '{"FrameTimesStart": {"a": 1}}',
         '{"FrameTimesStart": [0, 1, 2]}', '{"FrameTimesStart": [2, 1, 0]}',
         '{"FrameTimesStart": null}'],
    )  # fmt: skip
    def test_unusable_sidecars(self, analyse, scan, tmp_path, content):
        path = save(tmp_path / "x.nii", scan[0], scan[1])
        (tmp_path / "x.json").write_text(content)
        refused(analyse(path), 2, "x.")

    @pytest.mark.parametrize("value", ["0", "-2", "nan", "inf"])
    def test_impossible_intervals(self, analyse, patient, value):
        refused(analyse(patient.scan, "--interval", value), 2, "--interval")

    @pytest.mark.parametrize("content", ["", "a b c", "1 2\n3\n", None])
    def test_unusable_files(self, analyse, patient, tmp_path, content):
        if content is not None:
            (tmp_path / "t.txt").write_text(content)
        refused(analyse(patient.scan, "--times", tmp_path / "t.txt"), 2, "t.txt")


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ([], ["--help"]),
            (["perfusion"], ["INPUT", "strokect perfusion --help"]),
            (["perfusion", "x"], ["--out", "strokect perfusion --help"]),
            (["perfusion", "x", "-o", "y", "--fast"], ["--fast"]),
            (["perfusion", "x", "-o", "y", "--interval", "1", "--times", "t"], ["not both"]),
            (["dance"], ["dance", "strokect --help"]),
        ],
    )
    def test_usage(self, options, words):
        run = strokect(*options)
        if options:
            refused(run, 2, *words)
        else:
            assert run.code == 2
            assert "Usage" in run.out + run.err

    def test_settings_are_checked_before_the_scan_is_read(self, analyse, tmp_path):
        (tmp_path / "s.json").write_text(json.dumps({"motion": {"iteration": 3}}))
        run = analyse("nowhere", "--settings", tmp_path / "s.json")
        refused(run, 2, "'motion.iteration'", "s.json", "Did you mean 'iterations'?")

    def test_masks(self, analyse, patient, scan, tmp_path):
        empty = np.zeros(scan[0].shape[:3], np.uint8)
        path = save(tmp_path / "m.nii.gz", empty, scan[1])
        refused(analyse(patient.scan, "--aif-mask", path), 2, "empty", "m.nii.gz")
        path = save(tmp_path / "m.nii.gz", empty[:-1] + 1, scan[1])
        refused(analyse(patient.scan, "--vof-mask", path), 2, "grid", "Resample")
        refused(analyse(patient.scan, "--brain-mask", "gone.nii"), 2, "gone.nii")

    @pytest.mark.parametrize("voxel", ["1,2", "a,b,c", "999,0,0", "-1,0,0"])
    def test_voxels(self, analyse, patient, voxel):
        refused(analyse(patient.scan, f"--aif-voxel={voxel}"), 2, "--aif-voxel", "Give x,y,z")


class TestOutput:
    def test_foreign_folders_are_left_alone(self, patient, tmp_path):
        (tmp_path / "thesis.txt").write_text("years of work")
        for options in ([], ["--overwrite"]):
            run = strokect("perfusion", patient.scan, "-o", tmp_path, *options)
            refused(run, 2, "not empty", "Choose a new one")
            run = strokect("perfusion", patient.scan, "-o", tmp_path / "thesis.txt", *options)
            refused(run, 2, "a file stands")
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]

    def test_the_input_folder_is_never_replaced(self, patient):
        folder = patient.layout.scan_folder
        before = sorted(p.name for p in folder.iterdir())
        run = strokect("perfusion", folder, "-o", folder, "--overwrite")
        refused(run, 2, "holds no strokect result")
        assert sorted(p.name for p in folder.iterdir()) == before

    def test_a_parent_that_is_a_file(self, patient, tmp_path):
        (tmp_path / "file").write_text("")
        refused(strokect("perfusion", patient.scan, "-o", tmp_path / "file/out"), 1, "Choose")

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
    @pytest.mark.parametrize("command", [["perfusion", "SCAN"], ["phantom", "--size", "small"]])
    def test_a_place_that_cannot_be_written(self, patient, command):
        command = [patient.scan if part == "SCAN" else part for part in command]
        refused(strokect(*command, "-o", "/proc/out"), 1, "cannot write", ": /proc/out. Choose")

    def test_a_full_disk(self, patient, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
        try:
            mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        except OSError:
            mounted = False
        if not mounted:
            pytest.skip("mounting is not permitted here")
        try:
            run = strokect("perfusion", patient.scan, "-o", disk / "out", "--no-motion")
            refused(run, 1, "the disk is full", str(disk / "out") + ".", "Free some space")
            assert list(disk.iterdir()) == []
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def listens(pid):
    """Whether a process has come so far that it handles SIGTERM; a slow one is still importing."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return True
    caught = next((x for x in status.read_text().splitlines() if x.startswith("SigCgt")), "x 0")
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def interrupted(out, arguments, number, ready):
    """Start, wait until ``ready()``, send a signal. Returns the process, ended, and its stderr."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    limit = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < limit:
        if listens(process.pid) and ready():
            break
        time.sleep(0.002)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    return process.returncode, error


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
class TestInterrupt:
    def check(self, folder, code, error, expected):
        if code == 0:  # it was done just before
            assert [p.name for p in folder.iterdir()] == ["out"]
            return
        assert (code, error.count("\n")) == (expected, 1), error
        assert "interrupted" in error
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    @pytest.mark.parametrize("moment", ["writing", "early"])
    def test_nothing_is_left(self, patient, tmp_path, number, code, moment):
        start = time.monotonic()

        def ready():
            if moment == "early":
                return time.monotonic() > start + 1.0
            return any(tmp_path.glob(".out*"))

        arguments = ["perfusion", patient.scan, "-o", tmp_path / "out"]
        found, error = interrupted(tmp_path, arguments, number, ready)
        self.check(tmp_path, found, error, code)

    def test_an_interrupted_phantom_is_made_again(self, tmp_path):
        arguments = ["phantom", "-o", tmp_path / "p", "--size", "small", "-n", 2, "--workers", 1]
        second = tmp_path / "p/derivatives/truth/sub-0002"
        found, error = interrupted(tmp_path, arguments, signal.SIGINT, second.exists)
        assert not list(tmp_path.rglob(".*"))
        if found == 0:  # it was done just before
            return
        assert found == 130, error
        again = strokect(*arguments)
        assert again.code == 0
        first, second = again.out.splitlines()
        assert "was there already" in first
        assert "was there already" not in second


class TestUnexpected:
    def test_one_line_and_how_to_see_more(self, monkeypatch, patient, tmp_path):
        def broken(*args):
            raise ZeroDivisionError("a fault\nin two lines")

        monkeypatch.setattr("strokect.pipeline.read_scan", broken)
        command = ["perfusion", patient.scan, "-o", tmp_path / "out"]
        refused(strokect(*command), 1, "ZeroDivisionError: a fault in two lines", "--debug")
        with pytest.raises(ZeroDivisionError):
            strokect("--debug", *command)
        assert list(tmp_path.iterdir()) == []

    def test_memory(self, monkeypatch, patient, tmp_path):
        def broken(*args):
            raise MemoryError

        monkeypatch.setattr("strokect.pipeline.read_scan", broken)
        refused(strokect("perfusion", patient.scan, "-o", tmp_path / "o"), 1, "out of memory")


def test_warnings_of_libraries_stay_inside(scan, tmp_path):
    noise = np.random.default_rng(0).normal(-1000, 5, scan[0].shape).astype(np.float32)
    path = save(tmp_path / "x.nii", noise, scan[1])
    refused(in_a_shell("perfusion", path, "-o", tmp_path / "o"), 2, "all air")


def test_a_closed_pipe_is_no_error():
    done = subprocess.run(
        ["bash", "-c", f"{' '.join(map(repr, COMMAND))} list estimators | true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr


def test_exit_codes_are_documented():
    assert all(code in cli.__doc__ for code in ("0", "1", "2", "130", "143"))
