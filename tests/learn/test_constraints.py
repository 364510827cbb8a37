"""Penalties and limits, against sums and norms made by hand."""

import pytest
import torch
from torch import nn

from strokect.learn.constraints import limit_norms, shrink
from strokect.nets.multi_input import MultiInput, MultiInputConfig


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


@pytest.mark.parametrize(("l1", "l2"), [(0.5, 0.0), (0.0, 0.25), (0.3, 0.2)])
def test_a_penalty_is_a_small_step_against_sizes_and_squares(network, l1, l2):
    before = [w.detach().double().clone() for w in _weights(network)]
    shrink(network, l1, l2, lr=1e-3)
    for weight, old in zip(_weights(network), before, strict=True):
        slope = l1 * old.sign() + 2 * l2 * old
        far = old.abs() > 1e-2  # smaller ones may reach 0
        torch.testing.assert_close(
            weight.detach().double()[far], (old - 1e-3 * slope)[far], atol=1e-6, rtol=1e-5
        )


def test_a_weight_stops_at_zero_and_does_not_change_its_sign(network):
    before = [w.detach().clone() for w in _weights(network)]
    shrink(network, 0.5, 0.0, lr=1.0)
    for weight, old in zip(_weights(network), before, strict=True):
        assert (weight[old.abs() <= 0.5] == 0).all()
        assert (weight.sign() == old.sign())[old.abs() > 0.5001].all()


def test_a_penalty_shrinks_weights_and_nothing_else(network):
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    shrink(network, 0.1, 0.1, lr=0.1)
    changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {"conv.weight", "up.weight", "dense.weight"}


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


def test_the_penalties_of_the_source_leave_the_bottleneck_alive():
    """Under Adam, in the loss, they shrank it to 1e-4 of its size: nothing passed any more."""
    torch.manual_seed(0)
    network = MultiInput(MultiInputConfig(classes=3, channels=2, images=2, clinical=2, width=4))
    adam = torch.optim.Adam(network.parameters(), lr=3e-3)
    image, scores = torch.rand(2, 2, 1, 1, 32, 32), torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    truth = (image[:, 0, 0] > 0.5).long()  # the first image tells it all, without a bottleneck
    for _ in range(120):
        adam.zero_grad()
        nn.functional.cross_entropy(network(image, scores), truth).backward()
        adam.step()
        shrink(network, 1e-6, 1e-5, 3e-3)
    network.eval()
    with torch.no_grad():
        change = network(image, scores) - network(image, scores.flip(0))
    assert change.abs().max() > 1e-3
