"""Baselines from MONAI."""

import pytest
import torch

from strokect.core.errors import SettingsError
from strokect.nets.baselines import (
    BaselineAttentionUNet,
    BaselineSegResNet,
    BaselineUNet,
    BaselineVNet,
)

ALL = [BaselineUNet, BaselineAttentionUNet, BaselineVNet, BaselineSegResNet]


def test_plain_unet_parameters_by_hand():
    """Two levels, plain: the layers of MONAI, counted by hand, guard against a changed release."""
    network = BaselineUNet(BaselineUNet.Config(time_points=8, width=4, depth=2, residual_units=0))
    # Convolution with bias, affine norm, PReLU with one slope: down, bottom; then up to 4 classes.
    down = 9 * 8 * 4 + 4 + 8 + 1
    bottom = 9 * 4 * 8 + 8 + 16 + 1
    up = 9 * (4 + 8) * 4 + 4
    assert sum(p.numel() for p in network.parameters()) == down + bottom + up


@pytest.mark.parametrize("kind", ALL)
def test_a_flat_network_sees_each_slice_alone(kind):
    network = kind(kind.Config(time_points=8)).eval()
    x = torch.randn(2, 1, 8, 3, 32, 32)
    with torch.no_grad():
        each = [network(x[:, :, :, z : z + 1]) for z in range(3)]
        torch.testing.assert_close(torch.cat(each, 2), network(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [BaselineUNet, BaselineAttentionUNet])
def test_a_3d_network_keeps_its_centre_slices(kind):
    """One slice at a time along the slab: output z is made around input z + 1."""
    network = kind(kind.Config(time_points=8, dims=3, n_slices=3, width=4, depth=2)).eval()
    x = torch.randn(1, 1, 8, 7, 16, 16)
    whole = network.net(x.flatten(1, 2))
    torch.testing.assert_close(network(x), whole[:, :, 1:-1])
    other = x.clone()
    other[:, :, :, 2] = torch.randn(1, 1, 8, 16, 16)
    with torch.no_grad():
        assert not torch.allclose(network(other)[:, :, 1], network(x)[:, :, 1], atol=1e-3)


def test_channels_and_time_points_become_input_channels():
    network = BaselineUNet(BaselineUNet.Config(time_points=8, channels=2)).eval()
    x = torch.randn(1, 2, 8, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(x)[:, :, 0], network.net(x.reshape(1, 16, 32, 32)))


def test_vnet_drops_by_its_setting_only():
    network = BaselineVNet(BaselineVNet.Config(time_points=8))
    drops = [m for m in network.modules() if isinstance(m, torch.nn.modules.dropout._DropoutNd)]
    assert drops
    assert all(isinstance(m, torch.nn.Dropout2d) and m.p == 0 for m in drops)


def test_vnet_in_dropout_never_drops_a_whole_sample():
    network = BaselineVNet(BaselineVNet.Config(time_points=8, dropout=0.5))
    drops = [m for m in network.modules() if isinstance(m, torch.nn.modules.dropout._DropoutNd)]
    assert {m.p for m in drops} == {0.5}
    assert all(isinstance(m, torch.nn.Dropout2d) for m in drops)


@pytest.mark.parametrize("residual_units", [0, 2])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_unet_variants_learn(residual_units, norm):
    config = BaselineUNet.Config(
        time_points=8, width=4, depth=3, residual_units=residual_units, norm=norm
    )
    network = BaselineUNet(config)
    network(torch.randn(2, 1, 8, 1, 16, 16)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_wrong_choices_are_refused():
    for kind in ALL:
        with pytest.raises(SettingsError, match="a 2D network sees one slice, n_slices is 3"):
            kind.Config(n_slices=3)
        with pytest.raises(SettingsError, match="dims cannot be 4"):
            kind.Config(dims=4)
    for kind in (BaselineVNet, BaselineSegResNet):
        with pytest.raises(SettingsError, match=r"cannot run with dims 3\. Set dims to 2"):
            kind.Config(dims=3, n_slices=3)
    with pytest.raises(SettingsError, match="depth cannot be 1"):
        BaselineUNet.Config(depth=1)
    with pytest.raises(SettingsError, match="norm cannot be 'group'"):
        BaselineUNet.Config(norm="group")
