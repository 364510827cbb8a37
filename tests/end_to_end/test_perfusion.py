"""A scan to a result folder, through the command line."""

import csv
import getpass
import json

import nibabel as nib
import numpy as np
import pytest

from strokect import catalog
from strokect.core.errors import ScanError
from strokect.core.flags import CODES
from strokect.evaluate.overlap import dice

from .conftest import image, in_a_shell, refused, strokect, summary

MAPS = ("cbf", "cbv", "mtt", "tmax", "ttp", "delay", "mip")
MASKS = ("brain", "hypoperfusion", "core", "penumbra", "aif", "vof")
UNCERTAINTY = ("cbf_sd", "tmax_sd", "p_hypoperfusion", "p_core")
FILES = {
    *(f"maps/{name}.nii.gz" for name in MAPS),
    *(f"uncertainty/{name}.nii.gz" for name in UNCERTAINTY),
    *(f"masks/{name}.nii.gz" for name in MASKS),
    "curves.csv", "summary.json", "report.html",
}  # fmt: skip
KEYS = {
    "schema", "volumes_ml", "mismatch", "hir", "cbv_index", "side", "criteria", "quality",
    "method", "settings", "timing_s", "peak_memory_mb", "provenance",
}  # fmt: skip
VOLUMES = {
    "core", "penumbra", "hypoperfusion", "tmax_gt_4", "tmax_gt_6", "tmax_gt_8", "tmax_gt_10",
}  # fmt: skip


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def same_voxels(one, two):
    images = {f for f in files(one) if f.endswith(".nii.gz")}
    assert images == {f for f in files(two) if f.endswith(".nii.gz")}
    for name in images:
        assert np.array_equal(image(one / name), image(two / name)), name


def truth(patient, name):
    return image(patient.layout.truth_mask(name)) > 0


class TestResultFolder:
    def test_has_exactly_the_promised_files(self, result):
        assert files(result.folder) == FILES
        assert [p.name for p in result.folder.parent.iterdir()] == [result.folder.name]

    def test_lies_on_the_scans_own_grid(self, patient, result):
        scan = nib.load(patient.scan)
        for name in [f for f in FILES if f.endswith(".nii.gz")]:
            made = nib.load(result.folder / name)
            assert made.shape == scan.shape[:3], name
            assert made.affine == pytest.approx(scan.affine, abs=1e-4), name
            kind = np.uint8 if name.startswith("masks") else np.float32
            assert made.get_data_dtype() == kind, name
            assert np.isfinite(image(result.folder / name)).all(), name

    def test_summary_has_the_documented_keys(self, result):
        found = summary(result.folder)
        assert set(found) == KEYS
        assert found["schema"] == "strokect.summary/1"
        assert set(found["volumes_ml"]) == VOLUMES
        assert set(found["mismatch"]) == {"volume_ml", "ratio"}
        assert {q["code"] for q in found["quality"]} <= set(CODES)
        assert {c["name"] for c in found["criteria"]} == {"DEFUSE 3", "EXTEND", "DAWN"}
        assert len(found["provenance"]["input_sha256"]) == 64

    def test_volumes_are_those_of_the_masks(self, result):
        voxel_ml = abs(np.linalg.det(nib.load(result.folder / "maps/cbf.nii.gz").affine)) / 1000
        found = summary(result.folder)["volumes_ml"]
        for name in ("core", "penumbra", "hypoperfusion"):
            voxels = np.count_nonzero(image(result.folder / f"masks/{name}.nii.gz"))
            assert found[name] == pytest.approx(voxels * voxel_ml, abs=0.01)
        assert found["core"] + found["penumbra"] == pytest.approx(found["hypoperfusion"], abs=0.01)

    def test_names_no_path_and_no_user(self, patient, result):
        text = (result.folder / "summary.json").read_text()
        text += (result.folder / "report.html").read_text()
        for private in (str(patient.layout.root), str(result.folder.parent), "/tmp/", "/home/"):
            assert private not in text
        user = getpass.getuser()
        if len(user) > 4:  # "root" is part of words
            assert user not in text

    def test_report_says_research_use_only(self, result):
        page = (result.folder / "report.html").read_text()
        assert "research use only" in page.lower()
        assert 'src="http' not in page

    def test_json_is_all_there_is_on_standard_output(self, result):
        assert json.loads(result.run.out) == summary(result.folder)
        assert result.run.err == "", "not quiet in a pipe"


