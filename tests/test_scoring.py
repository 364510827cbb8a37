"""Folders of predictions against a data set, from disk to disk."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import strokect
from strokect import scoring
from strokect.core.errors import GeometryError, OutputExistsError, ScanError, SettingsError
from strokect.core.types import Grid
from strokect.evaluate.lesions import LesionOptions
from strokect.evaluate.tables import ScoreOptions
from strokect.io import nifti
from strokect.io.layouts import OwnLayout

GRID = Grid((4, 12, 12), np.diag([5.0, 5.0, 10.0, 1.0]))  # 0.25 ml a voxel
FAST = ScoreOptions(n_resamples=40)
#: label -> group, split; in WIS patients nothing is there.
PEOPLE = {
    "0001": ("LVO", "test"), "0002": ("LVO", "test"), "0003": ("non-LVO", "test"),
    "0004": ("WIS", "test"), "0005": ("WIS", "test"), "0006": ("LVO", "train"),
}  # fmt: skip


def box(y, x=slice(2, 10)):
    mask = np.zeros(GRID.shape, bool)
    mask[1:3, y, x] = True
    return mask


NOTHING = np.zeros(GRID.shape, bool)
CORE, PENUMBRA = box(slice(2, 4)), box(slice(4, 9))


def write(folder, name, core, penumbra, grid=GRID):
    nifti.write_volume(folder / name / "masks" / "core.nii.gz", core, grid)
    nifti.write_volume(folder / name / "masks" / "penumbra.nii.gz", penumbra, grid)


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    lines = ["participant_id\tgroup\tsplit"]
    for label, (group, split) in PEOPLE.items():
        layout, there = OwnLayout(root, label), group != "WIS"
        layout.scan("ctp").parent.mkdir(parents=True)
        layout.scan("ctp").touch()  # scans are named, never opened
        nifti.write_volume(layout.truth_mask("core"), CORE if there else NOTHING, GRID)
        nifti.write_volume(layout.truth_mask("penumbra"), PENUMBRA if there else NOTHING, GRID)
        lines.append(f"sub-{label}\t{group}\t{split}")
    (root / "participants.tsv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def pred(tmp_path):
    """Patient 1 perfect, 2 half a core, 3 without one, 4 nothing found, 5 a false penumbra."""
    root = tmp_path / "pred"
    write(root, "sub-0001_ses-01", CORE, PENUMBRA)
    write(root, "sub-0002_ses-01", box(slice(2, 3)), PENUMBRA)
    write(root, "sub-0003_ses-01", NOTHING, box(slice(2, 9)))
    write(root, "sub-0004_ses-01", NOTHING, NOTHING)
    write(root, "sub-0005_ses-01", NOTHING, box(slice(0, 1)))
    return root


def rows(folder):
    with (folder / "patients.tsv").open() as file:
        return {(r["patient"], r["class"]): r for r in csv.DictReader(file, delimiter="\t")}


class TestEvaluate:
    def test_a_known_data_set(self, data, pred, tmp_path):
        seen = []
        summary = scoring.evaluate(
            pred, data, tmp_path / "out", split="test", progress=lambda *x: seen.append(x),
            options=FAST,
        )  # fmt: skip
        assert summary["schema"] == "strokect.evaluation/1"
        assert (summary["studies"], summary["patients"], summary["split"]) == (5, 5, "test")
        assert list(summary["groups"]) == ["all", "LVO", "non-LVO", "WIS"]
        core = summary["groups"]["all"]["classes"]["core"]
        assert core["dice"]["value"] == pytest.approx((1 + 2 / 3 + 0) / 3, abs=1e-4)
        assert core["dice_all"]["value"] == pytest.approx((1 + 2 / 3 + 0 + 1 + 1) / 5, abs=1e-4)
        assert (core["correct_negatives"], core["missed"]) == (2, 1)
        false = summary["groups"]["WIS"]["classes"]["penumbra"]["false_volume_ml"]
        assert (false["max"], false["above_limit"], false["n"]) == (4.0, 1, 2)
        assert seen[0] == (0, 5) and seen[-1] == (5, 5)
        assert json.loads((tmp_path / "out/summary.json").read_text()) == summary

    def test_patients(self, data, pred, tmp_path):
        scoring.evaluate(pred, data, tmp_path / "out", split="test", options=FAST)
        found = rows(tmp_path / "out")
        assert len(found) == 5 * 3
        row = found["sub-0002", "core"]
        assert (row["study"], row["group"], row["split"]) == ("sub-0002_ses-01", "LVO", "test")
        assert float(row["dice"]) == pytest.approx(2 / 3, abs=1e-5)
        assert (float(row["found_ml"]), float(row["true_ml"])) == (4.0, 8.0)
        # Penumbra and core together are found whole in patient 3, though its core is missed.
        assert float(found["sub-0003", "hypoperfusion"]["dice"]) == 1.0
        assert (row["true_lesions"], row["detected_lesions"]) == ("1", "1")
        assert found["sub-0004", "core"]["correct_negative"] == "yes"

    def test_table_for_people(self, data, pred, tmp_path):
        scoring.evaluate(pred, data, tmp_path / "out", split="test", options=FAST)
        text = (tmp_path / "out/table.md").read_text()
        assert strokect.RESEARCH_USE_ONLY in text
        assert "| LVO | core | 2 | 2 | 0.83" in text
        assert "dice_pooled" in text and "split test" in text

    def test_same_input_same_bytes(self, data, pred, tmp_path):
        for name in "ab":
            scoring.evaluate(pred, data, tmp_path / name, split="test", options=FAST)
        for file in (tmp_path / "a").iterdir():
            assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()

    def test_layouts_of_other_commands(self, data, pred, tmp_path):
        plain = scoring.evaluate(pred, data, tmp_path / "a", split="test", options=FAST)
        nested = tmp_path / "nested"
        shutil.copytree(pred, nested / "studies")
        assert scoring.evaluate(nested, data, tmp_path / "b", split="test", options=FAST) == plain
        (nested / "studies").rename(nested / "predictions")
        assert scoring.evaluate(nested, data, tmp_path / "d", split="test", options=FAST) == plain
        (pred / ".cohort").mkdir()  # as `strokect cohort` leaves it
        (pred / "summary.json").write_text("{}")
        assert scoring.evaluate(pred, data, tmp_path / "c", split="test", options=FAST) == plain

    def test_no_groups_without_participants(self, data, pred, tmp_path):
        (data / "participants.tsv").unlink()
        write(pred, "sub-0006_ses-01", CORE, PENUMBRA)
        found = scoring.evaluate(pred, data, tmp_path / "out", options=FAST)
        assert list(found["groups"]) == ["all"] and found["studies"] == 6

    def test_a_class_that_nobody_predicts_is_named(self, data, pred, tmp_path):
        for path in pred.rglob("penumbra.nii.gz"):
            path.unlink()
        found = scoring.evaluate(pred, data, tmp_path / "out", split="test", options=FAST)
        assert found["classes"] == ["core"]
        assert found["not_evaluated"] == {
            "penumbra": "no prediction has it", "hypoperfusion": "needs penumbra",
        }  # fmt: skip

    def test_chosen_studies_and_classes(self, data, pred, tmp_path):
        names = ["sub-0001_ses-01", "sub-0004_ses-01"]
        found = scoring.evaluate(
            pred, data, tmp_path / "out", only=names, classes=2, options=FAST
        )  # fmt: skip
        assert (found["studies"], found["classes"]) == (2, ["core"])
        assert found["not_evaluated"]["penumbra"] == "not one of the 2 classes"
        with pytest.raises(ScanError, match="no truth for the case 'sub-7'"):
            scoring.evaluate(pred, data, tmp_path / "o", only=["sub-7"])

    def test_a_data_set_of_another_layout(self, tmp_path):
        """ISLES'18: the core alone has a truth."""
        root, pred = tmp_path / "isles", tmp_path / "pred"
        for name, core in (("case_1", CORE), ("case_2", PENUMBRA)):
            path = root / "TRAINING" / name / "SMIR.Brain.XX.O.OT.1" / "SMIR.Brain.XX.O.OT.1.nii"
            path.parent.mkdir(parents=True)
            nifti.write_volume(path, core, GRID)
            write(pred, name, CORE, PENUMBRA)
        found = scoring.evaluate(pred, root, tmp_path / "out", options=FAST)
        assert found["not_evaluated"]["penumbra"] == "no truth has it"
        dice = {k: float(r["dice"]) for k, r in rows(tmp_path / "out").items()}
        assert dice == {("case_1", "core"): 1.0, ("case_2", "core"): 0.0}
        other = Grid(GRID.shape, GRID.affine + np.eye(4, k=3))
        write(pred, "case_2", CORE, PENUMBRA, other)
        with pytest.raises(GeometryError, match=r"SMIR\.Brain"):
            scoring.evaluate(pred, root, tmp_path / "out2")


