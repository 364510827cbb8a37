"""The convolution layers of VGG-16 [1]_, and weights for them from a file.

.. [1] Simonyan K, Zisserman A, ICLR 2015 (configuration D).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from strokect.core.errors import ScanError, SettingsError
from strokect.nets.blocks import Network

#: Convolutions of each block, and their channels as multiples of those of the first block.
BLOCKS = (2, 2, 3, 3, 3)
MULTIPLES = (1, 2, 4, 8, 8)
#: Mean and SD of the red, green and blue of ImageNet, 0..1: what published weights were made for.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)

_LAYER = re.compile(r"(?P<prefix>(?:.*\.)?)features\.(?P<place>\d+)\.(?P<kind>weight|bias)")
_FIX = "Give weights of VGG-16 without batch normalisation, as torchvision names them"


class VGG16(nn.Module):
    """Features of the five blocks, before their pooling: 1, 1/2, 1/4, 1/8 and 1/16 of the plane.

    inputs : channels of the image. width : channels of the first block, 64 in the source. No
    normalisation, as published weights have none. Fresh weights keep the variance (He 2015).
    (N, inputs, Y, X) -> five of (N, width x 1, 2, 4, 8, 8, Y / 2^i, X / 2^i).
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        outputs = [width * m for m, n in zip(MULTIPLES, BLOCKS, strict=True) for _ in range(n)]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1)
            for before, after in zip((inputs, *outputs[:-1]), outputs, strict=True)
        )
        for layer in self.layers:
            nn.init.kaiming_normal_(cast(nn.Conv2d, layer).weight, nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        layers = iter(self.layers)
        for count in BLOCKS:
            x = functional.max_pool2d(x, 2) if features else x
            for _ in range(count):
                x = functional.relu(next(layers)(x), inplace=True)
            features.append(x)
        return features


def load_vgg16(network: Network, path: Path) -> None:
    """Put the weights of a file into every encoder of a network.

    An encoder of one grey channel gets the sum over red, green and blue: what the three channels
    of a grey picture would give. Raises ScanError for a file that cannot be used (`read_vgg16`),
    SettingsError where the network has another width than the file; nothing is changed then.
    """
    state = read_vgg16(path)
    weights, biases = ([state[f"features.{i}.{kind}"] for i in _places(BLOCKS, 2)]
                       for kind in ("weight", "bias"))  # fmt: skip
    encoders = cast("list[list[nn.Conv2d]]", network.encoder_layers())
    width = len(weights[0])
    for layers in encoders:
        if layers[0].out_channels != width:
            raise SettingsError(
                f"network.config.width is {layers[0].out_channels}, the file's is {width}",
                path,
                f"Set network.config.width to {width}, or leave network.encoder_weights out",
            )
    with torch.no_grad():
        for layers in encoders:
            for layer, weight, bias in zip(layers, weights, biases, strict=True):
                grey = layer.in_channels == 1 and weight.shape[1] == 3
                layer.weight.copy_(weight.sum(1, keepdim=True) if grey else weight)
                cast(Tensor, layer.bias).copy_(bias)


def read_vgg16(path: Path) -> dict[str, Tensor]:
    """The 26 tensors ``features.0.weight`` ... ``features.28.bias`` of a file, float32.

    path : a .safetensors file, or one of ``torch.save``, with the names of torchvision; alone or
    under "state_dict", with or without a prefix such as ``module.``. Other layers are left out.
    Weights are (out, in, 3, 3), of any width, 64 as published. Raises ScanError where the file is
    missing, holds no weights or those of another network, or where a layer is missing or has
    another shape.
    """
    path = Path(path)
    tensors = _tensors(path)
    found = {name: match for name in tensors if (match := _LAYER.fullmatch(name))}
    prefixes = sorted({match["prefix"] for match in found.values()})
    if len(prefixes) > 1:
        raise ScanError(
            f"the weights of {len(prefixes)} networks ({', '.join(map(repr, prefixes))})",
            path,
            "Give a file with one",
        )
    state = {name[len(match["prefix"]) :]: tensors[name] for name, match in found.items()}
    other = _other_network(state, next(iter(tensors)))
    if other is not None:
        raise ScanError(f"the weights are those of {other}, not of VGG-16", path, _FIX)
    missing = [name for name in _shapes(1) if name not in state]
    if missing:
        raise ScanError(f"the layer {missing[0]} is missing", path, _FIX)
    wanted = _shapes(state["features.0.weight"].shape[:1].numel())
    for name, shape in wanted.items():
        found_shape, kind = tuple(state[name].shape), state[name].dtype
        if found_shape != shape or not kind.is_floating_point:
            raise ScanError(
                f"{name} is {kind} {found_shape}, in VGG-16 it is floating point {shape}",
                path,
                _FIX,
            )
    return {name: state[name].float() for name in wanted}


def _tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file. Raises ScanError where there is none."""
    if not path.is_file():
        raise ScanError("no such file", path, "Check network.encoder_weights")
    try:
        content: Any
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            # Published weights are pickles. ``weights_only`` reads them with a restricted reader
            # that can build tensors and plain containers and refuses to call anything else.
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file leads the readers to raise nearly anything
        raise _no_weights(path, error) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise _no_weights(path, f"it holds a {type(content).__name__}")
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise _no_weights(path, "it holds no named tensors")
    return tensors


def _no_weights(path: Path, why: object) -> ScanError:
    line = " ".join(str(why).split())[:120] or type(why).__name__
    return ScanError(f"no weights can be read ({line})", path, _FIX)


def _places(blocks: tuple[int, ...], step: int) -> tuple[int, ...]:
    """Where torchvision's list of layers has the convolutions: ``step`` entries for each (itself,
    perhaps normalisation, ReLU), and one for the pooling after a block."""
    places, place = [], 0
    for count in blocks:
        places += [place + step * i for i in range(count)]
        place += step * count + 1
    return tuple(places)


_KNOWN = {
    _places(blocks, step): name + suffix
    for name, blocks in (
        ("vgg11", (1, 1, 2, 2, 2)),
        ("vgg13", (2, 2, 2, 2, 2)),
        ("vgg16", BLOCKS),
        ("vgg19", (2, 2, 4, 4, 4)),
    )
    for step, suffix in ((2, ""), (3, "_bn"))
}


def _other_network(state: Mapping[str, Tensor], first: str) -> str | None:
    """The name of the network that the weights belong to, None where it can be VGG-16."""
    convolutions = sorted(
        int(name.split(".")[1])
        for name, tensor in state.items()
        if name.endswith(".weight") and tensor.ndim > 1
    )
    known = _KNOWN.get(tuple(convolutions))
    if known is None and not _looks_like_vgg16(convolutions):
        return f"another network (its first layer is {first})"
    return None if known == "vgg16" else known


def _looks_like_vgg16(convolutions: Collection[int]) -> bool:
    """Whether these are most of its layers and no others: then some are missing."""
    own = _places(BLOCKS, 2)
    return len(convolutions) > len(own) // 2 and set(convolutions) <= set(own)


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of VGG-16 on a colour image."""
    shapes: dict[str, tuple[int, ...]] = {}
    before, places = 3, iter(_places(BLOCKS, 2))
    for count, multiple in zip(BLOCKS, MULTIPLES, strict=True):
        for _ in range(count):
            name, after = f"features.{next(places)}", width * multiple
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (after, before, 3, 3), (after,)
            before = after
    return shapes
