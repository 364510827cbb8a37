"""A network on a whole scan: tiles, slabs, and how sure it is."""

import pytest
import torch
from torch import nn

from strokect.core.errors import GeometryError, SettingsError
from strokect.learn.data import Needs
from strokect.learn.predict import (
    Tiling,
    UncertaintyOptions,
    predict_volume,
    predict_with_uncertainty,
    seeing,
)


class Voxelwise(nn.Module):
    """Logits of each voxel from its own curve; needs sizes of ``multiple``."""

    def __init__(self, multiple=1):
        super().__init__()
        self.multiple, self.seen = multiple, []

    def forward(self, x):  # (B, C, T, Z, Y, X)
        assert x.shape[-1] % self.multiple == 0 and x.shape[-2] % self.multiple == 0
        self.seen.append(tuple(x.shape))
        return torch.stack([x[:, 0, 0], x[:, 0, -1], x[:, -1].mean(1)], 1)


class AlongZ(nn.Module):
    """Weighs ``n`` neighbour slices, each otherwise, so that turning them over shows."""

    def __init__(self, n):
        super().__init__()
        self.weights = torch.arange(1.0, n + 1)

    def forward(self, x):
        n = len(self.weights)
        count = x.shape[3] - n + 1
        # (B, 2, Z', Y, X)
        return sum(w * x[:, 0, :2, k : k + count] for k, w in enumerate(self.weights))


