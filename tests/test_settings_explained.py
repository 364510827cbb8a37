"""The explanation of every key is made from the schema, and is the one that is shipped."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from strokect import catalog
from strokect.settings_explained import as_text, explained, texts_of
from strokect.training_settings import load_training_settings

FOLDER = Path(__file__).parents[1] / "settings" / "multi_input"
SHIPPED = sorted(p for p in FOLDER.glob("*.json") if p.name != "Setting_explained.json")
CONTENT = explained()


def test_the_shipped_file_is_what_the_settings_say():
    """Write it again with `strokect settings explain -o FILE --overwrite` after a change."""
    shipped = (FOLDER / "Setting_explained.json").read_text(encoding="utf-8")
    assert shipped == as_text(CONTENT)


def test_the_text_is_the_content():
    assert json.loads(as_text(CONTENT)) == json.loads(json.dumps(CONTENT))


def _rooms():
    yield "keys", CONTENT["keys"]
    for table in ("networks", "layouts"):
        assert list(CONTENT[table]) == list(getattr(catalog, table.upper()))
        yield from ((f"{table} {name}", rows) for name, rows in CONTENT[table].items())


@pytest.mark.parametrize(("room", "rows"), list(_rooms()), ids=lambda v: v if v is str else None)
def test_no_key_is_without_a_text(room, rows):
    assert not [key for key, said in rows.items() if not said["text"]]


def _keys(value, room=""):
    for name, inner in value.items():
        key = f"{room}{name}"
        yield key
        if isinstance(inner, dict) and key not in ("data.layout_options", "network.config"):
            yield from _keys(inner, f"{key}.")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_key_of_a_setting_is_explained(path):
    settings = load_training_settings(path)
    assert settings.name == path.stem
    room = f"input ({settings.input.kind})."
    for key in _keys(settings.model_dump(mode="json")):
        shown = key.replace("input.", room) if key.startswith("input.") else key
        assert shown in CONTENT["keys"], shown
    for key in settings.network.config:
        assert f"network.config.{key}" in CONTENT["networks"][settings.network.name]


def test_the_settings_are_those_of_the_sources_table():
    names = {"Baseline"} | {
        f"Mdl_{mode}_{form}" for mode in "FUG" for form in ("Pm", "PmM", "PmN", "PmMN")
    } - {"Mdl_F_Pm"}
    assert {p.stem for p in SHIPPED} == names and len(names) == 12
    for path in SHIPPED:
        settings = load_training_settings(path)
        form = "Pm" if path.stem == "Baseline" else path.stem.rpartition("_")[2]
        assert ("mip" in settings.input.maps) == ("M" in form)
        assert settings.input.scores == (("nihss",) if "N" in form else ())
        mode = "F" if path.stem == "Baseline" else path.stem[4]
        parts = {"F": ["decoder"], "U": ["all"], "G": ["decoder", "half", "all"]}[mode]
        assert [stage.train for stage in settings.finetune] == parts


def test_types_defaults_and_choices():
    keys = CONTENT["keys"]
    assert keys["name"]["default"] == "(must be given)"
    assert keys["optimizer.lr"] | {"text": ""} == {"text": "", "type": "number", "default": 0.001}
    assert keys["training.patience"]["type"] == "whole number or null"
    assert keys["input (maps).form"]["choices"] == ["colour", "grey", "scalar"]
    assert keys["slab.tile"]["type"].startswith("list of 2: whole number")
    assert "multi_input" in keys["network.name"]["choices"]
    assert "finetune[n].train" in keys and "data.virtual.patients" in keys


def test_texts_come_from_docstrings():
    @dataclass(frozen=True)
    class Base:
        """What all have. width : channels [1]_."""

        width: int = 1

    @dataclass(frozen=True)
    class Inner(Base):
        """A thing: with a colon. a, b : two of them; other : no field. low_p : chance, within
        ``high``. Raises SettingsError where width : is wrong."""

        a: int = 0
        b: int = 0
        low_p: float = 0.0
        high: float = 1.0
        bare: int = 0

    assert texts_of(Inner) == {
        "width": "channels",
        "a": "a, b: two of them; other : no field",
        "b": "a, b: two of them; other : no field",
        "low_p": "chance, within high",
        "high": "see low_p: chance, within high",
    }
