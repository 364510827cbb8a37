"""Settings of a training: strict, every choice named, written beside the weights they made."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from torch import nn

from strokect import catalog
from strokect.core.errors import SettingsError
from strokect.io.datasets import Layout
from strokect.learn.augment import AugmentOptions
from strokect.learn.data import Needs, SlabOptions
from strokect.learn.inputs import InputOptions
from strokect.learn.losses import LossOptions
from strokect.learn.module import OptimizerOptions
from strokect.learn.predict import Tiling
from strokect.learn.train import TrainOptions
from strokect.settings import in_one_line, read_object

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)
_EXAMPLE = '{"name": "mine", "network": {"name": "mjnet_4d"}}'
#: Fields of a network's config that follow from the rest of the settings.
_DERIVED = ("classes", "channels", "time_points")


class DataSettings(BaseModel):
    """Which patients, and how they are shared out.

    folder : the data set, unless the command line gives one. layout : of ``catalog``.
    layout_options : fields of its class. classes : 4 background, brain, penumbra, core; 3 rest,
    penumbra, core; 2 rest, core. split : "given" takes the data set's own where it has one;
    "random" shares out by ``fractions`` (train, val, test). folds, fold : cross-validation
    instead; ``fold`` tests, the next one validates.
    """

    model_config = _STRICT

    folder: str = ""
    layout: str = "own"
    layout_options: dict[str, Any] = {}
    classes: Literal[2, 3, 4] = 4
    split: Literal["given", "random"] = "given"
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    folds: int | None = None
    fold: int = 0
    seed: Annotated[int, Field(ge=0)] = 0


class NetworkSettings(BaseModel):
    """A network of ``catalog`` and the fields of its config that differ from their defaults.

    ``classes``, ``channels`` and ``time_points`` follow from ``data`` and ``input``.
    """

    model_config = _STRICT

    name: str = "mjnet_4d"
    config: dict[str, Any] = {}


class LossSettings(BaseModel):
    """A loss of ``catalog`` and its options."""

    model_config = _STRICT

    name: str = "focal_tversky"
    options: LossOptions = LossOptions()


class TrainingSettings(BaseModel):
    """All of a training. tiling : of validation and use."""

    model_config = _STRICT

    name: str
    data: DataSettings = DataSettings()
    input: InputOptions = InputOptions()
    network: NetworkSettings = NetworkSettings()
    loss: LossSettings = LossSettings()
    slab: SlabOptions = SlabOptions()
    augment: AugmentOptions = AugmentOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    training: TrainOptions = TrainOptions()
    tiling: Tiling = Tiling()


def load_training_settings(path: Path) -> TrainingSettings:
    """Settings from a JSON file. Raises SettingsError that names file, key and the nearest key."""
    return parse_training_settings(read_object(path, _EXAMPLE), path)


def parse_training_settings(content: dict[str, Any], path: Path) -> TrainingSettings:
    """Settings from the content of a file, whose network can be built with its config."""
    try:
        settings = TrainingSettings.model_validate_json(json.dumps(content))
        _check(settings)
    except ValidationError as error:
        known = TrainingSettings(name="").model_dump(mode="json")
        raise in_one_line(error, known, path) from error
    except SettingsError as error:  # of an options class, which knows no path
        what = error.what if error.where is None else f"{error.where}: {error.what}"
        raise SettingsError(what, path, error.fix) from error
    return settings


def _check(settings: TrainingSettings) -> None:
    """Raises SettingsError for choices that are each allowed, but not together."""
    name = settings.name
    if not name[:1].isalnum() or not all(c.isalnum() or c in "._-+" for c in name):
        raise SettingsError(
            f"the name {name!r}", fix="Use letters, digits and . _ - + in it, a letter first"
        )
    build_layout(settings)
    build_loss(settings)
    _config(settings)
    shares = settings.slab.balance
    if len(shares) not in (0, settings.data.classes):
        raise SettingsError(
            f"{len(shares)} chances for {settings.data.classes} classes",
            "slab.balance",
            "Give one for each class, or none",
        )


def build_network(settings: TrainingSettings) -> nn.Module:
    """The network that the settings describe, with fresh weights of ``training.seed``."""
    make = catalog.load("networks", settings.network.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        network: nn.Module = make(_config(settings))
    return network


def build_layout(settings: TrainingSettings) -> Layout:
    """The data set's layout with its options."""
    kind = catalog.load("layouts", settings.data.layout)
    layout: Layout = _built(kind, "layout_options", settings.data.layout_options, "data.")
    return layout


def needs_of(network: Any) -> Needs:
    """What the network asks of its input."""
    return Needs(network.config.n_slices, network.in_plane_multiple)


def build_loss(settings: TrainingSettings) -> nn.Module:
    """The loss that the settings describe."""
    make = catalog.load("losses", settings.loss.name)
    loss: nn.Module = make(settings.loss.options, settings.data.classes)
    return loss


def with_folder(settings: TrainingSettings, folder: Path | None) -> TrainingSettings:
    """Settings whose data set is ``folder`` where one is given."""
    if folder is None:
        return settings
    data = settings.data.model_copy(update={"folder": str(folder)})
    return settings.model_copy(update={"data": data})


def _config(settings: TrainingSettings) -> Any:
    """The network's config. Raises SettingsError for an unknown or contradictory field."""
    kind = catalog.load("networks", settings.network.name).Config
    derived = {
        "classes": settings.data.classes,
        "channels": len(settings.input.channels),
        "time_points": settings.input.time_points,
    }
    given = settings.network.config
    for name in _DERIVED:
        if name in given and given[name] != derived[name]:
            raise SettingsError(
                f"network.config.{name} is {given[name]}, data and input make it {derived[name]}",
                fix=f"Leave network.config.{name} out",
            )
    return _built(kind, "config", {**given, **derived}, "network.")


def _built(kind: Any, key: str, given: dict[str, Any], room: str) -> Any:
    """A dataclass from its fields in the settings, as strict as the rest of them."""
    model = create_model(key, __config__=_STRICT, **{key: (kind, ...)})  # type: ignore[call-overload]
    try:
        return getattr(model.model_validate_json(json.dumps({key: given})), key)
    except ValidationError as error:
        found = in_one_line(error, {key: _fields(kind)}, None)
        what = found.what.replace(f"'{key}", f"'{room}{key}")
        raise SettingsError(what, None, found.fix) from error


def _fields(kind: Any) -> dict[str, Any]:
    """Names of a dataclass's fields, with those of the dataclasses among their defaults."""
    return {
        field.name: _fields(field.default) if is_dataclass(field.default) else None
        for field in fields(kind)
    }
