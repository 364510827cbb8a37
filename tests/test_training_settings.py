"""Settings of a training: strict at every depth, and what is built from them."""

import json
from pathlib import Path

import pytest
import torch

from strokect.core.errors import SettingsError
from strokect.learn.data import Needs
from strokect.learn.finetune import Stage
from strokect.learn.inputs import InputOptions
from strokect.learn.map_inputs import MapInputOptions
from strokect.training_settings import (
    TrainingSettings,
    build_layout,
    build_loss,
    build_network,
    load_training_settings,
    needs_of,
    parse_training_settings,
    with_folder,
)

SHIPPED = sorted((Path(__file__).parents[1] / "settings" / "ctp").glob("*.json"))
HERE = Path("here.json")
SMALL = {
    "name": "tiny",
    "data": {"classes": 3},
    "input": {"time_points": 10, "channels": ["hu", "enhancement"], "window_hu": [0, 100]},
    "network": {"name": "mjnet_3dt", "config": {"n_slices": 3, "width": 4, "depth": 2}},
    "slab": {"tile": [16, 32], "balance": [1, 1, 2.5]},
    "augment": {"contrast_p": 0.5, "contrast": [0.8, 1.2]},
    "loss": {"name": "ce_dice", "options": {"class_weights": [1, 2, 3]}},
    "tiling": {"tile": [64, 64]},
}


def _with(key, value, content=SMALL):
    """The content with one value, by its dotted key, set."""
    out = json.loads(json.dumps(content))
    *rooms, last = key.split(".")
    room = out
    for name in rooms:
        room = room.setdefault(name, {})
    room[last] = value
    return out


def _refused(content):
    with pytest.raises(SettingsError) as error:
        parse_training_settings(content, HERE)
    line = str(error.value)
    assert "\n" not in line and "here.json" in line, line
    return line


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_settings_load_and_say_their_name(path):
    settings = load_training_settings(path)
    assert settings.name == path.stem


def test_lists_become_tuples_and_whole_numbers_lengths():
    settings = parse_training_settings(SMALL, HERE)
    assert settings.input.channels == ("hu", "enhancement")
    assert settings.input.window_hu == (0.0, 100.0)
    assert settings.slab.tile == (16, 32) and settings.slab.balance == (1.0, 1.0, 2.5)
    assert settings.augment.contrast == (0.8, 1.2)
    assert settings.loss.options.class_weights == (1.0, 2.0, 3.0)
    assert settings.tiling.tile == (64, 64)


