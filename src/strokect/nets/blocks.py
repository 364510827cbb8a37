"""What all networks share: the config checks, the input check, normalisation, folding of z.

Networks take (B, C, T, Z, Y, X) and return logits (B, K, Z', Y, X), Z' = Z - (n_slices - 1).
In-plane parts run with z folded into the batch, (B*Z, C, Y, X): a slice is normalised by itself,
so that the result for a slice does not depend on how many others ran with it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from strokect.core.errors import GeometryError, SettingsError

CLASSES = (2, 3, 4)
NORMS = ("batch", "instance", "group")


@dataclass(frozen=True)
class NetworkConfig:
    """What every network has to know of its data.

    classes : 2 (rest, core), 3 (rest, penumbra, core) or 4 (background, brain, penumbra, core).
    channels : C of the input. time_points : T of the input. n_slices : slices that one output
    slice is made from, odd. Raises SettingsError where a value cannot be used.
    """

    classes: int = 4
    channels: int = 1
    time_points: int = 30
    n_slices: int = 1

    def __post_init__(self) -> None:
        require_one_of("classes", self.classes, CLASSES)
        require_positive(channels=self.channels, time_points=self.time_points)
        require_odd(n_slices=self.n_slices)

    @property
    def in_plane_multiple(self) -> int:
        """Y and X of the input are multiples of this."""
        return 1


class Network(nn.Module):
    """Base of all networks. A subclass builds its layers from ``config`` and has ``Config``."""

    Config: ClassVar[type[NetworkConfig]] = NetworkConfig
    config: NetworkConfig

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def in_plane_multiple(self) -> int:
        """Y and X of the input are multiples of this."""
        return self.config.in_plane_multiple

    def encoder_layers(self) -> list[list[nn.Module]]:
        """For each encoder that can be frozen, its layers with weights from the image inwards."""
        return []

    def load_encoder_weights(self, path: Path) -> None:
        """Put the weights of a file into the encoders. Raises SettingsError: this has none."""
        raise SettingsError(
            "the network has no encoder that takes weights from a file",
            "network.encoder_weights",
            "Leave it out, or choose multi_input",
        )

    def check(self, x: Tensor) -> None:
        """Raises GeometryError where x is not an input (B, C, T, Z, Y, X) of this network."""
        if x.ndim != 6:
            raise GeometryError(
                f"the network needs 6 axes (B, C, T, Z, Y, X), found {x.ndim}",
                f"shape {tuple(x.shape)}",
            )
        _, channels, times, slices, *plane = x.shape
        config, multiple = self.config, self.in_plane_multiple
        for needed, found, name, fix in (
            (config.channels, channels, "channels", "Give the network the inputs it was made for"),
            (config.time_points, times, "time points", "Resample the scan in time"),
        ):
            if found != needed:
                raise GeometryError(
                    f"the network needs {needed} {name}, found {found}",
                    f"shape {tuple(x.shape)}",
                    fix,
                )
        if slices < config.n_slices:
            raise GeometryError(
                f"the network needs at least {config.n_slices} slices, found {slices}",
                f"shape {tuple(x.shape)}",
                "Repeat the edge slices",
            )
        if any(size % multiple or not size for size in plane):
            raise GeometryError(
                f"the network needs Y and X in multiples of {multiple}, found {plane}",
                f"shape {tuple(x.shape)}",
                "Pad the slices",
            )


def require_one_of(name: str, value: object, allowed: Collection[object]) -> None:
    """Raises SettingsError unless value is one of allowed."""
    if isinstance(value, bool) or value not in allowed:
        choices = ", ".join(map(repr, allowed))
        raise SettingsError(f"{name} cannot be {value!r}", fix=f"Choose from {choices}")


def require_positive(**values: int) -> None:
    """Raises SettingsError unless each value is an integer of 1 or more."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SettingsError(f"{name} cannot be {value!r}", fix="Give an integer of 1 or more")


def require_odd(**values: int) -> None:
    """Raises SettingsError unless each value is an odd positive integer."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1 or value % 2 == 0:
            raise SettingsError(f"{name} cannot be {value!r}", fix="Give an odd integer")


def require_fraction(**values: float) -> None:
    """Raises SettingsError unless each value is in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise SettingsError(
                f"{name} cannot be {value!r}", fix="Give a number from 0 to below 1"
            )


def group_count(channels: int) -> int:
    """Groups for group normalisation: 8, or fewer that divide the channels. A group holds at least
    two channels (one would be instance normalisation) unless there is only one."""
    most = min(8, max(1, channels // 2))
    return next(n for n in range(most, 0, -1) if channels % n == 0)


def norm_layer(kind: str, channels: int, dims: int) -> nn.Module:
    """Normalisation of (N, channels, ...) with ``dims`` axes after the channels, 2 or 3."""
    if kind == "group":
        return nn.GroupNorm(group_count(channels), channels)
    if kind == "instance":
        return (nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 2](channels, affine=True)
    return (nn.BatchNorm2d, nn.BatchNorm3d)[dims - 2](channels)


def norm_act(kind: str, channels: int, dims: int, negative_slope: float) -> nn.Sequential:
    """Normalisation and leaky ReLU."""
    # In place saves one full-size tensor a layer: normalisation keeps its input, not its output.
    return nn.Sequential(
        norm_layer(kind, channels, dims), nn.LeakyReLU(negative_slope, inplace=True)
    )


def fold(x: Tensor) -> Tensor:
    """(B, C, Z, Y, X) -> (B*Z, C, Y, X)."""
    return x.transpose(1, 2).flatten(0, 1)


def fold_series(x: Tensor) -> Tensor:
    """(B, C, T, Z, Y, X) -> (B*Z, C, T, Y, X)."""
    return x.permute(0, 3, 1, 2, 4, 5).flatten(0, 1)


def unfold(x: Tensor, batch: int) -> Tensor:
    """(B*Z, C, Y, X) -> (B, C, Z, Y, X)."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def unfold_series(x: Tensor, batch: int) -> Tensor:
    """(B*Z, C, T, Y, X) -> (B, C, T, Z, Y, X)."""
    return x.unflatten(0, (batch, -1)).permute(0, 2, 3, 1, 4, 5)


def centre_slices(x: Tensor, n_slices: int, axis: int) -> Tensor:
    """The slices that have all their neighbours: (n_slices - 1) / 2 fewer at each end."""
    return x.narrow(axis, n_slices // 2, x.shape[axis] - n_slices + 1)
