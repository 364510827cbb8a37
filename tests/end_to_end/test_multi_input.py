"""Networks that look at maps and NIHSS: trained, compared and used, through the command line."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from strokect import RESEARCH_USE_ONLY
from strokect.core.mapset import MapSet
from strokect.core.types import Grid
from strokect.io import nifti
from strokect.io.datasets import SliceFolderOptions, write_map_slices
from strokect.io.layouts import OwnLayout

from .conftest import image, learn, refused, strokect, summary

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

SHAPE, PIXEL_MM = (2, 32, 32), 5.0
MAPS = ("cbf", "tmax", "mip")
#: Label, group and split of the patients.
PEOPLE = [
    *((n, group, "train") for n, group in ((1, "LVO"), (2, "non-LVO"), (3, "LVO"))),
    (4, "non-LVO", "val"),
    *((n, group, "test") for n, group in ((5, "LVO"), (6, "non-LVO"), (7, "LVO"), (8, "non-LVO"))),
]

#: A training of a second; Baseline and what is changed in the other settings.
TINY = {
    "data": {"classes": 3},
    "input": {"kind": "maps", "source": "files", "maps": ["cbf", "tmax"], "scores": []},
    "network": {"name": "multi_input", "config": {"width": 4}},
    "finetune": [{"train": "decoder"}],
    "slab": {"slices": 1, "per_case": 4},
    "optimizer": {"lr": 0.01},
    "training": {"epochs": 9, "batch_size": 2},
}
#: Of the command line, so that no file says how long and on what it trains.
SET = ("--set", "training.epochs=3", "--set", "input.crop_mm=null")


def settings_file(folder: Path, name: str, **changes) -> Path:
    """A file of TINY with changes; a dictionary changes a block key by key."""
    content = {"name": name, **json.loads(json.dumps(TINY))}
    for key, value in changes.items():
        content[key] = content.get(key, {}) | value if isinstance(value, dict) else value
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


def made_up(number: int) -> tuple[MapSet, np.ndarray]:
    """Maps of a patient in which the lesion shows, and the truth."""
    rng = np.random.default_rng(number)
    brain = np.zeros(SHAPE, bool)
    brain[:, 3:29, 3:29] = True
    labels = brain.astype(np.uint8)
    y, x = rng.integers(5, 12, 2)
    labels[:, y : y + 14, x : x + 12] = 2
    labels[:, y + 3 : y + 10, x + 2 : x + 10] = 3
    noise = rng.normal(size=(3, *SHAPE))
    maps = {
        "cbf": np.array([0, 60, 35, 8])[labels] + 3 * noise[0],
        "tmax": np.array([0, 2, 8, 11])[labels] + 0.5 * noise[1],
        "mip": np.array([0, 60, 50, 40])[labels] + 5 * noise[2],
    }
    grid = Grid(SHAPE, np.diag([-PIXEL_MM, -PIXEL_MM, 5.0, 1.0]))
    return MapSet(grid, {k: v.astype(np.float32) for k, v in maps.items()}, brain), labels


def results(root: Path, number: int) -> Path:
    return root / "derivatives" / "perfusion" / f"sub-{number:04d}_ses-01"


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    """Nearly all of the time would go into intervals, with which no test here is concerned."""
    from strokect.evaluate import agreement, factors, paired, tables

    def quick(statistic, values, groups=None, seed=0, n_resamples=0):
        return agreement.bootstrap_ci(statistic, values, groups, seed, 50)

    with pytest.MonkeyPatch.context() as patch:
        for module in (factors, paired, tables):
            patch.setattr(module, "bootstrap_ci", quick)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Eight patients of the own layout: results of `strokect perfusion`, scans that are empty."""
    root = tmp_path_factory.mktemp("maps") / "data"
    rows = ["participant_id\tgroup\tsplit\tnihss"]
    for number, group, split in PEOPLE:
        found, labels = made_up(number)
        layout = OwnLayout(root, f"{number:04d}")
        layout.scan("ctp").parent.mkdir(parents=True)
        layout.scan("ctp").touch()
        for name, mask in (("brain", labels > 0), ("penumbra", labels == 2), ("core", labels == 3)):
            nifti.write_volume(layout.truth_mask(name), mask, found.grid)
        folder = results(root, number)
        for name, values in found.maps.items():
            nifti.write_volume(folder / "maps" / f"{name}.nii.gz", values, found.grid)
        nifti.write_volume(folder / "masks" / "brain.nii.gz", found.brain, found.grid)
        rows.append(f"sub-{number:04d}\t{group}\t{split}\t{'n/a' if number == 6 else 2 * number}")
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three settings that differ in one factor each."""
    found = tmp_path_factory.mktemp("settings")
    settings_file(found, "Baseline")
    settings_file(found, "Gradual", finetune=[{"train": p} for p in ("decoder", "half", "all")])
    settings_file(found, "Scores", input={"maps": list(MAPS), "scores": ["nihss"]})
    settings_file(found, "Together", input={"scores": ["nihss"]})
    (found / "Setting_explained.json").write_text("{}")  # no settings, though it lies there
    return found


@pytest.fixture(scope="module")
def done(data, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("experiment") / "out"
    run = learn("experiment", folder, "--data", data, "-o", out, "--no-rules", *SET)
    assert run.code == 0, run
    return out, run


@pytest.fixture(scope="module")
def predicted(done, data, tmp_path_factory):
    """Of the model that asks for NIHSS: with it and without."""
    out = tmp_path_factory.mktemp("predicted")
    command = ("predict", done[0] / "Scores", results(data, 5), "-o")
    return (
        (out / "with", strokect(*command, out / "with", "--nihss", 12)),
        (out / "without", strokect(*command, out / "without")),
    )


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


NAMES = ["Baseline", "Gradual", "Scores", "Together"]


class TestExperiment:
    def test_settings_in_a_table(self, done):
        out, run = done
        assert run.err == ""
        text = (out / "settings.md").read_text()
        assert text in run.out
        assert RESEARCH_USE_ONLY in text
        first = text.partition("\n## ")[0]  # before what each factor adds
        cells = [line.split(" | ") for line in first.splitlines() if line.startswith("| ")]
        lines = {c[0].removeprefix("| "): [x.strip(" |") for x in c[1:]] for c in cells}
        assert [name for name in lines if name in NAMES] == NAMES
        assert [lines[n][:4] for n in NAMES] == [
            ["✓", "", "", "Frozen"], ["✓", "", "", "Gradual"], ["✓", "✓", "✓", "Frozen"],
            ["✓", "", "✓", "Frozen"],
        ]  # fmt: skip
        for name in NAMES:  # F1 and Dice of penumbra and core, in two groups
            figures = [float(x.strip("*").split(" ± ")[0].strip("*")) for x in lines[name][4:]]
            assert len(figures) == 8 and all(0 <= x <= 1 for x in figures), lines[name]

    def test_settings_for_programs(self, done):
        rows = table(done[0] / "settings.tsv")
        assert {row["setting"] for row in rows} == set(NAMES)
        for row in rows:
            empty = [column for column, cell in row.items() if cell in ("", None, "n/a")]
            assert empty == ([] if row["setting"] in ("Scores", "Together") else ["scores"]), row

    def test_factors(self, done):
        content = json.loads((done[0] / "factors.json").read_text())
        assert content["research_use_only"] == RESEARCH_USE_ONLY
        found = {(f["factor"], f["class"], f["group"]): f for f in content["factors"]}
        assert {k[0] for k in found} == {"MIP", "NIHSS", "Gradual"}
        assert {k[1] for k in found} == {"penumbra", "core"}
        assert {k[2] for k in found} == {"all", "LVO", "non-LVO"}
        assert len(found) == 3 * 2 * 3
        for (_, _, group), effect in found.items():
            assert effect["pairs"] == 1
            assert effect["difference"]["n"] == (4 if group == "all" else 2)
            assert effect["difference"]["value"] is not None

    def test_stages_and_predictions(self, done):
        out, run = done
        assert [p.name for p in sorted((out / "Gradual" / "stages").iterdir())] == [
            "1-decoder", "2-half", "3-all",
        ]  # fmt: skip
        assert "Gradual: stage 3 of 3, training all" in run.out
        assert "Baseline: encoders start from random weights" in run.out
        assert run.out.count("Gradual: epoch 1/1") == 3, "--set goes before the files"
        for name in NAMES:
            predictions = sorted(p.name for p in (out / name / "predictions").iterdir())
            assert predictions == [f"sub-000{n}_ses-01" for n in (5, 6, 7, 8)]
        known, unknown = (
            summary(out / "Scores" / "predictions" / f"sub-000{n}_ses-01") for n in (5, 6)
        )
        assert "NO_CLINICAL" not in [q["code"] for q in known["quality"]]
        assert "NO_CLINICAL" in [q["code"] for q in unknown["quality"]]

    def test_a_network_learns_what_the_maps_show(self, done):
        rows = {row["setting"]: row for row in table(done[0] / "settings.tsv")}
        for place in ("penumbra_LVO", "core_LVO", "penumbra_non-LVO", "core_non-LVO"):
            assert float(rows["Gradual"][f"f1_{place}"]) > 0.5

    def test_again_nothing_is_trained_or_predicted_anew(self, done, data, folder):
        out, first = done
        kept = [p for p in out.rglob("*") if p.is_file()]
        kept = [p for p in kept if {"model", "stages", "predictions", "cache"} & set(p.parts)]
        before = {p: p.stat().st_mtime_ns for p in kept}
        again = learn("experiment", folder, "--data", data, "-o", out, "--no-rules", *SET)
        assert again.code == 0, again
        assert "epoch" not in again.out
        for name in NAMES:
            assert f"{name}: was trained already" in again.out
            assert f"{name}: testing on 4 scans, 4 predicted before" in again.out
        assert {p: p.stat().st_mtime_ns for p in kept} == before
        assert again.out.partition("# ")[2] == first.out.partition("# ")[2]

    def test_other_changes_are_other_settings(self, done, data, folder):
        run = learn("experiment", folder, "--data", data, "-o", done[0], "--no-rules",
                    "--set", "training.epochs=4")  # fmt: skip
        assert run.code == 2
        assert "training.epochs" in run.err


class TestPredict:
    def test_from_a_result_folder(self, predicted, data):
        (out, run), _ = predicted
        assert run.code == 0, run
        assert run.err == ""
        assert "NO_CLINICAL" not in run.out
        brain = image(results(data, 5) / "masks" / "brain.nii.gz") != 0
        labels = image(out / "labels.nii.gz")
        assert labels.shape == SHAPE[::-1]
        np.testing.assert_array_equal(labels > 0, brain)
        assert (out / "report.html").exists()
        assert str(data) not in json.dumps(summary(out))

    def test_without_nihss_it_says_so(self, predicted):
        _, (out, run) = predicted
        assert run.code == 0, run
        assert "NIHSS, which is not known here [NO_CLINICAL]" in run.out
        assert [q["code"] for q in summary(out)["quality"]] == ["NO_CLINICAL"]
        assert "NIHSS" in (out / "report.html").read_text()

    def test_the_score_counts(self, predicted):
        one, other = (image(out / "probabilities" / "core.nii.gz") for out, _ in predicted)
        assert np.abs(one - other).max() > 1e-4

    @pytest.mark.parametrize(
        ("nihss", "word"),
        [(43, "0 to 42"), (-1, "0 to 42"), ("nan", "0 to 42"), ("many", "number")],
    )
    def test_an_impossible_nihss(self, done, data, tmp_path, nihss, word):
        run = strokect("predict", done[0] / "Scores", results(data, 5), "-o", tmp_path / "p",
                       f"--nihss={nihss}")  # fmt: skip
        refused(run, 2, "nihss", word)
        assert not (tmp_path / "p").exists()

    def test_a_map_that_is_missing(self, done, data, tmp_path):
        source = tmp_path / "result"
        shutil.copytree(results(data, 5), source)
        (source / "maps" / "mip.nii.gz").unlink()
        run = strokect("predict", done[0] / "Scores", source, "-o", tmp_path / "p")
        refused(run, 2, "MIP", "mip.nii.gz")
        assert strokect("predict", done[0] / "Baseline", source, "-o", tmp_path / "b").code == 0


class TestEncoderWeights:
    @pytest.fixture
    def train(self, data, tmp_path):
        path = settings_file(tmp_path, "mine", training={"epochs": 1})

        def call(weights, *more):
            return learn("train", path, "--data", data, "-o", tmp_path / "run",
                         "--vgg16-weights", weights, *more)  # fmt: skip

        return call

    def test_what_cannot_be_used(self, train, tmp_path):
        from safetensors.torch import save_file

        missing, text = tmp_path / "no.safetensors", tmp_path / "text.pth"
        refused(train(missing), 2, "no such file", str(missing))
        text.write_text("these are no weights")
        refused(train(text), 2, "no weights can be read", str(text))
        other = tmp_path / "other.safetensors"
        save_file({"layer1.0.conv1.weight": torch.zeros(2, 2, 3, 3)}, other)
        refused(train(other), 2, "another network", "layer1.0.conv1.weight")
        wide = tmp_path / "wide.safetensors"
        save_file(_vgg16(width=8), wide)
        refused(train(wide), 2, "network.config.width is 4, the file's is 8")
        assert not (tmp_path / "run").exists()

    def test_of_a_network_without_encoders(self, train, tmp_path):
        save_file = pytest.importorskip("safetensors.torch").save_file
        save_file(_vgg16(width=4), tmp_path / "vgg16.safetensors")
        unet = ("--set", 'network.name="unet"', "--set", 'network.config={"width": 2, "depth": 2}',
                "--set", "finetune=[]")  # fmt: skip
        refused(train(tmp_path / "vgg16.safetensors", *unet), 2, "encoder_weights")

    def test_a_good_file_is_named(self, train, tmp_path):
        save_file = pytest.importorskip("safetensors.torch").save_file
        save_file(_vgg16(width=4), tmp_path / "vgg16.safetensors")
        run = train(tmp_path / "vgg16.safetensors")
        assert run.code == 0, run
        assert "encoders start from the weights in vgg16.safetensors" in run.out


def _vgg16(width: int) -> dict[str, "torch.Tensor"]:
    """Weights in torchvision's layout, of any width."""
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    state, before = {}, 3
    for place, multiple in zip(places, (1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8), strict=True):
        state[f"features.{place}.weight"] = 0.1 * torch.randn(width * multiple, before, 3, 3)
        state[f"features.{place}.bias"] = torch.zeros(width * multiple)
        before = width * multiple
    return state


