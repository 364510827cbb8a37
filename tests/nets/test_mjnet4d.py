"""4D mJ-Net."""

import pytest
import torch

from strokect.core.errors import SettingsError
from strokect.nets.inplane import Decoder, Encoder
from strokect.nets.mjnet4d import MJNet4d, MJNet4dConfig

SMALL = {"time_points": 8, "width": 4, "depth": 3}


def count(module):
    return sum(p.numel() for p in module.parameters())


def build(**options):
    return MJNet4d(MJNet4dConfig(**{**SMALL, **options}))


def test_parameters_by_hand():
    network = build()  # time 8 -> 4 -> 2 -> 1
    kernel = 3 * 9  # z, y, x
    time = kernel * (3 * 1 * 4 + 3 * 4 * 4 + 2 * 4 * 4) + 3 * 2 * 4
    merge = kernel * 4 * 4 + 2 * 4
    plane = count(Encoder(network.config)) + count(Decoder(network.config))
    assert count(network) == time + merge + plane + (4 * 4 + 4)


def test_parameters_of_strided_and_z_first_by_hand():
    network = build(reduce_first="z", kernel_z=1, stem_stride=2)
    stem = 3 * 9 * 4 + 2 * 4
    time = 9 * (3 * 4 * 4 + 3 * 4 * 4 + 2 * 4 * 8) + (4 + 4 + 8) * 2
    skip = 9 * 8 * 4 + 2 * 4
    plane = count(Encoder(network.config, 1)) + count(Decoder(network.config))
    assert count(network) == stem + time + skip + plane + (4 * 4 + 4)


@pytest.mark.parametrize(
    ("times", "strides"),
    [(30, (2, 3)), (20, (2, 3)), (7, (2, 2)), (5, ()), (1, (2,)), (20, (3, 3))],
)
def test_time_strides_leave_the_last_block_what_remains(times, strides):
    network = build(time_points=times, time_strides=strides)
    assert len(network.time) == len(strides) + 1
    x = torch.randn(1, 1, times, 3, 16, 16)
    with torch.no_grad():
        assert network.time(x).shape == (1, 4, 1, 3, 16, 16)
    if (times, strides) == (30, (2, 3)):
        assert network.time[-1].conv.weight.shape[2:] == (5, 3, 3, 3)


@pytest.mark.parametrize("times", [7, 9, 20, 30, 31])
@pytest.mark.parametrize(("kernel", "strides"), [(3, (2, 3)), (3, (3,)), (5, (4, 1)), (1, (1,))])
def test_no_time_point_is_left_out(times, kernel, strides):
    network = build(time_points=times, kernel_t=kernel, time_strides=strides, norm="batch")
    x = torch.randn(1, 1, times, 3, 8, 8, requires_grad=True)
    network.eval()(x).square().sum().backward()
    assert (x.grad.abs().sum((0, 1, 3, 4, 5)) > 0).all()


@pytest.mark.parametrize("norm", ["group", "instance", "batch"])
@pytest.mark.parametrize("reduce_first", ["time", "z"])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_a_slab_gives_what_its_slices_give(norm, reduce_first, stem_stride):
    """Exactly, where the 4D kernels do not reach across z."""
    network = build(norm=norm, reduce_first=reduce_first, stem_stride=stem_stride, kernel_z=1)
    network.eval()
    x = torch.randn(2, 1, 8, 5, 16, 16)
    with torch.no_grad():
        slab = network(x)
        each = [network(x[:, :, :, z : z + 3]) for z in range(3)]
    torch.testing.assert_close(torch.cat(each, 2), slab, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("choice", [{}, {"stem_stride": 2}, {"reduce_first": "z", "kernel_z": 1}])
def test_variants_learn(attention, nested, choice):
    network = build(attention=attention, nested=nested, n_slices=5, **choice)
    network(torch.randn(2, 1, 8, 5, 16, 16)).square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())


def reach_in_z(network):
    """Input slices that the middle output slice of a slab depends on. One pixel reads no other
    slice through normalisation, which is per slice."""
    x = torch.randn(1, 1, 8, 13, 16, 16, requires_grad=True)
    y = network.eval()(x)
    y[:, :, y.shape[2] // 2].square().sum().backward()
    return int((x.grad.abs().sum((0, 1, 2, 4, 5)) > 0).sum())


@pytest.mark.parametrize("n_slices", [1, 3, 5])
def test_reach_in_z_is_that_of_the_kernels(n_slices):
    assert reach_in_z(build(n_slices=n_slices, kernel_z=1)) == n_slices
    assert reach_in_z(build(n_slices=n_slices, kernel_z=3)) == n_slices + 2 * 3


def test_skip_past_a_strided_stem_is_the_centre_slice_at_full_resolution():
    network = build(stem_stride=2).eval()
    seen = []
    network.skip.register_forward_hook(lambda *args: seen.append(args[2]))
    x = torch.randn(1, 1, 8, 3, 16, 16)
    edge, centre = x.clone(), x.clone()
    edge[:, :, :, 0] += torch.randn(16, 16)
    centre[:, :, :, 1] += torch.randn(16, 16)
    with torch.no_grad():
        outputs = [network(a) for a in (x, edge, centre)]
    assert seen[0].shape == (1, 4, 16, 16)
    assert torch.equal(seen[0], seen[1])
    assert not torch.allclose(seen[0], seen[2], atol=1e-2)
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)  # the 4D blocks see the edge


def test_a_list_of_strides_is_taken():
    assert MJNet4dConfig(time_strides=[2, 2]).time_strides == (2, 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kernel_t": 2}, "kernel_t cannot be 2"),
        ({"kernel_z": 0}, "kernel_z cannot be 0"),
        ({"time_strides": (2, 0)}, "time_strides cannot be 0"),
        ({"time_strides": (2, 4)}, "a stride of 4 in time_strides skips time points"),
        ({"reduce_first": "y"}, "Choose from 'time', 'z'"),
        ({"stem_stride": 3}, "stem_stride cannot be 3"),
        ({"reduce_first": "z", "kernel_z": 3}, "kernel_z is 3. Set kernel_z to 1"),
        ({"stem_stride": 2, "depth": 1}, "Set depth to 2"),
    ],
)
def test_wrong_choices_are_refused(wrong, message):
    with pytest.raises(SettingsError, match=message):
        MJNet4dConfig(**wrong)
