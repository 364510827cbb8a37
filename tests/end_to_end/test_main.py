"""The older command line, and the commands on setting files, from the files on."""

import importlib.util
import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from strokect import RESEARCH_USE_ONLY, cli_settings
from strokect.core.classes import GREY_LEVELS
from strokect.core.errors import StrokeCTError
from strokect.training_settings import load_training_settings

ROOT = Path(__file__).parents[2]
MAPS = ("CBF", "CBV", "TTP", "TMAX", "MIP")
PEOPLE = [f"{group}_{n:03d}" for group in ("01", "02") for n in (1, 2, 3, 4)]
SIZE, SLICES = 32, 2


def _module():
    spec = importlib.util.spec_from_file_location("strokect_main", ROOT / "main.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAIN = _module()


@pytest.fixture
def run(monkeypatch, capsys):
    """``main.py`` within this process, with one thread; returns its code and what it printed."""
    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def call(*args):
        with warnings.catch_warnings():
            code = MAIN.main([str(a) for a in args])
        said = capsys.readouterr()
        return code, said.out, said.err

    yield call
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)


def _write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """Eight patients as the source keeps them: coloured maps and grey truth, tiny."""
    return _make_slices(tmp_path_factory.mktemp("slices"))


def _make_slices(root, maps="Parametric_Maps", truth="GT"):
    rng = np.random.default_rng(0)
    rows = ["patient\tnihss\tage\tsex"]
    for n, person in enumerate(PEOPLE):
        rows.append(f"{person}\t{5 + n}\t{60 + n}\t{'FM'[n % 2]}")
        for z in range(1, SLICES + 1):
            brain = np.zeros((SIZE, SIZE), bool)
            brain[4:28, 4:28] = True
            level = np.where(brain, GREY_LEVELS[1], GREY_LEVELS[0]).astype(np.uint8)
            level[8:20, 6:14], level[10:14, 8:12] = GREY_LEVELS[2], GREY_LEVELS[3]
            _write(root / truth / person / f"{z:02d}.png", level)
            for name in MAPS:
                shown = rng.integers(0, 60, (SIZE, SIZE, 3)) + level[..., None] // 2
                colours = np.where(brain[..., None], shown, 0).astype(np.uint8)
                _write(root / maps / person / name / f"{z:02d}.png", colours)
    (root / "clinical.tsv").write_text("\n".join(rows) + "\n")
    return root


def _old(slices, model, maps="Parametric_Maps", truth="GT", **top):
    """A setting file in the source's form for these patients."""
    entry = {
        "name": "PMs_segmentation_NOBatch",
        "loss": "focal_tversky_loss",
        "metrics": ["dice_coef"],
        "epochs": 1,
        "batch_size": 2,
        "val": {"validation_perc": 20, "number_patients_for_validation": 2,
                "random_validation_selection": 0},
        "optimizer": {"name": "Adam", "lr": 0.001, "beta_1": 0.9, "epsilon": "None", "decay": 0.0},
        "params": {"trainable": 1, "dropout": {"cbf.1": 0.25, "cbv.1": 0.25}},
        "callbacks": {"EarlyStopping": {"monitor": "val_loss", "patience": 25}},
        "to_categ": 1, "save_images": 1, "data_augmentation": 1, "cross_validation": 0,
        "supervised": 1,
    }  # fmt: skip
    return {
        "EXPERIMENT": 7,
        "PATIENTS_TO_TRAINVAL": ["ALL"],
        "PATIENTS_TO_TEST": ["01_001", "02_001"],
        "init": {"allow_growth": 1},
        "relative_paths": {"labeled_images": f"{slices}/{truth}/", "patients": f"{slices}/{maps}/"},
        "models": [entry | model],
    } | top


_HALF = {"trainable": 0, "gradual_finetuning_solution": {"type": "half"}}
EIGHT = {
    "plain": {},
    "mip_nihss": {"moreinfo": {"mip": 1, "nihss": 1}},
    "chosen": {"multiInput": {"cbf": 1, "tmax": 1, "age": 1, "gender": 1}},
    "frozen": {"params": {"trainable": 0}},
    "gradual": {"params": _HALF},
    "grey": {"params": {"convertImgToGray": 1}, "loss": "dice_coef_loss"},
    "together": {"params": {"concatenate_input": 1}, "name": "PMs_segmentation"},
    "shares": {"val": {"validation_perc": 30, "random_validation_selection": 1},
               "optimizer": {"name": "SGD", "lr": 0.01, "momentum": 0.9}},
}  # fmt: skip


