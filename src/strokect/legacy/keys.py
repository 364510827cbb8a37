"""Every key of an older setting file, and what becomes of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from strokect.core.errors import SettingsError

Action = Literal["moved", "dropped"]


@dataclass(frozen=True)
class Note:
    """What became of one key. key : dotted, e.g. "models[0].epochs"."""

    key: str
    action: Action
    text: str


#: Keys that only older files have, on the top.
_SIGNS = ("EXPERIMENT", "USE_SEQUENCE_TRAIN", "PATIENTS_TO_TRAINVAL", "PATIENT_TO_USE",
          "relative_paths", "models")  # fmt: skip

_TENSORFLOW = "TensorFlow's; PyTorch needs no such setting"
_SAVE = "a run has the same folders always: model, predictions, evaluation, logs"
_EVALUATE = "`strokect evaluate` gives every figure, of every class"
_CHECKPOINT = "the best epoch by val_dice and the last one are kept always"
_LOGS = "logs/ has a CSV table and TensorBoard files always"
_PLATEAU = "the schedule watches val_dice, without these"

#: Keys that say nothing to a run here, by key without "models[n].", with the reason.
_DROPPED = {
    "USE_SEQUENCE_TRAIN": "samples are always drawn when they are needed",
    "dataset_path": "prepared tables (pickle) are not read; images are prepared once and cached",
    "init.TF_CPP_MIN_LOG_LEVEL": _TENSORFLOW,
    "init.per_process_gpu_memory_fraction": _TENSORFLOW,
    "init.allow_growth": _TENSORFLOW,
    "init.MULTIPROCESSING": "training.workers says how many processes prepare samples",
    **{
        f"relative_paths.save.{name}": _SAVE
        for name in ("model", "partial_model", "plot", "images", "text", "intermediate_activation")
    },
    "models.metrics": "training shows val_dice of each class; " + _EVALUATE,
    "models.classes_to_evaluate": _EVALUATE,
    "models.statistics": _EVALUATE,
    "models.save_statistics": _EVALUATE,
    "models.use_background_in_statistics": _EVALUATE,
    "models.calculate_ROC": _EVALUATE,
    "models.test_steps": "every test patient is predicted whole",
    "models.steps_per_epoch_ratio": "slab.per_case says how often an epoch sees each scan",
    "models.validation_steps_ratio": "a validation sees every validation patient",
    "models.params.kernel_init": "each network starts from its own initialisation",
    "models.callbacks.ModelCheckpoint.monitor": _CHECKPOINT,
    "models.callbacks.ModelCheckpoint.mode": _CHECKPOINT,
    "models.callbacks.ModelCheckpoint.period": _CHECKPOINT,
    "models.callbacks.EarlyStopping.monitor": "val_dice decides",
    "models.callbacks.EarlyStopping.mode": "val_dice decides",
    "models.callbacks.EarlyStopping.min_delta": "any better val_dice counts",
    "models.callbacks.ReduceLROnPlateau.monitor": "val_dice decides",
    "models.callbacks.ReduceLROnPlateau.mode": "val_dice decides",
    "models.callbacks.ReduceLROnPlateau.min_delta": _PLATEAU,
    "models.callbacks.ReduceLROnPlateau.cooldown": _PLATEAU,
    "models.callbacks.CollectBatchStats.acc": _LOGS,
    "models.callbacks.CSVLogger.filename": _LOGS,
    "models.callbacks.CSVLogger.separator": _LOGS,
    "models.callbacks.TensorBoard.update_freq": _LOGS,
    "models.callbacks.TensorBoard.histogram_freq": _LOGS,
    "models.save_images": "predictions are always written, as NIfTI on the scan's own grid",
    "models.train_again": "a finished training stays; delete its folder to train again",
    "models.save_activation_filter": "activations are not saved",
    "models.use_hickle": "prepared tables are not read",
}
#: Keys that the upgrade reads, and leaves a note of.
_READ = (
    "EXPERIMENT", "root_path", "PATIENTS_TO_TRAINVAL", "PATIENT_TO_USE", "PATIENTS_TO_TEST",
    "PATIENTS_TO_EXCLUDE", "OVERRIDE_MODELS_ID_PATH",
    "init.NUMBER_OF_IMAGE_PER_SECTION", "init.3D", "init.ONE_TIME_POINT",
    "relative_paths.labeled_images", "relative_paths.patients",
    "models.name", "models.loss", "models.epochs", "models.batch_size",
    "models.val.validation_perc", "models.val.number_patients_for_validation",
    "models.val.number_patients_for_testing", "models.val.random_validation_selection",
    "models.optimizer.name", "models.optimizer.lr", "models.optimizer.learning_rate",
    "models.optimizer.beta_1", "models.optimizer.beta_2", "models.optimizer.epsilon",
    "models.optimizer.decay", "models.optimizer.momentum", "models.optimizer.nesterov",
    "models.optimizer.clipnorm", "models.optimizer.clipvalue", "models.optimizer.rho",
    "models.params.trainable", "models.params.gradual_finetuning_solution.type",
    "models.params.gradual_finetuning_solution.only", "models.params.dropout",
    "models.params.max_pool", "models.params.stride", "models.params.n_slices",
    "models.params.regularizer", "models.params.reduce_dim", "models.params.concatenate_input",
    "models.params.inflate_network", "models.params.convertImgToGray",
    "models.callbacks.EarlyStopping.patience", "models.callbacks.ReduceLROnPlateau.factor",
    "models.callbacks.ReduceLROnPlateau.patience", "models.callbacks.ReduceLROnPlateau.min_lr",
    "models.callbacks.LearningRateScheduler",
    *(
        f"models.{room}.{name}"
        for room in ("moreinfo", "multiInput")
        for name in ("cbf", "cbv", "ttp", "mtt", "tmax", "mip", "nihss", "age", "gender")
    ),
    "models.to_categ", "models.supervised", "models.data_augmentation", "models.cross_validation",
)  # fmt: skip
#: Values that are read as a whole, whatever stands in them.
_WHOLE = {"models.params.dropout", "models.params.max_pool", "models.params.stride",
          "models.params.regularizer", "models.cross_validation", "models.loss",
          "models.callbacks.LearningRateScheduler"}  # fmt: skip
_KNOWN = {*_READ, *_DROPPED}


def is_legacy(content: Mapping[str, Any]) -> bool:
    """Whether the content of a JSON file is in the source's form, whole or not."""
    return any(key in content for key in _SIGNS)


