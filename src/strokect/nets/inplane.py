"""The in-plane encoder and decoder of the mJ-Net family, on folded slices (N, C, Y, X).

Level 0 is full resolution; each level halves Y and X and doubles the channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from strokect.nets.blocks import (
    NORMS,
    NetworkConfig,
    norm_act,
    require_fraction,
    require_one_of,
    require_positive,
)


@dataclass(frozen=True)
class InPlaneConfig(NetworkConfig):
    """A network with an in-plane encoder and decoder.

    width : channels of level 0. depth : levels. attention : gate each skip by what comes from the
    level below [1]_. nested : fill the skips with nodes, each fed by all before it [2]_.
    norm : per slice, except "batch". dropout : share of channels dropped after each level; the
    layers are ``nn.Dropout2d``, to be left on for Monte-Carlo use. negative_slope : of leaky ReLU.

    .. [1] Oktay O et al., MIDL 2018 (attention U-Net).
    .. [2] Zhou Z et al., DLMIA 2018 (U-Net++).
    """

    width: int = 16
    depth: int = 4
    attention: bool = False
    nested: bool = False
    norm: str = "group"
    dropout: float = 0.0
    negative_slope: float = 0.33

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(width=self.width, depth=self.depth)
        require_one_of("norm", self.norm, NORMS)
        require_fraction(dropout=self.dropout, negative_slope=self.negative_slope)

    def channels_at(self, level: int) -> int:
        """Channels of the features of a level."""
        return self.width * 2**level

    @property
    def in_plane_multiple(self) -> int:
        """What Y and X are multiples of: one pixel of the deepest level."""
        return 2 ** (self.depth - 1)


def conv_block(config: InPlaneConfig, inputs: int, outputs: int) -> nn.Sequential:
    """3 x 3 convolution, normalisation, leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        norm_act(config.norm, outputs, 2, config.negative_slope),
    )


def level_block(config: InPlaneConfig, inputs: int, level: int) -> nn.Sequential:
    """The work of one level: two convolutions and dropout."""
    width = config.channels_at(level)
    drop = nn.Dropout2d(config.dropout) if config.dropout else nn.Identity()
    return nn.Sequential(conv_block(config, inputs, width), conv_block(config, width, width), drop)


class Encoder(nn.Module):
    """Features of the levels from ``entry`` to the deepest."""

    def __init__(self, config: InPlaneConfig, entry: int = 0) -> None:
        super().__init__()
        first = level_block(config, config.channels_at(entry), entry)
        deeper = (
            level_block(config, config.channels_at(i - 1), i)
            for i in range(entry + 1, config.depth)
        )
        self.levels = nn.ModuleList([first, *deeper])

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [self.levels[0](x)]  # (N, C, Y, X)
        for level in self.levels[1:]:
            features.append(level(functional.max_pool2d(features[-1], 2)))  # (N, 2C, Y/2, X/2)
        return features


class AttentionGate(nn.Module):
    """Weighs each pixel of a skip by its fit to what comes from below; both of one size."""

    def __init__(self, config: InPlaneConfig, skip: int, below: int) -> None:
        super().__init__()
        inner = max(1, below // 2)
        self.both = nn.Conv2d(skip + below, inner, 1, bias=False)
        self.act = norm_act(config.norm, inner, 2, config.negative_slope)
        self.weight = nn.Conv2d(inner, 1, 1)

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        weight = self.weight(self.act(self.both(torch.cat((skip, below), 1))))  # (N, 1, Y, X)
        return skip * torch.sigmoid(weight)


class Node(nn.Module):
    """One node of the decoder: ``skips`` tensors of its own level and one from the level below."""

    def __init__(self, config: InPlaneConfig, level: int, skips: int) -> None:
        super().__init__()
        width = config.channels_at(level)
        self.up = nn.ConvTranspose2d(config.channels_at(level + 1), width, 2, stride=2)
        self.gate = AttentionGate(config, skips * width, width) if config.attention else None
        self.block = level_block(config, (skips + 1) * width, level)

    def forward(self, skips: list[Tensor], below: Tensor) -> Tensor:
        up = self.up(below)  # (N, C, Y, X)
        skip = torch.cat(skips, 1)  # (N, skips*C, Y, X)
        if self.gate is not None:
            skip = self.gate(skip, up)
        return self.block(torch.cat((skip, up), 1))


class Decoder(nn.Module):
    """From the features of all levels, finest first, to those of level 0.

    Node (i, j) is the j-th on level i. Plain: the last of each level only. Nested: all.
    """

    def __init__(self, config: InPlaneConfig) -> None:
        super().__init__()
        last = config.depth - 1
        self.order = [
            (level, step)
            for step in range(1, config.depth)
            for level in range(config.depth - step)
            if config.nested or level + step == last
        ]
        self.nodes = nn.ModuleList(
            Node(config, level, step if config.nested else 1) for level, step in self.order
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        rows = [[feature] for feature in features]
        for (level, _), node in zip(self.order, self.nodes, strict=True):
            # Rows are filled step by step, finest first: the newest below is the one needed.
            below = rows[level + 1][-1]
            rows[level].append(node(rows[level], below))
        return rows[0][-1]  # (N, width, Y, X)
