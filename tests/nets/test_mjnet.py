"""mJ-Net on slices in time."""

import pytest
import torch

from strokect.core.errors import SettingsError
from strokect.nets.inplane import Decoder, Encoder
from strokect.nets.mjnet import FullTime, MJNet2dT, MJNet3dT, TimeBlocks

SMALL = {"time_points": 8, "width": 4, "depth": 3}


def count(module):
    return sum(p.numel() for p in module.parameters())


def both(temporal="full", **options):
    return (
        MJNet2dT(MJNet2dT.Config(**SMALL, temporal=temporal, **options)).eval(),
        MJNet3dT(MJNet3dT.Config(**SMALL, temporal=temporal, **options)).eval(),
    )


@pytest.mark.parametrize(
    ("temporal", "time"),
    [
        ("full", 9 * 8 * 4 + 2 * 4),
        ("blocks", 27 * (1 * 4 + 4 * 4 + 4 * 4) + 3 * 2 * 4),
    ],
)
def test_parameters_by_hand(temporal, time):
    flat, fused = both(temporal)
    plane = count(Encoder(flat.config)) + count(Decoder(flat.config))
    head = 4 * 4 + 4
    assert count(flat) == time + plane + head
    fuse = sum(3 * w * w + 2 * w for w in (4, 8, 16))
    assert count(fused) == time + plane + fuse + head


@pytest.mark.parametrize("temporal", ["full", "blocks"])
@pytest.mark.parametrize("norm", ["group", "instance", "batch"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_slab_gives_what_its_slices_give(temporal, norm, nested):
    x = torch.randn(2, 1, 8, 5, 16, 16)
    with torch.no_grad():
        for network in both(temporal, norm=norm, nested=nested, attention=True):
            n = network.config.n_slices
            slab = network(x)
            assert slab.shape[2] == 6 - n
            each = [network(x[:, :, :, z : z + n]) for z in range(6 - n)]
            torch.testing.assert_close(torch.cat(each, 2), slab, rtol=1e-4, atol=1e-5)


def test_full_time_sums_over_time_as_a_kernel_of_full_extent_does():
    config = MJNet2dT.Config(channels=2, **SMALL)
    layer = FullTime(config)
    x = torch.randn(3, 2, 8, 6, 6)
    kernel = layer.block[0].weight.unflatten(1, (2, 8))  # (out, C, T, 3, 3)
    direct = torch.nn.functional.conv3d(x, kernel, padding=(0, 1, 1)).squeeze(2)
    torch.testing.assert_close(layer.block[1](direct), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("times", [1, 2, 5, 7, 20, 30, 31])
def test_three_blocks_reduce_any_number_of_time_points(times):
    layer = TimeBlocks(MJNet2dT.Config(time_points=times, width=4)).eval()
    x = torch.randn(2, 1, times, 4, 4)
    sizes = []
    for block in layer.blocks:
        block.register_forward_hook(lambda *args: sizes.append(args[2].shape[2]))
    assert layer(x).shape == (2, 4, 4, 4)
    if times == 30:
        assert sizes[2::3] == [15, 5, 1]


def test_the_last_time_point_counts_where_pools_are_not_full():
    layer = TimeBlocks(MJNet2dT.Config(time_points=7, width=4))
    x = torch.randn(1, 1, 7, 4, 4, requires_grad=True)
    layer(x).square().sum().backward()
    assert (x.grad.abs().sum((0, 1, 3, 4)) > 0).all()


def test_neighbours_matter_to_3dt_and_not_to_2dt():
    x = torch.randn(1, 1, 8, 3, 16, 16)
    other = x.clone()
    other[:, :, :, 0] = torch.randn(1, 1, 8, 16, 16)
    flat, fused = both()
    with torch.no_grad():
        assert torch.equal(flat(x)[:, :, 1:], flat(other)[:, :, 1:])
        assert not torch.allclose(fused(x), fused(other), atol=1e-3)


def test_wrong_choices_are_refused():
    with pytest.raises(SettingsError, match="mjnet_2dt sees one slice, n_slices is 3"):
        MJNet2dT.Config(n_slices=3)
    with pytest.raises(SettingsError, match="temporal cannot be 'half'"):
        MJNet3dT.Config(temporal="half")