def dropped(content: Mapping[str, Any]) -> list[Note]:
    """A note for each key that is dropped whatever its value.

    Raises SettingsError for a key that is not known, naming the nearest, and for a value where an
    object belongs.
    """
    return list(_walk(content, "", ""))


def _walk(room: Mapping[str, Any], shown: str, known: str) -> Iterator[Note]:
    """Notes of one object. shown, known : its key as in the file and without numbers."""
    for name, value in room.items():
        here, key = f"{shown}{name}", f"{known}{name}"
        if name.startswith("_"):  # how these files leave a key out without losing it
            yield Note(here, "dropped", "a key that starts with _ is left out")
        elif known == "models." and _is_loss_block(name, value):
            if name != _loss_name(room):
                yield Note(here, "dropped", "the options of another loss")
        elif key == "models":
            for n, model in enumerate(_list_of_objects(value)):
                yield from _walk(model, f"models[{n}].", "models.")
        elif key in _DROPPED:
            yield Note(here, "dropped", _DROPPED[key])
        elif key in _READ:
            if isinstance(value, Mapping) and key not in _WHOLE:
                raise SettingsError("an object where a value is expected", here, "Give a value")
        elif any(k.startswith(f"{key}.") for k in _KNOWN):
            yield from _inner(value, here, key)
        else:
            raise _unknown(name, here, known)


def _inner(value: Any, here: str, key: str) -> Iterator[Note]:
    """Notes of an object in an object."""
    if isinstance(value, Mapping) and value:
        yield from _walk(value, f"{here}.", f"{key}.")
    elif isinstance(value, Mapping) or value in (None, 0, False):
        yield Note(here, "dropped", "is empty" if isinstance(value, Mapping) else "is switched off")
    else:
        raise SettingsError(f"{value!r}", here, "Give an object")


def _is_loss_block(name: str, value: Any) -> bool:
    """Whether a key of a model is a block of options that is called as a loss."""
    return isinstance(value, Mapping) and name.endswith(("_loss", "entropy"))


def _loss_name(model: Mapping[str, Any]) -> Any:
    loss = model.get("loss")
    return loss.get("name") if isinstance(loss, Mapping) else loss


def _list_of_objects(value: Any) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(v, Mapping) for v in value):
        raise SettingsError("no list of models", "models", "Give a list of at least one object")
    return value


def _unknown(name: str, here: str, known: str) -> SettingsError:
    beside = sorted({k.removeprefix(known).split(".")[0] for k in _names() if k.startswith(known)})
    near = difflib.get_close_matches(name, beside, 1, cutoff=0.5)
    # A key may have slipped into another object.
    other = [k for k in sorted(_names()) if k.split(".")[-1] == name]
    if other:
        return SettingsError(
            f"unknown key {here!r}", fix=f"{name!r} belongs into {other[0].rpartition('.')[0]!r}"
        )
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return SettingsError(f"unknown key {here!r}", fix=f"{hint}Known here: {', '.join(beside)}")


def _names() -> set[str]:
    return _KNOWN | {"models"}