@pytest.mark.parametrize("content", [{"name": "plain"}, SMALL])
def test_what_is_written_is_read_as_the_same(content):
    settings = parse_training_settings(content, HERE)
    written = json.loads(json.dumps(settings.model_dump(mode="json")))
    assert parse_training_settings(written, HERE) == settings


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("nam", "name"),
        ("optimiser", "optimizer"),
        ("data.class", "classes"),
        ("input.timepoints", "time_points"),
        ("network.names", "name"),
        ("network.config.witdh", "width"),
        ("network.config.nslices", "n_slices"),
        ("loss.nme", "name"),
        ("loss.options.class_weight", "class_weights"),
        ("slab.tiles", "tile"),
        ("augment.flip_x", "flip_x_p"),
        ("optimizer.learning", None),
        ("optimizer.weightdecay", "weight_decay"),
        ("training.epoch", "epochs"),
        ("tiling.overlaps", "overlap"),
    ],
)
def test_a_misspelt_key_names_the_nearest_right_one(key, nearest):
    line = _refused(_with(key, 1))
    assert f"unknown setting '{key}'" in line
    assert nearest is None or f"Did you mean '{nearest}'?" in line


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("data.layout", "isles_18", "Did you mean 'isles18'?"),
        ("network.name", "mjnet4d", "no network is called 'mjnet4d'. Did you mean 'mjnet_4d'?"),
        ("loss.name", "focal_tverski", "no loss is called 'focal_tverski'. Did you mean"),
    ],
)
def test_an_unknown_name_names_the_nearest(key, value, words):
    line = _refused(_with(key, value))
    assert words in line.replace(": here.json", "")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("training.epochs", 2.5, "'training.epochs'"),
        ("training.epochs", "ten", "'training.epochs'"),
        ("training.precision", "64", "'training.precision'"),
        ("data.classes", 5, "'data.classes'"),
        ("data.seed", -1, "'data.seed'"),
        ("data.split", "mine", "'data.split'"),
        ("slab.tile", [16], "'slab.tile"),
        ("input.channels", ["tmax"], "'input.channels"),
        ("network.config.width", "wide", "'network.config.width'"),
        ("loss.options.gamma", None, "'loss.options.gamma'"),
        # What the options themselves refuse says where, too.
        ("input.time_points", 1, "input: 1 time points"),
        ("slab.tile", [0, 16], "slab: a sample of no size"),
        ("optimizer.lr", 0, "optimizer.lr: lr = 0"),
        ("training.validate_every", 1000, "training.validate_every"),
        ("training.seed", -3, "seed -3"),
        ("tiling.overlap", 1, "tiling.overlap: an overlap of 1"),
        ("augment.noise_p", 2, "noise_p = 2"),
        ("loss.options.gamma", -1, "gamma = -1"),
        ("network.config.n_slices", 2, "n_slices cannot be 2"),
        ("loss.options.class_weights", [1, 2], "Give 3, one a class"),
        ("slab.balance", [1, 2, 3, 4], "slab.balance: 4 chances for 3 classes"),
        ("name", "", "the name ''"),
        ("name", "..", "the name '..'"),
        ("name", "a/b", "the name 'a/b'"),
        ("name", "-rf", "the name '-rf'"),
    ],
)
def test_a_wrong_value_says_which(key, value, words):
    assert words in _refused(_with(key, value))


@pytest.mark.parametrize(
    ("key", "given", "right"), [("classes", 4, 3), ("channels", 1, 2), ("time_points", 30, 10)]
)
def test_what_follows_from_the_rest_cannot_differ(key, given, right):
    line = _refused(_with(f"network.config.{key}", given))
    assert f"network.config.{key} is {given}, data and input make it {right}" in line
    same = parse_training_settings(_with(f"network.config.{key}", right), HERE)
    assert getattr(build_network(same).config, key) == right


def test_the_network_sees_what_the_settings_say():
    settings = parse_training_settings(SMALL, HERE)
    network = build_network(settings)
    assert needs_of(network) == Needs(3, network.in_plane_multiple)
    n = network.in_plane_multiple
    with torch.no_grad():
        logits = network(torch.zeros(1, 2, 10, 4, n, n))
    assert logits.shape == (1, 3, 2, n, n)
    loss = build_loss(settings)
    assert float(loss(logits, torch.zeros(1, 2, n, n, dtype=torch.long), None)) > 0


def test_fresh_weights_are_those_of_the_seed():
    def weights(seed):
        settings = parse_training_settings(_with("training.seed", seed), HERE)
        return torch.cat([p.flatten() for p in build_network(settings).parameters()])

    torch.manual_seed(1)
    state, first = torch.get_rng_state(), weights(0)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_the_folder_of_the_command_line_wins():
    settings = parse_training_settings(_with("data.folder", "/one"), HERE)
    assert with_folder(settings, None) is settings
    other = with_folder(settings, Path("/two"))
    assert (settings.data.folder, other.data.folder) == ("/one", "/two")
    assert with_folder(other, Path("/one")) == settings


def test_options_of_a_layout_are_as_strict():
    settings = parse_training_settings(SMALL, HERE)
    assert type(build_layout(settings)).__name__ == "OwnDataset"
    assert "data.layout_options" in _refused(_with("data.layout_options", {"clases": [2]}))