class TestTruth:
    def test_side_and_lesion(self, patient, result):
        info = json.loads(
            (patient.layout.truth_folder / f"{patient.layout.stem}_truth.json").read_text()
        )
        assert summary(result.folder)["side"] == info["side"]
        found = image(result.folder / "masks/hypoperfusion.nii.gz") > 0
        assert dice(found, truth(patient, "hypoperfusion")) > 0.7

    def test_brain_and_input_functions(self, patient, result):
        brain = image(result.folder / "masks/brain.nii.gz") > 0
        assert dice(brain, truth(patient, "brain")) > 0.93
        # At 2.3 x 2.3 x 10 mm few vessels fill a voxel: the centre line is what must be near.
        layout = patient.layout
        with (layout.truth_folder / f"{layout.stem}_centrelines.csv").open() as file:
            lines = list(csv.DictReader(file))
        veins = {"SSS", "TS", "SIGMOID", "STRAIGHT", "VEIN", "CORTICAL_VEIN"}
        for name, is_vein in (("aif", False), ("vof", True)):
            mask = nib.load(result.folder / f"masks/{name}.nii.gz")
            chosen = np.argwhere(np.asarray(mask.dataobj) > 0) @ mask.affine[:3, :3].T
            chosen = chosen + mask.affine[:3, 3]
            true = np.array([[float(row[k]) for k in "xyz"] for row in lines
                             if (row["segment"] in veins) == is_vein])  # fmt: skip
            gaps = np.linalg.norm(chosen[:, None] - true[None], axis=2)
            assert np.median(gaps.min(axis=1)) < 5.0, name

    def test_tmax_lies_where_flow_is_late(self, patient, result):
        tissue = truth(patient, "tissue")
        found = image(result.folder / "maps/tmax.nii.gz")[tissue]
        assert np.corrcoef(found, image(patient.layout.truth_map("tmax"))[tissue])[0, 1] > 0.7


