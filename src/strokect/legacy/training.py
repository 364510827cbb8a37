"""Loss, optimiser, fine-tuning and stopping of an older setting file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from strokect.legacy.models import MULTI_INPUT
from strokect.legacy.values import Room

#: Ours, by the source's names without "_loss" and "_coef"; older names too.
_LOSSES = {
    "focal_tversky": "focal_tversky",
    "tversky": "tversky",
    "dice": "dice",
    "squared_dice": "squared_dice",
    "mod_dice": "squared_dice",
    "tanimoto": "tanimoto",
    "tanimoto_with_dual": "tanimoto",
    "focal": "focal",
    "categorical_crossentropy": "cross_entropy",
    "weighted_categorical_crossentropy": "cross_entropy",
    "crossentropy": "cross_entropy",
    "crossentropy_dice": "ce_dice",
    "crossentropy_focal_tversky": "ce_focal_tversky",
}
_LOSS_OPTIONS = {
    "alpha": ("focal_tversky", "tversky", "ce_focal_tversky"),
    "beta": ("focal_tversky", "tversky", "ce_focal_tversky"),
    "gamma": ("focal_tversky", "focal", "ce_focal_tversky"),
    "smooth": (),
}
_OPTIMIZERS = {"adam": "adam", "adamw": "adamw", "sgd": "sgd"}
#: Values of the source's framework that need no field here.
_USUAL = {"beta_1": 0.9, "beta_2": 0.999, "rho": 0.9}
#: The source's, of every layer of its multi-input network.
L1, L2, MAX_NORM = 1e-6, 1e-5, 2.0
#: The source's, of the stages after the frozen one.
_STAGE_LR, _STAGE_PATIENCE = 1e-5, 25


def loss(model: Room) -> dict[str, Any]:
    """The content of ``loss``. Raises SettingsError, naming the nearest one."""
    value = model.content.get("loss")
    given = value.get("name") if isinstance(value, Mapping) else value
    if not isinstance(given, str):
        raise model.error("loss", "Give the name of a loss")
    # _cross_entropy and _crossentropy, "plus" and "_" are all the same.
    plain = re.sub(r"_?(loss|coef)", "", given.strip().lower()).replace(
        "cross_entropy", "crossentropy"
    )
    plain = re.sub(r"^ce(?=_)", "crossentropy", plain).replace("_plus", "").strip("_")
    if plain not in _LOSSES:
        near = difflib.get_close_matches(plain, _LOSSES, 1, cutoff=0.4)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise model.error("loss", f"{hint}Known: {', '.join(_LOSSES)}", "no loss is called so")
    name = _LOSSES[plain]
    model.moved("loss", f"loss.name: {name}")
    options: dict[str, Any] = {}
    if isinstance(value, Mapping):
        inner = model.room("loss")
        _loss_options(inner, name, options)
    if given in model:
        _loss_options(model.room(given), name, options)
    return {"name": name, "options": options}


def _loss_options(room: Room, name: str, options: dict[str, Any]) -> None:
    for key in room.content:
        if key == "name":
            continue
        if key == "hyperparameters":
            _loss_options(room.room(key), name, options)
            continue
        if key not in _LOSS_OPTIONS:
            raise room.error(key, f"Known: {', '.join(_LOSS_OPTIONS)}", "not known")
        number = room.number(key)
        used = _LOSS_OPTIONS[key]
        if number is None or (used and name not in used):
            room.dropped(key, f"{name} has none")
            continue
        ours = "focal_gamma" if key == "gamma" and name == "focal" else key
        options[ours] = number
        room.moved(key, f"loss.options.{ours}")


def training(model: Room) -> dict[str, Any]:
    """The content of ``optimizer`` and ``training``."""
    callbacks = model.room("callbacks")
    if "LearningRateScheduler" in callbacks and callbacks.content["LearningRateScheduler"]:
        raise callbacks.error(
            "LearningRateScheduler", 'Take it out, and set optimizer.schedule to "cosine"',
            "falls in steps of epochs are not offered",
        )  # fmt: skip
    callbacks.dropped("LearningRateScheduler", "is off")
    optimizer = _optimizer(model) | _plateau(callbacks) | _penalties(model)
    early = callbacks.room("EarlyStopping")
    patience = early.whole("patience", least=1)
    early.moved("patience", "training.patience, of val_dice")
    fit = {
        "epochs": model.whole("epochs", 100, least=1),
        "batch_size": model.whole("batch_size", 1, least=1),
        "patience": patience,
    }
    model.moved("epochs", "training.epochs")
    model.moved("batch_size", "training.batch_size")
    return {"optimizer": optimizer, "training": fit}


def _optimizer(model: Room) -> dict[str, Any]:
    room = model.room("optimizer")
    given = room.text("name") or "Adam"
    if given.lower() not in _OPTIMIZERS:
        raise room.error("name", f"Choose from {', '.join(_OPTIMIZERS)}", "not offered")
    name = _OPTIMIZERS[given.lower()]
    room.moved("name", f"optimizer.name: {name}")
    if {"lr", "learning_rate"} <= room.content.keys():
        raise room.error("learning_rate", "Keep lr alone", "it is given twice")
    key = "learning_rate" if "learning_rate" in room else "lr"
    out: dict[str, Any] = {"name": name, "lr": room.number(key, 1e-3), "schedule": "none"}
    room.moved(key, "optimizer.lr")
    if room.number("decay", 0.0):
        raise room.error(
            "decay", 'Set it to 0, and optimizer.schedule to "cosine" for a rate that falls',
            "a rate that falls with 1/steps is not offered",
        )  # fmt: skip
    room.dropped("decay", "the rate stays the same")
    for key, usual in _USUAL.items():
        if room.number(key, usual) != usual:
            raise room.error(key, f"Set it to {usual:g}", "another value is not offered")
        room.dropped(key, f"{usual:g} always")
    epsilon = room.number("epsilon", 1e-7)
    if epsilon is not None and not 0 <= epsilon <= 1e-7:
        raise room.error("epsilon", 'Set it to "None"', "another value is not offered")
    room.dropped("epsilon", "1e-8 always")
    momentum = room.number("momentum")
    if momentum is not None and name == "sgd":
        out["momentum"] = momentum
        room.moved("momentum", "optimizer.momentum")
    elif name == "sgd":
        out["momentum"] = 0.0  # the default of the source's framework
    room_note = f"{name} has none"
    if name != "sgd":
        room.dropped("momentum", room_note)
    if room.flag("nesterov"):
        raise room.error("nesterov", "Set it to 0", "Nesterov's momentum is not offered")
    room.dropped("nesterov", "is off")
    clip = room.number("clipnorm")
    if clip:
        out["clip"] = clip
    room.moved("clipnorm", "optimizer.clip")
    if room.number("clipvalue"):
        raise room.error("clipvalue", "Use clipnorm", "gradients are cut by their norm here")
    room.dropped("clipvalue", "is off")
    return out


def _plateau(callbacks: Room) -> dict[str, Any]:
    room = callbacks.room("ReduceLROnPlateau")
    if not room.content:
        return {}
    out: dict[str, Any] = {"schedule": "plateau", "factor": room.number("factor", 0.1)}
    out["patience"] = room.whole("patience", 10, least=1)
    least = room.number("min_lr", 0.0)
    if least:
        out["lr_min"] = least
    room.moved("factor", "optimizer.factor")
    room.moved("patience", "optimizer.patience")
    room.moved("min_lr", "optimizer.lr_min")
    return out


def _penalties(model: Room) -> dict[str, Any]:
    """L1, L2 and max-norm: the source's own for its multi-input network, else as the file says."""
    params = model.room("params")
    maps = re.match(r"(?i)pms_segmentation|mjnet_pm", model.text("name")) is not None
    out: dict[str, Any] = {"l1": L1, "l2": L2, "max_norm": MAX_NORM} if maps else {}
    value = params.content.get("regularizer")
    if value in (None, 0, False, "", "None", {}):
        params.dropped(
            "regularizer", "is off" if not maps else "the source's own: L1, L2, max-norm"
        )
        return out
    room = params.room("regularizer")
    kind = room.text("type") if isinstance(value, Mapping) else params.text("regularizer")
    known = {"l1": ("l1",), "l2": ("l2",), "l1_l2": ("l1", "l2"), "l1l2": ("l1", "l2")}
    kinds = known.get(kind.lower()) if kind else tuple(k for k in ("l1", "l2") if k in room)
    if not kinds:
        raise params.error("regularizer", "Give l1, l2 or l1_l2")
    unknown = sorted(room.content.keys() - {"type", "lambda", "l1", "l2", "max_norm"})
    if unknown:
        raise room.error(unknown[0], "Known: type, lambda, l1, l2, max_norm", "not known")
    both = room.number("lambda")
    for name, usual in (("l1", L1), ("l2", L2)):
        out.pop(name, None)
        if name in kinds:
            out[name] = room.number(name, usual if both is None else both)
    if room.number("max_norm") is not None:
        out["max_norm"] = room.number("max_norm")
    params.moved("regularizer", "optimizer.l1, optimizer.l2 and optimizer.max_norm")
    return out