@pytest.mark.parametrize("text", ["", "[]", '{"name": "a"', '{"name": "a",}'])
def test_files_that_are_no_settings_are_told(tmp_path, text):
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"s\.json"):
        load_training_settings(path)
    with pytest.raises(SettingsError, match="cannot read"):
        load_training_settings(tmp_path / "none.json")


def test_defaults_are_settings():
    assert parse_training_settings({"name": "x"}, HERE) == TrainingSettings(name="x")


MAPS = {
    "name": "maps",
    "data": {"classes": 3, "virtual": {"patients": 8}},
    "input": {"kind": "maps", "maps": ["cbf", "tmax"], "form": "grey", "scores": ["nihss", "sex"]},
    "network": {"name": "multi_input", "config": {"width": 2}},
    "finetune": [{"train": "decoder", "epochs": 2}, {"train": "half", "lr": 1e-4}, {}],
}


def test_the_kind_of_input_chooses_its_options():
    assert isinstance(parse_training_settings({"name": "x"}, HERE).input, InputOptions)
    plain = parse_training_settings(_with("input.kind", "ctp"), HERE)
    assert plain == parse_training_settings(SMALL, HERE)
    settings = parse_training_settings(MAPS, HERE)
    assert settings.input == MapInputOptions(
        maps=("cbf", "tmax"), form="grey", scores=("nihss", "sex")
    )
    assert settings.finetune == (Stage("decoder", 2), Stage("half", lr=1e-4), Stage())
    assert settings.data.virtual.patients == 8
    written = json.loads(json.dumps(settings.model_dump(mode="json")))
    assert parse_training_settings(written, HERE) == settings


def test_a_network_fits_the_maps_and_scores_it_is_given():
    config = build_network(parse_training_settings(MAPS, HERE)).config
    assert (config.images, config.channels, config.clinical) == (2, 2, 4)
    assert (config.time_points, config.classes, config.width) == (1, 3, 2)
    coloured = build_network(parse_training_settings(_with("input.form", "colour", MAPS), HERE))
    assert coloured.config.channels == 6
    line = _refused(_with("network.config.clinical", 2, MAPS))
    assert "network.config.clinical is 2, data and input make it 4" in line


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("input.map", "maps"),
        ("input.estimators", "estimator"),
        ("input.score", "scores"),
        ("input.time_points", None),  # of the other kind
        ("data.virtual.patient", "patients"),
        ("data.train_patient", "train_patients"),
        ("network.encoder_weight", "encoder_weights"),
        ("optimizer.maxnorm", "max_norm"),
        ("augment.clinical_drop", "clinical_drop_p"),
    ],
)
def test_a_misspelt_key_of_settings_for_maps_names_the_nearest(key, nearest):
    line = _refused(_with(key, 1, MAPS))
    assert f"unknown setting '{key}'" in line
    assert nearest is None or f"Did you mean '{nearest}'?" in line
    if key.startswith("input."):
        assert "estimator" in line and "window_hu" not in line  # keys of this kind are known


def test_a_misspelt_key_of_a_stage_says_of_which():
    line = _refused(_with("finetune", [{"train": "decoder"}, {"train": "all", "epoch": 3}], MAPS))
    assert "unknown setting 'finetune.1.epoch'" in line and "Did you mean 'epochs'?" in line


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("input.maps", ["cbf", "cbt"], "'input.maps.1'"),
        ("input.maps", [], "input.maps: maps []"),
        ("input.form", "color", "'input.form'"),
        ("input.estimator", "bays", "no estimator is called 'bays'"),
        ("input.denoise", "nonlokal", "Did you mean 'nonlocal'?"),
        ("input.pixels", 1.5, "'input.pixels'"),
        ("input.kind", "map", "'ctp' or 'maps'"),
        ("input.kind", None, "'ctp' or 'maps'"),
        ("input.kind", ["maps"], "'ctp' or 'maps'"),
        ("input", "maps", "setting 'input'"),
        ("input", None, "setting 'input'"),
        ("input", [], "setting 'input'"),
        ("finetune", [{"train": "encoder"}], "'finetune.0.train'"),
        ("finetune", {"train": "all"}, "setting 'finetune'"),
        ("finetune", ["all"], "setting 'finetune.0'"),
        ("finetune", [{"epochs": 0}], "finetune.epochs"),
        ("data.virtual.patients", 0, "'data.virtual.patients'"),
        ("data.virtual.size", "tiny", "'data.virtual.size'"),
        ("data.validation_patients", 0, "'data.validation_patients'"),
        ("optimizer.max_norm", 0, "optimizer.max_norm"),
        ("augment.clinical_drop_p", 2, "clinical_drop_p = 2"),
    ],
)
def test_a_wrong_value_of_settings_for_maps_says_which(key, value, words):
    assert words in _refused(_with(key, value, MAPS))


