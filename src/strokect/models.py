"""Trained models: weights, the settings that made them, and a card that says what they are."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from torch import nn

from strokect import RESEARCH_USE_ONLY
from strokect.core.errors import ScanError, SettingsError
from strokect.io.outputs import result_folder, write_json
from strokect.learn.checkpoint import (
    SETTINGS_FILE,
    WEIGHTS_FILE,
    load_weights,
    module_weights,
    write_tensors,
)
from strokect.settings import read_object
from strokect.training_settings import TrainingSettings, build_network, parse_training_settings

SCHEMA = "strokect.model/1"
CARD_FILE = "card.md"
VIRTUAL_ONLY = "Trained on virtual patients only. Nothing is known of how it does on real patients."


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


@dataclass(frozen=True, eq=False)
class Model:
    """A network with its weights, in evaluation mode. sha256 : of the file of weights."""

    network: nn.Module
    settings: TrainingSettings
    card: ModelCard
    sha256: str

    def described(self) -> dict[str, Any]:
        """For summary.json and the report."""
        return {
            "name": self.settings.name,
            "network": self.settings.network.name,
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "trained_on": self.card.trained_on,
            "virtual_only": self.card.virtual_only,
            "weights_sha256": self.sha256,
        }


def write_model(
    folder: Path, settings: TrainingSettings, card: ModelCard, checkpoint: Path
) -> None:
    """Write the model of a checkpoint, whole or not at all; one that stands there is replaced."""
    network = build_network(settings)
    with result_folder(folder, overwrite=True) as partial:
        write_tensors(
            partial / WEIGHTS_FILE, module_weights(checkpoint, "network."), {"format": "pt"}
        )
        load_weights(network, partial / WEIGHTS_FILE)
        kept = settings.model_copy(update={"data": settings.data.model_copy(update={"folder": ""})})
        write_json(
            partial / SETTINGS_FILE,
            {"schema": SCHEMA, "settings": kept.model_dump(mode="json"), "card": asdict(card)},
        )
        (partial / CARD_FILE).write_text(_card_text(settings, card, network), encoding="utf-8")
        write_json(partial / "summary.json", {"schema": SCHEMA, "name": settings.name})


def load_model(name: str | Path) -> Model:
    """A model by its folder, or by the name of one that is shipped with strokect.

    Raises ScanError (no such model, not a model, weights of another network), SettingsError.
    """
    folder = find_model(name)
    path = folder / SETTINGS_FILE
    if not path.exists():
        raise ScanError(
            f"no model (it has no {SETTINGS_FILE})", folder, "Give the folder model/ of a training"
        )
    content = read_object(path, "what `strokect train` writes")
    if content.get("schema") != SCHEMA or "settings" not in content or "card" not in content:
        raise SettingsError(
            "not the settings of a model", path, "Give the folder model/ of a training"
        )
    settings = parse_training_settings(content["settings"], path)
    try:
        card = ModelCard(**{**content["card"], "groups": tuple(content["card"]["groups"])})
    except (TypeError, KeyError) as error:
        raise SettingsError("the card of the model cannot be read", path, "Train again") from error
    network = build_network(settings)
    load_weights(network, folder / WEIGHTS_FILE)
    network.eval()
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    return Model(network, settings, card, digest)


def find_model(name: str | Path) -> Path:
    """The folder of a model. Raises ScanError that lists the shipped ones."""
    given = Path(name)
    if (given / "model" / SETTINGS_FILE).exists():  # the folder of a training
        return given / "model"
    if given.is_dir():
        return given
    shipped = shipped_models()
    if str(name) in shipped:
        return shipped[str(name)]
    raise ScanError(
        "no such model", name, f"Give the folder of a model, or one of {', '.join(shipped) or '-'}"
    )


def shipped_models() -> dict[str, Path]:
    """Models that come with strokect, by name."""
    root = Path(str(resources.files("strokect"))) / "weights"
    return {p.parent.name: p.parent for p in sorted(root.glob(f"*/{SETTINGS_FILE}"))}


def _card_text(settings: TrainingSettings, card: ModelCard, network: nn.Module) -> str:
    parameters = sum(p.numel() for p in network.parameters())
    scan = settings.input
    lines = [
        f"# {settings.name}",
        "",
        f"{RESEARCH_USE_ONLY}" + (f" {VIRTUAL_ONLY}" if card.virtual_only else ""),
        "",
        f"- network: {settings.network.name}, {parameters:,} parameters",
        f"- trained on: {card.trained_on}, with strokect {card.strokect}",
        f"- input: CT perfusion, {scan.time_points} times every {scan.interval_s:g} s from "
        f"{scan.before_s:g} s before contrast reaches the brain",
        f"- output: {settings.data.classes} classes",
        f"- loss: {settings.loss.name}; at most {settings.training.epochs} epochs",
        "",
        "All settings are in settings.json; the weights are safetensors.",
    ]
    return "\n".join(lines) + "\n"
