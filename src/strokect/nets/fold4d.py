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
from torch.nn.grad import conv3d_weight

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
    """Frames first:last of some of the batch. rows : as many, or 2 where one alone is slow."""

    batch: slice
    first: int
    last: int
    rows: int

    def of(self, frames: Tensor) -> Tensor:
        return frames[self.batch, self.first : self.last]


class _Plan(NamedTuple):
    """How to fold: the axis; whether the output (scatter) or the input (gather).

    Frame n of the side that is not folded meets the frames at n step + offsets of the other.
    """

    axis: int
    scatters: bool
    step: int
    offsets: list[int]
    groups: int
    pieces: list[_Piece]


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


def _pieces(x: Tensor, count: int, inside: list[int], outside: list[int]) -> list[_Piece]:
    """Pieces of count frames of each of the batch, of about _PIECE_BYTES and two frames or more.

    inside, outside : channels and size of a frame as it goes into the 3D convolution and comes out.
    """
    batch, each = x.shape[0], max(math.prod(inside), math.prod(outside)) * x.element_size()
    limit = _PIECE_BYTES.get(x.device.type, _PIECE_BYTES["other"])
    step = max(1, min(batch, limit // (each * count)))
    parts = max(1, min(math.ceil(each * count / limit), count // 2))
    slow = x.device.type == "cpu" and math.prod(inside[:3]) <= _SLOW_LONE_FRAME
    least = 2 if slow and x.dtype == torch.float32 else 1
    cuts = [count * i // parts for i in range(parts + 1)]
    return [
        _Piece(slice(b, b + n), first, last, max(n * (last - first), least))
        for b in range(0, batch, step)
        for n in [min(step, batch - b)]
        for first, last in itertools.pairwise(cuts)
    ]


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


def _gather(source: Tensor, plan: _Plan) -> Iterator[tuple[_Piece, Tensor]]:
    """Pieces of frames that each hold the k source frames at n step + offsets side by side.

    source (B, D, C, size). Yields frames (rows, k C, size), channels in the order (group, tap, one
    of the group); always in the same memory.
    """
    if plan.offsets == [0] and plan.step == 1:  # a kernel of 1: nothing to fold
        yield from ((piece, _stack(piece.of(source), piece.rows)) for piece in plan.pieces)
        return
    k = len(plan.offsets)
    room = torch.empty(
        (max((p.rows for p in plan.pieces), default=0), k * source.shape[2], *source.shape[3:]),
        dtype=source.dtype, device=source.device, memory_format=_layout(source),
    )  # fmt: skip
    for piece in plan.pieces:
        part = source[piece.batch].unflatten(2, (plan.groups, -1))
        used = len(part) * (piece.last - piece.first)
        taps = room[:used].unflatten(1, (plan.groups, k, -1)).unflatten(0, (len(part), -1))
        for i, offset in enumerate(plan.offsets):
            here, there = _inside(piece, plan.step, offset, source.shape[1])
            tap = taps[:, :, :, i]
            tap[:, : here.start].zero_()
            tap[:, here.stop :].zero_()
            tap[:, here] = part[:, there]
        room[used : piece.rows].zero_()
        yield piece, room[: piece.rows]


def _scatter(
    target: Tensor, source: Tensor, plan: _Plan, product: Callable[[Tensor], Tensor],
    bias: Tensor | None,
) -> None:  # fmt: skip
    """Fill target with bias, plus what source frame n gives to the frames at n step + offsets.

    target (B, D, C, size), source (B, N, C', size'). product : (n, C', size') frames of the source
    to the k contributions of each (n, k C, size), channels in the order (group, tap, one of it).
    """
    start: Tensor | float = 0.0 if bias is None else bias.view(-1, 1, 1, 1)
    size, k, reach = target.shape[1], len(plan.offsets), max(plan.offsets) + 1
    for piece in plan.pieces:
        part, into = piece.of(source), target[piece.batch]
        given = product(_stack(part, piece.rows))[: part.shape[0] * part.shape[1]]
        given = given.unflatten(1, (plan.groups, k, -1)).unflatten(0, part.shape[:2])
        # A target frame starts with the first piece that reaches it, to be in the cache still.
        low, high = ((n - 1) * plan.step + reach for n in (piece.first, piece.last))
        low = 0 if piece.first == 0 else min(max(low, 0), size)
        high = size if piece.last == source.shape[1] else min(max(high, 0), size)
        into[:, low:high] = start
        into = into.unflatten(2, (plan.groups, -1))
        for i, offset in enumerate(plan.offsets):
            here, there = _inside(piece, plan.step, offset, size)
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


def _plan(x: Tensor, out: Tensor, taps: Taps, kernel: Numbers, adjoint: bool = False) -> _Plan:
    """How to fold a convolution of x to out, both (B, channels, four axes), or its adjoint."""
    axis = _axis(x, out.shape[2:], kernel)
    k, offsets = kernel[axis], taps.offsets(axis, kernel[axis])
    count, *inside = _front(x, axis).shape[1:]
    count_out, *outside = _front(out, axis).shape[1:]
    if not adjoint and _scatters(x, out, taps, axis, k):
        outside[0] *= k
        pieces = _pieces(x, count, inside, outside)
        return _Plan(axis, True, 1, [-v for v in offsets], taps.groups, pieces)
    inside[0] *= k
    pieces = _pieces(x, count_out, inside, outside)
    return _Plan(axis, False, taps.stride[axis], offsets, taps.groups, pieces)


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
    taps = Taps(stride, padding, dilation, groups)
    out = _conv_shape(x, weight, bias, *taps)
    plan = _plan(x, out, taps, weight.shape[2:])
    frames, results, rest = _front(x, plan.axis), _front(out, plan.axis), taps.rest(plan.axis)
    if plan.scatters:
        folded = _outward(weight, plan.axis, groups).contiguous(memory_format=_layout(x))
        _scatter(results, frames, plan, lambda v: functional.conv3d(v, folded, None, *rest), bias)
        return out
    folded = _inward(weight, plan.axis).contiguous(memory_format=_layout(x))
    for piece, part in _gather(frames, plan):
        into = piece.of(results)
        value = functional.conv3d(part, folded, bias, *rest)[: into.shape[0] * into.shape[1]]
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
    plan = _plan(out, grad, taps, kernel, adjoint=True)
    folded = _inward(weight, plan.axis).contiguous(memory_format=_layout(grad))
    inside = (out.shape[1] * kernel[plan.axis], *_without(size, plan.axis))
    *options, _ = taps.rest(plan.axis)

    def product(part: Tensor) -> Tensor:
        # As torch.nn.grad.conv3d_input, whose stand-in for the input gets copied. This is not read.
        blank = torch.empty(
            (len(part), *inside), dtype=part.dtype, device=part.device, memory_format=_layout(part)
        )
        return torch.ops.aten.convolution_backward(
            part, blank, folded, None, *options, False, [0] * 3, groups, [True, False, False]
        )[0]

    _scatter(_front(out, plan.axis), _front(grad, plan.axis), plan, product, bias)
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
    plan = _plan(x, grad, taps, kernel)
    k, own, rest = kernel[plan.axis], x.shape[1] // groups, taps.rest(plan.axis)
    frames, grads = _front(x, plan.axis), _front(grad, plan.axis)
    across = (k * grad.shape[1], own) if plan.scatters else (grad.shape[1], k * own)
    shape = (*across, *_without(kernel, plan.axis))
    # Half-precision pieces are summed in full precision.
    kind = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    total = x.new_zeros(shape, dtype=kind)
    if plan.scatters:
        for piece, part in _gather(grads, plan):
            total += conv3d_weight(_stack(piece.of(frames), len(part)), shape, part, *rest)
        total = total.unflatten(0, (groups, k, -1)).transpose(1, 2).flatten(0, 1)
    else:
        for piece, part in _gather(frames, plan):
            total += conv3d_weight(part, shape, _stack(piece.of(grads), len(part)), *rest)
        total = total.unflatten(1, (k, own))
    return total.movedim(1, plan.axis + 2).to(x.dtype).contiguous()


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
