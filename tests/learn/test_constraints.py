"""Penalties and limits, against sums and norms made by hand."""

import pytest
import torch
from torch import nn

from strokect.learn.constraints import limit_norms, penalty


class _Mixed(nn.Module):
    """A convolution, a transposed one, a dense layer, a norm, and a frozen convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(2, 4, 3)
        self.up = nn.ConvTranspose2d(3, 5, 2)
        self.dense = nn.Linear(6, 7)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.Conv2d(2, 3, 3).requires_grad_(False)
        with torch.no_grad():
            for weight in self.parameters():
                weight.uniform_(-1, 1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return _Mixed()


def _weights(network):
    return [network.conv.weight, network.up.weight, network.dense.weight]


@pytest.mark.parametrize(("l1", "l2"), [(0.5, 0.0), (0.0, 0.25), (1e-3, 2e-2)])
def test_a_penalty_is_of_sizes_and_squares_of_trained_weights(network, l1, l2):
    numbers = [float(v) for w in _weights(network) for v in w.detach().flatten()]
    assert len(numbers) == 2 * 4 * 27 + 3 * 5 * 4 + 6 * 7
    expected = l1 * sum(abs(v) for v in numbers) + l2 * sum(v * v for v in numbers)
    assert penalty(network, l1, l2).item() == pytest.approx(expected, rel=1e-5)


def test_a_penalty_pulls_weights_and_nothing_else(network):
    penalty(network, 0.5, 0.25).backward()
    for weight in _weights(network):
        torch.testing.assert_close(weight.grad, 0.5 * weight.sign() + 0.5 * weight.detach())
    still = [network.conv.bias, network.dense.bias, *network.norm.parameters()]
    assert all(p.grad is None for p in [*still, *network.frozen.parameters()])


def test_no_penalty_is_no_work(network):
    assert penalty(network, 0.0, 0.0) == 0.0
    assert penalty(network.requires_grad_(False), 1.0, 1.0) == 0.0


def _norms(weight, axis):
    """Euclidean norm of what enters each output channel, one by one."""
    return torch.stack([w.flatten().double().norm() for w in weight.detach().unbind(axis)])


def test_each_output_channel_is_scaled_to_the_greatest_norm(network):
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    layers = {"conv.weight": 0, "up.weight": 1, "dense.weight": 0}
    with torch.no_grad():  # one channel of each lies within the limit
        for name, axis in layers.items():
            network.get_parameter(name).select(axis, 1).mul_(0.1)
            before[name] = network.get_parameter(name).detach().clone()
    limit_norms(network, 1.0)
    for name, axis in layers.items():
        found, old = network.get_parameter(name), before[name]
        norms = _norms(old, axis)
        assert norms[1] < 1 < norms[[0, 2]].min()
        assert _norms(found, axis) == pytest.approx(norms.clamp(max=1), rel=1e-5)
        # Scaled as a whole, not cut.
        for new, was, norm in zip(found.unbind(axis), old.unbind(axis), norms, strict=True):
            torch.testing.assert_close(new, was / max(1.0, float(norm)))
    others = before.keys() - layers.keys()
    assert all(torch.equal(network.get_parameter(name), before[name]) for name in others)


def test_weights_of_nothing_stay_so(network):
    with torch.no_grad():
        network.dense.weight.zero_()
    limit_norms(network, 2.0)
    assert torch.equal(network.dense.weight, torch.zeros(7, 6))