def test_an_older_file_on_slice_folders(tmp_path):
    """As the source's systems have them, with nothing but its folders and its patients changed."""
    root, options = tmp_path / "data", SliceFolderOptions(slice_mm=5.0, pixel_mm=PIXEL_MM)
    for number, group, _ in PEOPLE[:6]:
        found, labels = made_up(number)
        maps = {**found.maps, "cbv": found.maps["cbf"] / 15, "ttp": 2 * found.maps["tmax"]}
        everything = MapSet(found.grid, maps, found.brain)
        name = f"{'01' if group == 'LVO' else '02'}_{number:03d}"
        write_map_slices(root, name, everything, labels, options)
    content = {
        "EXPERIMENT": 7,
        "PATIENTS_TO_TRAINVAL": ["ALL"],
        "PATIENTS_TO_TEST": ["01_005"],
        "relative_paths": {
            "labeled_images": f"{root}/GT/", "patients": f"{root}/Parametric_Maps/",
        },
        "models": [{
            "name": "PMs_segmentation_NOBatch",
            "loss": "focal_tversky_loss",
            "epochs": 50,
            "batch_size": 2,
            "val": {"number_patients_for_validation": 2, "random_validation_selection": 0},
            "optimizer": {"name": "Adam", "lr": 0.001, "epsilon": "None", "decay": 0.0},
            "params": {"trainable": 0, "gradual_finetuning_solution": {"type": "half"}},
            "to_categ": 1, "cross_validation": 0, "supervised": 1, "train_again": 1,
        }],
    }  # fmt: skip
    old = tmp_path / "older.json"
    old.write_text(json.dumps(content))
    stages = json.dumps([{"train": part, "epochs": 1} for part in ("decoder", "half", "all")])
    small = ("--set", "network.config.width=4", "--set", f"finetune={stages}")
    out = tmp_path / "run"
    run = learn("train", old, "-o", out, *small)
    assert run.code == 0, run
    assert run.err == ""
    assert run.out.startswith("older.json: an older setting file")
    assert "train_again" in run.out
    assert [p.name for p in sorted((out / "stages").iterdir())] == ["1-decoder", "2-half", "3-all"]
    parts = {row["case"]: row["part"] for row in table(out / "split.tsv")}
    assert parts["01_005"] == "test"
    assert sorted(parts.values()) == ["test", "train", "train", "train", "val", "val"]
    again = learn("train", old, "-o", out, *small, "--resume")
    assert again.code == 0, again
    assert "older: was trained already" in again.out


