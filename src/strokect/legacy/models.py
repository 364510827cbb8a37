"""The network of an older setting file, what it sees, and how samples are cut."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from strokect.core.errors import SettingsError
from strokect.legacy.values import Room

MULTI_INPUT = "multi_input"
#: First match counts. What follows the name in the source says which form it is.
_NETWORKS = (
    (r"pms_segmentation.*|mjnet_pm.*", MULTI_INPUT),
    (r"mjnet.*4d.*", "mjnet_4d"),
    (r"mjnet.*3d.*", "mjnet_3dt"),
    (r"mjnet.*vgg.*", ""),
    (r"mjnet.*", "mjnet_2dt"),
    (r"ronneberger.*|u-?net.*", "unet"),
    (r"v-?net.*", "vnet"),
    (r"tcn.*", "tcn"),
)
#: Networks of the source that are refused, with the reason.
_REFUSED = {
    "van_de_leemput": "that network is not here; tcn, mjnet_2dt and mjnet_4d see the same scan",
    "simple_autoencoder": "it learns without ground truth, which is not offered",
    "mjnet_2d_with_vgg16": "VGG-16 reads maps here, not a scan; choose PMs_segmentation",
}
_MAPS = ("cbf", "cbv", "ttp", "tmax", "mtt", "mip")
#: What the source shows where the file does not say which.
_USUAL = ("cbf", "cbv", "ttp", "tmax")
_SCORES = {"nihss": "nihss", "age": "age", "gender": "sex"}
_POOLED = "pooling follows from the network: VGG-16 and the plane halve, time goes 30, 15, 5, 1"
#: Samples of a scan in an epoch: of whole slices, and of tiles.
_PER_CASE, _PER_CASE_TILES = 8, 64
_TILE = 16


def network_and_input(
    top: Room, model: Room, dimension: int | None, pm: bool | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of ``network`` and of ``input``. Raises SettingsError with the reason."""
    name, given = _network_name(top, model), model.text("name")
    params = model.room("params")
    if pm is not None and pm != (name == MULTI_INPUT):
        what = "sees the scan" if pm else "sees maps"
        fix = "Leave -pm out" if pm else "Give -pm"
        raise model.error("name", fix, f"this network {what}")
    config: dict[str, Any] = {}
    if name not in ("unet", "vnet") and "nobatch" not in given.lower():
        config["norm"] = "batch"
    norm = f", norm {config.get('norm', 'that of the network')}"
    model.moved("name", f"network.name: {name}{norm}")
    _dropout(params, config)
    _slices(params, config, name)
    for key in ("max_pool", "stride"):
        params.dropped(key, _POOLED)
    if params.flag("inflate_network"):
        raise params.error(
            "inflate_network", "Set it to 0", "no network is blown up from 2D to 3D weights here"
        )
    params.dropped("inflate_network", "is off")
    if name == MULTI_INPUT:
        _no_time(top)
        config["concatenate"] = params.flag("concatenate_input")
        params.moved("concatenate_input", "network.config.concatenate")
        params.dropped("reduce_dim", "maps have no time to reduce")
        return {"name": name, "config": config}, _maps_input(model, params, dimension)
    _only_maps(model, params)
    _forms(given, config, name)
    _reduce_first(params, config, name)
    return {"name": name, "config": config}, _scan_input(top, dimension)


def _network_name(top: Room, model: Room) -> str:
    given = model.text("name")
    known = given.lower().replace("-", "_")
    for start, reason in _REFUSED.items():
        if known.startswith(start):
            raise model.error("name", "Choose another network", reason)
    found = next((ours for form, ours in _NETWORKS if re.fullmatch(form, known)), None)
    if not found:
        raise model.error(
            "name",
            "Known: PMs_segmentation, mJNet (3D, 4D, LongJ), Ronneberger_UNET, VNet, TCN",
            "no network is called so",
        )
    init = top.room("init")
    in_3d = init.flag("3D")
    if in_3d and found == MULTI_INPUT:
        raise init.error("3D", "Set it to 0", "maps are segmented slice by slice")
    if in_3d and found == "mjnet_2dt":
        init.moved("3D", "network.name: mjnet_3dt")
        return "mjnet_3dt"
    init.dropped("3D", "the network's name says it")
    return found


def _dropout(params: Room, config: dict[str, Any]) -> None:
    value = params.content.get("dropout")
    given = params.room("dropout") if isinstance(value, Mapping) else params
    names = list(given.content) if isinstance(value, Mapping) else ["dropout"]
    shares = [given.number(n) for n in names if n in given]
    found = [s for s in shares if s is not None]
    if any(not 0 <= s < 1 for s in found):
        raise params.error("dropout", "Give shares from 0 to below 1")
    if not found:
        params.dropped("dropout", "is empty")
        return
    config["dropout"] = round(sum(found) / len(found), 4)
    alike = "" if len(set(found)) == 1 else f", the mean of {min(found):g} to {max(found):g}"
    params.moved("dropout", f"network.config.dropout: {config['dropout']:g} everywhere{alike}")


