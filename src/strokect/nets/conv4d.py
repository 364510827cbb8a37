"""True 4D convolution and its adjoint."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from strokect.core.errors import GeometryError, SettingsError

Four = tuple[int, int, int, int]


def four(value: int | tuple[int, ...], name: str, least: int = 1) -> Four:
    """An int or four of them as four."""
    out = (value,) * 4 if isinstance(value, int) else tuple(int(v) for v in value)
    if len(out) != 4 or min(out) < least:
        raise SettingsError(
            f"bad {name}", str(value), f"Give an integer of at least {least}, or four of them"
        )
    return out  # type: ignore[return-value]


def conv4d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int | Four = 1,
           padding: int | Four | str = 0, dilation: int | Four = 1, groups: int = 1) -> Tensor:  # fmt: skip
    """4D convolution (simple version)."""
    stride, dilation = four(stride, "stride"), four(dilation, "dilation")
    kernel = tuple(weight.shape[2:])
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        x = functional.pad(x, [v for t in reversed(total) for v in (t // 2, t - t // 2)])
        padding = 0
    pad = four(0 if isinstance(padding, str) else padding, "padding", 0)
    if x.ndim != 6 or x.shape[1] != weight.shape[1] * groups:
        raise GeometryError("input does not fit", str(tuple(x.shape)), "Give (B, C, D1, D2, D3, D4)")
    if pad[0]:
        x = functional.pad(x, [0] * 6 + [pad[0]] * 2)
    k, d, s = kernel[0], dilation[0], stride[0]
    n = (x.shape[2] - d * (k - 1) - 1) // s + 1
    parts = [x[:, :, i * d : i * d + s * (n - 1) + 1 : s] for i in range(k)]
    folded = torch.stack(parts, 2).permute(0, 3, 1, 2, 4, 5, 6)  # (B, N, C, k, ...)
    folded = folded.reshape(x.shape[0] * n, x.shape[1] * k, *x.shape[3:])
    out = functional.conv3d(folded, weight.flatten(1, 2), bias, stride[1:], pad[1:], dilation[1:],
                            groups)  # fmt: skip
    return out.unflatten(0, (x.shape[0], n)).transpose(1, 2)


def conv_transpose4d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int | Four = 1,
                     padding: int | Four = 0, output_padding: int | Four = 0, groups: int = 1,
                     dilation: int | Four = 1) -> Tensor:  # fmt: skip
    """Adjoint of conv4d (simple version)."""
    stride, dilation = four(stride, "stride"), four(dilation, "dilation")
    pad, extra = four(padding, "padding", 0), four(output_padding, "output_padding", 0)
    batch, n = x.shape[0], x.shape[2]
    k, d, s = weight.shape[2], dilation[0], stride[0]
    y = functional.conv_transpose3d(
        x.transpose(1, 2).flatten(0, 1), weight.flatten(1, 2), None, stride[1:], pad[1:],
        extra[1:], groups, dilation[1:],
    )  # fmt: skip
    y = y.unflatten(1, (-1, k)).unflatten(0, (batch, n))  # (B, N, O, k, ...)
    length = (n - 1) * s + d * (k - 1) + 1 + extra[0]
    out = y.new_zeros(batch, y.shape[2], length, *y.shape[4:])
    for i in range(k):
        out[:, :, i * d : i * d + s * (n - 1) + 1 : s] += y[:, :, :, i].transpose(1, 2)
    out = out[:, :, pad[0] : length - pad[0]]
    return out if bias is None else out + bias.view(-1, 1, 1, 1, 1)


class _Base(nn.Module):
    def _start(self, fan_in: int) -> None:
        nn.init.kaiming_uniform_(self.weight.flatten(1), a=math.sqrt(5))  # type: ignore[operator]
        if self.bias is not None:
            bound = 1 / math.sqrt(fan_in)
            nn.init.uniform_(self.bias, -bound, bound)  # type: ignore[arg-type]


class Conv4d(_Base):
    """4D convolution over the last four axes of (B, C, D1, D2, D3, D4)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | Four,
                 stride: int | Four = 1, padding: int | Four | str = 0, dilation: int | Four = 1,
                 groups: int = 1, bias: bool = True):  # fmt: skip
        super().__init__()
        self.kernel_size, self.stride = four(kernel_size, "kernel_size"), four(stride, "stride")
        self.padding, self.dilation, self.groups = padding, four(dilation, "dilation"), groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups,
                                               *self.kernel_size))  # fmt: skip
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self._start(self.weight[0].numel())

    def forward(self, x: Tensor) -> Tensor:
        return conv4d(x, self.weight, self.bias, self.stride, self.padding, self.dilation,
                      self.groups)  # fmt: skip


class ConvTranspose4d(_Base):
    """Adjoint of Conv4d, over the last four axes of (B, C, D1, D2, D3, D4)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | Four,
                 stride: int | Four = 1, padding: int | Four = 0, output_padding: int | Four = 0,
                 groups: int = 1, bias: bool = True, dilation: int | Four = 1):  # fmt: skip
        super().__init__()
        self.kernel_size, self.stride = four(kernel_size, "kernel_size"), four(stride, "stride")
        self.padding, self.output_padding = padding, output_padding
        self.dilation, self.groups = four(dilation, "dilation"), groups
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels // groups,
                                               *self.kernel_size))  # fmt: skip
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self._start(self.weight[0].numel())

    def forward(self, x: Tensor) -> Tensor:
        return conv_transpose4d(x, self.weight, self.bias, self.stride, self.padding,
                                self.output_padding, self.groups, self.dilation)  # fmt: skip