@pytest.mark.parametrize("name", EIGHT)
def test_older_files_train_an_epoch_and_round_trip(name, slices, tmp_path, run):
    old = tmp_path / f"{name}.json"
    old.write_text(json.dumps(_old(slices, EIGHT[name])))
    code, out, err = run("cpu", old, "-pm", "-c", 3, "-t", 32, "-dim", 32, "-d", "--out", tmp_path)
    assert code == 0, err
    folder = tmp_path / f"{name}_debug"
    assert (folder / "model" / "weights.safetensors").exists()
    predicted = sorted(p.name for p in (folder / "predictions").iterdir())
    assert predicted == ["01_001", "02_001"]  # those that the file names
    assert out.rstrip().endswith(RESEARCH_USE_ONLY)
    # What was written beside the model is read as the settings that made it.
    written = folder / "settings.json"
    again = load_training_settings(written)
    assert again.name == f"{name}_debug" and again.training.epochs == 1
    assert again.data.classes == 3 and again.input.pixels == 32


def test_folders_of_other_names(tmp_path, run):
    names = {"maps": "FINAL_PM", "truth": "GT_TIFF"}
    _make_slices(tmp_path / "data", **names)
    old = tmp_path / "old.json"
    old.write_text(json.dumps(_old(tmp_path / "data", {}, **names)))
    code, _, err = run("cpu", old, "-c", 3, "-dim", 32, "-d", "--out", tmp_path)
    assert code == 0, err


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('{\n "EXPERIMENT": 1,\n "PATIENTS_TO_TEST": [""..."]\n}', 3, 25),
        ('{\n "EXPERIMENT": 1\n "models": []\n}', 3, 2),
        ('{\n "models": [\n  {"name" "mJNet"}\n ]\n}', 3, 11),
        ('{\n "models": [{"epochs": 01}]\n}', 2, 25),
    ],
)
def test_broken_files_name_line_and_column(text, line, column, tmp_path, run):
    path = tmp_path / "broken.json"
    path.write_text(text)
    code, _, err = run("cpu", path)
    assert code == 2 and f"{path}:{line}:{column}" in err, err
    assert err.count("\n") == 1


@pytest.fixture
def asked(monkeypatch):
    """The settings that a training is asked for, which is not run."""
    from strokect import experiment

    seen = []

    def remember(files, data, out, options, say):
        seen.append((list(files), data, out, options))

    monkeypatch.setattr(experiment, "run_experiment", remember)
    return seen


