"""Train, break off, go on, predict, compare; through the command line."""

import csv
import json
import os
import shutil
import signal
import subprocess
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from strokect import RESEARCH_USE_ONLY, VIRTUAL_ONLY
from strokect.io.datasets import OwnDataset, SliceFolderOptions, write_slices

from .conftest import COMMAND, TINY, image, learn, refused, settings_file, strokect, summary

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

MODEL_FILES = {"weights.safetensors", "settings.json", "card.md", "summary.json"}


def weights(out: Path) -> bytes:
    return (out / "model" / "weights.safetensors").read_bytes()


def figures(out: Path) -> list[dict[str, str]]:
    """Rows of the log but for what depends on the clock."""
    with (out / "logs" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def leftovers(out: Path) -> list[str]:
    return [p.name for p in out.rglob(".*")]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return settings_file(
        tmp_path_factory.mktemp("long"), name="long", training={"epochs": 30, "patience": None},
        slab={"per_case": 8},
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(path, four, prepared, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert learn("train", path, "--data", four, "-o", out, "--cache", prepared).code == 0
    return out


@pytest.fixture(scope="module")
def two(four, prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    run = learn("train", settings_file(folder), "--data", four, "-o", folder / "run",
                   "--cache", prepared, "--devices", 2)  # fmt: skip
    return folder / "run", run


@pytest.fixture(scope="module")
def predicted(trained, patient, tmp_path_factory):
    out = tmp_path_factory.mktemp("predicted") / "nifti"
    return out, strokect("predict", trained.folder, patient.scan, "-o", out)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("settings")
    other = {"name": "mjnet_2dt", "config": {"width": 2, "depth": 2}}
    return [settings_file(folder), settings_file(folder, name="flat", network=other)]


@pytest.fixture(scope="module")
def done(files, four, prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("experiment") / "out"
    shutil.copytree(prepared, out / "cache", dirs_exist_ok=True)
    return out, learn("experiment", *files, "--data", four, "-o", out)


class TestTrain:
    def test_a_line_per_epoch_in_a_pipe_and_nothing_else(self, trained):
        lines = trained.run.out.splitlines()
        assert [line.split("  ")[0] for line in lines[:3]] == [
            f"tiny: epoch {k}/3" for k in (1, 2, 3)
        ]
        assert all("train loss " in line and "val dice " in line for line in lines[:3])
        assert lines[3:] == [f"model: {trained.folder / 'model'}", RESEARCH_USE_ONLY]
        assert trained.run.err == ""

    def test_what_is_written(self, trained):
        out = trained.folder
        assert {p.name for p in out.iterdir()} == {
            "settings.json", "split.tsv", "checkpoints", "logs", "model",
        }  # fmt: skip
        assert {p.name for p in (out / "model").iterdir()} == MODEL_FILES
        assert {p.name for p in (out / "checkpoints").iterdir()} == {
            "best.safetensors", "last.safetensors",
        }  # fmt: skip
        assert [row["epoch"] for row in figures(out)] == ["1", "2", "3"]
        assert list((out / "logs").rglob("events.out.tfevents.*"))
        assert leftovers(out) == []

    def test_split_is_that_of_the_data_set(self, trained):
        with (trained.folder / "split.tsv").open(newline="") as file:
            parts = {r["patient"]: r["part"] for r in csv.DictReader(file, delimiter="\t")}
        assert parts == {
            "sub-0001": "train", "sub-0002": "train", "sub-0003": "val", "sub-0004": "test",
        }  # fmt: skip

    def test_the_model_names_no_patient_and_no_path(self, trained, four):
        for path in (trained.folder / "model").iterdir():
            content = path.read_bytes()
            for word in ("sub-000", str(four), "learning", "/tmp"):
                assert word.encode() not in content, (path.name, word)

    def test_card(self, trained):
        card = (trained.folder / "model" / "card.md").read_text()
        assert VIRTUAL_ONLY in card
        assert RESEARCH_USE_ONLY in card
        assert "2 virtual patients" in card

    def test_settings_are_kept_to_the_last_digit(self, trained):
        for path in (trained.folder / "settings.json", trained.folder / "model/settings.json"):
            content = json.loads(path.read_text())
            assert content.get("settings", content)["loss"]["options"]["gamma"] == 4 / 3

    def test_a_finished_training_is_not_done_again(self, trained, four, prepared, tmp_path):
        command = ("train", settings_file(tmp_path), "--data", four, "-o", trained.folder,
                   "--cache", prepared)  # fmt: skip
        before = (trained.folder / "model/weights.safetensors").stat().st_mtime_ns
        refused(learn(*command), 2, "finished", str(trained.folder / "model"))
        again = learn(*command, "--resume")
        assert again.code == 0
        assert again.out.splitlines()[0] == "tiny: was trained already"
        assert (trained.folder / "model/weights.safetensors").stat().st_mtime_ns == before

    def test_the_seed_decides(self, trained, four, prepared, tmp_path):
        for seed, same in ((0, True), (1, False)):
            path = settings_file(tmp_path, name=f"s{seed}", training={"seed": seed})
            out = tmp_path / f"s{seed}"
            learn("train", path, "--data", four, "-o", out, "--cache", prepared)
            assert (weights(out) == weights(trained.folder)) is same

    def test_worker_processes_draw_the_same_samples(self, trained, four, prepared, tmp_path):
        path = settings_file(tmp_path, training={"workers": 1})
        run = learn("train", path, "--data", four, "-o", tmp_path / "w", "--cache", prepared)
        assert run.code == 0, run
        assert run.err == ""
        assert weights(tmp_path / "w") == weights(trained.folder)

    def test_other_settings_or_patients_are_not_mixed(self, trained, four, prepared, tmp_path):
        changed = settings_file(tmp_path, optimizer={"lr": 0.02}, training={"epochs": 4})
        run = learn("train", changed, "--data", four, "-o", trained.folder, "--resume")
        refused(run, 2, "other settings (optimizer.lr, training.epochs)")
        fewer = tmp_path / "fewer"
        shutil.copytree(four, fewer, ignore=shutil.ignore_patterns("sub-0004*"))
        run = learn("train", settings_file(tmp_path), "--data", fewer, "-o", trained.folder,
                       "--resume")  # fmt: skip
        refused(run, 2, "other patients")


class TestBrokenOff:
    """Processes of their own, stopped while they train."""

    def start(self, path: Path, four: Path, out: Path, prepared: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [*COMMAND, "train", path, "--data", four, "-o", out, "--cache", prepared],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def test_kill_9_and_resume_give_the_same_weights(self, path, four, prepared, whole, tmp_path):
        out = tmp_path / "run"
        running = self.start(path, four, out, prepared)
        for _ in range(3):
            assert running.stdout.readline().startswith("long: epoch")
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        assert not (out / "model").exists()
        refused(learn("train", path, "--data", four, "-o", out), 2, "--resume")
        refused(strokect("predict", out, four / "sub-0004", "-o", tmp_path / "p"), 2, "--resume")
        moved = out.rename(tmp_path / "moved")
        run = learn("train", path, "--data", four, "-o", moved, "--cache", prepared, "--resume")
        assert run.code == 0, run
        assert 0 < run.out.count("long: epoch") < 29
        assert weights(moved) == weights(whole)
        assert figures(moved) == figures(whole)
        assert leftovers(moved) == []

    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"]
    )
    def test_signals_say_how_to_go_on(self, path, four, prepared, whole, tmp_path, number, code):
        out = tmp_path / "run"
        running = self.start(path, four, out, prepared)
        running.stdout.readline()
        running.stdout.readline()
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
        assert running.returncode == code
        assert err.count("\n") == 1, err
        assert "--resume" in err
        assert leftovers(out) == []
        assert not (out / "model").exists()
        run = learn("train", path, "--data", four, "-o", out, "--cache", prepared, "--resume")
        assert run.code == 0, run
        assert weights(out) == weights(whole)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about processes without GPUs")
class TestDevices:
    """Two processes on the CPU do what one does."""

    def test_the_same_losses(self, two, trained):
        out, run = two
        assert run.code == 0, run
        for found, expected in zip(figures(out), figures(trained.folder), strict=True):
            for key, value in expected.items():
                assert float(found[key]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), key

    def test_the_same_weights_within_rounding(self, two, trained):
        from safetensors.numpy import load_file

        one, other = (
            load_file(out / "model/weights.safetensors") for out in (trained.folder, two[0])
        )
        for name, array in one.items():
            np.testing.assert_allclose(other[name], array, rtol=1e-3, atol=1e-4)

    def test_one_of_them_speaks(self, two):
        out, run = two
        assert [line.split("  ")[0] for line in run.out.splitlines()[:3]] == [
            f"tiny: epoch {k}/3" for k in (1, 2, 3)
        ]
        assert len(run.out.splitlines()) == 5
        assert run.err == ""
        assert leftovers(out) == []
        assert "LOCAL_RANK" not in os.environ

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"training": {"batch_size": 1}}, ("batch of 1", "2 devices", "multiple of 2")),
            ({"network": {"config": {"norm": "batch"}}}, ("batch normalisation", "group")),
        ],
        ids=["batch_size", "norm"],
    )
    def test_what_two_cannot_do(self, four, prepared, tmp_path, changes, words):
        path = settings_file(tmp_path, **changes)
        run = learn("train", path, "--data", four, "-o", tmp_path / "run",
                       "--cache", prepared, "--devices", 2)  # fmt: skip
        refused(run, 2, *words)

    @pytest.mark.parametrize("label", ["0001", "0002"])
    def test_what_one_of_them_finds_wrong_is_said_once(self, four, prepared, tmp_path, label):
        """Each process sees one of the two patients first."""
        broken = tmp_path / "broken"
        shutil.copytree(four, broken)
        mask = next(broken.rglob(f"sub-{label}_ses-01_core_mask.nii.gz"))
        loaded = nib.load(mask)
        nib.save(nib.Nifti1Image(np.full(loaded.shape, 7, np.uint8), loaded.affine), mask)
        path = settings_file(tmp_path, slab={"per_case": 1})
        run = learn("train", path, "--data", broken, "-o", tmp_path / "run",
                       "--cache", prepared, "--devices", 2)  # fmt: skip
        refused(run, 2, "label value 7", mask.name)


class TestPredict:
    def test_on_the_scans_own_grid(self, predicted, patient):
        out, _ = predicted
        scan = nib.load(patient.scan)
        images = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.nii.gz"))
        assert images == [
            "labels.nii.gz",
            *(f"masks/{n}.nii.gz" for n in ("brain", "core", "hypoperfusion", "penumbra")),
            *(f"probabilities/{n}.nii.gz" for n in ("core", "hypoperfusion", "penumbra")),
            *(f"uncertainty/{n}.nii.gz" for n in ("core", "penumbra")),
        ]
        for name in images:
            loaded = nib.load(out / name)
            assert loaded.shape == scan.shape[:3]
            np.testing.assert_allclose(loaded.affine, scan.affine, atol=1e-4)

    def test_labels_masks_and_probabilities_agree(self, predicted):
        out, _ = predicted
        labels = image(out / "labels.nii.gz")
        masks = {p.name[:-7]: image(p) != 0 for p in (out / "masks").iterdir()}
        chances = {p.name[:-7]: image(p) for p in (out / "probabilities").iterdir()}
        assert (masks["penumbra"] | masks["core"]).any(), "an untrained network finds something"
        np.testing.assert_array_equal(labels == 3, masks["core"])
        np.testing.assert_array_equal(labels == 2, masks["penumbra"])
        np.testing.assert_array_equal(labels >= 1, masks["brain"])
        np.testing.assert_array_equal(masks["hypoperfusion"], masks["core"] | masks["penumbra"])
        for chance in chances.values():
            assert chance.min() >= 0
            assert chance.max() <= 1
            assert not chance[~masks["brain"]].any()
        both = chances["core"] + chances["penumbra"]
        np.testing.assert_allclose(chances["hypoperfusion"], both, atol=1e-4)
        rest = 1 - both
        found = np.stack([rest, chances["penumbra"], chances["core"]])
        top = np.sort(found, axis=0)
        clear = masks["brain"] & (top[-1] - top[-2] > 1e-3)
        expected = np.array([1, 2, 3])[found.argmax(axis=0)]
        np.testing.assert_array_equal(labels[clear], expected[clear])

    def test_summary(self, predicted, trained, patient):
        found = summary(predicted[0])
        voxel_ml = abs(np.linalg.det(nib.load(patient.scan).affine[:3, :3])) / 1000
        for name, volume in found["volumes_ml"].items():
            n = np.count_nonzero(image(predicted[0] / "masks" / f"{name}.nii.gz"))
            assert volume == pytest.approx(n * voxel_ml, rel=1e-4)
        assert found["model"]["name"] == "tiny"
        assert found["model"]["virtual_only"] is True
        assert found["model"]["uncertainty"]["method"] == "flip"
        assert found["model"]["uncertainty"]["draws"] > 1
        for name, (low, high) in found["volume_range_ml"].items():
            assert low <= found["volumes_ml"][name] <= high
        text = json.dumps(found)
        assert str(patient.scan.parent) not in text
        assert "sub-0" not in text
        assert str(trained.folder) not in text

    def test_it_says_what_it_is(self, predicted):
        out, run = predicted
        assert run.code == 0, run
        assert run.err == ""
        lines = run.out.splitlines()
        assert lines[-2:] == [VIRTUAL_ONLY, RESEARCH_USE_ONLY]
        assert f"report: {out / 'report.html'}" in lines
        assert any(line.startswith("core ") and " to " in line for line in lines)
        page = (out / "report.html").read_text()
        assert VIRTUAL_ONLY in page
        assert RESEARCH_USE_ONLY.split(".")[0] in page

    def test_dicom_gives_the_same(self, predicted, trained, patient, tmp_path):
        run = strokect("predict", trained.folder / "model", patient.layout.dicom_folder,
                       "-o", tmp_path / "d", "--uncertainty", "none")  # fmt: skip
        assert run.code == 0, run
        assert not (tmp_path / "d" / "uncertainty").exists()
        alone = strokect("predict", trained.folder, patient.scan, "-o", tmp_path / "n",
                         "--uncertainty", "none")  # fmt: skip
        assert alone.code == 0
        a, b = (image(tmp_path / k / "labels.nii.gz", canonical=True) for k in "dn")
        assert np.mean(a == b) > 0.99, "DICOM rounds HU and times"

    def test_twice_the_same_bytes_and_only_with_overwrite(
        self, predicted, trained, patient, tmp_path
    ):
        out, _ = predicted
        masks = {p.name: p.read_bytes() for p in (out / "masks").iterdir()}
        command = ("predict", trained.folder, patient.scan, "-o", out)
        refused(strokect(*command), 2, "--overwrite")
        again = strokect(*command, "--overwrite", "--json")
        assert again.code == 0
        assert json.loads(again.out)["schema"] == "strokect.segmentation/1"
        assert {p.name: p.read_bytes() for p in (out / "masks").iterdir()} == masks

    def test_dropout(self, four, prepared, patient, tmp_path, trained):
        refused(strokect("predict", trained.folder, patient.scan, "-o", tmp_path / "p",
                         "--uncertainty", "dropout"), 2, "no dropout")  # fmt: skip
        config = TINY["network"]["config"] | {"dropout": 0.3}
        path = settings_file(tmp_path, network={"config": config}, training={"epochs": 1})
        learn("train", path, "--data", four, "-o", tmp_path / "run", "--cache", prepared)
        run = strokect("predict", tmp_path / "run", patient.scan, "-o", tmp_path / "p",
                       "--uncertainty", "dropout", "--draws", 3)  # fmt: skip
        assert run.code == 0, run
        assert summary(tmp_path / "p")["model"]["uncertainty"]["draws"] == 3
        assert image(tmp_path / "p/uncertainty/core.nii.gz").max() > 0


class TestExperiment:
    def test_one_table(self, done):
        out, run = done
        assert run.code == 0, run
        assert run.err == ""
        table = (out / "comparison" / "table.md").read_text()
        assert table in run.out
        for name in ("tiny", "flat", "rules"):
            assert f"| {name} |" in table
            assert (out / name / "predictions" / "sub-0004_ses-01" / "masks").is_dir()
            assert [p.name for p in (out / name / "predictions").iterdir()] == ["sub-0004_ses-01"]
        assert (out / "comparison" / "index.html").exists()
        assert "flat: epoch 3/3" in run.out
        assert leftovers(out) == []

    def test_again_does_nothing_twice(self, done, files, four):
        out, first = done
        made = [p for p in out.rglob("*") if p.name in MODEL_FILES or p.name == "labels.nii.gz"]
        made = [p for p in made if "evaluation" not in p.parts and "comparison" not in p.parts]
        before = {p: p.stat().st_mtime_ns for p in made}
        again = learn("experiment", *files, "--data", four, "-o", out)
        assert again.code == 0
        assert "epoch" not in again.out
        assert "tiny: was trained already" in again.out
        assert {p: p.stat().st_mtime_ns for p in made} == before
        assert again.out.partition("# ")[2] == first.out.partition("# ")[2]

    def test_goes_on_after_an_interrupt(self, done, files, four, tmp_path):
        whole, _ = done
        out = tmp_path / "out"
        shutil.copytree(whole / "cache", out / "cache")
        running = subprocess.Popen(
            [*COMMAND, "experiment", *files, "--data", four, "-o", out],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # as ``learn``
        )  # fmt: skip
        while "flat: epoch 1/3" not in running.stdout.readline():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
        assert running.returncode == 130
        assert err.count("\n") == 1, err
        assert "Run the same command again" in err
        again = learn("experiment", *files, "--data", four, "-o", out)
        assert again.code == 0, again
        assert "tiny: was trained already" in again.out
        for name in ("tiny", "flat"):
            assert weights(out / name) == weights(whole / name)
        assert (out / "comparison/table.tsv").read_bytes() == (
            whole / "comparison/table.tsv"
        ).read_bytes()

    def test_from_slice_folders(self, four, tmp_path):
        """Any layout of the catalog will do: TIFF images, their grid and times in the settings."""
        own, root = OwnDataset(), tmp_path / "slices"
        for number, case in enumerate(own.cases(four)[:3], 1):
            series = own.scan(case)
            options = SliceFolderOptions(bits=16, interval_s=series.interval_s).fitting(series)
            labels = own.labels(case, series.grid)
            write_slices(root, f"01_{number:03d}", series, labels, options)
        data = {
            "layout": "slices", "layout_options": {"options": asdict(options)},
            "fractions": [0.34, 0.33, 0.33],
        }  # fmt: skip
        run = learn("experiment", settings_file(tmp_path, data=data), "--data", root,
                    "-o", tmp_path / "out", "--no-rules", "--uncertainty", "none")  # fmt: skip
        assert run.code == 0, run
        predicted = list((tmp_path / "out" / "tiny" / "predictions").glob("*/labels.nii.gz"))
        assert len(predicted) == 1
        card = (tmp_path / "out" / "tiny" / "model" / "card.md").read_text()
        assert "1 patients (LVO)" in card, "nothing says that these are virtual"
        assert VIRTUAL_ONLY not in card

    def test_other_settings_under_an_old_name(self, done, four, tmp_path):
        changed = settings_file(tmp_path, optimizer={"lr": 0.5})
        run = learn("experiment", changed, "--data", four, "-o", done[0])
        assert run.code == 2
        assert "optimizer.lr" in run.err
