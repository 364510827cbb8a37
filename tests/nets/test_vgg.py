"""VGG-16: its layers, and weights from files."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from strokect.core.errors import ScanError, SettingsError
from strokect.nets.multi_input import MultiInput
from strokect.nets.vgg import VGG16, load_vgg16, read_vgg16

#: Where torchvision has the convolutions, written down from its list of layers.
PLACES = {
    "vgg11": [0, 3, 6, 8, 11, 13, 16, 18],
    "vgg13": [0, 2, 5, 7, 10, 12, 15, 17, 20, 22],
    "vgg16": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
    "vgg19": [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34],
    "vgg13_bn": [0, 3, 7, 10, 14, 17, 21, 24, 28, 31],
    "vgg16_bn": [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40],
}
CHANNELS = [1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8]


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def published(width=4, name="vgg16", inputs=3):
    """State dict in torchvision's layout, narrow."""
    state, before = {}, inputs
    for i, place in enumerate(PLACES[name]):
        after = width * CHANNELS[min(i, 12)]
        state[f"features.{place}.weight"] = torch.randn(after, before, 3, 3) / (3 * before**0.5)
        state[f"features.{place}.bias"] = 0.1 * torch.randn(after)
        before = after
    return state


def reference(x, state):
    """The forward pass, written out."""
    features = []
    for i, place in enumerate(PLACES["vgg16"]):
        name = f"features.{place}"
        x = functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1).relu()
        if i in (1, 3, 6, 9, 12):
            features.append(x)
            x = functional.max_pool2d(x, 2, 2)
    return features


def network(**options):
    own = {"width": 4, "images": 2, "channels": 6, **options}
    return MultiInput(MultiInput.Config(**own))


def written(tmp_path, state, name="vgg16.pth"):
    path = tmp_path / name
    save_file(state, path) if name.endswith(".safetensors") else torch.save(state, path)
    return path