class TestOptions:
    def test_the_command_line_goes_before_the_file(self, run, asked, tmp_path):
        code, _, err = run(
            "cpu", "Mdl_G_PmMN", "-pm", "-t", 48, "-dim", 96, "-c", 3, "-w", 1, 2, 3, "-e", 12,
            "--data", tmp_path, "--out", tmp_path / "runs",
        )  # fmt: skip
        assert code == 0, err
        ((settings,), data, out, options) = asked[0]
        assert settings.name == "Mdl_G_PmMN_12"
        assert (data, out) == (tmp_path, tmp_path / "runs")
        assert settings.slab.tile == settings.tiling.tile == (48, 48)
        assert settings.input.pixels == 96 and settings.input.spacing_mm is None
        assert settings.loss.options.class_weights == (1, 2, 3)
        assert settings.network.config["width"] == 16  # only debug mode changes it
        assert options.machine.devices == 1 and not options.rules

    def test_whole_slices_where_the_tile_is_the_slice(self, run, asked):
        assert run("cpu", "Baseline", "-t", 64, "-dim", 64)[0] == 0
        (settings,) = asked[0][0]
        assert settings.slab.tile is None and settings.tiling.tile is None

    def test_debug_is_quick_and_says_so(self, run, asked):
        code, out, _ = run("cpu", "Mdl_G_Pm", "-d")
        assert code == 0 and "8 virtual patients" in out and "width 4" in out
        (settings,) = asked[0][0]
        assert settings.training.epochs == 1 and settings.network.config["width"] == 4
        assert [s.train for s in settings.finetune] == ["decoder", "half", "all"]
        assert all(s.epochs == 1 for s in settings.finetune)
        assert settings.data.virtual.patients == 8

    def test_another_file_by_its_option(self, run, asked):
        assert run("cpu", "no_such", "-s", "small_2dt")[0] == 0
        assert asked[0][0][0].name == "small_2dt"

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (("cpu", "Mdl_G_PmMM"), "Mdl_G_PmM"),
            (("gpu0", "Baseline"), "'gpu0'"),
            (("0,0", "Baseline"), "'0,0'"),
            (("cpu", "small_2dt", "-pm"), "-pm"),
            (("cpu", "Baseline", "-j", "--out", "nowhere"), "-j"),
            (("cpu", "Baseline", "-c", "3", "-w", "1", "2"), "class"),
        ],
    )
    def test_what_cannot_be_is_one_line(self, args, said, run, asked):
        code, _, err = run(*args)
        assert code == 2 and said in err and err.count("\n") == 1
        assert not asked

    @pytest.mark.parametrize(("gpu", "seen"), [("cpu", "-1"), ("1", "1"), ("0, 1", "0,1")])
    def test_other_devices_are_hidden(self, gpu, seen, run, asked):
        code, _, _ = run(gpu, "Baseline")
        assert code == 0 and os.environ["CUDA_VISIBLE_DEVICES"] == seen

    def test_an_older_file_for_another_layout(self, run, asked, tmp_path):
        (tmp_path / "sub-0001").mkdir()
        old = tmp_path / "old.json"
        old.write_text(json.dumps(_old("/gone", {}, PATIENTS_TO_TEST=[])))
        code, _, err = run("cpu", old, "--data", tmp_path)
        assert code == 0, err
        ((settings,), data, _, _) = asked[0]
        assert data == tmp_path and settings.data.layout == "own"
        assert settings.data.layout_options == {} and settings.input.source == "computed"


def test_help_needs_no_torch():
    done = subprocess.run(
        [sys.executable, ROOT / "main.py", "-h"], capture_output=True, text=True, check=True
    )
    for option in ("-v", "-d", "-o", "-s", "-t", "-dim", "-c {2,3,4}", "-pm", "-w", "-e", "-j"):
        assert option in done.stdout


class TestSettingsCommands:
    def _call(self, *args):
        done = CliRunner().invoke(cli_settings.app, [str(a) for a in args])
        if isinstance(done.exception, StrokeCTError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    def test_upgrade_writes_what_loads_and_never_over_a_file(self, slices, tmp_path):
        old, new = tmp_path / "old.json", tmp_path / "new.json"
        old.write_text(json.dumps(_old(slices, {})))
        said = self._call("upgrade", old, "-o", new, "-c", 3)
        assert "moved   models[0].epochs" in said and "dropped init.allow_growth" in said
        settings = load_training_settings(new)
        assert settings.name == "new" and settings.data.classes == 3
        with pytest.raises(StrokeCTError, match="--overwrite"):
            self._call("upgrade", old, "-o", new)
        self._call("upgrade", old, "-o", new, "--overwrite")
        assert "form of today" in self._call("upgrade", new)

    def test_several_models_become_several_files(self, slices, tmp_path):
        content = _old(slices, {})
        content["models"] *= 2
        old = tmp_path / "two.json"
        old.write_text(json.dumps(content))
        self._call("upgrade", old)
        written = sorted(p for p in tmp_path.glob("*.json") if p != old)
        assert len({load_training_settings(p).name for p in written}) == 2

    def test_groups_are_listed_with_the_data_set(self, slices, tmp_path):
        old = tmp_path / "old.json"
        old.write_text(json.dumps(_old(slices, {}, PATIENTS_TO_TRAINVAL=["ALL_02"])))
        self._call("upgrade", old, "--data", slices, "-o", tmp_path / "new.json")
        settings = load_training_settings(tmp_path / "new.json")
        assert settings.data.train_patients == ("02_002", "02_003", "02_004")