class TestRefused:
    def refused(self, error, match, *args, **kwargs):
        with pytest.raises(error, match=match) as raised:
            scoring.evaluate(*args, **kwargs)
        assert "\n" not in str(raised.value)
        assert not args[2].exists()

    def test_a_missing_prediction(self, data, pred, tmp_path):
        shutil.rmtree(pred / "sub-0003_ses-01")
        out = tmp_path / "out"
        self.refused(ScanError, "no prediction for sub-0003_ses-01", pred, data, out, split="test")

    def test_without_the_split_others_are_missing(self, data, pred, tmp_path):
        self.refused(ScanError, "sub-0006_ses-01.*--split", pred, data, tmp_path / "out")

    def test_a_prediction_without_truth(self, data, pred, tmp_path):
        write(pred, "sub-0099_ses-01", CORE, PENUMBRA)
        self.refused(
            ScanError, "without a truth: sub-0099", pred, data, tmp_path / "o", split="test"
        )

    def test_predictions_of_another_split_are_no_error(self, data, pred, tmp_path):
        write(pred, "sub-0006_ses-01", CORE, PENUMBRA)
        found = scoring.evaluate(pred, data, tmp_path / "out", split="test", options=FAST)
        assert found["studies"] == 5

    @pytest.mark.parametrize("whose", ["pred", "truth"])
    def test_a_missing_mask(self, data, pred, tmp_path, whose):
        path = (
            pred / "sub-0002_ses-01/masks/core.nii.gz" if whose == "pred"
            else OwnLayout(data, "0002").truth_mask("core")
        )  # fmt: skip
        path.unlink()
        self.refused(ScanError, path.name, pred, data, tmp_path / "out", split="test")

    @pytest.mark.parametrize("grid", [
        Grid((4, 12, 12), np.diag([5.0, 5.0, 5.0, 1.0])),
        Grid((4, 12, 12), GRID.affine + np.eye(4, k=3) * 3),
        Grid((4, 12, 10), GRID.affine),
    ], ids=["spacing", "place", "shape"])  # fmt: skip
    def test_another_grid(self, data, pred, tmp_path, grid):
        mask = np.zeros(grid.shape, bool)
        write(pred, "sub-0002_ses-01", mask, mask, grid)
        match = "sub-0002_ses-01/masks/"
        self.refused(GeometryError, match, pred, data, tmp_path / "out", split="test")

    def test_a_split_that_is_not_there(self, data, pred, tmp_path):
        match = "'tset'.*test, train"
        self.refused(SettingsError, match, pred, data, tmp_path / "out", split="tset")

    def test_a_patient_that_participants_lacks(self, data, pred, tmp_path):
        path = data / "participants.tsv"
        path.write_text("\n".join(path.read_text().splitlines()[:4]) + "\n")
        match = "no split is given for sub-0004_ses-01"
        self.refused(ScanError, match, pred, data, tmp_path / "out", split="test")

    def test_places_that_hold_nothing(self, data, pred, tmp_path):
        out = tmp_path / "out"
        self.refused(ScanError, "no such", tmp_path / "nowhere", data, out)
        self.refused(ScanError, "no predictions", data, data, out)
        self.refused(ScanError, "no data set", pred, tmp_path / "pred" / "sub-0001_ses-01", out)
        shutil.rmtree(data / "derivatives")
        self.refused(ScanError, "no truth", pred, data, out)

    def test_output_that_is_there(self, data, pred, tmp_path):
        out = tmp_path / "out"
        scoring.evaluate(pred, data, out, split="test", options=FAST)
        with pytest.raises(OutputExistsError, match="--overwrite"):
            scoring.evaluate(pred, data, out, split="test", options=FAST)
        scoring.evaluate(pred, data, out, overwrite=True, split="test", options=FAST)

    def test_output_never_replaces_what_is_read(self, data, pred, tmp_path):
        for folder in (pred, tmp_path):
            (folder / "summary.json").write_text("{}")
            with pytest.raises(OutputExistsError, match="what is read"):
                scoring.evaluate(pred, data, folder, overwrite=True, split="test")
        assert (pred / "sub-0001_ses-01/masks/core.nii.gz").exists()
        scoring.evaluate(pred, data, pred / "evaluation", split="test", options=FAST)

    def test_nothing_is_left_behind(self, data, pred, tmp_path, monkeypatch):
        def fail(*args):
            raise RuntimeError

        monkeypatch.setattr(scoring, "write_json", fail)
        with pytest.raises(RuntimeError):
            scoring.evaluate(pred, data, tmp_path / "out", split="test", options=FAST)
        assert {p.name for p in tmp_path.iterdir()} == {"data", "pred"}


