"""One VGG-16 encoder per image (parametric maps, MIP), fused early, with clinical scores.

Sources: Tomasetti L et al., "Segmentation of damaged brain in acute ischemic stroke patients using
early fusion multi-input CNN", and its successor, Proc. NLDL 2022;3. What differs: the plane that
scores are brought into has a size of its own, so that any slice fits, and what follows the
encoders is normalised.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from strokect.core.errors import GeometryError, SettingsError
from strokect.nets.blocks import (
    Network,
    NetworkConfig,
    fold_series,
    norm_act,
    require_fraction,
    require_positive,
    unfold,
)
from strokect.nets.inplane import Decoder, InPlaneConfig, conv_block, level_block
from strokect.nets.vgg import BLOCKS, IMAGENET_MEAN, IMAGENET_SD, MULTIPLES, VGG16, load_vgg16

#: Rows and columns of the plane that the clinical scores become.
PLANE = 8
_COLOURS = 3


@dataclass(frozen=True)
class MultiInputConfig(NetworkConfig):
    """A network on several images of one slice.

    channels : images x 3 (colour) or images x 1 (grey), values 0..1, image after image.
    time_points, n_slices : 1. images : how many. clinical : length F of the clinical vector, 0 for
    none. width : channels of the encoders' first block, 64 in VGG-16. decoder_width : those of the
    decoder's level 0, doubled on each level; None for width / 4, at least 4. shared : one encoder
    for all images. concatenate : all images through one 3 x 3 convolution to 3 channels and one
    encoder. attention, nested, norm, negative_slope : of all but the encoders, as in
    `InPlaneConfig`. dropout : share of channels dropped after each encoder. hidden : of the dense
    layer for the clinical vector. Raises SettingsError where they contradict each other.
    """

    channels: int = 12
    time_points: int = 1
    images: int = 4
    clinical: int = 0
    width: int = 64
    decoder_width: int | None = None
    shared: bool = False
    concatenate: bool = False
    attention: bool = False
    nested: bool = False
    norm: str = "group"
    dropout: float = 0.25
    hidden: int = 100
    negative_slope: float = 0.33

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(images=self.images, width=self.width, hidden=self.hidden)
        if self.decoder_width is not None:
            require_positive(decoder_width=self.decoder_width)
        if self.clinical != 0:
            require_positive(clinical=self.clinical)
        require_fraction(dropout=self.dropout)
        for name, value in (("time_points", self.time_points), ("n_slices", self.n_slices)):
            if value != 1:
                raise SettingsError(
                    f"multi_input sees single images, {name} is {value}", fix=f"Set {name} to 1"
                )
        if self.channels not in (self.images, _COLOURS * self.images):
            raise SettingsError(
                f"channels is {self.channels} for {self.images} images",
                fix=f"Give {_COLOURS * self.images} in colour or {self.images} in grey",
            )
        if self.shared and self.concatenate:
            raise SettingsError(
                "both shared and concatenate are true", fix="Choose one, each makes one encoder"
            )
        _ = self.decoder  # its own checks

    @property
    def decoder(self) -> InPlaneConfig:
        """What comes after the encoders: its width is that of the decoder's level 0."""
        width = max(4, self.width // 4) if self.decoder_width is None else self.decoder_width
        return InPlaneConfig(
            width=width,
            depth=len(BLOCKS),
            attention=self.attention,
            nested=self.nested,
            norm=self.norm,
            negative_slope=self.negative_slope,
        )

    @property
    def colours(self) -> int:
        """Channels of one image."""
        return self.channels // self.images

    @property
    def in_plane_multiple(self) -> int:
        """One pixel of the deepest level, 1/16."""
        return self.decoder.in_plane_multiple


class ImageEncoder(nn.Module):
    """VGG-16, then two convolutions to 2 x width channels and dropout at its deepest level.

    (N, C, Y, X) -> five levels (N, width x 1, 2, 4, 8, 2, Y / 2^i, X / 2^i).
    """

    def __init__(self, config: MultiInputConfig, inputs: int) -> None:
        super().__init__()
        self.vgg = VGG16(inputs, config.width)
        deepest, narrow = config.width * MULTIPLES[-1], config.width * 2
        self.tail = nn.Sequential(
            conv_block(config.decoder, deepest, narrow),
            conv_block(config.decoder, narrow, narrow),
            nn.Dropout2d(config.dropout) if config.dropout else nn.Identity(),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        *skips, deepest = self.vgg(x)
        return [*skips, self.tail(deepest)]


class ClinicalPlane(nn.Module):
    """(B, F) -> one plane (B, 1, 8, 8) through two dense layers.

    The source makes a plane of the bottleneck's own size, which fixes the size of the slices; here
    8 x 8 values are resized to it.
    """

    def __init__(self, config: MultiInputConfig) -> None:
        super().__init__()
        self.dense = nn.Sequential(
            nn.Linear(config.clinical, config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, PLANE * PLANE),
        )
        # One plane among hundreds of channels: with weights as small as torch makes them, scores
        # would hardly count, and learning from them would start late.
        for layer in self.dense:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, clinical: Tensor) -> Tensor:
        return self.dense(clinical).unflatten(1, (1, PLANE, PLANE))


class MultiInput(Network):
    """Each slice by itself: any Z in, the same Z out.

    (B, C, 1, Z, Y, X) and, where ``config.clinical`` is F > 0, (B, F) float32 -> logits
    (B, K, Z, Y, X). Pixels 0..1 are brought to ImageNet's mean and SD inside. The skips of a level
    are concatenated over the images and weighed by a 1 x 1 convolution; the deepest level too,
    with the clinical plane of the scan, the same for all its slices.
    Raises GeometryError on another shape, or where the clinical vector is missing or too much.
    """

    Config: ClassVar[type[NetworkConfig]] = MultiInputConfig
    config: MultiInputConfig
    mean: Tensor  # (C, 1, 1)
    sd: Tensor

    def __init__(self, config: MultiInputConfig) -> None:
        super().__init__(config)
        own = config.decoder
        inputs = _COLOURS if config.concatenate else config.colours
        single = config.shared or config.concatenate
        branches = 1 if config.concatenate else config.images
        self.join = nn.Conv2d(config.channels, inputs, 3, padding=1) if config.concatenate else None
        self.encoders = nn.ModuleList(
            ImageEncoder(config, inputs) for _ in range(1 if single else config.images)
        )
        self.clinical = ClinicalPlane(config) if config.clinical else None
        self.skips = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(
                    branches * config.width * MULTIPLES[i], own.channels_at(i), 1, bias=False
                ),
                norm_act(own.norm, own.channels_at(i), 2, own.negative_slope),
            )
            for i in range(own.depth - 1)
        )
        deepest = branches * 2 * config.width + bool(config.clinical)
        self.fuse = level_block(own, deepest, own.depth - 1)
        self.decoder = Decoder(own)
        self.head = nn.Conv2d(own.width, config.classes, 1)
        # Constants, not weights: they stay out of the files. One grey channel has their averages.
        for name, values in (("mean", IMAGENET_MEAN), ("sd", IMAGENET_SD)):
            constant = torch.tensor(values)
            constant = constant if config.colours == _COLOURS else constant.mean(0, keepdim=True)
            self.register_buffer(name, constant.repeat(config.images)[:, None, None], False)

    def encoder_layers(self) -> list[list[nn.Module]]:
        """The 13 convolutions of VGG-16 of each encoder, from the image inwards."""
        return [list(encoder.vgg.layers) for encoder in self._encoders()]

    def load_encoder_weights(self, path: Path) -> None:
        """Put VGG-16 weights of a file into every encoder (`strokect.nets.vgg.load_vgg16`)."""
        load_vgg16(self, path)

    def forward(self, x: Tensor, clinical: Tensor | None = None) -> Tensor:
        self.check(x)
        self._check_clinical(x, clinical)
        batch, slices = x.shape[0], x.shape[3]
        *skips, deepest = self._encode(fold_series(x).flatten(1, 2))
        if self.clinical is not None:
            plane = functional.interpolate(
                self.clinical(clinical), deepest.shape[-2:], mode="bilinear", align_corners=False
            )  # (B, 1, y, x)
            # Folded slices lie scan by scan.
            deepest = torch.cat((deepest, plane.repeat_interleave(slices, 0)), 1)
        features = [fuse(skip) for fuse, skip in zip(self.skips, skips, strict=True)]
        logits = self.head(self.decoder([*features, self.fuse(deepest)]))  # (B*Z, K, Y, X)
        return unfold(logits, batch)  # (B, K, Z, Y, X)

    def _encode(self, x: Tensor) -> list[Tensor]:
        """(N, C, Y, X) -> five levels (N, images x channels, Y / 2^i, X / 2^i)."""
        x = (x - self.mean) / self.sd
        if self.join is not None:
            return cast("list[Tensor]", self.encoders[0](self.join(x)))
        images = x.unflatten(1, (self.config.images, -1))  # (N, I, C/I, Y, X)
        if self.config.shared:
            levels = self.encoders[0](images.flatten(0, 1))  # all images as one batch
            return [f.unflatten(0, images.shape[:2]).flatten(1, 2) for f in levels]
        each = [encoder(images[:, i]) for i, encoder in enumerate(self._encoders())]
        return [torch.cat(level, 1) for level in zip(*each, strict=True)]

    def _check_clinical(self, x: Tensor, clinical: Tensor | None) -> None:
        wanted = (x.shape[0], self.config.clinical) if self.config.clinical else None
        found = None if clinical is None else tuple(clinical.shape)
        if found != wanted:
            raise GeometryError(
                f"the network needs {_shape(wanted)}, found {_shape(found)}",
                f"images of shape {tuple(x.shape)}",
                "Give the network the scores that it was made for",
            )

    def _encoders(self) -> Iterable[ImageEncoder]:
        return cast(Iterable[ImageEncoder], self.encoders)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "no clinical vector" if shape is None else f"a clinical vector of shape {shape}"