class Dropping(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm3d(3), nn.Dropout3d(p), nn.Dropout(p)

    def forward(self, x):
        self.modes = (self.norm.training, self.drop.training, self.last.training)
        return self.last(self.drop(self.norm(x[:, 0, :3])))


def _image(c=2, t=4, z=5, y=22, x=27, seed=0):
    return torch.randn(c, t, z, y, x, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("multiple", [1, 4, 16])
@pytest.mark.parametrize(
    "tiling",
    [
        Tiling(),
        Tiling(slices=1),
        Tiling(tile=(8, 8), batch=3),
        Tiling(tile=(8, 16), overlap=0.0, slices=2),
        Tiling(tile=(16, 5), overlap=0.75, batch=4),
        Tiling(tile=(40, 60)),
    ],
)
def test_a_function_of_each_voxel_is_the_same_whatever_the_tiles(tiling, multiple):
    image, network = _image(), Voxelwise(multiple)
    truth = Voxelwise()(image[None])[0].softmax(0)
    found = predict_volume(network, image, Needs(1, multiple), tiling)
    assert found.shape == (3, 5, 22, 27)
    assert torch.allclose(found, truth, atol=2e-6)
    assert torch.allclose(found.sum(0), torch.ones(5, 22, 27))
    assert max(shape[0] for shape in network.seen) <= tiling.batch


def test_slabs_see_their_true_neighbours():
    image, needs = _image(z=7), Needs(5, 1)
    whole = predict_volume(AlongZ(5), image, needs, Tiling())
    for slices in (1, 2, 3, 6):
        slab = predict_volume(AlongZ(5), image, needs, Tiling(slices=slices))
        assert torch.allclose(slab, whole, atol=1e-6)
    middle = AlongZ(5)(image[None])[0].softmax(0)
    assert torch.allclose(whole[:, 2:-2], middle, atol=1e-6)


def test_edge_slices_stand_in_for_those_beyond():
    image = _image(z=3)
    padded = torch.cat([image[:, :, :1], image, image[:, :, -1:]], 2)
    truth = AlongZ(3)(padded[None])[0].softmax(0)
    assert torch.allclose(predict_volume(AlongZ(3), image, Needs(3, 1), Tiling()), truth, atol=1e-6)


def test_too_few_slices_are_told():
    with pytest.raises(GeometryError, match="2 slices; the network looks at 3"):
        predict_volume(AlongZ(3), _image(z=2), Needs(3, 1), Tiling())


def test_windows_overlap_smoothly():
    """A network whose windows disagree gives no seams: neighbours are blended."""

    class Place(nn.Module):
        def forward(self, x):
            column = torch.arange(x.shape[-1]).expand(x.shape[0], 1, 1, *x.shape[-2:]) / 4.0
            return torch.cat([column, -column], 1)

    found = predict_volume(Place(), _image(c=1, t=1, z=1, y=8, x=64), Needs(), Tiling((8, 16)))
    assert found[0, 0, 0].diff().abs().max() < 0.25
    hard = predict_volume(
        Place(), _image(c=1, t=1, z=1, y=8, x=64), Needs(), Tiling((8, 16), overlap=0.0)
    )
    assert hard[0, 0, 0].diff().abs().max() > 0.45


def _predict(network, method, image=None, **options):
    image = _image() if image is None else image
    inside = torch.ones(image.shape[2:], dtype=torch.bool)
    inside[:, :3] = False

    def count(chance):
        return torch.bincount(chance.argmax(dim=0)[inside], minlength=len(chance))

    return predict_with_uncertainty(
        network, image, count, Needs(), Tiling(), UncertaintyOptions(method, **options)
    )


def test_turning_over_shows_no_doubt_of_a_network_that_turns_along():
    found = _predict(Voxelwise(), "flip", axes=(-1, -2))
    assert found.sd.max() < 1e-6
    assert torch.allclose(found.mean, Voxelwise()(_image()[None])[0].softmax(0), atol=1e-6)
    assert found.counts.shape == (4, 3)
    assert (found.counts == found.counts[0]).all()
    assert (found.counts.sum(1) == 5 * 19 * 27).all()


def test_turning_over_is_turned_back():
    class Left(nn.Module):
        def forward(self, x):
            y = torch.zeros(x.shape[0], 2, *x.shape[3:])
            y[:, 0, :, :, : x.shape[-1] // 2] = 9.0
            return y

    found = _predict(Left(), "flip", _image(x=28), axes=(-1, -2))
    chances = torch.tensor([9.0, 0.0]).softmax(0)[0], torch.tensor(0.5)
    assert torch.allclose(found.mean[0], sum(chances) / 2)
    spread = torch.stack([chances[0], chances[1]] * 2).std()
    assert torch.allclose(found.sd[0], spread)


def test_nothing_asked_is_one_draw_without_doubt():
    found = _predict(Voxelwise(), "none")
    assert (found.sd == 0).all() and found.counts.shape == (1, 3)


def test_dropout_is_drawn_by_seed_and_norms_stay_as_they_are():
    network = Dropping()
    with torch.no_grad():
        network.norm.running_mean += 0.3
    before = {k: v.clone() for k, v in network.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = _predict(network, "dropout", draws=5, seed=3)
    assert torch.equal(state, torch.get_rng_state())  # the caller's draws go on as before
    assert network.modes == (False, True, True)
    assert not any(m.training for m in network.modules())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    again = _predict(network, "dropout", draws=5, seed=3)
    other = _predict(network, "dropout", draws=5, seed=4)
    assert torch.equal(first.mean, again.mean) and torch.equal(first.sd, again.sd)
    assert not torch.equal(first.mean, other.mean)
    assert first.sd.mean() > 0.05
    assert first.counts.shape == (5, 3) and (first.counts != first.counts[0]).any()


def test_mean_and_sd_are_those_of_the_draws():
    network = Dropping()
    network.eval()
    drawn = [_predict(network, "dropout", draws=1, seed=s).mean for s in (3, 4, 5, 6)]
    found = _predict(network, "dropout", draws=4, seed=3)
    assert torch.allclose(found.mean, torch.stack(drawn).mean(0), atol=1e-6)
    assert torch.allclose(found.sd, torch.stack(drawn).std(0), atol=1e-6)


@pytest.mark.parametrize("network", [Voxelwise(), Dropping(p=0.0)])
def test_a_network_without_dropout_cannot_draw(network):
    with pytest.raises(SettingsError, match="no dropout"):
        _predict(network, "dropout")


def test_an_error_leaves_the_network_in_evaluation_mode():
    class Failing(Dropping):
        def forward(self, x):
            raise RuntimeError("stop")

    network = Failing()
    with pytest.raises(RuntimeError, match="stop"):
        _predict(network, "dropout")
    assert not any(m.training for m in network.modules())


@pytest.mark.parametrize(
    "wrong", [{"overlap": 1.0}, {"overlap": -0.1}, {"tile": (0, 8)}, {"slices": 0}, {"batch": 0}]
)
def test_impossible_tilings_are_refused(wrong):
    with pytest.raises(SettingsError, match="tiling"):
        Tiling(**wrong)
    with pytest.raises(SettingsError, match="0 draws"):
        UncertaintyOptions("dropout", draws=0)


class Scored(nn.Module):
    """The first logit is raised by the first score of the scan."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x, clinical):
        assert clinical.shape == (len(x), 4)
        self.asked.append(clinical)
        raised = x[:, 0, 0] + clinical[:, :1, None, None]
        return torch.stack([raised, x[:, 0, 1]], 1)


def test_every_window_of_a_scan_gets_its_scores():
    image, network = _image(), Scored()
    scores = torch.tensor([2.0, 1.0, 0.0, 0.0])
    truth = torch.stack([image[0, 0] + 2.0, image[0, 1]]).softmax(0)
    for tiling in (Tiling(), Tiling(tile=(8, 8), batch=3, slices=2)):
        found = predict_volume(seeing(network, scores), image, Needs(), tiling)
        assert torch.allclose(found, truth, atol=2e-6)
    assert max(map(len, network.asked)) == 3
    assert all((asked == scores).all() for asked in network.asked)


def test_a_network_that_asks_for_nothing_is_left_as_it_is():
    network = Voxelwise()
    assert seeing(network, torch.zeros(0)) is network


def test_scores_count_in_every_draw():
    image, options = _image(), UncertaintyOptions("flip", axes=(-1, -2))

    def core_of(*scores):
        found = predict_with_uncertainty(
            Scored(), image, lambda chance: (chance[0] > 0.5).sum()[None], Needs(), Tiling(),
            options, clinical=torch.tensor(scores),
        )  # fmt: skip
        assert found.sd.max() < 1e-6 and (found.counts == found.counts[0]).all()
        return found.counts[0].item()

    assert core_of(-9.0, 1.0, 0.0, 0.0) == 0 < core_of(0.0, 0.0, 0.0, 0.0)
    assert core_of(9.0, 1.0, 0.0, 0.0) == image[0, 0].numel()