def _slices(params: Room, config: dict[str, Any], name: str) -> None:
    count = params.whole("n_slices", least=1)
    if count is None:
        return
    if name in ("mjnet_3dt", "mjnet_4d"):
        if count % 2 == 0:
            raise params.error("n_slices", "Give an odd number: a slice and its neighbours")
        config["n_slices"] = count
        params.moved("n_slices", "network.config.n_slices")
    elif count != 1:
        raise params.error("n_slices", "Set it to 1", f"{name} sees one slice")
    else:
        params.dropped("n_slices", f"{name} sees one slice always")


def _no_time(top: Room) -> None:
    top.room("init").dropped("NUMBER_OF_IMAGE_PER_SECTION", "maps have no time points")


def _maps_input(model: Room, params: Room, dimension: int | None) -> dict[str, Any]:
    name = "multiInput" if "multiInput" in model else "moreinfo"
    if {"multiInput", "moreinfo"} <= model.content.keys():
        raise model.error("moreinfo", "Keep multiInput alone", "it is given twice")
    asked = model.room(name)
    named = [m for m in _MAPS if m != "mip" and m in asked]
    maps = [m for m in _MAPS if asked.flag(m)] if named else list(_USUAL)
    if not named and asked.flag("mip"):
        maps.append("mip")
    if not maps:
        raise model.error(name, "Set at least one map to 1", "the network would see no image")
    scores = [ours for theirs, ours in _SCORES.items() if asked.flag(theirs)]
    for key in asked.content:
        on = "" if asked.flag(key) else " (off)"
        asked.moved(key, f"input.{'scores' if key in _SCORES else 'maps'}{on}")
    grey = params.flag("convertImgToGray")
    params.moved("convertImgToGray", f"input.form: {'grey' if grey else 'colour'}")
    return {
        "kind": "maps",
        "maps": maps,
        "form": "grey" if grey else "colour",
        "source": "files",
        "scores": scores,
        "pixels": dimension,
        "crop_mm": None,
    }


def _only_maps(model: Room, params: Room) -> None:
    """Refuse what only a network of maps can use."""
    for name in ("moreinfo", "multiInput"):
        asked = model.room(name)
        on = [key for key in asked.content if asked.flag(key)]
        if on:
            raise asked.error(on[0], "Set it to 0", "this network sees the scan alone")
        for key in asked.content:
            asked.dropped(key, "is off")
    for name in ("concatenate_input", "convertImgToGray"):
        if params.flag(name):
            raise params.error(name, "Set it to 0", "this network sees no colour-coded maps")
        params.dropped(name, "is off")


def _forms(given: str, config: dict[str, Any], name: str) -> None:
    """Forms of mJ-Net that the source tells by parts of the name."""
    known = given.lower()
    if name in ("mjnet_2dt", "mjnet_3dt") and "longj" in known:
        config["temporal"] = "blocks"
    if name.startswith("mjnet") and "att" in known:
        config["attention"] = True
    if name.startswith("mjnet") and ("++" in known or "plus" in known):
        config["nested"] = True


def _reduce_first(params: Room, config: dict[str, Any], name: str) -> None:
    if "reduce_dim" not in params:
        return
    if name != "mjnet_4d":
        params.dropped("reduce_dim", f"{name} reduces time alone")
        return
    value = str(params.content["reduce_dim"]).strip().lower()
    first = {"z": "z", "t": "time", "time": "time", "none": "time", "": "time"}.get(value)
    if first is None:
        raise params.error("reduce_dim", 'Give "time" or "z": what the blocks reduce first')
    config["reduce_first"] = first
    if first == "z":
        config["kernel_z"] = 1  # nothing is left of z for the kernels
    params.moved("reduce_dim", f"network.config.reduce_first: {first}")


def _scan_input(top: Room, dimension: int | None) -> dict[str, Any]:
    init = top.room("init")
    points = init.whole("NUMBER_OF_IMAGE_PER_SECTION", 30, least=2)
    init.moved("NUMBER_OF_IMAGE_PER_SECTION", "input.time_points")
    return {
        "kind": "ctp",
        "time_points": points,
        "channels": ["hu"],
        "window_hu": [0.0, 200.0],
        "crop_mm": None,
        "pixels": dimension,
    }


def sampling(
    model: Room, classes: int, tile: int | None, dimension: int | None, maps: bool
) -> dict[str, Any]:
    """The content of ``slab``, ``tiling`` and ``augment``.

    classes : the lesions are drawn more often than the rest. tile, dimension : of LegacyOptions.
    """
    if classes not in (2, 3, 4):
        raise SettingsError(f"{classes} classes", "-c", "Give 2, 3 or 4")
    size = tile if tile or maps else _TILE
    whole = size is None or (dimension is not None and size >= dimension)
    window = None if whole else [size, size]
    lesions = min(2, classes - 1)
    other = classes - lesions
    balance = [round(0.4 / other, 4)] * other + [0.6 / lesions] * lesions
    slab = {
        "slices": 1,
        "tile": window,
        "per_case": _PER_CASE if whole else _PER_CASE_TILES,
        "balance": balance,
    }
    turned = model.flag("data_augmentation")
    model.moved("data_augmentation", "augment: flips and quarter turns" if turned else "is off")
    augment = {"flip_x_p": 0.5, "flip_y_p": 0.5, "rotate90_p": 0.75} if turned else {}
    return {"slab": slab, "augment": augment, "tiling": {"tile": window, "slices": 4}}