def test_features_are_those_of_the_forward_pass_written_out(tmp_path):
    state = published()
    net = network()
    load_vgg16(net, written(tmp_path, state))
    x = torch.rand(2, 3, 32, 48)
    for encoder in net.encoders:
        found = encoder.vgg(x)
        assert [f.shape[1:] for f in found] == [
            (4 * m, 32 // 2**i, 48 // 2**i) for i, m in enumerate((1, 2, 4, 8, 8))
        ]
        for one, other in zip(found, reference(x, state), strict=True):
            torch.testing.assert_close(one, other)


def test_full_width_has_the_parameters_of_vgg16():
    with torch.device("meta"):
        assert sum(p.numel() for p in VGG16(3, 64).parameters()) == 14_714_688


def test_fresh_weights_keep_the_size_of_the_signal():
    deepest = VGG16(3, 16)(torch.randn(4, 3, 32, 32))[-1]
    assert 0.2 < deepest.square().mean() < 5


@pytest.mark.parametrize("file", ["w.safetensors", "w.pth", "w.pt"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.model."])
def test_every_common_form_is_read(tmp_path, file, prefix):
    state = published()
    content = {f"{prefix}{k}": v for k, v in state.items()}
    content[f"{prefix}classifier.0.weight"] = torch.zeros(3, 3)
    found = read_vgg16(written(tmp_path, content, file))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("old", [False, True])
def test_checkpoints_old_files_and_half_precision_are_read(tmp_path, old):
    state = {k: v.half() for k, v in published().items()}
    path = tmp_path / "c.pth"
    content = {"epoch": 3, "state_dict": state}
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    found = read_vgg16(path)
    assert all(found[k].dtype == torch.float32 for k in state)
    assert all(torch.equal(found[k], v.float()) for k, v in state.items())


def test_weights_go_into_every_encoder_and_nowhere_else(tmp_path):
    net, state = network(), published()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.load_encoder_weights(written(tmp_path, state, "w.safetensors"))
    for layers in net.encoder_layers():
        for layer, place in zip(layers, PLACES["vgg16"], strict=True):
            assert torch.equal(layer.weight, state[f"features.{place}.weight"])
            assert torch.equal(layer.bias, state[f"features.{place}.bias"])
    rest = [k for k in before if ".vgg." not in k]
    assert rest
    assert all(torch.equal(before[k], net.state_dict()[k]) for k in rest)


@pytest.mark.parametrize("form", [{"shared": True}, {"concatenate": True}])
def test_weights_go_into_the_one_encoder(tmp_path, form):
    net, state = network(**form), published()
    net.load_encoder_weights(written(tmp_path, state))
    (layers,) = net.encoder_layers()
    assert torch.equal(layers[0].weight, state["features.0.weight"])


def test_a_grey_encoder_answers_as_the_coloured_one_to_a_grey_picture(tmp_path):
    path, state = (tmp_path / "w.pth"), published()
    torch.save(state, path)
    net = network(channels=2)
    net.load_encoder_weights(path)
    x = torch.rand(1, 1, 32, 32)
    found = net.encoders[1].vgg(x)
    for one, other in zip(found, reference(x.expand(-1, 3, -1, -1), state), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_another_width_is_refused_and_changes_nothing(tmp_path):
    net = network(width=2)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    path = written(tmp_path, published(4))
    with pytest.raises(SettingsError, match=r"network\.config\.width is 2, the file's is 4") as e:
        net.load_encoder_weights(path)
    assert "vgg16.pth" in str(e.value)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())


def test_no_file():
    with pytest.raises(ScanError, match="no such file: nowhere/vgg16"):
        read_vgg16("nowhere/vgg16.pth")


@pytest.mark.parametrize("name", sorted(PLACES.keys() - {"vgg16"}))
def test_other_vggs_are_named(tmp_path, name):
    state = published(name=name)
    if name.endswith("_bn"):
        for place in PLACES[name]:
            channels = len(state[f"features.{place}.weight"])
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"features.{place + 1}.{part}"] = torch.ones(channels)
    with pytest.raises(ScanError, match=f"those of {name}, not of VGG-16"):
        read_vgg16(written(tmp_path, state))


@pytest.mark.parametrize(
    "names", [["conv1.weight", "layer1.0.conv1.weight"], ["features.0.weight", "features.3.weight"]]
)
def test_other_networks_are_named_by_their_first_layer(tmp_path, names):
    state = {name: torch.zeros(4, 3, 7, 7) for name in names}
    with pytest.raises(ScanError, match=rf"another network \(its first layer is {names[0]}\)"):
        read_vgg16(written(tmp_path, state))


@pytest.mark.parametrize("name", ["features.0.weight", "features.17.bias", "features.28.weight"])
def test_a_missing_layer_is_named(tmp_path, name):
    state = published()
    del state[name]
    with pytest.raises(ScanError, match=f"the layer {name} is missing"):
        read_vgg16(written(tmp_path, state))


@pytest.mark.parametrize(
    ("name", "tensor", "found"),
    [
        ("features.7.weight", torch.zeros(8, 8, 5, 5), r"\(8, 8, 5, 5\)"),
        ("features.28.bias", torch.zeros(31), r"\(31,\)"),
        ("features.0.weight", torch.zeros(4, 1, 3, 3), r"\(4, 1, 3, 3\)"),
        ("features.0.bias", torch.zeros(4, dtype=torch.int32), r"torch\.int32 \(4,\)"),
    ],
)
def test_a_wrong_shape_is_named(tmp_path, name, tensor, found):
    with pytest.raises(ScanError, match=rf"{name} is .*{found}, in VGG-16 it is"):
        read_vgg16(written(tmp_path, {**published(), name: tensor}))


def test_two_networks_in_a_file_are_refused(tmp_path):
    state = {f"{p}.{k}": v for p in ("cbf", "cbv") for k, v in published().items()}
    with pytest.raises(ScanError, match=r"2 networks \('cbf\.', 'cbv\.'\)"):
        read_vgg16(written(tmp_path, state))


class _Bomb:
    def __reduce__(self):
        return os.system, (f"touch {_Bomb.target}",)


@pytest.mark.parametrize("file", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("kind", ["bomb", "torch bomb", "empty", "junk", "zip", "folder"])
def test_files_that_are_no_weights_are_refused_and_never_run(tmp_path, kind, file):
    path, _Bomb.target = tmp_path / file, tmp_path / "boom"
    if kind == "folder":
        path.mkdir()
    elif kind == "torch bomb":
        torch.save({"features.0.weight": _Bomb()}, path)
    else:
        path.write_bytes(
            {
                "bomb": pickle.dumps({"state_dict": _Bomb()}, protocol=2),
                "empty": b"",
                "junk": b"junk" * 50,
                "zip": b"PK\x03\x04" + bytes(100),
            }[kind]
        )
    with pytest.raises(ScanError, match=r"no weights can be read|no such file") as error:
        read_vgg16(path)
    assert "\n" not in str(error.value)
    assert not _Bomb.target.exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 1}, torch.zeros(3), {}])
def test_files_without_named_tensors_are_refused(tmp_path, content):
    with pytest.raises(ScanError, match=r"no weights can be read \(it holds"):
        read_vgg16(written(tmp_path, content))
