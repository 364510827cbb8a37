"""Temporal convolutional network: dilated residual convolutions along each voxel's curve.

Source: Bai S et al., arXiv:1803.01271 (2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from strokect.core.errors import SettingsError
from strokect.nets.blocks import (
    NORMS,
    Network,
    NetworkConfig,
    fold_series,
    norm_act,
    norm_layer,
    require_fraction,
    require_odd,
    require_one_of,
    require_positive,
    unfold,
)

CONTEXT = ("first", "every")


@dataclass(frozen=True)
class TemporalConvNetConfig(NetworkConfig):
    """Temporal convolutional network on each voxel and its neighbourhood; ``n_slices`` is 1.

    width : channels. blocks : residual blocks of two convolutions, dilated by 1, 2, 4, ...
    kernel_t : extent of the kernels in time. context : odd side of the neighbourhood in pixels.
    context_in : "first", a convolution in the plane before the blocks, or "every", in each of them
    (wider by context - 1 pixels a convolution, and slower). causal : an output sees no later time
    point. stem_stride : 1, or 2: the blocks run on every second pixel, and one convolution over
    time gives the full resolution. norm : per slice, except "batch". dropout : share of channels
    dropped in each block (``nn.Dropout3d``). negative_slope : of leaky ReLU.
    """

    width: int = 16
    blocks: int = 4
    kernel_t: int = 3
    context: int = 3
    context_in: str = "first"
    causal: bool = True
    stem_stride: int = 1
    norm: str = "group"
    dropout: float = 0.0
    negative_slope: float = 0.33

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(width=self.width, blocks=self.blocks)
        require_odd(kernel_t=self.kernel_t, context=self.context)
        require_one_of("context_in", self.context_in, CONTEXT)
        require_one_of("stem_stride", self.stem_stride, (1, 2))
        require_one_of("norm", self.norm, NORMS)
        require_fraction(dropout=self.dropout, negative_slope=self.negative_slope)
        if self.n_slices != 1:
            raise SettingsError(
                f"tcn sees one slice, n_slices is {self.n_slices}", fix="Set n_slices to 1"
            )

    @property
    def in_plane_multiple(self) -> int:
        """Y and X of the input are multiples of this."""
        return self.stem_stride


class TimeConv(nn.Module):
    """Dilated convolution along time that keeps its length; (N, C, T, Y, X)."""

    def __init__(self, config: TemporalConvNetConfig, dilation: int) -> None:
        super().__init__()
        width, kernel, side = config.width, config.kernel_t, config.context
        reach = dilation * (kernel - 1)
        self.before = reach if config.causal else reach // 2
        self.after = reach - self.before
        # Without neighbours the plane is one axis: a 2D kernel, 2 to 5 x quicker than (k, 1, 1).
        self.flat = config.context_in == "first"
        self.conv: nn.Conv2d | nn.Conv3d
        if self.flat:
            self.conv = nn.Conv2d(width, width, (kernel, 1), dilation=(dilation, 1), bias=False)
        else:
            self.conv = nn.Conv3d(
                width,
                width,
                (kernel, side, side),
                padding=(0, side // 2, side // 2),
                dilation=(dilation, 1, 1),
                bias=False,
            )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.pad(x, (0, 0, 0, 0, self.before, self.after))
        if self.flat:
            return self.conv(y.flatten(3)).unflatten(3, x.shape[3:])
        return self.conv(y)


class TimeBlock(nn.Module):
    """Two dilated convolutions beside an identity."""

    def __init__(self, config: TemporalConvNetConfig, dilation: int) -> None:
        super().__init__()
        self.first = TimeConv(config, dilation)
        self.act = norm_act(config.norm, config.width, 3, config.negative_slope)
        self.second = TimeConv(config, dilation)
        self.norm = norm_layer(config.norm, config.width, 3)
        self.drop = nn.Dropout3d(config.dropout) if config.dropout else nn.Identity()
        self.out = nn.LeakyReLU(config.negative_slope, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.first(x))  # (N, C, T, Y, X)
        y = self.drop(self.norm(self.second(y)))
        return self.out(x + y)


class TemporalConvNet(Network):
    """(B, C, T, Z, Y, X) -> logits (B, K, Z, Y, X), each slice by itself.

    The features of all time points of a voxel are weighed together at the end, so that the time
    of an event counts, not only its shape. Raises GeometryError on another shape.
    """

    Config: ClassVar[type[NetworkConfig]] = TemporalConvNetConfig
    config: TemporalConvNetConfig

    def __init__(self, config: TemporalConvNetConfig) -> None:
        super().__init__(config)
        width, side, stride = config.width, config.context, config.stem_stride
        self.inlet = nn.Sequential(
            nn.Conv3d(
                config.channels,
                width,
                (1, side, side),
                stride=(1, stride, stride),
                padding=(0, side // 2, side // 2),
                bias=False,
            ),
            norm_act(config.norm, width, 3, config.negative_slope),
        )
        self.blocks = nn.Sequential(*(TimeBlock(config, 2**i) for i in range(config.blocks)))
        # Time points as channels: a kernel over the full extent, without a loop over pixels.
        self.readout = nn.Sequential(
            nn.Conv2d(width * config.time_points, 2 * width, 1, bias=False),
            norm_act(config.norm, 2 * width, 2, config.negative_slope),
        )
        self.skip: nn.Sequential | None = None
        if stride > 1:
            self.skip = nn.Sequential(
                nn.Conv2d(
                    config.channels * config.time_points, width, side, padding=side // 2, bias=False
                ),
                norm_act(config.norm, width, 2, config.negative_slope),
            )
        self.head = nn.Conv2d((2 if self.skip is None else 3) * width, config.classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        series = fold_series(x)  # (B*Z, C, T, Y, X)
        y = self.blocks(self.inlet(series))
        y = self.readout(y.flatten(1, 2))  # (B*Z, 2C, Y, X)
        if self.skip is not None:
            y = functional.interpolate(y, size=x.shape[4:], mode="bilinear")
            y = torch.cat((self.skip(series.flatten(1, 2)), y), 1)  # (B*Z, 3C, Y, X)
        return unfold(self.head(y), x.shape[0])  # (B, K, Z, Y, X)
