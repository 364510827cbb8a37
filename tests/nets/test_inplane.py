"""The in-plane encoder and decoder of the mJ-Net family."""

import pytest
import torch

from strokect.core.errors import SettingsError
from strokect.nets.inplane import AttentionGate, Decoder, Encoder, InPlaneConfig


def count(module):
    return sum(p.numel() for p in module.parameters())


def block(inputs, outputs):
    """3 x 3 convolution without bias, and normalisation."""
    return 9 * inputs * outputs + 2 * outputs


def level(inputs, outputs):
    return block(inputs, outputs) + block(outputs, outputs)


def node(low, width, skips):
    """Transposed 2 x 2 convolution with bias, then a level."""
    return 4 * low * width + width + level((skips + 1) * width, width)


def test_parameters_by_hand():
    config = InPlaneConfig(width=4, depth=3)
    assert count(Encoder(config)) == level(4, 4) + level(4, 8) + level(8, 16)
    assert count(Encoder(config, 1)) == level(8, 8) + level(8, 16)
    assert count(Decoder(config)) == node(8, 4, 1) + node(16, 8, 1)


def test_parameters_of_nested_by_hand():
    config = InPlaneConfig(width=4, depth=3, nested=True)
    assert count(Decoder(config)) == node(8, 4, 1) + node(16, 8, 1) + node(8, 4, 2)


def test_parameters_of_attention_by_hand():
    plain = InPlaneConfig(width=4, depth=3)
    gated = InPlaneConfig(width=4, depth=3, attention=True)
    gates = sum((2 * w) * (w // 2) + 2 * (w // 2) + (w // 2) + 1 for w in (4, 8))
    assert count(Decoder(gated)) == count(Decoder(plain)) + gates


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("attention", [False, True])
def test_every_level_reaches_the_output(nested, attention):
    config = InPlaneConfig(width=4, depth=4, nested=nested, attention=attention)
    features = [
        torch.randn(2, 4 * 2**i, 32 // 2**i, 32 // 2**i, requires_grad=True) for i in range(4)
    ]
    out = Decoder(config)(features)
    assert out.shape == (2, 4, 32, 32)
    out.square().mean().backward()
    assert all(f.grad.abs().sum() > 0 for f in features)


def test_encoder_halves_the_plane_and_doubles_the_channels():
    features = Encoder(InPlaneConfig(width=4, depth=4))(torch.randn(2, 4, 16, 24))
    assert [f.shape[1:] for f in features] == [(4 * 2**i, 16 // 2**i, 24 // 2**i) for i in range(4)]


def test_a_gate_only_weakens_its_skip():
    gate = AttentionGate(InPlaneConfig(width=4), 4, 4)
    skip, below = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    ratio = gate(skip, below) / skip
    assert ((ratio > 0) & (ratio < 1)).all()
    # One weight a pixel, the same for all channels, and it depends on what is below.
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(ratio, gate(skip, below.flip(2)) / skip)


def test_one_level_has_nothing_to_decode():
    config = InPlaneConfig(width=4, depth=1)
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(Decoder(config)([x]), x)
    assert config.in_plane_multiple == 1


@pytest.mark.parametrize(
    "wrong",
    [{"width": 0}, {"depth": 0}, {"norm": "layer"}, {"dropout": 1.0}, {"negative_slope": -0.1}],
)
def test_wrong_choices_are_refused(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        InPlaneConfig(**wrong)
