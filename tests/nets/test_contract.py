"""What every network promises; a new one in ``catalog.NETWORKS`` is tested unasked."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from strokect import catalog
from strokect.core.errors import GeometryError, SettingsError

TIMES = 8
#: Of a network on images: one grey image of one time, if a test does not ask for more.
IMAGE = {"time_points": 1, "images": 1, "channels": 1, "dropout": 0.0}
#: Config of each network at test size, and variants; a network that is not here has its defaults.
SMALL = {
    "mjnet_2dt": {"width": 4, "depth": 3},
    "mjnet_2dt blocks": {"width": 4, "depth": 3, "temporal": "blocks"},
    "mjnet_3dt": {"width": 4, "depth": 3},
    "mjnet_4d": {"width": 4, "depth": 3},
    "mjnet_4d strided": {"width": 4, "depth": 3, "stem_stride": 2},
    "multi_input": {"width": 4, **IMAGE},
    "multi_input clinical": {"width": 4, "clinical": 2, **IMAGE},
    "multi_input concatenated": {"width": 4, "concatenate": True, **IMAGE},
    "multi_input shared": {"width": 4, "shared": True, **IMAGE},
    "tcn": {"width": 4, "blocks": 2},
    "tcn strided": {"width": 4, "blocks": 2, "stem_stride": 2},
    "unet": {"width": 4, "depth": 3},
    "unet 3d": {"width": 4, "depth": 3, "dims": 3, "n_slices": 3},
    "attention_unet": {"width": 4, "depth": 3},
    "attention_unet 3d": {"width": 4, "depth": 3, "dims": 3, "n_slices": 3},
    "segresnet": {"width": 4, "depth": 3},
}
NETWORKS = {
    name: (catalog.load("networks", name.split()[0]), SMALL.get(name, {}))
    for name in sorted({*catalog.NETWORKS, *SMALL})
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=NETWORKS)
def entry(request):
    return NETWORKS[request.param]


def build(entry, **options):
    kind, own = entry
    if "images" in own and "channels" in options:  # one grey image a channel
        options["images"] = options["channels"]
    return kind(kind.Config(**{"time_points": TIMES, **own, **options}))


def run(network, x):
    """Logits, with clinical values where the network takes them."""
    values = getattr(network.config, "clinical", 0)
    return network(x, torch.ones(len(x), values)) if values else network(x)


def sample(network, batch=1, extra=2, size=32):
    config = network.config
    return torch.randn(
        batch, config.channels, config.time_points, config.n_slices + extra, size, size
    )


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("extra", [0, 2])
def test_one_logit_map_per_whole_neighbourhood(entry, classes, extra):
    network = build(entry, classes=classes, channels=2)
    with torch.no_grad():
        logits = run(network, sample(network, batch=2, extra=extra))
    assert logits.shape == (2, classes, extra + 1, 32, 32)
    # Logits, not probabilities.
    assert logits.min() < 0
    assert not torch.allclose(logits.sum(1), torch.ones(()))


def test_takes_any_plane_of_its_multiple(entry):
    network = build(entry).eval()
    multiple = network.in_plane_multiple
    size = (multiple * (2 + 32 // multiple), multiple * (1 + 32 // multiple))
    x = torch.randn(1, 1, network.config.time_points, network.config.n_slices, *size)
    with torch.no_grad():
        assert run(network, x).shape[-2:] == size
    if multiple > 1:
        with pytest.raises(GeometryError, match=rf"multiples of {multiple}, found \[33, "):
            run(network, x.new_zeros(*x.shape[:-2], 33, 32))


def test_wrong_input_is_one_clear_error(entry):
    network = build(entry)
    x = sample(network)
    times = network.config.time_points
    with pytest.raises(GeometryError, match=f"needs {times} time points, found {times + 1}"):
        run(network, torch.cat((x, x[:, :, :1]), 2))
    with pytest.raises(GeometryError, match="needs 1 channels, found 2"):
        run(network, x.expand(-1, 2, -1, -1, -1, -1))
    with pytest.raises(GeometryError, match="needs 6 axes"):
        run(network, x[0])
    too_few = network.config.n_slices - 1
    with pytest.raises(GeometryError, match=f"slices, found {too_few}"):
        run(network, x[:, :, :, :too_few])


def test_wrong_config_is_one_clear_error(entry):
    for wrong in ({"classes": 5}, {"channels": 0}, {"time_points": 0}, {"n_slices": 2}):
        (name,) = wrong
        with pytest.raises(SettingsError, match=name):
            build(entry, **wrong)


def test_config_is_frozen_and_kept(entry):
    network = build(entry)
    assert isinstance(network.config, entry[0].Config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        network.config.classes = 2
    entry[0].Config()  # every field has a default


def test_every_parameter_learns(entry):
    network = build(entry)
    run(network, sample(network, batch=2)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_every_channel_time_point_and_slice_counts(entry):
    network = build(entry, channels=2).eval()
    x = sample(network).requires_grad_()
    run(network, x).square().sum().backward()
    assert (x.grad.abs().amax((0, 4, 5)) > 0).all()


def test_eval_is_deterministic_and_its_samples_independent(entry):
    network = build(entry, dropout=0.3)
    run(network, sample(network, batch=2))  # batch statistics, where there are any
    network.eval()
    x = sample(network, batch=2)
    with torch.no_grad():
        first, again = run(network, x), run(network, x)
        alone = torch.cat([run(network, x[:1]), run(network, x[1:])])
    assert torch.equal(first, again)
    torch.testing.assert_close(alone, first, rtol=1e-4, atol=1e-5)


def test_dropout_alone_can_be_left_on(entry):
    """Monte-Carlo use: dropout layers in train mode, everything else in eval mode."""
    network = build(entry, dropout=0.3).eval()
    layers = [m for m in network.modules() if isinstance(m, torch.nn.modules.dropout._DropoutNd)]
    assert any(layer.p > 0 for layer in layers)
    for layer in layers:
        layer.train()
    x = sample(network)
    with torch.no_grad():
        assert not torch.equal(run(network, x), run(network, x))


def test_order_of_time_points_matters(entry):
    network = build(entry)
    if network.config.time_points == 1:
        pytest.skip("a network on images of one time")
    run(network, sample(network, batch=2))
    network.eval()
    x = sample(network)
    with torch.no_grad():
        change = (run(network, x.flip(2)) - run(network, x)).abs().mean()
        assert change > 0.01 * run(network, x).std()


def test_runs_in_bfloat16(entry):
    network = build(entry)
    x = sample(network, batch=2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = functional.cross_entropy(
            run(network, x), torch.zeros(2, 3, 32, 32, dtype=torch.long)
        )
    loss.backward()
    assert loss.isfinite()
    assert all(p.dtype == torch.float32 and p.grad.isfinite().all() for p in network.parameters())


def patterned(network):
    """Classes told apart by when the bolus arrives (one time: by how bright they are), in noise."""
    size = 32
    truth = torch.zeros(1, size, size, dtype=torch.long)
    truth[:, 6:26, 6:26] = 1
    truth[:, 10:22, 14:26] = 2
    truth[:, 12:18, 16:22] = 3
    times = torch.arange(TIMES).view(-1, 1, 1)
    height = torch.tensor([0.0, 3.0, 3.0, 1.5])[truth]
    curves = height * torch.exp(-0.5 * (times - 2.0 - 1.5 * truth).square())
    if network.config.time_points == 1:
        curves = truth.float()
    x = curves[:, None].expand(-1, network.config.n_slices, -1, -1)  # (T, Z, Y, X)
    return (x + 0.1 * torch.randn(x.shape))[None, None], truth


def test_learns_one_sample(entry):
    network = build(entry)
    x, truth = patterned(network)
    weight = 1 / torch.bincount(truth.flatten()).sqrt()  # the inner classes are small
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(120):
        optimizer.zero_grad()
        loss = functional.cross_entropy(run(network, x)[:, :, 0], truth, weight)
        loss.backward()
        optimizer.step()
        if loss < 0.1:
            break
    right = run(network, x)[:, :, 0].argmax(1) == truth
    for label in range(4):
        assert right[truth == label].float().mean() > 0.8
