"""Known networks from MONAI as they are, with time points and channels as input channels.

In 2D each slice is a sample. In 3D the slab runs whole, is pooled in the plane only, and loses
its (n_slices - 1) / 2 slices at each end, which have no full neighbourhood; a deep network still
sees past n_slices neighbours in a thicker slab, so a slab and single slices differ a little.
V-Net and SegResNet halve z with the plane, which a slab of few slices cannot bear: 2D only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from monai.networks.nets import AttentionUnet, SegResNet, UNet, VNet
from torch import Tensor, nn

from strokect.core.errors import SettingsError
from strokect.nets.blocks import (
    NORMS,
    Network,
    NetworkConfig,
    centre_slices,
    fold_series,
    group_count,
    require_fraction,
    require_one_of,
    require_positive,
    unfold,
)


@dataclass(frozen=True)
class BaselineConfig(NetworkConfig):
    """dims : axes the network convolves over, 2 or 3. dropout : share dropped where the network
    has such layers."""

    dims: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("dims", self.dims, (2, 3))
        require_fraction(dropout=self.dropout)
        if self.dims == 2 and self.n_slices != 1:
            raise SettingsError(
                f"a 2D network sees one slice, n_slices is {self.n_slices}",
                fix="Set n_slices to 1, or dims to 3 where the network allows it",
            )

    @property
    def inputs(self) -> int:
        """Input channels of the network: channels x time points."""
        return self.channels * self.time_points


def _only_2d(config: BaselineConfig, name: str) -> None:
    if config.dims != 2:
        raise SettingsError(f"{name} cannot run with dims {config.dims}", fix="Set dims to 2")


class Baseline(Network):
    """A network on (N, channels x time points, [Z,] Y, X) as one on (B, C, T, Z, Y, X)."""

    config: BaselineConfig

    def __init__(self, config: BaselineConfig, net: nn.Module) -> None:
        super().__init__(config)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        if self.config.dims == 3:
            y = self.net(x.flatten(1, 2))  # (B, K, Z, Y, X)
            return centre_slices(y, self.config.n_slices, 2)  # (B, K, Z', Y, X)
        y = self.net(fold_series(x).flatten(1, 2))  # (B*Z, K, Y, X)
        return unfold(y, x.shape[0])  # (B, K, Z, Y, X)


@dataclass(frozen=True)
class LevelsConfig(BaselineConfig):
    """width : channels of full resolution, doubled on each of depth levels."""

    width: int = 16
    depth: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(width=self.width)
        if not isinstance(self.depth, int) or self.depth < 2:
            raise SettingsError(
                f"depth cannot be {self.depth!r}", fix="Give an integer of 2 or more"
            )

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.width * 2**level for level in range(self.depth)]

    @property
    def strides(self) -> list[int | tuple[int, int, int]]:
        """Stride from each level to the next; never along z."""
        return [2 if self.dims == 2 else (1, 2, 2)] * (self.depth - 1)

    @property
    def in_plane_multiple(self) -> int:
        """One pixel of the deepest level."""
        return 2 ** (self.depth - 1)


def _norm(kind: str, channels: int) -> tuple[str, dict[str, object]]:
    """MONAI's name and options for a normalisation."""
    if kind == "group":
        return "group", {"num_groups": group_count(channels)}
    return kind, {"affine": True}


@dataclass(frozen=True)
class UNetConfig(LevelsConfig):
    """residual_units : convolutions beside an identity on each level; 0 for a plain U-Net."""

    residual_units: int = 2
    norm: str = "instance"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("norm", self.norm, ("batch", "instance"))
        require_one_of("residual_units", self.residual_units, range(9))


class BaselineUNet(Baseline):
    """U-Net, or residual U-Net. Source: Kerfoot E et al., STACOM 2018."""

    Config: ClassVar[type[NetworkConfig]] = UNetConfig
    config: UNetConfig

    def __init__(self, config: UNetConfig) -> None:
        net = UNet(
            config.dims,
            config.inputs,
            config.classes,
            config.widths,
            config.strides,  # type: ignore[arg-type]  # MONAI passes a stride per axis on
            num_res_units=config.residual_units,
            norm=_norm(config.norm, config.width),
            dropout=config.dropout,
        )
        super().__init__(config, net)


@dataclass(frozen=True)
class AttentionUNetConfig(LevelsConfig):
    """MONAI's has batch normalisation only."""


class BaselineAttentionUNet(Baseline):
    """Attention U-Net. Source: Oktay O et al., MIDL 2018."""

    Config: ClassVar[type[NetworkConfig]] = AttentionUNetConfig
    config: AttentionUNetConfig

    def __init__(self, config: AttentionUNetConfig) -> None:
        net = AttentionUnet(
            config.dims,
            config.inputs,
            config.classes,
            config.widths,
            config.strides,  # type: ignore[arg-type]
            dropout=config.dropout,
        )
        super().__init__(config, net)


@dataclass(frozen=True)
class VNetConfig(BaselineConfig):
    """V-Net has five levels of 16 to 256 channels and batch normalisation; 2D only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _only_2d(self, "vnet")

    @property
    def in_plane_multiple(self) -> int:
        """One pixel of the fifth level."""
        return 16


class BaselineVNet(Baseline):
    """V-Net. Source: Milletari F et al., 3DV 2016.

    Its input channels have to divide 16, so a 1 x 1 convolution makes 16 of the time points.
    """

    Config: ClassVar[type[NetworkConfig]] = VNetConfig
    config: VNetConfig

    def __init__(self, config: VNetConfig) -> None:
        share = config.dropout
        net = VNet(
            2,
            16,
            config.classes,
            dropout_prob_down=share,
            dropout_prob_up=(share, share),
        )
        # MONAI gives a 2D network 3D dropout, which on (N, C, Y, X) drops whole samples, and
        # fixes two of the layers at a half.
        for part in list(net.modules()):
            for name, layer in part.named_children():
                if isinstance(layer, nn.Dropout3d):
                    setattr(part, name, nn.Dropout2d(share))
        super().__init__(config, nn.Sequential(nn.Conv2d(config.inputs, 16, 1), net))


@dataclass(frozen=True)
class SegResNetConfig(LevelsConfig):
    """2D only; blocks_down and blocks_up of MONAI's default, cut to depth."""

    norm: str = "group"

    def __post_init__(self) -> None:
        super().__post_init__()
        _only_2d(self, "segresnet")
        require_one_of("norm", self.norm, NORMS)


class BaselineSegResNet(Baseline):
    """SegResNet. Source: Myronenko A, BrainLes 2018."""

    Config: ClassVar[type[NetworkConfig]] = SegResNetConfig
    config: SegResNetConfig

    def __init__(self, config: SegResNetConfig) -> None:
        net = SegResNet(
            2,
            config.width,
            config.inputs,
            config.classes,
            dropout_prob=config.dropout or None,
            norm=_norm(config.norm, config.width),
            blocks_down=(1, *[2] * (config.depth - 2), 4),
            blocks_up=(1,) * (config.depth - 1),
        )
        super().__init__(config, net)
