"""An older setting file as a whole: its patients and data, and one new setting for each model."""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from strokect.core.errors import SettingsError
from strokect.legacy.keys import Note, dropped
from strokect.legacy.models import network_and_input, sampling
from strokect.legacy.training import loss, stages, training
from strokect.legacy.values import Room

#: Share of all patients that tests where the file names none.
_TEST_SHARE = 0.2
_GROUP = re.compile(r"ALL_(\w+)")
#: How the layout of slice folders calls its folders, unless options say otherwise.
_FOLDERS = {"images": "CTP", "maps": "Parametric_Maps", "truth": "GT"}


@dataclass(frozen=True)
class LegacyOptions:
    """What older files left to the command line.

    name : of the setting, e.g. the stem of the file; "" makes one of EXPERIMENT. classes : 2, 3
    or 4. tile : rows and columns of a sample, None for 16 where the network sees the scan, and for
    whole slices where it sees maps. dimension : rows and columns of a slice, None as they are.
    pm : whether the network sees maps, None for what its name says. patients : all that the data
    set holds, where known: groups and exclusions are resolved with them.
    """

    name: str = ""
    classes: int = 4
    tile: int | None = None
    dimension: int | None = None
    pm: bool | None = None
    patients: tuple[str, ...] = ()


@dataclass(frozen=True)
class Upgraded:
    """settings : content of new setting files, one for each model. notes : on every key."""

    settings: tuple[dict[str, Any], ...]
    notes: tuple[Note, ...]


def upgrade(
    content: Mapping[str, Any],
    *,
    options: LegacyOptions = LegacyOptions(),
    path: Path | None = None,
) -> Upgraded:
    """New settings from an older file's content. path : of the file, for errors.

    Raises SettingsError for a key or value that is not known or has no like here, with the reason.
    """
    try:
        return _upgraded(content, options)
    except SettingsError as error:
        raise SettingsError(error.what, error.where or path, error.fix) from error


def _upgraded(content: Mapping[str, Any], options: LegacyOptions) -> Upgraded:
    top = Room(content)
    top.notes.extend(dropped(content))
    if not content.get("models"):
        raise SettingsError("no models in the settings", "models", "Give a list of one or more")
    _refuse(top)
    settings = []
    for n, entry in enumerate(content["models"]):
        model = Room(entry, f"models[{n}]", top.notes)
        # What holds for all models is noted once.
        shared = top if n == 0 else Room(content)
        name = _name(shared, model, options, several=len(content["models"]) > 1)
        settings.append({"name": name, **_model(shared, model, options)})
    names = [s["name"] for s in settings]
    for n, name in enumerate(names):  # the same network with other choices
        if names.count(name) > 1:
            settings[n]["name"] = f"{name}_{n + 1}"
    return Upgraded(tuple(settings), tuple(top.notes))


def _model(top: Room, model: Room, options: LegacyOptions) -> dict[str, Any]:
    network, image = network_and_input(top, model, options.dimension, options.pm)
    maps = image.get("kind") == "maps"
    fit = training(model)
    _check_switches(model)
    return {
        "data": _data(top, model, options, maps),
        "input": image,
        "network": network,
        "loss": loss(model),
        "finetune": stages(model, network["name"]),
        **sampling(model, options.classes, options.tile, options.dimension, maps),
        **fit,
    }


def _name(top: Room, model: Room, options: LegacyOptions, several: bool) -> str:
    number = top.number("EXPERIMENT")
    name = options.name
    if name:
        top.dropped("EXPERIMENT", "the run is called as the file")
    else:
        name = "experiment" if number is None else f"experiment_{number:g}"
        top.moved("EXPERIMENT", f"name: {name}")
    if several:
        name = f"{name}_{model.text('name')}"
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", name).strip("._+-") or "experiment"


def _refuse(top: Room) -> None:
    """What concerns all models and has no like here."""
    if top.text("OVERRIDE_MODELS_ID_PATH"):
        raise top.error(
            "OVERRIDE_MODELS_ID_PATH", 'Set it to "" and train again',
            "weights of the source's framework are not read",
        )  # fmt: skip
    top.dropped("OVERRIDE_MODELS_ID_PATH", "no earlier model is named")
    init = top.room("init")
    at = init.number("ONE_TIME_POINT", -1)
    if at is not None and at >= 0 and not isinstance(init.content.get("ONE_TIME_POINT"), bool):
        raise init.error(
            "ONE_TIME_POINT", "Set it to -1, or leave it out",
            "one time point of a scan shows no perfusion",
        )  # fmt: skip
    init.dropped("ONE_TIME_POINT", "all time points are used")


