"""Virtual patients to disk, by function. The command line is tested in end_to_end."""

import json

import nibabel as nib
import numpy as np
import pytest

from strokect import virtual
from strokect.core.errors import OutputExistsError, SettingsError
from strokect.io.layouts import OwnLayout
from strokect.io.nifti import read_ctp
from strokect.phantom.patient import PatientConfig, make_patient

TINY = PatientConfig(shape=(3, 32, 32), spacing_mm=(10.0, 6.5, 6.5), n_times=6, interval_s=4.0)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(virtual.SIZES, "tiny", TINY)


def make(root, **options):
    seen = []
    made = virtual.make_patients(
        root, virtual.VirtualOptions(size="tiny", **options), lambda *step: seen.append(step)
    )
    return made, seen


def test_what_is_read_back_is_what_was_made(tiny, tmp_path):
    made, seen = make(tmp_path, seed=5)
    layout = OwnLayout(tmp_path, "0001")
    assert made == [(layout.scan_folder, True)]
    assert seen[-1] == ("patient 0001", 1, 1)
    patient = make_patient(PatientConfig(**{**vars(TINY), "seed": 5}))
    scan = read_ctp(layout.scan("ctp"))
    assert np.array_equal(scan.data_hu, patient.ctp.data_hu)
    assert scan.times_s == pytest.approx(patient.ctp.times_s)
    assert scan.grid.same_as(patient.ctp.grid)
    for name, true in patient.maps.items():
        assert np.array_equal(np.asarray(nib.load(layout.truth_map(name)).dataobj).T, true.data)
    for name, true in patient.masks.items():
        assert np.array_equal(nib.load(layout.truth_mask(name)).get_fdata().T > 0, true.data)


def test_seeds_count_up(tiny, tmp_path):
    make(tmp_path, n=2, seed=7)
    for label, seed in (("0001", 7), ("0002", 8)):
        layout = OwnLayout(tmp_path, label)
        info = json.loads((layout.truth_folder / f"{layout.stem}_truth.json").read_text())
        assert info["config"]["seed"] == seed


def test_without_stroke_there_is_no_lesion(tiny, tmp_path):
    make(tmp_path, stroke="none")
    lesion = nib.load(OwnLayout(tmp_path, "0001").truth_mask("hypoperfusion"))
    assert not np.asarray(lesion.dataobj).any()


def test_a_half_made_patient_is_made_again(tiny, tmp_path):
    make(tmp_path)
    layout = OwnLayout(tmp_path, "0001")
    assert make(tmp_path)[0] == [(layout.scan_folder, False)]
    layout.scan("ctp").unlink()
    assert make(tmp_path)[0] == [(layout.scan_folder, True)]
    assert layout.scan("ctp").exists()


def test_dicom_can_be_added(tiny, tmp_path):
    make(tmp_path)
    assert make(tmp_path, dicom=True)[0][0][1]
    assert len(list((tmp_path / "dicom/sub-0001").rglob("*.dcm"))) == 18
    assert not make(tmp_path, dicom=True)[0][0][1]


def test_truth_that_strokect_did_not_make_is_left_alone(tiny, tmp_path):
    atlas = tmp_path / "derivatives/truth/sub-0001/ses-01/lesion.nii.gz"
    atlas.parent.mkdir(parents=True)
    atlas.write_text("drawn by hand")
    with pytest.raises(OutputExistsError, match="did not make"):
        make(tmp_path, overwrite=True)
    assert atlas.exists()


@pytest.mark.parametrize("wrong", [{"stroke": "pca"}, {"noise_hu": float("nan")}])
def test_impossible_options(tiny, tmp_path, wrong):
    with pytest.raises(SettingsError):
        make(tmp_path / "p", **wrong)
    assert not (tmp_path / "p").exists()