@pytest.fixture(scope="module")
def from_dicom(patient, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom") / "result"
    run = in_a_shell("perfusion", patient.layout.dicom_folder, "-o", folder)
    assert run.code == 0, run
    assert run.err == ""
    assert "research use only" in run.out.lower()
    return folder


class TestDicomEqualsNifti:
    def test_volumes(self, result, from_dicom):
        one, two = summary(result.folder)["volumes_ml"], summary(from_dicom)["volumes_ml"]
        for name, volume in one.items():
            assert two[name] == pytest.approx(volume, rel=0.01, abs=0.5), name

    @pytest.mark.parametrize("name", MAPS)
    def test_maps_in_ras(self, result, from_dicom, name):
        one, two = (
            nib.as_closest_canonical(nib.load(f / f"maps/{name}.nii.gz"))
            for f in (result.folder, from_dicom)
        )
        assert one.affine == pytest.approx(two.affine, abs=0.01)
        one, two = (np.asarray(i.dataobj).ravel() for i in (one, two))
        assert np.corrcoef(one, two)[0, 1] > 0.999

    def test_side(self, result, from_dicom):
        assert summary(result.folder)["side"] == summary(from_dicom)["side"]


class TestAgain:
    def test_the_same_scan_gives_the_same_bits(self, patient, result, tmp_path):
        run = strokect("perfusion", patient.scan, "-o", tmp_path / "again")
        assert run.code == 0, run
        same_voxels(result.folder, tmp_path / "again")
        curves = "curves.csv"
        assert (tmp_path / "again" / curves).read_bytes() == (result.folder / curves).read_bytes()

    def test_the_settings_of_a_summary_reproduce_it(self, patient, tmp_path):
        options = {"estimator": "osvd", "denoise": "bilateral", "rule": "mistar"}
        given = [part for key, value in options.items() for part in (f"--{key}", value)]
        one = strokect("perfusion", patient.scan, "-o", tmp_path / "one", "--no-motion", *given)
        assert one.code == 0, one
        used = summary(tmp_path / "one")["settings"]
        assert {key: used[key] for key in options} == options
        (tmp_path / "used.json").write_text(json.dumps(used))
        two = strokect(
            "perfusion", patient.scan, "-o", tmp_path / "two", "--settings", tmp_path / "used.json"
        )
        assert two.code == 0, two
        assert summary(tmp_path / "two")["settings"] == used
        same_voxels(tmp_path / "one", tmp_path / "two")

    def test_a_result_is_replaced_only_on_request(self, patient, tmp_path):
        out = tmp_path / "result"
        assert strokect("perfusion", patient.scan, "-o", out).code == 0
        before = (out / "summary.json").read_text()
        again = strokect("perfusion", patient.scan, "-o", out, "--rule", "mistar")
        refused(again, 2, "--overwrite")
        assert (out / "summary.json").read_text() == before
        again = strokect("perfusion", patient.scan, "-o", out, "--rule", "mistar", "--overwrite")
        assert again.code == 0
        assert summary(out)["method"]["rule"] == "mistar"
        assert files(out) == FILES
        assert [p.name for p in tmp_path.iterdir()] == ["result"]


CHOICES = [
    (option, name)
    for option, table in (("estimator", "estimators"), ("denoise", "denoisers"), ("rule", "rules"))
    for name in catalog.TABLES[table]
]


@pytest.mark.parametrize(("option", "name"), CHOICES)
def test_every_choice_of_the_catalog_runs(patient, tmp_path, option, name):
    run = strokect(
        "perfusion", patient.scan, "-o", tmp_path / "r", "--no-motion", f"--{option}", name
    )
    assert run.code == 0, run
    assert run.err == ""
    found = summary(tmp_path / "r")
    assert found["method"][option] == name
    knows_doubt = found["method"]["estimator"] == "bayes"
    expected = FILES if knows_doubt else {f for f in FILES if not f.startswith("uncertainty/")}
    assert files(tmp_path / "r") == expected
    assert found["volumes_ml"]["hypoperfusion"] > 20, "the stroke was missed"
    flow = image(tmp_path / "r/maps/cbf.nii.gz")[truth(patient, "grey")]
    assert 20 < np.median(flow) < 120


class TestByHand:
    """Input functions and brain that the user gives."""

    def run(self, patient, out, *options):
        run = strokect("perfusion", patient.scan, "-o", out, "--no-motion", *options)
        assert run.code == 0, run
        return summary(out)

    def test_artery_mask(self, patient, tmp_path):
        path = patient.layout.truth_mask("artery")
        found = self.run(patient, tmp_path / "r", "--aif-mask", path)
        assert "MANUAL_AIF" in {q["code"] for q in found["quality"]}
        assert found["method"]["aif"]["source"] == "mask"
        assert np.array_equal(image(tmp_path / "r/masks/aif.nii.gz") > 0, truth(patient, "artery"))

    def test_artery_voxel_is_x_y_z_from_0(self, patient, tmp_path):
        index = np.argwhere(truth(patient, "artery"))[0]
        text = ",".join(map(str, index))
        found = self.run(patient, tmp_path / "r", "--aif-voxel", text)
        assert "MANUAL_AIF" in {q["code"] for q in found["quality"]}
        assert np.array_equal(np.argwhere(image(tmp_path / "r/masks/aif.nii.gz")), [index])
        place = nib.load(patient.scan).affine @ [*index, 1]
        assert found["method"]["aif"]["position_mm"] == pytest.approx(place[:3], abs=0.02)

    def test_vein_and_brain_masks(self, patient, tmp_path):
        vein, tissue = (patient.layout.truth_mask(n) for n in ("vein", "brain"))
        found = self.run(patient, tmp_path / "r", "--vof-mask", vein, "--brain-mask", tissue)
        assert "MANUAL_AIF" not in {q["code"] for q in found["quality"]}
        assert found["method"]["vof"]["source"] == "mask"
        for name, true in (("vof", "vein"), ("brain", "brain")):
            assert np.array_equal(
                image(tmp_path / f"r/masks/{name}.nii.gz") > 0, truth(patient, true)
            )

    def test_an_artery_that_does_not_enhance_is_refused(self, patient, tmp_path):
        run = strokect("perfusion", patient.scan, "-o", tmp_path / "r", "--aif-voxel", "0,0,0")
        refused(run, 2, "no more than noise", "Choose voxels inside a vessel")
        assert not (tmp_path / "r").exists()


class TestList:
    @pytest.mark.parametrize("table", sorted(catalog.TABLES))
    def test_tables(self, table):
        plain, machine = strokect("list", table), strokect("list", table, "--json")
        assert plain.code == machine.code == 0
        rows = json.loads(machine.out)
        assert [r["name"] for r in rows] == list(catalog.TABLES[table])
        assert all(r["summary"] for r in rows)
        assert [line.split()[0] for line in plain.out.splitlines()] == [r["name"] for r in rows]

    def test_an_unknown_table(self):
        refused(strokect("list", "estimater"), 2, "'estimater'", *catalog.TABLES)

    def test_an_unknown_name_leads_to_the_nearest(self, patient, tmp_path):
        run = strokect("perfusion", patient.scan, "-o", tmp_path / "r", "--estimator", "bsdv")
        refused(run, 2, "'bsdv'", "Did you mean 'bsvd'?", *catalog.ESTIMATORS)


def test_a_result_outlives_its_dicom_source(patient, tmp_path, monkeypatch):
    """What cannot be filed as DICOM is still a finished analysis: kept, flagged, exit code 1."""
    from strokect.io import dicom_results

    def changed(*_):
        raise ScanError("the images changed meanwhile", patient.layout.dicom_folder, "Copy again")

    monkeypatch.setattr(dicom_results, "_patient_sources", changed)
    out = tmp_path / "result"
    run = strokect("perfusion", patient.layout.dicom_folder, "-o", out, "--dicom-out", "--json")
    assert run.code == 1, run
    assert "the images changed meanwhile" in run.err
    assert run.err.count("\n") == 1
    found = summary(out)
    assert json.loads(run.out) == found
    (flagged,) = (q for q in found["quality"] if q["code"] == "NO_DICOM")
    assert flagged["level"] == "warning"
    assert str(patient.layout.dicom_folder) not in flagged["message"]
    assert (
        "NO_DICOM" in (out / "report.html").read_text()
        or flagged["message"] in (out / "report.html").read_text()
    )
    assert (out / "maps/cbf.nii.gz").exists()
    assert (out / "masks/core.nii.gz").exists()
    assert not (out / "dicom").exists()
