"""Stages of a training in which more and more of the encoders is trained.

Frozen: the decoder alone. Unfrozen: all. Gradual: the decoder, then the deeper half of each encoder
too, then all (Tomasetti L et al., see docs/learning.md), each from the best weights of the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from strokect.core.errors import SettingsError

Part = Literal["decoder", "half", "all"]


@dataclass(frozen=True)
class Stage:
    """One stage.

    train : "decoder" freezes the encoders, "half" trains the deeper half of the layers of each,
    "all" everything. epochs : null for an equal share of what the training has left for stages
    without a number. lr : learning rate, null for that of the optimizer. patience : as in
    training, null for that there.
    """

    train: Part = "all"
    epochs: int | None = None
    lr: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{value}", f"finetune.{name}", "Give 1 or more, or null")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise SettingsError(f"{self.lr:g}", "finetune.lr", "Give a number above 0, or null")


def epochs_of(stages: Sequence[Stage], total: int) -> list[int]:
    """Epochs of each stage of a training of ``total`` epochs, each at least 1."""
    given = sum(stage.epochs or 0 for stage in stages)
    open_ones = sum(stage.epochs is None for stage in stages)
    share = max(1, (total - given) // open_ones) if open_ones else 0
    return [stage.epochs or share for stage in stages]


def freeze(network: Any, part: Part) -> None:
    """Let only ``part`` of the network be trained.

    Raises SettingsError for a part of a network without encoders that can be frozen.
    """
    encoders: list[list[nn.Module]] = network.encoder_layers()
    if not encoders and part != "all":
        raise SettingsError(
            f"train {part!r} of a network without encoders that can be frozen",
            "finetune",
            'Choose the network multi_input, or train "all"',
        )
    for weight in network.parameters():
        weight.requires_grad_(True)
    for layers in encoders:
        frozen = {"decoder": len(layers), "half": len(layers) // 2, "all": 0}[part]
        for layer in layers[:frozen]:
            layer.requires_grad_(False)