def test_scores_are_refused_for_a_network_that_takes_none():
    content = {"name": "x", "input": {"kind": "maps"}, "network": {"name": "mjnet_2dt"}}
    parse_training_settings(content, HERE)
    line = _refused(_with("input.scores", ["age"], content))
    assert "input.scores: mjnet_2dt takes no clinical scores" in line and "multi_input" in line


@pytest.mark.parametrize("part", ["decoder", "half"])
def test_stages_that_freeze_are_refused_for_a_network_without_encoders(part):
    whole = _with("finetune", [{"train": "all", "epochs": 1}])
    assert parse_training_settings(whole, HERE).finetune == (Stage("all", 1),)
    line = _refused(_with("finetune", [{"train": "all"}, {"train": part}]))
    assert "finetune: mjnet_3dt has no encoders that can be frozen" in line


class TestChanges:
    """Of single keys, which go before the file."""

    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "here.json"
        path.write_text(json.dumps(MAPS))
        return path

    def test_values_are_json_or_words(self, path):
        changes = [
            "network.config.width=4",
            "optimizer.max_norm = 1.5",
            "input.form=scalar",
            'input.maps=["ttp"]',
            "finetune=[]",
            "data.virtual=null",
            "augment.flip_x_p=0.25",  # of a block that the file does not have
            "name=other",
            "network.config.width=3",  # the last one counts
            "data.folder=/a=b",
        ]
        settings = load_training_settings(path, changes)
        assert settings.network.config == {"width": 3}
        assert settings.optimizer.max_norm == 1.5
        assert (settings.input.form, settings.input.maps) == ("scalar", ("ttp",))
        assert settings.input.scores == ("nihss", "sex")  # what is not named stays
        assert settings.finetune == () and settings.data.virtual is None
        assert settings.augment.flip_x_p == 0.25
        assert (settings.name, settings.data.folder) == ("other", "/a=b")
        assert load_training_settings(path, []).name == "maps"

    def test_a_change_is_as_strict_as_the_file(self, path):
        for change, words in (
            ("optimizer.lrate=1", "unknown setting 'optimizer.lrate'"),
            ("network.config.widht=1", "Did you mean 'width'?"),
            ("training.epochs=ten", "'training.epochs'"),
            ("optimizer.lr=NaN", "optimizer.lr"),
        ):
            with pytest.raises(SettingsError, match=r"here\.json") as error:
                load_training_settings(path, [change])
            assert words in str(error.value)

    @pytest.mark.parametrize("change", ["name", "=4", ".lr=4", "optimizer.=4", "a..b=4", ""])
    def test_what_is_no_change_is_told(self, path, change):
        with pytest.raises(SettingsError, match=r"--set\. Write KEY=VALUE"):
            load_training_settings(path, [change])

    @pytest.mark.parametrize("change", ["name.first=4", "finetune.0.epochs=4", "input.maps.a=1"])
    def test_a_key_below_a_value_is_told(self, path, change):
        key = change.split("=")[0]
        with pytest.raises(SettingsError, match=rf"'{key}' has no keys below it: --set"):
            load_training_settings(path, [change])