def _check_switches(model: Room) -> None:
    if not model.flag("supervised", True):
        raise model.error(
            "supervised", "Set it to 1", "training without a ground truth is not offered"
        )
    model.dropped("supervised", "training has a ground truth always")
    if not model.flag("to_categ", True):
        raise model.error(
            "to_categ", "Set it to 1, and choose the classes",
            "one grey level for all classes is not offered; networks end in a softmax over them",
        )  # fmt: skip
    model.dropped("to_categ", "networks end in a softmax over the classes always")


def _data(top: Room, model: Room, options: LegacyOptions, maps: bool) -> dict[str, Any]:
    folder, names = _folders(top, "maps" if maps else "images")
    data: dict[str, Any] = {
        "folder": folder,
        "layout": "slices",
        "layout_options": {"options": names} if names else {},
        "classes": options.classes,
    }
    folds = _folds(model)
    chosen = _patients(top, options.patients)
    if folds:
        if chosen:
            raise model.error(
                "cross_validation", "Set it to 0, or name no patients",
                "folds and a list of patients cannot both say who tests",
            )  # fmt: skip
        data["folds"] = folds
    return data | chosen | _validation(model, bool(chosen), bool(folds))


def _folders(top: Room, kind: str) -> tuple[str, dict[str, str]]:
    """The data set's folder, and the names in it of the scans or maps and of the truth."""
    paths, root = top.room("relative_paths"), top.text("root_path")
    where = {}
    for name, key in (("patients", kind), ("labeled_images", "truth")):
        text = paths.text(name).replace("\\", "/")
        if not text:
            paths.dropped(name, "no folder is named: give --data, or data.folder")
            continue
        where[key] = str(PurePosixPath(os.path.normpath(PurePosixPath(root) / text)))
    if not where:
        top.dropped("root_path", "no folder below it is named")
        return "", {}
    if len(where) == 2 and where[kind] == where["truth"]:
        raise paths.error(
            "labeled_images", "Give each its own folder", "it is the folder of the patients too"
        )
    try:
        parents = [str(PurePosixPath(p).parent) for p in where.values()]
        folder = os.path.commonpath(parents)
    except ValueError as error:
        what = "one folder is absolute, the other is not"
        raise paths.error("labeled_images", "Give both alike, or root_path", what) from error
    names = {key: str(PurePosixPath(os.path.relpath(p, folder or "."))) for key, p in where.items()}
    # The layout wants a name for each; one that is not there may not be called as one that is.
    names |= {
        key: f"no_{key}"
        for key, usual in _FOLDERS.items()
        if key not in names and usual in names.values()
    }
    top.moved("root_path", f"data.folder: {folder}")
    paths.moved("patients", f"data.folder and data.layout_options.options.{kind}")
    paths.moved("labeled_images", "data.folder and data.layout_options.options.truth")
    return folder, names


def _patients(top: Room, known: tuple[str, ...]) -> dict[str, Any]:
    """The lists of patients; none where all take part and the file names no test patients."""
    key = "PATIENTS_TO_TRAINVAL" if "PATIENTS_TO_TRAINVAL" in top else "PATIENT_TO_USE"
    if {"PATIENTS_TO_TRAINVAL", "PATIENT_TO_USE"} <= top.content.keys():
        raise top.error("PATIENT_TO_USE", "Keep PATIENTS_TO_TRAINVAL alone", "it is given twice")
    train, everyone = _resolved(top, key, known)
    tests, all_test = _resolved(top, "PATIENTS_TO_TEST", known)
    excluded, all_out = _resolved(top, "PATIENTS_TO_EXCLUDE", known)
    if all_test or all_out:
        name = "PATIENTS_TO_TEST" if all_test else "PATIENTS_TO_EXCLUDE"
        raise top.error(name, "Name some patients", "nobody would be left to train with")
    if excluded:
        tests = [p for p in tests if p not in excluded]
        if everyone and not known:
            raise top.error(
                "PATIENTS_TO_EXCLUDE", "Give --data, so that all others can be listed",
                "who else there is depends on the data set",
            )  # fmt: skip
        train = [p for p in (known if everyone else train) if p not in excluded]
        everyone = False
    both = sorted(set(train) & set(tests))
    if everyone:
        train = []
    elif both:  # as in the source: who tests, does not train
        train = [p for p in train if p not in tests]
    if not everyone and not train:  # an empty list would be all others
        raise top.error(key, "Name patients that do not test", "nobody is left to train with")
    left_out = "; those that test are left out" if both else ""
    top.moved(
        key, "all that do not test" if everyone else f"data.train_patients: {len(train)}{left_out}"
    )
    top.moved("PATIENTS_TO_EXCLUDE", f"left out of data.train_patients: {len(excluded)}")
    if tests or train:
        text = f"data.test_patients: {len(tests)}" if tests else "nobody is named"
        top.moved("PATIENTS_TO_TEST", text)
    else:
        top.dropped("PATIENTS_TO_TEST", "nobody is named: the data set's split, or a share of all")
    if not tests and not train:
        return {}
    if not tests:
        raise SettingsError(
            "PATIENTS_TO_TEST names nobody, but the patients that train are chosen",
            None,
            'Name the patients that test, or set PATIENTS_TO_TRAINVAL to ["ALL"]',
        )
    return {"split": "listed", "train_patients": train, "test_patients": tests}


