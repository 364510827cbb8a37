"""Multi-input network: one VGG-16 encoder per image, clinical scores, one decoder."""

import pytest
import torch
from torch.nn import functional

from strokect.core.errors import GeometryError, SettingsError
from strokect.nets.multi_input import MultiInput

FORMS = [{}, {"shared": True}, {"concatenate": True}]


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def build(**options):
    own = {"width": 4, "images": 2, "channels": 6, "dropout": 0.0, **options}
    return MultiInput(MultiInput.Config(**own))


def sample(network, batch=2, slices=3, size=(32, 32)):
    return torch.rand(batch, network.config.channels, 1, slices, *size)


def scores(network, batch=2):
    return torch.rand(batch, network.config.clinical)


def inputs(network, **shape):
    x = sample(network, **shape)
    return (x, scores(network, len(x))) if network.config.clinical else (x,)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "option",
    [
        {"clinical": 2},
        {"attention": True},
        {"nested": True},
        {"norm": "batch"},
        {"norm": "instance"},
        {"channels": 2},
        {"images": 5, "channels": 15, "clinical": 6, "hidden": 7},
        {"decoder_width": 6, "classes": 3},
        {"width": 3, "negative_slope": 0.0},
    ],
)
def test_every_option_learns_with_all_its_weights(form, option):
    network = build(**form, **option)
    logits = network(*inputs(network, size=(32, 48)))
    assert logits.shape == (2, network.config.classes, 3, 32, 48)
    logits.square().mean().backward()
    silent = [n for n, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    assert not silent


@pytest.mark.parametrize(("form", "count"), [(FORMS[0], 4), (FORMS[1], 1), (FORMS[2], 1)])
def test_encoder_layers_are_the_convolutions_of_vgg16_from_the_image_inwards(form, count):
    network = build(images=4, channels=12, **form)
    encoders = network.encoder_layers()
    assert [len(layers) for layers in encoders] == [13] * count
    widths = [4, 4, 8, 8, 16, 16, 16, 32, 32, 32, 32, 32, 32]
    for layers in encoders:
        assert [(c.in_channels, c.out_channels) for c in layers] == list(
            zip([3, *widths[:-1]], widths, strict=True)
        )
    listed = {id(p) for layers in encoders for layer in layers for p in layer.parameters()}
    inside = {id(p) for n, p in network.named_parameters() if ".vgg." in n}
    assert listed == inside


def test_default_is_vgg16_on_four_coloured_maps():
    with torch.device("meta"):
        network = MultiInput(MultiInput.Config())
    assert [c.out_channels for c in network.encoder_layers()[3]][-1] == 512
    assert network.config.decoder.width == 16
    assert network.head.in_channels == 16
    assert any(m.p == 0.25 for m in network.modules() if isinstance(m, torch.nn.Dropout2d))
    with torch.device("meta"):
        assert MultiInput(MultiInput.Config(width=8)).config.decoder.width == 4


def test_each_encoder_has_weights_and_an_image_of_its_own():
    """Swapping two images and their encoders' weights swaps the encoders' features."""
    network = build().eval()
    x = torch.rand(1, 6, 32, 32)
    first = network._encode(x)
    network.encoders = network.encoders[::-1]
    swapped = network._encode(x.roll(3, 1))
    for one, other in zip(first, swapped, strict=True):
        torch.testing.assert_close(one.roll(one.shape[1] // 2, 1), other)
        assert not torch.allclose(one, other)


def test_a_shared_encoder_does_the_same_to_every_image():
    network = build(shared=True).eval()
    x = torch.rand(2, 6, 32, 32)
    for one, other in zip(network._encode(x), network._encode(x.roll(3, 1)), strict=True):
        torch.testing.assert_close(one.roll(one.shape[1] // 2, 1), other)


def test_pixels_are_brought_to_the_mean_and_sd_of_imagenet():
    """Colour: each channel its own. Grey: their averages. The constants are not in the files."""
    network = build().eval()
    seen = []
    network.encoders[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    white = torch.ones(1, 6, 1, 1, 16, 16)
    network(white)
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx(expected)
    grey = build(channels=2)
    assert grey.mean.flatten().tolist() == pytest.approx([0.449] * 2)
    assert grey.sd.flatten().tolist() == pytest.approx([0.226] * 2)
    assert not {"mean", "sd"} & network.state_dict().keys()


@pytest.mark.parametrize("norm", ["group", "instance", "batch"])
def test_slices_and_patients_are_independent(norm):
    network = build(clinical=2, norm=norm).eval()
    x, clinical = sample(network), scores(network)
    with torch.no_grad():
        whole = network(x, clinical)
        for b in range(2):
            for z in range(3):
                alone = network(x[b : b + 1, :, :, z : z + 1], clinical[b : b + 1])
                torch.testing.assert_close(alone[0, :, 0], whole[b, :, z], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["group", "instance", "batch"])
def test_each_patient_gets_his_own_scores_in_all_slices(norm):
    network = build(clinical=2, norm=norm)
    x, clinical = sample(network), scores(network)
    with torch.no_grad():
        for _ in range(50 if norm == "batch" else 0):
            network(x, clinical)  # until the running statistics are those of the batch
    network.eval()
    other = clinical.clone()
    other[1, 0] += 1
    with torch.no_grad():
        change = (network(x, other) - network(x, clinical)).abs().amax((1, 3, 4))
    assert (change[0] == 0).all()
    assert (change[1] > 1e-4).all()


def test_the_clinical_plane_is_resized_to_any_bottleneck():
    network = build(clinical=2).eval()
    seen = []
    network.fuse.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, -1:]))
    clinical = scores(network)
    plane = network.clinical(clinical)
    assert plane.shape == (2, 1, 8, 8)
    for size, factor in (((128, 128), 1), ((256, 256), 2)):
        network(sample(network, slices=2, size=size), clinical)
        wanted = functional.interpolate(plane, scale_factor=factor, mode="bilinear")
        torch.testing.assert_close(seen.pop(), wanted[[0, 0, 1, 1]])


def test_scores_alone_can_be_learnt_from():
    """The same image with other scores asks for another class."""
    network = build(clinical=2, classes=2, norm="batch")
    x = sample(network, batch=1, slices=1, size=(16, 16)).expand(2, -1, -1, -1, -1, -1)
    clinical = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    truth = torch.tensor([0, 1])[:, None, None, None].expand(-1, 1, 16, 16)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(x, clinical), truth)
        loss.backward()
        optimizer.step()
        if loss < 0.05:
            break
    assert (network(x, clinical).argmax(1) == truth).float().mean() > 0.95


def test_dropout_is_per_encoder_and_nowhere_else():
    network = build(dropout=0.25)
    drops = [n for n, m in network.named_modules() if isinstance(m, torch.nn.Dropout2d)]
    assert drops == ["encoders.0.tail.2", "encoders.1.tail.2"]


@pytest.mark.parametrize(
    ("made_for", "given", "message"),
    [
        (2, None, r"needs a clinical vector of shape \(2, 2\), found no clinical vector"),
        (2, (2, 3), r"needs .* \(2, 2\), found a clinical vector of shape \(2, 3\)"),
        (2, (1, 2), r"found a clinical vector of shape \(1, 2\)"),
        (2, (2,), r"found a clinical vector of shape \(2,\)"),
        (0, (2, 2), r"needs no clinical vector, found a clinical vector of shape \(2, 2\)"),
    ],
)
def test_wrong_scores_are_one_clear_error(made_for, given, message):
    network = build(clinical=made_for)
    clinical = None if given is None else torch.zeros(given)
    with pytest.raises(GeometryError, match=message):
        network(sample(network), clinical)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": 0}, "images cannot be 0"),
        ({"clinical": -1}, "clinical cannot be -1"),
        ({"clinical": 1.5}, r"clinical cannot be 1\.5"),
        ({"width": 0}, "width cannot be 0"),
        ({"decoder_width": 0}, "decoder_width cannot be 0"),
        ({"hidden": 0}, "hidden cannot be 0"),
        ({"dropout": 1.0}, r"dropout cannot be 1\.0"),
        ({"norm": "layer"}, "norm cannot be 'layer'"),
        ({"negative_slope": -1}, "negative_slope cannot be -1"),
        ({"time_points": 30}, "sees single images, time_points is 30. Set time_points to 1"),
        ({"n_slices": 3}, "sees single images, n_slices is 3. Set n_slices to 1"),
        ({"channels": 5}, "channels is 5 for 2 images. Give 6 in colour or 2 in grey"),
        ({"shared": True, "concatenate": True}, "both shared and concatenate"),
    ],
)
def test_wrong_choices_are_refused(wrong, message):
    with pytest.raises(SettingsError, match=message):
        build(**wrong)