def stages(model: Room, network: str) -> list[dict[str, Any]]:
    """The content of ``finetune``: which part of the encoders trains when."""
    params = model.room("params")
    gradual = params.room("gradual_finetuning_solution")
    if network != MULTI_INPUT:
        params.dropped("trainable", "the network has no encoders trained before")
        for key in gradual.content:
            gradual.dropped(key, "the network has no encoders trained before")
        return []
    if params.flag("trainable", True):
        params.moved("trainable", "finetune: all layers train")
        for key in gradual.content:
            gradual.dropped(key, "all layers train from the start")
        return [_stage("all")]
    params.moved(
        "trainable",
        "finetune: the encoders are frozen; give their weights in network.encoder_weights",
    )
    if not gradual.content:
        return [_stage("decoder")]
    kind = gradual.text("type").lower()
    only = gradual.content.get("only")
    if kind not in ("half", "full"):
        raise gradual.error("type", "Give half or full")
    if only not in (None, "", "None", 0, False, "half", "full") or (
        only == "half" and kind == "full"
    ):
        raise gradual.error("only", "Give half, or leave it out")
    parts = ["half"] if kind == "half" else []
    parts += [] if kind == "half" and only == "half" else ["all"]
    epochs = model.whole("epochs", 100, least=1)  # of each stage there, of all together here
    later = [_stage(part, epochs, _STAGE_LR, _STAGE_PATIENCE) for part in parts]
    gradual.moved("type", f"finetune: decoder, {', '.join(parts)}")
    gradual.moved("only", f"finetune ends with {parts[-1]}")
    return [_stage("decoder", epochs), *later]


def _stage(
    part: str, epochs: int | None = None, lr: float | None = None, patience: int | None = None
) -> dict[str, Any]:
    return {"train": part, "epochs": epochs, "lr": lr, "patience": patience}