def _resolved(top: Room, key: str, known: tuple[str, ...]) -> tuple[list[str], bool]:
    """The patients that a list names, and whether it names all of them."""
    found: list[str] = []
    names = top.texts(key)
    for name in names:
        group = _GROUP.fullmatch(name)
        if group is not None and not known:
            raise top.error(
                key, "Give --data, so that its patients can be listed",
                "who is in a group depends on the data set",
            )  # fmt: skip
        if group is not None:
            of_group = [p for p in known if p.startswith(f"{group[1]}_")]
            if not of_group:
                raise top.error(key, "Name another", f"the data set has nobody in {group[1]!r}")
            found += of_group
        elif name != "ALL":
            found.append(name.removeprefix("CTP_"))
    everyone = "ALL" in names or (not names and "TEST" not in key and "EXCLUDE" not in key)
    return list(dict.fromkeys(found)), everyone


def _validation(model: Room, listed: bool, folds: bool) -> dict[str, Any]:
    val = model.room("val")
    percent = val.number("validation_perc", 20.0) or 0.0
    count = val.whole("number_patients_for_validation", 0) or 0
    at_random = val.flag("random_validation_selection") or count == 0
    testing = val.whole("number_patients_for_testing", 0)
    if folds:
        for name in val.content:
            val.dropped(name, "the folds say who validates")
        return {}
    share = round(percent / 100, 4)
    if not 0 < share < 1 and (at_random or not listed):
        raise val.error("validation_perc", "Give a share in percent, e.g. 20")
    if testing and not listed:
        text = f"a share of {_TEST_SHARE:g} tests (data.fractions), where the data set has no split"
    elif testing:
        text = "PATIENTS_TO_TEST says who tests"
    else:
        text = "none are drawn beside PATIENTS_TO_TEST"
    val.dropped("number_patients_for_testing", text)
    if listed and not at_random:
        val.moved("number_patients_for_validation", f"data.validation_patients: {count}")
        val.dropped("validation_perc", "the number of patients counts")
        val.moved("random_validation_selection", "0: the number of patients counts")
        return {"validation_patients": count}
    tests = 0.0 if listed else _TEST_SHARE
    validates = round(share * (1 - tests), 4)
    val.moved("validation_perc", f"data.fractions: {validates:g} of all patients validate")
    val.dropped("number_patients_for_validation", "the share of patients counts")
    val.moved("random_validation_selection", "the share of patients counts")
    return {"fractions": [round(1 - tests - validates, 4), validates, tests]}


def _folds(model: Room) -> int | None:
    """Folds of cross-validation; None where it is off."""
    value = model.content.get("cross_validation", 0)
    if isinstance(value, Mapping):
        inner = model.room("cross_validation")
        unknown = set(value) - {"use", "n_splits", "split", "splits", "folds", "k"}
        if unknown:
            raise inner.error(sorted(unknown)[0], "Give use and n_splits")
        on = inner.flag("use", True)
        sizes = [inner.whole(n, least=3) for n in ("n_splits", "split", "splits", "folds", "k")]
        folds = next((n for n in sizes if n), 5)
    else:
        on = bool(model.number("cross_validation", 0)) if not isinstance(value, bool) else value
        folds = int(value) if on and value is not True and value != 1 else 5
    if not on:
        model.dropped("cross_validation", "is off")
        return None
    if folds < 3:
        raise model.error("cross_validation", "Give 3 folds or more, to test, validate and train")
    model.moved("cross_validation", f"data.folds: {folds}; data.fold says which one tests")
    return folds
