"""4D mJ-Net: true 4D convolutions reduce time, a 3D one reduces z, then the plane.

Source: Tomasetti L et al., "CT perfusion is all we need: 4D CNN segmentation of penumbra and core
in patients with suspected ischemic stroke" (2023); here with ``Conv4d``, which is linear.
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
    centre_slices,
    fold,
    fold_series,
    norm_act,
    require_odd,
    require_one_of,
    require_positive,
    unfold,
    unfold_series,
)
from strokect.nets.conv4d import Conv4d
from strokect.nets.inplane import Decoder, Encoder, InPlaneConfig, conv_block

REDUCE_FIRST = ("time", "z")


@dataclass(frozen=True)
class MJNet4dConfig(InPlaneConfig):
    """4D mJ-Net.

    kernel_t, kernel_z : extent of the 4D kernels, odd; in the plane they are 3 x 3. With
    kernel_z 1 an output slice depends on its n_slices neighbours only; a wider one sees more of a
    slab, and zeros beyond its ends. time_strides : of the 4D blocks before the last, which spans
    all that is left of time: (2, 3) makes 30 -> 15 -> 5 -> 1.
    reduce_first : "time", or "z": the neighbours are merged before any block, kernel_z is then 1.
    stem_stride : 1, or 2: the 4D blocks run at half resolution in the plane, and the skip of full
    resolution comes from one convolution over time of the centre slice.
    """

    n_slices: int = 3
    kernel_t: int = 3
    kernel_z: int = 3
    time_strides: tuple[int, ...] = (2, 3)
    reduce_first: str = "time"
    stem_stride: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        # A settings file gives a list.
        object.__setattr__(self, "time_strides", tuple(self.time_strides))
        require_odd(kernel_t=self.kernel_t, kernel_z=self.kernel_z)
        for stride in self.time_strides:
            require_positive(time_strides=stride)
            if stride > self.kernel_t:
                raise SettingsError(
                    f"a stride of {stride} in time_strides skips time points",
                    fix=f"Give strides up to kernel_t, {self.kernel_t}",
                )
        require_one_of("reduce_first", self.reduce_first, REDUCE_FIRST)
        require_one_of("stem_stride", self.stem_stride, (1, 2))
        if self.reduce_first == "z" and self.kernel_z != 1:
            raise SettingsError(
                f"z is reduced first, kernel_z is {self.kernel_z}",
                fix="Set kernel_z to 1: no neighbours are left for the 4D blocks",
            )
        if self.stem_stride > 1 and self.depth < 2:
            raise SettingsError(
                f"stem_stride {self.stem_stride} with depth {self.depth}", fix="Set depth to 2"
            )

    @property
    def entry(self) -> int:
        """Level at which the 4D blocks hand over to the in-plane encoder."""
        return self.stem_stride - 1


class Block4d(nn.Module):
    """4D convolution, normalisation (per slice), leaky ReLU."""

    def __init__(
        self,
        config: MJNet4dConfig,
        channels: tuple[int, int],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        pad: tuple[int, int],
    ) -> None:
        """channels : in, out. kernel : over (t, z). stride : over time, in the plane. pad : zeros
        beyond each end of (t, z)."""
        super().__init__()
        self.conv = Conv4d(
            *channels,
            (*kernel, 3, 3),
            stride=(stride[0], 1, stride[1], stride[1]),
            padding=(*pad, 1, 1),
            bias=False,
        )
        self.act = norm_act(config.norm, channels[1], 3, config.negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)  # (B, C, T, Z, Y, X)
        return unfold_series(self.act(fold_series(y)), x.shape[0])


class MergeZ(nn.Module):
    """3D block that merges n_slices neighbours, valid along z."""

    def __init__(self, config: MJNet4dConfig, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            channels, channels, (config.n_slices, 3, 3), padding=(0, 1, 1), bias=False
        )
        self.act = norm_act(config.norm, channels, 2, config.negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(fold(self.conv(x)))  # (B, C, Z, Y, X) -> (B*Z', C, Y, X)


def time_blocks(config: MJNet4dConfig, inputs: int, plane_stride: int) -> nn.Sequential:
    """The 4D blocks that reduce time to 1, from ``inputs`` channels to those of the entry level."""
    blocks: list[nn.Module] = []
    times, extent, pad_z = config.time_points, config.kernel_t, config.kernel_z // 2
    for stride in config.time_strides:
        after = math.ceil(times / stride)
        # Padding by half a kernel would leave the last time points out where T is a multiple of
        # the stride (30 -> 15 -> 5 lost two): pad what the windows need to span all.
        pad_t = math.ceil(max(0, (after - 1) * stride + extent - times) / 2)
        channels, kernel = (inputs, config.width), (extent, config.kernel_z)
        blocks.append(Block4d(config, channels, kernel, (stride, plane_stride), (pad_t, pad_z)))
        times, inputs, plane_stride = after, config.width, 1
    channels, kernel = (inputs, config.channels_at(config.entry)), (times, config.kernel_z)
    blocks.append(Block4d(config, channels, kernel, (1, plane_stride), (0, pad_z)))
    return nn.Sequential(*blocks)


class MJNet4d(Network):
    """4D mJ-Net: (B, C, T, Z, Y, X) -> logits (B, K, Z', Y, X), Z' = Z - (n_slices - 1).

    Raises GeometryError on another shape.
    """

    Config: ClassVar[type[NetworkConfig]] = MJNet4dConfig
    config: MJNet4dConfig

    def __init__(self, config: MJNet4dConfig) -> None:
        super().__init__(config)
        self.stem: nn.Sequential | None = None
        self.merge: MergeZ | None = None
        if config.reduce_first == "z":
            channels, stride = (config.channels, config.width), (1, config.stem_stride)
            kernel = (1, config.n_slices)
            self.stem = nn.Sequential(Block4d(config, channels, kernel, stride, (0, 0)))
            self.time = time_blocks(config, config.width, 1)
        else:
            self.time = time_blocks(config, config.channels, config.stem_stride)
            self.merge = MergeZ(config, config.channels_at(config.entry))
        self.skip: nn.Sequential | None = None
        if config.entry:
            self.skip = conv_block(config, config.channels * config.time_points, config.width)
        self.encoder = Encoder(config, config.entry)
        self.decoder = Decoder(config)
        self.head = nn.Conv2d(config.width, config.classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        y = x if self.stem is None else self.stem(x)  # (B, C, T, Z or Z', Y, X)
        y = self.time(y).squeeze(2)  # (B, C, Z or Z', Y, X)
        y = fold(y) if self.merge is None else self.merge(y)  # (B*Z', C, Y, X)
        features = self.encoder(y)  # levels of (B*Z', C, Y, X), finest first
        if self.skip is not None:
            centre = fold_series(centre_slices(x, self.config.n_slices, 3))  # (B*Z', C, T, Y, X)
            features = [self.skip(centre.flatten(1, 2)), *features]
        logits = self.head(self.decoder(features))  # (B*Z', K, Y, X)
        return unfold(logits, x.shape[0])  # (B, K, Z', Y, X)
