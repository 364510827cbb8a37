"""Settings of a training: strict, every choice named, written beside the weights they made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
)
from torch import nn

from strokect import catalog, legacy
from strokect.core.errors import SettingsError
from strokect.core.json_files import read_json_object
from strokect.io.datasets import Layout
from strokect.learn.augment import AugmentOptions
from strokect.learn.data import Needs, SlabOptions
from strokect.learn.finetune import Stage
from strokect.learn.inputs import InputOptions
from strokect.learn.losses import LossOptions
from strokect.learn.map_inputs import MapInputOptions
from strokect.learn.module import OptimizerOptions
from strokect.learn.predict import Tiling
from strokect.learn.train import TrainOptions
from strokect.nets.blocks import Network
from strokect.settings import in_one_line

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)
_EXAMPLE = '{"name": "mine", "network": {"name": "mjnet_4d"}}'
#: Keys with paths and ids of patients: neither models nor results hold them.
PRIVATE: Any = {
    "data": {"folder", "train_patients", "test_patients"}, "network": {"encoder_weights"}
}  # fmt: skip
#: Kinds of input by their name in the settings.
_INPUTS = {"ctp": InputOptions, "maps": MapInputOptions}


class VirtualSettings(BaseModel):
    """Virtual patients that are made where no data set is given.

    patients : how many. seed : of the first. size : "small" or "full".
    """

    model_config = _STRICT

    patients: Annotated[int, Field(ge=1)] = 120
    seed: Annotated[int, Field(ge=0)] = 100
    size: Literal["small", "full"] = "small"


class DataSettings(BaseModel):
    """Which patients, and how they are shared out.

    folder : the data set, unless the command line gives one. layout : of ``catalog``.
    layout_options : fields of its class. classes : 4 background, brain, penumbra, core; 3 rest,
    penumbra, core; 2 rest, core. split : "given" takes the data set's own where it has one;
    "random" shares out by ``fractions``; "listed" tests on ``test_patients``. fractions : of
    train, val and test. folds : cross-validation in so many parts instead. fold : which of them
    tests; the next one validates. seed : of the random choices. train_patients : of "listed", to
    train and validate with; all others where empty. test_patients : of "listed", ids or their
    ends. validation_patients : of "listed", how many validate; null for a share as in
    ``fractions``. virtual : virtual patients that are made where no folder is given, or null.
    """

    model_config = _STRICT

    folder: str = ""
    layout: str = "own"
    layout_options: dict[str, Any] = {}
    classes: Literal[2, 3, 4] = 4
    split: Literal["given", "random", "listed"] = "given"
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    folds: int | None = None
    fold: int = 0
    seed: Annotated[int, Field(ge=0)] = 0
    train_patients: tuple[str, ...] = ()
    test_patients: tuple[str, ...] = ()
    validation_patients: Annotated[int, Field(ge=1)] | None = None
    virtual: VirtualSettings | None = None


class NetworkSettings(BaseModel):
    """A network and where its weights start.

    name : of ``catalog``. config : fields of its config that differ from their defaults; those of
    the data and the input (classes, channels, ...) follow from there. encoder_weights : file of
    VGG-16 weights for the encoders; random ones where empty.
    """

    model_config = _STRICT

    name: str = "mjnet_4d"
    config: dict[str, Any] = {}
    encoder_weights: str = ""


class LossSettings(BaseModel):
    """A loss. name : of ``catalog``. options : its choices."""

    model_config = _STRICT

    name: str = "focal_tversky"
    options: LossOptions = LossOptions()


def _kind(given: Any) -> str:
    """Which kind of input is given."""
    kind = given.get("kind", "ctp") if isinstance(given, dict) else getattr(given, "kind", "ctp")
    return str(kind)


Input = Annotated[
    Annotated[InputOptions, Tag("ctp")] | Annotated[MapInputOptions, Tag("maps")],
    Discriminator(
        _kind,
        custom_error_type="input_kind",
        custom_error_message=f"Its kind should be {' or '.join(map(repr, _INPUTS))}",
    ),
]


class TrainingSettings(BaseModel):
    """All of a training.

    name : of the run and the model. data : the patients. input : what the network sees. network :
    and its weights. loss : what is made small. finetune : stages of the training, none for one in
    which everything is trained. slab : how samples are cut. augment : how they are varied.
    optimizer : how it learns. training : how long. tiling : windows of validation and use.
    """

    model_config = _STRICT

    name: str
    data: DataSettings = DataSettings()
    input: Input = InputOptions()
    network: NetworkSettings = NetworkSettings()
    loss: LossSettings = LossSettings()
    finetune: tuple[Stage, ...] = ()
    slab: SlabOptions = SlabOptions()
    augment: AugmentOptions = AugmentOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    training: TrainOptions = TrainOptions()
    tiling: Tiling = Tiling()


def load_training_settings(
    path: Path, changes: Sequence[str] = (), say: Callable[[str], None] = lambda line: None
) -> TrainingSettings:
    """Settings from a JSON file. Raises SettingsError that names file, key and the nearest key.

    changes : "key.key=value", which go before the file; values are JSON, or words. say : is told
    what became of the keys of a file of the source's systems, which is upgraded.
    """
    content = read_json_object(path, _EXAMPLE)
    if legacy.is_legacy(content):
        done = legacy.upgrade(content, options=legacy.LegacyOptions(path.stem), path=path)
        if len(done.settings) != 1:
            raise SettingsError(
                f"{len(done.settings)} models in one file",
                path,
                "Run `strokect settings upgrade` and give the new files",
            )
        say(f"{path.name}: an older setting file; of its {len(done.notes)} keys not used:")
        for note in done.notes:
            if note.action == "dropped":
                say(f"  {note.key}: {note.text}")
        (content,) = done.settings
    for change in changes:
        _change(content, change)
    return parse_training_settings(content, path)


def _change(content: dict[str, Any], change: str) -> None:
    """Put one "key.key=value" into the content of a file."""
    key, equals, text = change.partition("=")
    *rooms, last = key.strip().split(".")
    if not equals or not all((*rooms, last)):
        raise SettingsError(f"{change!r}", "--set", "Write KEY=VALUE, e.g. network.config.width=64")
    try:
        value = json.loads(text)
    except ValueError:
        value = text.strip()
    place: Any = content
    for room in rooms:
        place = place.setdefault(room, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise SettingsError(f"{key.strip()!r} has no keys below it", "--set", "Correct the key")
    place[last] = value


def parse_training_settings(content: dict[str, Any], path: Path) -> TrainingSettings:
    """Settings from the content of a file, whose network can be built with its config."""
    try:
        settings = TrainingSettings.model_validate_json(json.dumps(content))
        _check(settings)
    except ValidationError as error:
        kind = _kind(content.get("input", {}))
        raise in_one_line(error, _known(content), path, tag=("input", kind)) from error
    except SettingsError as error:  # of an options class, which knows no path
        what = error.what if error.where is None else f"{error.where}: {error.what}"
        raise SettingsError(what, path, error.fix) from error
    return settings


def _known(content: dict[str, Any]) -> dict[str, Any]:
    """Settings with every key that may stand where ``content`` has something."""
    kind = _INPUTS.get(_kind(content.get("input", {})), InputOptions)
    known = TrainingSettings(name="", input=kind()).model_dump(mode="json")
    known["data"]["virtual"] = VirtualSettings().model_dump()
    stages = content.get("finetune")
    count = len(stages) if isinstance(stages, list) else 0
    known["finetune"] = {str(n): asdict(Stage()) for n in range(count)}
    return known


def _check(settings: TrainingSettings) -> None:
    """Raises SettingsError for choices that are each allowed, but not together."""
    name = settings.name
    if not name[:1].isalnum() or not all(c.isalnum() or c in "._-+" for c in name):
        raise SettingsError(
            f"the name {name!r}", fix="Use letters, digits and . _ - + in it, a letter first"
        )
    fractions = settings.data.fractions
    if not all(0 <= share <= 1 for share in fractions):
        raise SettingsError(f"shares of {fractions}", "data.fractions", "Give 0 to 1 each")
    build_layout(settings)
    build_loss(settings)
    _config(settings)
    if isinstance(settings.input, MapInputOptions):
        catalog.load("estimators", settings.input.estimator)
        catalog.load("denoisers", settings.input.denoise)
    if any(s.train != "all" for s in settings.finetune) and not _can_freeze(settings):
        raise SettingsError(
            f"{settings.network.name} has no encoders that can be frozen",
            "finetune",
            'Choose the network multi_input, or train "all"',
        )
    shares = settings.slab.balance
    if len(shares) not in (0, settings.data.classes):
        raise SettingsError(
            f"{len(shares)} chances for {settings.data.classes} classes",
            "slab.balance",
            "Give one for each class, or none",
        )


def _can_freeze(settings: TrainingSettings) -> bool:
    kind = catalog.load("networks", settings.network.name)
    return bool(kind.encoder_layers is not Network.encoder_layers)


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
    derived = {"classes": settings.data.classes, **_from_input(settings.input)}
    known = {field.name for field in fields(kind)}
    if derived["clinical"] and "clinical" not in known:
        raise SettingsError(
            f"{settings.network.name} takes no clinical scores",
            "input.scores",
            "Leave them out, or choose multi_input",
        )
    derived = {name: value for name, value in derived.items() if name in known}
    given = settings.network.config
    for name, value in derived.items():
        if name in given and given[name] != value:
            raise SettingsError(
                f"network.config.{name} is {given[name]}, data and input make it {value}",
                fix=f"Leave network.config.{name} out",
            )
    return _built(kind, "config", {**given, **derived}, "network.")


def _from_input(options: InputOptions | MapInputOptions) -> dict[str, int]:
    """Fields of a network's config that follow from its input."""
    if isinstance(options, MapInputOptions):
        return {
            "channels": options.channels,
            "time_points": 1,
            "images": len(options.maps),
            "clinical": 2 * len(options.scores),
        }
    return {
        "channels": len(options.channels),
        "time_points": options.time_points,
        "images": 1,
        "clinical": 0,
    }


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