def test_virtual_patients_where_no_data_set_is_given(four, tmp_path, monkeypatch):
    """Made once, in the folder of the run; what is refused is refused before they are made."""
    monkeypatch.setattr("strokect.virtual._workers", lambda size: 1)  # processes start slowly
    path = settings_file(
        tmp_path, "virtual",
        data={"split": "random", "fractions": [0.5, 0.5, 0.0],
              "virtual": {"patients": 2, "seed": 11, "size": "small"}},
        input={"source": "computed", "estimator": "bsvd", "denoise": "none",
               "motion_correction": False, "scores": ["nihss"]},
        training={"epochs": 1}, slab={"tile": [32, 32], "per_case": 2},
    )  # fmt: skip
    out = tmp_path / "run"
    command = ("train", path, "-o", out)
    refused(learn(*command, "--vgg16-weights", tmp_path / "no.pth"), 2, "no such file")
    assert not out.exists()
    # As if it had been broken off when it had made one of the two.
    cohort = out / "cohort"
    for place in ("sub-0001", "derivatives/truth/sub-0001"):
        shutil.copytree(four / place, cohort / place)
    shutil.copy(four / "dataset_description.json", cohort)
    first = {p: p.stat().st_mtime_ns for p in cohort.rglob("*.nii.gz")}
    run = learn(*command)
    assert run.code == 0, run
    assert f"2 virtual patients (seed 11, small) in {cohort}" in run.out
    assert sorted(p.name for p in cohort.glob("sub-*")) == ["sub-0001", "sub-0002"]
    assert "1 virtual patients" in (out / "model" / "card.md").read_text()
    made = {p: p.stat().st_mtime_ns for p in cohort.rglob("*.nii.gz")}
    assert first.items() <= made.items()
    again = learn(*command, "--resume")
    assert again.code == 0, again
    assert "virtual: was trained already" in again.out
    assert {p: p.stat().st_mtime_ns for p in made} == made