class TestSingle:
    def save(self, path, data, grid=GRID):
        nifti.write_volume(path, np.asarray(data, np.float32), grid)
        return path

    def test_two_masks(self, tmp_path):
        a = self.save(tmp_path / "a.nii.gz", box(slice(2, 3)) * 255)
        b = self.save(tmp_path / "b.nii.gz", CORE)
        found = scoring.evaluate(a, b, tmp_path / "out", options=FAST)
        assert found["classes"] == ["mask"]
        assert found["groups"]["all"]["classes"]["mask"]["dice"]["value"] == pytest.approx(
            2 / 3, abs=1e-4
        )
        assert list(rows(tmp_path / "out")) == [("case-1", "mask")]  # file names may name a patient

    @pytest.mark.parametrize(
        ("classes", "core", "penumbra"), [(4, 3, 2), (None, 3, 2), (3, 2, 1), (2, 1, 0)]
    )
    def test_labels(self, tmp_path, classes, core, penumbra):
        brain = 1 if penumbra == 2 else 0
        labels = np.where(CORE, core, np.where(PENUMBRA, penumbra, brain))
        half = np.where(box(slice(2, 3)), core, np.where(PENUMBRA, penumbra, brain))
        a, b = self.save(tmp_path / "a.nii.gz", half), self.save(tmp_path / "b.nii.gz", labels)
        scoring.evaluate(a, b, tmp_path / "out", classes=classes, options=FAST)
        found = {k[1]: float(r["dice"]) for k, r in rows(tmp_path / "out").items()}
        assert found["core"] == pytest.approx(2 / 3, abs=1e-5)
        assert set(found) == ({"core", "penumbra", "hypoperfusion"} if penumbra else {"core"})
        assert found.get("penumbra", 1.0) == 1.0

    def test_labels_that_do_not_tell(self, tmp_path):
        a = self.save(tmp_path / "a.nii.gz", PENUMBRA * 2)
        with pytest.raises(SettingsError, match="--classes"):
            scoring.evaluate(a, a, tmp_path / "out")
        with pytest.raises(ScanError, match=r"label value 2 outside the 2 classes.*a\.nii\.gz"):
            scoring.evaluate(a, a, tmp_path / "out", classes=2)
        with pytest.raises(SettingsError, match="Choose 2, 3 or 4"):
            scoring.evaluate(a, a, tmp_path / "out", classes=5)

    def test_a_study_folder_against_labels(self, pred, tmp_path):
        labels = self.save(tmp_path / "b.nii.gz", CORE * 3 + PENUMBRA * 2)
        folder = pred / "sub-0002_ses-01"
        found = scoring.evaluate(folder, labels, tmp_path / "out", options=FAST)
        assert found["groups"]["all"]["classes"]["core"]["dice"]["value"] == pytest.approx(
            2 / 3, abs=1e-4
        )
        with pytest.raises(ScanError, match="no masks/"):
            scoring.evaluate(pred, labels, tmp_path / "out2")
        mask = self.save(tmp_path / "c.nii.gz", CORE)
        with pytest.raises(SettingsError, match="which class"):
            scoring.evaluate(folder, mask, tmp_path / "out2")

    def test_a_study_folder_against_its_data_set(self, data, pred, tmp_path):
        found = scoring.evaluate(pred / "sub-0002_ses-01", data, tmp_path / "out", options=FAST)
        assert found["studies"] == 1 and "LVO" in found["groups"]
        with pytest.raises(ScanError, match="not among those chosen"):
            scoring.evaluate(pred / "sub-0002_ses-01", data, tmp_path / "out2", split="train")

    def test_mismatched(self, data, pred, tmp_path):
        a = self.save(tmp_path / "a.nii.gz", CORE)
        with pytest.raises(ScanError, match="whole data set"):
            scoring.evaluate(a, data, tmp_path / "out")
        with pytest.raises(SettingsError, match="no split"):
            scoring.evaluate(a, a, tmp_path / "out", split="test")
        other = Grid(GRID.shape, GRID.affine + np.eye(4, k=3))
        b = self.save(tmp_path / "b.nii.gz", CORE, other)
        with pytest.raises(GeometryError, match=r"b\.nii\.gz"):
            scoring.evaluate(b, a, tmp_path / "out")


