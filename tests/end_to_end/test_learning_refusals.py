"""What goes wrong in training and use, and the one line that answers."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from strokect.io.layouts import OwnLayout

from .conftest import refused, set_splits, settings_file, strokect

pytest.importorskip("torch")
pytestmark = pytest.mark.slow


@pytest.fixture
def broken(four, tmp_path) -> OwnLayout:
    """The second patient, who trains, of a data set that may be spoilt."""
    root = tmp_path / "broken"
    shutil.copytree(four, root)
    return OwnLayout(root, "0002")


@pytest.fixture
def train(prepared, tmp_path):
    """Runs `strokect train` on a data set, with changes of the settings."""

    def run(root, **changes):
        path = settings_file(tmp_path, **changes)
        return strokect("train", path, "--data", root, "-o", tmp_path / "run", "--cache", prepared)

    return run


def changed(path: Path, change, affine=lambda a: a, dtype=None) -> None:
    """Write an image anew with other values or another place."""
    loaded = nib.load(path)
    data = change(np.asarray(loaded.dataobj))
    made = nib.Nifti1Image(data.astype(dtype or data.dtype), affine(loaded.affine))
    made.header.set_xyzt_units("mm", "sec")
    nib.save(made, path)


def shifted(affine: np.ndarray) -> np.ndarray:
    out = affine.copy()
    out[:3, 3] += 20
    return out


class TestTruth:
    def test_missing_mask(self, broken, train, tmp_path):
        path = broken.truth_mask("penumbra")
        path.unlink()
        refused(train(broken.root), 2, "missing", str(path))
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("change", "affine", "word"),
        [
            (lambda d: d[:, :, 1:], lambda a: a, "shape"),
            (lambda d: d, shifted, "elsewhere"),
        ],
        ids=["shape", "place"],
    )
    def test_mask_on_another_grid(self, broken, train, change, affine, word):
        path = broken.truth_mask("core")
        changed(path, change, affine)
        refused(train(broken.root), 2, word, str(path), "Resample")

    def test_label_outside_the_classes(self, broken, train):
        path = broken.truth_mask("core")
        changed(path, lambda d: np.full_like(d, 7))
        refused(train(broken.root), 2, "label value 7", str(path), "0 and 1")

    def test_in_a_worker_process_too(self, broken, train):
        path = broken.truth_mask("core")
        changed(path, lambda d: np.full_like(d, 7))
        refused(train(broken.root, training={"workers": 1}), 2, "label value 7", str(path))


class TestScans:
    def test_cut_short(self, broken, train):
        path = broken.scan("ctp")
        path.write_bytes(path.read_bytes()[:3000])
        refused(train(broken.root), 2, path.name, "truncated")

    def test_no_scan(self, broken, train):
        broken.scan("ctp").unlink()
        refused(train(broken.root), 2, "sub-0002")

    def test_too_few_slices(self, four, train):
        config = {"n_slices": 99, "width": 2, "depth": 2}
        run = train(four, network={"config": config})
        refused(run, 2, "99", "n_slices")


class TestData:
    def test_no_such_folder(self, train, tmp_path):
        refused(train(tmp_path / "nowhere"), 2, "no such folder", "nowhere")
        refused(strokect("train", settings_file(tmp_path)), 2, "no data set", "--data")

    def test_another_layout(self, four, train):
        refused(train(four, data={"layout": "isles18", "classes": 2}), 2, "looks like", "'own'")

    def test_no_validation(self, broken, train):
        set_splits(broken.root, sub_0001="train", sub_0002="train", sub_0003="test",
                   sub_0004="test")  # fmt: skip
        refused(train(broken.root), 2, "no patients", "'val'", "random")

    def test_batch_larger_than_the_data(self, four, train):
        refused(train(four, training={"batch_size": 64}), 2, "4 samples", "batch of 64")


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"training": {"epoch": 3}}, ("'training.epoch'", "'epochs'")),
            ({"slabs": {}}, ("'slabs'", "'slab'")),
            ({"network": {"config": {"widht": 2}}}, ("widht", "'width'")),
            ({"network": {"name": "mjnet4d", "config": {}}}, ("'mjnet4d'", "'mjnet_4d'")),
            ({"loss": {"name": "dise"}}, ("'dise'", "'dice'")),
            ({"data": {"layout": "isles"}}, ("'isles'", "isles18")),
            ({"training": {"epochs": "many"}}, ("training.epochs", "many")),
            ({"network": {"config": {"n_slices": 2}}}, ("n_slices", "odd")),
            ({"name": "a/b"}, ("a/b", "letters")),
        ],
        ids=lambda v: "" if isinstance(v, tuple) else next(iter(v)),
    )
    def test_misspelt_and_unknown(self, four, tmp_path, changes, words):
        path = settings_file(tmp_path, **(changes | {"name": "tiny"}))
        if "name" in changes:
            content = json.loads(path.read_text()) | changes
            path.write_text(json.dumps(content))
        run = strokect("train", path, "--data", four, "-o", tmp_path / "run")
        refused(run, 2, path.name, *words)
        assert not (tmp_path / "run").exists()

    def test_files(self, four, tmp_path):
        refused(strokect("train", tmp_path / "none.json", "--data", four), 2, "none.json")
        (tmp_path / "bad.json").write_text('{"name": ')
        refused(strokect("train", tmp_path / "bad.json", "--data", four), 2, "bad.json:1:")

    def test_more_gpus_than_there_are(self, four, tmp_path):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")
        run = strokect("train", settings_file(tmp_path, training={"batch_size": 64}), "--data",
                       four, "-o", tmp_path / "run", "--devices", 64)  # fmt: skip
        refused(run, 2, "64 devices")


class TestPredict:
    @pytest.fixture
    def predict(self, trained, tmp_path):
        def run(source, *options, model=trained.folder):
            done = strokect("predict", model, source, "-o", tmp_path / "out" / "p", *options)
            if done.code:
                assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
            return done

        return run

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda d: d[..., 0], ("3D", "4D")),
            (lambda d: d[:, :, :2], ("2 slices", "n_slices")),
            (lambda d: np.repeat(d[..., :1], d.shape[-1], axis=-1), ("contrast",)),
            (lambda d: np.full_like(d, -1000), ("every voxel is -1000",)),
        ],
        ids=["3D", "two slices", "no bolus", "air"],
    )
    def test_scans(self, patient, predict, tmp_path, change, words):
        path = tmp_path / "scan.nii.gz"
        shutil.copy(patient.scan, path)
        changed(path, change)
        refused(predict(path, "--interval", 2), 2, *words)

    def test_no_scan(self, predict, tmp_path):
        refused(predict(tmp_path / "nowhere"), 2, "no such file or folder", "nowhere")

    def test_no_model(self, patient, predict, tmp_path):
        refused(predict(patient.scan, model="small_5d"), 2, "no such model", "small_5d")
        refused(predict(patient.scan, model=patient.layout.root), 2, "no settings.json")
        refused(predict(patient.scan, model=patient.scan), 2, "a file")

    def test_weights_of_another_model(self, patient, predict, trained, tmp_path):
        model = tmp_path / "model"
        shutil.copytree(trained.folder / "model", model)
        for changes, words in (
            ({"name": "mjnet_3dt", "config": {"width": 3, "depth": 2}}, "another size"),
            ({"name": "tcn", "config": {}}, "another network"),
        ):
            content = json.loads((model / "settings.json").read_text())
            content["settings"]["network"] = changes
            (model / "settings.json").write_text(json.dumps(content))
            refused(predict(patient.scan, model=model), 2, words)

    def test_options(self, patient, predict):
        refused(predict(patient.scan, "--uncertainty", "guess"), 2, "'guess'", "flip, dropout")
        refused(predict(patient.scan, "--interval", 2, "--times", "t.txt"), 2, "not both")


class TestExperiment:
    def run(self, out, data, *paths):
        return strokect("experiment", *paths, "--data", data, "-o", out)

    def test_settings_that_cannot_be_compared(self, four, tmp_path):
        (tmp_path / "b").mkdir()
        one, same = settings_file(tmp_path), settings_file(tmp_path / "b")
        refused(self.run(tmp_path / "out", four, one, same), 2, "two settings are called 'tiny'")
        other = settings_file(tmp_path, name="other", data={"classes": 2})
        refused(self.run(tmp_path / "out", four, one, other), 2, "tiny and other", "data settings")
        rules = settings_file(tmp_path, name="rules")
        refused(self.run(tmp_path / "out", four, rules), 2, "'rules'")
        assert not (tmp_path / "out").exists()

    def test_no_settings(self, four, tmp_path):
        (tmp_path / "empty").mkdir()
        refused(self.run(tmp_path / "out", four, tmp_path / "empty"), 2, "no settings files")

    def test_no_patients_to_test(self, broken, tmp_path):
        set_splits(broken.root, sub_0001="train", sub_0002="train", sub_0003="val", sub_0004="val")
        run = self.run(tmp_path / "out", broken.root, settings_file(tmp_path))
        refused(run, 2, "no patients", "'test'")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("table", ["networks", "losses", "layouts", "models"])
def test_lists(table):
    plain, as_json = strokect("list", table), strokect("list", table, "--json")
    assert plain.code == as_json.code == 0
    rows = json.loads(as_json.out)
    assert len(plain.out.splitlines()) == len(rows)
    for row, line in zip(rows, plain.out.splitlines(), strict=True):
        assert line.startswith(row["name"])
        assert row["summary"] in line
    refused(strokect("list", table[:-1]), 2, table)
