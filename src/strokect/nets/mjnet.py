"""mJ-Net on slices in time: 2D+time (one slice) and 3D+time (neighbours, one shared encoder).

Source: Tomasetti L et al., IEEE Access 2020;8:202006-202018 (mJ-Net); the 3D+time form fuses the
features of neighbouring slices on each level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from strokect.core.errors import SettingsError
from strokect.nets.blocks import (
    Network,
    NetworkConfig,
    fold,
    fold_series,
    norm_act,
    require_one_of,
    unfold,
)
from strokect.nets.inplane import Decoder, Encoder, InPlaneConfig, conv_block

TEMPORAL = ("full", "blocks")
POOLS = (2, 3)  # the third block pools what is left: 30 -> 15 -> 5 -> 1


@dataclass(frozen=True)
class MJNetConfig(InPlaneConfig):
    """mJ-Net on slices. temporal : how time is reduced, "full" by one convolution over the full
    extent, "blocks" by three blocks of convolution and pooling, T -> T/2 -> T/6 -> 1."""

    temporal: str = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("temporal", self.temporal, TEMPORAL)


@dataclass(frozen=True)
class MJNet2dTConfig(MJNetConfig):
    """2D+time: ``n_slices`` is 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_slices != 1:
            raise SettingsError(
                f"mjnet_2dt sees one slice, n_slices is {self.n_slices}",
                fix="Set n_slices to 1, or choose mjnet_3dt",
            )


@dataclass(frozen=True)
class MJNet3dTConfig(MJNetConfig):
    """3D+time: ``n_slices`` neighbours make one slice."""

    n_slices: int = 3


class FullTime(nn.Module):
    """One convolution over all time points and 3 x 3 pixels."""

    def __init__(self, config: MJNetConfig) -> None:
        super().__init__()
        # Time points as input channels: the same sum as a (T, 3, 3) kernel, and quicker.
        self.block = conv_block(config, config.channels * config.time_points, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x.flatten(1, 2))  # (N, C, T, Y, X) -> (N, width, Y, X)


class TimeBlocks(nn.Module):
    """Three blocks of a 3 x 3 x 3 convolution and pooling over time, the last over all that is
    left. Any number of time points: a last window that is not full is pooled as it is."""

    def __init__(self, config: MJNetConfig) -> None:
        super().__init__()
        times, inputs = config.time_points, config.channels
        layers: list[nn.Module] = []
        for pool in (*POOLS, None):
            size = times if pool is None else pool
            layers += [
                nn.Conv3d(inputs, config.width, 3, padding=1, bias=False),
                norm_act(config.norm, config.width, 3, config.negative_slope),
                nn.MaxPool3d((size, 1, 1), ceil_mode=True),
            ]
            times, inputs = math.ceil(times / size), config.width
        self.blocks = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x).squeeze(2)  # (N, C, T, Y, X) -> (N, width, Y, X)


class _SliceEncoder(nn.Module):
    """Time, then the plane: one slice's curves -> features of all levels."""

    def __init__(self, config: MJNetConfig) -> None:
        super().__init__()
        self.time = (FullTime if config.temporal == "full" else TimeBlocks)(config)
        self.plane = Encoder(config)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.plane(self.time(x))


class MJNet2dT(Network):
    """mJ-Net on each slice by itself: any Z in, the same Z out.

    (B, C, T, Z, Y, X) -> logits (B, K, Z, Y, X). Raises GeometryError on another shape.
    """

    Config: ClassVar[type[NetworkConfig]] = MJNet2dTConfig
    config: MJNet2dTConfig

    def __init__(self, config: MJNet2dTConfig) -> None:
        super().__init__(config)
        self.encoder = _SliceEncoder(config)
        self.decoder = Decoder(config)
        self.head = nn.Conv2d(config.width, config.classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        features = self.encoder(fold_series(x))  # levels of (B*Z, C, Y, X)
        logits = self.head(self.decoder(features))  # (B*Z, K, Y, X)
        return unfold(logits, x.shape[0])  # (B, K, Z, Y, X)


class FuseSlices(nn.Module):
    """Weighted sum over a slice and its neighbours, per channel pair: valid along z."""

    def __init__(self, config: MJNetConfig, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, (config.n_slices, 1, 1), bias=False)
        self.act = norm_act(config.norm, channels, 2, config.negative_slope)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        fused = self.conv(unfold(x, batch))  # (B, C, Z', Y, X)
        return self.act(fold(fused))  # (B*Z', C, Y, X)


class MJNet3dT(Network):
    """mJ-Net on neighbouring slices: one encoder for all of them, fused on each level.

    (B, C, T, Z, Y, X) -> logits (B, K, Z', Y, X), Z' = Z - (n_slices - 1): each slice is encoded
    once, however many output slices it serves. Raises GeometryError on another shape.
    """

    Config: ClassVar[type[NetworkConfig]] = MJNet3dTConfig
    config: MJNet3dTConfig

    def __init__(self, config: MJNet3dTConfig) -> None:
        super().__init__(config)
        self.encoder = _SliceEncoder(config)
        self.fuse = nn.ModuleList(
            FuseSlices(config, config.channels_at(level)) for level in range(config.depth)
        )
        self.decoder = Decoder(config)
        self.head = nn.Conv2d(config.width, config.classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        batch = x.shape[0]
        features = self.encoder(fold_series(x))  # levels of (B*Z, C, Y, X)
        features = [fuse(f, batch) for fuse, f in zip(self.fuse, features, strict=True)]
        logits = self.head(self.decoder(features))  # (B*Z', K, Y, X)
        return unfold(logits, batch)  # (B, K, Z', Y, X)
