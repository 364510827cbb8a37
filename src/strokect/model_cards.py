"""Folders of trained models, and the cards that say what they are; nothing here loads a network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from strokect.core.errors import ScanError, SettingsError

SCHEMA = "strokect.model/1"
SETTINGS_FILE = "settings.json"
_FIX = "Give the folder model/ of a training"


@dataclass(frozen=True)
class ModelCard:
    """What a model was trained on. groups : of patients. strokect : the version."""

    cases: int
    groups: tuple[str, ...]
    virtual_only: bool
    strokect: str

    @property
    def trained_on(self) -> str:
        kind = "virtual patients" if self.virtual_only else "patients"
        groups = f" ({', '.join(self.groups)})" if self.groups else ""
        return f"{self.cases} {kind}{groups}"


@dataclass(frozen=True)
class ModelFolder:
    """What stands in the folder of a model. settings : of its training, as JSON values."""

    folder: Path
    settings: dict[str, Any]
    card: ModelCard

    @property
    def summary(self) -> str:
        """The model in one line."""
        network, data = self.settings["network"]["name"], self.settings["data"]["classes"]
        return f"{network}, {data} classes, trained on {self.card.trained_on}"


def read_model(folder: Path) -> ModelFolder:
    """Settings and card of a model. Raises ScanError, SettingsError for another folder."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        raise ScanError(f"no model (it has no {SETTINGS_FILE})", folder, _FIX)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError("unreadable settings of a model", path, "Copy it again") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise SettingsError("not the settings of a model", path, _FIX)
    try:
        card = ModelCard(**{**content["card"], "groups": tuple(content["card"]["groups"])})
        settings = content["settings"]
        settings["network"]["name"], settings["data"]["classes"]
    except (TypeError, KeyError) as error:
        raise SettingsError("the settings of the model are cut short", path, _FIX) from error
    return ModelFolder(folder, settings, card)


def find_model(name: str | Path) -> Path:
    """The folder of a model, by itself, by its training, or by the name of a shipped one.

    Raises ScanError that lists the shipped ones.
    """
    given = Path(name)
    if (given / "model" / SETTINGS_FILE).exists():  # the folder of a training
        return given / "model"
    if (given / "checkpoints").is_dir():
        raise ScanError(
            "the training is not finished", given, "Go on with `strokect train ... --resume`"
        )
    if given.is_dir():
        return given
    if given.is_file():
        raise ScanError("a file where the folder of a model is needed", given, _FIX)
    shipped = shipped_models()
    if str(name) in shipped:
        return shipped[str(name)]
    known = f", or one of {', '.join(shipped)}" if shipped else ""
    raise ScanError("no such model", name, f"Give the folder of a model{known}")


def shipped_models() -> dict[str, Path]:
    """Folders of the models that come with strokect, by name."""
    root = Path(str(resources.files("strokect"))) / "weights"
    return {p.parent.name: p.parent for p in sorted(root.glob(f"*/{SETTINGS_FILE}"))}
