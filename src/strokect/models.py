"""Trained models: weights, the settings that made them, and a card that says what they are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from strokect import RESEARCH_USE_ONLY, VIRTUAL_ONLY
from strokect.core.quantities import QUANTITIES
from strokect.io.outputs import DONE_FILE, result_folder, write_json
from strokect.learn.checkpoint import WEIGHTS_FILE, load_weights, module_weights, write_tensors
from strokect.learn.finetune import Stage, epochs_of
from strokect.learn.inputs import InputOptions
from strokect.learn.map_inputs import MapInputOptions
from strokect.model_cards import SCHEMA, SETTINGS_FILE, ModelCard, find_model, read_model
from strokect.training_settings import (
    PRIVATE,
    TrainingSettings,
    build_network,
    parse_training_settings,
)

CARD_FILE = "card.md"


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
        kept = settings.model_dump(mode="json", exclude=PRIVATE)
        content = {"schema": SCHEMA, "settings": kept, "card": asdict(card)}
        (partial / SETTINGS_FILE).write_text(_exact(content), encoding="utf-8")
        (partial / CARD_FILE).write_text(_card_text(settings, card, network), encoding="utf-8")
        write_json(partial / DONE_FILE, {"schema": SCHEMA, "name": settings.name})


def settings_text(settings: TrainingSettings) -> str:
    """Settings as JSON that is read back without a difference."""
    return _exact(settings.model_dump(mode="json"))


def _exact(content: Any) -> str:
    """JSON whose numbers keep all their digits, other than those of a summary."""
    return json.dumps(content, indent=2) + "\n"


def load_model(name: str | Path) -> Model:
    """A model by its folder, or by the name of one that is shipped with strokect.

    Raises ScanError (no such model, not a model, weights of another network), SettingsError.
    """
    found = read_model(find_model(name))
    settings = parse_training_settings(found.settings, found.folder / SETTINGS_FILE)
    network, weights = build_network(settings), found.folder / WEIGHTS_FILE
    load_weights(network, weights)
    network.eval()
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return Model(network, settings, found.card, digest)


def _card_text(settings: TrainingSettings, card: ModelCard, network: nn.Module) -> str:
    parameters = sum(p.numel() for p in network.parameters())
    stages = settings.finetune or (Stage(),)
    epochs = sum(epochs_of(stages, settings.training.epochs))
    lines = [
        f"# {settings.name}",
        "",
        f"{RESEARCH_USE_ONLY}" + (f" {VIRTUAL_ONLY}" if card.virtual_only else ""),
        "",
        f"- network: {settings.network.name}, {parameters:,} parameters",
        f"- trained on: {card.trained_on}, with strokect {card.strokect}",
        f"- input: {_input_text(settings.input)}",
        f"- output: {settings.data.classes} classes",
        f"- loss: {settings.loss.name}; at most {epochs} epochs",
        "",
        "All settings are in settings.json; the weights are safetensors.",
    ]
    return "\n".join(lines) + "\n"


def _input_text(options: InputOptions | MapInputOptions) -> str:
    if isinstance(options, MapInputOptions):
        names = ", ".join(QUANTITIES[name].label for name in options.maps)
        beside = f", with {', '.join(options.scores)}" if options.scores else ""
        return f"maps ({names}) as {options.form}, {options.source}{beside}"
    return (
        f"CT perfusion, {options.time_points} times every {options.interval_s:g} s from "
        f"{options.before_s:g} s before contrast reaches the brain"
    )
