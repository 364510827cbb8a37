"""Virtual patients to disk, by function. The command line is tested in end_to_end."""

import csv
import hashlib
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from strokect import virtual
from strokect.core.errors import OutputExistsError, SettingsError
from strokect.io.layouts import OwnLayout
from strokect.io.nifti import read_ctp, read_volume
from strokect.phantom.clinical import DEFAULT_GROUPS
from strokect.phantom.study import draw_study, make_study


def make(root, **options):
    seen = []
    options = virtual.VirtualOptions(**{"size": "small", "workers": 1, **options})
    made = list(virtual.make_patients(root, options, lambda *step: seen.append(step)))
    return made, seen


def card(layout):
    return json.loads((layout.truth_folder / f"{layout.stem}_truth.json").read_text())


def hashes(root):
    files = (p for p in sorted(root.rglob("*")) if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def growth(tmp_path_factory):
    """Two patients that became three, one per group: folder, hashes of the two, what grew."""
    root = tmp_path_factory.mktemp("cohort")
    make(root, n=2, groups="LVO:1,non-LVO:1,WIS:1", seed=5)
    before = hashes(root)
    grown, _ = make(root, n=3, groups="LVO:1,non-LVO:1,WIS:1", seed=5)
    return root, before, grown


@pytest.fixture(scope="module")
def cohort(growth):
    """Three patients, one per group."""
    return growth[0]


def test_what_is_read_back_is_what_was_made(cohort):
    study = make_study(draw_study(5, 1, dict.fromkeys(DEFAULT_GROUPS, 1 / 3), "small"))
    layout = OwnLayout(cohort, "0001")
    scan = read_ctp(layout.scan("ctp"))
    patient = study.ctp
    assert np.array_equal(scan.data_hu, patient.ctp.data_hu)
    assert scan.times_s == pytest.approx(patient.ctp.times_s)
    assert scan.grid.same_as(patient.ctp.grid)
    for name, true in (("ncct", study.ncct), ("cta", study.cta)):
        image = read_volume(layout.scan(name))
        assert np.array_equal(image.data, true.image.data)
        assert image.grid.same_as(true.image.grid)
        clot = np.asarray(nib.load(layout.truth_mask("clot", name)).dataobj).T > 0
        assert np.array_equal(clot, true.clot.data)
    for name, true in patient.maps.items():
        assert np.array_equal(np.asarray(nib.load(layout.truth_map(name)).dataobj).T, true.data)
    for name, true in patient.masks.items():
        assert np.array_equal(nib.load(layout.truth_mask(name)).get_fdata().T > 0, true.data)


def test_the_same_bytes_in_processes(cohort, tmp_path):
    make(tmp_path, n=3, groups="LVO:1,non-LVO:1,WIS:1", seed=5, workers=2)
    assert hashes(tmp_path) == hashes(cohort)


def test_participants_tell_group_truth_and_split(cohort):
    with (cohort / "participants.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    described = json.loads((cohort / "participants.json").read_text())
    assert list(rows[0]) == list(described)
    assert [r["group"] for r in rows] == ["LVO", "non-LVO", "WIS"]
    assert {r["split"] for r in rows} <= {"train", "val", "test"}
    assert rows[0]["site"] in ("M1", "ICA") and rows[2]["site"] == "n/a"
    assert float(rows[0]["hypoperfusion_ml"]) > 50 and float(rows[2]["hypoperfusion_ml"]) == 0
    assert float(rows[0]["clot_mm"]) > 3 and rows[2]["clot_mm"] == "n/a"
    for k, row in enumerate(rows, 1):
        assert row["participant_id"] == f"sub-000{k}"
        assert 0 <= int(row["nihss"]) <= 42


def test_patients_of_two_cohorts_differ():
    one = [draw_study(1, k, DEFAULT_GROUPS, "small") for k in range(1, 7)]
    two = [draw_study(2, k, DEFAULT_GROUPS, "small") for k in range(1, 7)]
    seeds = [c.patient.seed for c in (*one, *two)]
    assert len(set(seeds)) == 12
    assert len({(c.case.age, c.patient.noise_hu) for c in (*one, *two)}) == 12


def test_a_cohort_can_grow(growth):
    root, before, grown = growth
    assert [(p.parent.name, new) for p, new in grown] == [
        ("sub-0001", False), ("sub-0002", False), ("sub-0003", True)
    ]  # fmt: skip
    after = hashes(root)
    assert before.keys() <= after.keys()
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"participants.tsv"}
    with (root / "participants.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [r["participant_id"] for r in rows] == ["sub-0001", "sub-0002", "sub-0003"]


def test_without_ischaemic_stroke_there_is_no_lesion_and_no_clot(cohort):
    layout = OwnLayout(cohort, "0003")
    for path in (layout.truth_mask("hypoperfusion"), layout.truth_mask("clot", "cta")):
        assert not np.asarray(nib.load(path).dataobj).any()


def test_a_half_made_patient_is_made_again(tmp_path):
    make(tmp_path)
    layout = OwnLayout(tmp_path, "0001")
    assert make(tmp_path)[0] == [(layout.scan_folder, False)]
    before = hashes(tmp_path)
    layout.scan("ctp").unlink()
    left = layout.scan_folder.parent / f".{layout.scan_folder.name}.1234.partial"
    left.mkdir()
    assert make(tmp_path)[0] == [(layout.scan_folder, True)]
    assert not left.exists()
    assert hashes(tmp_path) == before


def test_truth_that_strokect_did_not_make_is_left_alone(tmp_path):
    atlas = tmp_path / "derivatives/truth/sub-0001/ses-01/lesion.nii.gz"
    atlas.parent.mkdir(parents=True)
    atlas.write_text("drawn by hand")
    with pytest.raises(OutputExistsError, match="did not make"):
        make(tmp_path, overwrite=True)
    assert atlas.exists()


@pytest.mark.parametrize(
    "wrong",
    [{"groups": "TIA"}, {"noise_hu": float("nan")}, {"dicom": "acme"}, {"size": "tiny"}],
)
def test_impossible_options(tmp_path, wrong):
    with pytest.raises(SettingsError):
        make(tmp_path / "p", **wrong)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("name", ["README.md", "participants.tsv", "dataset_description.json"])
def test_files_of_another_project_are_left_alone(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(OutputExistsError, match="did not make"):
        make(tmp_path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "{}"


def test_files_of_another_vendor_do_not_pass_for_the_ones_asked_for(tmp_path, cohort):
    layout = OwnLayout(tmp_path, "0001")
    shutil.copytree(cohort, tmp_path, dirs_exist_ok=True)
    options = {"groups": "LVO:1,non-LVO:1,WIS:1", "seed": 5}
    (layout.dicom_folder / "ctp").mkdir(parents=True)
    path = layout.truth_folder / f"{layout.stem}_truth.json"
    path.write_text(json.dumps(card(layout) | {"dicom": "ge"}))
    for dicom in (None, "ge"):
        assert make(tmp_path, dicom=dicom, **options)[0] == [(layout.scan_folder, False)]
    with pytest.raises(OutputExistsError, match="other settings"):
        make(tmp_path, dicom="siemens", **options)
