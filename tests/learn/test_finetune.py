"""Which weights each stage of a training trains."""

import math

import pytest
import torch
from torch import nn

from strokect.core.errors import SettingsError
from strokect.learn.finetune import Stage, epochs_of, freeze
from strokect.nets.mjnet import MJNet2dT
from strokect.nets.multi_input import MultiInput


def _network(**options):
    own = {"width": 2, "images": 2, "channels": 6, "clinical": 2, **options}
    return MultiInput(MultiInput.Config(**own))


def _vgg(layers, encoders):
    """Names of weights and biases of the layers of VGG-16."""
    return {
        f"encoders.{e}.vgg.layers.{n}.{kind}"
        for e in range(encoders) for n in layers for kind in ("weight", "bias")
    }  # fmt: skip


def _trained(network):
    return {name for name, p in network.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("form", "encoders"), [({}, 2), ({"shared": True}, 1), ({"concatenate": True}, 1)]
)
def test_a_stage_trains_exactly_its_part(form, encoders):
    network = _network(**form)
    everything = {name for name, _ in network.named_parameters()}
    vgg = _vgg(range(13), encoders)
    assert vgg < everything
    for part, trained in (
        ("decoder", everything - vgg),
        ("half", everything - vgg | _vgg(range(6, 13), encoders)),  # the deeper 7 of 13
        ("all", everything),
        ("decoder", everything - vgg),  # whatever was trained before
    ):
        freeze(network, part)
        assert _trained(network) == trained, part


def test_frozen_weights_get_no_gradient_and_no_step():
    network = _network()
    freeze(network, "half")
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    image, clinical = torch.rand(1, 6, 1, 1, 16, 16), torch.rand(1, 2)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    network(image, clinical).square().sum().backward()
    optimizer.step()
    moved = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert moved <= _trained(network)
    assert moved & _vgg([12], 2) and not moved & _vgg(range(6), 2)


def test_networks_without_encoders_are_trained_whole_or_refused():
    network = MJNet2dT(MJNet2dT.Config(width=2, depth=2, time_points=4))
    for weight in network.parameters():
        weight.requires_grad_(False)
    for part in ("decoder", "half"):
        with pytest.raises(SettingsError, match=r"finetune.*multi_input") as error:
            freeze(network, part)
        assert repr(part) in str(error.value)
    assert not _trained(network)  # a refusal changes nothing
    freeze(network, "all")
    assert all(p.requires_grad for p in network.parameters())


def test_layers_of_any_kind_are_frozen_whole():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(
                nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(4)
            )
            self.head = nn.Linear(2, 2)

        def encoder_layers(self):
            return [[self.layers[0], self.layers[1], self.layers[2]], [self.layers[3]]]

    network = Two()
    freeze(network, "half")
    frozen = {n.split(".")[1] for n, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"0"}  # of 3 the first; of 1 none, as the deeper half is the larger
    freeze(network, "decoder")
    assert _trained(network) == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"epochs": 0}, "epochs"),
        ({"patience": 0}, "patience"),
        ({"lr": 0.0}, "lr"),
        ({"lr": -1.0}, "lr"),
        ({"lr": math.inf}, "lr"),
        ({"lr": math.nan}, "lr"),
    ],
)
def test_impossible_stages_are_refused_by_name(wrong, name):
    with pytest.raises(SettingsError, match=rf"finetune\.{name}"):
        Stage(**wrong)


@pytest.mark.parametrize(
    ("given", "total", "expected"),
    [
        ([None], 12, [12]),
        ([None, None, None], 12, [4, 4, 4]),
        ([2, None, None], 12, [2, 5, 5]),
        ([5, 1], 3, [5, 1]),
        ([9, None], 3, [9, 1]),  # no stage is left out
        ([], 7, []),
    ],
)
def test_stages_share_the_epochs_that_are_left(given, total, expected):
    assert epochs_of([Stage(epochs=n) for n in given], total) == expected
