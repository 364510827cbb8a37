"""Shared parts of the networks."""

import pytest
import torch

from strokect.core.errors import SettingsError
from strokect.nets import blocks


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (2, 1), (4, 2), (6, 3), (8, 4), (12, 6), (16, 8), (28, 7)]
)
def test_groups_divide_the_channels_and_hold_two(channels, groups):
    assert blocks.group_count(channels) == groups


@pytest.mark.parametrize("kind", blocks.NORMS)
@pytest.mark.parametrize("dims", [2, 3])
def test_normalised_values_have_no_mean_and_unit_variance(kind, dims):
    x = 5 + 3 * torch.randn(4, 8, *(6,) * dims)
    y = blocks.norm_layer(kind, 8, dims)(x)
    assert abs(y.mean()) < 1e-5
    assert abs(y.var(unbiased=False) - 1) < 1e-3


@pytest.mark.parametrize("kind", ["instance", "group"])
def test_a_slice_is_normalised_by_itself(kind):
    x = torch.randn(2, 8, 3, 6, 6)  # (B, C, Z, Y, X)
    norm = blocks.norm_layer(kind, 8, 2)
    whole = blocks.unfold(norm(blocks.fold(x)), 2)
    alone = blocks.unfold(norm(blocks.fold(x[:, :, 1:2])), 2)
    torch.testing.assert_close(whole[:, :, 1:2], alone)


def test_unfold_undoes_fold():
    x = torch.randn(2, 3, 5, 4, 6)
    assert torch.equal(blocks.unfold(blocks.fold(x), 2), x)
    # Slice z of sample b is row b * Z + z.
    assert torch.equal(blocks.fold(x)[1 * 5 + 3], x[1, :, 3])
    x = torch.randn(2, 3, 7, 5, 4, 6)
    assert torch.equal(blocks.unfold_series(blocks.fold_series(x), 2), x)
    assert torch.equal(blocks.fold_series(x)[1 * 5 + 3], x[1, :, :, 3])


def test_centre_slices_are_those_with_all_neighbours():
    x = torch.arange(7)
    assert blocks.centre_slices(x, 1, 0).tolist() == list(range(7))
    assert blocks.centre_slices(x, 5, 0).tolist() == [2, 3, 4]


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3"])
def test_only_positive_integers_pass(value):
    with pytest.raises(SettingsError, match="width cannot be"):
        blocks.require_positive(width=value)
    with pytest.raises(SettingsError, match="width cannot be"):
        blocks.require_odd(width=value)
