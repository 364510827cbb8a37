"""Temporal convolutional network."""

import pytest
import torch

from strokect.core.errors import SettingsError
from strokect.nets.tcn import TemporalConvNet, TemporalConvNetConfig, TimeConv


def count(module):
    return sum(p.numel() for p in module.parameters())


def build(**options):
    return TemporalConvNet(
        TemporalConvNetConfig(**{"time_points": 12, "width": 4, "blocks": 2, **options})
    ).eval()


def test_parameters_by_hand():
    inlet = 9 * 4 + 8
    blocks = 2 * (2 * 3 * 4 * 4 + 2 * 8)
    readout = 12 * 4 * 8 + 16
    assert count(build()) == inlet + blocks + readout + (8 * 4 + 4)
    wider = 2 * 2 * 3 * 4 * 4 * (9 - 1)
    assert count(build(context_in="every")) == count(build()) + wider
    skip = 9 * 12 * 4 + 8 + 4 * 4
    assert count(build(stem_stride=2)) == count(build()) + skip


@pytest.mark.parametrize("context_in", ["first", "every"])
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_causal_sees_no_later_time_point(context_in, dilation):
    x = torch.randn(1, 4, 12, 5, 5)
    other = x.clone()
    other[:, :, 6] += 1
    for causal, seen in ((True, [0, 1, 2]), (False, [-1, 0, 1])):
        config = TemporalConvNetConfig(width=4, causal=causal, context_in=context_in)
        conv = TimeConv(config, dilation)
        with torch.no_grad():
            change = (conv(other) - conv(x)).abs().sum((0, 1, 3, 4))
        hit = [6 + dilation * step for step in seen if 6 + dilation * step < 12]
        assert change.gt(1e-5).nonzero().flatten().tolist() == hit


def test_plane_as_one_axis_is_the_same_convolution():
    conv = TimeConv(TemporalConvNetConfig(width=4, causal=False), 2)
    x = torch.randn(2, 4, 12, 5, 6)
    kernel = conv.conv.weight.unsqueeze(-1)  # (out, in, 3, 1, 1)
    direct = torch.nn.functional.conv3d(x, kernel, padding=(2, 0, 0), dilation=(2, 1, 1))
    torch.testing.assert_close(conv(x), direct)


@pytest.mark.parametrize(
    ("options", "radius"),
    [({}, 1), ({"context": 1}, 0), ({"context": 5}, 2), ({"context_in": "every"}, 1 + 2 * 2)],
)
def test_neighbourhood_in_the_plane(options, radius):
    network = build(norm="batch", **options)  # in eval mode, joins no pixels
    x = torch.randn(1, 1, 12, 1, 17, 17)
    other = x.clone()
    other[..., 8, 8] += 5
    with torch.no_grad():
        changed = (network(other) - network(x)).abs().sum((0, 1, 2)) > 1e-6
    rows = changed.any(1).nonzero().flatten()
    assert rows.min() == 8 - radius
    assert rows.max() == 8 + radius


def test_slices_are_independent():
    network = build()
    x = torch.randn(2, 1, 12, 3, 8, 8)
    with torch.no_grad():
        each = [network(x[:, :, :, z : z + 1]) for z in range(3)]
        torch.testing.assert_close(torch.cat(each, 2), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_slices": 3}, "tcn sees one slice, n_slices is 3"),
        ({"kernel_t": 2}, "kernel_t cannot be 2"),
        ({"context": 2}, "context cannot be 2"),
        ({"context_in": "last"}, "context_in cannot be 'last'"),
        ({"stem_stride": 3}, "stem_stride cannot be 3"),
        ({"blocks": 0}, "blocks cannot be 0"),
        ({"norm": "none"}, "norm cannot be 'none'"),
    ],
)
def test_wrong_choices_are_refused(wrong, message):
    with pytest.raises(SettingsError, match=message):
        TemporalConvNetConfig(**wrong)
