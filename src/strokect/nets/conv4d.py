"""True 4D convolution, its transpose, and their layers.

Tensors (B, C, D1, D2, D3, D4); which axis is time and which z does not matter. On the CPU the
output has its channels last in memory (as ``torch.channels_last_3d``), whatever the input has:
``flatten`` or ``reshape`` it, do not ``view`` it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from strokect.core.errors import GeometryError, SettingsError
from strokect.nets.fold4d import Taps, convolve, spread

Four = tuple[int, int, int, int]
Size = int | Sequence[int]


def conv4d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Size = 1,
    padding: Size | str = 0, dilation: Size = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """4D convolution (cross-correlation, as all of torch), true to a direct sum over windows.

    x (B, C, D1, D2, D3, D4). weight (O, C/groups, k1, k2, k3, k4). bias (O,), added once.
    stride, padding, dilation : an int, or one per axis; padding also "same" (with stride 1: the
    size stays; where the kernel is even the end gets one more) or "valid" (none).
    Returns (B, O, N1, N2, N3, N4), N = (D + 2 padding - dilation (k - 1) - 1) // stride + 1.
    Under autocast, computed in its type. Differentiable any number of times.
    Raises SettingsError for options no convolution has, GeometryError for an input that the
    weight does not fit.
    """
    _check_dimensions(x, weight)
    kernel = tuple(weight.shape[2:])
    if isinstance(padding, str):
        before, after = _named_padding(padding, kernel, four(stride, "stride"), dilation)
        extra = [b - a for a, b in zip(before, after, strict=True)]
        if any(extra):  # even kernels
            x = functional.pad(x, [v for e in reversed(extra) for v in (0, e)])
        padding = before
    taps = _taps(stride, padding, dilation, groups)
    out, inner = weight.shape[:2]
    if groups < 1 or out % groups:
        raise SettingsError(
            "output channels do not divide into the groups", f"{out} channels, groups={groups}",
            "Choose groups that divide both numbers of channels",
        )  # fmt: skip
    if x.shape[1] != inner * groups:
        raise GeometryError(
            "the input has other channels than the weight", f"input {tuple(x.shape)}",
            f"Give an input of {inner * groups} channels, (B, {inner * groups}, D1, D2, D3, D4)",
        )  # fmt: skip
    _check_bias(bias, out)
    if min(taps.size(x.shape[2:], kernel)) < 1:
        raise GeometryError(
            "the kernel is larger than the padded input",
            f"kernel {kernel}, dilation {taps.dilation}, input {tuple(x.shape[2:])}, "
            f"padding {taps.padding}",
            "Give a larger input, or choose a smaller kernel or more padding",
        )
    x, weight, bias = _autocast(x, weight, bias)
    return convolve(x, weight, bias, *taps)


def conv_transpose4d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Size = 1, padding: Size = 0,
    output_padding: Size = 0, groups: int = 1, dilation: Size = 1,
) -> Tensor:  # fmt: skip
    """Transposed 4D convolution: the adjoint of ``conv4d`` with the same weight and options.

    x (B, C, D1, D2, D3, D4). weight (C, O/groups, k1, k2, k3, k4). bias (O,), added once.
    output_padding : more of the output's end, of the sizes that conv4d makes the same N of.
    Returns (B, O, N1, N2, N3, N4),
    N = (D - 1) stride - 2 padding + dilation (k - 1) + output_padding + 1.
    Raises as conv4d does.
    """
    _check_dimensions(x, weight)
    taps, extra = (
        _taps(stride, padding, dilation, groups),
        four(output_padding, "output_padding", 0),
    )
    kernel, inner = tuple(weight.shape[2:]), weight.shape[0]
    if groups < 1 or inner % groups:
        raise SettingsError(
            "input channels do not divide into the groups", f"{inner} channels, groups={groups}",
            "Choose groups that divide both numbers of channels",
        )  # fmt: skip
    if x.shape[1] != inner:
        raise GeometryError(
            "the input has other channels than the weight", f"input {tuple(x.shape)}",
            f"Give an input of {inner} channels, (B, {inner}, D1, D2, D3, D4)",
        )  # fmt: skip
    if any(e >= max(s, d) for e, s, d in zip(extra, taps.stride, taps.dilation, strict=True)):
        raise SettingsError(
            "output_padding is as large as stride and dilation", str(extra),
            f"Choose less than the larger of stride {taps.stride} and dilation {taps.dilation}",
        )  # fmt: skip
    _check_bias(bias, weight.shape[1] * groups)
    rows = zip(x.shape[2:], *taps[:3], kernel, extra, strict=True)
    size = [(n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, s, p, d, k, e in rows]
    if min(size) < 1:
        raise GeometryError(
            "the padding leaves nothing of the output", f"input {tuple(x.shape[2:])}, "
            f"kernel {kernel}, padding {taps.padding}", "Give a larger input or less padding",
        )  # fmt: skip
    x, weight, bias = _autocast(x, weight, bias)
    return spread(x, weight, bias, size, *taps)


class _Layer(nn.Module):
    """What both layers share: settings, parameters, their initial values."""

    bias: nn.Parameter | None

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, taps: Taps,
        shape: tuple[int, int], bias: bool,
    ):  # fmt: skip
        super().__init__()
        if min(in_channels, out_channels, taps.groups) < 1:
            raise SettingsError(
                "channels and groups are counted from 1",
                f"{in_channels} to {out_channels} channels, groups={taps.groups}",
                "Give positive numbers",
            )
        if in_channels % taps.groups or out_channels % taps.groups:
            raise SettingsError(
                "channels do not divide into the groups",
                f"{in_channels} to {out_channels} channels, groups={taps.groups}",
                "Choose groups that divide both numbers of channels",
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = four(kernel_size, "kernel_size")
        self.stride, self.dilation = taps.stride, taps.dilation
        self.groups = taps.groups
        self.weight = nn.Parameter(torch.empty(*shape, *self.kernel_size))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters, with the distributions of torch's convolutions."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}, bias={self.bias is not None}"
        )


class Conv4d(_Layer):
    """Layer of ``conv4d``: (B, in_channels, D1, D2, D3, D4) to (B, out_channels, N1, N2, N3, N4).

    kernel_size, stride, padding, dilation : an int, or one per axis; padding also "same", "valid".
    weight (out_channels, in_channels/groups, k1, k2, k3, k4), initialised as torch's convolutions.
    Raises SettingsError for options that do not fit each other.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1,
        padding: Size | str = 0, dilation: Size = 1, groups: int = 1, bias: bool = True,
    ):  # fmt: skip
        if isinstance(padding, str):
            kernel, strides = four(kernel_size, "kernel_size"), four(stride, "stride")
            _named_padding(padding, kernel, strides, dilation)  # refuses what it does not know
            taps = _taps(stride, 0, dilation, groups)
            kept: Four | str = padding
        else:
            taps = _taps(stride, padding, dilation, groups)
            kept = four(padding, "padding", 0)
        shape = (out_channels, in_channels // max(groups, 1))
        super().__init__(in_channels, out_channels, kernel_size, taps, shape, bias)
        self.padding = kept

    def forward(self, x: Tensor) -> Tensor:
        return conv4d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class ConvTranspose4d(_Layer):
    """Layer of ``conv_transpose4d``; arguments in the order of torch's ConvTranspose3d.

    weight (in_channels, out_channels/groups, k1, k2, k3, k4).
    Raises SettingsError for options that do not fit each other.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1,
        padding: Size = 0, output_padding: Size = 0, groups: int = 1, bias: bool = True,
        dilation: Size = 1,
    ):  # fmt: skip
        taps = _taps(stride, padding, dilation, groups)
        shape = (in_channels, out_channels // max(groups, 1))
        super().__init__(in_channels, out_channels, kernel_size, taps, shape, bias)
        self.padding = four(padding, "padding", 0)
        self.output_padding = four(output_padding, "output_padding", 0)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, output_padding={self.output_padding}"

    def forward(self, x: Tensor) -> Tensor:
        return conv_transpose4d(
            x, self.weight, self.bias, self.stride, self.padding, self.output_padding,
            self.groups, self.dilation,
        )  # fmt: skip


def four(value: Size, name: str, least: int = 1) -> Four:
    """An int, or one per axis, as one per axis. Raises SettingsError below least or not four."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * 4
    if len(values) != 4 or not all(isinstance(v, int) and v >= least for v in values):
        raise SettingsError(
            f"bad {name}", str(value), f"Give an integer of at least {least}, or one for each of "
            "the four axes",
        )  # fmt: skip
    a, b, c, d = values
    return a, b, c, d


def _taps(stride: Size, padding: Size, dilation: Size, groups: int) -> Taps:
    return Taps(
        four(stride, "stride"), four(padding, "padding", 0), four(dilation, "dilation"), groups
    )


def _named_padding(
    name: str, kernel: Sequence[int], stride: Four, dilation: Size
) -> tuple[list[int], list[int]]:
    """Padding before and after each axis of "same" or "valid"."""
    if name not in ("same", "valid"):
        raise SettingsError("unknown padding", name, 'Choose "same", "valid" or numbers')
    if name == "valid":
        return [0] * 4, [0] * 4
    if max(stride) > 1:
        raise SettingsError(
            'padding "same" with a stride', str(stride), "Use stride 1, or give padding in numbers"
        )
    total = [d * (k - 1) for d, k in zip(four(dilation, "dilation"), kernel, strict=True)]
    return [t // 2 for t in total], [t - t // 2 for t in total]


def _check_dimensions(x: Tensor, weight: Tensor) -> None:
    if x.ndim != 6:
        raise GeometryError(
            "the input of a 4D convolution has six axes", f"input {tuple(x.shape)}",
            "Give (B, C, D1, D2, D3, D4)",
        )  # fmt: skip
    if weight.ndim != 6:
        raise GeometryError(
            "the weight of a 4D convolution has six axes", f"weight {tuple(weight.shape)}",
            "Give (O, C/groups, k1, k2, k3, k4), transposed (C, O/groups, ...)",
        )  # fmt: skip


def _check_bias(bias: Tensor | None, channels: int) -> None:
    if bias is not None and tuple(bias.shape) != (channels,):
        raise GeometryError(
            "the bias does not fit the weight", f"bias {tuple(bias.shape)}", f"Give ({channels},)"
        )


def _autocast(
    x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tensors in the type of autocast where it is on, as torch does for its convolutions."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return x, weight, bias
    to = torch.get_autocast_dtype(kind)
    return x.to(to), weight.to(to), None if bias is None else bias.to(to)
