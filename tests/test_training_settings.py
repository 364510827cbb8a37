"""Settings of a training: strict at every depth, and what is built from them."""

import json
from pathlib import Path

import pytest
import torch

from strokect.core.errors import SettingsError
from strokect.learn.data import Needs
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
