"""The figure of the pipeline: which slice and side it shows, in which colours, and its refusals."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from strokect.core.colours import colour_coded
from strokect.core.errors import GeometryError, InputError, ScanError
from strokect.core.quantities import QUANTITIES
from strokect.core.types import Grid
from strokect.io import nifti

SCRIPT = Path(__file__).parents[2] / "scripts" / "pipeline_figure.py"
# RAS: rows run from posterior to anterior, columns from the patient's left to the right.
GRID = Grid((3, 12, 12), np.diag([10.0, 10.0, 10.0, 1.0]))


@pytest.fixture(scope="module")
def figure():
    spec = importlib.util.spec_from_file_location("pipeline_figure", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def block(slices, rows, columns):
    out = np.zeros(GRID.shape, bool)
    out[slices, rows, columns] = True
    return out


@pytest.fixture
def folders(tmp_path):
    """Maps, a found and a true lesion: the true one is largest in slice 2, the found one in 1."""
    for number, name in enumerate(("cbf", "cbv", "ttp", "tmax", "mip")):
        low, high = QUANTITIES[name].display_range
        values = np.full(GRID.shape, low + (high - low) * (0.3 + 0.1 * number), np.float32)
        nifti.write_volume(tmp_path / "perf/maps" / f"{name}.nii.gz", values, GRID)
    everywhere = np.ones(GRID.shape, bool)
    nifti.write_volume(tmp_path / "perf/masks/brain.nii.gz", everywhere, GRID)
    # Anterior, on the patient's left: the last rows, the first columns.
    core, penumbra = block(slice(1, 2), slice(8, 10), slice(1, 3)), block(1, slice(7, 8), 1)
    nifti.write_volume(tmp_path / "pred/masks/core.nii.gz", core, GRID)
    nifti.write_volume(tmp_path / "pred/masks/penumbra.nii.gz", penumbra, GRID)
    true = block(slice(2, 3), slice(8, 11), slice(1, 4)) | core
    nifti.write_volume(tmp_path / "truth/sub-1_ses-01_core_mask.nii.gz", true, GRID)
    return tmp_path / "perf", tmp_path / "pred", tmp_path / "truth"


def magenta(picture):
    """Where core is drawn: red and blue beyond green."""
    red, green, blue = picture.astype(int).transpose(2, 0, 1)
    return (red - green > 60) & (blue - green > 40)


def test_the_slice_is_that_of_the_largest_lesion(figure, folders):
    perf, pred, truth = folders
    assert magenta(figure.read_patient(perf, pred, truth).true).sum() == 9
    assert not magenta(figure.read_patient(perf, pred, truth).found).any()
    without = figure.read_patient(perf, pred, None)
    assert without.true is None and magenta(without.found).sum() == 4
    assert magenta(figure.read_patient(perf, pred, truth, number=1).true).sum() == 4


def test_anterior_is_up_and_the_patients_left_on_the_right(figure, folders):
    rows, columns = np.nonzero(magenta(figure.read_patient(*folders[:2], None).found))
    assert rows.max() < 6 <= columns.min()


def test_maps_are_shown_as_to_readers(figure, folders):
    inputs = figure.read_patient(*folders).inputs
    assert list(inputs) == ["cbf", "cbv", "ttp", "tmax", "mip"]
    low, high = QUANTITIES["tmax"].display_range
    expected = colour_coded(np.array([low + (high - low) * 0.6]), QUANTITIES["tmax"])[0]
    assert (inputs["tmax"] == expected).all()
    assert len({tuple(p[0, 0]) for p in inputs.values()}) == 5


def test_volumes_are_those_of_the_whole_scan(figure, folders):
    patient = figure.read_patient(*folders)
    assert patient.found_ml == pytest.approx({"penumbra": 1.0, "core": 4.0})
    assert patient.true_ml == pytest.approx({"core": 13.0})


def test_core_lies_over_penumbra(figure):
    under = np.zeros((1, 3, 3), np.uint8)
    masks = {"core": np.array([[False, True, True]]), "penumbra": np.array([[True, True, False]])}
    shown = figure.overlay(under, masks)
    assert (shown[0, 1] == shown[0, 2]).all() and (shown[0, 0] != shown[0, 1]).any()
    assert (figure.overlay(under, {}) == under).all()


@pytest.mark.parametrize(
    "more",
    [["--nihss", "17", "--caption", "a $ b $"], [], ["--inputs", "cbf,mip"]],
)  # fmt: skip
def test_the_figure_is_drawn(figure, folders, tmp_path, capsys, more):
    perf, pred, truth = map(str, folders)
    out = tmp_path / "images" / "figure.png"
    assert figure.main([perf, pred, "--truth", truth, *more, "-o", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    with Image.open(out) as image:
        assert image.width == 1800
        pixels = np.asarray(image.convert("RGB"))
    assert magenta(pixels).sum() > 1000  # the true core, nine of 144 pixels of its picture


def test_same_patient_same_bytes_and_another_score_others(figure, folders, tmp_path):
    patient = figure.read_patient(*folders)
    files = [tmp_path / f"{k}.png" for k in range(3)]
    for path, nihss in zip(files, (17, 17, 3), strict=True):
        figure.draw(patient, path, nihss)
    first, second, third = (path.read_bytes() for path in files)
    assert first == second != third


class TestRefusals:
    def test_missing_map(self, figure, folders, capsys):
        perf, pred, _ = folders
        (perf / "maps/cbv.nii.gz").unlink()
        with pytest.raises(ScanError, match=r"cbv\.nii\.gz"):
            figure.read_patient(perf, pred, None)
        assert figure.main([str(perf), str(pred), "-o", "unused.png"]) == 1
        assert "cbv.nii.gz" in capsys.readouterr().err

    def test_no_masks(self, figure, folders, tmp_path):
        with pytest.raises(ScanError, match="no masks of core or penumbra"):
            figure.read_patient(folders[0], tmp_path / "nowhere", None)

    def test_masks_of_another_scan(self, figure, folders):
        other = Grid(GRID.shape, np.diag([9.0, 9.0, 9.0, 1.0]))
        nifti.write_volume(folders[1] / "masks/core.nii.gz", np.ones(GRID.shape, bool), other)
        with pytest.raises(GeometryError, match="lies elsewhere"):
            figure.read_patient(*folders)

    def test_no_such_slice(self, figure, folders):
        with pytest.raises(InputError, match="0 to 2"):
            figure.read_patient(*folders, number=3)

    def test_no_such_map(self, figure, folders, capsys):
        with pytest.raises(SystemExit):
            figure.main([str(folders[0]), str(folders[1]), "--inputs", "cbf,t1"])
        assert "no map t1" in capsys.readouterr().err