class TestCompare:
    @pytest.fixture
    def runs(self, data, pred, tmp_path):
        """The predictions above, and a better model that also has patient 6."""
        better = tmp_path / "better"
        for label, (group, _) in PEOPLE.items():
            there = group != "WIS"
            core, penumbra = (CORE, PENUMBRA) if there else (NOTHING, NOTHING)
            write(better, f"sub-{label}_ses-01", core, penumbra)
        scoring.evaluate(pred, data, tmp_path / "first", split="test", options=FAST)
        scoring.evaluate(better, data, better / "evaluation", options=FAST)
        return [tmp_path / "first", better]

    def test_files_and_sign(self, runs, tmp_path):
        content = scoring.compare(runs, tmp_path / "out", options=FAST)
        assert list(content["models"]) == ["first", "better"]
        assert (content["reference"], content["studies"]) == ("first", 5)
        assert content["left_out"] == {"first": 0, "better": 1}
        core = next(t for t in content["tests"] if t["class"] == "core")
        assert (core["model"], core["better"], core["worse"]) == ("better", 2, 0)
        assert core["difference"]["value"] == pytest.approx((0 + 1 / 3 + 1) / 3, abs=1e-3)
        assert {p.name for p in (tmp_path / "out").iterdir()} == {
            "comparison.json", "summary.json", "table.md", "table.tsv", "figure.png", "index.html",
        }  # fmt: skip
        assert json.loads((tmp_path / "out/comparison.json").read_text()) == content
        for name in ("table.md", "index.html", "comparison.json", "summary.json"):
            assert strokect.RESEARCH_USE_ONLY in (tmp_path / "out" / name).read_text()

    def test_figures_are_those_of_evaluate(self, runs, tmp_path):
        content = scoring.compare(runs, tmp_path / "out", options=FAST)
        alone = json.loads((runs[0] / "summary.json").read_text())
        assert content["models"]["first"] == alone["groups"]

    def test_table_for_programs(self, runs, tmp_path):
        scoring.compare(runs, tmp_path / "out", options=FAST)
        with (tmp_path / "out/table.tsv").open() as file:
            first, second = csv.DictReader(file, delimiter="\t")
        assert (first["model"], second["model"]) == ("first", "better")
        assert float(first["dice_core_LVO"]) == pytest.approx((1 + 2 / 3) / 2, abs=1e-4)
        assert first["dice_core_all_n"] == "3"
        assert float(first["false_volume_ml_penumbra_WIS"]) == 2.0
        assert float(second["false_volume_ml_penumbra_WIS"]) == 0.0
        assert "dice_core_WIS" not in first

    def test_same_input_same_bytes(self, runs, tmp_path):
        for name in "ab":
            scoring.compare(runs, tmp_path / name, options=FAST)
        for file in (tmp_path / "a").iterdir():
            assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()

    def test_names(self, runs, tmp_path):
        copy = tmp_path / "elsewhere" / "first"
        shutil.copytree(runs[0], copy)
        again = [Path(f"rule based={runs[0]}"), runs[0], copy]
        content = scoring.compare(again, tmp_path / "out", options=FAST)
        assert list(content["models"]) == ["rule based", "first", "first-2"]

    def test_refused(self, runs, data, tmp_path):
        out = tmp_path / "out"
        with pytest.raises(SettingsError, match="nothing to compare"):
            scoring.compare([], out)
        with pytest.raises(ScanError, match=r"no evaluation.*strokect evaluate"):
            scoring.compare([runs[0], data], out)
        with pytest.raises(OutputExistsError, match="what is read"):
            scoring.compare(runs, runs[0], overwrite=True)
        assert not out.exists()

    def test_nothing_in_common(self, runs, data, tmp_path):
        scoring.evaluate(runs[1], data, tmp_path / "train", split="train", options=FAST)
        with pytest.raises(ScanError, match="no study is common to first, train"):
            scoring.compare([runs[0], tmp_path / "train"], tmp_path / "out", options=FAST)

    def test_other_lesion_settings(self, runs, data, tmp_path):
        options = ScoreOptions(LesionOptions(connectivity=6), n_resamples=40)
        scoring.evaluate(runs[1], data, tmp_path / "other", options=options)
        with pytest.raises(SettingsError, match=r"other and first .*different lesion"):
            scoring.compare([runs[0], tmp_path / "other"], tmp_path / "out", options=FAST)

    def test_broken_table(self, runs, tmp_path):
        path = runs[0] / "patients.tsv"
        path.write_text(path.read_text().replace("0.66667", "good"))
        with pytest.raises(ScanError, match="cannot be used"):
            scoring.compare(runs, tmp_path / "out", options=FAST)

    def test_overwrite(self, runs, tmp_path):
        scoring.compare(runs, tmp_path / "out", options=FAST)
        with pytest.raises(OutputExistsError):
            scoring.compare(runs, tmp_path / "out", options=FAST)
        scoring.compare(runs, tmp_path / "out", overwrite=True, options=FAST)
