"""Models on disk: what is written is what is loaded, and anything else is refused by name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from strokect import VIRTUAL_ONLY, model_cards  # noqa: E402
from strokect.core.errors import InputError, ScanError, SettingsError  # noqa: E402
from strokect.learn.checkpoint import SafeCheckpointIO  # noqa: E402
from strokect.model_cards import ModelCard, find_model, read_model, shipped_models  # noqa: E402
from strokect.models import load_model, settings_text, write_model  # noqa: E402
from strokect.training_settings import build_network, parse_training_settings  # noqa: E402

CARD = ModelCard(cases=7, groups=("LVO", "WIS"), virtual_only=True, strokect="0.1.0")


def settings(width: int = 2, name: str = "mjnet_2dt", **changes):
    content = {
        "name": "mine",
        "data": {"classes": 3, "folder": "/secret/patients"},
        "input": {"time_points": 5},
        "network": {"name": name, "config": {"width": width, "depth": 2}},
    }
    return parse_training_settings(content | changes, Path("x.json"))


def write(folder: Path, made_of, weights_of=None, card: ModelCard = CARD):
    """A model folder of fresh weights; returns the network."""
    torch.manual_seed(3)
    network = build_network(weights_of or made_of)
    state = {f"network.{k}": v for k, v in network.state_dict().items()}
    checkpoint = folder.parent / "checkpoint.safetensors"
    SafeCheckpointIO().save_checkpoint({"state_dict": state}, checkpoint)
    write_model(folder, made_of, card, checkpoint)
    return network


@pytest.fixture
def model(tmp_path) -> Path:
    write(tmp_path / "model", settings())
    return tmp_path / "model"


def test_what_is_written_is_loaded(tmp_path):
    made_of = settings()
    network = write(tmp_path / "model", made_of).eval()
    loaded = load_model(tmp_path / "model")
    image = torch.randn(1, 1, 5, 2, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.network(image), network(image), rtol=0, atol=0)
    assert not loaded.network.training
    assert loaded.card == CARD
    data = made_of.data.model_copy(update={"folder": ""})
    assert loaded.settings == made_of.model_copy(update={"data": data}), "to the last digit"


def test_same_weights_same_bytes(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write(tmp_path / name / "model", settings())
    first, second = (
        {p.name: p.read_bytes() for p in (tmp_path / n / "model").iterdir()} for n in "ab"
    )
    assert first == second


def test_no_path_is_kept(model):
    for path in model.iterdir():
        assert b"secret" not in path.read_bytes(), path.name


def test_described(model):
    found = load_model(model).described()
    assert found["trained_on"] == "7 virtual patients (LVO, WIS)"
    assert found["parameters"] == sum(p.numel() for p in build_network(settings()).parameters())
    assert len(found["weights_sha256"]) == 64


@pytest.mark.parametrize("virtual", [True, False])
def test_card_says_what_it_was_trained_on(tmp_path, virtual):
    write(tmp_path / "model", settings(), card=replace(CARD, virtual_only=virtual))
    text = (tmp_path / "model" / "card.md").read_text()
    assert (VIRTUAL_ONLY in text) is virtual
    assert ("7 virtual patients" in text) is virtual
    assert "7 " in text


class TestRefused:
    def line(self, name, *words: str, kind: type[InputError] = ScanError) -> None:
        with pytest.raises(kind) as caught:
            load_model(name)
        text = str(caught.value)
        assert "\n" not in text
        for word in words:
            assert word in text, text

    def test_weights_of_another_size(self, model):
        content = json.loads((model / "settings.json").read_text())
        content["settings"]["network"]["config"]["width"] = 3
        (model / "settings.json").write_text(json.dumps(content))
        self.line(model, "another size", "weights.safetensors")

    def test_weights_of_another_network(self, model):
        content = json.loads((model / "settings.json").read_text())
        content["settings"]["network"] = {"name": "unet", "config": {}}
        (model / "settings.json").write_text(json.dumps(content))
        self.line(model, "another network")

    def test_no_weights(self, model):
        (model / "weights.safetensors").unlink()
        self.line(model, "weights.safetensors")

    @pytest.mark.parametrize("keep", [0, 7, 200])
    def test_weights_cut_short(self, model, keep):
        path = model / "weights.safetensors"
        path.write_bytes(path.read_bytes()[:keep])
        self.line(model, "weights.safetensors")

    def test_a_pickle_is_not_read(self, model):
        torch.save({"a": torch.zeros(1)}, model / "weights.safetensors")
        self.line(model, "not a safetensors file")

    def test_no_settings(self, model):
        (model / "settings.json").unlink()
        self.line(model, "no settings.json", "model/")

    @pytest.mark.parametrize(
        "text", ["{", "[]", "{}", '{"schema": "strokect.model/1"}', settings_text(settings())]
    )
    def test_other_settings(self, model, text):
        (model / "settings.json").write_text(text)
        self.line(model, "settings.json", kind=SettingsError)

    def test_unknown_setting(self, model):
        content = json.loads((model / "settings.json").read_text())
        content["settings"]["network"]["config"]["widht"] = 3
        (model / "settings.json").write_text(json.dumps(content))
        self.line(model, "widht", "'width'", kind=SettingsError)

    @pytest.mark.parametrize("card", [{}, {"cases": 1}, {"groups": 3}, 3])
    def test_no_card(self, model, card):
        content = json.loads((model / "settings.json").read_text())
        (model / "settings.json").write_text(json.dumps(content | {"card": card}))
        self.line(model, "settings.json", kind=SettingsError)

    def test_a_file(self, model):
        self.line(model / "weights.safetensors", "a file")

    def test_no_such_model(self, tmp_path):
        self.line(tmp_path / "nothing", "no such model", "nothing")

    def test_unfinished_training(self, tmp_path):
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "settings.json").write_text(settings_text(settings()))
        self.line(tmp_path, "not finished", "--resume")


class TestFind:
    def test_the_folder_of_its_training(self, model):
        assert find_model(model.parent) == model
        assert find_model(model) == model

    def test_shipped_ones_by_name(self, model, tmp_path, monkeypatch):
        package = tmp_path / "package"
        shutil.copytree(model, package / "weights" / "small")
        monkeypatch.setattr(model_cards.resources, "files", lambda name: package)
        assert list(shipped_models()) == ["small"]
        assert load_model("small").card == CARD
        assert read_model(find_model("small")).summary == (
            "mjnet_2dt, 3 classes, trained on 7 virtual patients (LVO, WIS)"
        )
        with pytest.raises(ScanError, match="or one of small"):
            find_model("smal")

    def test_those_that_are_shipped_can_be_loaded(self):
        for name, folder in shipped_models().items():
            loaded = load_model(name)
            assert loaded.card.virtual_only
            assert VIRTUAL_ONLY in (folder / "card.md").read_text()
