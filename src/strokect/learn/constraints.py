"""Penalties and limits on the weights that are trained; biases and normalisation are left alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def shrink(network: nn.Module, l1: float, l2: float, lr: float) -> None:
    """One step of the penalty l1 x sum |w| + l2 x sum w^2 on the trained weights.

    Beside the loss, not in it [1]_: Adam divides the gradient by its size, so that a penalty in
    the loss, however small, shrinks a weight at the full rate as soon as the data ask little of
    it. A layer before a normalisation loses nothing by that until it is gone, as the bottleneck
    of ``multi_input`` did. With plain gradient descent both ways are the same.

    .. [1] Loshchilov I, Hutter F, ICLR 2019.
    """
    for weight, _ in _trained(network):
        weight.mul_(1 - 2 * lr * l2)
        if l1:
            weight.copy_(weight.sign() * (weight.abs() - lr * l1).clamp(min=0))


@torch.no_grad()
def limit_norms(network: nn.Module, most: float) -> None:
    """Scale the trained weights of each output channel to an Euclidean norm of at most ``most``.

    The norm is over all that enters the channel [1]_: input channels and kernel. (The default axis
    of the Keras constraint, 0, is one row of a convolution's kernel: another, weaker limit.)

    .. [1] Srivastava N et al., J Mach Learn Res 2014;15:1929-1958.
    """
    for weight, axis in _trained(network):
        others = [a for a in range(weight.ndim) if a != axis]
        norm = weight.square().sum(dim=others, keepdim=True).sqrt()
        weight.mul_((most / norm.clamp(min=1e-12)).clamp(max=1.0))


def _trained(network: nn.Module) -> Iterator[tuple[nn.Parameter, int]]:
    """Weights of linear and convolution layers that are trained, and their axis of outputs."""
    for layer in network.modules():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.requires_grad and weight.ndim >= 2:
            yield weight, 1 if isinstance(layer, _TRANSPOSED) else 0
