"""Kernels of the 4D convolution: one axis folded into the channels of a 3D convolution.

Tensors (B, C, D1, D2, D3, D4). torch has convolutions of up to three axes. One of four is folded:
its kernel offsets become channels of a 3D convolution of the other three,

- of the input (*gather*): the k frames that an output frame needs lie side by side as k C
  channels, and the convolution sums over all of them, or
- of the output (*scatter*): the convolution makes the k contributions of a frame as k O channels,
  which are then added to k output frames.

The folded tensor has k times the size of the input, so on the CPU it is made in pieces that fit
the cache, and none is kept: the backward pass starts from input and weight again. The three
kernels (output, gradient of the input, gradient of the weight) are operators of torch.library:
opaque to torch.compile, and each differentiable by means of the other two.

On the CPU channels are last in memory, several times faster there; so are those of the output.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv3d_input, conv3d_weight

Numbers = Sequence[int]

#: Bytes of folded frames held at a time. CPU: about the cache. GPU: few, large kernels.
_PIECE_BYTES = {"cpu": 4 << 20, "other": 256 << 20}
#: float32 in a vector register; output channels that leave it half empty waste half the time.
_LANES = 16
#: Relative cost of folding each axis for the same amount of data (measured, channels last).
_AXIS_COST = (1.0, 1.1, 1.4, 1.8)
#: Relative cost of the same where a single frame does not fit the cache (measured).
_MISFIT = 1.4
#: torch sends a lone CPU frame of up to so many (channels x depth x height) to a slow path.
_SLOW_LONE_FRAME = 20480


class Taps(NamedTuple):
    """Where the taps of a kernel lie."""

    stride: Numbers
    padding: Numbers
    dilation: Numbers
    groups: int

    def rest(self, axis: int) -> tuple[list[int], list[int], list[int], int]:
        """Arguments of the 3D convolution of the other axes, in torch's order."""
        stride, padding, dilation = (_without(v, axis) for v in self[:3])
        return stride, padding, dilation, self.groups

    def offsets(self, axis: int, kernel: int) -> list[int]:
        """Input frame of each tap, for output frame 0."""
        return [i * self.dilation[axis] - self.padding[axis] for i in range(kernel)]

    def size(self, shape: Numbers, kernel: Numbers) -> list[int]:
        """Output size of the four axes."""
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, kernel, strict=True)]
        rows = zip(shape, spans, self.stride, self.padding, strict=True)
        return [(n + 2 * p - span) // s + 1 for n, span, s, p in rows]


class _Piece(NamedTuple):
    """Frames first:last of some of the batch."""

    batch: slice
    first: int
    last: int

    def of(self, frames: Tensor) -> Tensor:
        return frames[self.batch, self.first : self.last]

    @property
    def frames(self) -> int:
        return (self.batch.stop - self.batch.start) * (self.last - self.first)


def _without(values: Numbers, axis: int) -> list[int]:
    return [*values[:axis], *values[axis + 1 :]]


def _layout(x: Tensor) -> torch.memory_format:
    """Layout of 3D frames: channels last, except in full precision on a GPU."""
    last = x.device.type == "cpu" or x.dtype in (torch.float16, torch.bfloat16)
    return torch.channels_last_3d if last else torch.contiguous_format


def _empty(x: Tensor, channels: int, size: Numbers) -> Tensor:
    """An uninitialised (B, channels, *size) in the layout of the frames."""
    if _layout(x) is torch.contiguous_format:
        return x.new_empty((x.shape[0], channels, *size))
    return x.new_empty((x.shape[0], *size, channels)).movedim(-1, 1)


def _front(x: Tensor, axis: int) -> Tensor:
    """(B, C, D1, D2, D3, D4) as frames (B, D, C, three others); a view."""
    return x.movedim(axis + 2, 1)


def _pieces(batch: int, count: int, like: Tensor, channels: int) -> list[_Piece]:
    """Pieces of (batch, count, channels, size), each about _PIECE_BYTES, of two frames or more.

    like : (B, D, C, size), for size and device.
    """
    each = channels * math.prod(like.shape[3:]) * like.element_size()
    limit = _PIECE_BYTES.get(like.device.type, _PIECE_BYTES["other"])
    step = max(1, min(batch, limit // (each * count)))
    parts = max(1, min(math.ceil(each * count / limit), count // 2))
    cuts = [count * i // parts for i in range(parts + 1)]
    return [
        _Piece(slice(b, min(b + step, batch)), first, last)
        for b in range(0, batch, step)
        for first, last in itertools.pairwise(cuts)
    ]


def _rows(like: Tensor, n: int, channels: int, size: Numbers) -> int:
    """n, or 2 where a lone frame had better have an empty companion."""
    lone = n == 1 and like.device.type == "cpu" and like.dtype == torch.float32
    return 2 if lone and channels * size[0] * size[1] <= _SLOW_LONE_FRAME else n


def _stack(part: Tensor, rows: int) -> Tensor:
    """(b, m, C, size) as (rows, C, size) in the layout of the frames, zeros after b m."""
    layout, n = _layout(part), part.shape[0] * part.shape[1]
    if part.shape[0] == 1 and n == rows and part[0].is_contiguous(memory_format=layout):
        return part[0]
    out = torch.empty(
        (rows, *part.shape[2:]), dtype=part.dtype, device=part.device, memory_format=layout
    )
    out[:n].unflatten(0, part.shape[:2]).copy_(part)
    out[n:].zero_()
    return out


def _inside(piece: _Piece, step: int, offset: int, size: int) -> tuple[slice, slice]:
    """Frames n of a piece for which n step + offset lies in 0:size, and these places.

    The frames are counted from the first of the piece.
    """
    low = min(max(piece.first, -(offset // step)), piece.last)
    high = max(low, min(piece.last, (size - 1 - offset) // step + 1))
    start = low * step + offset
    places = slice(start, start + (high - low - 1) * step + 1, step) if high > low else slice(0)
    return slice(low - piece.first, high - piece.first), places


def _gather(
    source: Tensor, count: int, step: int, offsets: list[int], groups: int
) -> Iterator[tuple[_Piece, Tensor]]:
    """Pieces of count frames, each the k source frames at n step + offsets side by side.

    source (B, D, C, size). Yields frames (n, k C, size), channels in the order (group, tap, one
    of the group); always in the same memory.
    """
    batch, k, channels, size = source.shape[0], len(offsets), source.shape[2], source.shape[3:]
    pieces = _pieces(batch, count, source, k * channels)
    needs = [_rows(source, p.frames, k * channels, size) for p in pieces]
    if offsets == [0] and step == 1:  # a kernel of 1: nothing to fold
        yield from ((p, _stack(p.of(source), n)) for p, n in zip(pieces, needs, strict=True))
        return
    room = torch.empty(
        (max(needs, default=0), k * channels, *size), dtype=source.dtype, device=source.device,
        memory_format=_layout(source),
    )  # fmt: skip
    for piece, rows in zip(pieces, needs, strict=True):
        part = source[piece.batch].unflatten(2, (groups, -1))
        taps = room[: piece.frames].unflatten(1, (groups, k, -1)).unflatten(0, (len(part), -1))
        for i, offset in enumerate(offsets):
            here, there = _inside(piece, step, offset, source.shape[1])
            tap = taps[:, :, :, i]
            tap[:, : here.start].zero_()
            tap[:, here.stop :].zero_()
            tap[:, here] = part[:, there]
        room[piece.frames : rows].zero_()
        yield piece, room[:rows]


def _scatter(
    target: Tensor, source: Tensor, product: Callable[[Tensor], Tensor], step: int,
    offsets: list[int], groups: int, bias: Tensor | None,
) -> None:  # fmt: skip
    """Fill target with bias, plus what source frame n gives to the frames at n step + offsets.

    target (B, D, C, size), source (B, N, C', size'). product : (n, C', size') frames of the source
    to the k contributions of each (n, k C, size), channels in the order (group, tap, one of it).
    """
    start: Tensor | float = 0.0 if bias is None else bias.view(-1, 1, 1, 1)
    size, k, count = target.shape[1], len(offsets), source.shape[1]
    for piece in _pieces(len(source), count, target, k * target.shape[2]):
        part, into = piece.of(source), target[piece.batch]
        given = product(_stack(part, _rows(part, piece.frames, part.shape[2], part.shape[3:])))
        given = given[: piece.frames].unflatten(1, (groups, k, -1)).unflatten(0, part.shape[:2])
        # A target frame starts with the first piece that reaches it, to be in the cache still.
        low, high = (
            min(max((n - 1) * step + max(offsets) + 1, 0), size) for n in (piece.first, piece.last)
        )
        into[:, 0 if piece.first == 0 else low : size if piece.last == count else high] = start
        into = into.unflatten(2, (groups, -1))
        for i, offset in enumerate(offsets):
            here, there = _inside(piece, step, offset, size)
            into[:, there] += given[:, here, :, i]


# --- which axis, which way ---------------------------------------------------------------------


def _axis(x: Tensor, out: Numbers, kernel: Numbers) -> int:
    """The axis of x to fold: where that makes least data, in frames that fit the cache.

    Of equals the first. out : the four sizes of the output.
    """
    shape, cost = x.shape[2:], []
    for a in range(4):
        frame = x.shape[1] * kernel[a] * math.prod(_without(shape, a)) * x.element_size()
        fits = frame <= _PIECE_BYTES.get(x.device.type, _PIECE_BYTES["other"])
        cost.append(_AXIS_COST[a] * kernel[a] * out[a] / shape[a] * (1 if fits else _MISFIT))
    return cost.index(min(cost))


def _filled(channels: int) -> float:
    """Part of the vector registers that so many output channels fill."""
    return channels / (math.ceil(channels / _LANES) * _LANES)


def _scatters(x: Tensor, out: Tensor, taps: Taps, axis: int, kernel: int) -> bool:
    """Whether to fold the output instead of the input, both (B, C, D1, D2, D3, D4)."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return False  # sums in the convolution are the more exact, in half precision
    if taps.stride[axis] != 1 or x.shape[1] < 4 * taps.groups:
        return False
    outputs = out.shape[1] // taps.groups
    gain = _filled(kernel * outputs) / _filled(outputs)
    return gain * out.shape[axis + 2] / x.shape[axis + 2] > 1.2


def _inward(weight: Tensor, axis: int) -> Tensor:
    """(O, C/g, k1..k4) as the 3D kernel (O, k C/g, three others) of gathered frames."""
    return weight.movedim(axis + 2, 1).flatten(1, 2)


def _outward(weight: Tensor, axis: int, groups: int) -> Tensor:
    """(O, C/g, k1..k4) as the 3D kernel (g k O/g, C/g, three others) of contributions."""
    return weight.movedim(axis + 2, 1).unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 2)


# --- operators ---------------------------------------------------------------------------------

_TAPS = "int[] stride, int[] padding, int[] dilation, int groups"


@torch.library.custom_op(
    "strokect::conv4d",
    mutates_args=(),
    schema=f"(Tensor x, Tensor weight, Tensor? bias, {_TAPS}) -> Tensor",
)
def convolve(x, weight, bias, stride, padding, dilation, groups):
    """Convolution: x (B, C, D1..D4), weight (O, C/g, k1..k4), bias (O,) to (B, O, N1..N4)."""
    taps, kernel = Taps(stride, padding, dilation, groups), weight.shape[2:]
    out = _conv_shape(x, weight, bias, *taps)
    axis = _axis(x, out.shape[2:], kernel)
    frames, results, rest = _front(x, axis), _front(out, axis), taps.rest(axis)
    offsets, layout = taps.offsets(axis, kernel[axis]), _layout(x)
    if _scatters(x, out, taps, axis, kernel[axis]):
        folded = _outward(weight, axis, groups).contiguous(memory_format=layout)
        _scatter(results, frames, lambda part: functional.conv3d(part, folded, None, *rest), 1,
                 [-v for v in offsets], groups, bias)  # fmt: skip
        return out
    folded = _inward(weight, axis).contiguous(memory_format=layout)
    for piece, part in _gather(frames, results.shape[1], stride[axis], offsets, groups):
        value = functional.conv3d(part, folded, bias, *rest)[: piece.frames]
        into = piece.of(results)
        into.copy_(value.unflatten(0, into.shape[:2]))
    return out


@convolve.register_fake
def _conv_shape(x, weight, bias, stride, padding, dilation, groups):
    size = Taps(stride, padding, dilation, groups).size(x.shape[2:], weight.shape[2:])
    return _empty(x, weight.shape[0], size)


@torch.library.custom_op(
    "strokect::conv4d_input", mutates_args=(),
    schema=f"(Tensor grad, Tensor weight, Tensor? bias, int[] size, {_TAPS}) -> Tensor",
)  # fmt: skip
def spread(grad, weight, bias, size, stride, padding, dilation, groups):
    """Adjoint: grad (B, O, N1..N4), weight (O, C/g, k1..k4), bias (C,) to (B, C, *size)."""
    taps, kernel = Taps(stride, padding, dilation, groups), weight.shape[2:]
    out = _spread_shape(grad, weight, bias, size, *taps)
    axis = _axis(out, grad.shape[2:], kernel)
    folded = _inward(weight, axis).contiguous(memory_format=_layout(grad))
    rest, channels = _without(size, axis), out.shape[1] * kernel[axis]

    def product(part: Tensor) -> Tensor:
        return conv3d_input((len(part), channels, *rest), folded, part, *taps.rest(axis))

    _scatter(_front(out, axis), _front(grad, axis), product, stride[axis],
             taps.offsets(axis, kernel[axis]), groups, bias)  # fmt: skip
    return out


@spread.register_fake
def _spread_shape(grad, weight, bias, size, stride, padding, dilation, groups):
    return _empty(grad, weight.shape[1] * groups, size)


@torch.library.custom_op(
    "strokect::conv4d_weight", mutates_args=(),
    schema=f"(Tensor x, Tensor grad, int[] kernel, {_TAPS}) -> Tensor",
)  # fmt: skip
def correlate(x, grad, kernel, stride, padding, dilation, groups):
    """Gradient of the weight (O, C/g, *kernel) from x (B, C, D1..D4), grad (B, O, N1..N4)."""
    taps = Taps(stride, padding, dilation, groups)
    axis = _axis(x, grad.shape[2:], kernel)
    k, rest, own = kernel[axis], _without(kernel, axis), x.shape[1] // groups
    frames, grads = _front(x, axis), _front(grad, axis)
    offsets = taps.offsets(axis, k)
    # Sums over pieces in full precision.
    kind = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    if _scatters(x, grad, taps, axis, k):
        total = x.new_zeros((grad.shape[1] * k, own, *rest), dtype=kind)
        back = [-v for v in offsets]
        for piece, part in _gather(grads, frames.shape[1], 1, back, groups):
            given = _stack(piece.of(frames), len(part))
            total += conv3d_weight(given, total.shape, part, *taps.rest(axis))
        total = total.unflatten(0, (groups, k, -1)).transpose(1, 2).flatten(0, 1)
    else:
        total = x.new_zeros((grad.shape[1], k * own, *rest), dtype=kind)
        for piece, part in _gather(frames, grads.shape[1], stride[axis], offsets, groups):
            given = _stack(piece.of(grads), len(part))
            total += conv3d_weight(part, total.shape, given, *taps.rest(axis))
        total = total.unflatten(1, (k, own))
    return total.movedim(1, axis + 2).to(x.dtype).contiguous()


@correlate.register_fake
def _correlate_shape(x, grad, kernel, stride, padding, dilation, groups):
    return x.new_empty((grad.shape[1], x.shape[1] // groups, *kernel))


def _keep(ctx, inputs, output):
    first, second, *others = inputs
    ctx.save_for_backward(first, second)
    ctx.others = others


def _convolve_back(ctx, grad):
    (x, weight), (_, *taps) = ctx.saved_tensors, ctx.others
    need = ctx.needs_input_grad
    return (
        spread(grad, weight, None, x.shape[2:], *taps) if need[0] else None,
        correlate(x, grad, weight.shape[2:], *taps) if need[1] else None,
        _bias_grad(grad) if need[2] else None,
        *[None] * 4,
    )


def _spread_back(ctx, grad):
    (x, weight), (_, _, *taps) = ctx.saved_tensors, ctx.others
    need = ctx.needs_input_grad
    return (
        convolve(grad, weight, None, *taps) if need[0] else None,
        correlate(grad, x, weight.shape[2:], *taps) if need[1] else None,
        _bias_grad(grad) if need[2] else None,
        *[None] * 5,
    )


def _correlate_back(ctx, grad):
    (x, out), (_, *taps) = ctx.saved_tensors, ctx.others
    need = ctx.needs_input_grad
    return (
        spread(out, grad, None, x.shape[2:], *taps) if need[0] else None,
        convolve(x, grad, None, *taps) if need[1] else None,
        *[None] * 5,
    )


def _bias_grad(grad: Tensor) -> Tensor:
    return grad.sum((0, 2, 3, 4)).sum(1)  # in one go it takes twice as long, channels last


convolve.register_autograd(_convolve_back, setup_context=_keep)
spread.register_autograd(_spread_back, setup_context=_keep)
correlate.register_autograd(_correlate_back, setup_context=_keep)
