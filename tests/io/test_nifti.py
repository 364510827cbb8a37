import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from strokect.core.errors import GeometryError, InputError, ScanError, TimingError
from strokect.core.types import CTSeries, Grid
from strokect.io.nifti import (
    read_ctp,
    read_mask,
    read_times_file,
    read_volume,
    sidecar_path,
    write_ctp,
    write_volume,
)

# Oblique, left-handed, with a shear as a tilted gantry gives.
AFFINE = np.array(
    [[-0.9, 0.1, 0.2, 90.5], [0.05, -0.9, 1.7, 80], [0.02, 0.1, 4.8, -30], [0, 0, 0, 1]]
)
GRID = Grid((3, 5, 4), AFFINE)


def series(times=None):
    data = np.arange(6 * 60, dtype=np.float32).reshape(6, 3, 5, 4) - 100
    return CTSeries(data, np.arange(6) * 1.5 if times is None else times, GRID)


def raw(path, data, unit="unknown", step=1.0, affine=AFFINE):
    """A NIfTI file as another tool writes it."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", unit)
    if data.ndim == 4:
        image.header["pixdim"][4] = step
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    "times",
    [
        np.arange(6) * 1.5,
        np.array([0, 1, 2, 3, 6, 9.0]),
        np.arange(6)[:, None] * 3.0 + np.array([0.0, 0.7, 1.4]),  # slice offsets
        np.array(
            [[0, 0.5, 1], [2, 2.6, 3.1], [4, 4.5, 5], [6, 7, 7.2], [8, 8.5, 9], [10, 11, 12.0]]
        ),
    ],
)
def test_what_is_written_is_read(tmp_path, times):
    one = series(times)
    write_ctp(tmp_path / "a_ctp.nii.gz", one)
    two = read_ctp(tmp_path / "a_ctp.nii.gz")
    assert np.array_equal(one.data_hu, two.data_hu)
    assert two.times_s == pytest.approx(one.times_s, abs=1e-3)
    assert two.grid.same_as(GRID, 1e-4)
    assert two.data_hu.flags.c_contiguous


def test_voxel_z_y_x_lies_where_the_file_says(tmp_path):
    data = np.zeros((4, 5, 3), np.int16)  # NIfTI order x, y, z
    data[1, 3, 2] = 77
    volume = read_volume(raw(tmp_path / "v.nii", data))
    assert volume.data[2, 3, 1] == 77
    assert volume.grid.affine == pytest.approx(AFFINE, abs=1e-5)


@pytest.mark.parametrize(("unit", "step", "interval"), [("sec", 2.0, 2.0), ("msec", 1500.0, 1.5)])
def test_header_interval_with_a_unit_is_believed(tmp_path, unit, step, interval):
    path = raw(tmp_path / "s.nii.gz", np.zeros((4, 5, 3, 6), np.int16), unit, step)
    assert read_ctp(path).interval_s == pytest.approx(interval)


@pytest.mark.parametrize(("unit", "step"), [("unknown", 1.0), ("sec", 0.0), ("hz", 2.0)])
def test_a_missing_interval_is_refused_not_guessed(tmp_path, unit, step):
    path = raw(tmp_path / "s.nii.gz", np.zeros((4, 5, 3, 6), np.int16), unit, step)
    with pytest.raises(TimingError, match="--interval"):
        read_ctp(path)
    assert read_ctp(path, interval_s=2.0).interval_s == 2.0


@pytest.mark.parametrize("interval", [0.0, -1.0, float("nan")])
def test_a_senseless_interval_is_refused(tmp_path, interval):
    write_ctp(tmp_path / "a.nii.gz", series())
    with pytest.raises(TimingError, match="positive"):
        read_ctp(tmp_path / "a.nii.gz", interval_s=interval)


@pytest.mark.parametrize(
    ("name", "text", "first"),
    [
        ("t.txt", "0\n1\n2\n4\n6\n9\n", 9.0),
        ("t.csv", "# s\n0,1,2,4,6,9\n", 9.0),
        ("t.tsv", "\n".join(f"{t} {t + 0.2} {t + 0.4}" for t in (0, 1, 2, 4, 6, 9)), 9.0),
        ("t.json", json.dumps({"FrameTimesStart": [0, 1, 2, 4, 6, 9]}), 9.0),
    ],
)
def test_times_files(tmp_path, name, text, first):
    write_ctp(tmp_path / "a.nii.gz", series())
    (tmp_path / name).write_text(text)
    read = read_ctp(tmp_path / "a.nii.gz", times_file=tmp_path / name)
    assert read.times_s[-1, 0] == first


@pytest.mark.parametrize("text", ["0\n1\n2\n", "0 1 2 2 3 4", "a b c", ""])
def test_bad_times_files(tmp_path, text):
    write_ctp(tmp_path / "a.nii.gz", series())
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(TimingError):
        read_ctp(tmp_path / "a.nii.gz", times_file=tmp_path / "t.txt")
    with pytest.raises(TimingError):
        read_times_file(tmp_path / "absent.txt")


def test_broken_sidecar_is_refused(tmp_path):
    write_ctp(tmp_path / "a.nii.gz", series())
    sidecar_path(tmp_path / "a.nii.gz").write_text("{")
    with pytest.raises(InputError):
        read_ctp(tmp_path / "a.nii.gz")


def test_no_number_becomes_air_with_a_flag(tmp_path):
    data = np.full((4, 5, 3, 6), 40, np.float32)
    data[0, 0, 0] = np.nan
    read = read_ctp(raw(tmp_path / "n.nii.gz", data), interval_s=1.0)
    assert [f.code for f in read.flags] == ["NON_FINITE"]
    assert (read.data_hu[:, 0, 0, 0] == -1000).all()
    with pytest.raises(ScanError, match="no number"):
        read_ctp(raw(tmp_path / "m.nii.gz", np.full_like(data, np.nan)), interval_s=1.0)


@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 5, 3, 1), (4, 5, 3, 6, 2)])
def test_what_is_no_dynamic_scan_is_refused(tmp_path, shape):
    with pytest.raises(ScanError):
        read_ctp(raw(tmp_path / "x.nii.gz", np.zeros(shape, np.int16)), interval_s=1.0)


def test_truncated_or_foreign_files_are_refused(tmp_path):
    write_ctp(tmp_path / "a.nii.gz", series())
    whole = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScanError, match="truncated"):
        read_ctp(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii").write_bytes(gzip.decompress(whole)[:500])
    with pytest.raises(ScanError):
        read_ctp(tmp_path / "b.nii", interval_s=1.0)
    (tmp_path / "c.nii.gz").write_text("hello")
    with pytest.raises(ScanError):
        read_ctp(tmp_path / "c.nii.gz", interval_s=1.0)
    with pytest.raises(ScanError, match="no such file"):
        read_ctp(tmp_path / "absent.nii.gz")


def test_an_image_without_orientation_is_refused(tmp_path):
    image = nib.Nifti1Image(np.zeros((4, 5, 3, 6), np.int16), None)
    nib.save(image, tmp_path / "x.nii.gz")
    with pytest.raises(GeometryError, match="orientation"):
        read_ctp(tmp_path / "x.nii.gz", interval_s=1.0)


def test_masks_must_fit_the_scan(tmp_path):
    inside = np.zeros(GRID.shape, bool)
    inside[1, 2, 3] = True
    write_volume(tmp_path / "m.nii.gz", inside, GRID)
    assert np.array_equal(read_mask(tmp_path / "m.nii.gz", GRID).data, inside)
    moved = AFFINE.copy()
    moved[0, 3] += 2
    with pytest.raises(GeometryError, match="Resample"):
        read_mask(tmp_path / "m.nii.gz", Grid(GRID.shape, moved))
    write_volume(tmp_path / "e.nii.gz", ~inside & inside, GRID)
    with pytest.raises(InputError, match="empty"):
        read_mask(tmp_path / "e.nii.gz", GRID)


def test_a_mask_from_a_flipping_converter_fits(tmp_path):
    rng = np.random.default_rng(0)
    inside = rng.random(GRID.shape) > 0.5
    image = nib.Nifti1Image(inside.T.astype(np.uint8), AFFINE)
    turned = nib.as_closest_canonical(image)
    assert not np.allclose(turned.affine, AFFINE)
    nib.save(turned, tmp_path / "m.nii.gz")
    assert np.array_equal(read_mask(tmp_path / "m.nii.gz", GRID).data, inside)
